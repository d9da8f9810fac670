//! A vocabulary cut to what a text uses: which tokens stay, and a tokenizer that knows them alone.
//!
//! Kept are: added and special tokens, those that the small files name by id, the byte alphabet (so that every text
//! still has tokens), then the tokens that the text uses most, each with all the parts that its merges need, until the
//! number is reached. Tokens keep their order and get new ids without holes. Every merge whose two parts and whose
//! result stay, stays, in its rank. A text whose tokens and their parts all stay is cut into the same tokens as before.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::text::Tokenizer;
use crate::weights::ModelFiles;

/// Files that repeat what tokenizer.json says, and would say the old.
const STALE: [&str; 3] = ["vocab.json", "merges.txt", "added_tokens.json"];
/// Lists of token ids in generation_config.json.
const LISTS: [&str; 2] = ["suppress_tokens", "begin_suppress_tokens"];
/// Settings of generation_config.json that name tokens in ways that are not followed.
const LOST: [&str; 4] = ["bad_words_ids", "force_words_ids", "sequence_bias", "forced_decoder_ids"];

/// A tokenizer.json of the BPE kind.
#[derive(Debug)]
pub struct Bpe {
    json: Map<String, Value>,
    /// Of the model's own tokens.
    ids: HashMap<String, u32>,
    /// Each merge: its parts and its result, by rank; none where a part is no token.
    merges: Vec<Option<[u32; 3]>>,
}

impl Bpe {
    /// Reads the tokenizer.json among a model's small files.
    pub fn read(files: &ModelFiles) -> Result<Self> {
        let refuse = |what: &str| Error::data(what).file("tokenizer.json");
        let bytes = files.get("tokenizer.json").ok_or_else(|| {
            let e = refuse("the vocabulary cannot be cut").expected("a tokenizer.json of the BPE kind");
            e.found("none").advice("transformers' save_pretrained() writes one for a fast tokenizer")
        })?;
        let json: Value = serde_json::from_slice(bytes).map_err(|e| refuse("not valid JSON").found(e))?;
        let Value::Object(json) = json else { return Err(refuse("not an object")) };
        let model = json.get("model").and_then(Value::as_object);
        let kind = model.and_then(|m| m.get("type")).and_then(Value::as_str);
        let parts = model.and_then(|m| Some((m.get("vocab")?.as_object()?, m.get("merges")?.as_array()?)));
        let (Some("BPE") | None, Some((vocab, merges))) = (kind, parts) else {
            let e = refuse("the vocabulary cannot be cut").field("model.type").expected("BPE");
            return Err(e.found(kind.unwrap_or("nothing")));
        };
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids: HashMap<String, u32> =
            vocab.iter().filter_map(|(token, value)| Some((token.clone(), id(value)?))).collect();
        let prefix = model.and_then(|m| m.get("continuing_subword_prefix")).and_then(Value::as_str);
        let skip = prefix.map_or(0, str::len);
        let merge = |value: &Value| {
            let (left, right) = match value {
                Value::String(text) => text.split_once(' ')?,
                other => (other.get(0)?.as_str()?, other.get(1)?.as_str()?),
            };
            let whole = format!("{left}{}", right.get(skip..)?);
            Some([*ids.get(left)?, *ids.get(right)?, *ids.get(&whole)?])
        };
        let merges = merges.iter().map(merge).collect();
        Ok(Bpe { json, ids, merges })
    }

    fn model(&self) -> Option<&Map<String, Value>> {
        self.json.get("model").and_then(Value::as_object)
    }

    /// The tokens that must stay, with what their merges need.
    fn needed(&self, tokenizer: &Tokenizer, named: &[u32]) -> Vec<u32> {
        let mut all = named.to_vec();
        for added in self.json.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
            all.extend(added.get("id").and_then(Value::as_u64).map(|id| id as u32));
        }
        let own: HashSet<u32> = self.ids.values().copied().collect();
        // Tokens that tokenizer_config.json adds.
        let known = |id: &u32| tokenizer.id_to_token(*id).is_some();
        all.extend((0..tokenizer.vocab_size() as u32).filter(|id| !own.contains(id)).filter(known));
        let model = self.model();
        let unknown = model.and_then(|m| m.get("unk_token")).and_then(Value::as_str);
        all.extend(unknown.and_then(|token| self.ids.get(token)));
        let fallback = model.and_then(|m| m.get("byte_fallback")).and_then(Value::as_bool) == Some(true);
        let byte = |token: &str| token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
        let letter = |token: &str| if fallback { byte(token) } else { token.chars().count() == 1 };
        all.extend(self.ids.iter().filter(|(token, _)| letter(token)).map(|(_, id)| *id));
        all
    }

    /// The tokens that stay: `size` of them, or a few less where the last would not stand without their parts.
    /// `rows` are those of the embedding, `used` says how often each token is used, `named` which ids files name.
    pub fn choose(
        &self,
        tokenizer: &Tokenizer,
        used: &[u64],
        named: &[u32],
        (rows, size): (usize, usize),
    ) -> Result<Vec<u32>> {
        // The first merge that makes a token is the one by which it comes about.
        let mut parts: HashMap<u32, [u32; 2]> = HashMap::new();
        for [left, right, whole] in self.merges.iter().flatten() {
            parts.entry(*whole).or_insert([*left, *right]);
        }
        let mut kept = HashSet::new();
        for id in self.needed(tokenizer, named) {
            kept.extend(with_parts(id, &parts, &kept));
        }
        if let Some(&beyond) = kept.iter().find(|id| **id as usize >= rows) {
            return Err(Error::data("a token that the model has no row for")
                .expected(format!("an id below {rows}"))
                .found(beyond));
        }
        if kept.len() > size {
            return Err(Error::user("too few tokens")
                .field("--vocab")
                .expected(format!("{} or more: bytes, special tokens and what they are made of", kept.len()))
                .found(size));
        }
        let of = |id: u32| used.get(id as usize).copied().unwrap_or(0);
        let mut order: Vec<u32> = self.ids.values().copied().filter(|id| (*id as usize) < rows).collect();
        order.sort_by_key(|&id| (std::cmp::Reverse(of(id)), id));
        for id in order {
            let more = with_parts(id, &parts, &kept);
            if kept.len() + more.len() <= size && more.iter().all(|id| (*id as usize) < rows) {
                kept.extend(more);
            }
        }
        let mut kept: Vec<u32> = kept.into_iter().collect();
        kept.sort_unstable();
        Ok(kept)
    }

    /// tokenizer.json with these tokens alone, numbered in their order.
    pub fn cut(&self, kept: &[u32]) -> Result<Vec<u8>> {
        let numbers = Numbers::of(kept);
        let mut json = self.json.clone();
        let mut named: Vec<(&String, u32)> =
            self.ids.iter().filter_map(|(token, id)| Some((token, numbers.now(*id)?))).collect();
        named.sort_by_key(|(_, id)| *id);
        let vocab: Map<String, Value> =
            named.into_iter().map(|(token, id)| (token.clone(), id.into())).collect();
        if let Some(Value::Object(model)) = json.get_mut("model") {
            if let Some(Value::Array(merges)) = model.get_mut("merges") {
                let stays = |merge: &Option<[u32; 3]>| {
                    merge.is_some_and(|ids| ids.iter().all(|id| numbers.now(*id).is_some()))
                };
                let mut at = self.merges.iter().map(stays);
                merges.retain(|_| at.next() == Some(true));
            }
            model.insert("vocab".into(), vocab.into());
        }
        if let Some(Value::Array(added)) = json.get_mut("added_tokens") {
            added.iter_mut().filter_map(|token| token.get_mut("id")).for_each(|id| numbers.renumber(id));
        }
        if let Some(post) = json.get_mut("post_processor") {
            numbers.in_post_processor(post);
        }
        if let Some(id) = json.get_mut("padding").and_then(|padding| padding.get_mut("pad_id")) {
            numbers.renumber(id);
        }
        serde_json::to_vec(&Value::Object(json)).map_err(|e| Error::bug("JSON cannot be written").found(e))
    }
}

/// A token and all parts that it is merged of, less those that are there.
fn with_parts(id: u32, parts: &HashMap<u32, [u32; 2]>, there: &HashSet<u32>) -> HashSet<u32> {
    let (mut more, mut waiting) = (HashSet::new(), vec![id]);
    while let Some(id) = waiting.pop() {
        if !there.contains(&id) && more.insert(id) {
            waiting.extend(parts.get(&id).into_iter().flatten());
        }
    }
    more
}

/// Old ids to new ones.
struct Numbers(HashMap<u32, u32>);

impl Numbers {
    fn of(kept: &[u32]) -> Self {
        Numbers(kept.iter().copied().zip(0..).collect())
    }

    fn now(&self, old: u32) -> Option<u32> {
        self.0.get(&old).copied()
    }

    /// A number, or a list of them; null for what is no token any more.
    fn renumber(&self, value: &mut Value) {
        match value {
            Value::Array(list) => {
                list.iter_mut().for_each(|id| self.renumber(id));
                list.retain(|id| !id.is_null());
            }
            Value::Number(_) => {
                let new = value.as_u64().and_then(|id| self.now(u32::try_from(id).ok()?));
                *value = new.map_or(Value::Null, Value::from);
            }
            _ => {}
        }
    }

    /// `special_tokens.*.ids` of a template; `sep` and `cls`, which are `[token, id]`, of RoBERTa's and BERT's.
    fn in_post_processor(&self, value: &mut Value) {
        match value {
            Value::Array(list) => list.iter_mut().for_each(|part| self.in_post_processor(part)),
            Value::Object(map) => {
                for (key, part) in map {
                    match (key.as_str(), part) {
                        ("ids", ids) => self.renumber(ids),
                        ("sep" | "cls", Value::Array(pair)) => {
                            pair.iter_mut().for_each(|id| self.renumber(id))
                        }
                        (_, part) => self.in_post_processor(part),
                    }
                }
            }
            _ => {}
        }
    }

    /// Ids by which config.json and generation_config.json name tokens.
    fn in_config(&self, map: &mut Map<String, Value>) {
        for (key, value) in map.iter_mut() {
            if key.ends_with("token_id") || LISTS.contains(&key.as_str()) {
                self.renumber(value);
            }
        }
        for key in LOST {
            if map.remove(key).is_some_and(|value| !value.is_null()) {
                tracing::warn!("{key} names tokens by old ids and was left out of the small files");
            }
        }
    }
}

/// Ids that config.json and generation_config.json name.
pub fn named(files: &ModelFiles, tokens: usize) -> Vec<u32> {
    let mut ids = Vec::new();
    let generation = object(files, "generation_config.json");
    for (key, value) in files.config().iter().chain(generation.iter().flatten()) {
        if key.ends_with("token_id") {
            let list = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
            ids.extend(list.iter().filter_map(Value::as_u64).filter(|id| *id < tokens as u64));
        }
    }
    ids.into_iter().map(|id| id as u32).collect()
}

fn object(files: &ModelFiles, name: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(files.get(name)?).ok()
}

/// The small files for these tokens alone.
pub fn cut_files(files: &ModelFiles, bpe: &Bpe, kept: &[u32]) -> Result<ModelFiles> {
    let numbers = Numbers::of(kept);
    let mut config = files.config().clone();
    numbers.in_config(&mut config);
    let mut new = files.clone().with_config(config);
    new.replace("tokenizer.json", Some(bpe.cut(kept)?));
    STALE.iter().for_each(|name| new.replace(name, None));
    let pretty = |map: Map<String, Value>| {
        serde_json::to_vec_pretty(&map).map_err(|e| Error::bug("JSON cannot be written").found(e))
    };
    if let Some(mut generation) = object(files, "generation_config.json") {
        numbers.in_config(&mut generation);
        new.replace("generation_config.json", Some(pretty(generation)?));
    }
    if let Some(mut beside) = object(files, "tokenizer_config.json")
        && let Some(Value::Object(decoder)) = beside.get_mut("added_tokens_decoder")
    {
        let renamed = decoder
            .iter()
            .filter_map(|(id, token)| Some((numbers.now(id.parse().ok()?)?.to_string(), token.clone())));
        *decoder = renamed.collect();
        new.replace("tokenizer_config.json", Some(pretty(beside)?));
    }
    Ok(new)
}

/// That a written tokenizer means by each id what the old one meant by the one it came from.
pub fn check(new: &Tokenizer, old: &Tokenizer, kept: &[u32]) -> Result<()> {
    let differs = |at: &usize| new.id_to_token(*at as u32) != old.id_to_token(kept[*at]);
    let wrong = (0..kept.len()).find(differs).or((new.vocab_size() != kept.len()).then_some(kept.len()));
    match wrong {
        None => Ok(()),
        Some(at) => Err(Error::data("the cut tokenizer would not be the old one's part")
            .file(old.file())
            .field(format!("id {at}"))
            .advice("leave out --vocab, or save the tokenizer anew with transformers first")),
    }
}
