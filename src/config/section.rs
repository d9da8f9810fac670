//! One table of a config, read key by key. What was not asked for when the reading ends is unknown, and
//! an error that suggests what may have been meant.

use std::path::Path;

use super::numbers;
use super::raw::{Node, Place, Raw, Table, find};
use crate::error::{Error, Result};

/// A table that is being read.
pub(super) struct Section<'a> {
    file: &'a Path,
    name: &'a str,
    table: Option<&'a Table>,
    known: Vec<&'a str>,
}

/// The error for a setting, at its place.
pub(super) fn located(file: &Path, name: &str, place: Option<Place>) -> Error {
    let error = Error::user("a setting is wrong");
    match place {
        Some(Place::Line(line)) => error.file(file).line(line).field(name),
        Some(Place::Set) => error.field(format!("--set {name}")),
        None => error.file(file).field(name),
    }
}

impl<'a> Section<'a> {
    /// The table of this name among `top`; an absent one has no key. The empty name is `top` itself.
    pub fn of(file: &'a Path, top: &'a Table, name: &'a str) -> Result<Self> {
        let table = if name.is_empty() { Some(top) } else { inner(file, name, find(top, name))? };
        Ok(Section { file, name, table, known: Vec::new() })
    }

    /// A table at a key of this one, under its full name.
    pub fn inside(&mut self, key: &'a str, full: &'a str) -> Result<Section<'a>> {
        let node = self.node(key);
        Ok(Section { file: self.file, name: full, table: inner(self.file, full, node)?, known: Vec::new() })
    }

    /// The file that is read.
    pub fn file(&self) -> &'a Path {
        self.file
    }

    /// Whether the table is there.
    pub fn is_there(&self) -> bool {
        self.table.is_some()
    }

    /// A key's value; from here on the key is known.
    pub fn node(&mut self, key: &'a str) -> Option<&'a Node> {
        self.known.push(key);
        self.table.and_then(|table| find(table, key))
    }

    fn full(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_string() } else { format!("{}.{key}", self.name) }
    }

    /// The error for a key's value.
    pub fn wrong(&self, key: &str, expected: impl std::fmt::Display) -> Error {
        let node = self.table.and_then(|table| find(table, key));
        located(self.file, &self.full(key), node.map(|n| n.place))
            .expected(expected)
            .found(node.map_or("nothing".into(), Node::show))
    }

    /// A text.
    pub fn text(&mut self, key: &'a str) -> Result<Option<String>> {
        match self.node(key).map(|n| &n.raw) {
            None => Ok(None),
            Some(Raw::Text(text)) if !text.is_empty() => Ok(Some(text.clone())),
            Some(_) => Err(self.wrong(key, "a text")),
        }
    }

    /// A list of texts; one text is a list of one.
    pub fn texts(&mut self, key: &'a str) -> Result<Vec<String>> {
        let wanted = "a text or a list of texts";
        match self.node(key).map(|n| &n.raw) {
            None => Ok(Vec::new()),
            Some(Raw::Text(text)) if !text.is_empty() => Ok(vec![text.clone()]),
            Some(Raw::List(list)) => list
                .iter()
                .map(|item| match &item.raw {
                    Raw::Text(text) if !text.is_empty() => Ok(text.clone()),
                    _ => Err(self.wrong(key, wanted)),
                })
                .collect(),
            Some(_) => Err(self.wrong(key, wanted)),
        }
    }

    /// A whole number from `least` on, also as `64k`.
    pub fn count(&mut self, key: &'a str, least: usize) -> Result<Option<usize>> {
        let Some(node) = self.node(key) else { return Ok(None) };
        let n = match &node.raw {
            Raw::Int(n) => usize::try_from(*n).ok(),
            Raw::Text(text) => numbers::at_least_zero(text).ok(),
            _ => None,
        };
        match n.filter(|n| (least..=1_000_000_000_000_000).contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(key, format!("a whole number from {least} on"))),
        }
    }

    /// A finite number for which `holds`; `expected` says which ones those are.
    pub fn number(
        &mut self,
        key: &'a str,
        default: f64,
        expected: &str,
        holds: impl Fn(f64) -> bool,
    ) -> Result<f64> {
        let Some(node) = self.node(key) else { return Ok(default) };
        match as_number(node).filter(|x| x.is_finite() && holds(*x)) {
            Some(x) => Ok(x),
            None => Err(self.wrong(key, expected)),
        }
    }

    /// True or false.
    pub fn flag(&mut self, key: &'a str, default: bool) -> Result<bool> {
        match self.node(key).map(|n| &n.raw) {
            None => Ok(default),
            Some(Raw::Flag(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// One of these words.
    pub fn choice<T: Copy>(&mut self, key: &'a str, words: &[(&str, T)], default: T) -> Result<T> {
        let Some(node) = self.node(key) else { return Ok(default) };
        let found = match &node.raw {
            Raw::Text(text) => words.iter().find(|(word, _)| word == text),
            _ => None,
        };
        let names = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        found.map(|(_, value)| *value).ok_or_else(|| self.wrong(key, names()))
    }

    /// Ends the reading: a key that was not asked for is an error.
    pub fn finish(self) -> Result<()> {
        for (key, node) in self.table.into_iter().flatten() {
            if self.known.contains(&key.as_str()) {
                continue;
            }
            let mut error = located(self.file, &self.full(key), Some(node.place)).found("an unknown setting");
            error = match nearest(key, &self.known) {
                Some(near) => error.advice(format!("did you mean {}?", self.full(near))),
                None => error.advice(format!("known here: {}", once_each(&self.known).join(", "))),
            };
            return Err(error);
        }
        Ok(())
    }
}

/// A number, whole or not.
pub(super) fn as_number(node: &Node) -> Option<f64> {
    match &node.raw {
        Raw::Int(n) => Some(*n as f64),
        Raw::Float(x) => Some(*x),
        _ => None,
    }
}

fn inner<'a>(file: &Path, name: &str, node: Option<&'a Node>) -> Result<Option<&'a Table>> {
    match node {
        None => Ok(None),
        Some(Node { raw: Raw::Table(table), .. }) => Ok(Some(table)),
        Some(node) => Err(located(file, name, Some(node.place))
            .expected(format!("a table, [{name}]"))
            .found(node.show())),
    }
}

/// Tables are asked for by whoever has settings in them, some several times.
fn once_each<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let mut once = Vec::with_capacity(names.len());
    for name in names {
        if !once.contains(name) {
            once.push(*name);
        }
    }
    once
}

/// The known word that a misspelt one is nearest to, where one is near.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let most = (word.chars().count() / 3).max(1);
    known.iter().map(|k| (distance(word, k), *k)).filter(|(d, _)| *d <= most).min().map(|(_, k)| k)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, n) | (n, 0) => n,
                _ => {
                    let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                    if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                        least = least.min(rows[i - 2][j - 2] + 1);
                    }
                    least
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_found() {
        let known = ["steps", "epochs", "warmup", "weight_decay"];
        assert_eq!(nearest("step", &known), Some("steps"));
        assert_eq!(nearest("wieght_decay", &known), Some("weight_decay"));
        assert_eq!(nearest("warm_up", &known), Some("warmup"));
        assert_eq!(nearest("dropout", &known), None);
    }
}
