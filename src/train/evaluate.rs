//! What is measured while a run goes on: the cross-entropy of held-out responses, and with a teacher the
//! divergences from it, as means over response tokens; and Rouge-L of the student's own replies.

use std::time::{Duration, Instant};

use retort_policies::objective::divergence::Divergence;
use retort_policies::objective::head::{Want, fused};
use retort_policies::objective::input::{Input, Side};
use retort_policies::objective::term::{Loss, Term};
use serde_json::Value;
use tch::{Device, Kind};

use super::batch::Micro;
use super::sampled::Sampled;
use super::setup::Material;
use super::teacher::Among;
use super::update::{Updater, states};
use crate::checkpoint::RunDir;
use crate::config::{Best, RunConfig};
use crate::data::sampler::Cut;
use crate::data::{Example, Need, Preparation, TokenFile, by_length};
use crate::error::Result;
use crate::signal;

/// Rows that are sorted by length together.
const WINDOW: usize = 1024;

/// The held-out rows.
#[derive(Debug)]
pub struct Evaluation {
    rows: Option<TokenFile>,
    sampled: Option<Sampled>,
    decides: Best,
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// A name and a value each.
    pub values: Vec<(&'static str, f64)>,
    /// A few replies.
    pub shown: Vec<Value>,
    /// How long the stages took.
    pub seconds: Vec<(&'static str, Duration)>,
}

impl Evaluation {
    /// Reads them; without any nothing is evaluated.
    pub fn prepare(config: &RunConfig, material: &Material, dir: &RunDir) -> Result<Self> {
        let data = &config.settings.data;
        let train = &config.settings.train;
        if data.valid.is_empty() {
            if train.eval_every > 0 {
                tracing::info!("without data.valid nothing is evaluated, and there is no best/");
            }
            return Ok(Evaluation { rows: None, sampled: None, decides: Best::ValidLoss });
        }
        let template = super::feed::template(config)?;
        let limits = material.limits(config);
        let preparation = Preparation {
            files: &data.valid,
            tokenizer: &material.tokenizer,
            template: &template,
            eos: material.end(),
            limits,
            context: material.context,
            vocabulary: material.vocabulary,
            need: Need::Responses,
            learn: data.learn,
            rejects: data.skip_invalid.then_some(dir.path()),
        };
        let cache = super::feed::cache(dir, "valid")?;
        let rows = preparation.run(&cache).map_err(|e| e.or_file("data.valid"))?;
        let sampled = if train.eval_every > 0 {
            Sampled::prepare(config, material, &rows, limits.response)?
        } else {
            None
        };
        let decides = if sampled.is_some() { train.best } else { Best::ValidLoss };
        if decides != train.best && train.eval_every > 0 {
            let why = match config.settings.eval.prompts {
                0 => "no prompts are replied to (eval.prompts = 0)",
                _ => "no row of data.valid has a prompt and a reference",
            };
            tracing::warn!("{why}: valid-loss decides what is best, and not rouge-l");
        }
        Ok(Evaluation { rows: Some(rows), sampled, decides })
    }

    /// The value that decides what is best.
    pub fn decides(&self) -> &'static str {
        match self.decides {
            Best::RougeL => "rouge_l",
            Best::ValidLoss => "valid_loss",
        }
    }

    /// Whether such a value is better than another.
    pub fn is_better(&self, value: f64, than: f64) -> bool {
        match self.decides {
            Best::RougeL => value > than,
            Best::ValidLoss => value < than,
        }
    }

    /// Whether replies are sampled.
    pub fn samples(&self) -> bool {
        self.sampled.is_some()
    }

    /// Measures the student as it is.
    pub fn run(&self, material: &Material, updater: &Updater) -> Result<Option<Measured>> {
        if self.rows.is_none() {
            return Ok(None);
        }
        let begun = Instant::now();
        let mut values = self.divergences(material, updater)?;
        let mut seconds = vec![("score", begun.elapsed())];
        let mut shown = Vec::new();
        if let Some(sampled) = &self.sampled {
            let begun = Instant::now();
            let found = sampled.run(material)?;
            let [mean, low, high] = found.rouge_l.map_or([f64::NAN; 3], |e| [e.mean, e.low, e.high]);
            values.extend([("rouge_l", mean), ("rouge_l_low", low), ("rouge_l_high", high)]);
            values.push(("prompts", sampled.prompts() as f64));
            seconds.push(("sample", begun.elapsed()));
            shown = found.shown;
        }
        seconds.push(("total", begun.elapsed()));
        Ok(Some(Measured { values, shown, seconds }))
    }

    /// What the losses are on the held-out rows, of which each rank has its share.
    fn divergences(&self, material: &Material, updater: &Updater) -> Result<Vec<(&'static str, f64)>> {
        let _off = tch::no_grad_guard();
        let terms = terms(material.teacher.is_some());
        let world = &material.world;
        let (mut sums, mut tokens, mut seen) = (vec![0.0; terms.len()], 0usize, 0usize);
        let done = self.each(material.student.device(), updater.cut(), &mut |micro, numbers| {
            seen += 1;
            if seen % world.size() != world.rank() {
                return Ok(());
            }
            let values = measure(material, micro, numbers, &terms)?;
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            tokens += micro.tokens();
            Ok(())
        });
        world.agree(done)?;
        sums.push(tokens as f64);
        let mut sums = world.sum(&sums)?;
        let tokens = sums.pop().unwrap_or(0.0);
        let mean = |sum: f64| sum / tokens.max(1.0);
        let mut values: Vec<(&'static str, f64)> =
            terms.iter().zip(sums).map(|(term, sum)| (term.name, mean(sum))).collect();
        values.push(("tokens", tokens));
        Ok(values)
    }

    /// The held-out rows, where there are any.
    pub fn rows(&self) -> Option<&TokenFile> {
        self.rows.as_ref()
    }

    /// Goes through them in micro-batches, each with the numbers of its rows.
    pub fn each(
        &self,
        device: Device,
        cut: Cut,
        with: &mut dyn FnMut(&Micro, &[u64]) -> Result<()>,
    ) -> Result<()> {
        let Some(rows) = &self.rows else { return Ok(()) };
        for start in (0..rows.rows()).step_by(WINDOW) {
            let end = (start + WINDOW).min(rows.rows());
            let window: Vec<Example> = (start..end).map(|row| rows.example(row)).collect();
            let lengths: Vec<usize> = window.iter().map(|e| e.ids.len()).collect();
            for group in by_length(&lengths, cut) {
                signal::check()?;
                let numbers: Vec<u64> = group.iter().map(|&row| (start + row) as u64).collect();
                let group: Vec<&Example> = group.iter().map(|&row| &window[row]).collect();
                with(&Micro::of(&group, device)?, &numbers)?;
            }
        }
        Ok(())
    }
}

fn terms(teacher: bool) -> Vec<Term> {
    let mut terms = vec![Term::new("valid_loss", Loss::CrossEntropy, 1.0)];
    if teacher {
        terms.push(Term::new("forward_kl", Loss::Divergence(Divergence::ForwardKl), 1.0));
        terms.push(Term::new("reverse_kl", Loss::Divergence(Divergence::ReverseKl), 1.0));
    }
    terms
}

/// The sum of each term over a micro-batch.
fn measure(material: &Material, micro: &Micro, numbers: &[u64], terms: &[Term]) -> Result<Vec<f64>> {
    let student_nd = states(&material.student, micro)?;
    let teacher = match &material.teacher {
        Some(teacher) => Some((teacher, teacher.said(Among::Held, micro, numbers)?)),
        None => None,
    };
    let input = Input {
        student: Side::Hidden { hidden_nd: &student_nd, head: material.student.scoring_head() },
        teacher: teacher.as_ref().map(|(t, said)| t.side(said)).transpose()?,
        targets_n: &micro.targets_n,
        vocabulary: material.vocabulary as i64,
        barred: None,
        teacher_temperature: 1.0,
    };
    let made = fused(&input, terms, Want::Values)?;
    Ok(Vec::<f64>::try_from(made.sums_k.f_to_kind(Kind::Double)?.f_to_device(Device::Cpu)?)?)
}
