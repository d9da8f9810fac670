//! Rewards, returns, whitening and weights against a reference on padded arrays, written from the
//! equations with every power and every mask spelt out.

use ndarray::Array2;
use retort_policies::Rollout;
use retort_policies::objective::mixture::log_mixed;
use retort_policies::objective::returns::{Moments, Return, Reward, returns, rewards};
use tch::Tensor;

use crate::support::{Numbers, holds_and_notices, numbers, off};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Wrong {
    /// gamma to the power of the absolute position.
    GammaFromTheRow,
    /// What stands behind the end counts as reward.
    PaddingCounts,
    /// Divided by one less than the number of terms.
    PrintedDivisor,
    /// The return starts one token later or earlier.
    OtherStart,
    /// Whitened with the sample variance.
    SampleVariance,
    /// Whitened over the other set of cells.
    OtherCells,
}

#[derive(Clone, Copy)]
struct How {
    start: usize,
    gamma: f64,
    length_norm: bool,
    /// 0 no whitening, 1 all cells, 2 the rows' tokens.
    whiten: u8,
}

/// Advantages of padded rewards `[B, R]` with these lengths; padding holds 7.
fn reference(r: &Array2<f64>, lengths: &[usize], how: How, wrong: Option<Wrong>) -> Vec<f64> {
    let (rows, width) = r.dim();
    let mut a = Array2::<f64>::zeros((rows, width));
    let start = if wrong == Some(Wrong::OtherStart) { 1 - how.start } else { how.start };
    for i in 0..rows {
        let end = if wrong == Some(Wrong::PaddingCounts) { width } else { lengths[i] };
        for t in 0..lengths[i] {
            let first = t + start;
            let power = |u: usize| if wrong == Some(Wrong::GammaFromTheRow) { u } else { u - first };
            let sum: f64 = (first..end).map(|u| how.gamma.powi(power(u) as i32) * r[[i, u]]).sum();
            let n = lengths[i].saturating_sub(first);
            let less = usize::from(wrong == Some(Wrong::PrintedDivisor) && n > 1);
            a[[i, t]] = if n == 0 {
                0.0
            } else if how.length_norm {
                sum / (n - less) as f64
            } else {
                sum
            };
        }
    }
    let masked = (how.whiten == 2) != (wrong == Some(Wrong::OtherCells));
    let cells: Vec<f64> =
        a.indexed_iter().filter(|((i, t), _)| !masked || *t < lengths[*i]).map(|(_, x)| *x).collect();
    let n = cells.len() as f64;
    let mean = cells.iter().sum::<f64>() / n;
    let less = if wrong == Some(Wrong::SampleVariance) { 1.0 } else { 0.0 };
    let var = cells.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - less);
    let finish = |x: f64| if how.whiten == 0 { x } else { (x - mean) / (var + 1e-8).sqrt() };
    (0..rows).flat_map(|i| (0..lengths[i]).map(move |t| (i, t))).map(|at| finish(a[at])).collect()
}

/// The code's advantages of the same rows, without their padding.
fn made(r: &Array2<f64>, lengths: &[usize], how: How) -> Vec<f64> {
    let one = |(i, n): (usize, &usize)| {
        let row: Vec<f64> = r.row(i).iter().take(*n).copied().collect();
        returns(&row, Return { start: how.start, gamma: how.gamma, length_norm: how.length_norm })
    };
    let mut rows: Vec<Vec<f64>> = lengths.iter().enumerate().map(one).collect();
    if how.whiten > 0 {
        let cells = if how.whiten == 1 { Some(r.ncols()) } else { None };
        Moments::of(&rows, cells, |_| Ok::<(), ()>(())).unwrap().whiten(&mut rows);
    }
    rows.concat()
}

const LENGTHS: [usize; 5] = [6, 1, 4, 2, 6];

fn rewards_of_update() -> Array2<f64> {
    let mut r = Numbers::new(3).matrix(5, 6, 1.0);
    for (i, n) in LENGTHS.iter().enumerate() {
        r.slice_mut(ndarray::s![i, *n..]).fill(7.0);
    }
    r
}

#[test]
fn advantages_equal_the_reference() {
    let r = rewards_of_update();
    for start in [0, 1] {
        for gamma in [0.0, 0.7, 0.95, 1.0] {
            for length_norm in [false, true] {
                for whiten in [0, 1, 2] {
                    let how = How { start, gamma, length_norm, whiten };
                    let mut wrongs = vec![Wrong::OtherStart];
                    if gamma > 0.0 {
                        wrongs.push(Wrong::PaddingCounts);
                    }
                    if gamma > 0.0 && gamma < 1.0 {
                        wrongs.push(Wrong::GammaFromTheRow);
                    }
                    if length_norm {
                        wrongs.push(Wrong::PrintedDivisor);
                    }
                    if whiten > 0 {
                        wrongs.extend([Wrong::SampleVariance, Wrong::OtherCells]);
                    }
                    holds_and_notices("advantage", &wrongs, |wrong| {
                        off(&made(&r, &LENGTHS, how), &reference(&r, &LENGTHS, how, wrong), 1e-12, 1e-12)
                    });
                }
            }
        }
    }
}

#[test]
fn rewards_are_scaled_then_clipped() {
    let (p, q) = ([-1.0, -60.0, -0.5, -3.0], [-2.0, -1.0, -0.5, -1.5]);
    let of = |scale, clip| rewards(&p, &q, Reward { scale, clip });
    assert_eq!(of(1.0, None), [1.0, -59.0, 0.0, -1.5]);
    assert_eq!(of(0.5, Some(100.0)), [2.0, -100.0, 0.0, -3.0]);
    assert_eq!(of(1.0, Some(1.25)), [1.0, -1.25, 0.0, -1.25]);
}

#[test]
fn the_weight_is_one_where_both_models_agree_and_never_over_its_bound() {
    let mut r = Numbers::new(5);
    let logs: Vec<f64> = (0..50).map(|_| r.uniform().ln()).collect();
    let other: Vec<f64> = (0..50).map(|_| r.uniform().ln()).collect();
    for alpha in [0.0, 0.2, 0.9, 1.0] {
        let mixed = |p: &[f64], q: &[f64]| {
            numbers(&log_mixed(&Tensor::from_slice(p), &Tensor::from_slice(q), alpha).unwrap())
        };
        let same = Rollout { log_q_old: logs.clone(), log_p: logs.clone(), log_m: mixed(&logs, &logs) };
        assert!(off(&same.weights(), &[1.0; 50], 1e-14, 0.0) <= 1.0);
        let apart = Rollout { log_q_old: logs.clone(), log_p: other.clone(), log_m: mixed(&other, &logs) };
        let expected: Vec<f64> = logs
            .iter()
            .zip(&other)
            .map(|(q, p)| q.exp() / (alpha * p.exp() + (1.0 - alpha) * q.exp()))
            .collect();
        assert!(off(&apart.weights(), &expected, 0.0, 1e-12) <= 1.0);
        assert!(alpha == 1.0 || apart.weights().iter().all(|w| *w <= 1.0 / (1.0 - alpha) + 1e-12));
        let products: Vec<f64> = (0..50).map(|u| expected[..=u].iter().product()).collect();
        assert!(off(&apart.prefix_weights(), &products, 0.0, 1e-10) <= 1.0);
        if alpha == 0.0 {
            assert_eq!(apart.weights(), [1.0; 50]);
        }
    }
    let barred = Tensor::from_slice(&[f64::NEG_INFINITY]);
    assert_eq!(numbers(&log_mixed(&barred, &barred, 0.2).unwrap()), [f64::NEG_INFINITY]);
}

/// Whitening over ranks: the sums of all, the same numbers as on one.
#[test]
fn whitening_is_over_all_ranks() {
    let r = rewards_of_update();
    for whiten in [1u8, 2] {
        let how = How { start: 0, gamma: 0.9, length_norm: false, whiten: 0 };
        let one = |range: std::ops::Range<usize>| -> Vec<Vec<f64>> {
            range.map(|i| made(&r.slice(ndarray::s![i..=i, ..]).to_owned(), &LENGTHS[i..=i], how)).collect()
        };
        let cells = if whiten == 1 { Some(6) } else { None };
        // Each rank sums alone first; then both see both sums, in the order in which they are asked.
        let (first, second, none) = (one(0..2), one(2..5), Vec::new());
        let ranks = [&first, &second, &none];
        let mut seen: Vec<Vec<Vec<f64>>> = vec![Vec::new(); 3];
        for round in 0..2 {
            for (rank, rows) in ranks.iter().enumerate() {
                let mut call = 0;
                let sums: Vec<Vec<f64>> = seen.iter().filter_map(|s| s.first().cloned()).collect();
                let mut asked = Vec::new();
                let _ = Moments::of(rows, cells, |x| {
                    asked.push(x.to_vec());
                    if call == 0 && round == 1 {
                        (0..x.len()).for_each(|k| x[k] = sums.iter().map(|s| s[k]).sum());
                    }
                    call += 1;
                    Ok::<(), ()>(())
                });
                seen[rank] = asked;
            }
        }
        let totals = |call: usize, k: usize| seen.iter().map(|s| s[call][k]).sum::<f64>();
        let mut calls = 0;
        let moments = Moments::of(&first, cells, |x| {
            (0..x.len()).for_each(|k| x[k] = totals(calls, k));
            calls += 1;
            Ok::<(), ()>(())
        })
        .unwrap();
        let mut rows = [first, second].concat();
        moments.whiten(&mut rows);
        let expected = reference(&r, &LENGTHS, How { whiten, ..how }, None);
        assert!(off(&rows.concat(), &expected, 1e-12, 1e-12) <= 1.0);
    }
}
