//! Answers: lines to stdout or to a file, tables for people.

use std::io::{BufWriter, ErrorKind, Stdout, Write};
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::store::Pending;

/// Where an answer goes. A file takes its name at [`Out::finish`] and not before.
pub(super) enum Out {
    Stdout(BufWriter<Stdout>),
    File(Pending),
}

impl Out {
    pub fn stdout() -> Self {
        Out::Stdout(BufWriter::new(std::io::stdout()))
    }

    pub fn to(file: Option<&Path>) -> Result<Self> {
        match file {
            None => Ok(Self::stdout()),
            Some(path) => Ok(Out::File(Pending::create(path)?)),
        }
    }

    /// One JSON document on a line of its own, which is out before the next is computed.
    pub fn json(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line =
            serde_json::to_string(value).map_err(|e| Error::bug("an answer is not JSON").found(e))?;
        line.push('\n');
        self.text(&line)
    }

    /// Text as it is.
    pub fn text(&mut self, text: &str) -> Result<()> {
        let done = match self {
            Out::Stdout(w) => w.write_all(text.as_bytes()).and_then(|()| w.flush()),
            Out::File(w) => w.write_all(text.as_bytes()),
        };
        done.map_err(|e| match e.kind() {
            // `retort ... | head` has seen enough: that is nobody's error.
            ErrorKind::BrokenPipe => std::process::exit(0),
            _ => Error::io("cannot write", "the answer", &e),
        })
    }

    pub fn finish(self) -> Result<()> {
        match self {
            Out::Stdout(_) => Ok(()),
            Out::File(pending) => pending.commit(),
        }
    }
}

/// Rows of cells, aligned; the first row is the heading.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A count as people write it: 134.5M.
pub(super) fn count(n: i64) -> String {
    let x = n as f64;
    match n {
        ..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{:.1}k", x / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}M", x / 1e6),
        _ => format!("{:.2}B", x / 1e9),
    }
}

/// Bytes as people write them.
pub(super) fn bytes(n: i64) -> String {
    let x = n as f64;
    match n {
        ..1_024 => format!("{n} B"),
        1_024..1_048_576 => format!("{:.1} KiB", x / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", x / 1_048_576.0),
        _ => format!("{:.2} GiB", x / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_numbers_read_well() {
        let rows = [vec!["a".into(), "bb".into()], vec!["ccc".into(), "d".into()]];
        assert_eq!(table(&rows), "a    bb\nccc  d\n");
        assert_eq!((count(9999), count(134_515_008)), ("9999".into(), "134.5M".into()));
        assert_eq!(bytes(98_362_432), "93.8 MiB");
    }
}
