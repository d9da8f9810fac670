//! What the stand-in was asked, in order.

use std::path::Path;

/// A line: what was asked, and its name or size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub what: String,
    pub which: String,
}

#[derive(Debug)]
pub struct Journal(pub Vec<Line>);

impl Journal {
    pub fn read(path: &Path) -> Journal {
        let text = std::fs::read_to_string(path).unwrap();
        let line = |line: &str| {
            let (what, which) = line.split_once(' ').unwrap_or((line, ""));
            Line { what: what.into(), which: which.into() }
        };
        Journal(text.lines().map(line).collect())
    }

    pub fn count(&self, what: &str) -> usize {
        self.0.iter().filter(|line| line.what == what).count()
    }

    /// What lies between the mark of this name and the next mark.
    pub fn part(&self, mark: &str) -> Journal {
        let from = self.0.iter().position(|line| line.what == "mark" && line.which == mark).unwrap() + 1;
        let rest = &self.0[from..];
        let to = rest.iter().position(|line| line.what == "mark").unwrap_or(rest.len());
        Journal(rest[..to].to_vec())
    }

    /// Nothing was asked inside a capture that CUDA forbids there, and nothing was launched beside one.
    pub fn assert_clean(&self, of: &str) {
        let bad = self.0.iter().find(|line| ["refused", "stray"].contains(&line.what.as_str()));
        assert!(bad.is_none(), "{of}: {bad:?}");
    }

    /// The work of the device: kernels, products, copies and fills.
    pub fn work(&self) -> Vec<Line> {
        let is_work = |line: &&Line| ["kernel", "product", "copy", "fill"].contains(&line.what.as_str());
        self.0.iter().filter(is_work).cloned().collect()
    }

    /// What was recorded, as it would have been launched.
    pub fn recorded(&self) -> Vec<Line> {
        let recorded = self.0.iter().filter(|line| line.what == "recorded");
        let names = recorded.map(|line| line.which.split_once(' ').unwrap());
        names.map(|(what, which)| Line { what: what.into(), which: which.into() }).collect()
    }

    /// The lengths of the rows of replays with nothing in between.
    pub fn replays_in_a_row(&self) -> Vec<usize> {
        let groups = self.0.chunk_by(|a, b| a.what == b.what);
        groups.filter(|group| group[0].what == "replay").map(<[Line]>::len).collect()
    }
}
