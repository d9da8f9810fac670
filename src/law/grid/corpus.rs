//! One corpus, apart: the teachers' documents, the students', and pieces that are held out. Where a document goes is
//! a function of its text, so the same text is never in two of them.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::config::grid::GridData;
use crate::data::{Reader, Row};
use crate::error::{Error, Result};
use crate::signal;
use crate::store::Folder;
use crate::store::hash::{self, Hasher};

/// Letters of a held-out piece, for each token that is read of it.
const LETTERS: usize = 4;

/// The files.
#[derive(Debug, Clone)]
pub struct Split {
    /// What teachers learn.
    pub teachers: PathBuf,
    /// What students learn.
    pub students: PathBuf,
    /// What both are measured on.
    pub held_out: PathBuf,
}

impl Split {
    /// Where they are, in the folder of a grid.
    pub fn at(out: &Path) -> Self {
        let file = |name: &str| out.join("data").join(name);
        Split {
            teachers: file("teachers.jsonl"),
            students: file("students.jsonl"),
            held_out: file("held-out.jsonl"),
        }
    }

    /// Writes them.
    pub fn write(data: &GridData, out: &Path) -> Result<Self> {
        let folder = Folder::create(out.join("data"))?;
        let mut parts = Parts { data, texts: Default::default(), bytes: [0; 3] };
        for file in &data.corpus {
            documents(file, &mut |text| parts.add(text))?;
        }
        let [teachers, students, held] = &parts.texts;
        for (what, texts) in [("teachers", teachers), ("students", students), ("held-out", held)] {
            if texts.is_empty() {
                let file = data.corpus.first().map_or(Path::new("corpus"), PathBuf::as_path);
                return Err(Error::data("too few documents")
                    .file(file)
                    .found(format!("none for {what}.jsonl")));
            }
        }
        let pieces: Vec<&str> = held.iter().flat_map(|text| pieces(text, LETTERS * data.sequence)).collect();
        // Evenly from all of them.
        let many = data.held_out.min(pieces.len());
        let picked = (0..many).map(|n| pieces[n * pieces.len() / many]);
        lines(&folder, "teachers.jsonl", teachers.iter().map(String::as_str))?;
        lines(&folder, "students.jsonl", students.iter().map(String::as_str))?;
        lines(&folder, "held-out.jsonl", picked)?;
        Ok(Self::at(out))
    }

    /// What they hold.
    pub fn digests(&self) -> Result<Value> {
        let files = [&self.teachers, &self.students, &self.held_out];
        files.into_iter().map(|file| Ok(Value::from(hash::of_long_file(file)?.1))).collect()
    }
}

fn lines<'a>(folder: &Folder, name: &str, texts: impl Iterator<Item = &'a str>) -> Result<()> {
    folder.write(name, |out| {
        for text in texts {
            writeln!(out, "{}", json!({"text": text}))?;
        }
        Ok(())
    })
}

/// The three parts, as far as they are filled.
struct Parts<'a> {
    data: &'a GridData,
    texts: [Vec<String>; 3],
    bytes: [usize; 3],
}

impl Parts<'_> {
    fn add(&mut self, text: String) -> Result<()> {
        let mut hasher = Hasher::default();
        hasher.add(text.as_bytes());
        let digits = hasher.hex();
        let number =
            u64::from_str_radix(&digits[..13], 16).map_err(|e| Error::bug("not a digest").found(e))?;
        let mut share = number as f64 / (1u64 << 52) as f64;
        for (part, width) in self.data.split.iter().enumerate() {
            if share < *width {
                if self.bytes[part] < self.data.most {
                    self.bytes[part] += text.len();
                    self.texts[part].push(text);
                }
                return Ok(());
            }
            share -= width;
        }
        Ok(())
    }
}

/// Hands over every document with text in it: the rows of a `.jsonl` file, or what stands between blank lines.
fn documents(file: &Path, with: &mut dyn FnMut(String) -> Result<()>) -> Result<()> {
    if !file.is_file() {
        let what = if file.exists() { "not a file" } else { "no such file" };
        return Err(Error::user(what).file(file).field("data.corpus"));
    }
    if file.extension().is_some_and(|e| ["jsonl", "json", "ndjson"].contains(&e.to_string_lossy().as_ref())) {
        for row in Reader::open(file)? {
            signal::check()?;
            match row? {
                (_, Row::Text(text)) if text.trim().is_empty() => {}
                (_, Row::Text(text)) => with(text)?,
                (line, _) => {
                    return Err(Error::data("not a row of text").file(file).line(line).expected("{text}"));
                }
            }
        }
        return Ok(());
    }
    let fail = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::InvalidData => Error::data("not UTF-8").file(file),
        _ => Error::io("cannot read", file, &e),
    };
    let mut document = String::new();
    for line in std::io::BufReader::new(std::fs::File::open(file).map_err(fail)?).lines() {
        let line = line.map_err(fail)?;
        if line.trim().is_empty() {
            signal::check()?;
            if !document.is_empty() {
                with(std::mem::take(&mut document))?;
            }
        } else {
            document += &line;
            document.push('\n');
        }
    }
    if document.is_empty() { Ok(()) } else { with(document) }
}

/// A text in pieces of about so many bytes, which end where a line or a word does.
fn pieces(text: &str, bytes: usize) -> impl Iterator<Item = &str> {
    let mut rest = text.trim();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = rest.len();
        if end > bytes {
            end = (0..=bytes).rev().find(|at| rest.is_char_boundary(*at) && *at > 0).unwrap_or(end);
            end = rest[..end].rfind(char::is_whitespace).filter(|at| *at > 0).unwrap_or(end);
        }
        let (piece, behind) = rest.split_at(end);
        rest = behind.trim_start();
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_share_no_text() {
        let dir = tempfile::tempdir().unwrap();
        let (rows, plain) = (dir.path().join("a.jsonl"), dir.path().join("b.txt"));
        let text = |n: usize| format!("Document {} of words that go on.", n % 150);
        let all: String = (0..200).map(|n| format!("{}\n", json!({"text": text(n)}))).collect();
        std::fs::write(&rows, all).unwrap();
        std::fs::write(
            &plain,
            (200..400).map(|n| format!("{}\nand more\n\n\n", text(n))).collect::<String>(),
        )
        .unwrap();
        let data = GridData {
            corpus: vec![rows, plain],
            tokenizer: None,
            sequence: 16,
            split: [0.4, 0.4, 0.2],
            most: 1 << 20,
            held_out: 30,
        };
        let split = Split::write(&data, dir.path()).unwrap();
        let read = |file: &Path| -> Vec<String> {
            std::fs::read_to_string(file).unwrap().lines().map(String::from).collect()
        };
        let (teachers, students, held) =
            (read(&split.teachers), read(&split.students), read(&split.held_out));
        assert!(teachers.iter().all(|row| !students.contains(row) && !held.contains(row)));
        assert!(students.iter().all(|row| !held.contains(row)));
        assert!(teachers.len() > 100 && students.len() > 100 && held.len() == 30, "{}", teachers.len());
        let few = GridData { most: 300, held_out: 5, ..data };
        let split = Split::write(&few, dir.path()).unwrap();
        assert!(read(&split.teachers).len() < 12 && read(&split.held_out).len() == 5);
    }

    #[test]
    fn pieces_lose_no_word() {
        let text = "Wörter, and äöü, stand\nin lines of any length, also verylongoneswithoutanyspaceatall.";
        for bytes in [1, 2, 7, 20, 500] {
            let all: Vec<&str> = pieces(text, bytes).collect();
            let bare = |s: &str| s.split_whitespace().collect::<String>();
            assert_eq!(bare(&all.concat()), bare(text), "{bytes}");
        }
    }
}
