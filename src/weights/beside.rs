//! The small files of a model folder: config and tokenizer, as they came, with the float type that is
//! written.

use std::path::Path;

use serde_json::{Map, Value};

use super::save::{Dtype, write_json};
use crate::error::{Error, Result};
use crate::store::{Folder, read_file};

/// The longest of these files.
const LONGEST: u64 = 256 << 20;

/// What a tokenizer may be made of, and what belongs to it.
const TOKENIZER: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
];

/// The files beside the weights, in memory.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    config: Map<String, Value>,
    others: Vec<(&'static str, Vec<u8>)>,
}

impl ModelFiles {
    /// Those of a model whose config.json is this, and whose tokenizer is in that folder.
    pub fn read(config: &Path, tokenizer: &Path) -> Result<Self> {
        let bytes = read_file(config, LONGEST)?.ok_or_else(|| Error::user("no such file").file(config))?;
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|e| Error::data("not valid JSON").file(config).found(e))?;
        let Value::Object(config) = value else {
            return Err(Error::data("not a config").file(config).expected("an object"));
        };
        let mut others = Vec::new();
        for name in TOKENIZER {
            if let Some(bytes) = read_file(&tokenizer.join(name), LONGEST)? {
                others.push((name, bytes));
            }
        }
        Ok(ModelFiles { config, others })
    }

    /// What config.json says.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// With another config.json.
    pub fn with_config(self, config: Map<String, Value>) -> Self {
        ModelFiles { config, ..self }
    }

    /// The bytes of one of the other files.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.others.iter().find(|(known, _)| *known == name).map(|(_, bytes)| bytes.as_slice())
    }

    /// Puts other bytes into the place of a file that is there, or takes it away.
    pub fn replace(&mut self, name: &str, bytes: Option<Vec<u8>>) {
        match bytes {
            None => self.others.retain(|(known, _)| *known != name),
            Some(bytes) => self
                .others
                .iter_mut()
                .filter(|(known, _)| *known == name)
                .for_each(|(_, old)| *old = bytes.clone()),
        }
    }

    /// Writes them for weights of this type.
    pub fn write(&self, folder: &Folder, dtype: Dtype) -> Result<()> {
        let mut config = self.config.clone();
        // Both spellings of the key are read; the newer one is written where neither is there.
        let key = if config.contains_key("torch_dtype") { "torch_dtype" } else { "dtype" };
        config.insert(key.into(), dtype.torch_name().into());
        write_json(folder, "config.json", &Value::Object(config))?;
        self.others.iter().try_for_each(|(name, bytes)| folder.write_bytes(name, bytes))
    }
}
