//! What the settings of a run come to with the batch that it has: `[train.regime]`.

use std::fmt::Write;

use rand_distr::{Distribution, Normal};
use retort_policies::{Collection, Plan};

use super::work::Work;
use crate::config::{Length, RunConfig, Train, Warmup};
use crate::error::{Error, Result};
use crate::optim::regime::Recipe;
use crate::seed::{Stream, generator};

/// The settings that updates are made with.
#[derive(Debug, Clone)]
pub struct Scaled {
    /// `[train]` with everything scaled, its length in updates.
    pub train: Train,
    /// Updates in all.
    pub steps: u64,
    /// What the regime made of the settings, where there is one.
    pub recipe: Option<Recipe>,
    seed: u64,
}

/// The settings for so many rows, of which an update takes `batch`.
pub fn scaled(config: &RunConfig, plan: &Plan, rows: usize, batch: usize) -> Result<Scaled> {
    let (train, seed) = (&config.settings.train, config.settings.seed);
    let Some(regime) = &train.regime else {
        let steps = super::steps(train, rows, batch);
        return Ok(Scaled { train: train.clone(), steps, recipe: None, seed });
    };
    // No update has more rows than there are, of files or in a collection.
    let most = match plan.collection {
        Collection::Rows(replies) => replies.min(rows),
        Collection::Batch => rows,
    };
    let (large, small) = (batch.min(most).max(1), regime.reference_batch.min(most).max(1));
    let steps = super::steps(train, rows, small);
    let warmup = train.warmup.updates(steps);
    let (lr, min_lr, betas, eps) = (train.lr, train.min_lr, train.betas, train.eps);
    let before = Recipe { steps, warmup, lr, min_lr, betas, eps, noise: 0.0 };
    let recipe = before
        .scaled(regime.kind, regime.noise, large as u64, small as u64)
        .map_err(|e| config.blame("train.regime", e))?;
    let train = Train {
        length: Length::Steps(recipe.steps),
        warmup: Warmup::Updates(recipe.warmup),
        lr: recipe.lr,
        min_lr: recipe.min_lr,
        betas: recipe.betas,
        eps: recipe.eps,
        ..train.clone()
    };
    Ok(Scaled { train, steps: recipe.steps, recipe: Some(recipe), seed })
}

impl Scaled {
    /// What it came to, in a line.
    pub fn says(&self) -> Option<String> {
        let (regime, recipe) = (self.train.regime?, self.recipe?);
        let mut text = format!(
            "{}: {} updates, warm-up {}, lr {}",
            regime.kind.name(),
            recipe.steps,
            recipe.warmup,
            short(recipe.lr)
        );
        if recipe.min_lr > 0.0 {
            let _ = write!(text, " to {}", short(recipe.min_lr));
        }
        let _ = write!(
            text,
            ", betas {} and {}, eps {}, clip {}",
            short(recipe.betas[0]),
            short(recipe.betas[1]),
            short(recipe.eps),
            self.train.clip
        );
        if recipe.noise > 0.0 {
            let _ = write!(text, ", gradients times N(1, {})", short(recipe.noise * recipe.noise));
        }
        Some(text)
    }

    /// Whether the gradient noise scale is measured at this update.
    pub fn measures(&self, step: u64) -> bool {
        self.train.measure_noise > 0 && step.is_multiple_of(self.train.measure_noise)
    }

    /// What the gradient of each row is multiplied with at update `step`: first the main rows, then those of the
    /// corpus; nothing where there is no noise. Documents of one packed row are one sequence.
    pub fn noise(&self, step: u64, work: &Work) -> Result<Vec<f64>> {
        let spread = self.recipe.map_or(0.0, |recipe| recipe.noise);
        if spread == 0.0 {
            return Ok(Vec::new());
        }
        let law = Normal::new(1.0, spread).map_err(|e| Error::bug("no such normal law").found(e))?;
        let number = |row: usize| work.numbers.get(row);
        let (mut all, mut sequence) = (Vec::with_capacity(work.main.len() + work.corpus.len()), 0u64);
        for row in 0..work.main.len() + work.corpus.len() {
            let goes_on = row > 0 && number(row).is_some() && number(row) == number(row - 1);
            if row > 0 && !goes_on {
                sequence += 1;
            }
            all.push(law.sample(&mut generator(self.seed, Stream::Noise, step, sequence)));
        }
        Ok(all)
    }
}

/// A number with as many digits as tell something.
fn short(x: f64) -> String {
    let rounded: f64 = format!("{x:.4e}").parse().unwrap_or(x);
    if (1e-3..1e4).contains(&rounded.abs()) { rounded.to_string() } else { format!("{rounded:e}") }
}

#[cfg(test)]
mod tests {
    use super::super::work::Learnt;
    use super::*;
    use crate::data::Example;

    fn noisy(spread: f64, seed: u64) -> Scaled {
        let text = "policy = 'sft'\nstudent.model = 'm'\ndata.train = ['r']\ntrain.steps = 1\n";
        let config = RunConfig::parse(text, "x.toml".as_ref(), &[format!("seed={seed}")]).unwrap();
        let plain = scaled(&config, &config.policy().unwrap().plan(), 100, 64).unwrap();
        let recipe =
            Recipe { steps: 1, warmup: 0, lr: 1.0, min_lr: 0.0, betas: [0.9, 0.9], eps: 1e-8, noise: spread };
        Scaled { recipe: Some(recipe), ..plain }
    }

    fn work(numbers: Vec<u64>, corpus: usize) -> Work {
        let row = || Example { ids: vec![1, 2], ..Example::default() };
        let main = numbers.iter().map(|_| Learnt::given(row())).collect();
        Work { main, numbers, corpus: (0..corpus).map(|_| row()).collect(), ..Work::default() }
    }

    /// Mean 1, variance s^2, another draw for each update and row, and one for the documents of a packed row.
    #[test]
    fn draws_are_around_one() {
        let (a, rows) = (noisy(3.0, 1), work((0..5000).collect(), 0));
        let all = a.noise(1, &rows).unwrap();
        let n = all.len() as f64;
        let mean = all.iter().sum::<f64>() / n;
        let variance = all.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / n;
        // Four standard errors: 3 / sqrt(n), and 9 sqrt(2 / n).
        assert!((mean - 1.0).abs() < 0.17 && (variance - 9.0).abs() < 0.72, "{mean}, {variance}");
        assert_eq!(all, noisy(3.0, 1).noise(1, &rows).unwrap());
        assert_ne!(all, noisy(3.0, 2).noise(1, &rows).unwrap());
        assert_ne!(all, a.noise(2, &rows).unwrap());
        let packed = a.noise(1, &work(vec![7, 7, 8, 9, 9], 2)).unwrap();
        assert_eq!(packed.len(), 7);
        assert!(packed[0] == packed[1] && packed[3] == packed[4]);
        let apart: std::collections::BTreeSet<u64> = packed.iter().map(|z| z.to_bits()).collect();
        assert_eq!(apart.len(), 5);
        assert!(noisy(0.0, 1).noise(1, &rows).unwrap().is_empty());
    }
}
