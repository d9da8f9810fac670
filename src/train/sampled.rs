//! Replies to held-out prompts while a run goes on, and Rouge-L against their references. The same prompts
//! and the same draws each time, so that two evaluations differ by the model alone.

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
    references: Vec<String>,
}

/// What an evaluation found.
#[derive(Debug)]
pub struct Found {
    /// Rouge-L x 100; none where the model's numbers overflow.
    pub rouge_l: Option<Estimate>,
    /// A few replies, a line of samples.jsonl each, without the step.
    pub shown: Vec<Value>,
}

impl Sampled {
    /// Picks prompts that are spread evenly over the rows with references; none where there is no such row,
    /// or none are asked for. Replies have at most `most` tokens.
    pub fn prepare(
        config: &RunConfig,
        material: &Material,
        rows: &TokenFile,
        most: usize,
    ) -> Result<Option<Self>> {
        let settings = &config.settings;
        let (wanted, files) = (settings.eval.prompts, &settings.data.valid);
        if wanted == 0 {
            return Ok(None);
        }
        let with = files.iter().map(|file| has_references(file)).collect::<Result<Vec<bool>>>()?;
        let fits = |&row: &usize| rows.prompt_len(row) > 0 && with[rows.origin(row).file as usize];
        let eligible: Vec<usize> = (0..rows.rows()).filter(fits).collect();
        let count = wanted.min(eligible.len());
        let mut prompts = Vec::with_capacity(count);
        let mut references = References::default();
        for row in (0..count).map(|n| eligible[n * eligible.len() / count]) {
            let origin = rows.origin(row);
            references.want(origin.file as usize, origin.line as usize, prompts.len());
            let ids = rows.part(row, 0, rows.prompt_len(row)).collect();
            prompts.push(Prompt { row, ids, references: Vec::new() });
        }
        references.read(files, |n, found| prompts[n].references = found)?;
        prompts.retain(|prompt| !prompt.references.is_empty());
        let settings = &config.settings;
        // Apart from the draws that training itself makes of the same rows' numbers.
        let seed = draw(settings.seed, Stream::Sample, u64::MAX, 0);
        let sampling = Sampling { seed, ..sampling(settings, material, most) };
        Ok((!prompts.is_empty()).then_some(Sampled { prompts, settings: sampling }))
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
                return Ok(Found { rouge_l: None, shown: Vec::new() });
            }
            Err(e) => return Err(e),
        };
        let scores: Vec<f64> = self.prompts.iter().zip(&answers).map(|(p, a)| 100.0 * p.score(a)).collect();
        let shown = self.prompts.iter().zip(&answers).zip(&scores).take(SHOWN);
        let shown = shown.map(|((p, a), score)| p.line(a, *score, material)).collect::<Result<_>>()?;
        Ok(Found { rouge_l: Some(bootstrap::mean(&scores, self.settings.seed)?), shown })
    }
}

impl Prompt {
    fn score(&self, answer: &Answer) -> f64 {
        rouge::best(&self.references, &answer.text).unwrap_or(0.0)
    }

    fn line(&self, answer: &Answer, score: f64, material: &Material) -> Result<Value> {
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
