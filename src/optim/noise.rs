//! The gradient noise scale (McCandlish and others, "An empirical model of large-batch training", 2018): how large a
//! batch is before more of it stops saving updates, from gradients over two batch sizes.
//!
//! ```text
//! |G|^2 = (B_b |g_b|^2 - B_s |g_s|^2) / (B_b - B_s)      S = (|g_s|^2 - |g_b|^2) / (1/B_s - 1/B_b)
//! B_simple = S / |G|^2
//! ```
//!
//! g are means over sequences before clipping, |g_s|^2 the mean over the small batches that the large one is made of.
//! Both are unbiased and noisy, and their quotient is neither: so each has a moving average of its own, and the
//! quotient is of these. Where one of them is not above 0 the scale is not yet known.

use serde::{Deserialize, Serialize};

/// How much of a moving average stays at each new estimate.
const KEPT: f64 = 0.95;

/// One estimate of both terms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// |G|^2, the squared norm of the true gradient.
    pub signal: f64,
    /// S, the trace of the covariance of one sequence's gradient.
    pub covariance: f64,
}

impl Estimate {
    /// From the mean squared norm over small batches, and the squared norm of the large one, each with its size.
    ///
    /// ```
    /// use retort::optim::noise::Estimate;
    /// // |G|^2 = 2 and S = 12: a batch of B has 2 + 12 / B in expectation.
    /// let found = Estimate::of((2.0 + 12.0 / 4.0, 4), (2.0 + 12.0 / 32.0, 32)).unwrap();
    /// assert!((found.signal - 2.0).abs() < 1e-12 && (found.covariance - 12.0).abs() < 1e-12);
    /// assert_eq!(Estimate::of((1.0, 8), (1.0, 8)), None);
    /// ```
    pub fn of((small, b_small): (f64, usize), (large, b_large): (f64, usize)) -> Option<Self> {
        if b_small == 0 || b_large <= b_small || !small.is_finite() || !large.is_finite() {
            return None;
        }
        let (s, b) = (b_small as f64, b_large as f64);
        Some(Estimate {
            signal: (b * large - s * small) / (b - s),
            covariance: (small - large) / (1.0 / s - 1.0 / b),
        })
    }
}

/// Moving averages of both terms, each by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Moving {
    #[serde(with = "bits")]
    signal: f64,
    #[serde(with = "bits")]
    covariance: f64,
    #[serde(with = "bits")]
    weight: f64,
}

/// Numbers as their bits: one that is read as a decimal may be off by the last of them, and a resumed run with it.
mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(x: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(x.to_bits())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        u64::deserialize(from).map(f64::from_bits)
    }
}

impl Moving {
    /// Takes one more estimate in.
    pub fn add(&mut self, new: Estimate) {
        self.signal = KEPT * self.signal + new.signal;
        self.covariance = KEPT * self.covariance + new.covariance;
        self.weight = KEPT * self.weight + 1.0;
    }

    /// The averages; none before the first estimate.
    pub fn mean(&self) -> Option<Estimate> {
        let of = |x: f64| x / self.weight;
        (self.weight > 0.0).then(|| Estimate { signal: of(self.signal), covariance: of(self.covariance) })
    }

    /// B_simple in sequences; none where it is not yet known.
    pub fn scale(&self) -> Option<f64> {
        let mean = self.mean().filter(|m| m.signal > 0.0 && m.covariance > 0.0)?;
        Some(mean.covariance / mean.signal)
    }
}

#[cfg(test)]
mod tests {
    use rand_distr::{Distribution, Normal};

    use super::*;
    use crate::seed::{Stream, generator};

    /// Standard deviations of a sequence's gradient along each axis: S is the sum of their squares, 21.
    const SPREADS: [f64; 4] = [4.0, 2.0, 1.0, 0.0];

    /// Per-sequence gradients of `|w - x|^2 / 2` at w = (0.6, 0.8, 0, 0) with x ~ N(0, diag(SPREADS^2)): their mean
    /// is w, so |G|^2 is 1.
    fn gradients(update: u64, batch: usize) -> Vec<[f64; 4]> {
        let w = [0.6, 0.8, 0.0, 0.0];
        let law = Normal::new(0.0, 1.0).unwrap();
        let one = |row: usize| {
            let mut random = generator(5, Stream::Noise, update, row as u64);
            std::array::from_fn(|n| w[n] - SPREADS[n] * law.sample(&mut random))
        };
        (0..batch).map(one).collect()
    }

    fn square_of_mean(rows: &[[f64; 4]]) -> f64 {
        let n = rows.len() as f64;
        (0..4).map(|k| (rows.iter().map(|row| row[k]).sum::<f64>() / n).powi(2)).sum()
    }

    fn estimate(update: u64, batch: usize, small: usize) -> Estimate {
        let all = gradients(update, batch);
        let parts: Vec<f64> = all.chunks(small).map(square_of_mean).collect();
        let mean = parts.iter().sum::<f64>() / parts.len() as f64;
        Estimate::of((mean, small), (square_of_mean(&all), batch)).unwrap()
    }

    /// Over many updates the planted signal and covariance come out within four standard errors, from any two sizes.
    #[test]
    fn planted_noise_is_found() {
        let updates = 4000;
        for (batch, small) in [(32, 4), (16, 8), (8, 1)] {
            let all: Vec<Estimate> = (0..updates).map(|n| estimate(n, batch, small)).collect();
            for (what, truth, values) in [
                ("signal", 1.0, all.iter().map(|e| e.signal).collect::<Vec<f64>>()),
                ("covariance", 21.0, all.iter().map(|e| e.covariance).collect()),
            ] {
                let n = values.len() as f64;
                let mean = values.iter().sum::<f64>() / n;
                let error = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n / n).sqrt();
                assert!((mean - truth).abs() < 4.0 * error, "{what} {mean} ± {error}, {small} of {batch}");
                assert!(error < 0.1 * truth, "{what}: {error} tells nothing");
            }
        }
    }

    /// The quotient of the averages is near the truth, 21; the average of the quotients is not.
    #[test]
    fn averages_are_kept_apart() {
        let (mut moving, mut quotients) = (Moving::default(), Vec::new());
        for update in 0..400 {
            let one = estimate(update, 256, 32);
            moving.add(one);
            quotients.push(one.covariance / one.signal);
        }
        let scale = moving.scale().unwrap();
        assert!((scale - 21.0).abs() < 3.0, "{scale}");
        assert!(moving.mean().unwrap().signal > 0.8);
        let apart = quotients.iter().sum::<f64>() / quotients.len() as f64;
        assert!((apart - 21.0).abs() > (scale - 21.0).abs(), "{apart} and {scale}");
    }

    #[test]
    fn what_is_not_above_zero_is_not_yet_known() {
        let mut moving = Moving::default();
        assert_eq!((moving.mean(), moving.scale()), (None, None));
        moving.add(Estimate { signal: -0.5, covariance: 3.0 });
        assert_eq!(moving.scale(), None);
        moving.add(Estimate { signal: 2.0, covariance: 3.0 });
        let mean = (2.0 - KEPT * 0.5) / (1.0 + KEPT);
        assert!((moving.scale().unwrap() - 3.0 / mean).abs() < 1e-12);
        moving.add(Estimate { signal: 2.0, covariance: -90.0 });
        assert_eq!(moving.scale(), None);
        for n in 0..1000 {
            moving.add(Estimate { signal: 1.0 / f64::from(n + 3), covariance: f64::from(n).sqrt() });
            let kept: Moving = serde_json::from_str(&serde_json::to_string(&moving).unwrap()).unwrap();
            assert_eq!(kept, moving);
        }
    }
}
