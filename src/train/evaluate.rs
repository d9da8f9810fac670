//! What is measured while a run goes on: the cross-entropy of held-out responses, and with a teacher the
//! divergences from it, as means over response tokens; and the student's own replies, by Rouge-L where there are
//! references. Of rows that are prompts alone replies are all there is.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use retort_policies::objective::divergence::Divergence;
use retort_policies::objective::head::{Want, fused};
use retort_policies::objective::input::{Input, Side};
use retort_policies::objective::term::{Loss, Term};
use serde_json::Value;
use tch::{Device, Kind};

use super::batch::Micro;
use super::sampled::{self, Held, Sampled};
use super::setup::Material;
use super::teacher::Among;
use super::together;
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
        let blind = data.valid.is_empty() || train.eval_every == 0;
        if blind && config.policy()?.plan().heeds_validation {
            tracing::warn!(
                "{} samples from the student once its loss on held-out rows rises: without data.valid and \
                 train.eval_every it learns the given rows alone",
                config.entry.name
            );
        }
        if data.valid.is_empty() {
            if train.eval_every > 0 {
                tracing::info!("without data.valid nothing is evaluated, and there is no best/");
            }
            return Ok(Evaluation { rows: None, sampled: None, decides: Best::ValidLoss });
        }
        let template = super::feed::template(config)?;
        let limits = material.limits(config);
        let (answered, asked) = sampled::apart(&data.valid)?;
        let prepared = |files: &[PathBuf], need, name| -> Result<Option<TokenFile>> {
            if files.is_empty() {
                return Ok(None);
            }
            let preparation = Preparation {
                files,
                tokenizer: &material.tokenizer,
                template: &template,
                eos: material.end(),
                limits,
                context: material.context,
                vocabulary: material.vocabulary,
                need,
                learn: data.learn,
                rejects: data.skip_invalid.then_some(dir.path()),
            };
            let cache = super::feed::cache(dir, name)?;
            Ok(Some(preparation.run(&cache).map_err(|e| e.or_file("data.valid"))?))
        };
        let rows = prepared(&answered, Need::Responses, "valid")?;
        let asks = prepared(&asked, Need::Prompts, "valid-prompts")?;
        let held = [(&rows, &answered, false), (&asks, &asked, true)]
            .map(|(rows, files, asks)| rows.as_ref().map(|rows| Held { rows, files, asks }));
        let held: Vec<Held<'_>> = held.into_iter().flatten().collect();
        let sampled = match train.eval_every {
            0 => None,
            _ => Sampled::prepare(config, material, &held, limits.response)?,
        };
        let compares = sampled.as_ref().is_some_and(Sampled::compares);
        let decides = if compares { train.best } else { Best::ValidLoss };
        if train.eval_every > 0 {
            tell(config, rows.is_some(), compares);
        }
        Ok(Evaluation { rows, sampled, decides })
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
        if self.rows.is_none() && self.sampled.is_none() {
            return Ok(None);
        }
        let begun = Instant::now();
        let mut values = if self.rows.is_some() { self.divergences(material, updater)? } else { Vec::new() };
        let mut seconds = vec![("score", begun.elapsed())];
        let mut shown = Vec::new();
        if let Some(sampled) = &self.sampled {
            let begun = Instant::now();
            let found = sampled.run(material)?;
            if sampled.compares() {
                let [mean, low, high] = found.rouge_l.map_or([f64::NAN; 3], |e| [e.mean, e.low, e.high]);
                values.extend([("rouge_l", mean), ("rouge_l_low", low), ("rouge_l_high", high)]);
            }
            values.extend([("eos_rate", found.eos_rate), ("length", found.length)]);
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
        if !together::is_fault(&done) {
            material.rest()?;
        }
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

/// Says what decides, where it is not what was asked for.
fn tell(config: &RunConfig, loss: bool, compares: bool) {
    let why = match config.settings.eval.prompts {
        0 => "no prompts are replied to (eval.prompts = 0)",
        _ => "no row of data.valid has a prompt and a reference",
    };
    if !loss && !compares {
        tracing::warn!("{why}, nor a response: nothing says what is best, and there is no best/");
    } else if !compares && config.settings.train.best != Best::ValidLoss {
        tracing::warn!("{why}: valid-loss decides what is best, and not rouge-l");
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
