//! The loops of the CPU against the operations that they replace, on random and on nasty rows: the same terms
//! in float32 by the loops, in float64 by the operations, and in float32 by the operations (a term that the
//! loops do not know, with no weight, takes all the others there).

use ndarray::{Array2, s};
use retort_policies::objective::divergence::Divergence;
use retort_policies::objective::head::{Chunks, Fused, Want, fused_in, fused_scaled};
use retort_policies::objective::input::{Barred, Input, Side};
use retort_policies::objective::term::{Loss, Surrogate, Term};
use tch::{Kind, Tensor};

use crate::cases::{Case, INF, barred_apart, random, smooth};
use crate::support::{Numbers, array, numbers, off, off_by_norm, tensor};

/// How the terms of a case are put together: numbers for each token, from a seed.
struct Sum {
    name: &'static str,
    /// Weights of cross-entropy, the teacher's, forward KL, reverse KL, the surrogate; none where it is left out.
    weights: [Option<f64>; 5],
}

const SUMS: [Sum; 9] = [
    Sum { name: "ce", weights: [Some(1.0), None, None, None, None] },
    Sum { name: "teacher's ce", weights: [None, Some(1.0), None, None, None] },
    Sum { name: "forward", weights: [None, None, Some(1.0), None, None] },
    Sum { name: "reverse", weights: [None, None, None, Some(1.0), None] },
    Sum { name: "kd", weights: [Some(0.5), None, Some(0.5), None, None] },
    Sum { name: "minillm", weights: [None, None, None, Some(1.0), Some(1.0)] },
    Sum { name: "both ways", weights: [Some(-0.5), Some(0.1), Some(0.3), Some(0.7), Some(2.0)] },
    Sum { name: "measured alone", weights: [Some(1.0), None, Some(0.0), Some(0.0), None] },
    Sum { name: "untrained", weights: [Some(0.0), None, None, Some(0.0), None] },
];

impl Sum {
    fn terms(&self, count: usize, by_operations: bool) -> Vec<Term> {
        let mut r = Numbers::new(count as u64);
        let mut numbers = |mean: f64, spread: f64| {
            Tensor::from_slice(&(0..count).map(|_| mean + spread * r.normal()).collect::<Vec<_>>())
        };
        let surrogate = Surrogate {
            advantage_n: numbers(0.0, 1.0),
            log_old_n: numbers(-2.0, 0.3),
            weight_n: numbers(1.0, 0.1),
            clip: Some(0.2),
        };
        let omega =
            || Some(Tensor::from_slice(&(0..count).map(|t| 0.5 + t as f64 / 7.0).collect::<Vec<_>>()));
        let losses = [
            Loss::CrossEntropy,
            Loss::TeacherCrossEntropy,
            Loss::Divergence(Divergence::ForwardKl),
            Loss::Divergence(Divergence::ReverseKl),
            Loss::Surrogate(surrogate),
        ];
        let asked = losses.into_iter().zip(self.weights).filter_map(|(loss, weight)| Some((loss, weight?)));
        let mut terms: Vec<Term> = asked
            .map(|(loss, weight)| {
                let each_n = if loss.needs_teacher() { omega() } else { None };
                Term { each_n, ..Term::new("t", loss, weight) }
            })
            .collect();
        if by_operations {
            terms.push(Term::new("tvd", Loss::Divergence(Divergence::Tvd), 0.0));
        }
        terms
    }
}

/// Values of the terms, and the derivative.
type Made = (Vec<f64>, Array2<f64>);

fn made(case: &Case, sum: &Sum, kind: Kind, by_operations: bool, heat: f64) -> Made {
    let (q, p) = (tensor(&case.q, kind), tensor(&case.p, kind));
    let (count, v) = case.q.dim();
    let input = Input {
        student: Side::Logits(&q),
        teacher: Some(Side::Logits(&p)),
        targets_n: &Tensor::from_slice(&case.targets),
        // The last word is padding.
        vocabulary: if v > 2 { v as i64 - 1 } else { v as i64 },
        barred: None,
        teacher_temperature: heat,
    };
    let terms = sum.terms(count, by_operations);
    let made = fused_in(&input, &terms, Want::Hidden, Chunks { tokens: 3, block: 2 }).unwrap();
    let asked = (terms.len() - usize::from(by_operations)) as i64;
    (numbers(&made.values_kn.narrow(0, 0, asked)), array(&made.grad.unwrap()))
}

/// Rows of many lengths: within a block of the loops, at its edges, over several; small, large, shifted and
/// nearly equal logits.
fn cases() -> Vec<Case> {
    let mut all = smooth();
    all.extend([
        random(31, 5, 512, 3.0),
        random(32, 4, 513, 0.1),
        random(33, 4, 514, 3.0),
        random(34, 3, 1600, 8.0),
        random(35, 7, 3, 40.0),
    ]);
    let mut shifted = random(36, 4, 700, 2.0);
    shifted.q.mapv_inplace(|x| f64::from((x + 900.0) as f32));
    shifted.p.mapv_inplace(|x| f64::from((x - 3000.0) as f32));
    all.push(Case { name: "shifted", ..shifted });
    let mut barred = random(37, 6, 1100, 3.0);
    for t in 0..6 {
        barred.q.slice_mut(s![t, t * 30..t * 200]).fill(-INF);
        barred.p.slice_mut(s![t, t * 30..t * 200]).fill(-INF);
        barred.targets[t] = 1050;
    }
    all.push(Case { name: "many barred", ..barred });
    for case in &mut all {
        // None that the padding or a case's bars take away.
        let v = case.q.ncols() as i64 - 1;
        case.targets.iter_mut().enumerate().for_each(|(t, id)| {
            if *id >= v || case.q[[t, *id as usize]] == -INF {
                *id = 1.min(v - 1);
            }
        });
    }
    all
}

#[test]
fn loops_equal_the_operations_they_replace() {
    for case in cases() {
        for (sum, heat) in SUMS.iter().flat_map(|sum| [(sum, 1.0), (sum, 1.7)]) {
            let what = format!("{}, {}, temperature {heat}", case.name, sum.name);
            let (values, slope) = made(&case, sum, Kind::Float, false, heat);
            let (exact, exact_slope) = made(&case, sum, Kind::Double, true, heat);
            let by = off(&values, &exact, 1e-6, 1e-6);
            assert!(by <= 1.0, "{what}: values are {by} tolerances off");
            let (theirs, their_slope) = made(&case, sum, Kind::Float, true, heat);
            assert!(off(&values, &theirs, 1e-5, 1e-5) <= 1.0, "{what}: values are not the operations'");
            // Terms that cancel leave float32's rounding, of logits half a unit of which moves q: the operations
            // have it too.
            let norm = |x: &Array2<f64>| x.iter().map(|v| v * v).sum::<f64>().sqrt();
            let (ours, theirs) = (norm(&(&slope - &exact_slope)), norm(&(&their_slope - &exact_slope)));
            let logits =
                case.q.iter().chain(&case.p).filter(|z| z.is_finite()).fold(0.0, |a: f64, z| a.max(z.abs()));
            let most = 1e-6 * norm(&exact_slope) + 6e-8 * (1.0 + logits) + 2.0 * theirs;
            assert!(ours <= most, "{what}: the derivative is {ours} off, the operations' {theirs}");
        }
    }
}

/// Where a KL is infinite, and where a number is none, the loops say what the operations say.
#[test]
fn loops_say_infinity_and_nan_where_the_operations_do() {
    let mut bad = random(41, 3, 600, 2.0);
    bad.q[[0, 555]] = f64::NAN;
    bad.p[[1, 3]] = f64::NAN;
    for case in [barred_apart(true), barred_apart(false), Case { name: "NaN", ..bad }] {
        for sum in &SUMS {
            let (values, slope) = made(&case, sum, Kind::Float, false, 1.0);
            let (theirs, their_slope) = made(&case, sum, Kind::Float, true, 1.0);
            for (at, (a, b)) in values.iter().zip(&theirs).enumerate() {
                let same = a.is_nan() && b.is_nan() || off(&[*a], &[*b], 1e-5, 1e-5) <= 1.0;
                assert!(same, "{}, {}, value {at}: {a} and {b}", case.name, sum.name);
            }
            for (a, b) in slope.rows().into_iter().zip(their_slope.rows()) {
                let nan = |x: &f64| x.is_nan();
                assert_eq!(a.iter().any(nan), b.iter().any(nan), "{}, {}", case.name, sum.name);
            }
        }
    }
}

/// The bars on some tokens and the number that multiplies each token's gradient.
#[test]
fn loops_bar_and_scale_as_the_operations_do() {
    let case = random(51, 7, 40, 2.0);
    let at = [true, false, true, true, false, false, true];
    let scale = Tensor::from_slice(&[2.0, -1.0, 0.0, 0.5, 1.0, 3.0, 1.0]);
    let run = |kind: Kind, by_operations: bool, sum: &Sum| -> Fused {
        let (q, p) = (tensor(&case.q, kind), tensor(&case.p, kind));
        let input = Input {
            student: Side::Logits(&q),
            teacher: Some(Side::Logits(&p)),
            targets_n: &Tensor::from_slice(&case.targets),
            vocabulary: 40,
            barred: Some(Barred { ids: &[0, 39], at_n: &Tensor::from_slice(&at) }),
            teacher_temperature: 1.0,
        };
        let made = fused_scaled(&input, &sum.terms(7, by_operations), Want::Hidden, Some(&scale)).unwrap();
        // Given logits are the caller's: nobody writes there.
        assert_eq!(array(&q), case.q);
        assert_eq!(array(&p), case.p);
        made
    };
    for sum in &SUMS {
        let (loops, exact) = (run(Kind::Float, false, sum), run(Kind::Double, true, sum));
        let loss = |of: &Fused| of.loss.double_value(&[]);
        assert!(off(&[loss(&loops)], &[loss(&exact)], 1e-5, 1e-6) <= 1.0, "{}", sum.name);
        let (slope, expected) = (array(&loops.grad.unwrap()), array(&exact.grad.unwrap()));
        assert!(off_by_norm(&slope, &expected, 2e-6) <= 1.0, "{}", sum.name);
        assert!(
            slope.row(2).iter().all(|x| *x == 0.0) && slope[[0, 39]] == 0.0 || sum.name == "ce",
            "{}",
            sum.name
        );
    }
}

/// Rows are computed each by itself: neither chunks nor threads change a bit.
#[test]
fn loops_give_the_same_bits_in_any_chunks_and_threads() {
    let case = random(61, 23, 3000, 3.0);
    let (q, p) = (tensor(&case.q, Kind::Float), tensor(&case.p, Kind::Float));
    let run = |tokens: i64| {
        let input = Input {
            student: Side::Logits(&q),
            teacher: Some(Side::Logits(&p)),
            targets_n: &Tensor::from_slice(&case.targets),
            vocabulary: 3000,
            barred: None,
            teacher_temperature: 1.0,
        };
        let made =
            fused_in(&input, &SUMS[5].terms(23, false), Want::Hidden, Chunks { tokens, block: 1 }).unwrap();
        (numbers(&made.values_kn), numbers(&made.grad.unwrap()))
    };
    let before = tch::get_num_threads();
    tch::set_num_threads(1);
    let whole = run(23);
    for (threads, tokens) in [(1, 1), (1, 5), (2, 23), (3, 4), (4, 23)] {
        tch::set_num_threads(threads);
        assert!(run(tokens) == whole, "{threads} threads, {tokens} tokens");
    }
    tch::set_num_threads(before);
}

#[test]
fn a_target_outside_the_vocabulary_is_an_error() {
    let case = random(71, 2, 6, 1.0);
    for wrong in [-1, 6, i64::MAX] {
        let case = Case { targets: vec![0, wrong], ..case.clone() };
        let said = case.score(&SUMS[0].terms(2, false), Kind::Float, 1.0).unwrap_err().to_string();
        assert!(said.contains("0 to 5") && said.contains(&wrong.to_string()), "{said}");
    }
}
