//! The rows that `eval` measures on, read once for all metrics.

use super::{Arguments, Metric};
use crate::cli::models::rejects_of;
use crate::data::{self, Encoded, Encoder, Row, Schema};
use crate::decode::{Speaker, Use};
use crate::error::{Error, Result};
use crate::eval::text_metrics::length;

/// What is needed of every row.
#[derive(Debug)]
pub(super) struct Given {
    /// The prompts, to be answered.
    pub prompts: Vec<Vec<u32>>,
    /// Prompts and responses, for perplexity.
    pub whole: Vec<Encoded>,
    /// A row for each choice, and which one is right.
    pub questions: Vec<(Vec<Encoded>, usize)>,
    /// What replies are compared with.
    pub texts: Texts,
}

/// What of the rows is there without a model.
#[derive(Debug)]
pub(super) struct Texts {
    /// The references of each row.
    pub references: Vec<Vec<String>>,
    /// What each row asks, where it asks something.
    pub asked: Vec<Option<String>>,
}

impl Texts {
    fn of(rows: &[Row]) -> Self {
        let references = |row: &Row| row.references().into_iter().map(String::from).collect();
        Texts {
            references: rows.iter().map(references).collect(),
            asked: rows.iter().map(Row::question).collect(),
        }
    }

    /// The words of each row's first reference.
    pub fn words(&self) -> Vec<Option<usize>> {
        self.references.iter().map(|all| all.first().map(|text| length(text))).collect()
    }
}

/// A row as it was taken.
#[derive(Debug, Default)]
struct Taken {
    prompt: Vec<u32>,
    whole: Option<Encoded>,
    question: Option<(Vec<Encoded>, usize)>,
}

/// Reads and encodes them; a row that a metric cannot take is a bad row.
pub(super) fn read(
    args: &Arguments,
    metrics: &[Metric],
    model: &Speaker,
    teacher: Option<&Speaker>,
) -> Result<Given> {
    let reading = Reading { metrics, model, teacher };
    let mut encoder: Option<Encoder<'_>> = None;
    let (rows, taken) = rows(args, &mut |schema, row| {
        let encoder = match &mut encoder {
            Some(encoder) => encoder,
            none => none.insert(model.encoder(&args.rows.template, schema)?),
        };
        check_texts(metrics, row)?;
        reading.row(encoder, row)
    })?;
    let mut given =
        Given { prompts: Vec::new(), whole: Vec::new(), questions: Vec::new(), texts: Texts::of(&rows) };
    for row in taken {
        given.prompts.push(row.prompt);
        given.whole.extend(row.whole);
        given.questions.extend(row.question);
    }
    Ok(given)
}

/// The texts of rows whose replies are there already.
pub(super) fn texts(args: &Arguments, metrics: &[Metric]) -> Result<Texts> {
    if args.rows.skip_invalid {
        return Err(Error::user("rows cannot be passed over where replies were made to them")
            .field("--skip-invalid")
            .advice("leave it out: the n-th reply is that to the n-th row"));
    }
    let (rows, _) = rows(args, &mut |_, row| check_texts(metrics, row))?;
    Ok(Texts::of(&rows))
}

fn rows<T>(
    args: &Arguments,
    accept: &mut dyn FnMut(Schema, &Row) -> Result<T>,
) -> Result<(Vec<Row>, Vec<T>)> {
    let file = args.rows.need_input()?;
    let rejects = args.rows.skip_invalid.then(|| rejects_of(file, args.rows.output.as_deref()));
    let (read, made) = data::read_with(file, rejects.as_deref(), accept)?;
    if let Some((n, path)) = &read.rejected {
        tracing::warn!("{n} bad rows are in {}", path.display());
    }
    Ok((read.rows, made))
}

fn check_texts(metrics: &[Metric], row: &Row) -> Result<()> {
    match metrics.iter().find(|metric| metric.needs_references()) {
        Some(metric) if row.references().is_empty() => Err(Error::data("a row without a reference")
            .field("response")
            .advice(format!("{} compares replies with references", metric.name()))),
        _ if metrics.contains(&Metric::Judge) && row.question().is_none() => {
            Err(Error::data("a row that asks nothing")
                .field("prompt")
                .advice("a judge is shown what was asked"))
        }
        _ => Ok(()),
    }
}

struct Reading<'a> {
    metrics: &'a [Metric],
    model: &'a Speaker,
    teacher: Option<&'a Speaker>,
}

impl Reading<'_> {
    fn wants(&self, metric: Metric) -> bool {
        self.metrics.contains(&metric)
    }

    /// Refuses tokens that one of the models cannot take.
    fn check(&self, ids: &[u32], purpose: Use) -> Result<()> {
        self.model.check(ids, purpose)?;
        self.teacher.map_or(Ok(()), |teacher| teacher.check(ids, purpose).map_err(|e| e.field("teacher")))
    }

    fn row(&self, encoder: &Encoder<'_>, row: &Row) -> Result<Taken> {
        let mut taken = Taken::default();
        if self.metrics.iter().any(|m| m.is_of_replies()) || self.wants(Metric::Exposure) {
            taken.prompt = encoder.prompt(row)?;
            self.check(&taken.prompt, Use::Prompts)?;
            self.check_both(&taken.prompt)?;
        }
        if self.wants(Metric::Perplexity) {
            let whole = encoder.encode(row)?;
            self.check(&whole.ids, Use::Rows)?;
            taken.whole = Some(whole);
        }
        if self.wants(Metric::Ece) {
            taken.question = Some(self.question(encoder, row)?);
        }
        Ok(taken)
    }

    /// Exposure is measured on ids that both can say: a prompt of other ids has no part in it.
    fn check_both(&self, ids: &[u32]) -> Result<()> {
        let most = self.model.tokenizer.vocab_size();
        match ids.iter().position(|&id| id as usize >= most) {
            Some(at) if self.wants(Metric::Exposure) => {
                Err(Error::data("not a token that both models can say")
                    .field(format!("token {}", at + 1))
                    .expected(format!("an id below {most}"))
                    .found(ids[at]))
            }
            _ => Ok(()),
        }
    }

    /// The prompt with each choice behind it.
    fn question(&self, encoder: &Encoder<'_>, row: &Row) -> Result<(Vec<Encoded>, usize)> {
        let Row::Choices { choices, answer, .. } = row else {
            return Err(Error::data("a row without choices")
                .field("choices")
                .advice("ece is measured on rows of {\"prompt\", \"choices\", \"answer\"}"));
        };
        let prompt = encoder.prompt(row)?;
        let choice = |text: &String| {
            let mut ids = prompt.clone();
            ids.extend(self.model.tokenizer.encode(text, false)?);
            if ids.len() == prompt.len() || prompt.is_empty() {
                return Err(Error::data("a choice or its prompt has no tokens").field("choices"));
            }
            self.check(&ids, Use::Rows)?;
            Ok(Encoded { prompt_len: prompt.len(), ids })
        };
        Ok((choices.iter().map(choice).collect::<Result<_>>()?, *answer))
    }
}
