//! The laws fitted to what a grid measured: the best teacher of each student size, the line through those, and the
//! distillation-scaling law's form.

mod form;
mod least_squares;
mod line;
mod vertex;

use crate::error::Result;
use crate::law::points::{ALONE, Measured, Points};
pub use form::{Alone, Form, Forms};
pub use line::Line;
use vertex::Fitted;
pub use vertex::{Quadratic, Verdict};

/// The losses of one student size under several teachers.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// How its students began and learnt.
    pub arm: String,
    /// Their size.
    pub student: f64,
    /// Their tokens, where they are told.
    pub tokens: Option<f64>,
    /// Teachers' sizes and students' losses.
    pub points: Vec<(f64, f64)>,
    /// What they say.
    pub verdict: Verdict,
    /// The quadratic in log T.
    pub quadratic: Option<Quadratic>,
}

/// All that was fitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Fits {
    /// Each arm and student size.
    pub curves: Vec<Curve>,
    /// Each arm's line, where two sizes have an optimum.
    pub lines: Vec<(String, Line)>,
    /// The scaling law's form.
    pub forms: Forms,
}

/// Fits all of it.
pub fn fit(points: &Points, seed: u64) -> Result<Fits> {
    let (mut curves, mut all): (Vec<Curve>, Vec<Fitted>) = (Vec::new(), Vec::new());
    for (arm, student, tokens) in groups(&points.rows) {
        let of = |row: &&Measured| row.arm == arm && row.student == student && row.tokens == tokens;
        let pairs: Vec<(f64, f64)> =
            points.rows.iter().filter(of).filter_map(|row| Some((row.teacher?, row.loss))).collect();
        let fitted = vertex::fit(&pairs, seed, curves.len() as u64);
        curves.push(Curve {
            arm,
            student,
            tokens,
            points: pairs,
            verdict: fitted.verdict.clone(),
            quadratic: fitted.quadratic,
        });
        all.push(fitted);
    }
    let mut lines = Vec::new();
    let mut arms: Vec<&str> = curves.iter().map(|curve| curve.arm.as_str()).collect();
    arms.dedup();
    for arm in arms {
        let best: Vec<line::Best<'_>> = curves
            .iter()
            .zip(&all)
            .filter(|(curve, _)| curve.arm == arm)
            .filter_map(|(curve, fitted)| match curve.verdict {
                Verdict::Inside { teacher, .. } => {
                    Some(line::Best { student: curve.student, teacher, draws: &fitted.draws })
                }
                _ => None,
            })
            .collect();
        lines.extend(line::fit(&best).map(|line| (arm.to_string(), line)));
    }
    Ok(Fits { curves, lines, forms: form::fit(&points.rows, seed)? })
}

/// The arms, sizes and tokens that there are, in their order.
fn groups(rows: &[Measured]) -> Vec<(String, f64, Option<f64>)> {
    let mut all: Vec<(String, f64, Option<f64>)> = Vec::new();
    for row in rows.iter().filter(|row| row.arm != ALONE) {
        let key = (row.arm.clone(), row.student, row.tokens);
        if !all.contains(&key) {
            all.push(key);
        }
    }
    all.sort_by(|a, b| {
        let numbers = |k: &(String, f64, Option<f64>)| (k.1, k.2.unwrap_or(0.0));
        a.0.cmp(&b.0).then(numbers(a).partial_cmp(&numbers(b)).unwrap_or(std::cmp::Ordering::Equal))
    });
    all
}

#[cfg(test)]
mod tests;
