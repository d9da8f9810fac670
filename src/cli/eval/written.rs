//! Replies that were made before: JSON lines as `generate` writes them, in the order of the rows; with
//! several samples of a row those of one row together.

use std::path::Path;

use serde_json::{Map, Value};

use super::Metric;
use super::measure::Replies;
use crate::data::reader::LONGEST_LINE;
use crate::error::{Error, Result};
use crate::eval::replies::Answer;
use crate::store::read_file;
use crate::text::json::{Limits, kind, parse};

/// What the JSON of a reply may hold.
const LIMITS: Limits = Limits { bytes: LONGEST_LINE as u64, depth: 32, values: 16 << 20 };

/// The longest file of replies.
const LONGEST: u64 = 4 << 30;

/// Reads the replies to so many rows.
pub(super) fn read(file: &Path, metrics: &[Metric], rows: usize) -> Result<Replies> {
    let bytes = read_file(file, LONGEST)?.ok_or_else(|| Error::user("no such file").file(file))?;
    let mut answers = Vec::new();
    for (line, bytes) in bytes.split(|b| *b == b'\n').enumerate() {
        if !bytes.iter().all(u8::is_ascii_whitespace) {
            answers.push(reply(bytes, metrics).map_err(|e| e.at_row(file, line + 1))?);
        }
    }
    if answers.is_empty() || !answers.len().is_multiple_of(rows) {
        return Err(Error::data("replies and rows do not go together")
            .file(file)
            .expected(format!("{rows} replies, or a multiple of that: one row's together"))
            .found(answers.len()));
    }
    let samples = answers.len() / rows;
    let mut seeds: Vec<Vec<Answer>> = vec![Vec::with_capacity(rows); samples];
    for (n, answer) in answers.into_iter().enumerate() {
        seeds[n % samples].push(answer);
    }
    Ok(Replies { seeds })
}

fn reply(bytes: &[u8], metrics: &[Metric]) -> Result<Answer> {
    let value = parse(bytes, LIMITS)?;
    let Value::Object(object) = &value else {
        return Err(Error::data("not a reply").expected("a JSON object").found(kind(&value)));
    };
    let needs = |metric| metrics.contains(&metric);
    let text = match object.get("response") {
        Some(Value::String(text)) => text.clone(),
        other => return Err(wrong("response", "a string", other)),
    };
    let ids = if needs(Metric::Distinct4) { ids(object)? } else { Vec::new() };
    let ended = match object.get("finish").and_then(Value::as_str) {
        Some("eos") => true,
        Some("length") => false,
        _ if needs(Metric::EosRate) => {
            return Err(wrong("finish", "\"eos\" or \"length\"", object.get("finish")));
        }
        _ => false,
    };
    Ok(Answer { text, ids, ended })
}

fn ids(object: &Map<String, Value>) -> Result<Vec<u32>> {
    let found = object.get("ids");
    let list = found.and_then(Value::as_array).ok_or_else(|| wrong("ids", "a list of token ids", found))?;
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    list.iter().map(|v| id(v).ok_or_else(|| wrong("ids", "token ids", Some(v)))).collect()
}

fn wrong(field: &str, expected: &str, found: Option<&Value>) -> Error {
    Error::data("a bad reply").field(field).expected(expected).found(found.map_or("nothing", kind))
}
