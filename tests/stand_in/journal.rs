//! What the stand-in was asked, in order.

use std::path::Path;

/// A line: what was asked, its name or size, and the device it was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub what: String,
    pub which: String,
    pub device: usize,
}

/// The lines of a process.
#[derive(Debug)]
pub struct Journal(pub Vec<Line>);

impl Journal {
    /// Those of all processes that asked for anything, in a folder.
    pub fn read(dir: &Path) -> Vec<Journal> {
        let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let journals = files.filter(|path| path.file_stem().is_some_and(|name| name == "journal"));
        let line = |line: &str| {
            let (rest, device) = line.rsplit_once(" @").unwrap();
            let (what, which) = rest.split_once(' ').unwrap();
            Line { what: what.into(), which: which.into(), device: device.parse().unwrap() }
        };
        let lines = |path| std::fs::read_to_string(path).unwrap().lines().map(line).collect();
        journals.map(|path| Journal(lines(path))).collect()
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

    /// Nothing was asked inside a capture that CUDA forbids there, launched beside one, or on another device's stream.
    pub fn assert_clean(&self, of: &str) {
        let bad = ["refused", "stray", "misplaced", "given-up"];
        let bad = self.0.iter().find(|line| bad.contains(&line.what.as_str()));
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
        let names = recorded.map(|line| (line.which.split_once(' ').unwrap(), line.device));
        names.map(|((what, which), device)| Line { what: what.into(), which: which.into(), device }).collect()
    }

    /// What was exchanged with other processes.
    pub fn exchanged(&self) -> Vec<(&str, &str)> {
        let kinds = ["all-reduce", "broadcast", "all-gather", "reduce-scatter"];
        let exchanges = self.0.iter().filter(|line| kinds.contains(&line.what.as_str()));
        exchanges.map(|line| (line.what.as_str(), line.which.as_str())).collect()
    }

    /// The graphs that were recorded, and how often each was replayed.
    pub fn replays(&self) -> Vec<(&str, usize)> {
        let graphs = self.0.iter().filter(|line| line.what == "capture").map(|line| line.which.as_str());
        let of = |graph: &str| self.0.iter().filter(|l| l.what == "replay" && l.which == graph).count();
        graphs.map(|graph| (graph, of(graph))).collect()
    }

    /// The lengths of the rows of replays with nothing in between.
    pub fn replays_in_a_row(&self) -> Vec<usize> {
        let groups = self.0.chunk_by(|a, b| a.what == b.what);
        groups.filter(|group| group[0].what == "replay").map(<[Line]>::len).collect()
    }
}
