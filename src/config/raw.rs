//! A config file as it was written: every value with the line it stands on, and what `--set` laid over it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::error::{Error, Result};
use crate::store::read_file;

/// The longest config file that is read.
const LONGEST: u64 = 1 << 20;

/// Where a value was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// On this line of the file.
    Line(usize),
    /// In a `--set`.
    Set,
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub raw: Raw,
    pub place: Place,
}

/// A value as TOML has it.
#[derive(Debug, Clone)]
pub(super) enum Raw {
    Text(String),
    Int(i64),
    Float(f64),
    Flag(bool),
    List(Vec<Node>),
    Table(Table),
    /// A date or time, or a number beyond 64 bits: nothing here takes one.
    Other(String),
}

/// Keys and values, in the order they were written.
pub(super) type Table = Vec<(String, Node)>;

/// A whole config, unchecked.
#[derive(Debug, Clone)]
pub(super) struct Document {
    pub file: PathBuf,
    pub table: Table,
}

impl Node {
    /// What it is, for an error.
    pub fn show(&self) -> String {
        match &self.raw {
            Raw::Text(text) => format!("{text:?}"),
            Raw::Int(n) => n.to_string(),
            Raw::Float(x) => x.to_string(),
            Raw::Flag(flag) => flag.to_string(),
            Raw::List(_) => "a list".into(),
            Raw::Table(_) => "a table".into(),
            Raw::Other(what) => what.clone(),
        }
    }

    /// The same as JSON, which policies read their tables as.
    pub fn to_json(&self) -> Value {
        match &self.raw {
            Raw::Text(text) => text.as_str().into(),
            Raw::Int(n) => (*n).into(),
            Raw::Float(x) => (*x).into(),
            Raw::Flag(flag) => (*flag).into(),
            Raw::List(list) => list.iter().map(Node::to_json).collect(),
            Raw::Table(table) => Value::Object(json_table(table)),
            Raw::Other(what) => what.as_str().into(),
        }
    }
}

/// A table as JSON.
pub(super) fn json_table(table: &Table) -> Map<String, Value> {
    table.iter().map(|(key, node)| (key.clone(), node.to_json())).collect()
}

/// The value of a key.
pub(super) fn find<'a>(table: &'a Table, key: &str) -> Option<&'a Node> {
    table.iter().find(|(k, _)| k == key).map(|(_, node)| node)
}

impl Document {
    /// Reads a file.
    pub fn open(file: &Path) -> Result<Self> {
        let bytes = read_file(file, LONGEST)?.ok_or_else(|| Error::user("no such file").file(file))?;
        let text = String::from_utf8(bytes).map_err(|_| Error::user("not UTF-8").file(file))?;
        Self::parse(&text, file)
    }

    /// Reads a text that stands in `file`.
    pub fn parse(text: &str, file: &Path) -> Result<Self> {
        let lines = Lines::of(text);
        let parsed = DeTable::parse(text).map_err(|e| {
            let line = lines.at(e.span().map_or(0, |span| span.start));
            Error::user("not valid TOML").file(file).line(line).found(e.message())
        })?;
        Ok(Document {
            file: file.to_path_buf(),
            table: table(parsed.get_ref(), &|at| Place::Line(lines.at(at))),
        })
    }

    /// Lays `key=value` over it; the key may be dotted, the value is TOML, or else a text as it stands.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let wrong = |found: &str| {
            Error::user("not a setting")
                .field("--set")
                .expected("key=value, such as train.lr=1e-4")
                .found(found)
        };
        let (key, text) = assignment.split_once('=').ok_or_else(|| wrong(assignment))?;
        let (key, text) = (key.trim(), text.trim());
        let parts: Vec<&str> = key.split('.').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(wrong(assignment));
        }
        let raw = match DeValue::parse(text) {
            Ok(value) => raw(value.get_ref(), &|_| Place::Set),
            Err(_) => Raw::Text(text.to_string()),
        };
        put(&mut self.table, &parts, Node { raw, place: Place::Set })
            .map_err(|at| Error::user("not a table").field(format!("--set {key}")).found(at))
    }
}

/// Puts a value at a dotted key; tables on the way are made. An error names the key that holds none.
fn put(table: &mut Table, parts: &[&str], node: Node) -> Result<(), String> {
    let Some((first, rest)) = parts.split_first() else { return Ok(()) };
    let at = match table.iter().position(|(key, _)| key == first) {
        Some(at) => at,
        None => {
            table.push((first.to_string(), Node { raw: Raw::Table(Table::new()), place: node.place }));
            table.len() - 1
        }
    };
    let slot = &mut table[at].1;
    if rest.is_empty() {
        *slot = node;
        return Ok(());
    }
    match &mut slot.raw {
        Raw::Table(inner) => put(inner, rest, node),
        _ => Err(first.to_string()),
    }
}

fn table(from: &DeTable<'_>, place: &dyn Fn(usize) -> Place) -> Table {
    let mut entries: Vec<_> = from.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
        .into_iter()
        .map(|(key, value)| {
            let node = Node { raw: raw(value.get_ref(), place), place: place(key.span().start) };
            (key.get_ref().to_string(), node)
        })
        .collect()
}

fn raw(value: &DeValue<'_>, place: &dyn Fn(usize) -> Place) -> Raw {
    let list = |items: &DeArray<'_>| {
        let item =
            |v: &Spanned<DeValue<'_>>| Node { raw: raw(v.get_ref(), place), place: place(v.span().start) };
        items.iter().map(item).collect()
    };
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => Raw::Int(n),
            Err(_) => Raw::Other(n.to_string()),
        },
        DeValue::Float(x) => x.as_str().parse().map_or_else(|_| Raw::Other(x.as_str().into()), Raw::Float),
        DeValue::Boolean(flag) => Raw::Flag(*flag),
        DeValue::Datetime(date) => Raw::Other(date.to_string()),
        DeValue::Array(items) => Raw::List(list(items)),
        DeValue::Table(inner) => Raw::Table(table(inner, place)),
    }
}

/// From an offset to a line, counted from 1.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Lines(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|&end| end < offset) + 1
    }
}
