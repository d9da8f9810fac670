//! How noisy a policy's gradient is, and how far from the unbiased one it points, with each of its tricks on and
//! off: N gradients for each variant, each of fresh replies to other prompts, the same for all variants; the student as it is.

use retort_policies::{Moment, Policy, Source, Update};
use tch::Tensor;

use super::gather::{Gather, alpha};
use super::setup::Material;
use super::together;
use super::update::Updater;
use super::work::{Work, rollouts};
use crate::error::{Error, Result};
use crate::native;
use crate::rollout::{Collector, Experience, Prompt};

/// Replies of the instrument are counted from here on, far from those that are learnt.
const TURNS: u64 = 1 << 48;

/// What was measured of a variant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Variance {
    /// Its name.
    pub name: &'static str,
    /// The trace of a gradient's covariance: the mean squared distance from the mean gradient.
    pub noise: f64,
    /// The squared norm of the mean gradient, without what noise adds to it.
    pub signal: f64,
    /// The cosine of its mean gradient and the first variant's, which has no bias.
    pub cosine: f64,
}

/// Measures every variant of the updater's policy.
pub fn measure(gather: &Gather, material: &Material, updater: &mut Updater) -> Result<Vec<Variance>> {
    let gradients = updater.policy().plan().variance;
    let mut reference: Option<Vec<Tensor>> = None;
    let mut all = Vec::new();
    for (name, variant) in updater.policy().variants() {
        let own = updater.replace_policy(variant);
        let measured = moments(gather, material, updater, gradients);
        updater.replace_policy(own);
        let (mean, squares) = measured?;
        let size = square(&mean)?;
        let n = gradients as f64;
        let noise = (squares - n * size) / (n - 1.0);
        let exact = reference.get_or_insert_with(|| mean.iter().map(Tensor::copy).collect());
        let cosine = dot(&mean, exact)? / (size * square(exact)?).sqrt();
        all.push(Variance { name, noise, signal: size - noise / n, cosine });
    }
    Ok(all)
}

/// The mean of the gradients, and the sum of their squared norms.
fn moments(
    gather: &Gather,
    material: &Material,
    updater: &mut Updater,
    gradients: usize,
) -> Result<(Vec<Tensor>, f64)> {
    let masters = material.learnt().masters();
    let sum: Vec<Tensor> = masters.iter().map(|t| Ok(t.f_zeros_like()?)).collect::<Result<_>>()?;
    let mut squares = 0.0;
    for n in 0..gradients {
        material.world.agree(crate::signal::check())?;
        let work = work(gather, material, updater.policy(), n as u64)?;
        updater.gradient(material, &work)?;
        native::add_all(&sum, updater.sums(), 1.0 / gradients as f64)?;
        squares += square(updater.sums())?;
    }
    Ok((sum, squares))
}

/// Fresh replies to the n-th batch of prompts.
fn work(gather: &Gather, material: &Material, policy: &dyn Policy, n: u64) -> Result<Work> {
    let feed = gather.feed();
    let (batch, rows) = (feed.batch() as u64, feed.rows().max(1) as u64);
    let prompts: Vec<Prompt> = (n * batch..(n + 1) * batch)
        .map(|k| Prompt { row: k % rows, turn: TURNS + k, ids: feed.prompt((k % rows) as usize) })
        .collect();
    let source = policy.source(Moment { step: 0, steps: 1, replay_full: false });
    let plan = policy.plan();
    if !matches!(source, Source::Student | Source::Mixed { .. }) {
        return Err(Error::bug("the variance of a policy that does not sample"));
    }
    let collector = Collector {
        student: &material.student,
        teacher: material.teacher_model()?,
        alpha: alpha(&source)?,
        sampling: gather.sampling().clone(),
        numbers: plan.rollout,
        states: plan.rollout && plan.teacher,
    };
    let collected = together::collect(material, &collector, &prompts, &mut |_| {})?.experiences;
    let rows: Vec<&Experience> = collected.iter().collect();
    let update = Update { longest: gather.sampling().max_new_tokens, total: &mut |_| Ok(()) };
    Ok(Work::sampled(&rows, Some(policy.prepare(&rollouts(&rows), update)?)))
}

fn dot(a: &[Tensor], b: &[Tensor]) -> Result<f64> {
    let mut sum = 0.0;
    for (a, b) in a.iter().zip(b) {
        sum += a.f_flatten(0, -1)?.f_dot(&b.f_flatten(0, -1)?)?.f_double_value(&[])?;
    }
    Ok(sum)
}

fn square(a: &[Tensor]) -> Result<f64> {
    dot(a, a)
}
