//! The learning rate of each update: a pure function of its number.
//!
//! ```text
//! n = 1, 2, ... steps;  w = warmup
//! n <= w:    lr n / w
//! constant:  lr
//! linear:    lr - (lr - min) t                 t = (n - 1 - w) / (steps - w)
//! cosine:    min + (lr - min) (1 + cos(pi t)) / 2
//! wsd:       lr; over the last d updates  lr - (lr - min) (n - 1 - (steps - d)) / d
//! ```
//!
//! So the first update after the warm-up has the whole rate, and the last one is one part of the way
//! short of the end, as in transformers.

/// How the rate goes after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// It stays.
    Constant,
    /// It falls along a line.
    Linear,
    /// It falls along half a cosine.
    Cosine,
    /// It stays, and falls along a line over this share of the updates at the end.
    Wsd(f64),
}

/// The learning rate over a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Course {
    /// How it goes.
    pub shape: Shape,
    /// The highest rate.
    pub lr: f64,
    /// Where it ends.
    pub min_lr: f64,
    /// Updates over which it rises.
    pub warmup: u64,
    /// Updates in all.
    pub steps: u64,
}

impl Course {
    /// The rate of update `n`, counted from 1.
    ///
    /// ```
    /// use retort::optim::{Course, Shape};
    /// let course = Course { shape: Shape::Linear, lr: 1.0, min_lr: 0.0, warmup: 2, steps: 6 };
    /// let rates: Vec<f64> = (1..=6).map(|n| course.at(n)).collect();
    /// assert_eq!(rates, [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]);
    /// ```
    pub fn at(&self, n: u64) -> f64 {
        if n <= self.warmup {
            return self.lr * n as f64 / self.warmup as f64;
        }
        let fall = self.lr - self.min_lr;
        match self.shape {
            Shape::Constant => self.lr,
            Shape::Linear => self.lr - fall * self.share(n, self.warmup),
            Shape::Cosine => {
                self.min_lr + fall * 0.5 * (1.0 + (std::f64::consts::PI * self.share(n, self.warmup)).cos())
            }
            Shape::Wsd(decay) => {
                let falling = (decay * self.steps as f64).round() as u64;
                self.lr - fall * self.share(n, self.steps.saturating_sub(falling).max(self.warmup))
            }
        }
    }

    /// How much of the way from update `from` to the end is behind update `n`; 0 before it.
    fn share(&self, n: u64, from: u64) -> f64 {
        let (done, whole) = ((n - 1).saturating_sub(from), self.steps.saturating_sub(from));
        if whole == 0 { 0.0 } else { (done as f64 / whole as f64).min(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(shape: Shape, warmup: u64, steps: u64) -> Vec<f64> {
        let course = Course { shape, lr: 2.0, min_lr: 1.0, warmup, steps };
        (1..=steps).map(|n| course.at(n)).collect()
    }

    #[test]
    fn every_shape_starts_at_the_top_and_falls_to_the_end() {
        assert_eq!(rates(Shape::Constant, 1, 3), [2.0, 2.0, 2.0]);
        assert_eq!(rates(Shape::Linear, 0, 4), [2.0, 1.75, 1.5, 1.25]);
        let cosine = rates(Shape::Cosine, 0, 4);
        for (rate, expected) in cosine.iter().zip([2.0, 1.8535533905932737, 1.5, 1.1464466094067263]) {
            assert!((rate - expected).abs() < 1e-12, "{cosine:?}");
        }
        assert_eq!(rates(Shape::Wsd(0.5), 0, 4), [2.0, 2.0, 2.0, 1.5]);
        assert_eq!(rates(Shape::Wsd(0.0), 0, 2), [2.0, 2.0]);
        assert_eq!(rates(Shape::Wsd(1.0), 2, 4), [1.0, 2.0, 2.0, 1.5]);
    }

    #[test]
    fn a_run_of_one_update_trains() {
        for shape in [Shape::Constant, Shape::Linear, Shape::Cosine, Shape::Wsd(0.1)] {
            assert_eq!(rates(shape, 0, 1), [2.0]);
        }
    }

    /// A warm-up that is longer than the run only rises.
    #[test]
    fn a_warmup_may_be_longer_than_the_run() {
        assert_eq!(rates(Shape::Cosine, 4, 2), [0.5, 1.0]);
    }
}
