//! The whole way: a GGUF file in, a Hugging Face folder out, whole or not at all.

use std::path::Path;

use super::card;
use super::dequant::Kind;
use super::file::Gguf;
use super::metadata::Hyper;
use super::model;
use super::tokenizer::{Tokenizer, pretty};
use crate::error::Result;
use crate::signal;
use crate::store::{Staged, refuse_occupied};
use crate::weights::save::{Dtype, Entry, write_safetensors};

/// What was imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// `model_type` of the written config.json.
    pub model_type: String,
    /// Tensors written.
    pub tensors: usize,
    /// Numbers in them.
    pub params: usize,
    /// How the file stored its tensors, the most frequent kind first.
    pub kinds: Vec<(Kind, usize)>,
    /// Tokens, added ones in.
    pub tokens: usize,
    /// Whether a chat template was written.
    pub chat_template: bool,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Bytes of the file.
    pub file_len: usize,
}

/// Imports `gguf` into the new folder `out`, its weights in `dtype`; `made_by` signs the model card.
///
/// Everything but the weights themselves is checked before anything is written; weights are turned
/// piece by piece, in memory of tens of megabytes (and of one tensor where a tensor is transposed).
pub fn import(gguf: &Path, out: &Path, dtype: Dtype, made_by: &str) -> Result<Imported> {
    refuse_occupied(out)?;
    let gguf = Gguf::open(gguf)?;
    let at = |e: crate::error::Error| e.or_file(&gguf.path);
    let hyper = Hyper::read(&gguf).map_err(at)?;
    let planned = model::plan(&gguf, &hyper).map_err(at)?;
    let tokenizer = Tokenizer::read(&gguf, hyper.family, hyper.context).map_err(at)?;
    let config = hyper.config(&tokenizer.special, dtype);
    let params = planned.iter().map(|p| p.source.len()).sum();
    let readme = card::readme(&gguf, &hyper, params, made_by).map_err(at)?;

    let staged = Staged::create(out)?;
    let folder = staged.folder();
    folder.write_bytes("config.json", &pretty(&config))?;
    folder.write_bytes("README.md", readme.as_bytes())?;
    tokenizer.write(folder)?;
    let entries: Vec<Entry> = planned.iter().map(|p| p.entry.clone()).collect();
    write_safetensors(folder, &entries, dtype, &mut |i, w| {
        signal::check()?;
        planned[i].write(&gguf, dtype, w)
    })
    .map_err(at)?;
    let imported = Imported {
        model_type: config["model_type"].as_str().unwrap_or_default().to_string(),
        tensors: planned.len(),
        params,
        kinds: model::kinds(&gguf),
        tokens: tokenizer.size,
        chat_template: gguf.has("tokenizer.chat_template"),
        tied: hyper.tied,
        file_len: gguf.file_len(),
    };
    staged.commit()?;
    Ok(imported)
}
