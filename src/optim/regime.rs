//! The large-batch regime: what a recipe that was found for a small batch becomes with a batch kappa times as large.
//!
//! ```text
//! hoffer   lr sqrt(kappa); betas, eps, updates, warm-up as they were (so epochs times kappa)
//! sde      lr sqrt(kappa); 1 - beta_i times kappa; eps / sqrt(kappa); updates and warm-up / kappa
//! noise    in the place of sqrt(kappa) on lr: each sequence's gradient times z ~ N(1, kappa - 1)
//! ```
//!
//! `hoffer` is that of Hoffer, Hubara and Soudry ("Train longer, generalize better", 2017), who clip gradients too.
//! `sde` is the square-root rule of Malladi and others ("On the SDEs and scaling rules for adaptive gradient
//! algorithms", 2022). A course's lowest rate is scaled with its highest, so that its shape stays.

use serde::Serialize;

use crate::config::{Noise, Rules};
use crate::error::{Error, Result};

/// What is nearer to 0 than this is 0, and was not rounded to it: 10 x (1 - 0.9) is a little below 1.
const NEAR: f64 = 1e-9;

/// What a batch's size has a say in.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Recipe {
    /// Updates in all.
    pub steps: u64,
    /// Updates over which the learning rate rises.
    pub warmup: u64,
    /// The highest learning rate.
    pub lr: f64,
    /// Where it ends.
    pub min_lr: f64,
    /// AdamW's.
    pub betas: [f64; 2],
    /// AdamW's.
    pub eps: f64,
    /// The standard deviation of what each sequence's gradient is multiplied with; 0 for nothing.
    pub noise: f64,
}

impl Recipe {
    /// The same recipe with updates of `batch` sequences in the place of `reference`.
    ///
    /// ```
    /// use retort::config::{Noise, Rules};
    /// use retort::optim::regime::Recipe;
    /// let small = Recipe { steps: 100, warmup: 10, lr: 0.1, min_lr: 0.0, betas: [0.9, 0.95], eps: 1e-8, noise: 0.0 };
    /// let large = small.scaled(Rules::Hoffer, Noise::None, 64, 16)?;
    /// assert_eq!((large.lr, large.steps, large.warmup), (0.2, 100, 10));
    /// let fewer = small.scaled(Rules::Sde, Noise::None, 64, 16)?;
    /// assert_eq!((fewer.lr, fewer.steps, fewer.warmup, fewer.eps), (0.2, 25, 3, 5e-9));
    /// assert!((fewer.betas[0] - 0.6).abs() < 1e-12 && (fewer.betas[1] - 0.8).abs() < 1e-12);
    /// # Ok::<(), retort::error::Error>(())
    /// ```
    pub fn scaled(self, rules: Rules, noise: Noise, batch: u64, reference: u64) -> Result<Self> {
        let kappa = batch as f64 / reference as f64;
        let root = kappa.sqrt();
        let large = match noise {
            Noise::None => Recipe { lr: self.lr * root, min_lr: self.min_lr * root, ..self },
            Noise::Multiplicative => Recipe { noise: (kappa - 1.0).max(0.0).sqrt(), ..self },
        };
        if rules == Rules::Hoffer {
            return Ok(large);
        }
        let betas = self.betas.map(|beta| 1.0 - kappa * (1.0 - beta));
        if let Some(at) = betas.iter().position(|beta| *beta < NEAR) {
            return Err(Error::user("an Adam without memory")
                .field("train.betas")
                .expected(format!("numbers above {} for a batch {kappa} times as large", 1.0 - 1.0 / kappa))
                .found(self.betas[at]));
        }
        Ok(Recipe {
            steps: fewer(self.steps, batch, reference).max(1),
            warmup: fewer(self.warmup, batch, reference),
            betas,
            eps: self.eps / root,
            ..large
        })
    }
}

/// Updates of `batch` sequences that have at least the sequences of `n` updates of `reference`.
fn fewer(n: u64, batch: u64, reference: u64) -> u64 {
    let all = u128::from(n) * u128::from(reference);
    all.div_ceil(u128::from(batch.max(1))) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Recipe = Recipe {
        steps: 1000,
        warmup: 100,
        lr: 1e-3,
        min_lr: 1e-4,
        betas: [0.9, 0.99],
        eps: 1e-8,
        noise: 0.0,
    };

    /// Every number of method.md's two regimes, and that neither has anything of the other.
    #[test]
    fn regimes_are_those_of_their_papers() {
        let hoffer = SMALL.scaled(Rules::Hoffer, Noise::None, 288, 32).unwrap();
        let expected = Recipe { lr: 3e-3, min_lr: 3e-4, ..SMALL };
        assert!((hoffer.lr - expected.lr).abs() < 1e-15 && (hoffer.min_lr - expected.min_lr).abs() < 1e-15);
        assert_eq!(
            Recipe { lr: SMALL.lr, min_lr: SMALL.min_lr, ..hoffer },
            SMALL,
            "and nothing else changes"
        );
        let sde = SMALL.scaled(Rules::Sde, Noise::None, 288, 32).unwrap();
        assert!((sde.lr - 3e-3).abs() < 1e-15 && (sde.min_lr - 3e-4).abs() < 1e-15);
        assert!((sde.betas[0] - 0.1).abs() < 1e-12 && (sde.betas[1] - 0.91).abs() < 1e-12);
        assert!((sde.eps - 1e-8 / 3.0).abs() < 1e-20);
        assert_eq!((sde.steps, sde.warmup, sde.noise), (112, 12, 0.0), "1000 / 9 and 100 / 9, rounded up");
    }

    #[test]
    fn noise_stands_in_the_place_of_the_root() {
        let noisy = SMALL.scaled(Rules::Hoffer, Noise::Multiplicative, 160, 32).unwrap();
        assert_eq!(noisy, Recipe { noise: 2.0, ..SMALL });
        let same = SMALL.scaled(Rules::Hoffer, Noise::Multiplicative, 32, 32).unwrap();
        assert_eq!(same, SMALL, "a batch of the same size needs none");
    }

    /// At kappa (1 - beta) = 1 nothing is remembered.
    #[test]
    fn an_adam_without_memory_is_refused() {
        assert!(SMALL.scaled(Rules::Sde, Noise::None, 319, 32).is_ok());
        for batch in [320, 6400] {
            let e = SMALL.scaled(Rules::Sde, Noise::None, batch, 32).unwrap_err();
            assert!(e.to_string().contains("train.betas"), "{e}");
        }
        assert_eq!(SMALL.scaled(Rules::Hoffer, Noise::None, 6400, 32).unwrap().betas, SMALL.betas);
    }

    /// A batch below the reference goes the other way.
    #[test]
    fn a_smaller_batch_is_scaled_down() {
        let small = SMALL.scaled(Rules::Sde, Noise::None, 8, 32).unwrap();
        assert_eq!((small.steps, small.warmup, small.lr, small.eps), (4000, 400, 5e-4, 2e-8));
        assert!((small.betas[0] - 0.975).abs() < 1e-12);
    }
}
