//! The files of a model folder around its tokenizer: tokenizer_config.json, special_tokens_map.json,
//! added_tokens.json, chat_template.jinja, and the older vocab.json with merges.txt. What counts and
//! in which order follows transformers 5 (`PreTrainedTokenizerBase._from_pretrained`).

use std::path::Path;

use serde_json::{Map, Value, json};

use super::check::LIMITS;
use super::json::{SMALL, kind, parse, read_optional};
use crate::error::{Error, Result};
use crate::store::read_file;

/// The named special tokens, in the order in which transformers adds those that are missing.
pub const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The largest chat template that is read.
pub const LONGEST_TEMPLATE: u64 = 1 << 20;

/// A token to add, as the tokenizers crate's JSON spells it.
#[derive(Debug, Clone)]
pub struct Added {
    /// Its text.
    pub content: String,
    /// Whether decoding can skip it, and how it matches.
    pub settings: tokenizers::AddedToken,
    /// Whether these settings go before those of tokenizer.json.
    pub overrides: bool,
}

/// What the files beside tokenizer.json say.
#[derive(Debug, Default)]
pub struct Beside {
    /// tokenizer_config.json, empty where there is none.
    pub config: Map<String, Value>,
    /// `bos_token` and the like with their texts, in the order of [`NAMED`], then the model's own.
    pub named: Vec<(String, String)>,
    /// The tokens to add, in this order, where the tokenizer lacks them.
    pub add: Vec<Added>,
    /// The chat template.
    pub template: Option<String>,
}

/// Reads them. `class` is the tokenizer's class, whose defaults fill what the files leave open.
pub fn read_beside(folder: &Path, has_tokenizer_json: bool) -> Result<Beside> {
    let config = object(folder, "tokenizer_config.json")?.unwrap_or_default();
    let mut fields = config.clone();
    let mut add = Vec::new();
    if let Some(decoder) = config.get("added_tokens_decoder") {
        add = added_decoder(decoder).map_err(|e| e.or_file(folder.join("tokenizer_config.json")))?;
    } else {
        if let Some(map) = object(folder, "special_tokens_map.json")? {
            fields.extend(map);
        }
        if !has_tokenizer_json && let Some(map) = object(folder, "added_tokens.json")? {
            add = added_map(&map, &fields).map_err(|e| e.or_file(folder.join("added_tokens.json")))?;
        }
    }
    let class = class_of(folder, &config)?;
    let mut named = Vec::new();
    let own = fields.keys().filter(|k| k.ends_with("_token") && !NAMED.contains(&k.as_str()));
    for key in NAMED.iter().map(|k| k.to_string()).chain(own.cloned()) {
        let Some(token) = fields.get(&key).and_then(special) else {
            // With a tokenizer.json the class's default counts only if it is a token (see `Tokenizer`).
            if let Some(text) = fields.get(&key).is_none().then(|| class_default(&class, &key)).flatten() {
                named.push((key, text.to_string()));
            }
            continue;
        };
        named.push((key, token.content.clone()));
        if !add.iter().any(|a| a.content == token.content) {
            add.push(token);
        }
    }
    for key in ["extra_special_tokens", "additional_special_tokens"] {
        for token in fields.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(special) {
            if !add.iter().any(|a| a.content == token.content) {
                add.push(token);
            }
        }
    }
    let template = chat_template(folder, &config)?;
    Ok(Beside { config, named, add, template })
}

/// An object of a small JSON file of the folder.
pub fn object(folder: &Path, name: &str) -> Result<Option<Map<String, Value>>> {
    let path = folder.join(name);
    match read_optional(&path, SMALL)? {
        None => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(other) => Err(Error::data("not a config").file(path).expected("an object").found(kind(&other))),
    }
}

/// The tokenizer's class without `Fast`: as said, else the one that transformers takes for the model.
pub fn class_of(folder: &Path, config: &Map<String, Value>) -> Result<String> {
    if let Some(class) = config.get("tokenizer_class").and_then(Value::as_str) {
        return Ok(class.trim_end_matches("Fast").to_string());
    }
    let model = object(folder, "config.json")?.unwrap_or_default();
    let class = match model.get("model_type").and_then(Value::as_str) {
        Some("gpt2" | "opt" | "gptj" | "gpt_neo") => "GPT2Tokenizer",
        Some("qwen2" | "qwen3") => "Qwen2Tokenizer",
        Some("gpt_neox") => "GPTNeoXTokenizer",
        Some("llama") => "LlamaTokenizer",
        _ => "PreTrainedTokenizer",
    };
    Ok(class.to_string())
}

fn class_default(class: &str, key: &str) -> Option<&'static str> {
    match (class, key) {
        ("GPT2Tokenizer" | "GPTNeoXTokenizer", "bos_token" | "eos_token" | "unk_token") => {
            Some("<|endoftext|>")
        }
        ("GPTNeoXTokenizer", "pad_token") => Some("<|padding|>"),
        ("Qwen2Tokenizer", "eos_token" | "pad_token" | "unk_token") => Some("<|endoftext|>"),
        ("LlamaTokenizer", "bos_token") => Some("<s>"),
        ("LlamaTokenizer", "eos_token") => Some("</s>"),
        ("LlamaTokenizer", "unk_token") => Some("<unk>"),
        _ => None,
    }
}

/// A special token written as a string or as an object with a content.
fn special(value: &Value) -> Option<Added> {
    match value {
        Value::String(content) if !content.is_empty() => Some(Added {
            content: content.clone(),
            settings: tokenizers::AddedToken::from(content.clone(), true),
            overrides: false,
        }),
        Value::Object(map) => {
            let mut token = added_object(map)?;
            token.settings.special = true;
            Some(token)
        }
        _ => None,
    }
}

fn added_object(map: &Map<String, Value>) -> Option<Added> {
    let flag = |key: &str| map.get(key).and_then(Value::as_bool).unwrap_or(false);
    let content = map.get("content").and_then(Value::as_str).filter(|c| !c.is_empty())?.to_string();
    let settings = tokenizers::AddedToken::from(content.clone(), flag("special"))
        .single_word(flag("single_word"))
        .lstrip(flag("lstrip"))
        .rstrip(flag("rstrip"))
        .normalized(map.get("normalized").and_then(Value::as_bool).unwrap_or(!flag("special")));
    Some(Added { content, settings, overrides: false })
}

/// tokenizer_config.json's `added_tokens_decoder`: id -> token, in the order of the ids.
fn added_decoder(decoder: &Value) -> Result<Vec<Added>> {
    let wrong =
        |found: &str| Error::data("not a token").field("added_tokens_decoder").found(found.to_string());
    let map = decoder.as_object().ok_or_else(|| wrong(kind(decoder)))?;
    let mut tokens = Vec::new();
    for (id, token) in map {
        let number: u64 = id.parse().map_err(|_| wrong(id))?;
        let token = token.as_object().and_then(added_object).ok_or_else(|| wrong(id))?;
        tokens.push((number, Added { overrides: true, ..token }));
    }
    tokens.sort_by_key(|(id, _)| *id);
    Ok(tokens.into_iter().map(|(_, token)| token).collect())
}

/// added_tokens.json: token -> id; special where a named special token has the same text.
fn added_map(map: &Map<String, Value>, fields: &Map<String, Value>) -> Result<Vec<Added>> {
    let named: Vec<String> =
        NAMED.iter().filter_map(|k| fields.get(*k).and_then(special)).map(|t| t.content).collect();
    let mut tokens = Vec::new();
    for (content, id) in map {
        let id = id.as_u64().ok_or_else(|| Error::data("not a token id").field(content).found(id))?;
        let is_special = named.contains(content);
        let settings = tokenizers::AddedToken::from(content.clone(), is_special).normalized(!is_special);
        tokens.push((id, Added { content: content.clone(), settings, overrides: true }));
    }
    tokens.sort_by_key(|(id, _)| *id);
    Ok(tokens.into_iter().map(|(_, token)| token).collect())
}

/// chat_template.jinja goes first, then tokenizer_config.json: one text, or a list with a `default`.
fn chat_template(folder: &Path, config: &Map<String, Value>) -> Result<Option<String>> {
    let path = folder.join("chat_template.jinja");
    if let Some(bytes) = read_file(&path, LONGEST_TEMPLATE)? {
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::data("not UTF-8").file(&path).expected("a chat template"))?;
        return Ok(Some(text));
    }
    let wrong = |found: &str| {
        Error::data("not a chat template")
            .file(folder.join("tokenizer_config.json"))
            .field("chat_template")
            .expected("a string, or a list with a template named \"default\"")
            .found(found.to_string())
    };
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(list)) => {
            let default = list.iter().find(|t| t.get("name").and_then(Value::as_str) == Some("default"));
            let text = default.and_then(|t| t.get("template")).and_then(Value::as_str);
            Ok(Some(text.ok_or_else(|| wrong("a list without it"))?.to_string()))
        }
        Some(other) => Err(wrong(kind(other))),
    }
}

/// A tokenizer.json for a folder of vocab.json and merges.txt, as transformers builds it for the class.
pub fn from_vocab_and_merges(folder: &Path, beside: &Beside) -> Result<Value> {
    let missing = |name: &str| {
        Error::data("a part of the model folder is missing")
            .file(folder.join(name))
            .advice("a tokenizer is tokenizer.json, or vocab.json with merges.txt")
    };
    let vocab_path = folder.join("vocab.json");
    let Some(bytes) = read_file(&vocab_path, LIMITS.bytes)? else {
        return Err(missing("tokenizer.json"));
    };
    let vocab = parse(&bytes, LIMITS).map_err(|e| e.or_file(&vocab_path))?;
    let merges_path = folder.join("merges.txt");
    let Some(bytes) = read_file(&merges_path, LIMITS.bytes)? else {
        return Err(missing("merges.txt"));
    };
    let text = String::from_utf8(bytes).map_err(|_| Error::data("not UTF-8").file(&merges_path))?;
    let mut merges = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, l)| !l.starts_with("#version") && !l.is_empty()) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            [left, right] => merges.push(json!([left, right])),
            _ => {
                let e = Error::data("not a merge").file(&merges_path).line(at + 1);
                return Err(e.expected("two tokens with a space between").found(line));
            }
        }
    }
    let prefix = beside.config.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false);
    let class = class_of(folder, &beside.config)?;
    let byte_level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex});
    let (normalizer, pre_tokenizer) = match class.as_str() {
        "Qwen2Tokenizer" => {
            let split = json!({"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": false});
            (json!({"type": "NFC"}), json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]}))
        }
        "GPTNeoXTokenizer" => (json!({"type": "NFC"}), byte_level(true)),
        _ => (Value::Null, byte_level(true)),
    };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    }))
}

/// How transformers' Qwen2Tokenizer splits a text.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
