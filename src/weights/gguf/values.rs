//! Metadata by key and type: a key that is there with another type is an error, never ignored.

use std::fmt::Display;
use std::ops::Range;

use super::file::Gguf;
use crate::error::{Error, Result};

/// A metadata value. Texts and arrays stay in the file and are read when they are asked for.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// Any of the eight integer types.
    Integer(i128),
    /// A float32, as the shortest decimal that gives it back, or a float64.
    Real(f64),
    /// A byte that should be 0 or 1.
    Bool(u8),
    /// UTF-8, unchecked.
    Text(Range<usize>),
    /// Elements of one type.
    Array { of: Scalar, count: usize, at: Range<usize> },
}

/// The type of a value or of an array's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
    Bool,
    Text,
}

impl Scalar {
    /// The type with the format's id.
    pub(super) fn of(id: u32) -> Option<Self> {
        use Scalar::*;
        Some(match id {
            0 => U8,
            1 => I8,
            2 => U16,
            3 => I16,
            4 => U32,
            5 => I32,
            6 => F32,
            7 => Bool,
            8 => Text,
            10 => U64,
            11 => I64,
            12 => F64,
            _ => return None,
        })
    }

    /// Bytes an element; of a text those of its length.
    pub(super) fn size(self) -> usize {
        use Scalar::*;
        match self {
            U8 | I8 | Bool => 1,
            U16 | I16 => 2,
            U32 | I32 | F32 => 4,
            U64 | I64 | F64 | Text => 8,
        }
    }
}

/// A number of this type from exactly its bytes.
pub(super) fn scalar(of: Scalar, b: &[u8]) -> Value {
    let mut wide = [0; 8];
    wide[..b.len()].copy_from_slice(b);
    let n = u64::from_le_bytes(wide);
    match of {
        Scalar::U8 | Scalar::U16 | Scalar::U32 | Scalar::U64 | Scalar::Text => Value::Integer(n.into()),
        Scalar::I8 => Value::Integer((n as i8).into()),
        Scalar::I16 => Value::Integer((n as i16).into()),
        Scalar::I32 => Value::Integer((n as i32).into()),
        Scalar::I64 => Value::Integer((n as i64).into()),
        Scalar::F32 => Value::Real(shortest(f32::from_bits(n as u32))),
        Scalar::F64 => Value::Real(f64::from_bits(n)),
        Scalar::Bool => Value::Bool(n as u8),
    }
}

/// 1e-5 rather than 9.999999747378752e-6: the float64 with the shortest digits that round to `x`.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::NAN)
}

impl Value {
    fn name(&self) -> String {
        match self {
            Value::Integer(n) => format!("the integer {n}"),
            Value::Real(x) => format!("the number {x}"),
            Value::Bool(b) => format!("the flag {b}"),
            Value::Text(_) => "a text".into(),
            Value::Array { of, count, .. } => format!("an array of {count} {of:?}"),
        }
    }
}

impl Gguf {
    /// An error about a key of this file.
    pub(super) fn bad(&self, what: &str, key: &str) -> Error {
        Error::data(what).file(&self.path).field(key)
    }

    fn wrong(&self, key: &str, expected: impl Display, found: &Value) -> Error {
        self.bad("bad metadata value", key).expected(expected).found(found.name())
    }

    /// The error for a key that has to be there.
    pub(super) fn missing(&self, key: &str) -> Error {
        self.bad("a metadata key is missing", key)
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Text(at)) => match std::str::from_utf8(&self.map[at.clone()]) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(self.bad("a text is not UTF-8", key)),
            },
            Some(other) => Err(self.wrong(key, "a text", other)),
        }
    }

    /// A whole number from 0 to `most`.
    pub(super) fn whole(&self, key: &str, most: usize) -> Result<Option<usize>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(&Value::Integer(n)) if n >= 0 && n <= most as i128 => Ok(Some(n as usize)),
            Some(other) => Err(self.wrong(key, format!("a whole number from 0 to {most}"), other)),
        }
    }

    /// A finite number.
    pub(super) fn real(&self, key: &str) -> Result<Option<f64>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(&Value::Real(x)) if x.is_finite() => Ok(Some(x)),
            Some(other) => Err(self.wrong(key, "a finite number", other)),
        }
    }

    /// A flag.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Bool(0)) => Ok(Some(false)),
            Some(Value::Bool(1)) => Ok(Some(true)),
            Some(other) => Err(self.wrong(key, "a flag, 0 or 1", other)),
        }
    }

    /// An array of texts.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let (mut at, count, end) = match self.values.get(key) {
            None => return Ok(None),
            Some(Value::Array { of: Scalar::Text, count, at }) => (at.start, *count, at.end),
            Some(other) => return Err(self.wrong(key, "an array of texts", other)),
        };
        let mut all = Vec::with_capacity(count);
        for n in 0..count {
            let (length, rest) = self.map[at..end].split_at(8);
            let Value::Integer(length) = scalar(Scalar::Text, length) else { break };
            let bytes = &rest[..length as usize];
            let text = std::str::from_utf8(bytes)
                .map_err(|_| self.bad("a text is not UTF-8", key).found(format!("element {n}")))?;
            all.push(text);
            at += 8 + bytes.len();
        }
        Ok(Some(all))
    }

    fn elements(&self, key: &str, expected: &str) -> Result<Option<impl Iterator<Item = Value>>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(&Value::Array { of, ref at, .. }) if of != Scalar::Text => {
                Ok(Some(self.map[at.clone()].chunks_exact(of.size()).map(move |b| scalar(of, b))))
            }
            Some(other) => Err(self.wrong(key, expected, other)),
        }
    }

    /// An array of integers that fit an i32.
    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<i32>>> {
        let expected = "an array of integers";
        let Some(elements) = self.elements(key, expected)? else { return Ok(None) };
        let all = elements.map(|v| match v {
            Value::Integer(n) => i32::try_from(n).map_err(|_| self.wrong(key, expected, &v)),
            other => Err(self.wrong(key, expected, &other)),
        });
        all.collect::<Result<_>>().map(Some)
    }

    /// An array of numbers, none of which is NaN.
    pub(super) fn reals(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let expected = "an array of numbers";
        let Some(elements) = self.elements(key, expected)? else { return Ok(None) };
        let all = elements.map(|v| match v {
            Value::Real(x) if !x.is_nan() => Ok(x),
            other => Err(self.wrong(key, expected, &other)),
        });
        all.collect::<Result<_>>().map(Some)
    }
}
