//! A teacher known by tokens that were drawn from it: what the drawn tokens give is exact for themselves, and
//! on the mean it is what the whole teacher gives.

use ndarray::Array2;
use retort_policies::objective::divergence::Divergence;
use retort_policies::objective::draws::{Draws, draw};
use retort_policies::objective::head::{Chunks, Fused, HeadGrads, Want, fused_in};
use retort_policies::objective::input::{Barred, Head, Input, Side};
use retort_policies::objective::term::{Loss, Term};
use tch::{Kind, Tensor};

use crate::cases::{Case, random};
use crate::reference::{derivative, kl, log_softmax};
use crate::support::{Numbers, array, holds_and_notices, numbers, off, off_by_norm, tensor};

const CHUNKS: Chunks = Chunks { tokens: 2, block: 1 };
const K: usize = 5;

fn terms() -> Vec<Term> {
    vec![
        Term::new("ce", Loss::CrossEntropy, 0.3),
        Term::new("kl", Loss::Divergence(Divergence::ForwardKl), 0.7),
        Term::new("soft", Loss::TeacherCrossEntropy, 0.2),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Wrong {
    /// Each token counts once, however often it was drawn.
    Once,
    /// The sum over the draws in place of their mean.
    Summed,
    /// The value without the teacher's own logarithm: a cross-entropy.
    NoTeacher,
    /// The last draw left out.
    LastLost,
}

/// Drawn tokens and what a head is made of.
struct Setup {
    hidden: Array2<f64>,
    weight: Array2<f64>,
    teacher: Array2<f64>,
    ids: Vec<i64>,
    targets: Vec<i64>,
}

impl Setup {
    /// Some ids twice, and one that is the target.
    fn new(seed: u64) -> Self {
        let mut r = Numbers::new(seed);
        let (hidden, weight) = (r.matrix(6, 3, 1.0), r.matrix(8, 3, 1.0));
        let mut ids: Vec<i64> = (0..6 * K).map(|_| r.below(7) as i64).collect();
        (ids[0], ids[1]) = (4, 4);
        let teacher = r.matrix(6, 7, 1.0);
        Setup { hidden, weight, teacher, ids, targets: vec![4, 0, 1, 2, 3, 6] }
    }

    fn ids_of(&self, t: usize) -> &[i64] {
        &self.ids[t * K..(t + 1) * K]
    }

    /// The mean of the teacher's logarithms at the drawn tokens.
    fn log(&self, t: usize) -> f64 {
        let lp = log_softmax(self.teacher.row(t));
        self.ids_of(t).iter().map(|&id| lp[id as usize]).sum::<f64>() / K as f64
    }

    /// The summed loss of [`terms`] at other hidden states and weights, by the definitions.
    fn loss(&self, hidden: &Array2<f64>, weight: &Array2<f64>, wrong: Option<Wrong>) -> f64 {
        (0..6)
            .map(|t| {
                let z = weight.dot(&hidden.row(t)).slice_move(ndarray::s![..7]);
                let lq = log_softmax(z.view());
                let mut ids = self.ids_of(t).to_vec();
                if wrong == Some(Wrong::LastLost) {
                    ids.pop();
                }
                if wrong == Some(Wrong::Once) {
                    ids.sort();
                    ids.dedup();
                }
                let sum: f64 = ids.iter().map(|&id| lq[id as usize]).sum();
                let mean = if wrong == Some(Wrong::Summed) { sum } else { sum / ids.len() as f64 };
                let of_teacher = if wrong == Some(Wrong::NoTeacher) { 0.0 } else { self.log(t) };
                -0.3 * lq[self.targets[t] as usize] + 0.7 * (of_teacher - mean) - 0.2 * mean
            })
            .sum()
    }

    fn made(&self, kind: Kind, chunks: Chunks) -> (f64, [Array2<f64>; 2]) {
        let (hidden, weight) = (tensor(&self.hidden, kind), tensor(&self.weight, kind));
        let head = Head { weight_vd: &weight, bias_v: None, softcap: None };
        let logs: Vec<f64> = (0..6).map(|t| self.log(t)).collect();
        let draws = Draws {
            ids_nk: &Tensor::from_slice(&self.ids).view([6, K as i64]),
            log_n: &Tensor::from_slice(&logs).to_kind(kind),
        };
        let input = Input {
            student: Side::Hidden { hidden_nd: &hidden, head },
            teacher: Some(Side::Draws(draws)),
            targets_n: &Tensor::from_slice(&self.targets),
            vocabulary: 7,
            barred: None,
            teacher_temperature: 1.0,
        };
        let mut grads = HeadGrads::zeros(&head).unwrap();
        let made = fused_in(&input, &terms(), Want::Head(&mut grads), chunks).unwrap();
        (made.loss.double_value(&[]), [array(&made.grad.unwrap()), array(&grads.weight_vd)])
    }

    fn expected(&self, wrong: Option<Wrong>) -> (f64, [Array2<f64>; 2]) {
        let with = |x: &Array2<f64>, row: usize, moved: ndarray::ArrayView1<f64>| {
            let mut x = x.clone();
            x.row_mut(row).assign(&moved);
            x
        };
        let (h, w) = (&self.hidden, &self.weight);
        let by_h = derivative(h, |t, row| self.loss(&with(h, t, row), w, wrong));
        let by_w = derivative(w, |v, row| self.loss(h, &with(w, v, row), wrong));
        (self.loss(h, w, wrong), [by_h, by_w])
    }
}

/// In tolerances: float64 1e-10 and 1e-6, float32 1e-5 and 1e-4.
fn distance(made: &(f64, [Array2<f64>; 2]), expected: &(f64, [Array2<f64>; 2]), kind: Kind) -> f64 {
    let (value, slope) = if kind == Kind::Double { (1e-10, 1e-6) } else { (1e-5, 1e-4) };
    let loss = off(&[made.0], &[expected.0], value, value);
    made.1.iter().zip(&expected.1).map(|(a, b)| off_by_norm(a, b, slope)).fold(loss, f64::max)
}

#[test]
fn drawn_tokens_equal_finite_differences() {
    let setup = Setup::new(3);
    let all = [Wrong::Once, Wrong::Summed, Wrong::NoTeacher, Wrong::LastLost];
    for kind in [Kind::Double, Kind::Float] {
        for chunks in [CHUNKS, Chunks { tokens: 5, block: 3 }, Chunks { tokens: 100, block: 100 }] {
            let made = setup.made(kind, chunks);
            holds_and_notices("drawn tokens", &all, |wrong| distance(&made, &setup.expected(wrong), kind));
        }
    }
}

/// The forward KL of a case by tokens drawn at these points.
fn by_draws(case: &Case, ids_nk: &Tensor, log_n: &Tensor) -> Fused {
    let q = tensor(&case.q, Kind::Double);
    let input = Input {
        student: Side::Logits(&q),
        teacher: Some(Side::Draws(Draws { ids_nk, log_n })),
        targets_n: &Tensor::from_slice(&case.targets),
        vocabulary: case.q.ncols() as i64,
        barred: None,
        teacher_temperature: 1.0,
    };
    let terms = [Term::new("kl", Loss::Divergence(Divergence::ForwardKl), 1.0)];
    fused_in(&input, &terms, Want::Hidden, CHUNKS).unwrap()
}

/// Points of a row, the k-th even in [k/K, (k+1)/K).
fn points(r: &mut Numbers, rows: usize, draws: usize) -> Tensor {
    let all: Vec<f64> = (0..rows * draws)
        .map(|at| ((at % draws) as f64 + r.uniform().min(1.0 - 1e-12)) / draws as f64)
        .collect();
    Tensor::from_slice(&all).view([rows as i64, draws as i64])
}

/// Mean and standard error of each number over many draws.
#[derive(Default)]
struct Many {
    count: f64,
    sums: Vec<f64>,
    squares: Vec<f64>,
}

impl Many {
    fn add(&mut self, numbers: &[f64]) {
        self.sums.resize(numbers.len(), 0.0);
        self.squares.resize(numbers.len(), 0.0);
        self.count += 1.0;
        for (i, x) in numbers.iter().enumerate() {
            self.sums[i] += x;
            self.squares[i] += x * x;
        }
    }

    /// The largest distance of a mean from what is expected of it, in standard errors.
    fn off(&self, expected: &[f64]) -> f64 {
        assert_eq!(self.sums.len(), expected.len());
        let one = |i: usize| {
            let mean = self.sums[i] / self.count;
            let variance = (self.squares[i] / self.count - mean * mean).max(0.0);
            (mean - expected[i]).abs() / ((variance / self.count).sqrt() + 1e-12)
        };
        (0..expected.len()).map(one).fold(0.0, f64::max)
    }
}

/// Over many draws the mean of value and derivative is that of the whole teacher, within three standard errors at
/// every token and word; the mean of the most probable words, their shares made to sum to 1, is another.
#[test]
fn drawn_tokens_are_unbiased() {
    let (case, draws) = (random(21, 4, 7, 1.5), 12);
    let whole = case
        .score(&[Term::new("kl", Loss::Divergence(Divergence::ForwardKl), 1.0)], Kind::Double, 1.0)
        .unwrap();
    let (values, slopes) = (numbers(&whole.values_kn), numbers(&whole.grad.unwrap()));
    let teacher = tensor(&case.p, Kind::Double);
    let mut r = Numbers::new(22);
    let (mut many_values, mut many_slopes) = (Many::default(), Many::default());
    for _ in 0..4000 {
        let points_nk = points(&mut r, 4, draws);
        let (ids_nk, log_n) = draw(&Side::Logits(&teacher), 7, &points_nk).unwrap();
        let made = by_draws(&case, &ids_nk, &log_n);
        many_values.add(&numbers(&made.values_kn));
        many_slopes.add(&numbers(&made.grad.unwrap()));
    }
    let (by_values, by_slopes) = (many_values.off(&values), many_slopes.off(&slopes));
    eprintln!("values {by_values:.2}, derivatives {by_slopes:.2} standard errors from the whole teacher's");
    assert!(by_values < 3.0 && by_slopes < 3.0, "{by_values}, {by_slopes}");
    let spread = |i: usize| (many_slopes.squares[i] / 4000.0 - (many_slopes.sums[i] / 4000.0).powi(2)).sqrt();
    let top: Vec<f64> = (0..4).flat_map(|t| top_three(&case, t)).collect();
    let far =
        top.iter().zip(&slopes).enumerate().map(|(i, (a, b))| (a - b).abs() / (spread(i) / 63.0 + 1e-3));
    assert!(far.fold(0.0, f64::max) > 10.0, "the mistake would not show");
}

/// The derivative by the three most probable words.
fn top_three(case: &Case, t: usize) -> Vec<f64> {
    let (q, p) = (log_softmax(case.q.row(t)).mapv(f64::exp), log_softmax(case.p.row(t)).mapv(f64::exp));
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*b].total_cmp(&p[*a]));
    let mass: f64 = order[..3].iter().map(|&v| p[v]).sum();
    (0..p.len()).map(|v| q[v] - if order[..3].contains(&v) { p[v] / mass } else { 0.0 }).collect()
}

/// What is drawn is what the point falls on, in any number of rows, from states and head as from logits; a word
/// without probability never.
#[test]
fn a_point_falls_on_its_token() {
    let p = [0.2f64, 0.0, 0.5, 0.3, 0.0];
    let logits = Tensor::from_slice(&p.map(f64::ln)).view([1, 5]).expand([70, 5], true).contiguous();
    let row = [0.0, 0.199, 0.201, 0.699, 0.701, 1.0 - 1e-17];
    let points_nk = Tensor::from_slice(&row).view([1, 6]).expand([70, 6], true).contiguous();
    let (ids_nk, log_n) = draw(&Side::Logits(&logits), 5, &points_nk).unwrap();
    let expected = (0.2f64.ln() * 2.0 + 0.5f64.ln() * 2.0 + 0.3f64.ln() * 2.0) / 6.0;
    for t in 0..70 {
        assert_eq!(Vec::<i64>::try_from(ids_nk.get(t)).unwrap(), [0, 0, 2, 2, 3, 3]);
        assert!((log_n.double_value(&[t]) - expected).abs() < 1e-12);
    }
    let mut r = Numbers::new(5);
    let (hidden, weight) =
        (tensor(&r.matrix(40, 3, 1.0), Kind::Double), tensor(&r.matrix(9, 3, 1.0), Kind::Double));
    let whole = hidden.matmul(&weight.transpose(0, 1));
    let points_nk = points(&mut r, 40, 4);
    let head = Head { weight_vd: &weight, bias_v: None, softcap: None };
    let a = draw(&Side::Hidden { hidden_nd: &hidden, head }, 7, &points_nk).unwrap();
    let b = draw(&Side::Logits(&whole), 7, &points_nk).unwrap();
    assert_eq!(Vec::<i64>::try_from(a.0.view([-1])).unwrap(), Vec::<i64>::try_from(b.0.view([-1])).unwrap());
    assert!(off(&numbers(&a.1), &numbers(&b.1), 1e-12, 1e-12) <= 1.0);
    assert!(draw(&Side::Logits(&whole), 7, &points(&mut r, 39, 4)).is_err());
}

/// A teacher that has a barred word is infinitely far; drawn tokens where they do not do are refused.
#[test]
fn what_drawn_tokens_cannot_do_is_refused() {
    let case = random(31, 2, 6, 1.0);
    let q = tensor(&case.q, Kind::Double);
    let (ids_nk, log_n) =
        (Tensor::from_slice(&[1i64, 2, 3, 3]).view([2, 2]), Tensor::from_slice(&[-1.0, -2.0]));
    let score = |which: Divergence, heat: f64, ids_nk: &Tensor, barred: Option<Barred>| {
        let input = Input {
            student: Side::Logits(&q),
            teacher: Some(Side::Draws(Draws { ids_nk, log_n: &log_n })),
            targets_n: &Tensor::from_slice(&[0i64, 1]),
            vocabulary: 6,
            barred,
            teacher_temperature: heat,
        };
        fused_in(&input, &[Term::new("d", Loss::Divergence(which), 1.0)], Want::Hidden, CHUNKS)
    };
    let at_n = Tensor::from_slice(&[true, true]);
    let made = score(Divergence::ForwardKl, 1.0, &ids_nk, Some(Barred { ids: &[2], at_n: &at_n })).unwrap();
    let values = numbers(&made.values_kn);
    assert!(values[0].is_infinite() && values[1].is_finite(), "{values:?}");
    assert!(numbers(&made.grad.unwrap()).iter().all(|g| !g.is_nan()));
    for which in [Divergence::ReverseKl, Divergence::Tvd, Divergence::SkewForwardKl { skew: 0.1 }] {
        assert!(score(which, 1.0, &ids_nk, None).is_err(), "{which:?}");
    }
    assert!(score(Divergence::ForwardKl, 2.0, &ids_nk, None).is_err());
    assert!(score(Divergence::ForwardKl, 1.0, &ids_nk.narrow(0, 0, 1), None).is_err());
    assert!(score(Divergence::ForwardKl, 1.0, &ids_nk.to_kind(Kind::Float), None).is_err());
    // Where teacher and student are one, the estimate is 0 whatever is drawn.
    let (ids_nk, log_n) = draw(&Side::Logits(&q), 6, &points(&mut Numbers::new(1), 2, 3)).unwrap();
    let same = by_draws(&case, &ids_nk, &log_n);
    assert!(numbers(&same.values_kn).iter().all(|x| x.abs() < 1e-12));
    assert!(kl(&log_softmax(case.q.row(0)), &log_softmax(case.p.row(0))) > 1e-3);
}
