//! What several commands do first: find a model, its tokenizer, its rows.

use std::path::{Path, PathBuf};

use super::args::{Common, Rows};
use crate::data::{self, Encoded, Encoder, Row, Schema};
use crate::decode::{Speaker, Use};
use crate::error::Result;
use crate::model::LoadOptions;
use crate::text::TemplateChoice;
use crate::weights::{Residence, locate};

/// A model by its folder or name, as the command line asks for it.
pub(super) fn open(name: &str, common: &Common) -> Result<Speaker> {
    let folder = locate::model_folder(name)?;
    let device = common.device.resolve()?;
    let kind = common.dtype.resolve(device);
    let options = LoadOptions { kind, device, residence: Residence::Mapped, check_finite: true };
    let speaker = Speaker::open(&folder, options)?;
    tracing::debug!(?device, ?kind, folder = %folder.display(), "model loaded");
    Ok(speaker)
}

/// The model that teaches this one: it must speak of the same tokens.
pub(super) fn teacher_of(student: &Speaker, name: &str, common: &Common) -> Result<Speaker> {
    let teacher = open(name, common)?;
    if let Some(warning) = student.tokenizer.agree(&teacher.tokenizer)? {
        tracing::warn!("{warning}");
    }
    Ok(teacher)
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
    loaded: &Speaker,
    args: &Rows,
    choice: &TemplateChoice,
    purpose: Use,
) -> Result<Tokens> {
    read_rows_with(loaded, args, choice, purpose, &|ids| loaded.check(ids, purpose))
}

/// The same with another check of what makes a row a bad one.
pub(super) fn read_rows_with(
    loaded: &Speaker,
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
