//! `retort generate`: replies to prompts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use super::args::{Common, Generate};
use super::models::{self, read_rows};
use super::output::Out;
use super::progress::Progress;
use crate::data::{Row, Schema};
use crate::decode::{Finish, Form, Mixture, Reply, Request, Speaker, Use, sample, sample_mixed};
use crate::error::{Error, Result};
use crate::model::score::check_finite;
use crate::text::TemplateChoice;

/// The teacher's share where --mix does not say: the papers'.
const MIX: f64 = 0.2;

pub(super) fn run(args: &Generate, common: &Common) -> Result<()> {
    let settings = args.sampling.settings();
    settings.check()?;
    if args.prompt.is_empty() {
        args.rows.need_input()?;
    }
    let loaded = models::open(&args.model, common)?;
    let teacher =
        args.teacher.as_deref().map(|name| models::teacher_of(&loaded, name, common)).transpose()?;
    let choice = if args.raw { TemplateChoice::Plain } else { args.rows.template.clone() };
    let prompts = prompts(&loaded, args, &choice)?;
    for (n, ids) in prompts.ids.iter().enumerate() {
        if let Some(teacher) = &teacher {
            teacher.check(ids, Use::Prompts).map_err(|e| prompts.place(e.field("teacher"), n))?;
        }
    }
    let settings = loaded.sampling(settings);
    let requests = prompts.requests(args.samples);
    let mut answers = Answers {
        out: Out::to(args.rows.output.as_deref())?,
        loaded: &loaded,
        prompts: &prompts,
        samples: args.samples,
        look: match (common.json || args.rows.output.is_some(), requests.len()) {
            (true, _) => Look::Json,
            (false, 1) => Look::Alone,
            (false, _) => Look::Quoted,
        },
        early: BTreeMap::new(),
        written: 0,
        cut_short: 0,
    };
    let mut progress = Progress::new("replies", requests.len(), common.quiet);
    let done = &mut |n: usize, reply: Reply| {
        progress.add(1);
        answers.take(n, reply)
    };
    match &teacher {
        None => sample(&loaded.model, &requests, &settings, args.batch, done)?,
        Some(teacher) => {
            let mixture = Mixture {
                teacher: &teacher.model,
                alpha: args.mix.unwrap_or(MIX),
                form: Form::COINS,
                scores: false,
                states: false,
            };
            sample_mixed(&loaded.model, mixture, &requests, &settings, args.batch, done).map(|_| ())?;
        }
    }
    drop(progress);
    answers.finish()
}

/// Replies come as they end, and are written in the order of the prompts.
struct Answers<'a> {
    out: Out,
    loaded: &'a Speaker,
    prompts: &'a Prompts,
    samples: usize,
    look: Look,
    early: BTreeMap<usize, Reply>,
    written: usize,
    cut_short: usize,
}

/// Nothing is drawn from a distribution that is none: where the filters leave no token, or overflow.
pub(super) fn check_drawn(reply: &Reply) -> Result<()> {
    match reply.drawn.iter().position(|p| p.is_nan()) {
        None => Ok(()),
        Some(at) => Err(Error::numeric("the filters leave nothing to draw from")
            .field(format!("token {}", at + 1))
            .advice("a temperature nearer to 1, or a longer --no-repeat-ngram")),
    }
}

/// How answers look.
enum Look {
    Json,
    /// The reply and nothing else.
    Alone,
    /// Below its prompt.
    Quoted,
}

impl Answers<'_> {
    fn take(&mut self, n: usize, reply: Reply) -> Result<()> {
        let place = |e| self.prompts.place(e, n / self.samples);
        check_finite(&reply.logprobs, 0).and_then(|()| check_drawn(&reply)).map_err(place)?;
        self.early.insert(n, reply);
        while let Some(reply) = self.early.remove(&self.written) {
            self.write(&self.prompts.texts[self.written / self.samples], &reply)?;
            self.written += 1;
        }
        Ok(())
    }

    fn write(&mut self, prompt: &str, reply: &Reply) -> Result<()> {
        let response = self.loaded.response(reply)?;
        self.cut_short += usize::from(reply.finish == Finish::Context);
        match self.look {
            Look::Json => self.out.json(&json!({
                "prompt": prompt, "response": response, "ids": reply.ids,
                "logprobs": reply.logprobs, "finish": reply.finish.name(),
            })),
            Look::Alone => self.out.text(&format!("{response}\n")),
            Look::Quoted => self.out.text(&format!("> {}\n{response}\n\n", prompt.replace('\n', "\n> "))),
        }
    }

    fn finish(self) -> Result<()> {
        if self.cut_short > 0 {
            let context = self.loaded.model.shape().context;
            tracing::warn!(
                "{} replies end where the model's context of {context} tokens ends",
                self.cut_short
            );
        }
        self.out.finish()
    }
}

/// The prompts as they were given, and as tokens.
struct Prompts {
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    /// The file of rows and the line of each, where they came from one.
    rows: Option<(PathBuf, Vec<usize>)>,
}

impl Prompts {
    /// Every prompt as often as it is to be answered.
    fn requests(&self, samples: usize) -> Vec<Request<'_>> {
        let of_row = |(row, prompt)| (0..samples).map(move |sample| (row, prompt, sample));
        self.ids
            .iter()
            .enumerate()
            .flat_map(of_row)
            .map(|(row, prompt, sample): (usize, &Vec<u32>, usize)| Request {
                prompt,
                row: row as u64,
                sample: sample as u32,
            })
            .collect()
    }

    /// An error with the place of the prompt that it is about.
    fn place(&self, e: Error, prompt: usize) -> Error {
        match &self.rows {
            Some((file, lines)) => e.at_row(file, lines[prompt]),
            None => e,
        }
    }
}

fn prompts(loaded: &Speaker, args: &Generate, choice: &TemplateChoice) -> Result<Prompts> {
    if args.prompt.is_empty() {
        let tokens = read_rows(loaded, &args.rows, choice, Use::Prompts)?;
        let encoder = loaded.encoder(choice, Schema::Prompt)?;
        let texts: Result<Vec<String>> = tokens
            .rows
            .iter()
            .zip(&tokens.encoded)
            .map(|(row, encoded)| match row {
                Row::Prompt { prompt, .. } | Row::Choices { prompt, .. } => Ok(prompt.clone()),
                Row::Ids { .. } => loaded.tokenizer.decode(encoded.prompt(), false),
                row => encoder.prompt_text(row),
            })
            .collect();
        let ids = tokens.encoded.into_iter().map(|e| e.ids).collect();
        return Ok(Prompts { texts: texts?, ids, rows: Some((tokens.file, tokens.lines)) });
    }
    let encoder = loaded.encoder(choice, Schema::Prompt)?;
    let ids: Result<Vec<Vec<u32>>> = args
        .prompt
        .iter()
        .map(|prompt| {
            let ids = encoder.prompt(&Row::Prompt { prompt: prompt.clone(), responses: Vec::new() })?;
            loaded.check(&ids, Use::Prompts)?;
            Ok(ids)
        })
        .collect();
    Ok(Prompts { texts: args.prompt.clone(), ids: ids?, rows: None })
}
