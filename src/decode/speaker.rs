//! A model folder that is ready to answer: weights, tokenizer, template, and what ends its replies.

use std::path::Path;

use super::{Finish, Reply, Sampling};
use crate::data::{Encoder, Row, Schema};
use crate::error::{Error, Result};
use crate::model::{CausalLm, LoadOptions, read_design};
use crate::text::{Template, TemplateChoice, Tokenizer, eos_ids, turn_end};

/// A model that is read, with what makes tokens for it.
///
/// ```no_run
/// use retort::decode::{Sampling, Speaker, replies};
/// use retort::model::LoadOptions;
///
/// let speaker = Speaker::open("models/tiny".as_ref(), LoadOptions::default())?;
/// let prompts = speaker.prompts(["Name a river."])?;
/// let settings = speaker.sampling(Sampling::default());
/// let replies = replies(&speaker.model, &[prompts[0].as_slice()], &settings, 32)?;
/// println!("{}", speaker.response(&replies[0])?);
/// # Ok::<(), retort::error::Error>(())
/// ```
#[derive(Debug)]
pub struct Speaker {
    /// Its weights.
    pub model: CausalLm,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The tokens that end its replies.
    pub eos: Vec<u32>,
}

impl Speaker {
    /// Reads a folder.
    pub fn open(folder: &Path, options: LoadOptions) -> Result<Self> {
        // The small files first: a mistake in them shows before anything large is read.
        read_design(folder)?;
        let tokenizer = Tokenizer::load(folder)?;
        let eos = eos_ids(folder, &tokenizer)?;
        let model = CausalLm::load(folder, options)?;
        Ok(Speaker { model, tokenizer, eos })
    }

    /// These settings with what depends on the model: where replies end, and what may be chosen.
    pub fn sampling(&self, settings: Sampling) -> Sampling {
        Sampling { eos: self.eos.clone(), vocabulary: self.tokenizer.vocab_size(), ..settings }
    }

    /// The encoder for rows of this schema.
    pub fn encoder(&self, choice: &TemplateChoice, schema: Schema) -> Result<Encoder<'_>> {
        let template = Template::resolve(choice, &self.tokenizer, schema.has_instruction())?;
        tracing::debug!(template = template.name(), "template");
        let encoder = Encoder::new(&self.tokenizer, template, turn_end(&self.eos, &self.tokenizer));
        // Ids as they are may name any row of the model, padding rows too, as in transformers.
        Ok(encoder.with_limit(self.model.shape().vocabulary as usize))
    }

    /// Plain prompts in the model's own template, as tokens.
    pub fn prompts<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<Vec<u32>>> {
        let encoder = self.encoder(&TemplateChoice::Auto, Schema::Prompt)?;
        let row = |text: &str| Row::Prompt { prompt: text.to_string(), responses: Vec::new() };
        texts.into_iter().map(|text| encoder.prompt(&row(text))).collect()
    }

    /// A reply as text, without the token that ended it.
    pub fn response(&self, reply: &Reply) -> Result<String> {
        let ids = match (reply.finish, reply.ids.split_last()) {
            (Finish::Eos, Some((_, before))) => before,
            _ => &reply.ids,
        };
        self.tokenizer.decode(ids, true)
    }

    /// Refuses tokens that the embedding has no row for, and more of them than the model's context holds.
    pub fn check(&self, ids: &[u32], purpose: Use) -> Result<()> {
        let (rows, context) = (self.model.shape().vocabulary, self.model.shape().context);
        if let Some(id) = ids.iter().find(|&&id| i64::from(id) >= rows) {
            return Err(Error::data("a token that the model has no row for")
                .expected(format!("an id below {rows}"))
                .found(id)
                .advice("is the tokenizer of another model?"));
        }
        let bad = |what: &str, expected: String| Err(Error::data(what).expected(expected).found(ids.len()));
        let reply = || format!("1 to {} tokens (the model's context is {context})", context - 1);
        match (purpose, ids.len() as i64) {
            (Use::Rows, n) if n > context => {
                bad("a row is longer than the model's context", format!("at most {context} tokens"))
            }
            (Use::Prompts, 0) => bad("a prompt has no tokens", reply()),
            (Use::Prompts, n) if n >= context => bad("a prompt leaves no room for a reply", reply()),
            _ => Ok(()),
        }
    }
}

/// What tokens are read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Prompt, response and all.
    Rows,
    /// The prompts, to be answered.
    Prompts,
}
