//! Text -> documents as tokens, with EOS behind, which [`super::packed`] cuts into rows.
//!
//! In a file of JSON lines (`.jsonl`, `.json`, `.ndjson`) each `{"text"}` row is a document. In any other file
//! documents stand apart by blank lines; a line that is the EOS token's text ends one as well.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::reader::{LONGEST_LINE, Reader};
use super::rows::Row;
use super::tokens::{Counts, Origin, TokenFile, Writer};
use crate::error::{Error, Result};
use crate::signal;
use crate::store::hash::{self, Hasher};
use crate::text::Tokenizer;

/// Bytes of documents that are in memory together.
const CHUNK: usize = 8 << 20;
/// The longest piece of a document that is tokenised at once, in bytes; it ends where a line does.
const PIECE: usize = 1 << 20;

/// What makes tokens of documents.
#[derive(Debug, Clone)]
pub struct Corpus<'a> {
    /// The files.
    pub files: &'a [PathBuf],
    /// The student's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// What goes behind a document.
    pub eos: Option<u32>,
}

impl Corpus<'_> {
    /// The documents' tokens, from the file at `cache` where it was made of the same.
    pub fn run(&self, cache: &Path) -> Result<TokenFile> {
        let fingerprint = self.fingerprint()?;
        if let Some(file) = TokenFile::open(cache, &fingerprint)? {
            return Ok(file);
        }
        let mut writer = Writer::create(cache)?;
        self.files(&mut writer)?;
        writer.finish(&fingerprint)?;
        TokenFile::open(cache, &fingerprint)?
            .ok_or_else(|| Error::bug("a file of tokens cannot be read again").file(cache))
    }

    /// What would become of the documents, and the length of the longest; nothing is written.
    pub fn count(&self) -> Result<(Counts, usize)> {
        let mut writer = Writer::counting();
        self.files(&mut writer)?;
        Ok((*writer.counts(), writer.longest()))
    }

    fn files(&self, writer: &mut Writer) -> Result<()> {
        for (n, path) in self.files.iter().enumerate() {
            let mut chunk = Chunk { corpus: self, writer, file: n as u32, texts: Vec::new(), bytes: 0 };
            if is_rows(path) {
                chunk.rows(path)?
            } else {
                chunk.text(path)?
            }
            chunk.flush()?;
        }
        if writer.counts().rows == 0 {
            let first = self.files.first().map_or(Path::new("corpus"), PathBuf::as_path);
            return Err(Error::data("no text").file(first).expected("at least one document"));
        }
        Ok(())
    }

    /// What all of it depends on.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hasher = Hasher::default();
        for file in self.files {
            if !file.is_file() {
                let what = if file.exists() { "not a file" } else { "no such file" };
                return Err(Error::user(what).file(file).expected("a file of text"));
            }
            hasher.part(is_rows(file).to_string().as_bytes());
            hasher.part(hash::of_long_file(file)?.1.as_bytes());
        }
        hasher.part(self.tokenizer.identity()?.as_bytes());
        hasher.part(format!("{:?} {:?}", self.eos, self.bos()).as_bytes());
        Ok(hasher.hex())
    }

    /// The token that begins a text, where it is not the one that ends it.
    pub fn bos(&self) -> Option<u32> {
        self.tokenizer.bos().filter(|bos| Some(*bos) != self.eos)
    }

    fn document(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids: Vec<u32> = self.bos().into_iter().collect();
        for piece in pieces(text) {
            ids.extend(self.tokenizer.encode(piece, false)?);
        }
        ids.extend(self.eos);
        Ok(ids)
    }
}

fn is_rows(path: &Path) -> bool {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    ending.is_some_and(|e| ["jsonl", "json", "ndjson"].contains(&e.as_str()))
}

/// A text in pieces that end behind a line, or where there is none within reach, anywhere.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = rest.len();
        if end > PIECE {
            end = (0..=PIECE).rev().find(|&at| rest.is_char_boundary(at)).unwrap_or(end);
            end = rest[..end].rfind('\n').map_or(end, |at| at + 1);
        }
        let (piece, behind) = rest.split_at(end);
        rest = behind;
        Some(piece)
    })
}

/// Documents on their way.
struct Chunk<'a, 'c> {
    corpus: &'a Corpus<'c>,
    writer: &'a mut Writer,
    file: u32,
    texts: Vec<(usize, String)>,
    bytes: usize,
}

impl Chunk<'_, '_> {
    fn rows(&mut self, path: &Path) -> Result<()> {
        for row in Reader::open(path)? {
            match row? {
                (line, Row::Text(text)) => self.add(line, text)?,
                (line, _) => {
                    let e = Error::data("not a row of text").file(path).line(line);
                    return Err(e.expected("{text}").found("a row of another schema"));
                }
            }
        }
        Ok(())
    }

    fn text(&mut self, path: &Path) -> Result<()> {
        let fail = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::InvalidData => Error::data("not UTF-8").file(path),
            _ => Error::io("cannot read", path, &e),
        };
        let end = self.corpus.eos.and_then(|id| self.corpus.tokenizer.id_to_token(id)).unwrap_or_default();
        let mut input = BufReader::with_capacity(1 << 20, File::open(path).map_err(fail)?);
        let (mut document, mut line, mut begun) = (String::new(), String::new(), 1);
        for number in 1.. {
            line.clear();
            let n = input.read_line(&mut line).map_err(fail)?;
            let bare = line.trim();
            if n == 0 || bare.is_empty() || bare == end {
                self.add(begun, std::mem::take(&mut document))?;
                begun = number + 1;
            } else {
                document.push_str(&line);
            }
            if n == 0 {
                return Ok(());
            }
            if document.len() > LONGEST_LINE {
                let e = Error::data("a document is too long").file(path).line(begun);
                return Err(e.expected(format!("at most {LONGEST_LINE} bytes")).found("more"));
            }
        }
        Ok(())
    }

    /// Takes a document; one without text is passed over.
    fn add(&mut self, line: usize, text: String) -> Result<()> {
        let text = text.trim_end_matches(['\n', '\r']);
        if text.trim().is_empty() {
            return Ok(());
        }
        self.bytes += text.len();
        self.texts.push((line, text.to_string()));
        if self.bytes > CHUNK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        signal::check()?;
        let texts = std::mem::take(&mut self.texts);
        self.bytes = 0;
        let made: Vec<Result<Vec<u32>>> =
            texts.par_iter().map(|(_, text)| self.corpus.document(text)).collect();
        for ((line, _), ids) in texts.iter().zip(made) {
            let place = |e: Error| e.at_row(&self.corpus.files[self.file as usize], *line);
            let origin = Origin { file: self.file, line: *line as u32 };
            self.writer.add(&ids.map_err(place)?, 0, origin)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_documents_are_cut_behind_lines() {
        let line = "x".repeat(600_000) + "\n";
        let text = line.repeat(3) + &"y".repeat(PIECE + 5);
        let lengths: Vec<usize> = pieces(&text).map(str::len).collect();
        assert_eq!(lengths, [600_001, 600_001, 600_001, PIECE, 5]);
        assert_eq!(pieces(&text).collect::<String>(), text);
    }
}
