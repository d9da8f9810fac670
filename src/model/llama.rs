//! Llama ("LLaMA: open and efficient foundation language models", Touvron et al., 2023, and its
//! successors), and the block that Mistral, Qwen2 and Qwen3 share with it.
//!
//! Rotary positions, RMS norms in front of each sublayer, grouped key/value heads, a gated
//! feed-forward net. The relatives differ in which projections have a bias, in norms on each head's
//! queries and keys, and in how far attention looks back.

use tch::Tensor;

use super::attention::{Attention, Geometry};
use super::axes::{Axis, Cuts};
use super::cache::LayerCache;
use super::config::{CONTEXT, HEADS, LAYERS, RawConfig, Shape, VOCABULARY, WIDTH};
use super::layers::{Activation, Embedding, Finish, Head, Linear, Mlp, Norm};
use super::rope::{Keys, Rope};
use super::{Block, Design, Parts, Sight, Under};
use crate::error::Result;
use crate::weights::{Naming, Params, Spec};

const NAMING: Naming = Naming {
    prefix: "model.",
    head: "lm_head.weight",
    embedding: "model.embed_tokens.weight",
    buffers: &["rotary_emb.inv_freq"],
};

const CUTS: Cuts = Cuts {
    axes: &[
        ("embed_tokens.weight", &[Axis::Vocabulary, Axis::Hidden]),
        ("lm_head.weight", &[Axis::Vocabulary, Axis::Hidden]),
        ("q_proj.weight", &[Axis::Queries, Axis::Hidden]),
        ("q_proj.bias", &[Axis::Queries]),
        ("k_proj.weight", &[Axis::Keys, Axis::Hidden]),
        ("k_proj.bias", &[Axis::Keys]),
        ("v_proj.weight", &[Axis::Keys, Axis::Hidden]),
        ("v_proj.bias", &[Axis::Keys]),
        ("o_proj.weight", &[Axis::Hidden, Axis::Attended]),
        ("o_proj.bias", &[Axis::Hidden]),
        ("gate_proj.weight", &[Axis::Neurons, Axis::Hidden]),
        ("gate_proj.bias", &[Axis::Neurons]),
        ("up_proj.weight", &[Axis::Neurons, Axis::Hidden]),
        ("up_proj.bias", &[Axis::Neurons]),
        ("down_proj.weight", &[Axis::Hidden, Axis::Activated]),
        ("down_proj.bias", &[Axis::Hidden]),
        ("q_norm.weight", &[Axis::Whole]),
        ("k_norm.weight", &[Axis::Whole]),
        ("input_layernorm.weight", &[Axis::Hidden]),
        ("post_attention_layernorm.weight", &[Axis::Hidden]),
        ("norm.weight", &[Axis::Hidden]),
    ],
    hidden: &["hidden_size"],
    heads: &["num_attention_heads"],
    layers: &["num_hidden_layers"],
    neurons: &["intermediate_size"],
    kv_heads: Some("num_key_value_heads"),
    head_dim: Some("head_dim"),
    word: None,
};

/// A model of the Llama family.
#[derive(Debug)]
pub(super) struct Llama {
    pub(super) shape: Shape,
    pub(super) eps: f64,
    pub(super) act: Activation,
    pub(super) bias: Bias,
    pub(super) head_norms: bool,
}

/// Which projections have a bias.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bias {
    pub(super) qkv: bool,
    pub(super) out: bool,
    pub(super) mlp: bool,
}

/// What differs between the relatives when the config says nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    /// The `model_type`.
    pub(super) model_type: &'static str,
    /// Key/value heads where the field is absent (null counts as the number of heads): transformers'
    /// own defaults, which differ from family to family.
    pub(super) kv_heads: Option<i64>,
    /// Channels of a head where the field is absent: the hidden width over the heads, or this.
    pub(super) head_dim: Option<i64>,
}

/// Reads and checks the config.
pub(super) fn read(raw: &RawConfig) -> Result<Box<dyn Design>> {
    let attention = raw.flag_or("attention_bias", false)?;
    let bias = Bias { qkv: attention, out: attention, mlp: raw.flag_or("mlp_bias", false)? };
    let defaults = Defaults { model_type: "llama", kv_heads: None, head_dim: None };
    Ok(Box::new(Llama::read(raw, defaults, bias)?))
}

impl Llama {
    /// What the whole family reads alike.
    pub(super) fn read(raw: &RawConfig, defaults: Defaults, bias: Bias) -> Result<Self> {
        let hidden = raw.int("hidden_size", WIDTH)?;
        let heads = raw.int("num_attention_heads", HEADS)?;
        let kv_default =
            if raw.names("num_key_value_heads") { heads } else { defaults.kv_heads.unwrap_or(heads) };
        let head_dim = match defaults.head_dim {
            Some(d) if raw.get("head_dim").is_none() => d,
            _ => raw.head_dim(hidden, heads, "num_attention_heads")?,
        };
        let layers = raw.int("num_hidden_layers", LAYERS)?;
        let shape = Shape {
            model_type: defaults.model_type,
            vocabulary: raw.int("vocab_size", VOCABULARY)?,
            hidden,
            head_input: hidden,
            layers,
            heads,
            kv_heads: raw.kv_heads(heads, kv_default)?,
            head_dim,
            ffn: raw.int("intermediate_size", WIDTH)?,
            context: raw.int("max_position_embeddings", CONTEXT)?,
            tied: raw.flag_or("tie_word_embeddings", false)?,
            windows: vec![None; layers as usize],
            rope: Some(Rope::read(raw, head_dim, Keys::default())?),
        };
        let (eps, act) = (raw.positive_or("rms_norm_eps", 1e-6)?, raw.activation("hidden_act", "silu")?);
        Ok(Llama { shape, eps, act, bias, head_norms: false })
    }

    fn block_specs(&self, layer: i64, specs: &mut Vec<Spec>) {
        let Shape { hidden: d, ffn: f, heads, kv_heads, head_dim, .. } = self.shape;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let mut add = |name: &str, shape: Vec<i64>| {
            specs.push(Spec::new(format!("model.layers.{layer}.{name}"), shape))
        };
        let linears = [
            ("self_attn.q_proj", q, d, self.bias.qkv),
            ("self_attn.k_proj", kv, d, self.bias.qkv),
            ("self_attn.v_proj", kv, d, self.bias.qkv),
            ("self_attn.o_proj", d, q, self.bias.out),
            ("mlp.gate_proj", f, d, self.bias.mlp),
            ("mlp.up_proj", f, d, self.bias.mlp),
            ("mlp.down_proj", d, f, self.bias.mlp),
        ];
        for (name, out, input, bias) in linears {
            add(&format!("{name}.weight"), vec![out, input]);
            if bias {
                add(&format!("{name}.bias"), vec![out]);
            }
        }
        if self.head_norms {
            add("self_attn.q_norm.weight", vec![head_dim]);
            add("self_attn.k_norm.weight", vec![head_dim]);
        }
        add("input_layernorm.weight", vec![d]);
        add("post_attention_layernorm.weight", vec![d]);
    }

    fn block(&self, params: &Params, layer: i64) -> Result<LlamaBlock> {
        let under = Under { params, prefix: &format!("model.layers.{layer}.") };
        let (d, head_dim) = (self.shape.hidden, self.shape.head_dim);
        let attention = |name: &str| Linear::new(under, &format!("self_attn.{name}"), self.bias.qkv);
        let mlp = |name: &str| Linear::new(under, &format!("mlp.{name}"), self.bias.mlp);
        let head_norm = |name: &str| Norm::rms(under, &format!("self_attn.{name}"), head_dim, self.eps);
        let norms = if self.head_norms { Some((head_norm("q_norm")?, head_norm("k_norm")?)) } else { None };
        Ok(LlamaBlock {
            before_attention: Norm::rms(under, "input_layernorm", d, self.eps)?,
            attention: Attention {
                qkv: [attention("q_proj")?, attention("k_proj")?, attention("v_proj")?],
                out: Linear::new(under, "self_attn.o_proj", self.bias.out)?,
                norms,
                geometry: Geometry::of(&self.shape, layer),
            },
            before_mlp: Norm::rms(under, "post_attention_layernorm", d, self.eps)?,
            mlp: Mlp::Gated {
                gate: mlp("gate_proj")?,
                up: mlp("up_proj")?,
                down: mlp("down_proj")?,
                act: self.act,
            },
        })
    }
}

impl Design for Llama {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn naming(&self) -> Naming {
        NAMING
    }

    fn specs(&self) -> Vec<Spec> {
        let (v, d) = (self.shape.vocabulary, self.shape.hidden);
        let mut specs = vec![Spec::new(NAMING.embedding, [v, d])];
        (0..self.shape.layers).for_each(|layer| self.block_specs(layer, &mut specs));
        specs.push(Spec::new("model.norm.weight", [d]));
        if !self.shape.tied {
            specs.push(Spec::new(NAMING.head, [v, d]));
        }
        specs
    }

    fn cuts(&self) -> &'static Cuts {
        &CUTS
    }

    fn build(&self, params: &Params) -> Result<Parts> {
        let base = Under { params, prefix: NAMING.prefix };
        let blocks =
            (0..self.shape.layers).map(|layer| Ok(Box::new(self.block(params, layer)?) as Box<dyn Block>));
        let tokens_vd = base.get("embed_tokens.weight")?;
        let head = if self.shape.tied { tokens_vd.shallow_clone() } else { params.get(NAMING.head)? };
        Ok(Parts {
            embedding: Embedding { tokens_vd, positions: None, project: None },
            blocks: blocks.collect::<Result<_>>()?,
            finish: Finish {
                norm: Some(Norm::rms(base, "norm", self.shape.hidden, self.eps)?),
                project: None,
            },
            head: Head { weight_vd: head, bias_v: None },
        })
    }
}

#[derive(Debug)]
struct LlamaBlock {
    before_attention: Norm,
    attention: Attention,
    before_mlp: Norm,
    mlp: Mlp,
}

impl Block for LlamaBlock {
    fn forward(&self, x: &Tensor, sight: &Sight, cache: Option<&mut LayerCache>) -> Result<Tensor> {
        let x = sight.add(x, &self.attention.forward(&self.before_attention.forward(x)?, sight, cache)?)?;
        sight.add(&x, &self.mlp.forward(&self.before_mlp.forward(&x)?)?)
    }

    fn share(&self) -> Box<dyn Block> {
        Box::new(LlamaBlock {
            before_attention: self.before_attention.share(),
            attention: self.attention.share(),
            before_mlp: self.before_mlp.share(),
            mlp: self.mlp.share(),
        })
    }
}
