//! `retort generate`: replies to prompts.

use std::path::PathBuf;

use serde_json::json;

use super::args::{Common, Generate};
use super::models::{Loaded, Use, read_rows};
use super::output::Out;
use super::progress::Progress;
use crate::data::{Row, Schema};
use crate::decode::{Finish, Limits, Reply, greedy};
use crate::error::{Error, Result};
use crate::model::score::check_finite;
use crate::signal;
use crate::text::TemplateChoice;

pub(super) fn run(args: &Generate, common: &Common) -> Result<()> {
    if !args.greedy {
        return Err(Error::user("replies are not sampled yet")
            .expected("--greedy")
            .advice("add --greedy for the most probable reply"));
    }
    if args.prompt.is_empty() {
        args.rows.need_input()?;
    }
    let loaded = Loaded::open(&args.model, common)?;
    let choice = if args.raw { TemplateChoice::Plain } else { args.rows.template.clone() };
    let prompts = prompts(&loaded, args, &choice)?;
    let limits = Limits {
        max_new_tokens: args.max_new_tokens,
        eos: loaded.eos.clone(),
        vocabulary: loaded.tokenizer.vocab_size(),
    };
    let mut out = Out::to(args.rows.output.as_deref())?;
    let mut progress = Progress::new("replies", prompts.ids.len(), common.quiet);
    let json = common.json || args.rows.output.is_some();
    let mut answered = 0;
    for batch in prompts.ids.chunks(args.batch) {
        signal::check()?;
        let batch: Vec<&[u32]> = batch.iter().map(Vec::as_slice).collect();
        for reply in greedy(&loaded.model, &batch, &limits)? {
            check_finite(&reply.logprobs, 0).map_err(|e| prompts.place(e, answered))?;
            let text = &prompts.texts[answered];
            answered += 1;
            let response = response(&loaded, &reply)?;
            if json {
                out.json(&json!({
                    "prompt": text, "response": response, "ids": reply.ids,
                    "logprobs": reply.logprobs, "finish": reply.finish.name(),
                }))?;
            } else if args.prompt.len() == 1 {
                out.text(&format!("{response}\n"))?;
            } else {
                out.text(&format!("> {}\n{response}\n\n", text.replace('\n', "\n> ")))?;
            }
        }
        progress.add(batch.len());
    }
    drop(progress);
    out.finish()
}

/// The reply as text, without the token that ended it.
fn response(loaded: &Loaded, reply: &Reply) -> Result<String> {
    let ids = match (reply.finish, reply.ids.split_last()) {
        (Finish::Eos, Some((_, before))) => before,
        _ => &reply.ids,
    };
    loaded.tokenizer.decode(ids, true)
}

/// The prompts as they were given, and as tokens.
struct Prompts {
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    /// The file of rows and the line of each, where they came from one.
    rows: Option<(PathBuf, Vec<usize>)>,
}

impl Prompts {
    /// An error with the place of the prompt that it is about.
    fn place(&self, e: Error, prompt: usize) -> Error {
        match &self.rows {
            Some((file, lines)) => e.at_row(file, lines[prompt]),
            None => e,
        }
    }
}

fn prompts(loaded: &Loaded, args: &Generate, choice: &TemplateChoice) -> Result<Prompts> {
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
