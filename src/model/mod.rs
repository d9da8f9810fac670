//! Causal language models: one file an architecture, over shared layers. Layer 2: uses `weights`,
//! `text` to read JSON, and the divergences of `retort_policies`.
//!
//! Shape suffixes on tensors: b batch row, t position, s key position, h head, k key/value head,
//! d channel of the hidden state or of a head, f channel of the feed-forward net, v vocabulary.
//! `hidden_btd` is [batch, positions, channels].
//!
//! A new architecture is one new file that implements [`Design`], and one line in [`ARCHITECTURES`].

pub mod attention;
pub mod axes;
pub mod cache;
pub mod config;
pub mod gap;
pub mod ghost;
pub mod layers;
mod lend;
pub mod lm;
pub mod rope;
pub mod score;
pub mod sight;

mod gpt2;
mod gpt_neox;
mod llama;
mod mistral;
mod opt;
mod qwen2;
mod qwen3;

use std::path::Path;

use tch::Tensor;

use crate::error::{Error, Result};
use crate::weights::{Naming, Params, Spec};
use axes::Cuts;
use cache::LayerCache;
use config::{RawConfig, Shape};
use layers::{Embedding, Finish, Head};
pub use lend::Lender;
pub use lm::{CausalLm, LoadOptions};
pub use sight::{Padding, Sight};

/// Every architecture, by the `model_type` of its config.json.
pub const ARCHITECTURES: [(&str, Read); 7] = [
    ("gpt2", gpt2::read),
    ("opt", opt::read),
    ("llama", llama::read),
    ("mistral", mistral::read),
    ("qwen2", qwen2::read),
    ("qwen3", qwen3::read),
    ("gpt_neox", gpt_neox::read),
];

/// Reads a checked design out of config.json.
type Read = fn(&RawConfig) -> Result<Box<dyn Design>>;

/// What a config.json says of a model, checked: which tensors it needs, and how they make a model.
pub trait Design: Send + std::fmt::Debug {
    /// The sizes that every architecture has.
    fn shape(&self) -> &Shape;
    /// How its tensors' names vary.
    fn naming(&self) -> Naming;
    /// Every tensor it needs, a tied head once.
    fn specs(&self) -> Vec<Spec>;
    /// What its tensors' axes count, and what config.json calls its sizes.
    fn cuts(&self) -> &'static Cuts;
    /// The model over these tensors.
    fn build(&self, params: &Params) -> Result<Parts>;
}

/// A model taken apart: what comes before the blocks, the blocks, and what comes behind.
#[derive(Debug)]
pub struct Parts {
    /// Tokens to the first hidden state.
    pub embedding: Embedding,
    /// The blocks, first to last.
    pub blocks: Vec<Box<dyn Block>>,
    /// The last norm and projection.
    pub finish: Finish,
    /// The last hidden state to logits.
    pub head: Head,
}

/// One block of a model.
pub trait Block: Send + std::fmt::Debug {
    /// The hidden state behind the block. With a cache, keys and values of these positions are put
    /// behind those that are there.
    fn forward(&self, hidden_btd: &Tensor, sight: &Sight, cache: Option<&mut LayerCache>) -> Result<Tensor>;
    /// The same block over the same memory, for a recomputation to keep.
    fn share(&self) -> Box<dyn Block>;
}

/// Reads and checks a model folder's config.json.
pub fn read_design(folder: &Path) -> Result<Box<dyn Design>> {
    read_config(&folder.join("config.json"))
}

/// Reads and checks a config.json of any name.
pub fn read_config(file: &Path) -> Result<Box<dyn Design>> {
    design_of(&RawConfig::open(file)?)
}

/// Checks what a config.json says.
pub fn design_of(raw: &RawConfig) -> Result<Box<dyn Design>> {
    let model_type = raw.text("model_type")?;
    let found = ARCHITECTURES.iter().find(|(name, _)| *name == model_type);
    let Some((_, read)) = found else {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
        return Err(raw.bad("model_type", known.join(", "), format!("{model_type:?}")));
    };
    for (key, what) in [("quantization_config", "plain float weights"), ("pruned_heads", "no pruned heads")] {
        if raw.get(key).is_some_and(|v| v.as_object().is_none_or(|o| !o.is_empty())) {
            return Err(raw.bad(key, what, "a setting that changes the weights"));
        }
    }
    read(raw)
}

/// A part of a model, made of params with a common prefix in their names.
#[derive(Clone, Copy)]
struct Under<'a> {
    params: &'a Params,
    prefix: &'a str,
}

impl<'a> Under<'a> {
    fn get(&self, name: &str) -> Result<Tensor> {
        self.params.get(&format!("{}{name}", self.prefix))
    }

    fn maybe(&self, wanted: bool, name: &str) -> Result<Option<Tensor>> {
        if wanted { self.get(name).map(Some) } else { Ok(None) }
    }
}

/// An error for a design and an input that do not go together.
fn too_long(length: i64, context: i64) -> Error {
    Error::data("longer than the model's context").expected(format!("at most {context} tokens")).found(length)
}
