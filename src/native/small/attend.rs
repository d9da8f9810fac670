//! Attention of a decoding step: few queries, each to its own sequence's keys and values in the cache.
//! Every key is read once for all queries of its group of heads, none that a query may not see is read,
//! and no mask is made.
#![expect(unsafe_op_in_unsafe_fn, reason = "loads of vectors, each inside the slice that its loop walks")]

use std::arch::x86_64::*;
use std::ops::Range;

use super::number::{Number, exp};
use super::product::{call, dots, totals};

/// Keys that stay in the first cache while all queries of a group look at them.
const BLOCK: usize = 64;

/// The keys and values of a batch and the queries that look at them.
pub struct Attend<'a, W> {
    /// [b, t, heads, d].
    pub q: &'a [W],
    /// [rows, kv_heads, room, d].
    pub keys: &'a [W],
    /// The same.
    pub values: &'a [W],
    /// The place of each query in its sequence: [b, t].
    pub positions: &'a [i64],
    /// The row of each sequence; the first ones where none.
    pub rows: Option<&'a [i64]>,
    pub t: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub room: usize,
    pub d: usize,
    /// Keys that a row can have at most.
    pub most: usize,
    pub window: Option<usize>,
    pub scale: f32,
}

/// What one thread keeps between its parts.
#[derive(Default)]
struct Scratch {
    q: Vec<f32>,
    scores: Vec<f32>,
    out: Vec<f32>,
    seen: Vec<Range<usize>>,
}

impl<W: Number> Attend<'_, W> {
    /// Pairs of a sequence and a key/value head: what threads share out.
    pub fn parts(&self) -> usize {
        self.positions.len() / self.t.max(1) * self.kv_heads
    }

    /// These parts, into `out` [b, t, heads, d].
    ///
    /// # Safety
    /// The machine has AVX2 and FMA, `d` is a multiple of eight, the sizes are those of the slices, and
    /// nothing else touches these heads of `out`.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn run(&self, parts: Range<usize>, out: *mut W) {
        let mut scratch = Scratch::default();
        for part in parts {
            self.part(part / self.kv_heads, part % self.kv_heads, &mut scratch, out);
        }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn part(&self, b: usize, kv: usize, scratch: &mut Scratch, out: *mut W) {
        let (d, group) = (self.d, self.heads / self.kv_heads);
        let row = self.rows.map_or(b, |rows| rows[b] as usize);
        let sequence =
            (row * self.kv_heads + kv) * self.room * d..(row * self.kv_heads + kv + 1) * self.room * d;
        let (keys, values) = (&self.keys[sequence.clone()], &self.values[sequence]);
        let place = |i: usize| ((b * self.t + i / group) * self.heads + kv * group + i % group) * d;
        let queries = self.t * group;
        scratch.q.clear();
        scratch.seen.clear();
        for i in 0..queries {
            let q = &self.q[place(i)..place(i) + d];
            scratch.q.extend(q.iter().map(|x| x.wide() * self.scale));
            let until = (self.positions[b * self.t + i / group] as usize + 1).min(self.most);
            let from = self.window.map_or(0, |w| until.saturating_sub(w));
            scratch.seen.push(from..until);
        }
        let first = scratch.seen.iter().map(|r| r.start).min().unwrap_or(0);
        let last = scratch.seen.iter().map(|r| r.end).max().unwrap_or(0);
        let span = last - first;
        scratch.scores.resize(queries * span, 0.0);
        scratch.out.clear();
        scratch.out.resize(queries * d, 0.0);
        for start in (first..last).step_by(BLOCK) {
            for (i, seen) in scratch.seen.iter().enumerate() {
                let part = seen.start.max(start)..seen.end.min(start + BLOCK);
                let (q, scores) =
                    (&scratch.q[i * d..(i + 1) * d], &mut scratch.scores[i * span..(i + 1) * span]);
                // While the first query goes over the keys, their values are called for.
                look(q, (keys, (i == 0).then_some(values)), part, first, scores);
            }
        }
        for (i, seen) in scratch.seen.iter().enumerate() {
            shares(&mut scratch.scores[i * span..][seen.start - first..seen.end - first]);
        }
        for start in (first..last).step_by(BLOCK) {
            for (i, seen) in scratch.seen.iter().enumerate() {
                let part = seen.start.max(start)..seen.end.min(start + BLOCK);
                let scores = &scratch.scores[i * span..(i + 1) * span];
                gather(scores, values, part, first, &mut scratch.out[i * d..(i + 1) * d]);
            }
        }
        for (i, from) in scratch.out.chunks_exact(d).enumerate() {
            let to = std::slice::from_raw_parts_mut(out.add(place(i)), d);
            to.iter_mut().zip(from).for_each(|(to, &x)| *to = W::narrow(x));
        }
    }
}

/// Scores of the keys `part`, at their place behind the key `first`.
#[target_feature(enable = "avx2,fma")]
unsafe fn look<W: Number>(
    q: &[f32],
    (keys, values): (&[W], Option<&[W]>),
    part: Range<usize>,
    first: usize,
    scores: &mut [f32],
) {
    let d = q.len();
    let mut at = part.start;
    while at < part.end {
        let k = keys[at * d..].as_ptr();
        let n = if part.end - at >= 4 { 4 } else { 1 };
        if let Some(values) = values {
            call(&values[at * d..(at + n) * d]);
        }
        if n == 4 {
            let [[a, b, c, e]] = dots::<W, 1, 4>(q.as_ptr(), k, d);
            _mm_storeu_ps(scores[at - first..at - first + 4].as_mut_ptr(), totals(a, b, c, e));
        } else {
            let [[a]] = dots::<W, 1, 1>(q.as_ptr(), k, d);
            scores[at - first] = _mm_cvtss_f32(totals(a, a, a, a));
        }
        at += n;
    }
}

/// Scores to shares of one.
#[target_feature(enable = "avx2,fma")]
fn shares(scores: &mut [f32]) {
    let mut lanes = [f32::NEG_INFINITY; 8];
    let (whole, rest) = scores.split_at(scores.len() / 8 * 8);
    for eight in whole.chunks_exact(8) {
        for (most, &x) in lanes.iter_mut().zip(eight) {
            *most = if x > *most { x } else { *most };
        }
    }
    let top = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|x| *x = exp(*x - top));
    let mut lanes = [0f32; 8];
    let (whole, rest) = scores.split_at(scores.len() / 8 * 8);
    for eight in whole.chunks_exact(8) {
        lanes.iter_mut().zip(eight).for_each(|(sum, x)| *sum += x);
    }
    let whole = 1.0 / (lanes.iter().sum::<f32>() + rest.iter().sum::<f32>());
    scores.iter_mut().for_each(|x| *x *= whole);
}

/// Adds the values `part`, each by its share, to `out`.
#[target_feature(enable = "avx2,fma")]
unsafe fn gather<W: Number>(shares: &[f32], values: &[W], part: Range<usize>, first: usize, out: &mut [f32]) {
    if part.is_empty() {
        return;
    }
    let (d, shares) = (out.len(), &shares[part.start - first..part.end - first]);
    let values = &values[part.start * d..part.end * d];
    let mut at = 0;
    while at < d {
        let (from, to) = (values.as_ptr().add(at), out.as_mut_ptr().add(at));
        at += 8 * match (d - at) / 8 {
            8.. => strip::<W, 8>(shares, from, d, to),
            6.. => strip::<W, 6>(shares, from, d, to),
            4.. => strip::<W, 4>(shares, from, d, to),
            2.. => strip::<W, 2>(shares, from, d, to),
            _ => strip::<W, 1>(shares, from, d, to),
        };
    }
}

/// The same for N vectors of channels.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn strip<W: Number, const N: usize>(
    shares: &[f32],
    values: *const W,
    d: usize,
    out: *mut f32,
) -> usize {
    let mut sums = [_mm256_setzero_ps(); N];
    for (n, sum) in sums.iter_mut().enumerate() {
        *sum = _mm256_loadu_ps(out.add(8 * n));
    }
    for (i, share) in shares.iter().enumerate() {
        let share = _mm256_broadcast_ss(share);
        for (n, sum) in sums.iter_mut().enumerate() {
            *sum = _mm256_fmadd_ps(share, W::eight(values.add(i * d + 8 * n)), *sum);
        }
    }
    for (n, sum) in sums.into_iter().enumerate() {
        _mm256_storeu_ps(out.add(8 * n), sum);
    }
    N
}
