//! Which losses the loops take, and that both compilations of them are one.

use tch::{Device, Kind, Tensor};

use super::super::akl;
use super::super::divergence::Divergence;
use super::super::draws::Draws;
use super::super::input::{Head, Input, Side};
use super::super::term::{Loss, Term};
use super::Fast;

const ROWS: i64 = 2;
const WORDS: i64 = 1300;

fn logits(step: f64, kind: Kind) -> Tensor {
    let x = Tensor::arange(ROWS * WORDS, (Kind::Double, Device::Cpu)) * step;
    (x.sin() * 5.0).view([ROWS, WORDS]).to_kind(kind)
}

fn divergence(which: Divergence) -> Term {
    Term::new("d", Loss::Divergence(which), 0.7)
}

fn known() -> Vec<Term> {
    vec![
        Term::new("ce", Loss::CrossEntropy, 0.5),
        Term::new("teacher", Loss::TeacherCrossEntropy, 0.1),
        divergence(Divergence::ForwardKl),
        divergence(Divergence::ReverseKl),
    ]
}

/// Calls with the loops for these terms, where they take them.
fn with<T>(student: Side, teacher: Option<Side>, terms: &[Term], then: impl FnOnce(Option<Fast>) -> T) -> T {
    let targets_n = Tensor::from_slice(&[3i64, 1299]);
    let input = Input {
        student,
        teacher,
        targets_n: &targets_n,
        vocabulary: WORDS,
        barred: None,
        teacher_temperature: 1.3,
    };
    then(Fast::of(&input, terms, None, true, true).unwrap())
}

#[test]
fn the_common_terms_are_taken_and_no_others() {
    let (q, p, wide) = (logits(0.37, Kind::Float), logits(0.51, Kind::Float), logits(0.37, Kind::Double));
    let takes =
        |student: Side, teacher: Option<Side>, terms: &[Term]| with(student, teacher, terms, |f| f.is_some());
    let (q, p) = (Side::Logits(&q), Side::Logits(&p));
    assert!(takes(q, Some(p), &known()));
    assert!(takes(q, None, &known()[..1]));
    assert!(!takes(q, Some(p), &[]));
    assert!(!takes(Side::Logits(&wide), Some(p), &known()));
    assert!(!takes(q, Some(Side::Logits(&wide)), &known()));
    for other in [
        Divergence::Tvd,
        Divergence::Akl { head: akl::Head::Paper },
        Divergence::Jsd { beta: 0.5, normalised: true },
    ] {
        let mut terms = known();
        terms.push(divergence(other));
        assert!(!takes(q, Some(p), &terms), "{other:?}");
    }
    let (ids, logs) = (
        Tensor::zeros([ROWS, 1], (Kind::Int64, Device::Cpu)),
        Tensor::zeros([ROWS], (Kind::Float, Device::Cpu)),
    );
    assert!(!takes(q, Some(Side::Draws(Draws { ids_nk: &ids, log_n: &logs })), &known()[..1]));
    let (hidden, weight) = (
        logits(0.1, Kind::BFloat16).narrow(1, 0, 4),
        Tensor::zeros([WORDS, 4], (Kind::BFloat16, Device::Cpu)),
    );
    let of = |softcap| Side::Hidden {
        hidden_nd: &hidden,
        head: Head { weight_vd: &weight, bias_v: None, softcap },
    };
    assert!(takes(of(None), Some(p), &known()), "bfloat16 states have logits of float32");
    assert!(!takes(of(Some(30.0)), Some(p), &known()));
}

/// The loops as every machine has them and as wider ones have them give the same bits.
#[test]
fn wider_machines_compute_the_same_bits() {
    let (q, p) = (logits(0.37, Kind::Float), logits(0.51, Kind::Float));
    let row = |x: &Tensor| Vec::<f32>::try_from(x.get(1)).unwrap();
    with(Side::Logits(&q), Some(Side::Logits(&p)), &known(), |fast| {
        let (tokens, t) = (fast.unwrap().tokens, row(&p));
        let run = |anywhere: bool| {
            let (mut z, mut made) = (row(&q), vec![0f32; 4]);
            match anywhere {
                true => tokens.row_anywhere(1, &mut z, Some(&t), &mut made),
                false => tokens.row(1, &mut z, Some(&t), &mut made),
            }
            (z, made)
        };
        assert!(run(true) == run(false));
    });
}
