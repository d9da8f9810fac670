//! What a tokenizer.json must keep to before the tokenizers crate sees it. The crate panics on some
//! files and allocates without bound on others; what a panic cannot tell (memory, endless loops) is
//! refused here.

use std::collections::HashSet;

use serde_json::Value;

use super::json::{Limits, kind};
use crate::error::{Error, Result};

/// How large a tokenizer.json may be. The largest in use are near 40 MB with 1.5 million values.
pub const LIMITS: Limits = Limits { bytes: 96 << 20, depth: 24, values: 4_000_000 };

/// The longest text of any setting: a pattern, a prefix, a replacement.
const LONGEST_SETTING: usize = 16 << 10;
/// The longest token.
const LONGEST_TOKEN: usize = 64 << 10;
/// The longest character map of SentencePiece, in base64; those in use are near 0.4 MB.
const LONGEST_CHARSMAP: usize = 8 << 20;
/// How many settings the parts around the model may hold in all.
const MOST_SETTINGS: usize = 50_000;
/// How many times longer the replacing normalizers and decoders together may make a text.
const MOST_GROWTH: f64 = 4096.0;
/// Ids above this are not a vocabulary's.
const HIGHEST_ID: u64 = 1 << 22;

/// Checks a parsed tokenizer.json.
pub fn check(json: &Value) -> Result<()> {
    let root = json.as_object().ok_or_else(|| wrong("tokenizer.json", "an object", kind(json)))?;
    let model = match root.get("model") {
        Some(Value::Object(model)) => model,
        Some(other) => return Err(wrong("model", "an object", kind(other))),
        None => return Err(wrong("model", "an object", "nothing")),
    };
    let ids = match model.get("type").and_then(Value::as_str) {
        Some("Unigram") => check_unigram(model)?,
        Some("BPE" | "WordPiece" | "WordLevel") => check_vocab(model.get("vocab"))?,
        // Files of 2020 leave the type out; merges tell a BPE.
        None if !model.contains_key("type") && model.contains_key("merges") => {
            check_vocab(model.get("vocab"))?
        }
        _ => {
            let found = model.get("type").map_or("nothing".to_string(), Value::to_string);
            return Err(wrong("model.type", "BPE, WordPiece, WordLevel or Unigram", found));
        }
    };
    for (key, value) in model {
        if let ("vocab" | "merges", _) | (_, Value::Null) = (key.as_str(), value) {
            continue;
        }
        check_setting(&format!("model.{key}"), value)?;
    }
    if let Some(merges) = model.get("merges") {
        check_merges(merges)?;
    }
    if ids == 0 {
        return Err(wrong("model.vocab", "at least one token", "none"));
    }
    check_added(root.get("added_tokens"), ids)?;
    let mut settings = 0;
    for part in ["normalizer", "pre_tokenizer", "post_processor", "decoder"] {
        let Some(value) = root.get(part) else { continue };
        if !matches!(value, Value::Null | Value::Object(_)) {
            return Err(wrong(part, "an object or null", kind(value)));
        }
        let mut growth = 1.0;
        walk(part, value, &mut settings, &mut growth)?;
    }
    Ok(())
}

fn wrong(field: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> Error {
    Error::data("not a tokenizer that can be used").field(field).expected(expected).found(found)
}

/// Ids of a vocabulary: whole, unique, and not far beyond its size. Returns how many tokens there are.
fn check_vocab(vocab: Option<&Value>) -> Result<usize> {
    let Some(Value::Object(vocab)) = vocab else {
        return Err(wrong("model.vocab", "an object", vocab.map_or("nothing", kind)));
    };
    let highest = highest_id(vocab.len());
    let mut seen = HashSet::with_capacity(vocab.len());
    for (token, id) in vocab {
        check_token("model.vocab", token)?;
        let id = id.as_u64().filter(|id| *id <= highest).ok_or_else(|| {
            let found = format!("{id} for the token {token:?}");
            wrong("model.vocab", format!("ids from 0 to at most {highest} for {} tokens", vocab.len()), found)
        })?;
        if !seen.insert(id) {
            return Err(wrong("model.vocab", "every id once", format!("the id {id} twice")));
        }
    }
    Ok(vocab.len())
}

/// The highest id that a vocabulary of this many tokens may use: some leave holes.
fn highest_id(tokens: usize) -> u64 {
    (2 * tokens as u64 + 65_536).min(HIGHEST_ID)
}

fn check_token(field: &str, token: &str) -> Result<()> {
    if token.len() > LONGEST_TOKEN {
        let found = format!("{} bytes", token.len());
        return Err(wrong(field, format!("tokens of at most {LONGEST_TOKEN} bytes"), found));
    }
    Ok(())
}

fn check_unigram(model: &serde_json::Map<String, Value>) -> Result<usize> {
    let Some(Value::Array(vocab)) = model.get("vocab") else {
        return Err(wrong("model.vocab", "a list", model.get("vocab").map_or("nothing", kind)));
    };
    let mut seen = HashSet::with_capacity(vocab.len());
    for (id, piece) in vocab.iter().enumerate() {
        let pair = piece.as_array().filter(|p| p.len() == 2);
        let named = pair.and_then(|p| Some((p[0].as_str()?, p[1].as_f64()?)));
        let Some((token, _)) = named else {
            return Err(wrong("model.vocab", "[token, score] pairs", format!("{piece} at {id}")));
        };
        check_token("model.vocab", token)?;
        if !seen.insert(token) {
            return Err(wrong("model.vocab", "every token once", format!("{token:?} twice")));
        }
    }
    match model.get("unk_id") {
        None | Some(Value::Null) => {}
        Some(id) if id.as_u64().is_some_and(|id| id < vocab.len() as u64) => {}
        Some(id) => return Err(wrong("model.unk_id", format!("an id below {}", vocab.len()), id)),
    }
    Ok(vocab.len())
}

/// Merges are pairs; that their parts are tokens is checked by the crate.
fn check_merges(merges: &Value) -> Result<()> {
    let list = merges.as_array().ok_or_else(|| wrong("model.merges", "a list", kind(merges)))?;
    let pair = |m: &Value| match m {
        Value::String(s) => s.split(' ').count() == 2,
        Value::Array(p) => p.len() == 2 && p.iter().all(Value::is_string),
        _ => false,
    };
    match list.iter().position(|m| !pair(m)) {
        None => Ok(()),
        Some(at) => Err(wrong("model.merges", "pairs of tokens", format!("{} at {at}", list[at]))),
    }
}

fn check_added(added: Option<&Value>, vocab: usize) -> Result<()> {
    let list = match added {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong("added_tokens", "a list", kind(other))),
    };
    let highest = highest_id(vocab + list.len());
    for (at, token) in list.iter().enumerate() {
        let field = format!("added_tokens[{at}]");
        let content = token.get("content").and_then(Value::as_str);
        let content = content.ok_or_else(|| wrong(&field, "an object with a content", kind(token)))?;
        if content.is_empty() {
            return Err(wrong(&field, "a content", "an empty one"));
        }
        check_token(&field, content)?;
        let id = token.get("id").unwrap_or(&Value::Null);
        if id.as_u64().is_none_or(|id| id > highest) {
            return Err(wrong(&field, format!("an id from 0 to {highest}"), id));
        }
    }
    Ok(())
}

fn check_setting(field: &str, value: &Value) -> Result<()> {
    match value {
        Value::String(s) if s.len() > LONGEST_SETTING => {
            Err(wrong(field, format!("at most {LONGEST_SETTING} bytes"), format!("{} bytes", s.len())))
        }
        Value::Array(_) | Value::Object(_) => Err(wrong(field, "a plain value", kind(value))),
        Value::Number(n) if n.as_f64().is_none_or(|n| !(0.0..=1e6).contains(&n)) => {
            Err(wrong(field, "a number from 0 to 1000000", n))
        }
        _ => Ok(()),
    }
}

/// The parts around the model: how much they hold, and what they would do to a text's length.
fn walk(field: &str, value: &Value, settings: &mut usize, growth: &mut f64) -> Result<()> {
    *settings += 1;
    if *settings > MOST_SETTINGS {
        return Err(wrong(field, format!("at most {MOST_SETTINGS} settings"), "more"));
    }
    match value {
        Value::String(s) => {
            let limit =
                if field.ends_with("precompiled_charsmap") { LONGEST_CHARSMAP } else { LONGEST_SETTING };
            if s.len() > limit {
                return Err(wrong(field, format!("at most {limit} bytes"), format!("{} bytes", s.len())));
            }
        }
        Value::Number(n) if n.as_f64().is_none_or(|n| !(0.0..=HIGHEST_ID as f64).contains(&n)) => {
            return Err(wrong(field, format!("a number from 0 to {HIGHEST_ID}"), n));
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                walk(&format!("{field}[{at}]"), item, settings, growth)?;
            }
        }
        Value::Object(object) => {
            check_part(field, object, growth)?;
            for (key, item) in object {
                walk(&format!("{field}.{key}"), item, settings, growth)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// One part with a type: the two that can do unbounded harm with small settings.
fn check_part(field: &str, object: &serde_json::Map<String, Value>, growth: &mut f64) -> Result<()> {
    let length = |key: &str| object.get(key).and_then(Value::as_str).map_or(0, str::len) as f64;
    let factor = match object.get("type").and_then(Value::as_str) {
        Some("Replace") => {
            let literal = object.get("pattern").and_then(|p| p.get("String")).and_then(Value::as_str);
            // A regex may match nothing at all, between any two bytes.
            literal.map_or(length("content") + 1.0, |p| length("content") / p.len().max(1) as f64)
        }
        // Once a text; but a normalizer is also run on every piece between added tokens.
        Some("Prepend") => length("prepend") / 4.0,
        Some("FixedLength") if object.get("length").and_then(Value::as_u64) == Some(0) => {
            return Err(wrong(field, "a length of at least 1", 0));
        }
        Some("TemplateProcessing") => {
            let pieces = |key: &str| object.get(key).and_then(Value::as_array).map_or(0, Vec::len);
            pieces("single").max(pieces("pair")) as f64 / 8.0
        }
        _ => 1.0,
    };
    *growth *= factor.max(1.0);
    if *growth > MOST_GROWTH {
        let found = "parts that make a text thousands of times longer";
        return Err(wrong(field, format!("a growth of at most {MOST_GROWTH} times"), found));
    }
    Ok(())
}
