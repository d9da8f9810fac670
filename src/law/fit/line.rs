//! `T* = a S + b` through the student sizes that have an optimum. Its intervals are over the draws of every vertex.

use super::least_squares::{explained, linear};
use super::vertex::RESAMPLES;
use crate::eval::bootstrap::interval;

/// The line of best teachers over student sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// How many student sizes it goes through.
    pub students: usize,
    /// Teachers' parameters a student's parameter.
    pub slope: f64,
    /// Its 95 % interval.
    pub slope_interval: [f64; 2],
    /// In parameters.
    pub intercept: f64,
    /// Its 95 % interval.
    pub intercept_interval: [f64; 2],
    /// How much of the best teachers' spread it explains; none through two sizes, which any line fits.
    pub r2: Option<f64>,
}

/// A student size: its best teacher, and that of every draw in log T.
pub(super) struct Best<'a> {
    pub student: f64,
    pub teacher: f64,
    pub draws: &'a [Option<f64>],
}

/// Fits it; none through fewer than two sizes.
pub(super) fn fit(best: &[Best<'_>]) -> Option<Line> {
    let through = |pairs: &[(f64, f64)]| -> Option<[f64; 2]> {
        let features: Vec<[f64; 2]> = pairs.iter().map(|(s, _)| [1.0, s / 1e6]).collect();
        let y: Vec<f64> = pairs.iter().map(|(_, t)| t / 1e6).collect();
        if pairs.windows(2).all(|w| w[0].0 == w[1].0) {
            return None;
        }
        linear(&features, &y)
    };
    let pairs: Vec<(f64, f64)> = best.iter().map(|b| (b.student, b.teacher)).collect();
    let [intercept, slope] = through(&pairs)?;
    let (mut slopes, mut intercepts) = (Vec::new(), Vec::new());
    for draw in 0..RESAMPLES {
        let at = |b: &Best<'_>| Some((b.student, b.draws.get(draw).copied()??.exp()));
        let drawn: Vec<(f64, f64)> = best.iter().filter_map(at).collect();
        if let Some([b, a]) = through(&drawn) {
            slopes.push(a);
            intercepts.push(1e6 * b);
        }
    }
    let teachers: Vec<f64> = pairs.iter().map(|(_, t)| *t).collect();
    let fitted: Vec<f64> = pairs.iter().map(|(s, _)| slope * s + 1e6 * intercept).collect();
    Some(Line {
        students: best.len(),
        slope,
        slope_interval: interval(slopes),
        intercept: 1e6 * intercept,
        intercept_interval: interval(intercepts),
        r2: (best.len() > 2).then(|| explained(&teachers, &fitted)).flatten(),
    })
}
