//! Metadata -> which architecture, which sizes, and the config.json that says the same.

use serde_json::{Value, json};

use super::file::Gguf;
use super::rope::Rope;
use super::tokenizer::SpecialIds;
use crate::error::{Error, Result};
use crate::weights::save::Dtype;

/// Sizes beyond this are not believed; products of four of them still fit.
const MAX_SIZE: usize = 1 << 24;

/// An architecture that is imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Qwen2,
    Qwen3,
    Gpt2,
}

/// The sizes of the model, checked against each other.
#[derive(Debug, Clone)]
pub(super) struct Hyper {
    pub family: Family,
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ffn: usize,
    pub context: usize,
    pub vocab: usize,
    pub eps: f64,
    pub rope: Rope,
    pub window: Option<usize>,
    /// The head is the embedding.
    pub tied: bool,
    /// The attention of a llama has biases.
    pub biased: bool,
}

/// Keys of an architecture that change what the model computes in ways that are not imported; each is
/// harmless where it is 0 or false.
const UNSUPPORTED: [&str; 8] = [
    "expert_count",
    "logit_scale",
    "embedding_scale",
    "residual_scale",
    "attention.scale",
    "attention.clamp_kqv",
    "attn_logit_softcapping",
    "final_logit_softcapping",
];

/// `llama.block_count` from `block_count`.
pub(super) fn arch_key(gguf: &Gguf, name: &str) -> Result<String> {
    let arch = gguf.text("general.architecture")?.ok_or_else(|| gguf.missing("general.architecture"))?;
    Ok(format!("{arch}.{name}"))
}

fn size(gguf: &Gguf, name: &str) -> Result<Option<usize>> {
    let key = arch_key(gguf, name)?;
    match gguf.whole(&key, MAX_SIZE)? {
        Some(0) => Err(gguf.bad("a size is zero", &key)),
        size => Ok(size),
    }
}

fn needed(gguf: &Gguf, name: &str) -> Result<usize> {
    size(gguf, name)?.ok_or_else(|| arch_key(gguf, name).map_or_else(|e| e, |key| gguf.missing(&key)))
}

impl Family {
    fn of(gguf: &Gguf) -> Result<Self> {
        let key = "general.architecture";
        match gguf.text(key)?.ok_or_else(|| gguf.missing(key))? {
            "llama" => Ok(Family::Llama),
            "qwen2" => Ok(Family::Qwen2),
            "qwen3" => Ok(Family::Qwen3),
            "gpt2" => Ok(Family::Gpt2),
            other => Err(gguf
                .bad("an architecture that is not imported", key)
                .expected("llama, qwen2, qwen3 or gpt2")
                .found(other)),
        }
    }
}

impl Hyper {
    /// Reads and checks the sizes.
    pub fn read(gguf: &Gguf) -> Result<Self> {
        let family = Family::of(gguf)?;
        refuse_unsupported(gguf)?;
        let layers = needed(gguf, "block_count")?;
        if layers > gguf.tensors.len() {
            let key = arch_key(gguf, "block_count")?;
            let found = format!("{layers} layers in {} tensors", gguf.tensors.len());
            return Err(gguf.bad("more layers than tensors", &key).found(found));
        }
        let hidden = needed(gguf, "embedding_length")?;
        let heads = needed(gguf, "attention.head_count")?;
        let kv_heads = size(gguf, "attention.head_count_kv")?.unwrap_or(heads);
        let head_dim = head_dim(gguf, hidden, heads, kv_heads)?;
        let vocab = vocabulary(gguf)?;
        let rope = if family == Family::Gpt2 { Rope::none() } else { Rope::read(gguf, head_dim)? };
        if family == Family::Gpt2 && (kv_heads != heads || head_dim * heads != hidden) {
            return Err(Error::data("gpt2 has one kind of head")
                .file(&gguf.path)
                .found(format!("{heads} heads of {head_dim}, {kv_heads} of keys, hidden size {hidden}")));
        }
        Ok(Hyper {
            family,
            layers,
            hidden,
            heads,
            kv_heads,
            head_dim,
            ffn: needed(gguf, "feed_forward_length")?,
            context: needed(gguf, "context_length")?,
            vocab,
            eps: epsilon(gguf, family)?,
            rope,
            window: window(gguf, family)?,
            tied: tied(gguf),
            biased: gguf.tensors.iter().any(|t| t.name == "blk.0.attn_output.bias"),
        })
    }

    /// config.json, in the spelling of transformers 5 and, beside it, of transformers 4.
    pub fn config(&self, ids: &SpecialIds, dtype: Dtype) -> Value {
        let dtype = match dtype {
            Dtype::F32 => "float32",
            Dtype::F16 => "float16",
            Dtype::BF16 => "bfloat16",
        };
        let mut config = if self.family == Family::Gpt2 { self.gpt2() } else { self.llama_like() };
        config["vocab_size"] = json!(self.vocab);
        config["bos_token_id"] = json!(ids.bos);
        config["eos_token_id"] = ids.eos_json();
        config["pad_token_id"] = json!(ids.pad);
        config["tie_word_embeddings"] = json!(self.tied);
        config["use_cache"] = json!(true);
        config["dtype"] = json!(dtype);
        config["torch_dtype"] = json!(dtype);
        config
    }

    fn gpt2(&self) -> Value {
        json!({
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_embd": self.hidden,
            "n_layer": self.layers,
            "n_head": self.heads,
            "n_inner": if self.ffn == 4 * self.hidden { Value::Null } else { json!(self.ffn) },
            "n_positions": self.context,
            "n_ctx": self.context,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": self.eps,
        })
    }

    fn llama_like(&self) -> Value {
        let (model_type, class) = match self.family {
            Family::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
            Family::Qwen3 => ("qwen3", "Qwen3ForCausalLM"),
            _ if self.window.is_some() => ("mistral", "MistralForCausalLM"),
            _ => ("llama", "LlamaForCausalLM"),
        };
        let mut config = json!({
            "architectures": [class],
            "model_type": model_type,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.ffn,
            "max_position_embeddings": self.context,
            "hidden_act": "silu",
            "rms_norm_eps": self.eps,
            "attention_dropout": 0.0,
            "rope_parameters": self.rope.parameters(),
            "rope_theta": self.rope.theta,
            "rope_scaling": self.rope.scaling_json(),
        });
        match self.family {
            Family::Llama if self.window.is_some() => config["sliding_window"] = json!(self.window),
            Family::Llama => {
                config["attention_bias"] = json!(self.biased);
                config["mlp_bias"] = json!(false);
            }
            Family::Qwen2 => config["use_sliding_window"] = json!(false),
            _ => {
                config["attention_bias"] = json!(false);
                config["use_sliding_window"] = json!(false);
            }
        }
        config
    }
}

fn refuse_unsupported(gguf: &Gguf) -> Result<()> {
    if gguf.whole("split.count", usize::from(u16::MAX))?.is_some_and(|n| n > 1) {
        return Err(gguf
            .bad("one part of a split file", "split.count")
            .advice("join the parts first (llama.cpp's gguf-split --merge)"));
    }
    for name in UNSUPPORTED {
        let key = arch_key(gguf, name)?;
        let neutral = !gguf.has(&key)
            || matches!(gguf.whole(&key, usize::MAX), Ok(Some(0)))
            || matches!(gguf.real(&key), Ok(Some(0.0)))
            || matches!(gguf.flag(&key), Ok(Some(false)));
        if !neutral {
            return Err(gguf.bad("a variant of the architecture that is not imported", &key));
        }
    }
    Ok(())
}

fn head_dim(gguf: &Gguf, hidden: usize, heads: usize, kv_heads: usize) -> Result<usize> {
    let key = arch_key(gguf, "attention.head_count")?;
    if !heads.is_multiple_of(kv_heads) {
        let found = format!("{heads} heads, {kv_heads} of keys and values");
        return Err(gguf.bad("the heads do not divide", &key).found(found));
    }
    let head_dim = match size(gguf, "attention.key_length")? {
        Some(n) => n,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let found = format!("{heads} heads in {hidden}");
            return Err(gguf.bad("the heads do not divide the hidden size", &key).found(found));
        }
    };
    match size(gguf, "attention.value_length")? {
        Some(n) if n != head_dim => Err(gguf
            .bad("keys and values of different length", &arch_key(gguf, "attention.value_length")?)
            .expected(head_dim)
            .found(n)),
        _ => Ok(head_dim),
    }
}

/// The number of tokens, which is the number of rows of the embedding.
fn vocabulary(gguf: &Gguf) -> Result<usize> {
    let key = "tokenizer.ggml.tokens";
    let tokens = gguf.texts(key)?.ok_or_else(|| gguf.missing(key))?.len();
    match size(gguf, "vocab_size")? {
        Some(n) if n != tokens => Err(gguf.bad("the vocabulary sizes differ", key).expected(n).found(tokens)),
        _ if tokens == 0 => Err(gguf.bad("there are no tokens", key)),
        _ => Ok(tokens),
    }
}

fn epsilon(gguf: &Gguf, family: Family) -> Result<f64> {
    let norm = if family == Family::Gpt2 { "layer_norm_epsilon" } else { "layer_norm_rms_epsilon" };
    let key = arch_key(gguf, &format!("attention.{norm}"))?;
    match gguf.real(&key)? {
        Some(eps) if (0.0..1.0).contains(&eps) => Ok(eps),
        Some(eps) => Err(gguf.bad("bad epsilon", &key).expected("0 to 1").found(eps)),
        None => Err(gguf.missing(&key)),
    }
}

/// A sliding window that cuts something off: the mark of a Mistral, and only read there.
fn window(gguf: &Gguf, family: Family) -> Result<Option<usize>> {
    let key = arch_key(gguf, "attention.sliding_window")?;
    let context = needed(gguf, "context_length")?;
    match gguf.whole(&key, usize::MAX)? {
        Some(n) if n > 0 && n < context => match family {
            Family::Llama => Ok(Some(n)),
            _ => Err(gguf.bad("a sliding window is not imported for this architecture", &key)),
        },
        _ => Ok(None),
    }
}

/// Without a head of its own, or with a copy of the embedding for a head (old gpt2 files).
fn tied(gguf: &Gguf) -> bool {
    let find = |name: &str| gguf.tensors.iter().find(|t| t.name == name);
    match (find("token_embd.weight"), find("output.weight")) {
        (_, None) => true,
        (Some(a), Some(b)) => a.kind == b.kind && a.shape == b.shape && gguf.bytes(a) == gguf.bytes(b),
        (None, Some(_)) => false,
    }
}
