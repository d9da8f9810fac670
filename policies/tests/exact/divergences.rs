//! Each divergence against its reference: values in float64 to 1e-10, in float32 to 1e-5 + 1e-5 |value|;
//! derivatives against finite differences of float64 to 1e-6 of their norm, in float32 to 1e-4.

use ndarray::Array2;
use retort_policies::objective::akl::Head;
use retort_policies::objective::divergence::Divergence;
use retort_policies::objective::term::{Loss, Term};
use tch::Kind;

use crate::cases::{Case, INF, barred_alike, barred_apart, equal, random, smooth};
use crate::reference::{Wrong, derivative, derivative_at, divergence, log_softmax};
use crate::support::{array, holds_and_notices, numbers, off, off_by_norm};

pub const ALL: [Divergence; 14] = [
    Divergence::ForwardKl,
    Divergence::ReverseKl,
    Divergence::Jsd { beta: 0.5, normalised: false },
    Divergence::Jsd { beta: 0.1, normalised: false },
    Divergence::Jsd { beta: 0.5, normalised: true },
    Divergence::Jsd { beta: 0.9, normalised: true },
    Divergence::Jsd { beta: 0.002, normalised: true },
    Divergence::Jsd { beta: 0.998, normalised: true },
    Divergence::Jsd { beta: 5e-4, normalised: false },
    Divergence::SkewForwardKl { skew: 0.1 },
    Divergence::SkewReverseKl { skew: 0.1 },
    Divergence::Tvd,
    Divergence::Akl { head: Head::Paper },
    Divergence::Akl { head: Head::Code },
];

fn term(which: Divergence) -> Term {
    Term::new("d", Loss::Divergence(which), 1.0)
}

fn values(case: &Case, which: Divergence, wrong: Option<Wrong>) -> Vec<f64> {
    let one = |t: usize| divergence(which, case.q.row(t), case.p.row(t), case.q.row(t), wrong);
    (0..case.q.nrows()).map(one).collect()
}

fn slopes(case: &Case, which: Divergence, wrong: Option<Wrong>) -> Array2<f64> {
    // TVD has kinks: its points lie close together.
    let step = if which == Divergence::Tvd { 1e-5 } else { 1e-3 };
    derivative_at(&case.q, step, |t, z| divergence(which, z, case.p.row(t), case.q.row(t), wrong))
}

#[test]
fn values_equal_the_reference() {
    for (case, which) in smooth().iter().flat_map(|c| ALL.map(|d| (c, d))) {
        let expected = values(case, which, None);
        for (kind, absolute, relative) in [(Kind::Double, 1e-10, 1e-10), (Kind::Float, 1e-5, 1e-5)] {
            let made = case.score(&[term(which)], kind, 1.0).unwrap();
            let by = off(&numbers(&made.values_kn), &expected, absolute, relative);
            assert!(by <= 1.0, "{}, {which:?}, {kind:?}: {by} tolerances", case.name);
        }
    }
}

#[test]
fn slopes_equal_finite_differences() {
    for (case, which) in smooth().iter().flat_map(|c| ALL.map(|d| (c, d))) {
        let expected = slopes(case, which, None);
        for (kind, relative) in [(Kind::Double, 1e-6), (Kind::Float, 1e-4)] {
            let made = array(&case.score(&[term(which)], kind, 1.0).unwrap().grad.unwrap());
            // What finite differences of values of this size can resolve.
            let floor = 1e-12 * (1.0 + values(case, which, None).iter().fold(0.0f64, |a, b| a.max(b.abs())));
            let by = off_by_norm(&made, &expected, relative);
            let close = made.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= floor);
            assert!(by <= 1.0 || close, "{}, {which:?}, {kind:?}: {by} tolerances", case.name);
        }
    }
}

/// The tests of the two tests above: what they would notice.
#[test]
fn mutated_values_are_noticed() {
    let case = random(1, 5, 7, 2.0);
    for which in ALL {
        let mut wrongs = vec![Wrong::Negated];
        match which {
            Divergence::ForwardKl => wrongs.extend([Wrong::Swapped, Wrong::SoftCrossEntropy]),
            Divergence::ReverseKl => wrongs.push(Wrong::Swapped),
            Divergence::Jsd { beta: 0.5, .. } => wrongs.push(Wrong::OtherScale),
            Divergence::Jsd { .. } => wrongs.extend([Wrong::Swapped, Wrong::OtherScale]),
            Divergence::SkewForwardKl { .. } | Divergence::SkewReverseKl { .. } => {
                wrongs.extend([Wrong::Swapped, Wrong::OtherMixture]);
            }
            Divergence::Akl { .. } => wrongs.extend([Wrong::Swapped, Wrong::OtherHead]),
            Divergence::Tvd => {}
        }
        // Plain JSD at its very end is so small that float32's tolerance hides who is who.
        let small = matches!(which, Divergence::Jsd { beta, normalised: false } if beta < 1e-3);
        let kinds = [(Kind::Double, 1e-10), (Kind::Float, 1e-5)];
        for (kind, tolerance) in kinds.into_iter().take(if small { 1 } else { 2 }) {
            let made = numbers(&case.score(&[term(which)], kind, 1.0).unwrap().values_kn);
            holds_and_notices(&format!("{which:?}"), &wrongs, |wrong| {
                off(&made, &values(&case, which, wrong), tolerance, tolerance)
            });
        }
    }
}

#[test]
fn mutated_slopes_are_noticed() {
    let case = random(1, 5, 7, 2.0);
    for which in ALL {
        let mut wrongs = vec![Wrong::Negated];
        match which {
            Divergence::Akl { .. } => wrongs.push(Wrong::WeightsNotDetached),
            // Not the detached mixture: the derivatives through it cancel, it is the same.
            Divergence::Jsd { beta: 0.5, .. } => wrongs.push(Wrong::OtherScale),
            Divergence::Jsd { .. } => wrongs.extend([Wrong::OtherScale, Wrong::Swapped]),
            Divergence::SkewForwardKl { .. } | Divergence::SkewReverseKl { .. } => {
                wrongs.extend([Wrong::MixtureDetached, Wrong::OtherMixture]);
            }
            Divergence::ForwardKl | Divergence::ReverseKl => wrongs.push(Wrong::Swapped),
            _ => {}
        }
        let made = array(&case.score(&[term(which)], Kind::Double, 1.0).unwrap().grad.unwrap());
        holds_and_notices(&format!("{which:?}"), &wrongs, |wrong| {
            off_by_norm(&made, &slopes(&case, which, wrong), 1e-6)
        });
    }
}

/// The teacher's temperature divides the teacher's logits, and no T^2 comes in.
#[test]
fn the_temperature_is_the_teachers_alone() {
    let (case, heat) = (random(21, 4, 6, 2.0), 2.0);
    let made = numbers(&case.score(&[term(Divergence::ForwardKl)], Kind::Double, heat).unwrap().values_kn);
    let expected = |wrong: Option<Wrong>| -> Vec<f64> {
        let q = if wrong == Some(Wrong::StudentHeated) { &case.q / heat } else { case.q.clone() };
        let factor = if wrong == Some(Wrong::SquaredTemperature) { heat * heat } else { 1.0 };
        let p = &case.p / heat;
        let one = |t: usize| factor * divergence(Divergence::ForwardKl, q.row(t), p.row(t), q.row(t), None);
        (0..4).map(one).collect()
    };
    holds_and_notices("temperature", &[Wrong::StudentHeated, Wrong::SquaredTemperature], |wrong| {
        off(&made, &expected(wrong), 1e-10, 1e-10)
    });
}

/// Under a heated teacher each derivative is that towards the cooler teacher's opinion, and nothing is multiplied.
#[test]
fn slopes_under_a_heated_teacher_equal_finite_differences() {
    let (case, heat) = (random(22, 4, 6, 2.0), 2.0);
    let cooled = Case { p: &case.p / heat, ..case.clone() };
    for which in ALL {
        for (kind, relative) in [(Kind::Double, 1e-6), (Kind::Float, 1e-4)] {
            let made = array(&case.score(&[term(which)], kind, heat).unwrap().grad.unwrap());
            let by = off_by_norm(&made, &slopes(&cooled, which, None), relative);
            assert!(by <= 1.0, "{which:?}, {kind:?}: {by} tolerances");
            for wrong in [slopes(&case, which, None), slopes(&cooled, which, None) * (heat * heat)] {
                assert!(off_by_norm(&made, &wrong, relative) > 100.0, "{which:?}, {kind:?}");
            }
        }
    }
}

#[test]
fn cross_entropies_equal_the_reference() {
    for case in smooth() {
        let terms =
            [Term::new("ce", Loss::CrossEntropy, 0.3), Term::new("teacher", Loss::TeacherCrossEntropy, 0.7)];
        // Targets that no case bars.
        let case = Case { targets: (0..case.q.nrows()).map(|t| (t % 2) as i64).collect(), ..case };
        let gold = |t: usize, z: ndarray::ArrayView1<f64>| -log_softmax(z)[case.targets[t] as usize];
        let soft = |t: usize, z: ndarray::ArrayView1<f64>| {
            let (lq, lp) = (log_softmax(z), log_softmax(case.p.row(t)));
            -lq.iter().zip(&lp).filter(|(_, p)| p.is_finite()).map(|(q, p)| p.exp() * q).sum::<f64>()
        };
        let rows = 0..case.q.nrows();
        let expected: Vec<f64> = rows
            .clone()
            .map(|t| gold(t, case.q.row(t)))
            .chain(rows.map(|t| soft(t, case.q.row(t))))
            .collect();
        let slope = derivative(&case.q, |t, z| 0.3 * gold(t, z) + 0.7 * soft(t, z));
        for (kind, value, relative) in [(Kind::Double, 1e-10, 1e-6), (Kind::Float, 1e-5, 1e-4)] {
            let made = case.score(&terms, kind, 1.0).unwrap();
            assert!(
                off(&numbers(&made.values_kn), &expected, value, value) <= 1.0,
                "{}, {kind:?}",
                case.name
            );
            let grad = array(&made.grad.unwrap());
            let close = grad.iter().zip(&slope).all(|(a, b)| (a - b).abs() < 1e-6);
            assert!(off_by_norm(&grad, &slope, relative) <= 1.0 || close, "{}, {kind:?}", case.name);
            if case.name == "random" && kind == Kind::Double {
                let no_target = derivative(&case.q, |t, z| 0.7 * soft(t, z));
                assert!(off_by_norm(&grad, &no_target, relative) > 100.0);
                assert!(off_by_norm(&grad, &(-&slope), relative) > 100.0);
            }
        }
    }
}

/// Where a KL is infinite it says so, and no derivative is NaN.
#[test]
fn infinite_divergences_are_infinite_and_have_no_nan() {
    for kind in [Kind::Double, Kind::Float] {
        for (teacher, barred) in [(true, barred_apart(true)), (false, barred_apart(false))] {
            for which in ALL {
                let made = barred.score(&[term(which)], kind, 1.0).unwrap();
                let expected = values(&barred, which, None);
                let by = off(&numbers(&made.values_kn), &expected, 1e-5, 1e-5);
                assert!(by <= 1.0, "{which:?}, {}: {by}", barred.name);
                assert!(array(&made.grad.unwrap()).iter().all(|g| !g.is_nan()), "{which:?}, {}", barred.name);
                let infinite = if teacher { Divergence::ReverseKl } else { Divergence::ForwardKl };
                if which == infinite {
                    assert_eq!(expected[..3], [INF; 3]);
                    assert!(expected[3].is_finite());
                }
            }
        }
    }
}

#[test]
fn barred_words_get_no_gradient() {
    let case = barred_alike();
    for which in ALL {
        let grad = array(&case.score(&[term(which)], Kind::Float, 1.0).unwrap().grad.unwrap());
        (0..4).for_each(|t| assert_eq!(grad[[t, 6 - t]], 0.0, "{which:?}"));
    }
}

#[test]
fn equal_models_have_no_divergence() {
    let case = equal();
    for (which, kind) in ALL.into_iter().flat_map(|d| [(d, Kind::Double), (d, Kind::Float)]) {
        let made = case.score(&[term(which)], kind, 1.0).unwrap();
        let tolerance = if kind == Kind::Double { 1e-13 } else { 1e-6 };
        let largest = |values: Vec<f64>| values.into_iter().fold(0.0f64, |a, b| a.max(b.abs()));
        assert!(largest(numbers(&made.values_kn)) <= tolerance, "{which:?}, {kind:?}");
        assert!(largest(numbers(&made.grad.unwrap())) <= tolerance, "{which:?}, {kind:?}");
    }
}

#[test]
fn no_tokens_at_all_make_a_loss_of_zero() {
    let case = random(31, 0, 5, 1.0);
    for which in ALL {
        let made = case.score(&[term(which)], Kind::Float, 1.0).unwrap();
        assert_eq!(made.loss.double_value(&[]), 0.0);
        assert_eq!(numbers(&made.sums_k), [0.0]);
        assert_eq!(made.grad.unwrap().size(), [0, 5]);
    }
}

#[test]
fn divergences_keep_their_bounds() {
    for (seed, kind) in (0..40).flat_map(|seed| [(seed, Kind::Double), (seed, Kind::Float)]) {
        let case = random(100 + seed, 6, 2 + seed as usize, 0.1 * (seed as f64 + 1.0));
        let of = |case: &Case, which| numbers(&case.score(&[term(which)], kind, 1.0).unwrap().values_kn);
        let swapped = Case { q: case.p.clone(), p: case.q.clone(), ..case.clone() };
        let (under, over) = if kind == Kind::Double { (1e-13, 1e-12) } else { (1e-6, 1e-6) };
        for which in ALL {
            assert!(of(&case, which).iter().all(|x| *x >= -under), "{which:?} under 0, {kind:?}");
        }
        let jsd = Divergence::Jsd { beta: 0.5, normalised: false };
        assert!(of(&case, jsd).iter().all(|x| *x <= 2f64.ln() + over), "{kind:?}");
        assert!(of(&case, Divergence::Tvd).iter().all(|x| *x <= 1.0 + over), "{kind:?}");
        for (one, other) in [
            (Divergence::ReverseKl, Divergence::ForwardKl),
            (Divergence::SkewReverseKl { skew: 0.1 }, Divergence::SkewForwardKl { skew: 0.1 }),
            (
                Divergence::Jsd { beta: 0.3, normalised: true },
                Divergence::Jsd { beta: 0.7, normalised: true },
            ),
        ] {
            let by = off(&of(&case, one), &of(&swapped, other), over, over);
            assert!(by <= 1.0, "{one:?} is not its swapped twin, {kind:?}: {by}");
        }
    }
}

/// trl#6780: the plain JSD fades at its ends, so that beta works as a learning rate. The normalised one
/// goes over into both KLs without a jump.
#[test]
fn normalised_jsd_is_continuous_with_both_kls() {
    let case = random(41, 5, 8, 1.0);
    let of = |which| numbers(&case.score(&[term(which)], Kind::Double, 1.0).unwrap().values_kn);
    let jsd = |beta, normalised| of(Divergence::Jsd { beta, normalised });
    assert!(off(&jsd(0.0, true), &of(Divergence::ForwardKl), 1e-12, 0.0) <= 1.0);
    assert!(off(&jsd(1.0, true), &of(Divergence::ReverseKl), 1e-12, 0.0) <= 1.0);
    // Across the point where the KL takes over: off by the order of beta, and no more.
    assert!(off(&jsd(0.001_000_1, true), &jsd(0.001, true), 0.0, 1e-2) <= 1.0);
    assert!(off(&jsd(0.998_999_9, true), &jsd(0.999, true), 0.0, 1e-2) <= 1.0);
    assert!(off(&jsd(0.001_000_1, false), &jsd(0.001, false), 0.0, 1e-2) <= 1.0);
    let four: Vec<f64> = jsd(0.5, false).iter().map(|x| 4.0 * x).collect();
    assert!(off(&jsd(0.5, true), &four, 1e-12, 1e-12) <= 1.0);
    assert_eq!(jsd(0.0, false), [0.0; 5]);
    assert_eq!(jsd(1.0, false), [0.0; 5]);
}

#[test]
fn parameters_out_of_range_are_refused() {
    for which in [
        Divergence::Jsd { beta: 1.5, normalised: false },
        Divergence::Jsd { beta: f64::NAN, normalised: false },
        Divergence::SkewForwardKl { skew: 1.0 },
        Divergence::SkewReverseKl { skew: -0.1 },
    ] {
        assert!(which.checked().is_err(), "{which:?}");
    }
}

/// Equal teacher probabilities whose sum reaches exactly a half: which words are AKL's head must not hang on
/// the last bit of a softmax. By hand: of n = 2, 4, 8 equal words the head is the first half, both ways.
#[test]
fn akl_cuts_exact_halves_by_index() {
    for (n, head) in [2usize, 4, 6, 8, 10, 12].into_iter().flat_map(|n| [(n, Head::Paper), (n, Head::Code)]) {
        let mut case = random(60 + n as u64, 2, n, 1.0);
        case.p.fill(0.3);
        let (lp, q) = (-(n as f64).ln(), case.q.row(0).to_owned());
        let lq = log_softmax(q.view());
        let gap = |range: std::ops::Range<usize>| range.map(|v| (lp.exp() - lq[v].exp()).abs()).sum::<f64>();
        let (of_head, of_tail) = (gap(0..n / 2), gap(n / 2..n));
        let forward: f64 = lq.iter().map(|q| lp.exp() * (lp - q)).sum();
        let reverse: f64 = lq.iter().map(|q| q.exp() * (q - lp)).sum();
        let expected = (of_head * forward + of_tail * reverse) / (of_head + of_tail);
        for kind in [Kind::Double, Kind::Float] {
            let made = case.score(&[term(Divergence::Akl { head })], kind, 1.0).unwrap();
            let made = numbers(&made.values_kn)[0];
            assert!(off(&[made], &[expected], 1e-5, 1e-5) <= 1.0, "{n} words, {head:?}, {kind:?}");
        }
    }
}
