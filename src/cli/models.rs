//! What several commands do first: find a model, its tokenizer, its rows.

use std::path::{Path, PathBuf};

use super::args::{Common, Rows};
use crate::data::{self, Encoded, Encoder, Row, Schema};
use crate::decode::{Finish, Reply, Sampling};
use crate::error::{Error, Result};
use crate::model::{CausalLm, LoadOptions};
use crate::text::{Template, TemplateChoice, Tokenizer, eos_ids, turn_end};
use crate::weights::{Residence, locate};

/// A model that is read, with what makes tokens for it.
pub(super) struct Loaded {
    pub model: CausalLm,
    pub tokenizer: Tokenizer,
    pub eos: Vec<u32>,
}

impl Loaded {
    pub fn open(name: &str, common: &Common) -> Result<Self> {
        let folder = locate::model_folder(name)?;
        // The small files first: a mistake in them shows before anything large is read.
        crate::model::read_design(&folder)?;
        let tokenizer = Tokenizer::load(&folder)?;
        let eos = eos_ids(&folder, &tokenizer)?;
        let device = common.device.resolve()?;
        let options = LoadOptions {
            kind: common.dtype.resolve(device),
            device,
            residence: Residence::Mapped,
            check_finite: true,
        };
        let model = CausalLm::load(&folder, options)?;
        tracing::debug!(?device, kind = ?options.kind, folder = %folder.display(), "model loaded");
        Ok(Loaded { model, tokenizer, eos })
    }

    /// These settings with what depends on the model: where replies end, and what may be chosen.
    pub fn sampling(&self, settings: Sampling) -> Sampling {
        Sampling { eos: self.eos.clone(), vocabulary: self.tokenizer.vocab_size(), ..settings }
    }

    /// The model that teaches this one: it must speak of the same tokens.
    pub fn teacher(&self, name: &str, common: &Common) -> Result<Self> {
        let teacher = Self::open(name, common)?;
        if let Some(warning) = self.tokenizer.agree(&teacher.tokenizer)? {
            tracing::warn!("{warning}");
        }
        Ok(teacher)
    }

    /// A reply as text, without the token that ended it.
    pub fn response(&self, reply: &Reply) -> Result<String> {
        let ids = match (reply.finish, reply.ids.split_last()) {
            (Finish::Eos, Some((_, before))) => before,
            _ => &reply.ids,
        };
        self.tokenizer.decode(ids, true)
    }

    /// The encoder for rows of this schema.
    pub fn encoder(&self, choice: &TemplateChoice, schema: Schema) -> Result<Encoder<'_>> {
        let template = Template::resolve(choice, &self.tokenizer, schema.has_instruction())?;
        tracing::debug!(template = template.name(), "template");
        let encoder = Encoder::new(&self.tokenizer, template, turn_end(&self.eos, &self.tokenizer));
        // Ids as they are may name any row of the model, padding rows too, as in transformers.
        Ok(encoder.with_limit(self.model.shape().vocabulary as usize))
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

/// What rows are read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Prompt, response and all.
    Rows,
    /// The prompts, to be answered.
    Prompts,
}

/// Rows as tokens, with the row each came from.
pub(super) struct Tokens {
    pub file: PathBuf,
    pub rows: Vec<Row>,
    pub lines: Vec<usize>,
    pub encoded: Vec<Encoded>,
}

/// Reads and encodes a file of rows; for `Use::Prompts` the responses are left out. A row that the model
/// cannot take is a bad row.
pub(super) fn read_rows(
    loaded: &Loaded,
    args: &Rows,
    choice: &TemplateChoice,
    purpose: Use,
) -> Result<Tokens> {
    read_rows_with(loaded, args, choice, purpose, &|ids| loaded.check(ids, purpose))
}

/// The same with another check of what makes a row a bad one.
pub(super) fn read_rows_with(
    loaded: &Loaded,
    args: &Rows,
    choice: &TemplateChoice,
    purpose: Use,
    check: &dyn Fn(&[u32]) -> Result<()>,
) -> Result<Tokens> {
    let file = args.need_input()?;
    let rejects = args.skip_invalid.then(|| rejects_of(file, args.output.as_deref()));
    let mut encoder: Option<Encoder<'_>> = None;
    let mut accept = |schema: Schema, row: &Row| {
        let encoder = match &mut encoder {
            Some(encoder) => encoder,
            none => none.insert(loaded.encoder(choice, schema)?),
        };
        let tokens = match purpose {
            Use::Rows => encoder.encode(row)?,
            Use::Prompts => encoder.prompt(row).map(|ids| Encoded { prompt_len: ids.len(), ids })?,
        };
        check(&tokens.ids)?;
        Ok(tokens)
    };
    let (read, encoded) = data::read_with(file, rejects.as_deref(), &mut accept)?;
    if let Some((n, path)) = &read.rejected {
        tracing::warn!("{n} bad rows are in {}", path.display());
    }
    Ok(Tokens { file: file.to_path_buf(), rows: read.rows, lines: read.lines, encoded })
}

pub(super) fn rejects_of(input: &Path, output: Option<&Path>) -> PathBuf {
    let beside = output.unwrap_or(input).parent().unwrap_or(Path::new(""));
    data::reader::rejects_path(input, beside)
}
