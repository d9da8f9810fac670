//! The fused head against a float64 reference of the whole loss: its value, and its derivatives by the
//! hidden states, the head's weight and its bias, by finite differences.

use ndarray::{Array1, Array2};
use retort_policies::objective::divergence::Divergence;
use retort_policies::objective::head::{Chunks, Fused, HeadGrads, Want, fused_in};
use retort_policies::objective::input::{Barred, Head, Input, Side};
use retort_policies::objective::term::{Loss, Surrogate, Term};
use tch::{Kind, Tensor};

use crate::divergences::ALL;
use crate::reference::{derivative, divergence, log_softmax};
use crate::support::{Numbers, array, holds_and_notices, numbers, off, off_by_norm, tensor};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Wrong {
    /// The vocabulary's padding takes part.
    Uncut,
    /// The barred words do.
    Unbarred,
    /// No soft cap.
    Uncapped,
    /// No bias.
    Unbiased,
    /// No bias and no soft cap on the teacher's side.
    TeacherBare,
    /// -A for A.
    AdvantageNegated,
    /// No minimum with the clipped branch.
    Unclipped,
    /// The paper's printed form, `A min(rho, clip rho)`, which stops the wrong side where A < 0.
    PrintedClip,
    /// No importance weight in rho.
    Unweighted,
    /// No weight on the single-step term.
    NoOmega,
    /// The last token left out.
    LastTokenLost,
}

/// Everything a loss is made from, as arrays.
struct Setup {
    hidden: Array2<f64>,
    weight: Array2<f64>,
    bias: Array2<f64>,
    cap: Option<f64>,
    teacher_hidden: Array2<f64>,
    teacher_weight: Array2<f64>,
    teacher_bias: Array2<f64>,
    targets: Vec<i64>,
    vocabulary: usize,
    barred: Vec<bool>,
    advantage: Vec<f64>,
    log_old: Vec<f64>,
    ratio: Vec<f64>,
    omega: Vec<f64>,
}

const BARRED: [i64; 1] = [2];
const EPS: f64 = 0.2;

impl Setup {
    fn new(seed: u64, n: usize, d: usize, v: usize, cap: Option<f64>) -> Self {
        let mut r = Numbers::new(seed);
        let hidden = r.matrix(n, d, 1.0);
        let targets: Vec<i64> = (0..n).map(|t| if t % 3 == 0 { 0 } else { ((t * 5) % 2) as i64 }).collect();
        Setup {
            weight: r.matrix(v + 3, d, 1.0),
            bias: r.matrix(1, v + 3, 0.5),
            cap,
            // The teacher has its own width, and its vocabulary another padding.
            teacher_hidden: r.matrix(n, d + 2, 1.0),
            teacher_weight: r.matrix(v + 1, d + 2, 0.7),
            targets,
            vocabulary: v,
            barred: (0..n).map(|t| t % 2 == 0).collect(),
            advantage: (0..n).map(|_| r.normal()).collect(),
            log_old: (0..n).map(|_| -1.5 + 0.3 * r.normal()).collect(),
            ratio: (0..n).map(|_| 0.5 + r.uniform()).collect(),
            omega: (0..n).map(|_| 0.5 + r.uniform()).collect(),
            teacher_bias: r.matrix(1, v + 1, 0.5),
            hidden,
        }
    }

    /// A token's logits, student's or teacher's.
    fn logits(
        &self,
        hidden: &Array2<f64>,
        weight: &Array2<f64>,
        bias: Option<&Array2<f64>>,
        t: usize,
        wrong: Option<Wrong>,
    ) -> Array1<f64> {
        let mut z = weight.dot(&hidden.row(t));
        if let Some(b) = bias.filter(|_| wrong != Some(Wrong::Unbiased)) {
            z += &b.row(0);
        }
        if let Some(cap) = self.cap.filter(|_| bias.is_some() && wrong != Some(Wrong::Uncapped)) {
            z.mapv_inplace(|x| cap * (x / cap).tanh());
        }
        if self.barred[t] && wrong != Some(Wrong::Unbarred) {
            z[BARRED[0] as usize] = f64::NEG_INFINITY;
        }
        let shown = if wrong == Some(Wrong::Uncut) {
            z.len().min(self.teacher_weight.nrows())
        } else {
            self.vocabulary
        };
        z.slice_move(ndarray::s![..shown])
    }

    /// The summed loss `0.5 CE + 0.8 omega D + surrogate` at other hidden states, weights, biases.
    fn loss(
        &self,
        which: Divergence,
        hidden: &Array2<f64>,
        weight: &Array2<f64>,
        bias: &Array2<f64>,
        wrong: Option<Wrong>,
    ) -> f64 {
        let count = self.targets.len() - usize::from(wrong == Some(Wrong::LastTokenLost));
        (0..count)
            .map(|t| {
                let z = self.logits(hidden, weight, Some(bias), t, wrong);
                let held = self.logits(&self.hidden, &self.weight, Some(&self.bias), t, wrong);
                let bias = (wrong != Some(Wrong::TeacherBare)).then_some(&self.teacher_bias);
                let z_p = self.logits(&self.teacher_hidden, &self.teacher_weight, bias, t, wrong);
                let lq = log_softmax(z.view())[self.targets[t] as usize];
                let omega = if wrong == Some(Wrong::NoOmega) { 1.0 } else { self.omega[t] };
                let d = divergence(which, z.view(), z_p.view(), held.view(), None);
                -0.5 * lq + 0.8 * omega * d + self.surrogate(lq, t, wrong)
            })
            .sum()
    }

    fn surrogate(&self, lq: f64, t: usize, wrong: Option<Wrong>) -> f64 {
        let a = if wrong == Some(Wrong::AdvantageNegated) { -self.advantage[t] } else { self.advantage[t] };
        let w = if wrong == Some(Wrong::Unweighted) { 1.0 } else { self.ratio[t] };
        let rho = w * (lq - self.log_old[t]).exp();
        let clipped = rho.clamp(1.0 - EPS, 1.0 + EPS);
        match wrong {
            Some(Wrong::Unclipped) => -a * rho,
            Some(Wrong::PrintedClip) => -a * rho.min(clipped),
            _ => (-a * rho).max(-a * clipped),
        }
    }

    fn terms(&self, which: Divergence, range: std::ops::Range<usize>, kind: Kind) -> Vec<Term> {
        let of = |x: &[f64]| Tensor::from_slice(&x[range.clone()]).to_kind(kind);
        let surrogate = Surrogate {
            advantage_n: of(&self.advantage),
            log_old_n: of(&self.log_old),
            weight_n: of(&self.ratio),
            clip: Some(EPS),
        };
        vec![
            Term::new("ce", Loss::CrossEntropy, 0.5),
            Term { each_n: Some(of(&self.omega)), ..Term::new("d", Loss::Divergence(which), 0.8) },
            Term::new("pg", Loss::Surrogate(surrogate), 1.0),
        ]
    }

    /// The fused head over some of the tokens.
    fn fused(
        &self,
        which: Divergence,
        range: std::ops::Range<usize>,
        kind: Kind,
        chunks: Chunks,
        want: Want,
    ) -> Fused {
        let (from, count) = (range.start as i64, range.len() as i64);
        let hidden = tensor(&self.hidden, kind).narrow(0, from, count);
        let teacher = tensor(&self.teacher_hidden, kind).narrow(0, from, count);
        let (weight, teacher_weight) = (tensor(&self.weight, kind), tensor(&self.teacher_weight, kind));
        let bias = tensor(&self.bias, kind).view([-1]);
        let head = Head { weight_vd: &weight, bias_v: Some(&bias), softcap: self.cap };
        let teacher_bias = tensor(&self.teacher_bias, kind).view([-1]);
        let teacher_head =
            Head { weight_vd: &teacher_weight, bias_v: Some(&teacher_bias), softcap: self.cap };
        let input = Input {
            student: Side::Hidden { hidden_nd: &hidden, head },
            teacher: Some(Side::Hidden { hidden_nd: &teacher, head: teacher_head }),
            targets_n: &Tensor::from_slice(&self.targets[range.clone()]),
            vocabulary: self.vocabulary as i64,
            barred: Some(Barred { ids: &BARRED, at_n: &Tensor::from_slice(&self.barred[range.clone()]) }),
            teacher_temperature: 1.0,
        };
        fused_in(&input, &self.terms(which, range, kind), want, chunks).unwrap()
    }

    fn grads(&self, kind: Kind) -> HeadGrads {
        let (weight, bias) = (tensor(&self.weight, kind), tensor(&self.bias, kind).view([-1]));
        HeadGrads::zeros(&Head { weight_vd: &weight, bias_v: Some(&bias), softcap: None }).unwrap()
    }

    /// Loss, and gradients at hidden states, weight and bias.
    fn made(&self, which: Divergence, kind: Kind, chunks: Chunks) -> (f64, [Array2<f64>; 3]) {
        let mut grads = self.grads(kind);
        let made = self.fused(which, 0..self.targets.len(), kind, chunks, Want::Head(&mut grads));
        let bias = grads.bias_v.unwrap().view([1, -1]);
        (made.loss.double_value(&[]), [array(&made.grad.unwrap()), array(&grads.weight_vd), array(&bias)])
    }

    /// The same by the reference.
    fn expected(&self, which: Divergence, wrong: Option<Wrong>) -> (f64, [Array2<f64>; 3]) {
        let (h, w, b) = (&self.hidden, &self.weight, &self.bias);
        let with = |x: &Array2<f64>, row: usize, moved: ndarray::ArrayView1<f64>| {
            let mut x = x.clone();
            x.row_mut(row).assign(&moved);
            x
        };
        let by_h = derivative(h, |t, row| self.loss(which, &with(h, t, row), w, b, wrong));
        let by_w = derivative(w, |v, row| self.loss(which, h, &with(w, v, row), b, wrong));
        let by_b = derivative(b, |_, row| self.loss(which, h, w, &with(b, 0, row), wrong));
        (self.loss(which, h, w, b, wrong), [by_h, by_w, by_b])
    }
}

const CHUNKS: Chunks = Chunks { tokens: 2, block: 1 };

/// The worst of loss and gradients, in tolerances: float64 1e-10 and 1e-6, float32 1e-5 and 1e-4.
fn distance(made: &(f64, [Array2<f64>; 3]), expected: &(f64, [Array2<f64>; 3]), kind: Kind) -> f64 {
    let (value, slope) = if kind == Kind::Double { (1e-10, 1e-6) } else { (1e-5, 1e-4) };
    let loss = off(&[made.0], &[expected.0], value, value);
    made.1.iter().zip(&expected.1).map(|(a, b)| off_by_norm(a, b, slope)).fold(loss, f64::max)
}

#[test]
fn head_equals_finite_differences_for_every_divergence() {
    for (seed, which) in ALL.into_iter().enumerate() {
        let cap = if seed % 2 == 0 { Some(2.5) } else { None };
        let setup = Setup::new(50 + seed as u64, 5, 3, 6, cap);
        let expected = setup.expected(which, None);
        for kind in [Kind::Double, Kind::Float] {
            let by = distance(&setup.made(which, kind, CHUNKS), &expected, kind);
            assert!(by <= 1.0, "{which:?}, {kind:?}: {by} tolerances");
        }
    }
}

#[test]
fn mutated_heads_are_noticed() {
    let setup = Setup::new(71, 8, 4, 6, Some(2.5));
    let all = [
        Wrong::Uncut,
        Wrong::Unbarred,
        Wrong::Uncapped,
        Wrong::Unbiased,
        Wrong::TeacherBare,
        Wrong::AdvantageNegated,
        Wrong::Unclipped,
        Wrong::PrintedClip,
        Wrong::Unweighted,
        Wrong::NoOmega,
        Wrong::LastTokenLost,
    ];
    for kind in [Kind::Double, Kind::Float] {
        let made = setup.made(Divergence::ReverseKl, kind, CHUNKS);
        holds_and_notices("head", &all, |wrong| {
            distance(&made, &setup.expected(Divergence::ReverseKl, wrong), kind)
        });
    }
}

/// The sizes of chunks and blocks change nothing.
#[test]
fn chunked_equals_whole() {
    let setup = Setup::new(81, 13, 4, 9, Some(3.0));
    for which in ALL {
        let whole = setup.made(which, Kind::Double, Chunks { tokens: 100, block: 100 });
        for (tokens, block) in [(1, 1), (2, 2), (3, 2), (5, 4), (12, 7), (13, 1), (13, 13)] {
            let made = setup.made(which, Kind::Double, Chunks { tokens, block });
            assert!(off(&[made.0], &[whole.0], 1e-12, 1e-12) <= 1.0, "{which:?}, {tokens}, {block}");
            for (a, b) in made.1.iter().zip(&whole.1) {
                assert!(off_by_norm(a, b, 1e-12) <= 1.0, "{which:?}, {tokens}, {block}");
            }
        }
    }
}

/// trl#4719, ms-swift#10165: however the tokens are cut into micro-batches, sums and gradients are the same.
#[test]
fn any_cut_into_micro_batches_gives_the_same_sums() {
    let (setup, which) = (Setup::new(91, 11, 4, 7, None), Divergence::ReverseKl);
    let whole = setup.made(which, Kind::Double, CHUNKS);
    for cuts in [vec![0, 11], vec![0, 1, 11], vec![0, 4, 5, 9, 11], (0..=11).collect::<Vec<_>>()] {
        let (mut loss, mut hidden, mut grads) = (0.0, Vec::new(), setup.grads(Kind::Double));
        for cut in cuts.windows(2) {
            let made = setup.fused(which, cut[0]..cut[1], Kind::Double, CHUNKS, Want::Head(&mut grads));
            loss += made.loss.double_value(&[]);
            hidden.extend(numbers(&made.grad.unwrap()));
        }
        let hidden = Array2::from_shape_vec((11, 4), hidden).unwrap();
        let made = (loss, [hidden, array(&grads.weight_vd), array(&grads.bias_v.unwrap().view([1, -1]))]);
        for (a, b) in made.1.iter().zip(&whole.1) {
            assert!(off_by_norm(a, b, 1e-12) <= 1.0, "{cuts:?}");
        }
        assert!(off(&[loss], &[whole.0], 1e-12, 1e-12) <= 1.0, "{cuts:?}");
    }
}
