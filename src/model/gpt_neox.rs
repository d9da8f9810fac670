//! GPT-NeoX ("GPT-NeoX-20B", Black et al., 2022), the architecture of Pythia.
//!
//! Rotary positions on a part of each head, layer norms, one projection for queries, keys and values
//! with the three of a head side by side, attention and feed-forward net beside each other
//! (`use_parallel_residual`) or one behind the other, a head of its own called `embed_out`.

use tch::Tensor;

use super::attention::Geometry;
use super::axes::{Axis, Cuts};
use super::cache::LayerCache;
use super::config::{CONTEXT, HEADS, LAYERS, RawConfig, Shape, VOCABULARY, WIDTH};
use super::layers::{Activation, Embedding, Finish, Head, Linear, Mlp, Norm};
use super::rope::{Keys, Rope};
use super::{Block, Design, Parts, Sight, Under};
use crate::error::Result;
use crate::weights::{Naming, Params, Spec};

const NAMING: Naming = Naming {
    prefix: "gpt_neox.",
    head: "embed_out.weight",
    embedding: "gpt_neox.embed_in.weight",
    buffers: &["attention.bias", "attention.masked_bias", "rotary_emb.inv_freq"],
};

const CUTS: Cuts = Cuts {
    axes: &[
        ("embed_in.weight", &[Axis::Vocabulary, Axis::Hidden]),
        ("embed_out.weight", &[Axis::Vocabulary, Axis::Hidden]),
        ("query_key_value.weight", &[Axis::FusedByHead, Axis::Hidden]),
        ("query_key_value.bias", &[Axis::FusedByHead]),
        ("dense.weight", &[Axis::Hidden, Axis::Attended]),
        ("dense.bias", &[Axis::Hidden]),
        ("dense_h_to_4h.weight", &[Axis::Neurons, Axis::Hidden]),
        ("dense_h_to_4h.bias", &[Axis::Neurons]),
        ("dense_4h_to_h.weight", &[Axis::Hidden, Axis::Activated]),
        ("dense_4h_to_h.bias", &[Axis::Hidden]),
        ("input_layernorm.weight", &[Axis::Hidden]),
        ("input_layernorm.bias", &[Axis::Hidden]),
        ("post_attention_layernorm.weight", &[Axis::Hidden]),
        ("post_attention_layernorm.bias", &[Axis::Hidden]),
        ("final_layer_norm.weight", &[Axis::Hidden]),
        ("final_layer_norm.bias", &[Axis::Hidden]),
    ],
    hidden: &["hidden_size"],
    heads: &["num_attention_heads"],
    layers: &["num_hidden_layers"],
    neurons: &["intermediate_size"],
    kv_heads: None,
    head_dim: None,
    word: None,
};

#[derive(Debug)]
struct GptNeox {
    shape: Shape,
    eps: f64,
    act: Activation,
    parallel: bool,
    attention_bias: bool,
}

/// Reads and checks the config.
pub(super) fn read(raw: &RawConfig) -> Result<Box<dyn Design>> {
    let hidden = raw.int("hidden_size", WIDTH)?;
    let heads = raw.int("num_attention_heads", HEADS)?;
    if hidden % heads != 0 {
        return Err(raw.bad("num_attention_heads", format!("a divisor of the hidden size {hidden}"), heads));
    }
    let layers = raw.int("num_hidden_layers", LAYERS)?;
    let keys = Keys { theta: "rotary_emb_base", share: Some(("rotary_pct", 0.25)) };
    let shape = Shape {
        model_type: "gpt_neox",
        vocabulary: raw.int("vocab_size", VOCABULARY)?,
        hidden,
        head_input: hidden,
        layers,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads,
        ffn: raw.int("intermediate_size", WIDTH)?,
        context: raw.int("max_position_embeddings", CONTEXT)?,
        tied: raw.flag_or("tie_word_embeddings", false)?,
        windows: vec![None; layers as usize],
        rope: Some(Rope::read(raw, hidden / heads, keys)?),
    };
    Ok(Box::new(GptNeox {
        shape,
        eps: raw.positive_or("layer_norm_eps", 1e-5)?,
        act: raw.activation("hidden_act", "gelu")?,
        parallel: raw.flag_or("use_parallel_residual", true)?,
        attention_bias: raw.flag_or("attention_bias", true)?,
    }))
}

impl GptNeox {
    fn block_specs(&self, layer: i64, specs: &mut Vec<Spec>) {
        let (d, f) = (self.shape.hidden, self.shape.ffn);
        let mut add = |name: &str, shape: Vec<i64>| {
            specs.push(Spec::new(format!("gpt_neox.layers.{layer}.{name}"), shape))
        };
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(&format!("{norm}.weight"), vec![d]);
            add(&format!("{norm}.bias"), vec![d]);
        }
        let linears = [
            ("attention.query_key_value", 3 * d, d, self.attention_bias),
            ("attention.dense", d, d, self.attention_bias),
            ("mlp.dense_h_to_4h", f, d, true),
            ("mlp.dense_4h_to_h", d, f, true),
        ];
        for (name, out, input, bias) in linears {
            add(&format!("{name}.weight"), vec![out, input]);
            if bias {
                add(&format!("{name}.bias"), vec![out]);
            }
        }
    }

    fn block(&self, params: &Params, layer: i64) -> Result<NeoxBlock> {
        let under = Under { params, prefix: &format!("gpt_neox.layers.{layer}.") };
        let norm = |name: &str| Norm::layer(under, name, self.shape.hidden, self.eps, true);
        Ok(NeoxBlock {
            attention_norm: norm("input_layernorm")?,
            qkv: Linear::new(under, "attention.query_key_value", self.attention_bias)?,
            out: Linear::new(under, "attention.dense", self.attention_bias)?,
            mlp_norm: norm("post_attention_layernorm")?,
            mlp: Mlp::Plain {
                up: Linear::new(under, "mlp.dense_h_to_4h", true)?,
                down: Linear::new(under, "mlp.dense_4h_to_h", true)?,
                act: self.act,
            },
            geometry: Geometry::of(&self.shape, layer),
            parallel: self.parallel,
        })
    }
}

impl Design for GptNeox {
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
        specs.push(Spec::new("gpt_neox.final_layer_norm.weight", [d]));
        specs.push(Spec::new("gpt_neox.final_layer_norm.bias", [d]));
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
        let tokens_vd = base.get("embed_in.weight")?;
        let head = if self.shape.tied { tokens_vd.shallow_clone() } else { params.get(NAMING.head)? };
        let norm = Norm::layer(base, "final_layer_norm", self.shape.hidden, self.eps, true)?;
        Ok(Parts {
            embedding: Embedding { tokens_vd, positions: None, project: None },
            blocks: blocks.collect::<Result<_>>()?,
            finish: Finish { norm: Some(norm), project: None },
            head: Head { weight_vd: head, bias_v: None },
        })
    }
}

#[derive(Debug)]
struct NeoxBlock {
    attention_norm: Norm,
    qkv: Linear,
    out: Linear,
    mlp_norm: Norm,
    mlp: Mlp,
    geometry: Geometry,
    parallel: bool,
}

impl NeoxBlock {
    fn attention(&self, x: &Tensor, sight: &Sight, cache: Option<&mut LayerCache>) -> Result<Tensor> {
        let qkv = self.qkv.forward(x)?.f_unflatten(-1, [self.geometry.heads, 3 * self.geometry.head_dim])?;
        let part = |n: i64| qkv.f_narrow(-1, n * self.geometry.head_dim, self.geometry.head_dim);
        self.out.forward(&self.geometry.attend_heads([part(0)?, part(1)?, part(2)?], sight, cache)?)
    }
}

impl Block for NeoxBlock {
    fn forward(&self, x: &Tensor, sight: &Sight, cache: Option<&mut LayerCache>) -> Result<Tensor> {
        let behind = sight.add(x, &self.attention(&self.attention_norm.forward(x)?, sight, cache)?)?;
        let into_mlp = if self.parallel { x } else { &behind };
        sight.add(&behind, &self.mlp.forward(&self.mlp_norm.forward(into_mlp)?)?)
    }

    fn share(&self) -> Box<dyn Block> {
        Box::new(NeoxBlock {
            attention_norm: self.attention_norm.share(),
            qkv: self.qkv.share(),
            out: self.out.share(),
            mlp_norm: self.mlp_norm.share(),
            mlp: self.mlp.share(),
            geometry: self.geometry.clone(),
            parallel: self.parallel,
        })
    }
}
