//! Text -> packed rows: documents with EOS behind (and BOS before, where the tokenizer has one of its own),
//! shuffled, concatenated, cut at the row's length; what is left at an epoch's end begins the next one.
//!
//! In a file of JSON lines (`.jsonl`, `.json`, `.ndjson`) each `{"text"}` row is a document. In any other file
//! documents stand apart by blank lines; a line that is the EOS token's text ends one as well.
//!
//! A packed row's input is BOS and the row without its last token, its targets the whole row; without a BOS the
//! targets begin at the second token.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::Example;
use super::reader::{LONGEST_LINE, Reader};
use super::rows::Row;
use super::sampler::Order;
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
        self.each(&mut |ids, origin| writer.add(ids, 0, origin))
    }

    /// Each document's tokens, in the order of the files.
    pub fn each(&self, take: &mut dyn FnMut(&[u32], Origin) -> Result<()>) -> Result<()> {
        let mut documents = 0;
        let mut counted = |ids: &[u32], origin: Origin| {
            documents += 1;
            take(ids, origin)
        };
        for (n, path) in self.files.iter().enumerate() {
            let mut chunk =
                Chunk { corpus: self, take: &mut counted, file: n as u32, texts: Vec::new(), bytes: 0 };
            if is_rows(path) {
                chunk.rows(path)?
            } else {
                chunk.text(path)?
            }
            chunk.flush()?;
        }
        if documents == 0 {
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

/// Whether a file's name says that it has rows.
pub fn is_rows(path: &Path) -> bool {
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
    take: &'a mut dyn FnMut(&[u32], Origin) -> Result<()>,
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
            (self.take)(&ids.map_err(place)?, origin)?;
        }
        Ok(())
    }
}

/// Rows cut out of the shuffled documents.
#[derive(Debug)]
pub struct Packed {
    documents: TokenFile,
    sequence: usize,
    bos: Option<u32>,
    /// The order of the documents, and where each begins, in the two epochs that a row may touch.
    order: Order,
    laid: Vec<(u64, Laid)>,
}

/// One epoch's documents behind each other.
#[derive(Debug)]
struct Laid {
    order: Vec<u32>,
    starts: Vec<u64>,
}

impl Packed {
    /// Rows of `sequence` tokens, which go behind a BOS where there is one.
    pub fn new(documents: TokenFile, sequence: usize, bos: Option<u32>, seed: u64) -> Self {
        let order = Order::new(seed, documents.rows());
        Packed { documents, sequence, bos, order, laid: Vec::new() }
    }

    /// Tokens of all documents together.
    pub fn tokens(&self) -> u64 {
        self.documents.counts().tokens as u64
    }

    /// How many rows an epoch has; the last one may be completed by the next epoch's first documents.
    pub fn rows(&self) -> usize {
        self.tokens().div_ceil(self.sequence as u64) as usize
    }

    /// Tokens of a row, BOS in.
    pub fn width(&self) -> usize {
        self.sequence + usize::from(self.bos.is_some())
    }

    /// What its rows depend on.
    pub fn identity(&self) -> String {
        let mut hasher = Hasher::default();
        hasher.part(self.documents.fingerprint().as_bytes());
        hasher.part(format!("{} {:?} {}", self.sequence, self.bos, self.order.seed()).as_bytes());
        hasher.hex()
    }

    /// The documents.
    pub fn documents(&self) -> &TokenFile {
        &self.documents
    }

    /// The epoch in which the n-th row of the run begins.
    pub fn epoch(&self, n: u64) -> u64 {
        n * self.sequence as u64 / self.tokens().max(1)
    }

    /// The n-th row of the run.
    pub fn row(&mut self, n: u64) -> Example {
        let parts = self.parts(n).into_iter().flat_map(|(_, ids)| ids);
        Example { ids: self.bos.into_iter().chain(parts).collect(), from: 1, ..Example::default() }
    }

    /// The documents of the n-th row, each by itself: so none sees another, positions begin anew with each, and the
    /// first token of each, which nothing predicts, is given. A document that was begun in the row before goes on
    /// behind a BOS where there is one. One of which a single token is there has nothing to learn and is left out.
    pub fn pieces(&mut self, n: u64) -> Vec<Example> {
        let bos = self.bos;
        let piece = |(from, ids): (usize, Vec<u32>)| {
            let goes_on = bos.filter(|_| from > 0);
            Example { ids: goes_on.into_iter().chain(ids).collect(), from: 1, ..Example::default() }
        };
        self.parts(n).into_iter().map(piece).filter(|example| example.targets() > 0).collect()
    }

    /// What the n-th row has of each document: how many of its tokens came before, and those that are there.
    fn parts(&mut self, n: u64) -> Vec<(usize, Vec<u32>)> {
        let mut parts: Vec<(usize, Vec<u32>)> = Vec::new();
        let (mut at, mut left) = (n * self.sequence as u64, self.sequence);
        while left > 0 && self.tokens() > 0 {
            let (epoch, inside) = (at / self.tokens(), at % self.tokens());
            let place = self.lay(epoch);
            let laid = &self.laid[place].1;
            let document = laid.starts.partition_point(|&start| start <= inside) - 1;
            let from = (inside - laid.starts[document]) as usize;
            let ids: Vec<u32> = self.documents.part(laid.order[document] as usize, from, left).collect();
            at += ids.len() as u64;
            left -= ids.len();
            parts.push((from, ids));
        }
        parts
    }

    /// Lays an epoch's documents out, and answers where it stands among those kept.
    fn lay(&mut self, epoch: u64) -> usize {
        if let Some(at) = self.laid.iter().position(|(of, _)| *of == epoch) {
            return at;
        }
        // An empty document takes no place: only those with tokens can be found.
        let filled = |&&row: &&u32| self.documents.length(row as usize) > 0;
        let order: Vec<u32> = self.order.epoch(epoch).iter().filter(filled).copied().collect();
        let mut starts = Vec::with_capacity(order.len());
        let mut at = 0;
        for &row in &order {
            starts.push(at);
            at += self.documents.length(row as usize) as u64;
        }
        if self.laid.len() == 2 {
            self.laid.remove(0);
        }
        self.laid.push((epoch, Laid { order, starts }));
        self.laid.len() - 1
    }
}

#[cfg(test)]
mod tests;
