//! A file of tokens: what rows or documents became, to be read at any place without holding it in memory.
//!
//! ```text
//! all ids, u32 little-endian, row behind row; the highest bit marks one that is given behind the prompt
//! for each row: ids, prompt, file, line (u32 each)
//! a JSON object: what made it, and counts
//! the length of that object (u64), the magic word
//! ```
//!
//! The fingerprint says what the tokens depend on: the bytes of the files, the tokenizer, the template, the
//! limits. A file with another one, or one that is cut short, is made anew.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use super::Example;
use crate::error::{Error, Result};
use crate::store::Pending;

const MAGIC: &[u8; 8] = b"retortk1";
/// Bytes of a row's entry.
const ENTRY: usize = 16;
/// Marks a token behind the prompt that is given, not learnt; no vocabulary reaches so far.
const GIVEN: u32 = 1 << 31;
/// The end that every file has.
const END: usize = 16;

/// What happened to the rows on their way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Rows, or documents.
    pub rows: usize,
    /// Tokens in all.
    pub tokens: usize,
    /// Tokens that are learnt.
    pub learnt: usize,
    /// Prompts that were shortened.
    pub shortened: usize,
    /// Responses that were cut.
    pub cut: usize,
    /// Bad rows that were put aside.
    pub rejected: usize,
    /// Replies that were left out at the end of conversations that are too long.
    pub left_out: usize,
    /// Conversations of several replies of which only the last is learnt.
    pub last_alone: usize,
}

impl Counts {
    /// Both together.
    pub fn and(self, other: Counts) -> Counts {
        Counts {
            rows: self.rows + other.rows,
            tokens: self.tokens + other.tokens,
            learnt: self.learnt + other.learnt,
            shortened: self.shortened + other.shortened,
            cut: self.cut + other.cut,
            rejected: self.rejected + other.rejected,
            left_out: self.left_out + other.left_out,
            last_alone: self.last_alone + other.last_alone,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct About {
    fingerprint: String,
    counts: Counts,
}

/// Where a row came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Which of the files.
    pub file: u32,
    /// Its line there, from 1.
    pub line: u32,
}

/// Writes such a file.
pub struct Writer {
    /// None where rows are only counted.
    out: Option<Pending>,
    path: PathBuf,
    entries: Vec<u8>,
    counts: Counts,
    longest: usize,
}

impl Writer {
    /// Begins the file that will stand at `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let (out, path) = (Some(Pending::create(path)?), path.to_path_buf());
        Ok(Writer { out, path, entries: Vec::new(), counts: Counts::default(), longest: 0 })
    }

    /// Writes nothing, and counts.
    pub fn counting() -> Self {
        Writer { out: None, path: PathBuf::new(), entries: Vec::new(), counts: Counts::default(), longest: 0 }
    }

    /// Tokens of the longest row so far.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Adds a row that is learnt behind its prompt.
    pub fn add(&mut self, ids: &[u32], prompt_len: usize, origin: Origin) -> Result<()> {
        self.add_talk(ids, prompt_len, &[], origin)
    }

    /// Adds a row that is learnt behind its prompt but for these stretches ([`Example::given`]).
    pub fn add_talk(
        &mut self,
        ids: &[u32],
        prompt_len: usize,
        given: &[Range<usize>],
        origin: Origin,
    ) -> Result<()> {
        if self.out.is_some() {
            let mark = |(at, id): (usize, &u32)| {
                let given = given.iter().any(|stretch| stretch.contains(&at));
                (if given { id | GIVEN } else { *id }).to_le_bytes()
            };
            let bytes: Vec<u8> = ids.iter().enumerate().flat_map(mark).collect();
            self.write(&bytes)?;
            for n in [ids.len() as u32, prompt_len as u32, origin.file, origin.line] {
                self.entries.extend(n.to_le_bytes());
            }
        }
        self.longest = self.longest.max(ids.len());
        self.counts.rows += 1;
        self.counts.tokens += ids.len();
        let given: usize = given.iter().map(Range::len).sum();
        self.counts.learnt += ids.len().saturating_sub(prompt_len.max(1) + given);
        Ok(())
    }

    /// What is counted beside rows and tokens.
    pub fn counts(&mut self) -> &mut Counts {
        &mut self.counts
    }

    /// Ends the file, which takes its name.
    pub fn finish(mut self, fingerprint: &str) -> Result<Counts> {
        let entries = std::mem::take(&mut self.entries);
        self.write(&entries)?;
        let about = About { fingerprint: fingerprint.to_string(), counts: self.counts };
        let json = serde_json::to_vec(&about).map_err(|e| Error::bug("JSON cannot be written").found(e))?;
        self.write(&json)?;
        self.write(&(json.len() as u64).to_le_bytes())?;
        self.write(MAGIC)?;
        self.out.map_or(Ok(()), Pending::commit)?;
        Ok(about.counts)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(out) = &mut self.out else { return Ok(()) };
        out.write_all(bytes).map_err(|e| Error::io("cannot write", &self.path, &e))
    }
}

/// Such a file, mapped.
#[derive(Debug)]
pub struct TokenFile {
    map: Mmap,
    /// Where each row's ids begin, and where the last one's end.
    starts: Vec<u64>,
    entries: usize,
    counts: Counts,
    fingerprint: String,
}

impl TokenFile {
    /// The file at `path`, where it is there, whole, and has this fingerprint.
    pub fn open(path: &Path, fingerprint: &str) -> Result<Option<Self>> {
        let fail = |e: std::io::Error| Error::io("cannot read", path, &e);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(fail(e)),
        };
        if file.metadata().map_err(fail)?.len() < END as u64 {
            return Ok(None);
        }
        // SAFETY: the file is only read; it was written whole and nothing here writes to it again.
        let map = unsafe { Mmap::map(&file) }.map_err(fail)?;
        Ok(Self::read(map, Some(fingerprint)))
    }

    fn read(map: Mmap, fingerprint: Option<&str>) -> Option<Self> {
        let body = map.len().checked_sub(END)?;
        let (length, magic) = map[body..].split_first_chunk::<8>()?;
        let length = u64::from_le_bytes(*length) as usize;
        let json = body.checked_sub(length)?;
        let about: About = serde_json::from_slice(&map[json..body]).ok()?;
        let Counts { rows, tokens, .. } = about.counts;
        let entries = json.checked_sub(rows.checked_mul(ENTRY)?)?;
        let another = fingerprint.is_some_and(|f| f != about.fingerprint);
        if magic != MAGIC || another || entries != tokens.checked_mul(4)? {
            return None;
        }
        let mut starts = Vec::with_capacity(rows + 1);
        let mut at = 0u64;
        for row in 0..rows {
            starts.push(at);
            at += u64::from(number(&map, entries + row * ENTRY));
        }
        starts.push(at);
        let About { fingerprint, counts } = about;
        (at == tokens as u64).then_some(TokenFile { map, starts, entries, counts, fingerprint })
    }

    /// The file at `path`, whatever it was made of.
    pub fn open_any(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("cannot read", path, &e))?;
        // SAFETY: as above.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("cannot read", path, &e))?;
        Self::read(map, None).ok_or_else(|| Error::data("not a file of tokens").file(path))
    }

    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    /// What happened to the rows on their way here.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What made it.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// How many tokens a row has.
    pub fn length(&self, row: usize) -> usize {
        (self.starts[row + 1] - self.starts[row]) as usize
    }

    /// How many tokens lie before a row.
    pub fn start(&self, row: usize) -> u64 {
        self.starts[row]
    }

    /// A row's tokens from `from` on, at most `most` of them.
    pub fn part(&self, row: usize, from: usize, most: usize) -> impl Iterator<Item = u32> + '_ {
        let length = self.length(row);
        let (from, end) = (from.min(length), from.saturating_add(most).min(length));
        let first = self.starts[row] as usize;
        (first + from..first + end).map(|at| number(&self.map, at * 4) & !GIVEN)
    }

    /// The stretches of a row that are marked as given.
    fn given(&self, row: usize) -> Vec<Range<usize>> {
        let first = self.starts[row] as usize;
        let mut all: Vec<Range<usize>> = Vec::new();
        for at in (0..self.length(row)).filter(|at| number(&self.map, (first + at) * 4) & GIVEN != 0) {
            match all.last_mut() {
                Some(stretch) if stretch.end == at => stretch.end += 1,
                _ => all.push(at..at + 1),
            }
        }
        all
    }

    /// How many of a row's tokens are the prompt.
    pub fn prompt_len(&self, row: usize) -> usize {
        number(&self.map, self.entries + row * ENTRY + 4) as usize
    }

    /// A row to learn from.
    pub fn example(&self, row: usize) -> Example {
        let ids = self.part(row, 0, usize::MAX).collect();
        Example { ids, from: self.prompt_len(row).max(1), given: self.given(row) }
    }

    /// Where a row came from.
    pub fn origin(&self, row: usize) -> Origin {
        let at = self.entries + row * ENTRY;
        Origin { file: number(&self.map, at + 8), line: number(&self.map, at + 12) }
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk::<4>().map_or(0, |b| u32::from_le_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOWHERE: Origin = Origin { file: 0, line: 1 };

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.tokens");
        let mut writer = Writer::create(&path).unwrap();
        writer.add(&[1, 2, 3], 1, NOWHERE).unwrap();
        writer.add(&[], 0, NOWHERE).unwrap();
        writer.add(&[7, 70_000], 0, Origin { file: 2, line: 9 }).unwrap();
        let given: Vec<Range<usize>> = std::iter::once(3..5).collect();
        writer.add_talk(&[1, 2, 3, 4, 5, 6], 2, &given, NOWHERE).unwrap();
        writer.counts().cut = 1;
        let counts = writer.finish("abc").unwrap();
        assert_eq!((counts.rows, counts.tokens, counts.learnt, counts.cut), (4, 11, 5, 1));
        let file = TokenFile::open(&path, "abc").unwrap().unwrap();
        assert_eq!(file.counts(), counts);
        assert_eq!(file.example(0), Example { ids: vec![1, 2, 3], from: 1, ..Example::default() });
        assert_eq!(file.example(2), Example { ids: vec![7, 70_000], from: 1, ..Example::default() });
        let talk = Example { ids: vec![1, 2, 3, 4, 5, 6], from: 2, given };
        assert_eq!(file.example(3), talk);
        assert_eq!(file.part(3, 3, 2).collect::<Vec<_>>(), [4, 5], "the mark is no part of an id");
        assert_eq!(file.part(0, 1, 1).collect::<Vec<_>>(), [2]);
        assert_eq!((file.length(1), file.start(2), file.origin(2).line), (0, 3, 9));
    }

    #[test]
    fn another_fingerprint_or_a_cut_file_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.tokens");
        assert!(TokenFile::open(&path, "abc").unwrap().is_none());
        let mut writer = Writer::create(&path).unwrap();
        writer.add(&[1, 2, 3], 1, NOWHERE).unwrap();
        writer.finish("abc").unwrap();
        assert!(TokenFile::open(&path, "abd").unwrap().is_none());
        let bytes = std::fs::read(&path).unwrap();
        for end in 0..bytes.len() {
            std::fs::write(&path, &bytes[..end]).unwrap();
            assert!(TokenFile::open(&path, "abc").unwrap().is_none(), "{end}");
        }
    }
}
