//! Replies to held-out prompts while a run goes on: how many end and how long they are, and Rouge-L where there are
//! references. The same prompts and the same draws each time, so that two evaluations differ by the model alone.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::gather::sampling;
use super::setup::Material;
use super::together::answers;
use crate::config::RunConfig;
use crate::data::{Reader, Row, TokenFile};
use crate::decode::Sampling;
use crate::error::{Cause, Error, Result};
use crate::eval::bootstrap::{self, Estimate};
use crate::eval::replies::Answer;
use crate::eval::rouge;
use crate::seed::{Stream, draw};

/// Prompts that are decoded together.
pub const TOGETHER: usize = 32;

/// Prompts whose replies are written down.
const SHOWN: usize = 8;

/// The held-out prompts that are replied to.
#[derive(Debug)]
pub struct Sampled {
    prompts: Vec<Prompt>,
    settings: Sampling,
}

#[derive(Debug)]
struct Prompt {
    /// Its row among the held-out rows.
    row: usize,
    ids: Vec<u32>,
    /// Whether it is a prompt alone.
    asks: bool,
    references: Vec<String>,
}

/// Held-out rows, and the files that they come from.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    /// As tokens.
    pub rows: &'a TokenFile,
    /// As they were written.
    pub files: &'a [PathBuf],
    /// Whether they are prompts alone.
    pub asks: bool,
}

/// What an evaluation found.
#[derive(Debug)]
pub struct Found {
    /// Rouge-L x 100; none where no prompt has references, or the model's numbers overflow.
    pub rouge_l: Option<Estimate>,
    /// The share of the replies that end.
    pub eos_rate: f64,
    /// Their mean length in tokens.
    pub length: f64,
    /// A few replies, a line of samples.jsonl each, without the step.
    pub shown: Vec<Value>,
}

impl Sampled {
    /// Picks prompts that are spread evenly over the rows, of those with responses the ones whose references can be read
    /// again; none where there is no such row, or none are asked for. Replies have at most `most` tokens.
    pub fn prepare(
        config: &RunConfig,
        material: &Material,
        held: &[Held<'_>],
        most: usize,
    ) -> Result<Option<Self>> {
        let settings = &config.settings;
        let mut eligible: Vec<(Held<'_>, usize)> = Vec::new();
        for &held in held.iter().filter(|_| settings.eval.prompts > 0) {
            let with = |file: &PathBuf| Ok(held.asks || has_references(file)?);
            let with = held.files.iter().map(with).collect::<Result<Vec<bool>>>()?;
            let of = |row| with[held.rows.origin(row).file as usize];
            let fits = (0..held.rows.rows()).filter(|&row| held.rows.prompt_len(row) > 0 && of(row));
            eligible.extend(fits.map(|row| (held, row)));
        }
        let count = settings.eval.prompts.min(eligible.len());
        let mut prompts = Vec::with_capacity(count);
        let mut references = References::default();
        for (own, row) in (0..count).map(|n| eligible[n * eligible.len() / count]) {
            let origin = own.rows.origin(row);
            if !own.asks {
                references.want(origin.file as usize, origin.line as usize, prompts.len());
            }
            let ids = own.rows.part(row, 0, own.rows.prompt_len(row)).collect();
            prompts.push(Prompt { row, ids, asks: own.asks, references: Vec::new() });
        }
        if let Some(answered) = held.iter().find(|held| !held.asks) {
            references.read(answered.files, |n, found| prompts[n].references = found)?;
        }
        prompts.retain(|prompt| prompt.asks || !prompt.references.is_empty());
        // Apart from the draws that training itself makes of the same rows' numbers.
        let seed = draw(settings.seed, Stream::Sample, u64::MAX, 0);
        let sampling = Sampling { seed, ..sampling(settings, material, most) };
        Ok((!prompts.is_empty()).then_some(Sampled { prompts, settings: sampling }))
    }

    /// Whether replies are compared with references.
    pub fn compares(&self) -> bool {
        self.prompts.iter().any(|prompt| !prompt.references.is_empty())
    }

    /// How many there are.
    pub fn prompts(&self) -> usize {
        self.prompts.len()
    }

    /// Replies to all of them, and scores the replies.
    pub fn run(&self, material: &Material) -> Result<Found> {
        let prompts: Vec<&[u32]> = self.prompts.iter().map(|p| p.ids.as_slice()).collect();
        let model = (&material.student, &material.tokenizer);
        let answers = match answers(&material.world, model, &prompts, &self.settings, TOGETHER) {
            Ok(answers) => answers,
            // A student that has run away is measured as what it is, and its run goes on or is stopped by what
            // stops runs.
            Err(e) if e.cause() == Cause::Numeric => {
                tracing::warn!("the student's replies cannot be measured: {e}");
                return Ok(Found { rouge_l: None, eos_rate: f64::NAN, length: f64::NAN, shown: Vec::new() });
            }
            Err(e) => return Err(e),
        };
        let mean = |of: fn(&Answer) -> f64| answers.iter().map(of).sum::<f64>() / answers.len() as f64;
        let (eos_rate, length) = (mean(|a| f64::from(u8::from(a.ended))), mean(|a| a.ids.len() as f64));
        let scores: Vec<Option<f64>> = self.prompts.iter().zip(&answers).map(|(p, a)| p.score(a)).collect();
        let shown = self.prompts.iter().zip(&answers).zip(&scores).take(SHOWN);
        let shown = shown.map(|((p, a), score)| p.line(a, *score, material)).collect::<Result<_>>()?;
        let known: Vec<f64> = scores.into_iter().flatten().collect();
        let rouge_l = match known.is_empty() {
            true => None,
            false => Some(bootstrap::mean(&known, self.settings.seed)?),
        };
        Ok(Found { rouge_l, eos_rate, length, shown })
    }
}

impl Prompt {
    /// Rouge-L x 100, where there is something to compare with.
    fn score(&self, answer: &Answer) -> Option<f64> {
        let all = &self.references;
        (!all.is_empty()).then(|| 100.0 * rouge::best(all, &answer.text).unwrap_or(0.0))
    }

    fn line(&self, answer: &Answer, score: Option<f64>, material: &Material) -> Result<Value> {
        Ok(json!({
            "row": self.row + 1,
            "prompt": material.tokenizer.decode(&self.ids, false)?,
            "response": answer.text,
            "references": self.references,
            "finish": if answer.ended { "eos" } else { "length" },
            "rouge_l": score,
        }))
    }
}

/// Files whose rows have responses, and those whose rows are prompts alone: a file keeps to one schema, and its first row
/// says which it is of.
pub fn apart(files: &[PathBuf]) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut answered, mut asked) = (Vec::new(), Vec::new());
    for file in files {
        let asks = file.is_file()
            && match Reader::open(file)?.pass_over_invalid().next().transpose()? {
                None | Some((_, Row::Text(_) | Row::Ids { .. })) => false,
                // Conversations may have replies in their middle.
                Some((_, Row::Chat(messages))) => messages.iter().all(|m| m.role != "assistant"),
                Some((_, row)) => row.references().is_empty(),
            };
        if asks { asked.push(file.clone()) } else { answered.push(file.clone()) }
    }
    Ok((answered, asked))
}

/// Whether the rows of a file have references: a file keeps to one schema.
fn has_references(file: &Path) -> Result<bool> {
    match Reader::open(file)?.pass_over_invalid().next().transpose()? {
        Some((_, Row::Text(_) | Row::Ids { .. })) | None => Ok(false),
        Some(_) => Ok(true),
    }
}

/// References that are read again from the rows: tokens are all that was kept of them.
#[derive(Debug, Default)]
struct References {
    /// By file: by line, whose they are.
    wanted: HashMap<usize, HashMap<usize, usize>>,
}

impl References {
    fn want(&mut self, file: usize, line: usize, whose: usize) {
        self.wanted.entry(file).or_default().insert(line, whose);
    }

    fn read(self, files: &[PathBuf], mut found: impl FnMut(usize, Vec<String>)) -> Result<()> {
        for (file, mut lines) in self.wanted {
            let Some(path) = files.get(file) else { return Err(Error::bug("a row of no file")) };
            for row in Reader::open(path)?.pass_over_invalid() {
                let (line, row) = row?;
                if let Some(whose) = lines.remove(&line) {
                    found(whose, row.references().into_iter().map(String::from).collect());
                }
                if lines.is_empty() {
                    break;
                }
            }
            if let Some(line) = lines.keys().next() {
                return Err(Error::data("a row has gone since it was read").file(path).line(*line));
            }
        }
        Ok(())
    }
}
