//! How far weights are from where they began, over the updates: the law `||w_t - w_0|| = a + b log t` of Hoffer, Hubara
//! and Soudry (2017), for weights that wander in a random potential at a constant rate, and a power law beside it.
//!
//! Both have two parameters, are fitted by least squares to the distances themselves, and have their R² on these, so
//! that the two can be compared.

use serde::{Deserialize, Serialize};

/// Updates before this one are not fitted: no law holds from the first update on.
pub const FIRST: u64 = 10;

/// Measured updates a decade.
const DECADE: f64 = 16.0;

/// The least number of distances that a law is fitted to.
const FEWEST: usize = 4;

/// Whether the distance after this update is measured: the first ten, and then such as are spaced evenly on a
/// logarithmic axis.
///
/// ```
/// use retort::optim::diffusion::due;
/// let first: Vec<u64> = (0..25).filter(|n| due(*n)).collect();
/// assert_eq!(first, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 15, 18, 21, 24]);
/// assert_eq!((1000..10_000).filter(|n| due(*n)).count(), 16);
/// ```
pub fn due(step: u64) -> bool {
    if step <= FIRST {
        return step > 0;
    }
    let place = (step as f64).log10() * DECADE;
    let near = [place.floor(), place.ceil()];
    near.into_iter().any(|n| 10f64.powf(n / DECADE).round() as u64 == step)
}

/// Both laws, fitted to the same distances.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// a of `a + b ln t`.
    pub offset: f64,
    /// b of it.
    pub slope: f64,
    /// The share of the distances' variance that it explains.
    pub r2: f64,
    /// c of `c t^p`.
    pub factor: f64,
    /// p of it.
    pub power: f64,
    /// The share of the variance that the power law explains.
    pub power_r2: f64,
    /// Distances that were fitted.
    pub points: usize,
}

impl Fit {
    /// Fits both to `(t, distance)` with `t` from [`FIRST`] and `from` on up to `to`. None of fewer than four.
    pub fn of(points: &[(u64, f64)], from: u64, to: u64) -> Option<Self> {
        let inside = |(t, y): &&(u64, f64)| (FIRST.max(from)..=to).contains(t) && y.is_finite();
        let all: Vec<(f64, f64)> = points.iter().filter(inside).map(|&(t, y)| (t as f64, y)).collect();
        let n = all.len() as f64;
        if all.len() < FEWEST {
            return None;
        }
        let mean = |of: &dyn Fn(f64, f64) -> f64| all.iter().map(|&(t, y)| of(t, y)).sum::<f64>() / n;
        let (x0, y0) = (mean(&|t, _| t.ln()), mean(&|_, y| y));
        let spread = mean(&|t, _| (t.ln() - x0).powi(2));
        let total = mean(&|_, y| (y - y0).powi(2));
        if spread <= 0.0 || total <= 0.0 {
            return None;
        }
        let slope = mean(&|t, y| (t.ln() - x0) * (y - y0)) / spread;
        let offset = y0 - slope * x0;
        let left = mean(&|t, y| (y - offset - slope * t.ln()).powi(2));
        let (factor, power, power_left) = power_law(&all);
        Some(Fit {
            offset,
            slope,
            r2: 1.0 - left / total,
            factor,
            power,
            power_r2: 1.0 - power_left / n / total,
            points: all.len(),
        })
    }

    /// What the logarithmic law says of an update.
    pub fn at(&self, t: f64) -> f64 {
        self.offset + self.slope * t.ln()
    }

    /// What the power law says of it.
    pub fn power_at(&self, t: f64) -> f64 {
        self.factor * t.powf(self.power)
    }
}

/// The power law of least squares: factor, power, and the sum of squares that is left. For each power the best factor
/// is known, so one number is searched for.
fn power_law(all: &[(f64, f64)]) -> (f64, f64, f64) {
    let last = all.iter().map(|(t, _)| *t).fold(1.0, f64::max);
    let of = |p: f64| {
        let sum =
            |f: &dyn Fn(f64, f64) -> f64| all.iter().map(|&(t, y)| f((t / last).powf(p), y)).sum::<f64>();
        let factor = sum(&|x, y| x * y) / sum(&|x, _| x * x);
        (factor, sum(&|x, y| (y - factor * x).powi(2)))
    };
    let steps = (0..=500).map(|n| -2.0 + f64::from(n) * 0.01);
    let near = steps.min_by(|a, b| of(*a).1.total_cmp(&of(*b).1)).unwrap_or(0.0);
    let (mut low, mut high) = (near - 0.01, near + 0.01);
    for _ in 0..60 {
        let (a, b) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
        if of(a).1 < of(b).1 { high = b } else { low = a }
    }
    let power = (low + high) / 2.0;
    let (factor, left) = of(power);
    (factor / last.powf(power), power, left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(law: impl Fn(f64) -> f64) -> Vec<(u64, f64)> {
        (0..=20_000u64).filter(|t| due(*t)).map(|t| (t, law(t as f64))).collect()
    }

    /// Each law is found where it was planted, and the other one fits worse.
    #[test]
    fn planted_laws_are_found() {
        let log = Fit::of(&points(|t| 0.7 + 0.25 * t.ln()), 0, u64::MAX).unwrap();
        assert!((log.slope - 0.25).abs() < 1e-12 && (log.offset - 0.7).abs() < 1e-11, "{log:?}");
        assert!(log.r2 > 1.0 - 1e-12 && log.power_r2 < 0.995, "{log:?}");
        let power = Fit::of(&points(|t| 0.03 * t.powf(0.5)), 0, u64::MAX).unwrap();
        assert!((power.power - 0.5).abs() < 1e-6 && (power.factor / 0.03 - 1.0).abs() < 1e-5, "{power:?}");
        assert!(power.power_r2 > 1.0 - 1e-10 && power.r2 < 0.95, "{power:?}");
        assert!((log.at(100.0) - 0.7 - 0.25 * 100f64.ln()).abs() < 1e-10);
        assert!((power.power_at(100.0) - 0.3).abs() < 1e-5);
    }

    /// What lies before the tenth update, in the warm-up or behind the constant rate has no say.
    #[test]
    fn only_the_window_is_fitted() {
        let bent = |t: f64| if (20.0..=2000.0).contains(&t) { t.ln() } else { 50.0 };
        let fit = Fit::of(&points(bent), 20, 2000).unwrap();
        assert!(fit.r2 > 1.0 - 1e-12 && (fit.slope - 1.0).abs() < 1e-12);
        assert_eq!(fit.points, points(bent).iter().filter(|(t, _)| (20..=2000).contains(t)).count());
        let early = |t: f64| if t < 10.0 { 9.0 } else { t.ln() };
        assert!(Fit::of(&points(early), 0, u64::MAX).unwrap().r2 > 1.0 - 1e-12);
        assert!(Fit::of(&points(bent), 20, 40).is_some_and(|f| f.points == 5));
        assert_eq!(Fit::of(&points(bent), 20, 22), None, "too few");
        assert_eq!(Fit::of(&points(|_| 3.0), 0, u64::MAX), None, "nothing to explain");
        assert_eq!(Fit::of(&[(10, f64::NAN), (20, 1.0), (30, 1.0), (40, 2.0)], 0, 99), None);
    }
}
