//! The tokenizer that all models of a grid share: a folder's, or the one that comes with the program.

use std::path::{Path, PathBuf};

use crate::config::grid::GridConfig;
use crate::error::Result;
use crate::quickstart;
use crate::store::Folder;
use crate::text::{Tokenizer, eos_ids, turn_end};
use crate::weights::locate;

/// The folder that the config names, if it names one.
fn said(config: &GridConfig) -> Result<Option<PathBuf>> {
    let folder = config.data.tokenizer.as_deref().map(locate::model_folder).transpose();
    folder.map_err(|e| e.or_file(&config.file).field("data.tokenizer"))
}

/// Rows of an embedding for it; nothing is written.
pub fn rows(config: &GridConfig) -> Result<i64> {
    match said(config)? {
        Some(folder) => Ok(Tokenizer::load(&folder)?.vocab_size() as i64),
        None => quickstart::vocabulary(),
    }
}

/// A tokenizer in its folder.
pub struct Shared {
    /// The folder.
    pub folder: PathBuf,
    /// Rows of an embedding for it.
    pub rows: i64,
    /// What ends a text.
    pub eos: Option<u32>,
}

impl Shared {
    /// Loads it, and writes it first where it comes with the program.
    pub fn of(config: &GridConfig, out: &Path) -> Result<Self> {
        let folder = match said(config)? {
            Some(folder) => folder,
            None => {
                let folder = Folder::create(out.join("tokenizer"))?;
                quickstart::write_tokenizer(&folder)?;
                folder.root().to_path_buf()
            }
        };
        let tokenizer = Tokenizer::load(&folder)?;
        let eos = turn_end(&eos_ids(&folder, &tokenizer)?, &tokenizer);
        Ok(Shared { rows: tokenizer.vocab_size() as i64, eos, folder })
    }
}
