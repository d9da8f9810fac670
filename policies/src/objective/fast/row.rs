//! The loops over one row of logits, or over a teacher's and a student's row side by side. Rows of a
//! large vocabulary stay in the core's own cache between the passes, of which there are three: the largest
//! logit, the sums, the derivative. Exponentials are computed twice, which costs less than to keep them.
//!
//! The loops are plain ones over a few lanes, so that the compiler uses the whole width of the machine.
//! Sums run in float32 for a block and in float64 from block to block, in one order on every machine.
//!
//! With x = z - max z and y = (t - max t) / temperature, Q = sum e^x and P = sum e^y:
//!
//! ```text
//! log q = x - ln Q      log p = y - ln P      gap = y - x
//! ```

use super::super::exp::exp;

/// Numbers that are compared side by side.
const LANES: usize = 32;

/// Words of a block, a power of two.
const BLOCK: usize = 512;

/// Stands for the logarithm of zero, as in [`super::super::pair`], with room for a temperature.
const FLOOR: f32 = -1e20;

/// A softmax: the largest logit and the sum of the exponentials of the others' distance to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Soft {
    top: f32,
    sum: f64,
}

impl Soft {
    /// Of one row.
    #[inline(always)]
    pub(super) fn of(row: &[f32]) -> Self {
        let top = top(row);
        let [sum] = summed([row], |[z], [masses]| {
            for i in 0..BLOCK {
                masses[i] = exp(below(z[i], top));
            }
        });
        Soft { top, sum }
    }

    /// The log-probability of a logit, not heated.
    #[inline(always)]
    pub(super) fn log_of(&self, logit: f32) -> f64 {
        f64::from(logit) - f64::from(self.top) - self.sum.ln()
    }
}

/// Two softmaxes, and what the terms need of both.
#[derive(Debug, Clone, Copy)]
pub(super) struct Both {
    pub q: Soft,
    p: Soft,
    /// The mean of the gap under q, and under p.
    gap_q: f64,
    gap_p: f64,
    /// The mean of x under p.
    x_p: f64,
    /// Whether the student has a word that the teacher has barred, and the other way round.
    student_alone: bool,
    teacher_alone: bool,
}

impl Both {
    /// Of the student's row and the teacher's. `cold` is one over the teacher's temperature, `look` says whether a logit
    /// may be -inf.
    #[inline(always)]
    pub(super) fn of(z: &[f32], t: &[f32], cold: Cold, look: bool) -> Self {
        let (top_q, top_p) = (top(z), top(t));
        let (student_alone, teacher_alone) = if look { alone(z, t) } else { (false, false) };
        let sums = summed([z, t], |[z, t], [of_q, of_p, gap_q, gap_p, x_p]| {
            for i in 0..BLOCK {
                let (x, y) = (below(z[i], top_q), cold.times(below(t[i], top_p)));
                let (e_x, e_y, gap) = (exp(x), exp(y), y - x);
                (of_q[i], of_p[i]) = (e_x, e_y);
                (gap_q[i], gap_p[i], x_p[i]) = (e_x * gap, e_y * gap, e_y * x);
            }
        });
        let [of_q, of_p, gap_q, gap_p, x_p] = sums;
        Both {
            q: Soft { top: top_q, sum: of_q },
            p: Soft { top: top_p, sum: of_p },
            gap_q: gap_q / of_q,
            gap_p: gap_p / of_p,
            x_p: x_p / of_p,
            student_alone,
            teacher_alone,
        }
    }

    /// `KL(p || q) = sum p (log p - log q)`.
    pub(super) fn forward_kl(&self) -> f64 {
        infinite_if(self.teacher_alone, self.gap_p + self.q.sum.ln() - self.p.sum.ln())
    }

    /// `KL(q || p) = sum q (log q - log p)`.
    pub(super) fn reverse_kl(&self) -> f64 {
        infinite_if(self.student_alone, self.p.sum.ln() - self.q.sum.ln() - self.gap_q)
    }

    /// `-sum p log q`.
    pub(super) fn cross_entropy(&self) -> f64 {
        infinite_if(self.teacher_alone, self.q.sum.ln() - self.x_p)
    }
}

fn infinite_if(infinite: bool, value: f64) -> f64 {
    if infinite { f64::INFINITY } else { value }
}

/// A derivative by the logits: `q of_q + p of_p + q (mean of the gap - gap) of_gap + onehot of_target`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Slope {
    pub of_q: f64,
    pub of_p: f64,
    pub of_gap: f64,
    pub of_target: f64,
}

impl Slope {
    /// Puts it where the student's logits are.
    #[inline(always)]
    pub(super) fn put(self, target: usize, q: &Soft, z: &mut [f32], teacher: Option<(&Both, &[f32], Cold)>) {
        match teacher {
            _ if self == Slope::default() => z.fill(0.0),
            Some((both, t, cold)) if self.of_p != 0.0 || self.of_gap != 0.0 => self.beside(both, cold, z, t),
            _ => self.alone(q, z),
        }
        z[target] += self.of_target as f32;
    }

    #[inline(always)]
    fn alone(self, q: &Soft, z: &mut [f32]) {
        let (top, of_q) = (q.top, (self.of_q / q.sum) as f32);
        for z in z {
            *z = exp(below(*z, top)) * of_q;
        }
    }

    /// Each of the three loops leaves out what it does not need.
    #[inline(always)]
    fn beside(self, both: &Both, cold: Cold, z: &mut [f32], t: &[f32]) {
        let (top_q, top_p) = (both.q.top, both.p.top);
        // In two parts: of far logits its rounding would show.
        let mean = both.gap_q as f32;
        let rest = (both.gap_q - f64::from(mean)) as f32;
        let of_q = (self.of_q / both.q.sum) as f32;
        let of_p = (self.of_p / both.p.sum) as f32;
        let of_gap = (self.of_gap / both.q.sum) as f32;
        let logs = |z: f32, t: f32| (below(z, top_q), cold.times(below(t, top_p)));
        // A gap without bounds belongs to a probability of 0, which is multiplied first.
        let student = |x: f32, y: f32| {
            let e_x = exp(x);
            e_x * of_q + e_x * ((mean - (y - x)) + rest) * of_gap
        };
        if self.of_gap == 0.0 {
            replaced(z, t, |z, t| {
                let (x, y) = logs(z, t);
                exp(x) * of_q + exp(y) * of_p
            });
        } else if self.of_p == 0.0 {
            replaced(z, t, |z, t| {
                let (x, y) = logs(z, t);
                student(x, y)
            });
        } else {
            replaced(z, t, |z, t| {
                let (x, y) = logs(z, t);
                student(x, y) + exp(y) * of_p
            });
        }
    }
}

/// What a row of logits, one beside the other, becomes.
#[inline(always)]
fn replaced(z: &mut [f32], t: &[f32], by: impl Fn(f32, f32) -> f32) {
    for (z, t) in z.iter_mut().zip(t) {
        *z = by(*z, *t);
    }
}

/// How far a logit is below the largest one, for a logit of -inf a finite floor. NaN stays.
#[inline(always)]
fn below(logit: f32, top: f32) -> f32 {
    let x = logit - top;
    if x < FLOOR { FLOOR } else { x }
}

/// One over a temperature, in two parts: in one, its rounding would show in far logits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cold([f32; 2]);

impl Cold {
    pub(super) fn of(heat: f64) -> Self {
        let first = (1.0 / heat) as f32;
        Cold([first, (1.0 / heat - f64::from(first)) as f32])
    }

    #[inline(always)]
    fn times(self, y: f32) -> f32 {
        y * self.0[0] + y * self.0[1]
    }
}

/// The largest number of a row. NaN is passed over: every sum that meets it is NaN.
#[inline(always)]
fn top(row: &[f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; LANES];
    let (groups, rest) = row.as_chunks::<LANES>();
    for group in groups {
        for (most, &x) in most.iter_mut().zip(group) {
            *most = if x > *most { x } else { *most };
        }
    }
    most.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// A block of logits, or of what is to be summed.
type Block = [f32; BLOCK];

/// Sums over the vocabulary: `of` makes a block of each sum of a block of each row's logits.
#[inline(always)]
fn summed<const N: usize, const K: usize>(
    rows: [&[f32]; N],
    of: impl Fn([&Block; N], &mut [Block; K]),
) -> [f64; K] {
    let (mut sums, mut made) = ([0f64; K], [[0f32; BLOCK]; K]);
    let mut read = [[0f32; BLOCK]; N];
    for start in (0..rows[0].len()).step_by(BLOCK) {
        for (read, row) in read.iter_mut().zip(rows) {
            let rest = &row[start..];
            match rest.first_chunk() {
                Some(whole) => *read = *whole,
                // Words of no probability fill up the last block: they add 0 to every sum.
                None => {
                    read.fill(f32::NEG_INFINITY);
                    read[..rest.len()].copy_from_slice(rest);
                }
            }
        }
        of(read.each_ref(), &mut made);
        for (sum, made) in sums.iter_mut().zip(&mut made) {
            *sum += total(made);
        }
    }
    sums
}

/// The sum of a block, which is used up: its halves are added up until one number is left, so that float32
/// keeps it.
#[inline(always)]
fn total(block: &mut Block) -> f64 {
    let mut width = BLOCK / 2;
    while width > 0 {
        let (first, second) = block.split_at_mut(width);
        for (sum, x) in first.iter_mut().zip(second) {
            *sum += *x;
        }
        width /= 2;
    }
    f64::from(block[0])
}

/// Whether each of two models has a word that the other has barred.
#[inline(always)]
fn alone(z: &[f32], t: &[f32]) -> (bool, bool) {
    let barred = f32::NEG_INFINITY;
    z.iter().zip(t).fold((false, false), |(student, teacher), (&z, &t)| {
        (student | ((t == barred) & (z != barred)), teacher | ((z == barred) & (t != barred)))
    })
}
