//! The work behind each metric.

use serde_json::{Value, json};

use super::given::{Given, Texts};
use super::{Arguments, Found, Metric, SEED, object};
use crate::cli::args::Common;
use crate::cli::progress::Progress;
use crate::decode::{Sampling, Speaker};
use crate::error::{Error, Result};
use crate::eval::bootstrap::over_seeds;
use crate::eval::calibration::{BINS, Judged, calibration_error};
use crate::eval::exposure::{Pair, Settings, exposure};
use crate::eval::per_row::PerRow;
use crate::eval::perplexity::{costs, perplexity};
use crate::eval::replies::{Answer, answers};
use crate::eval::{rouge, text_metrics};
use crate::model::gap::Given as Row;
use crate::model::score::{check_finite, log_probabilities};
use crate::signal;

/// Replies to every row, for each seed.
#[derive(Debug)]
pub(super) struct Replies {
    /// By seed, then by row.
    pub seeds: Vec<Vec<Answer>>,
}

impl Replies {
    /// A metric of replies.
    pub fn measure(&self, metric: Metric, texts: &Texts) -> Result<Found> {
        let references = &texts.references;
        let share = |yes: bool| f64::from(u8::from(yes));
        let rows = match metric {
            Metric::RougeL => {
                self.by_row(|answer, row| 100.0 * rouge::best(&references[row], &answer.text).unwrap_or(0.0))
            }
            Metric::ExactMatch => self.by_row(|answer, row| {
                share(text_metrics::exact_match(&references[row], &answer.text) == Some(true))
            }),
            Metric::EosRate => self.by_row(|answer, _| share(answer.ended)),
            Metric::Length => self.by_row(|answer, _| text_metrics::length(&answer.text) as f64),
            _ => return self.distinct_4(),
        };
        Found::of_rows(metric, rows, &texts.words())
    }

    fn by_row(&self, score: impl Fn(&Answer, usize) -> f64) -> PerRow {
        let of_seed =
            |answers: &Vec<Answer>| answers.iter().enumerate().map(|(row, a)| score(a, row)).collect();
        PerRow::mean(over_seeds(&self.seeds.iter().map(of_seed).collect::<Vec<Vec<f64>>>()))
    }

    fn distinct_4(&self) -> Result<Found> {
        let pooled: Vec<Vec<&[u32]>> =
            self.seeds.iter().map(|answers| answers.iter().map(|a| a.ids.as_slice()).collect()).collect();
        let found = text_metrics::distinct_4(&pooled, SEED)?.ok_or_else(|| {
            Error::data("there is nothing to count").field("distinct_4").expected("a reply of four tokens")
        })?;
        Ok(Found::of(Metric::Distinct4, found))
    }
}

/// What a model is measured with.
pub(super) struct Work<'a> {
    pub args: &'a Arguments,
    pub common: &'a Common,
    pub model: &'a Speaker,
    pub teacher: Option<&'a Speaker>,
    pub rows: &'a Given,
}

impl Work<'_> {
    /// Seeds to sample with; the most probable tokens are the same with any.
    fn seeds(&self) -> Vec<u64> {
        match self.args.sampling.seed {
            Some(seed) => vec![seed],
            None if self.args.sampling.greedy => self.args.seeds[..1].to_vec(),
            None => self.args.seeds.clone(),
        }
    }

    fn sampling(&self) -> Sampling {
        self.model.sampling(self.args.sampling.settings())
    }

    fn prompts(&self) -> Vec<&[u32]> {
        self.rows.prompts.iter().map(Vec::as_slice).collect()
    }

    /// The model's replies.
    pub fn replies(&self) -> Result<Replies> {
        let (seeds, prompts) = (self.seeds(), self.prompts());
        let mut progress = Progress::new("replies", seeds.len() * prompts.len(), self.common.quiet);
        let model = (&self.model.model, &self.model.tokenizer);
        let of_seed = |seed| {
            let settings = Sampling { seed, ..self.sampling() };
            answers(model, &prompts, &settings, self.args.batch, &mut || progress.add(1))
        };
        Ok(Replies { seeds: seeds.into_iter().map(of_seed).collect::<Result<_>>()? })
    }

    /// Perplexity of the rows' responses.
    pub fn perplexity(&self) -> Result<Found> {
        let whole = &self.rows.whole;
        let rows: Vec<Row<'_>> =
            whole.iter().map(|e| Row { ids: &e.ids, prompt_len: e.prompt_len }).collect();
        let models = 1 + usize::from(self.teacher.is_some());
        let mut progress = Progress::new("rows scored", models * rows.len(), self.common.quiet);
        let mut of = |model: &Speaker| {
            costs(&model.model, &rows, &mut |n| {
                progress.add(n);
                signal::check()
            })
        };
        let (own, heard) = (of(self.model)?, self.teacher.map(of).transpose()?);
        let tokens: Vec<usize> = rows.iter().map(Row::compared).collect();
        let found = perplexity(&tokens, &own, heard.as_deref(), SEED)?;
        let part = |(n, cost): (&usize, &f64)| (*n > 0).then_some([*cost, *n as f64]);
        let parts = tokens.iter().zip(&own).map(part).collect();
        let rows = PerRow { parts, of: f64::exp };
        let mut answer = Found::of_rows(Metric::Perplexity, rows, &self.rows.texts.words())?;
        if let Some((teacher, gap)) = found.teacher {
            answer.beside.insert("teacher".into(), Value::Object(object(teacher)));
            answer.beside.insert("gap".into(), Value::Object(object(gap)));
        }
        Ok(answer)
    }

    /// Exposure bias of the model behind its own words.
    pub fn exposure(&self) -> Result<Found> {
        let teacher = self.teacher.ok_or_else(|| Error::bug("exposure without a teacher"))?;
        let (student, tokens) = (&self.model.model, self.model.tokenizer.vocab_size());
        let vocabulary = student.shared_vocabulary(&teacher.model, tokens)?;
        let pair = Pair { student, teacher: &teacher.model, vocabulary };
        let sampling = Sampling { vocabulary, ..self.sampling() };
        let seeds = match self.args.sampling.seed {
            Some(seed) => vec![seed],
            None => self.args.seeds.clone(),
        };
        let mut progress = Progress::new("pieces of exposure", 4 * seeds.len(), self.common.quiet);
        let settings = Settings { sampling, seeds, batch: self.args.batch, lmops: self.args.more.lmops };
        let points = exposure(pair, &self.prompts(), &settings, &mut || progress.add(1))?;
        let last = points.last().ok_or_else(|| Error::bug("a curve without a point"))?;
        let mut found = Found::of(Metric::Exposure, last.error);
        let curve = points.iter().map(|point| {
            let mut numbers = object(point.error);
            numbers.insert("l".into(), json!(point.l));
            Value::Object(numbers)
        });
        found.beside.insert("l".into(), json!(last.l));
        found.beside.insert("curve".into(), curve.collect());
        Ok(found)
    }

    /// Calibration on questions.
    pub fn calibration(&self) -> Result<Found> {
        let questions = &self.rows.questions;
        let all: Vec<&[u32]> =
            questions.iter().flat_map(|(choices, _)| choices.iter().map(|c| c.ids.as_slice())).collect();
        let mut progress = Progress::new("choices scored", all.len(), self.common.quiet);
        let scores = log_probabilities(&self.model.model, &all, &mut |n| {
            progress.add(n);
            signal::check()
        })?;
        let mut scores = scores.iter();
        let mut judged = Vec::with_capacity(questions.len());
        for (choices, answer) in questions {
            let mut sums = Vec::with_capacity(choices.len());
            for (choice, scores) in choices.iter().zip(scores.by_ref()) {
                let own = &scores[choice.prompt_len - 1..];
                check_finite(own, choice.prompt_len)?;
                sums.push(own.iter().map(|x| f64::from(*x)).sum());
            }
            judged.push(Judged::of(&sums, *answer));
        }
        let mut found = Found::of(Metric::Ece, calibration_error(&judged, SEED)?);
        let right = judged.iter().filter(|j| j.right).count() as f64 / judged.len().max(1) as f64;
        found.beside.insert("bins".into(), json!(BINS));
        found.beside.insert("accuracy".into(), json!(right));
        Ok(found)
    }
}
