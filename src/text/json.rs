//! JSON from strangers: bounded before it is built, and without a key that occurs twice.
//!
//! serde_json's own `Value` keeps the last of two equal keys; another reader may keep the first. What
//! was checked would then not be what is used, so a key that occurs twice is refused.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::{Error, Result};
use crate::store::read_file;

/// How much JSON is accepted.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the text.
    pub bytes: u64,
    /// Arrays and objects within each other.
    pub depth: usize,
    /// Values in all, members of arrays and objects.
    pub values: usize,
}

/// For config.json and its like.
pub const SMALL: Limits = Limits { bytes: 16 << 20, depth: 32, values: 1 << 20 };

/// Reads a file of JSON. A file that is not there is `None`.
pub fn read_optional(path: &Path, limits: Limits) -> Result<Option<Value>> {
    match read_file(path, limits.bytes)? {
        None => Ok(None),
        Some(bytes) => parse(&bytes, limits).map(Some).map_err(|e| e.or_file(path)),
    }
}

/// Parses JSON within these limits.
///
/// ```
/// use retort::text::json::{SMALL, parse};
/// assert_eq!(parse(b"{\"a\": 1}", SMALL).unwrap()["a"], 1);
/// assert!(parse(b"{\"a\": 1, \"a\": 2}", SMALL).is_err());
/// ```
pub fn parse(bytes: &[u8], limits: Limits) -> Result<Value> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| Error::data("not UTF-8").found(format!("a bad byte at offset {}", e.valid_up_to())))?;
    measure(text, limits)?;
    let strict: Strict = serde_json::from_str(text).map_err(|e| Error::data("not valid JSON").found(e))?;
    Ok(strict.0)
}

/// One pass over the bytes: what the tree would hold, before any of it is built.
fn measure(text: &str, limits: Limits) -> Result<()> {
    let (mut depth, mut values, mut in_string, mut escaped) = (0usize, 1usize, false, false);
    for b in text.bytes() {
        if in_string {
            match b {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match b {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                values += 1;
                if depth > limits.depth {
                    return Err(Error::data("the JSON is nested too deep")
                        .expected(format!("at most {} levels", limits.depth))
                        .found("more"));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
        if values > limits.values {
            return Err(Error::data("the JSON holds too many values")
                .expected(format!("at most {}", limits.values))
                .found("more"));
        }
    }
    Ok(())
}

/// A `Value` built without accepting a key twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        StrictSeed.deserialize(deserializer).map(Strict)
    }
}

struct StrictSeed;

impl<'de> DeserializeSeed<'de> for StrictSeed {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StrictSeed {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(StrictSeed)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(StrictSeed)?;
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("the key \"{key}\" occurs twice")));
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// A word for the type of a value, for "expected a string, found ...".
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(n) if n.is_f64() => "a fraction",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_before_anything_is_built() {
        let tight = Limits { bytes: 100, depth: 3, values: 10 };
        assert!(parse(b"[[[1]]]", tight).is_ok());
        assert!(parse(b"[[[[1]]]]", tight).is_err());
        assert!(parse(b"[1,1,1,1,1,1,1,1,1,1,1]", tight).is_err());
        assert_eq!(parse(br#"["[[[[,,,,,,,,,,,,\"["]"#, tight).unwrap()[0], "[[[[,,,,,,,,,,,,\"[");
        assert!(parse(b"\xff", tight).is_err() && parse(b"{\"a\":1", tight).is_err());
        assert!(parse("[".repeat(100_000).as_bytes(), SMALL).is_err());
    }
}
