//! The best teacher of one student size: the vertex of a quadratic in log T, with a bootstrap interval.
//!
//! Residuals are drawn again and the quadratic is fitted anew. They are stretched by `sqrt(n / (n - 3))`, as three
//! coefficients have made them smaller, and by Student's t over the normal's, as few of them know their spread badly.
//! A draw whose quadratic has no least value inside the range counts at that end where it is lower: so it is an
//! answer too that there is no optimum inside.

use rand::Rng;

use super::least_squares::linear;
use crate::eval::bootstrap::interval;
use crate::eval::text_metrics::student;
use crate::seed::{Stream, generator};

/// Draws of an interval.
pub(super) const RESAMPLES: usize = 2000;
/// The 97.5th percentile of the normal law.
const NORMAL: f64 = 1.959_964;
/// Points that a quadratic needs before its interval means anything.
const POINTS: usize = 5;

/// What the losses of one student size under several teachers say.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The best teacher, with its 95 % interval, which lies inside the range; and the loss there.
    Inside {
        /// Its size.
        teacher: f64,
        /// The interval.
        interval: [f64; 2],
        /// The fitted loss there.
        loss: f64,
    },
    /// No optimum inside the range: the largest teacher is the best.
    Falling,
    /// No optimum inside the range: the smallest teacher is the best.
    Rising,
    /// The points do not tell; the vertex where there is one.
    Unclear(Option<f64>),
    /// Fewer than three teachers, or than five points.
    TooFew,
}

/// A quadratic in log T.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quadratic {
    middle: f64,
    scale: f64,
    of: [f64; 3],
}

impl Quadratic {
    /// The loss under a teacher of this size.
    pub fn at(&self, teacher: f64) -> f64 {
        let x = (teacher.ln() - self.middle) / self.scale;
        self.of[0] + x * (self.of[1] + x * self.of[2])
    }

    /// Where it is least, in log T, if it is least anywhere.
    fn vertex(&self) -> Option<f64> {
        let [_, b, a] = self.of;
        (a > 0.0).then(|| self.middle - self.scale * b / (2.0 * a)).filter(|x| x.is_finite())
    }
}

/// What was found, with every draw's vertex in log T; none of a draw that has none inside.
#[derive(Debug, Clone)]
pub(super) struct Fitted {
    pub verdict: Verdict,
    pub quadratic: Option<Quadratic>,
    pub draws: Vec<Option<f64>>,
}

/// Fits losses over teachers' sizes. `place` keeps the draws of several curves apart.
pub(super) fn fit(points: &[(f64, f64)], seed: u64, place: u64) -> Fitted {
    let nothing = |verdict| Fitted { verdict, quadratic: None, draws: Vec::new() };
    let x: Vec<f64> = points.iter().map(|(teacher, _)| teacher.ln()).collect();
    let mut sizes = x.clone();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    let (Some(low), Some(high), n) = (sizes.first().copied(), sizes.last().copied(), points.len()) else {
        return nothing(Verdict::TooFew);
    };
    if sizes.len() < 3 || n < POINTS {
        return nothing(Verdict::TooFew);
    }
    let (middle, scale) = (0.5 * (low + high), 0.5 * (high - low));
    let features: Vec<[f64; 3]> = x.iter().map(|x| (x - middle) / scale).map(|u| [1.0, u, u * u]).collect();
    let y: Vec<f64> = points.iter().map(|(_, loss)| *loss).collect();
    let quadratic = |y: &[f64]| linear(&features, y).map(|of| Quadratic { middle, scale, of });
    let Some(found) = quadratic(&y) else { return nothing(Verdict::TooFew) };
    let fitted: Vec<f64> = points.iter().map(|(teacher, _)| found.at(*teacher)).collect();
    let degrees = n - 3;
    let stretch = (n as f64 / degrees as f64).sqrt() * student(degrees) / NORMAL;
    let left: Vec<f64> = y.iter().zip(&fitted).map(|(y, f)| stretch * (y - f)).collect();
    // Beyond an end, so that percentiles keep their order.
    let outside = |q: &Quadratic| if q.at(low.exp()) < q.at(high.exp()) { low - 1.0 } else { high + 1.0 };
    let inside = |q: &Quadratic| q.vertex().filter(|x| low < *x && *x < high);
    let (mut places, mut draws) = (Vec::new(), Vec::new());
    for resample in 0..RESAMPLES as u64 {
        let mut random = generator(seed, Stream::Bootstrap, place, resample);
        let mut pick = || ((u128::from(random.next_u64()) * n as u128) >> 64) as usize;
        let drawn: Vec<f64> = fitted.iter().map(|f| f + left[pick()]).collect();
        let Some(q) = quadratic(&drawn) else { continue };
        places.push(inside(&q).unwrap_or_else(|| outside(&q)));
        draws.push(inside(&q));
    }
    let ends = interval(places);
    let verdict = match (inside(&found), ends) {
        (Some(at), [a, b]) if low < a && b < high => {
            Verdict::Inside { teacher: at.exp(), interval: [a.exp(), b.exp()], loss: found.at(at.exp()) }
        }
        (_, [a, _]) if a >= high => Verdict::Falling,
        (_, [_, b]) if b <= low => Verdict::Rising,
        (at, _) => Verdict::Unclear(at.map(f64::exp)),
    };
    Fitted { verdict, quadratic: Some(found), draws }
}
