//! `[train.regime]`: what the settings of a small batch become with the larger one that a run has.

use super::RunConfig;
use super::read::missing;
use super::section::{Section, located};
use super::settings::Train;
use super::write::{Line, quoted};
use crate::error::Result;

/// By which rules. The rest of `[train]` is then the recipe of the small batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Regime {
    /// Which rules. Must be given.
    pub kind: Rules,
    /// The batch that `[train]`'s other settings were found for. Must be given.
    pub reference_batch: usize,
    /// What stands in the place of the square root on the learning rate. Default none.
    pub noise: Noise,
}

/// What is kept when the batch grows. The two are never mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// The updates: as many as the small batch had, at its learning rate times the root of the batches' ratio.
    Hoffer,
    /// The epochs: Adam's stochastic differential equation, with fewer and larger updates.
    Sde,
}

/// Noise on the gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noise {
    /// None: the learning rate is scaled.
    None,
    /// Each sequence's gradient is multiplied with a draw around 1, and the learning rate stays.
    Multiplicative,
}

impl Rules {
    /// The names.
    pub const NAMES: [(&'static str, Rules); 2] = [("hoffer", Rules::Hoffer), ("sde", Rules::Sde)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, k)| *k == self).map_or("", |(name, _)| name)
    }
}

impl Noise {
    /// The names.
    pub const NAMES: [(&'static str, Noise); 2] =
        [("none", Noise::None), ("multiplicative", Noise::Multiplicative)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, n)| *n == self).map_or("", |(name, _)| name)
    }
}

/// Reads the table, where there is one.
pub(super) fn read(section: &mut Section<'_>) -> Result<Option<Regime>> {
    let mut inner = section.inside("regime", "train.regime")?;
    if !inner.is_there() {
        return Ok(None);
    }
    let unset = |inner: &Section<'_>, key: &str, expected: &str| {
        missing(inner.file(), &format!("train.regime.{key}"), expected)
    };
    let names = Rules::NAMES.map(|(name, _)| name).join(" or ");
    if inner.node("kind").is_none() {
        return Err(unset(&inner, "kind", &names));
    }
    let kind = inner.choice("kind", &Rules::NAMES, Rules::Hoffer)?;
    let reference = inner.count("reference_batch", 1)?;
    let reference_batch = reference
        .ok_or_else(|| unset(&inner, "reference_batch", "the batch that the other settings are of"))?;
    let noise = inner.choice("noise", &Noise::NAMES, Noise::None)?;
    inner.finish()?;
    Ok(Some(Regime { kind, reference_batch, noise }))
}

/// The table as TOML.
pub(super) fn lines(regime: &Regime) -> Vec<Line> {
    let line = |key: &str, value: String| (key.to_string(), value);
    vec![
        line("kind", quoted(regime.kind.name())),
        line("reference_batch", regime.reference_batch.to_string()),
        line("noise", quoted(regime.noise.name())),
    ]
}

/// What the rules ask of the other settings.
pub(super) fn check(config: &RunConfig) -> Result<()> {
    let train: &Train = &config.settings.train;
    let Some(regime) = &train.regime else { return Ok(()) };
    let wrong = |key: &str, expected: String, found: String| {
        Err(located(&config.file, key, config.place(key)).expected(expected).found(found))
    };
    let kappa = train.batch as f64 / regime.reference_batch as f64;
    let noisy = regime.noise == Noise::Multiplicative;
    if noisy && kappa < 1.0 {
        let expected = format!(
            "at most train.batch, {}: noise makes a large batch as noisy as a small one",
            train.batch
        );
        return wrong("train.regime.reference_batch", expected, regime.reference_batch.to_string());
    }
    match regime.kind {
        Rules::Hoffer if train.clip == 0.0 => {
            wrong("train.clip", "a number above 0: the regime hoffer clips gradients".into(), "0".into())
        }
        Rules::Sde if noisy => {
            let expected = "none: noise stands in the place of the learning rate's root, which sde rests on";
            wrong("train.regime.noise", expected.into(), regime.noise.name().into())
        }
        Rules::Sde => match train.betas.into_iter().find(|beta| kappa * (1.0 - beta) > 1.0 - 1e-9) {
            Some(beta) => {
                let least = 1.0 - 1.0 / kappa;
                wrong(
                    "train.betas",
                    format!("numbers above {least} for a batch {kappa} times as large"),
                    beta.to_string(),
                )
            }
            None => Ok(()),
        },
        Rules::Hoffer => Ok(()),
    }
}
