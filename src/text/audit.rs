//! The token audit: what a model folder says about its tokens, held against what its tokenizer says.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::folder::object;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// How much a [`Finding`] matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Good to know.
    Note,
    /// Probably not meant.
    Warning,
    /// The model cannot be used so.
    Error,
}

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// A name that stays, for programs.
    pub code: &'static str,
    /// A sentence, for people.
    pub text: String,
}

/// What was found in one folder.
#[derive(Debug, Clone, Serialize)]
pub struct Audit {
    /// V, the tokenizer's size.
    pub tokenizer_size: usize,
    /// `vocab_size` of config.json: the rows of the embedding.
    pub model_vocab: Option<usize>,
    /// The EOS ids in force; empty where nothing names one.
    pub eos: Vec<u32>,
    /// The tokenizer's BOS.
    pub bos: Option<u32>,
    /// The tokenizer's padding.
    pub pad: Option<u32>,
    /// Whether there is a chat template.
    pub chat_template: bool,
    /// The findings, the gravest first.
    pub findings: Vec<Finding>,
}

impl Audit {
    /// Audits a model folder. Files that cannot be read are an error; what does not fit is a finding.
    pub fn of(folder: &Path, tokenizer: &Tokenizer) -> Result<Self> {
        let config = object(folder, "config.json")?.unwrap_or_default();
        let size = tokenizer.vocab_size();
        let model_vocab = config.get("vocab_size").and_then(Value::as_u64).map(|v| v as usize);
        let mut audit = Audit {
            tokenizer_size: size,
            model_vocab,
            eos: Vec::new(),
            bos: tokenizer.bos(),
            pad: tokenizer.pad(),
            chat_template: tokenizer.chat_template().is_some(),
            findings: Vec::new(),
        };
        audit.vocabulary(tokenizer);
        match eos_ids(folder, tokenizer) {
            Ok(ids) => audit.eos = ids,
            Err(e) => audit.add(Level::Error, "eos", e.to_string().replace('\n', ";")),
        }
        audit.eos_outside(folder)?;
        audit.special_tokens(&config, tokenizer);
        audit.rebuilt(tokenizer);
        audit.findings.sort_by_key(|f| std::cmp::Reverse(f.level));
        Ok(audit)
    }

    /// The findings as lines for people.
    pub fn lines(&self) -> Vec<(Level, String)> {
        self.findings.iter().map(|f| (f.level, f.text.clone())).collect()
    }

    fn add(&mut self, level: Level, code: &'static str, text: impl Into<String>) {
        self.findings.push(Finding { level, code, text: text.into() });
    }

    fn vocabulary(&mut self, tokenizer: &Tokenizer) {
        let Some(rows) = self.model_vocab else { return };
        let size = self.tokenizer_size;
        if size > rows {
            let outside: Vec<u32> =
                (rows as u32..size as u32).filter(|id| tokenizer.id_to_token(*id).is_some()).collect();
            let first = outside.first().copied().unwrap_or(rows as u32);
            let text = format!(
                "{} token ids are outside the model's {rows} rows, the first {first} ({:?})",
                outside.len(),
                tokenizer.id_to_token(first).unwrap_or_default()
            );
            // A padding token added past the end is common and never fed to the model.
            let harmless = outside.iter().all(|id| Some(*id) == self.pad);
            self.add(if harmless { Level::Warning } else { Level::Error }, "ids-outside", text);
        } else if size < rows {
            let text =
                format!("the vocabulary is padded: {rows} rows for {size} tokens; the rest is cut off");
            self.add(Level::Note, "padded", text);
        }
    }

    /// Ids that end a reply and that the model has no row for: they are passed over.
    fn eos_outside(&mut self, folder: &Path) -> Result<()> {
        let Some(rows) = self.model_vocab else { return Ok(()) };
        for name in ["generation_config.json", "config.json"] {
            let file = object(folder, name)?.unwrap_or_default();
            let said = file.get("eos_token_id").map(id_list).unwrap_or_default();
            if let Some(id) = said.iter().find(|&&id| id >= rows as u64) {
                let text =
                    format!("{name} ends replies with {id}, which the model has no row for: passed over");
                self.add(Level::Warning, "eos-outside", text);
            }
        }
        Ok(())
    }

    fn special_tokens(&mut self, config: &serde_json::Map<String, Value>, tokenizer: &Tokenizer) {
        for (key, mine) in [
            ("bos_token_id", tokenizer.bos()),
            ("eos_token_id", tokenizer.eos()),
            ("pad_token_id", tokenizer.pad()),
        ] {
            let said = config.get(key).map(id_list).unwrap_or_default();
            let (Some(mine), false) = (mine, said.is_empty()) else { continue };
            if !said.contains(&u64::from(mine)) {
                let said: Vec<String> = said.iter().map(u64::to_string).collect();
                let text = format!("config.json's {key} is {}, the tokenizer's {mine}", said.join(", "));
                self.add(Level::Warning, "differs", text);
            }
        }
        if self.eos.is_empty() {
            let text = "nothing names an EOS: replies end only at their longest length";
            self.add(Level::Warning, "no-eos", text);
        }
        if let Some(pad) = self.pad
            && self.eos.contains(&pad)
        {
            let text = format!(
                "padding and EOS are one token ({pad}); EOS is still learnt, padding is masked apart"
            );
            self.add(Level::Note, "pad-is-eos", text);
        }
    }

    /// Where transformers would not use tokenizer.json as it stands.
    fn rebuilt(&mut self, tokenizer: &Tokenizer) {
        let class = tokenizer.class().unwrap_or_default().trim_end_matches("Fast").to_string();
        let cutting = tokenizer.cutting();
        let split = cutting.contains("\"Split\"") || cutting.contains("\"Digits\"");
        let as_made = match class.as_str() {
            "GPT2Tokenizer" => cutting.starts_with("[null,") && cutting.contains("ByteLevel") && !split,
            "GPTNeoXTokenizer" => cutting.contains("\"NFC\"") && cutting.contains("ByteLevel") && !split,
            "Qwen2Tokenizer" => cutting.contains("\"NFC\"") && !cutting.contains("{1,3}"),
            _ => return,
        };
        if !as_made {
            let text = format!(
                "transformers 5 rebuilds a {class} by its own rules, not by this tokenizer.json, and may cut text \
                 otherwise; \"tokenizer_class\": \"PreTrainedTokenizerFast\" makes it read the file"
            );
            self.add(Level::Warning, "class-rebuilt", text);
        }
    }
}

fn id_list(value: &Value) -> Vec<u64> {
    match value {
        Value::Number(n) => n.as_u64().into_iter().collect(),
        Value::Array(list) => list.iter().filter_map(Value::as_u64).collect(),
        _ => Vec::new(),
    }
}

/// The ids that end a reply: generation_config.json's, else config.json's, else the tokenizer's; empty
/// where none of them names one. A number that is no row of the model is passed over, as a configuration
/// that was made smaller often keeps its family's default there.
pub fn eos_ids(folder: &Path, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let config = object(folder, "config.json")?.unwrap_or_default();
    let rows = config.get("vocab_size").and_then(Value::as_u64);
    let bound = rows.unwrap_or(tokenizer.vocab_size() as u64);
    let generation = object(folder, "generation_config.json")?.unwrap_or_default();
    for (name, map) in [("generation_config.json", &generation), ("config.json", &config)] {
        let said = match map.get("eos_token_id") {
            None | Some(Value::Null) => continue,
            Some(Value::Array(list)) if list.is_empty() => continue,
            Some(Value::Array(list)) => list.clone(),
            Some(one) => vec![one.clone()],
        };
        let mut ids = Vec::new();
        for id in said {
            let whole = id.as_i64().ok_or_else(|| {
                Error::data("not a token id")
                    .file(folder.join(name))
                    .field("eos_token_id")
                    .expected("a whole number, or a list of them")
                    .found(&id)
            })?;
            ids.extend(u64::try_from(whole).ok().filter(|&id| id < bound).map(|id| id as u32));
        }
        if !ids.is_empty() {
            return Ok(ids);
        }
    }
    Ok(tokenizer.eos().filter(|id| u64::from(*id) < bound).into_iter().collect())
}

/// The EOS that is put behind a response: the tokenizer's own where it is among these, else the first.
pub fn turn_end(eos: &[u32], tokenizer: &Tokenizer) -> Option<u32> {
    tokenizer.eos().filter(|id| eos.contains(id)).or(eos.first().copied())
}
