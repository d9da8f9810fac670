//! tokenizer.ggml.* -> tokenizer.json and the small files around it, as `tokenizers` reads them.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::file::Gguf;
use super::metadata::Family;
use super::spm;
use crate::error::Result;
use crate::store::Folder;

/// What each pre-tokenizer's name stands for.
const PRETOKENIZERS: &str = include_str!("pretokenizers.json");

// The types of tokens: 1 is a normal one, 6 a byte.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";

/// The ids with a meaning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SpecialIds {
    pub bos: Option<usize>,
    /// The tokenizer's own first, then other ends of a turn.
    pub eos: Vec<usize>,
    pub pad: Option<usize>,
    pub unk: Option<usize>,
}

impl SpecialIds {
    fn read(gguf: &Gguf, tokens: usize) -> Result<Self> {
        let id = |name: &str| gguf.whole(&format!("tokenizer.ggml.{name}_token_id"), tokens - 1);
        let mut eos: Vec<usize> = Vec::new();
        for name in ["eos", "eot", "eom"] {
            eos.extend(id(name)?.filter(|n| !eos.contains(n)));
        }
        Ok(SpecialIds { bos: id("bos")?, eos, pad: id("padding")?, unk: id("unknown")? })
    }

    /// None, one id, or a list.
    pub fn eos_json(&self) -> Value {
        match self.eos.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            all => json!(all),
        }
    }
}

/// A checked vocabulary: a token an id.
pub(super) struct Vocabulary<'a> {
    pub gguf: &'a Gguf,
    pub tokens: Vec<&'a str>,
    pub types: Option<Vec<i32>>,
    pub ids: HashMap<&'a str, usize>,
    pub special: SpecialIds,
}

impl<'a> Vocabulary<'a> {
    /// Reads it. The unused tokens at the end, which only pad the embedding, are left out.
    pub fn read(gguf: &'a Gguf) -> Result<Self> {
        let mut tokens = gguf.texts(TOKENS)?.ok_or_else(|| gguf.missing(TOKENS))?;
        let types = gguf.integers(TYPES)?;
        if let Some(types) = &types {
            if types.len() != tokens.len() {
                let e = gguf.bad("as many token types as tokens are needed", TYPES);
                return Err(e.expected(tokens.len()).found(types.len()));
            }
            let used = types.iter().rposition(|&t| t != UNUSED).map_or(0, |n| n + 1);
            tokens.truncate(used);
        }
        if tokens.is_empty() {
            return Err(gguf.bad("there are no tokens", TOKENS));
        }
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, &token) in tokens.iter().enumerate() {
            if let Some(first) = ids.insert(token, id) {
                let found = format!("{token:?} as {first} and {id}");
                return Err(gguf.bad("a token occurs twice", TOKENS).found(found));
            }
        }
        let special = SpecialIds::read(gguf, tokens.len())?;
        Ok(Vocabulary { gguf, tokens, types, ids, special })
    }

    fn kind(&self, id: usize) -> Option<i32> {
        self.types.as_ref().map(|t| t[id])
    }

    /// Whether the text of this token is found in the input before anything is split: and if it is
    /// special, left out of decoded text.
    fn added(&self, id: usize) -> Option<bool> {
        let s = &self.special;
        let end = s.bos == Some(id) || s.eos.contains(&id);
        match self.kind(id) {
            Some(CONTROL | UNKNOWN) => Some(true),
            Some(USER_DEFINED) => Some(end),
            // A padding id that names a normal token (0, say) must not make that token special.
            Some(_) => end.then_some(true),
            None => (end || s.pad == Some(id) || s.unk == Some(id)).then_some(true),
        }
    }

    fn added_tokens(&self) -> Vec<Value> {
        let all = self.tokens.iter().enumerate().filter(|(_, token)| !token.is_empty());
        all.filter_map(|(id, token)| {
            self.added(id).map(|special| {
                json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": special})
            })
        })
        .collect()
    }

    pub fn vocab_json(&self) -> Map<String, Value> {
        self.tokens.iter().enumerate().map(|(id, t)| (t.to_string(), json!(id))).collect()
    }

    /// The token of an id that is special.
    fn special_token(&self, id: Option<usize>) -> Option<&'a str> {
        id.filter(|&id| self.added(id) == Some(true)).map(|id| self.tokens[id])
    }

    fn special_tokens(&self) -> Map<String, Value> {
        let s = &self.special;
        let named = [
            ("bos_token", s.bos),
            ("eos_token", s.eos.first().copied()),
            ("unk_token", s.unk),
            ("pad_token", s.pad),
        ];
        let present = named.into_iter().filter_map(|(k, id)| self.special_token(id).map(|t| (k, t)));
        present.map(|(k, t)| (k.to_string(), json!(t))).collect()
    }

    /// Puts BOS before and EOS behind a text, where the file says so.
    fn post_processor(&self, add_bos: bool) -> Result<Value> {
        let flag = |name: &str, key: &str, default: bool, id: Option<usize>| -> Result<Option<usize>> {
            if !self.gguf.flag(key)?.unwrap_or(default) {
                return Ok(None);
            }
            let id_key = format!("tokenizer.ggml.{name}_token_id");
            id.map(Some).ok_or_else(|| self.gguf.missing(&id_key))
        };
        let eos = self.special.eos.first().copied();
        let bos = flag(
            "bos",
            "tokenizer.ggml.add_bos_token",
            add_bos && self.special.bos.is_some(),
            self.special.bos,
        )?;
        let eos = flag("eos", "tokenizer.ggml.add_eos_token", false, eos)?;
        if bos.or(eos).is_none() {
            return Ok(Value::Null);
        }
        let part = |name: &str, kind: u8| {
            let mark = |id: Option<usize>| {
                id.map(|id| json!({"SpecialToken": {"id": self.tokens[id], "type_id": kind}}))
            };
            let text = json!({"Sequence": {"id": name, "type_id": kind}});
            [mark(bos), Some(text), mark(eos)].into_iter().flatten().collect::<Vec<_>>()
        };
        let used = [bos, eos].into_iter().flatten().map(|id| {
            let token = self.tokens[id];
            (token.to_string(), json!({"id": token, "ids": [id], "tokens": [token]}))
        });
        let pair = [part("A", 0), part("B", 1)].concat();
        Ok(json!({
            "type": "TemplateProcessing",
            "single": part("A", 0),
            "pair": pair,
            "special_tokens": used.collect::<Map<_, _>>(),
        }))
    }
}

/// Everything about the tokenizer that is written.
pub(super) struct Tokenizer {
    pub special: SpecialIds,
    /// Tokens, added ones in, without the padding at the end.
    pub size: usize,
    files: Vec<(&'static str, Vec<u8>)>,
}

impl Tokenizer {
    /// Builds it from the metadata, for a model of this context.
    pub fn read(gguf: &Gguf, family: Family, context: usize) -> Result<Self> {
        let key = "tokenizer.ggml.model";
        let model = gguf.text(key)?.ok_or_else(|| gguf.missing(key))?;
        let vocabulary = Vocabulary::read(gguf)?;
        let json = match model {
            "gpt2" => byte_level(&vocabulary, family)?,
            "llama" => {
                let json = spm::tokenizer(&vocabulary, vocabulary.special_token(vocabulary.special.unk))?;
                complete(&vocabulary, json, true)?
            }
            other => {
                let e = gguf.bad("a tokenizer that is not imported", key);
                return Err(e.expected("gpt2 or llama").found(other));
            }
        };
        let special = vocabulary.special.clone();
        let tokens = vocabulary.special_tokens();
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": context,
            "clean_up_tokenization_spaces": false,
        });
        tokens.iter().for_each(|(k, v)| config[k] = v.clone());
        let mut generation = json!({});
        let ids = [("bos", json!(special.bos)), ("eos", special.eos_json()), ("pad", json!(special.pad))];
        ids.into_iter()
            .filter(|(_, v)| !v.is_null())
            .for_each(|(k, v)| generation[format!("{k}_token_id")] = v);
        let mut files = vec![
            ("tokenizer.json", pretty(&json)),
            ("tokenizer_config.json", pretty(&config)),
            ("special_tokens_map.json", pretty(&Value::Object(tokens))),
            ("generation_config.json", pretty(&generation)),
        ];
        if let Some(template) = gguf.text("tokenizer.chat_template")? {
            files.push(("chat_template.jinja", template.as_bytes().to_vec()));
        }
        Ok(Tokenizer { special, size: vocabulary.tokens.len(), files })
    }

    /// Writes the files.
    pub fn write(&self, folder: &Folder) -> Result<()> {
        self.files.iter().try_for_each(|(name, bytes)| folder.write_bytes(name, bytes))
    }
}

/// JSON as people read it, with a line end.
pub(super) fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// Adds what both kinds of tokenizers have.
fn complete(v: &Vocabulary, parts: Value, add_bos: bool) -> Result<Value> {
    let mut json = json!({"version": "1.0", "truncation": null, "padding": null});
    json["added_tokens"] = json!(v.added_tokens());
    json["normalizer"] = parts["normalizer"].clone();
    json["pre_tokenizer"] = parts["pre_tokenizer"].clone();
    json["post_processor"] = v.post_processor(add_bos)?;
    json["decoder"] = parts["decoder"].clone();
    json["model"] = parts["model"].clone();
    Ok(json)
}

/// Byte-level BPE as GPT-2 has it, with the pre-tokenizer that the file names.
fn byte_level(v: &Vocabulary, family: Family) -> Result<Value> {
    let pre = pretokenizer(v.gguf, family)?;
    let is = |name: &str| pre[name] == json!(true);
    let parts = json!({
        "normalizer": pre["normalizer"],
        "pre_tokenizer": pre["pre_tokenizer"],
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": is("ignore_merges"),
            "vocab": v.vocab_json(),
            "merges": merges(v)?,
        },
    });
    complete(v, parts, is("add_bos"))
}

/// Without a name: Qwen's own for Qwen, GPT-2's for GPT-2; a guess for anything else would be silent.
fn pretokenizer(gguf: &Gguf, family: Family) -> Result<Value> {
    let key = "tokenizer.ggml.pre";
    let name = match (gguf.text(key)?, family) {
        (Some(name), _) => name,
        (None, Family::Qwen2 | Family::Qwen3) => "qwen2",
        (None, Family::Gpt2) => "gpt-2",
        (None, Family::Llama) => return Err(gguf.missing(key)),
    };
    let table: Vec<Value> = serde_json::from_str(PRETOKENIZERS)
        .map_err(|e| crate::error::Error::bug("pretokenizers.json").found(e.to_string()))?;
    let names = |entry: &Value| entry["names"].as_array().cloned().unwrap_or_default();
    let known: Vec<String> =
        table.iter().flat_map(names).filter_map(|n| n.as_str().map(String::from)).collect();
    table.into_iter().find(|entry| names(entry).contains(&json!(name))).ok_or_else(|| {
        gguf.bad("a pre-tokenizer that is not known", key).expected(known.join(", ")).found(name)
    })
}

/// The merges, each of two tokens that make a third.
fn merges(v: &Vocabulary) -> Result<Vec<Value>> {
    let key = "tokenizer.ggml.merges";
    let lines = v.gguf.texts(key)?.ok_or_else(|| v.gguf.missing(key))?;
    let mut all = Vec::with_capacity(lines.len());
    for (n, line) in lines.iter().enumerate() {
        let refuse = |what: &str| v.gguf.bad(what, key).found(format!("{line:?}, merge {n}"));
        // A token may begin with a space, but a byte-level one has none inside.
        let (a, b) = line.split_once(' ').ok_or_else(|| refuse("a merge is not two tokens"))?;
        let known = [a, b, &format!("{a}{b}")].iter().all(|t| v.ids.contains_key(*t));
        if a.is_empty() || b.is_empty() || !known {
            return Err(refuse("a merge of tokens that are not in the vocabulary"));
        }
        all.push(json!([a, b]));
    }
    Ok(all)
}
