//! config.json, both spellings of it (transformers 4 and 5), read field by field with bounds.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::layers::Activation;
use crate::error::{Error, Result};
use crate::text::json::{SMALL, read_optional};

/// Bounds that no real model reaches and that keep every later product inside 64 bits.
pub const WIDTH: RangeInclusive<i64> = 1..=1 << 20;
/// Bounds of a number of layers.
pub const LAYERS: RangeInclusive<i64> = 1..=1024;
/// Bounds of a number of heads.
pub const HEADS: RangeInclusive<i64> = 1..=1 << 14;
/// Bounds of a vocabulary.
pub const VOCABULARY: RangeInclusive<i64> = 1..=1 << 24;
/// Bounds of a context length.
pub const CONTEXT: RangeInclusive<i64> = 1..=1 << 28;

/// The sizes that every architecture has.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// The `model_type`.
    pub model_type: &'static str,
    /// Rows of the embedding and of the head, padding in.
    pub vocabulary: i64,
    /// Channels of the hidden state between blocks.
    pub hidden: i64,
    /// Channels of the state that the head sees (OPT may project to another width).
    pub head_input: i64,
    /// Blocks.
    pub layers: i64,
    /// Attention heads.
    pub heads: i64,
    /// Key/value heads.
    pub kv_heads: i64,
    /// Channels of a head.
    pub head_dim: i64,
    /// Channels inside the feed-forward net.
    pub ffn: i64,
    /// Positions that the model knows.
    pub context: i64,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// How far back attention looks, layer by layer: none for all the way.
    pub windows: Vec<Option<i64>>,
    /// The rotary embedding, where there is one.
    pub rope: Option<super::rope::Rope>,
}

impl Shape {
    /// Of so many parameters those of blocks and norms, without embedding and head: what scaling laws count.
    pub fn without_embeddings(&self, parameters: i64) -> i64 {
        let tables = if self.tied { 1 } else { 2 };
        parameters - tables * self.vocabulary * self.head_input
    }
}

/// A config.json, not yet believed.
#[derive(Debug, Clone)]
pub struct RawConfig {
    file: PathBuf,
    fields: Map<String, Value>,
}

impl RawConfig {
    /// Reads the file.
    pub fn open(file: &Path) -> Result<Self> {
        let value = read_optional(file, SMALL)?
            .ok_or_else(|| Error::data("config.json is missing from the model folder").file(file))?;
        match value {
            Value::Object(fields) => Ok(RawConfig { file: file.to_path_buf(), fields }),
            other => Err(Error::data("not a config").file(file).expected("an object").found(kind_of(&other))),
        }
    }

    /// These fields, which `file` would hold.
    pub fn of(file: &Path, fields: Map<String, Value>) -> Self {
        RawConfig { file: file.to_path_buf(), fields }
    }

    /// The fields of an object inside, under the same file name in errors.
    pub fn inside(&self, key: &str) -> Result<Option<RawConfig>> {
        match self.fields.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(fields)) => {
                Ok(Some(RawConfig { file: self.file.clone(), fields: fields.clone() }))
            }
            Some(other) => Err(self.bad(key, "an object", kind_of(other))),
        }
    }

    /// The first field that is an object itself.
    pub fn nested(&self) -> Option<&str> {
        self.fields.iter().find(|(_, v)| v.is_object()).map(|(k, _)| k.as_str())
    }

    /// The error for a field.
    pub fn bad(&self, key: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> Error {
        Error::data("a field of config.json is wrong")
            .file(&self.file)
            .field(key)
            .expected(expected)
            .found(found)
    }

    /// A field's value; null counts as absent.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).filter(|v| !v.is_null())
    }

    /// Whether the field is there, null included.
    pub fn names(&self, key: &str) -> bool {
        self.fields.contains_key(key)
    }

    fn need(&self, key: &str) -> Result<&Value> {
        self.get(key)
            .ok_or_else(|| Error::data("a field of config.json is missing").file(&self.file).field(key))
    }

    /// A whole number within bounds.
    pub fn int(&self, key: &str, bounds: RangeInclusive<i64>) -> Result<i64> {
        let value = self.need(key)?;
        let text = || format!("a whole number from {} to {}", bounds.start(), bounds.end());
        match value.as_i64() {
            Some(n) if bounds.contains(&n) => Ok(n),
            _ => Err(self.bad(key, text(), value)),
        }
    }

    /// A whole number within bounds, or this where the field is absent.
    pub fn int_or(&self, key: &str, bounds: RangeInclusive<i64>, default: i64) -> Result<i64> {
        if self.get(key).is_some() { self.int(key, bounds) } else { Ok(default) }
    }

    /// A finite number above zero, or this where the field is absent.
    pub fn positive_or(&self, key: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(key) else { return Ok(default) };
        match value.as_f64() {
            Some(x) if x.is_finite() && x > 0.0 => Ok(x),
            _ => Err(self.bad(key, "a number above zero", value)),
        }
    }

    /// True or false, or this where the field is absent.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.bad(key, "true or false", value))
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<&str> {
        let value = self.need(key)?;
        value.as_str().ok_or_else(|| self.bad(key, "a text", value))
    }

    /// A text, or this where the field is absent.
    pub fn text_or<'a>(&'a self, key: &str, default: &'a str) -> Result<&'a str> {
        if self.get(key).is_some() { self.text(key) } else { Ok(default) }
    }

    /// An activation function by its name in transformers.
    pub fn activation(&self, key: &str, default: &str) -> Result<Activation> {
        let name = self.text_or(key, default)?;
        Activation::named(name)
            .ok_or_else(|| self.bad(key, Activation::NAMES.join(", "), format!("{name:?}")))
    }

    /// Refuses a switch that changes the model in a way that is not built here.
    pub fn refuse(&self, key: &str, unless: bool) -> Result<()> {
        if self.flag_or(key, unless)? == unless {
            return Ok(());
        }
        Err(self.bad(key, unless, !unless).advice("this variant of the architecture is not supported"))
    }

    /// The channels of a head: stated, or the hidden width over the heads, which must divide it.
    pub fn head_dim(&self, hidden: i64, heads: i64, heads_key: &str) -> Result<i64> {
        if self.get("head_dim").is_some() {
            return self.int("head_dim", 1..=4096);
        }
        if hidden % heads != 0 {
            return Err(self.bad(heads_key, format!("a divisor of the hidden size {hidden}"), heads));
        }
        Ok(hidden / heads)
    }

    /// The key/value heads, which must divide the heads.
    pub fn kv_heads(&self, heads: i64, default: i64) -> Result<i64> {
        let kv = self.int_or("num_key_value_heads", HEADS, default)?;
        if heads % kv != 0 {
            return Err(self.bad("num_key_value_heads", format!("a divisor of the {heads} heads"), kv));
        }
        Ok(kv)
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
