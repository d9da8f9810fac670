//! `retort gap`: how far a student is from its teacher on given rows.

use serde::Serialize;

use super::args::{Common, Gap as Arguments};
use super::models::{self, read_rows_with};
use super::output::{Out, table};
use super::progress::Progress;
use crate::decode::{Speaker, Use};
use crate::error::{Error, Result};
use crate::model::gap::{Gap, Given, gaps};
use crate::signal;

/// Rows that are brought together before they are sorted by length and cut into batches.
const WINDOW: usize = 256;

pub(super) fn run(args: &Arguments, common: &Common) -> Result<()> {
    args.rows.need_input()?;
    let student = models::open(&args.student, common)?;
    let teacher = models::teacher_of(&student, &args.teacher, common)?;
    let vocabulary = student.model.shared_vocabulary(&teacher.model, student.tokenizer.vocab_size())?;
    let pair = [("student", &student), ("teacher", &teacher)];
    let check = |ids: &[u32]| check(ids, vocabulary, pair);
    let tokens = read_rows_with(&student, &args.rows, &args.rows.template, Use::Rows, &check)?;
    let given: Vec<Given<'_>> =
        tokens.encoded.iter().map(|e| Given { ids: &e.ids, prompt_len: e.prompt_len }).collect();
    if given.iter().all(|row| row.compared() == 0) {
        return Err(Error::data("there is nothing to compare on")
            .file(&tokens.file)
            .expected("a row with a response")
            .found("none")
            .advice("give the rows responses; a text, or ids, count from the second token on"));
    }
    let (own, teachers) = (student.model.shape().vocabulary, teacher.model.shape().vocabulary);
    if own != teachers {
        tracing::info!(
            "the student has {own} outputs, the teacher {teachers}: both are cut to the tokenizer's {vocabulary}"
        );
    }
    let mut answers = Answers {
        out: Out::to(args.rows.output.as_deref())?,
        json: common.json || args.rows.output.is_some(),
        lines: vec![heading()],
    };
    let mut progress = Progress::new("rows compared", given.len(), common.quiet);
    let mut all = Gap::default();
    for (n, window) in given.chunks(WINDOW).enumerate() {
        let found = gaps(&teacher.model, &student.model, vocabulary, window, &mut |rows| {
            progress.add(rows);
            signal::check()
        })?;
        for (i, gap) in found.iter().enumerate() {
            let row = n * WINDOW + i;
            gap.check_finite().map_err(|e| e.at_row(&tokens.file, tokens.lines[row]))?;
            answers.take(&(row + 1).to_string(), gap)?;
            all.add(gap);
        }
    }
    drop(progress);
    answers.take("all", &all)?;
    answers.finish()
}

/// Refuses what is no token of the tokenizer's, and rows that one of the models has no room for.
fn check(ids: &[u32], vocabulary: usize, pair: [(&str, &Speaker); 2]) -> Result<()> {
    if let Some(at) = ids.iter().position(|&id| id as usize >= vocabulary) {
        return Err(Error::data("not a token that both models can say")
            .field(format!("token {}", at + 1))
            .expected(format!("an id below {vocabulary}"))
            .found(ids[at]));
    }
    for (who, loaded) in pair {
        let context = loaded.model.shape().context;
        if ids.len() as i64 > context {
            return Err(Error::data(format!("a row is longer than the {who}'s context"))
                .expected(format!("at most {context} tokens"))
                .found(ids.len())
                .advice("shorten it, or put such rows aside with --skip-invalid"));
        }
    }
    Ok(())
}

/// A line of the answer: means over response tokens, none where there is no such token.
#[derive(Serialize)]
struct Line {
    forward_kl: Option<f32>,
    reverse_kl: Option<f32>,
    jsd: Option<f32>,
    tvd: Option<f32>,
    nll_teacher: Option<f32>,
    nll_student: Option<f32>,
    top1: Option<f32>,
    tokens: usize,
}

impl Line {
    fn of(gap: &Gap) -> Self {
        let [forward_kl, reverse_kl, jsd, tvd, nll_teacher, nll_student, top1] =
            gap.means().map_or([None; 7], |means| means.map(|x| Some(x as f32)));
        Line { forward_kl, reverse_kl, jsd, tvd, nll_teacher, nll_student, top1, tokens: gap.tokens }
    }
}

/// Where lines go.
struct Answers {
    out: Out,
    json: bool,
    lines: Vec<Vec<String>>,
}

impl Answers {
    fn take(&mut self, row: &str, gap: &Gap) -> Result<()> {
        if self.json {
            return self.out.json(&Line::of(gap));
        }
        let mut line = vec![row.to_string(), gap.tokens.to_string()];
        match gap.means() {
            Some(means) => line.extend(means.map(|x| format!("{x:.4}"))),
            None => line.extend(Gap::NAMES.map(|_| "-".to_string())),
        }
        self.lines.push(line);
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        if !self.json {
            self.out.text(&table(&self.lines))?;
        }
        self.out.finish()
    }
}

/// The table's first row.
fn heading() -> Vec<String> {
    ["row", "tokens"].into_iter().chain(Gap::NAMES).map(String::from).collect()
}
