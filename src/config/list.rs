//! Every setting of a config as it stands, and where it came from.

use std::path::Path;

use serde_json::Value;

use super::raw::{self, Document, Place, Raw};
use super::{RunConfig, read, write};
use crate::error::{Error, Result};

/// One setting.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// Its full name, such as `train.lr`.
    pub key: String,
    /// Its value as TOML.
    pub text: String,
    /// The same as JSON.
    pub value: Value,
    /// Where it was set.
    pub from: SetBy,
}

/// Where a setting came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetBy {
    /// This line of the file.
    Line(usize),
    /// A `--set`.
    Option,
    /// Nobody set it: a default, or what a preset says.
    Nobody,
}

impl RunConfig {
    /// Every setting, defaults and what presets say written out.
    pub fn listed(&self) -> Result<Vec<Listed>> {
        let mut all = Vec::new();
        for (table, lines) in write::tables(self)? {
            for (name, text) in lines {
                let key = if table.is_empty() { name } else { format!("{table}.{name}") };
                let from = match self.place(&key) {
                    Some(Place::Line(line)) => SetBy::Line(line),
                    Some(Place::Set) => SetBy::Option,
                    None => SetBy::Nobody,
                };
                let value = json(&text)?;
                all.push(Listed { key, text, value, from });
            }
        }
        Ok(all)
    }

    /// The updates of the run that wrote this config, where a regime makes other than its length says.
    pub fn updates(&self) -> Option<u64> {
        self.facts().into_iter().find(|(key, _)| key == "updates").and_then(|(_, n)| n.parse().ok())
    }

    /// The facts of the run that wrote this config, where one did: version, device, type, threads.
    pub fn facts(&self) -> Vec<(String, String)> {
        let Some(Raw::Table(table)) = raw::find(&self.document.table, read::RUN).map(|node| &node.raw) else {
            return Vec::new();
        };
        let text = |raw: &Raw| match raw {
            Raw::Text(text) => Some(text.clone()),
            _ => None,
        };
        table.iter().filter_map(|(key, node)| Some((key.clone(), text(&node.raw)?))).collect()
    }
}

/// A TOML value as JSON.
fn json(text: &str) -> Result<Value> {
    let document = Document::parse(&format!("x = {text}"), Path::new("a setting"))?;
    let node = raw::find(&document.table, "x").ok_or_else(|| Error::bug("a setting without a value"))?;
    Ok(node.to_json())
}
