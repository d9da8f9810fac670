//! MiniLLM in whole, each preset, against a float64 reference of the loss on padded arrays: its value, and
//! its derivative at every logit by finite differences. The presets' numbers stand here a second time.

use ndarray::{Array2, Array3, s};
use retort_policies::{Part, Rollout};
use serde_json::json;
use tch::Kind;

use crate::reference::{derivative, kl, log_softmax};
use crate::support::{Numbers, holds_and_notices, off, off_by_norm};
use crate::update::{Row, Summed, policy, prepared, score};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Wrong {
    AdvantageNegated,
    AdvantageNotDetached,
    GammaFromTheRow,
    PaddingCounts,
    OtherStart,
    LengthNormOther,
    RewardUnscaled,
    RewardUnclipped,
    WeightLost,
    OmegaOther,
    Unclipped,
    PrintedClip,
    WhitenMasked,
    WhitenPerMicroBatch,
    MeanPerMicroBatch,
    MeanOverRows,
    ForwardForReverse,
    LastTokenLost,
}

/// A preset, from the paper's and the code's own text.
#[derive(Clone, Copy)]
struct Own {
    name: &'static str,
    alpha: f64,
    b: usize,
    gamma: f64,
    norm: bool,
    s: f64,
    c: f64,
    whiten_all: bool,
    omega_w: bool,
    eps: f64,
}

const PAPER: Own = Own {
    name: "paper",
    alpha: 0.2,
    b: 1,
    gamma: 1.0,
    norm: true,
    s: 1.0,
    c: f64::INFINITY,
    whiten_all: false,
    omega_w: true,
    eps: 0.2,
};
const LMOPS: Own =
    Own { name: "lmops", b: 0, gamma: 0.95, s: 0.5, c: 100.0, whiten_all: true, omega_w: false, ..PAPER };
const EXACT: Own =
    Own { name: "exact", alpha: 0.0, norm: false, omega_w: false, eps: f64::INFINITY, ..PAPER };

const LENGTHS: [usize; 6] = [5, 1, 3, 8, 2, 4];
const LONGEST: usize = 8;
const V: usize = 5;
const CUT: [usize; 3] = [1, 3, 2];

fn rows() -> Vec<Row> {
    let mut r = Numbers::new(17);
    let mut rows: Vec<Row> = LENGTHS.iter().map(|n| Row::random(&mut r, *n, V)).collect();
    // One token that the teacher finds all but impossible: a reward beyond any clip.
    let y = rows[3].tokens[4] as usize;
    rows[3].p[[4, y]] -= 90.0;
    rows
}

/// Rows on which something could be divided by nothing, or overflow.
fn nasty() -> [(&'static str, Vec<Row>); 4] {
    let (mut one_hot, mut equal, mut certain) = (rows(), rows(), rows());
    for row in &mut one_hot {
        row.p.fill(-40.0);
        (0..row.tokens.len()).for_each(|t| row.p[[t, t * 3 % V]] = 40.0);
    }
    for row in &mut equal {
        (row.p, row.old) = (row.q.clone(), row.q.clone());
    }
    for row in &mut certain {
        row.old = row.q.clone();
        (0..row.tokens.len()).for_each(|t| row.q[[t, row.tokens[t] as usize]] += 6.0);
    }
    let mut r = Numbers::new(18);
    let two = LENGTHS.iter().map(|n| Row::random(&mut r, *n, 2)).collect();
    [
        ("one-hot teacher", one_hot),
        ("equal models", equal),
        ("certain student", certain),
        ("vocabulary of 2", two),
    ]
}

/// Everything padded to `[B, R]`; what stands behind a row's end is 7.
struct Padded {
    lq_old: Array2<f64>,
    lp: Array2<f64>,
    lm: Array2<f64>,
    q: Array3<f64>,
    p: Array3<f64>,
}

fn padded(rows: &[Row], q: &[Array2<f64>], alpha: f64) -> Padded {
    let flat = || Array2::from_elem((rows.len(), LONGEST), 7.0);
    let deep = || Array3::from_elem((rows.len(), LONGEST, rows[0].q.ncols()), 7.0);
    let mut all = Padded { lq_old: flat(), lp: flat(), lm: flat(), q: deep(), p: deep() };
    for (i, row) in rows.iter().enumerate() {
        let Rollout { log_q_old, log_p, log_m } = row.rollout(alpha);
        for t in 0..row.tokens.len() {
            (all.lq_old[[i, t]], all.lp[[i, t]], all.lm[[i, t]]) = (log_q_old[t], log_p[t], log_m[t]);
        }
        all.q.slice_mut(s![i, ..row.tokens.len(), ..]).assign(&q[i]);
        all.p.slice_mut(s![i, ..row.tokens.len(), ..]).assign(&row.p);
    }
    all
}

/// `L_pg + L_1`, divided, at other logits of the student.
fn loss(own: &Own, rows: &[Row], q: &[Array2<f64>], wrong: Option<Wrong>) -> f64 {
    let pad = padded(rows, q, own.alpha);
    let a = advantages(own, rows, &pad, wrong);
    let total: usize = LENGTHS.iter().sum();
    let mut sum = 0.0;
    for (i, row) in rows.iter().enumerate() {
        let end = LENGTHS[i] - usize::from(wrong == Some(Wrong::LastTokenLost));
        for t in 0..end {
            let (lq, lp) = (log_softmax(pad.q.slice(s![i, t, ..])), log_softmax(pad.p.slice(s![i, t, ..])));
            let w = (pad.lq_old[[i, t]] - pad.lm[[i, t]]).exp();
            let in_rho = if wrong == Some(Wrong::WeightLost) { 1.0 } else { w };
            let rho = in_rho * (lq[row.tokens[t] as usize] - pad.lq_old[[i, t]]).exp();
            let clipped = rho.clamp(1.0 - own.eps, 1.0 + own.eps);
            let a = if wrong == Some(Wrong::AdvantageNegated) { -a[[i, t]] } else { a[[i, t]] };
            let pg = match wrong {
                Some(Wrong::Unclipped) => -a * rho,
                Some(Wrong::PrintedClip) => -a * rho.min(clipped),
                _ => (-a * rho).max(-a * clipped),
            };
            let omega = if own.omega_w != (wrong == Some(Wrong::OmegaOther)) { w } else { 1.0 };
            let single = if wrong == Some(Wrong::ForwardForReverse) { kl(&lp, &lq) } else { kl(&lq, &lp) };
            let micro = micro_of(i);
            let by = match wrong {
                Some(Wrong::MeanPerMicroBatch) => {
                    (CUT.len() * micro.map(|i| LENGTHS[i]).sum::<usize>()) as f64
                }
                Some(Wrong::MeanOverRows) => rows.len() as f64,
                _ => total as f64,
            };
            sum += (pg + omega * single) / by;
        }
    }
    sum
}

/// The rows of the micro-batch that row i is in.
fn micro_of(i: usize) -> std::ops::Range<usize> {
    let mut from = 0;
    for count in CUT {
        if i < from + count {
            return from..from + count;
        }
        from += count;
    }
    unreachable!()
}

fn advantages(own: &Own, rows: &[Row], pad: &Padded, wrong: Option<Wrong>) -> Array2<f64> {
    let not_detached = wrong == Some(Wrong::AdvantageNotDetached);
    let scale = if wrong == Some(Wrong::RewardUnscaled) { 1.0 } else { own.s };
    let clip = if wrong == Some(Wrong::RewardUnclipped) { f64::INFINITY } else { own.c };
    let b = if wrong == Some(Wrong::OtherStart) { 1 - own.b } else { own.b };
    let reward = |i: usize, u: usize| {
        let lq = match rows[i].tokens.get(u) {
            Some(y) if not_detached => log_softmax(pad.q.slice(s![i, u, ..]))[*y as usize],
            _ => pad.lq_old[[i, u]],
        };
        // Padding's own "reward" is not 0: where it leaks in, it shows.
        let difference = if u < rows[i].tokens.len() { pad.lp[[i, u]] - lq } else { 3.0 };
        (difference / scale).clamp(-clip, clip)
    };
    let mut a = Array2::<f64>::zeros(pad.lp.dim());
    for (i, length) in LENGTHS.iter().enumerate() {
        for t in 0..*length {
            let end = if wrong == Some(Wrong::PaddingCounts) { LONGEST } else { *length };
            let power = |u: usize| if wrong == Some(Wrong::GammaFromTheRow) { u } else { u - t - b };
            let sum: f64 = (t + b..end).map(|u| own.gamma.powi(power(u) as i32) * reward(i, u)).sum();
            let n = length.saturating_sub(t + b);
            let norm = own.norm != (wrong == Some(Wrong::LengthNormOther));
            a[[i, t]] = if n == 0 {
                0.0
            } else if norm {
                sum / n as f64
            } else {
                sum
            };
        }
    }
    if own.whiten_all {
        let cells = |micro: std::ops::Range<usize>| -> Vec<f64> {
            let masked = wrong == Some(Wrong::WhitenMasked);
            let of = |i: usize| {
                a.row(i).iter().take(if masked { LENGTHS[i] } else { LONGEST }).copied().collect::<Vec<f64>>()
            };
            micro.flat_map(of).collect()
        };
        let per = wrong == Some(Wrong::WhitenPerMicroBatch);
        let whole: Vec<Vec<f64>> =
            (0..rows.len()).map(|i| cells(if per { micro_of(i) } else { 0..rows.len() })).collect();
        for (i, cells) in whole.iter().enumerate() {
            let mean = cells.iter().sum::<f64>() / cells.len() as f64;
            let var = cells.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / cells.len() as f64;
            a.row_mut(i).mapv_inplace(|x| (x - mean) / (var + 1e-8).sqrt());
        }
    }
    a
}

/// The derivative of the reference at every logit of the student's.
fn slopes(own: &Own, rows: &[Row], wrong: Option<Wrong>) -> Vec<Array2<f64>> {
    let q: Vec<Array2<f64>> = rows.iter().map(|row| row.q.clone()).collect();
    (0..rows.len())
        .map(|i| {
            derivative(&q[i], |t, moved| {
                let mut q = q.clone();
                q[i].row_mut(t).assign(&moved);
                loss(own, rows, &q, wrong)
            })
        })
        .collect()
}

fn made(own: &Own, rows: &[Row], cut: &[usize], kind: Kind) -> Summed {
    let policy = policy("minillm", json!({"preset": own.name}));
    let rollouts: Vec<Rollout> = rows.iter().map(|row| row.rollout(own.alpha)).collect();
    score(policy.as_ref(), Part::Main, rows, &prepared(policy.as_ref(), &rollouts, LONGEST), cut, kind)
}

fn distance(own: &Own, rows: &[Row], kind: Kind, wrong: Option<Wrong>) -> f64 {
    let made = made(own, rows, &CUT, kind);
    let n = made.tokens as f64;
    let (value, slope) = if kind == Kind::Double { (1e-10, 1e-6) } else { (1e-5, 1e-4) };
    let q: Vec<Array2<f64>> = rows.iter().map(|row| row.q.clone()).collect();
    let by_value = off(&[made.loss / n], &[loss(own, rows, &q, wrong)], value, value);
    let join = |x: &[Array2<f64>]| {
        ndarray::concatenate(ndarray::Axis(0), &x.iter().map(|a| a.view()).collect::<Vec<_>>()).unwrap()
    };
    let by_slope = off_by_norm(&(join(&made.grads) / n), &join(&slopes(own, rows, wrong)), slope);
    by_value.max(by_slope)
}

#[test]
fn whole_presets_equal_the_reference() {
    let rows = rows();
    for own in [PAPER, LMOPS, EXACT] {
        for kind in [Kind::Double, Kind::Float] {
            let by = distance(&own, &rows, kind, None);
            assert!(by <= 1.0, "{}, {kind:?}: {by} tolerances", own.name);
        }
    }
}

#[test]
fn whole_presets_equal_the_reference_on_nasty_rows() {
    for (what, rows) in nasty() {
        for (own, kind) in
            [PAPER, LMOPS, EXACT].iter().flat_map(|own| [(own, Kind::Double), (own, Kind::Float)])
        {
            let made = made(own, &rows, &CUT, kind);
            if what == "equal models" {
                // Nothing to learn: no advantage, no divergence, and not a gradient that is not a number.
                let most = if kind == Kind::Double { 1e-12 } else { 1e-5 };
                assert!(made.loss.abs() <= most, "{}, {kind:?}: {}", own.name, made.loss);
                assert!(made.grads.iter().flatten().all(|x| x.abs() <= most), "{}, {kind:?}", own.name);
            }
            let by = if what == "equal models" { 0.0 } else { distance(own, &rows, kind, None) };
            assert!(by <= 1.0, "{what}, {}, {kind:?}: {by} tolerances", own.name);
        }
    }
}

#[test]
fn mutated_presets_are_noticed() {
    let rows = rows();
    let common = [
        Wrong::AdvantageNegated,
        Wrong::PaddingCounts,
        Wrong::OtherStart,
        Wrong::LengthNormOther,
        Wrong::MeanPerMicroBatch,
        Wrong::MeanOverRows,
        Wrong::ForwardForReverse,
        Wrong::LastTokenLost,
    ];
    let mixed = [Wrong::WeightLost, Wrong::OmegaOther, Wrong::Unclipped, Wrong::PrintedClip];
    let whitened = [
        Wrong::GammaFromTheRow,
        Wrong::RewardUnscaled,
        Wrong::RewardUnclipped,
        Wrong::WhitenMasked,
        Wrong::WhitenPerMicroBatch,
    ];
    let paper = [&common[..], &mixed, &[Wrong::AdvantageNotDetached]].concat();
    let lmops = [&common[..], &mixed, &whitened, &[Wrong::AdvantageNotDetached]].concat();
    let exact = [&common[..], &[Wrong::AdvantageNotDetached]].concat();
    for (own, wrongs) in [(PAPER, paper), (LMOPS, lmops), (EXACT, exact)] {
        for kind in [Kind::Double, Kind::Float] {
            holds_and_notices(own.name, &wrongs, |wrong| distance(&own, &rows, kind, wrong));
        }
    }
}

/// trl#4719, ms-swift#10165: an update is one loss, however it is cut.
#[test]
fn the_cut_changes_nothing() {
    let rows = rows();
    for own in [PAPER, LMOPS, EXACT] {
        let whole = made(&own, &rows, &[6], Kind::Double);
        for cut in [vec![1; 6], vec![2, 4], vec![5, 1], vec![1, 2, 3]] {
            let other = made(&own, &rows, &cut, Kind::Double);
            assert!(off(&[other.loss], &[whole.loss], 1e-12, 1e-12) <= 1.0, "{}, {cut:?}", own.name);
            for (a, b) in other.grads.iter().zip(&whole.grads) {
                assert!(off_by_norm(a, b, 1e-12) <= 1.0, "{}, {cut:?}", own.name);
            }
        }
    }
}

/// `(1-k) CE + k CE(p, q)`, with the weight in it, divided by the corpus part's own tokens.
#[test]
fn the_corpus_part_equals_the_reference() {
    let rows: Vec<Row> = rows().into_iter().take(3).collect();
    for (table, k, weight) in [
        (json!({"preset": "paper"}), 0.0, 1.0),
        (json!({"preset": "lmops"}), 0.5, 1.0),
        (json!({"corpus_kd": 0.3, "corpus_weight": 2.5}), 0.3, 2.5),
    ] {
        let made = score(policy("minillm", table).as_ref(), Part::Corpus, &rows, &[], &[1, 2], Kind::Double);
        let part = |k: f64, weight: f64, row: &Row, t: usize, z: ndarray::ArrayView1<f64>| {
            let (lq, lp) = (log_softmax(z), log_softmax(row.p.row(t)));
            let soft: f64 = -lq.iter().zip(&lp).map(|(q, p)| p.exp() * q).sum::<f64>();
            weight * (-(1.0 - k) * lq[row.tokens[t] as usize] + k * soft)
        };
        let at = |row: &Row, t: usize, z: ndarray::ArrayView1<f64>| part(k, weight, row, t, z);
        let sum = |k, weight| -> f64 {
            let of =
                |row: &Row| (0..row.tokens.len()).map(|t| part(k, weight, row, t, row.q.row(t))).sum::<f64>();
            rows.iter().map(of).sum()
        };
        assert!(off(&[made.loss], &[sum(k, weight)], 1e-10, 1e-10) <= 1.0);
        for (k, weight) in
            [(1.0 - k, if k == 0.5 { 0.5 } else { weight }), (k, weight * 2.0), (k + 0.1, weight)]
        {
            assert!(off(&[made.loss], &[sum(k, weight)], 1e-10, 1e-10) > 100.0, "{k}, {weight}");
        }
        for (row, grad) in rows.iter().zip(&made.grads) {
            assert!(off_by_norm(grad, &derivative(&row.q, |t, z| at(row, t, z)), 1e-6) <= 1.0);
        }
    }
}
