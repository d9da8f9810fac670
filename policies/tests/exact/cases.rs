//! Teachers and students to compare: random ones, and nasty ones.

use ndarray::Array2;
use tch::{Kind, Tensor};

use crate::support::{Numbers, tensor};
use retort_policies::Result;
use retort_policies::objective::head::{Fused, Want, fused};
use retort_policies::objective::input::{Input, Side};
use retort_policies::objective::term::Term;

pub const INF: f64 = f64::INFINITY;

/// Both models' logits at some tokens, and the ids that stand there.
#[derive(Clone)]
pub struct Case {
    pub name: &'static str,
    pub q: Array2<f64>,
    pub p: Array2<f64>,
    pub targets: Vec<i64>,
}

impl Case {
    fn new(name: &'static str, q: Array2<f64>, p: Array2<f64>) -> Self {
        let v = q.ncols();
        let targets = (0..q.nrows()).map(|t| ((t * 7 + 1) % v) as i64).collect();
        Case { name, q, p, targets }
    }

    /// The loss of these terms on the case's logits.
    pub fn score(&self, terms: &[Term], kind: Kind, heat: f64) -> Result<Fused> {
        let (q, p) = (tensor(&self.q, kind), tensor(&self.p, kind));
        let targets = Tensor::from_slice(&self.targets);
        let input = Input {
            student: Side::Logits(&q),
            teacher: Some(Side::Logits(&p)),
            targets_n: &targets,
            vocabulary: self.q.ncols() as i64,
            barred: None,
            teacher_temperature: heat,
        };
        fused(&input, terms, Want::Hidden)
    }
}

pub fn random(seed: u64, tokens: usize, v: usize, scale: f64) -> Case {
    let mut n = Numbers::new(seed);
    let (q, p) = (n.matrix(tokens, v, scale), n.matrix(tokens, v, scale));
    Case::new("random", q, p)
}

/// A teacher that is all but certain.
fn one_hot(hot: f64) -> Case {
    let mut case = random(11, 3, 6, 2.0);
    case.p.fill(0.0);
    (0..3).for_each(|t| case.p[[t, 2 * t]] = hot);
    Case { name: "one-hot teacher", ..case }
}

/// The same words barred in both models, as before `min_new_tokens`.
pub fn barred_alike() -> Case {
    let mut case = random(12, 4, 7, 2.0);
    for t in 0..4 {
        case.q[[t, 6 - t]] = -INF;
        case.p[[t, 6 - t]] = -INF;
    }
    Case { name: "-inf in both", ..case }
}

/// Words that one model alone has barred.
pub fn barred_apart(teacher: bool) -> Case {
    let mut case = random(13, 4, 7, 2.0);
    for t in 0..3 {
        let side = if teacher { &mut case.p } else { &mut case.q };
        side[[t, 6 - t]] = -INF;
    }
    Case { name: if teacher { "-inf in the teacher" } else { "-inf in the student" }, ..case }
}

pub fn equal() -> Case {
    let mut case = random(14, 3, 9, 2.0);
    case.p = case.q.clone();
    Case { name: "equal models", ..case }
}

/// Far enough apart for probabilities that float32 holds as 0.
fn far() -> Case {
    let mut case = random(15, 4, 8, 1.0);
    for t in 0..4 {
        case.q[[t, t]] += 150.0;
        case.p[[t, t + 1]] += 150.0;
    }
    Case { name: "far apart", ..case }
}

/// All at which values and derivatives are finite and smooth.
pub fn smooth() -> Vec<Case> {
    let named = |name, case: Case| Case { name, ..case };
    vec![
        random(1, 5, 7, 2.0),
        named("long vocabulary", random(2, 3, 400, 3.0)),
        named("vocabulary of 2", random(3, 4, 2, 2.0)),
        named("length 1", random(4, 1, 5, 1.0)),
        named("nearly equal", {
            let mut case = random(5, 3, 50, 2.0);
            let shift = Numbers::new(6).matrix(3, 50, 1e-2);
            case.p = (&case.q + &shift).mapv(|x| f64::from(x as f32));
            case
        }),
        one_hot(60.0),
        one_hot(1e4),
        barred_alike(),
        far(),
    ]
}
