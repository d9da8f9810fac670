//! Files of rows -> a file of tokens, in memory of a few thousand rows: read, tokenised on all threads,
//! written, chunk by chunk. A file that was made from the same before is taken as it is.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::encode::Encoder;
use super::fit::{Fitted, Limits};
use super::reader::{Reader, rejects_path};
use super::rows::{Row, Schema};
use super::tokens::{Counts, Origin, TokenFile, Writer};
use crate::config::Learn;
use crate::error::{Error, Result};
use crate::signal;
use crate::store::hash::{self, Hasher};
use crate::text::{Template, TemplateChoice, Tokenizer};

/// Rows that are in memory together.
const CHUNK: usize = 4096;

/// What rows are read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Their responses, to be learnt.
    Responses,
    /// Their prompts, to be answered: responses are left out.
    Prompts,
}

/// What makes tokens of rows.
#[derive(Debug, Clone)]
pub struct Preparation<'a> {
    /// The files.
    pub files: &'a [PathBuf],
    /// The student's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// How rows become text.
    pub template: &'a TemplateChoice,
    /// What goes behind a response.
    pub eos: Option<u32>,
    /// The longest parts of a row.
    pub limits: Limits,
    /// The longest row, of `ids` rows too.
    pub context: usize,
    /// The bound of ids in `ids` rows.
    pub vocabulary: usize,
    /// What is wanted of the rows.
    pub need: Need,
    /// Which replies of a conversation are learnt.
    pub learn: Learn,
    /// The folder, or the device, that bad rows go to; none stops at the first.
    pub rejects: Option<&'a Path>,
}

impl Preparation<'_> {
    /// The tokens, from the file at `cache` where it was made of the same.
    pub fn run(&self, cache: &Path) -> Result<TokenFile> {
        let fingerprint = self.fingerprint()?;
        if let Some(file) = TokenFile::open(cache, &fingerprint)? {
            tracing::debug!(cache = %cache.display(), rows = file.rows(), "tokens made before");
            return Ok(file);
        }
        let mut writer = Writer::create(cache)?;
        self.files(&mut writer)?;
        writer.finish(&fingerprint)?;
        TokenFile::open(cache, &fingerprint)?
            .ok_or_else(|| Error::bug("a file of tokens cannot be read again").file(cache))
    }

    /// What would become of the rows, and the length of the longest; nothing is written but where `rejects`
    /// says.
    pub fn count(&self) -> Result<(Counts, usize)> {
        let mut writer = Writer::counting();
        self.files(&mut writer)?;
        Ok((*writer.counts(), writer.longest()))
    }

    fn files(&self, writer: &mut Writer) -> Result<()> {
        self.files.iter().zip(0..).try_for_each(|(file, n)| self.file(file, n, writer))
    }

    /// What all of it depends on.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hasher = Hasher::default();
        for file in self.files {
            if !file.is_file() {
                let what = if file.exists() { "not a file" } else { "no such file" };
                return Err(Error::user(what).file(file).expected("a file of rows"));
            }
            hasher.part(hash::of_long_file(file)?.1.as_bytes());
        }
        hasher.part(self.tokenizer.identity()?.as_bytes());
        if let TemplateChoice::File(path) = self.template {
            hasher.part(hash::of_long_file(path)?.1.as_bytes());
        }
        let rest =
            (self.template, self.eos, self.limits, self.context, self.vocabulary, self.need, self.learn);
        hasher.part(format!("{rest:?} {:?}", self.rejects.is_some()).as_bytes());
        Ok(hasher.hex())
    }

    fn file(&self, path: &Path, number: u32, writer: &mut Writer) -> Result<()> {
        let mut reader = Reader::open(path)?;
        if let Some(folder) = self.rejects {
            // A device takes them all.
            let device = folder.exists() && !folder.is_dir();
            let to = if device { folder.to_path_buf() } else { rejects_path(path, folder) };
            reader = reader.skip_invalid(&to)?;
        }
        let mut encoder: Option<Encoder<'_>> = None;
        loop {
            let mut chunk: Vec<(usize, Vec<u8>, Row)> = Vec::new();
            while chunk.len() < CHUNK {
                signal::check()?;
                match reader.next_with_bytes()? {
                    Some(row) => chunk.push(row),
                    None => break,
                }
            }
            let Some(schema) = reader.schema().filter(|_| !chunk.is_empty()) else { break };
            let encoder = match &encoder {
                Some(encoder) => encoder,
                None => encoder.insert(self.encoder(schema)?),
            };
            let made: Vec<Result<Fitted>> =
                chunk.par_iter().map(|(_, _, row)| self.row(encoder, row)).collect();
            for ((line, bytes, _), made) in chunk.iter().zip(made) {
                match made {
                    Ok(row) => add(writer, &row, Origin { file: number, line: *line as u32 })?,
                    Err(e) => reader.reject_later(*line, bytes, e)?,
                }
            }
        }
        if let Some((rejected, path)) = reader.finish()? {
            tracing::warn!("{rejected} bad rows are in {}", path.display());
            writer.counts().rejected += rejected;
        }
        Ok(())
    }

    fn encoder(&self, schema: Schema) -> Result<Encoder<'_>> {
        let template = Template::resolve(self.template, self.tokenizer, schema.has_instruction())?;
        Ok(Encoder::new(self.tokenizer, template, self.eos).with_limit(self.vocabulary))
    }

    fn row(&self, encoder: &Encoder<'_>, row: &Row) -> Result<Fitted> {
        let fitted = match self.need {
            Need::Responses => {
                let without = || {
                    let e = Error::data("a row without a response").field("response");
                    e.advice("rows are learnt from: give each a response")
                };
                match (row, self.learn) {
                    (Row::Chat(messages), Learn::Replies) => {
                        encoder.fit_talk(messages, self.limits)?.ok_or_else(without)?
                    }
                    (Row::Text(_) | Row::Ids { .. }, _) => encoder.fit(row, self.limits)?,
                    _ if row.references().is_empty() => return Err(without()),
                    _ => encoder.fit(row, self.limits)?,
                }
            }
            Need::Prompts => {
                let (ids, shortened) = encoder.fit_prompt(row, self.limits.prompt)?;
                let tokens = super::Encoded { prompt_len: ids.len(), ids };
                Fitted::plain(tokens, shortened, false)
            }
        };
        if let Some(id) = fitted.tokens.ids.iter().find(|&&id| id as usize >= self.vocabulary) {
            return Err(Error::data("a token that the model has no row for")
                .expected(format!("an id below {}", self.vocabulary))
                .found(id)
                .advice("is the tokenizer of another model?"));
        }
        let (length, prompt_len) = (fitted.tokens.ids.len(), fitted.tokens.prompt_len);
        let bad = |what: &str, expected: String| Err(Error::data(what).expected(expected).found(length));
        match self.need {
            _ if length > self.context => {
                bad("a row is longer than the model's context", format!("at most {} tokens", self.context))
            }
            Need::Responses if length <= prompt_len.max(1) => {
                bad("a row has nothing to learn", "a token behind the prompt".into())
            }
            Need::Prompts if length == 0 || length == self.context => {
                bad("a prompt leaves no room", format!("1 to {} tokens", self.context - 1))
            }
            _ => Ok(fitted),
        }
    }
}

fn add(writer: &mut Writer, row: &Fitted, origin: Origin) -> Result<()> {
    writer.add_talk(&row.tokens.ids, row.tokens.prompt_len, &row.given, origin)?;
    writer.counts().shortened += usize::from(row.shortened);
    writer.counts().cut += usize::from(row.cut);
    writer.counts().left_out += row.left_out;
    writer.counts().last_alone += usize::from(row.last_alone);
    Ok(())
}
