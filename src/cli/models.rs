//! What several commands do first: find a model, its tokenizer, its rows.

use std::path::{Path, PathBuf};

use super::args::{Common, Rows};
use crate::data::{self, Encoded, Encoder, Row, Schema};
use crate::error::{Error, Result};
use crate::model::{CausalLm, LoadOptions};
use crate::text::{Template, TemplateChoice, Tokenizer, eos_ids, turn_end};
use crate::weights::{Residence, locate};

/// A model that is read, with what makes tokens for it.
pub(super) struct Loaded {
    pub folder: PathBuf,
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
        Ok(Loaded { folder, model, tokenizer, eos })
    }

    /// The encoder for rows of this schema.
    pub fn encoder(&self, choice: &TemplateChoice, schema: Schema) -> Result<Encoder<'_>> {
        let template = Template::resolve(choice, &self.tokenizer, schema.has_instruction())?;
        tracing::debug!(template = template.name(), "template");
        Ok(Encoder::new(&self.tokenizer, template, turn_end(&self.eos, &self.tokenizer)))
    }

    /// Refuses tokens that the embedding has no row for.
    pub fn check_ids(&self, ids: &[u32]) -> Result<()> {
        let rows = self.model.shape().vocabulary;
        match ids.iter().find(|&&id| i64::from(id) >= rows) {
            None => Ok(()),
            Some(id) => Err(Error::data("the tokenizer has a token that the model has no row for")
                .expected(format!("an id below {rows}"))
                .found(id)
                .advice("the tokenizer is of another model")),
        }
    }
}

/// Rows as tokens, with the line each came from.
pub(super) struct Tokens {
    pub file: PathBuf,
    pub rows: Vec<Row>,
    pub lines: Vec<usize>,
    pub encoded: Vec<Encoded>,
}

/// Reads and encodes a file of rows; `prompts_only` leaves the responses out.
pub(super) fn read_rows(
    loaded: &Loaded,
    args: &Rows,
    choice: &TemplateChoice,
    prompts_only: bool,
) -> Result<Tokens> {
    let file = args.need_input()?;
    let rejects = args.skip_invalid.then(|| rejects_of(file, args.output.as_deref()));
    let read = data::read(file, rejects.as_deref())?;
    if let Some((n, path)) = &read.rejected {
        tracing::warn!("{n} bad rows are in {}", path.display());
    }
    let encoder = loaded.encoder(choice, read.schema)?;
    let mut encoded = Vec::with_capacity(read.rows.len());
    for (row, &line) in read.rows.iter().zip(&read.lines) {
        let at = |e: Error| e.at_row(file, line);
        let tokens = if prompts_only {
            encoder.prompt(row).map(|ids| Encoded { prompt_len: ids.len(), ids })
        } else {
            encoder.encode(row)
        };
        let tokens = tokens.map_err(at)?;
        loaded.check_ids(&tokens.ids).map_err(at)?;
        encoded.push(tokens);
    }
    Ok(Tokens { file: file.to_path_buf(), rows: read.rows, lines: read.lines, encoded })
}

fn rejects_of(input: &Path, output: Option<&Path>) -> PathBuf {
    let beside = output.unwrap_or(input).parent().unwrap_or(Path::new(""));
    data::reader::rejects_path(input, beside)
}
