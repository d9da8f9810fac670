//! The tokenizer of a model folder, behind a fence: its JSON is checked before the tokenizers crate
//! sees it, what panics inside becomes an error, padding, truncation and dropout are off.
//!
//! Text becomes the ids of transformers 5's `tokenizer(text)` for a `PreTrainedTokenizerFast`, the
//! class that reads tokenizer.json as it stands. (For the classes `GPT2Tokenizer`, `Qwen2Tokenizer`,
//! `GPTNeoXTokenizer` and `LlamaTokenizer` transformers 5 takes only the vocabulary and the
//! post-processor from the file and makes the rest anew; where that differs from the file, the file is
//! what the model was trained with, and it is what counts here. The audit says when.)

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, ModelWrapper};

use super::check::{LIMITS, check};
use super::fence::guarded;
use super::folder::{Added, Beside, from_vocab_and_merges, read_beside};
use super::json::parse;
use crate::error::{Error, Result};
use crate::store::read_file;

/// The longest text encoded in one call, in bytes: the tokenizers crate holds three hundred times as
/// much where the tokens are short.
const LONGEST_TEXT: usize = 4 << 20;

/// A tokenizer, ready to use.
///
/// ```no_run
/// # fn main() -> retort::error::Result<()> {
/// let tokenizer = retort::text::Tokenizer::load(std::path::Path::new("models/student"))?;
/// let ids = tokenizer.encode("A retort is a vessel.", true)?;
/// assert_eq!(tokenizer.decode(&ids, true)?, "A retort is a vessel.");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    file: PathBuf,
    /// By id; `None` in a hole.
    tokens: Vec<Option<String>>,
    named: BTreeMap<String, String>,
    template: Option<String>,
    clean_up: bool,
    class: Option<String>,
}

impl Tokenizer {
    /// The tokenizer of a model folder: tokenizer.json, else vocab.json with merges.txt.
    pub fn load(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::user("no such model folder").file(folder));
        }
        let json_path = folder.join("tokenizer.json");
        let bytes = read_file(&json_path, LIMITS.bytes)?;
        let beside = read_beside(folder, bytes.is_some())?;
        match bytes {
            Some(bytes) => {
                check_bytes(&bytes).map_err(|e| e.or_file(&json_path))?;
                Self::build(bytes, json_path, beside, false)
            }
            None => {
                let file = folder.join("vocab.json");
                let json = from_vocab_and_merges(folder, &beside)?;
                check(&json).map_err(|e| e.or_file(&file))?;
                Self::build(json.to_string().into_bytes(), file, beside, true)
            }
        }
    }

    /// A tokenizer of tokenizer.json's bytes alone, with no config beside it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let file = PathBuf::from("tokenizer.json");
        check_bytes(bytes).map_err(|e| e.or_file(&file))?;
        Self::build(bytes.to_vec(), file, Beside::default(), false)
    }

    fn build(bytes: Vec<u8>, file: PathBuf, beside: Beside, legacy: bool) -> Result<Self> {
        let refused =
            |found: String| Error::data("not a tokenizer that can be used").file(&file).found(found);
        let made = guarded(move || assemble(&bytes, beside, legacy)).map_err(refused)?;
        let mut made = made.map_err(refused)?;
        made.file = file.clone();
        made.first_use().map_err(refused)?;
        Ok(made)
    }

    /// What only fails when it runs: a broken character map, an id that is no token. That the crate
    /// cannot encode a text without an unknown token is no reason to refuse the tokenizer.
    fn first_use(&self) -> Result<(), String> {
        for specials in [true, false] {
            let made = guarded(|| self.inner.encode_fast("A retort \u{e9}\u{1f600}\n 12", specials))?;
            let ids = made.map(|e| e.get_ids().to_vec()).unwrap_or_default();
            if let Some(id) = ids.iter().find(|id| **id as usize >= self.tokens.len()) {
                return Err(format!("the id {id}, which is no token"));
            }
        }
        let first: Vec<u32> = (0..self.vocab_size().min(64) as u32).collect();
        guarded(|| self.inner.decode(&first, false)).map(|_| ())
    }

    /// V: the highest token id plus one, added tokens in. It is the number of tokens, except where the
    /// ids leave holes.
    pub fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    /// The ids of a text; with `specials`, those too that the post-processor adds around it.
    pub fn encode(&self, text: &str, specials: bool) -> Result<Vec<u32>> {
        check_length(text)?;
        let failed =
            |found: String| Error::data("the tokenizer cannot encode a text").file(&self.file).found(found);
        let ids = guarded(|| self.inner.encode_fast(text, specials).map(|e| e.get_ids().to_vec()))
            .map_err(failed)?
            .map_err(|e| failed(e.to_string()))?;
        match ids.iter().find(|id| **id as usize >= self.tokens.len()) {
            None => Ok(ids),
            Some(id) => Err(failed(format!("the id {id}, which is no token"))),
        }
    }

    /// The ids of a text without specials around it, each with the bytes of the text that it stands for.
    pub fn encode_placed(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>> {
        check_length(text)?;
        let failed =
            |found: String| Error::data("the tokenizer cannot encode a text").file(&self.file).found(found);
        let made = guarded(|| self.inner.encode(text, false)).map_err(failed)?;
        let made = made.map_err(|e| failed(e.to_string()))?;
        let placed = made.get_ids().iter().zip(made.get_offsets()).map(|(&id, &(start, end))| {
            if id as usize >= self.tokens.len() {
                return Err(failed(format!("the id {id}, which is no token")));
            }
            Ok((id, start..end))
        });
        placed.collect()
    }

    /// The ids of many texts, on all threads, in their order.
    pub fn encode_batch(&self, texts: &[impl AsRef<str> + Sync], specials: bool) -> Result<Vec<Vec<u32>>> {
        texts.par_iter().map(|text| self.encode(text.as_ref(), specials)).collect()
    }

    /// The text of these ids. An id that is no token adds nothing, as in transformers.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let failed = |found: String| Error::data("the tokenizer cannot decode").file(&self.file).found(found);
        let text = guarded(|| self.inner.decode(ids, skip_special))
            .map_err(failed)?
            .map_err(|e| failed(e.to_string()))?;
        Ok(if self.clean_up { clean_up(&text) } else { text })
    }

    /// The token with this id, as the vocabulary spells it.
    pub fn id_to_token(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize)?.as_deref()
    }

    /// The id of a token, as the vocabulary spells it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The end of a sequence, where the folder names it.
    pub fn eos(&self) -> Option<u32> {
        self.named_id("eos_token")
    }

    /// The beginning of a sequence, where the folder names it.
    pub fn bos(&self) -> Option<u32> {
        self.named_id("bos_token")
    }

    /// The padding, where the folder names it.
    pub fn pad(&self) -> Option<u32> {
        self.named_id("pad_token")
    }

    fn named_id(&self, name: &str) -> Option<u32> {
        self.token_to_id(self.named.get(name)?)
    }

    /// The named special tokens (`bos_token`, ...) and their texts, which chat templates may use.
    pub fn named(&self) -> &BTreeMap<String, String> {
        &self.named
    }

    /// The text of the chat template, where the folder has one.
    pub fn chat_template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    /// `tokenizer_class` as tokenizer_config.json says it.
    pub fn class(&self) -> Option<&str> {
        self.class.as_deref()
    }

    /// The file it came from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// All that its ids depend on, as text: two tokenizers with the same one give every text the same ids,
    /// and its template the same words.
    pub fn identity(&self) -> Result<String> {
        let inner = guarded(|| self.inner.to_string(false).map_err(|e| e.to_string()));
        let inner = inner
            .and_then(|made| made)
            .map_err(|found| Error::data("the tokenizer cannot be written").file(&self.file).found(found))?;
        Ok(format!("{inner}\n{:?}\n{:?}\n{}", self.named, self.template, self.clean_up))
    }

    /// The pre-tokenizer and normalizer, as JSON: what two tokenizers of one vocabulary may differ in.
    pub(super) fn cutting(&self) -> String {
        let parts = (self.inner.get_normalizer(), self.inner.get_pre_tokenizer());
        serde_json::to_string(&parts).unwrap_or_default()
    }

    /// Whether two tokenizers mean the same by every id and by EOS (where both name one). A
    /// difference is an error that names the first id; another pre-tokenizer or normalizer, which
    /// cuts the same text otherwise, comes back as a warning.
    pub fn agree(&self, other: &Tokenizer) -> Result<Option<String>> {
        let differ = |what: &str, mine: String, theirs: String| {
            Error::data("the tokenizers differ")
                .file(&other.file)
                .field(what)
                .expected(format!("{mine} (as in {})", self.file.display()))
                .found(theirs)
                .advice(
                    "teacher and student must share one vocabulary; take a student of the teacher's family",
                )
        };
        let show = |token: Option<&str>| token.map_or("no token".to_string(), |t| format!("{t:?}"));
        for id in 0..self.vocab_size().max(other.vocab_size()) as u32 {
            let (mine, theirs) = (self.id_to_token(id), other.id_to_token(id));
            if mine != theirs {
                return Err(differ(&format!("id {id}"), show(mine), show(theirs)));
            }
        }
        if let (Some(mine), Some(theirs)) = (self.eos(), other.eos())
            && mine != theirs
        {
            return Err(differ("eos_token", show(self.id_to_token(mine)), show(other.id_to_token(theirs))));
        }
        let warning = "the tokenizers have one vocabulary, but cut text into tokens by other rules";
        Ok((self.cutting() != other.cutting()).then(|| warning.to_string()))
    }
}

fn check_length(text: &str) -> Result<()> {
    if text.len() <= LONGEST_TEXT {
        return Ok(());
    }
    let e = Error::data("a text is too long").expected(format!("at most {LONGEST_TEXT} bytes"));
    Err(e.found(format!("{} bytes", text.len())))
}

fn check_bytes(bytes: &[u8]) -> Result<()> {
    check(&parse(bytes, LIMITS)?)
}

/// Builds the crate's tokenizer and what is kept beside it; runs inside the fence.
fn assemble(bytes: &[u8], beside: Beside, legacy: bool) -> Result<Tokenizer, String> {
    let text = |e: tokenizers::Error| e.to_string();
    let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(text)?;
    let padding = inner.get_padding().map(|p| p.pad_token.clone());
    inner.with_padding(None);
    inner.with_truncation(None).map_err(text)?;
    if let ModelWrapper::BPE(bpe) = inner.get_model()
        && bpe.dropout.is_some()
    {
        let mut bpe = bpe.clone();
        bpe.dropout = None;
        inner.with_model(bpe);
    }
    let known = inner.get_added_tokens_decoder();
    let known: Vec<&str> = known.values().map(|t| t.content.as_str()).collect();
    // A named token written as a string keeps the settings that tokenizer.json gave it.
    let missing = |t: &Added| t.overrides || !known.contains(&t.content.as_str());
    let mut add: Vec<AddedToken> = beside.add.into_iter().filter(missing).map(|a| a.settings).collect();
    if legacy {
        let defaults = beside.named.iter().filter(|(_, t)| !add.iter().any(|a| a.content == *t));
        let defaults: Vec<_> = defaults.map(|(_, t)| AddedToken::from(t.clone(), true)).collect();
        add.extend(defaults);
    }
    inner.add_tokens(add).map_err(text)?;
    let mut named: BTreeMap<String, String> = beside.named.into_iter().collect();
    // transformers takes the padding token from tokenizer.json's padding where nothing else names one.
    if let Some(pad) = padding {
        named.entry("pad_token".to_string()).or_insert(pad);
    }
    named.retain(|_, token| inner.token_to_id(token).is_some());
    if legacy {
        let flag = |key: &str| beside.config.get(key).and_then(serde_json::Value::as_bool).unwrap_or(false);
        let post = post_processor(&inner, &named, flag("add_bos_token"), flag("add_eos_token"))?;
        if let Some(post) = post {
            inner.with_post_processor(Some(post));
        }
    }
    let is_bpe = matches!(inner.get_model(), ModelWrapper::BPE(_));
    let forced = beside.config.get("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output");
    let asked = beside.config.get("clean_up_tokenization_spaces").and_then(serde_json::Value::as_bool);
    let clean_up =
        asked == Some(true) && (!is_bpe || forced.and_then(serde_json::Value::as_bool) == Some(true));
    Ok(Tokenizer {
        tokens: token_table(&inner)?,
        inner,
        file: PathBuf::new(),
        named,
        template: beside.template,
        clean_up,
        class: beside.config.get("tokenizer_class").and_then(|c| c.as_str()).map(str::to_string),
    })
}

fn token_table(inner: &tokenizers::Tokenizer) -> Result<Vec<Option<String>>, String> {
    let mut pairs: Vec<(String, u32)> = inner.get_vocab(true).into_iter().collect();
    let highest = pairs.iter().map(|(_, id)| *id as usize).max().ok_or("a vocabulary without a token")?;
    // Where an added token took the id of another, the added one is what the id means.
    pairs.sort();
    let mut tokens = vec![None; highest + 1];
    for (token, id) in pairs {
        tokens[id as usize] = Some(token);
    }
    for (id, token) in inner.get_added_tokens_decoder() {
        tokens[id as usize] = Some(token.content);
    }
    Ok(tokens)
}

/// What transformers' `update_post_processor` makes: BOS before and EOS after, where asked for.
fn post_processor(
    inner: &tokenizers::Tokenizer,
    named: &BTreeMap<String, String>,
    bos: bool,
    eos: bool,
) -> Result<Option<TemplateProcessing>, String> {
    let find = |wanted: bool, key: &str| {
        let token = named.get(key).filter(|_| wanted)?;
        Some((token.clone(), inner.token_to_id(token)?))
    };
    let (bos, eos) = (find(bos, "bos_token"), find(eos, "eos_token"));
    if bos.is_none() && eos.is_none() {
        return Ok(None);
    }
    let mut single: Vec<String> = bos.iter().map(|(t, _)| t.clone()).collect();
    single.push("$A".to_string());
    single.extend(eos.iter().map(|(t, _)| t.clone()));
    let specials: Vec<(String, u32)> = bos.into_iter().chain(eos).collect();
    let mut builder = TemplateProcessing::builder();
    builder.try_single(single)?.special_tokens(specials);
    builder.build().map(Some).map_err(|e| e.to_string())
}

/// transformers' `clean_up_tokenization`, which it applies to WordPiece and Unigram alone.
fn clean_up(text: &str) -> String {
    let pairs = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    pairs.iter().fold(text.to_string(), |text, (from, to)| text.replace(from, to))
}
