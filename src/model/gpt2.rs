//! GPT-2 ("Language models are unsupervised multitask learners", Radford et al., 2019).
//!
//! Learned positions, norms in front of each sublayer, matrices stored input first, one projection for
//! queries, keys and values. Also read: the width of the feed-forward net (`n_inner`), scores divided
//! by the layer's number (`scale_attn_by_inverse_layer_idx`), unscaled scores, an untied head.
//! `reorder_and_upcast_attn` changes only the order of roundings and is accepted.

use tch::Tensor;

use super::attention::Geometry;
use super::axes::{Axis, Cuts};
use super::cache::LayerCache;
use super::config::{CONTEXT, HEADS, LAYERS, RawConfig, Shape, VOCABULARY, WIDTH};
use super::layers::{Activation, Embedding, Finish, Head, Linear, Mlp, Norm};
use super::{Block, Design, Parts, Sight, Under};
use crate::error::Result;
use crate::weights::{Naming, Params, Spec};

const NAMING: Naming = Naming {
    prefix: "transformer.",
    head: "lm_head.weight",
    embedding: "transformer.wte.weight",
    buffers: &["attn.bias", "attn.masked_bias"],
};

const CUTS: Cuts = Cuts {
    axes: &[
        ("wte.weight", &[Axis::Vocabulary, Axis::Hidden]),
        ("wpe.weight", &[Axis::Whole, Axis::Hidden]),
        ("lm_head.weight", &[Axis::Vocabulary, Axis::Hidden]),
        ("attn.c_attn.weight", &[Axis::Hidden, Axis::Fused]),
        ("attn.c_attn.bias", &[Axis::Fused]),
        ("attn.c_proj.weight", &[Axis::Attended, Axis::Hidden]),
        ("attn.c_proj.bias", &[Axis::Hidden]),
        ("mlp.c_fc.weight", &[Axis::Hidden, Axis::Neurons]),
        ("mlp.c_fc.bias", &[Axis::Neurons]),
        ("mlp.c_proj.weight", &[Axis::Activated, Axis::Hidden]),
        ("mlp.c_proj.bias", &[Axis::Hidden]),
        ("ln_1.weight", &[Axis::Hidden]),
        ("ln_1.bias", &[Axis::Hidden]),
        ("ln_2.weight", &[Axis::Hidden]),
        ("ln_2.bias", &[Axis::Hidden]),
        ("ln_f.weight", &[Axis::Hidden]),
        ("ln_f.bias", &[Axis::Hidden]),
    ],
    hidden: &["n_embd", "hidden_size"],
    heads: &["n_head", "num_attention_heads"],
    layers: &["n_layer", "num_hidden_layers"],
    neurons: &["n_inner"],
    kv_heads: None,
    head_dim: None,
    word: None,
};

#[derive(Debug)]
struct Gpt2 {
    shape: Shape,
    eps: f64,
    act: Activation,
    scaled: bool,
    scaled_by_layer: bool,
}

/// Reads and checks the config.
pub(super) fn read(raw: &RawConfig) -> Result<Box<dyn Design>> {
    // transformers takes the general names as aliases.
    let key = |short: &'static str, long: &'static str| if raw.get(short).is_some() { short } else { long };
    let hidden = raw.int(key("n_embd", "hidden_size"), WIDTH)?;
    let heads_key = key("n_head", "num_attention_heads");
    let heads = raw.int(heads_key, HEADS)?;
    if hidden % heads != 0 {
        return Err(raw.bad(heads_key, format!("a divisor of the hidden size {hidden}"), heads));
    }
    raw.refuse("add_cross_attention", false)?;
    let layers = raw.int(key("n_layer", "num_hidden_layers"), LAYERS)?;
    let shape = Shape {
        model_type: "gpt2",
        vocabulary: raw.int("vocab_size", VOCABULARY)?,
        hidden,
        head_input: hidden,
        layers,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads,
        ffn: raw.int_or("n_inner", WIDTH, 4 * hidden)?,
        context: raw.int(key("n_positions", "max_position_embeddings"), CONTEXT)?,
        tied: raw.flag_or("tie_word_embeddings", true)?,
        windows: vec![None; layers as usize],
        rope: None,
    };
    Ok(Box::new(Gpt2 {
        shape,
        eps: raw.positive_or("layer_norm_epsilon", 1e-5)?,
        act: raw.activation("activation_function", "gelu_new")?,
        scaled: raw.flag_or("scale_attn_weights", true)?,
        scaled_by_layer: raw.flag_or("scale_attn_by_inverse_layer_idx", false)?,
    }))
}

impl Design for Gpt2 {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn naming(&self) -> Naming {
        NAMING
    }

    fn specs(&self) -> Vec<Spec> {
        let Shape { vocabulary: v, hidden: d, ffn: f, context, .. } = self.shape;
        let mut specs = vec![
            Spec::new("transformer.wte.weight", [v, d]),
            Spec::new("transformer.wpe.weight", [context, d]),
        ];
        for layer in 0..self.shape.layers {
            let parts: [(&str, Vec<i64>); 12] = [
                ("ln_1.weight", vec![d]),
                ("ln_1.bias", vec![d]),
                ("attn.c_attn.weight", vec![d, 3 * d]),
                ("attn.c_attn.bias", vec![3 * d]),
                ("attn.c_proj.weight", vec![d, d]),
                ("attn.c_proj.bias", vec![d]),
                ("ln_2.weight", vec![d]),
                ("ln_2.bias", vec![d]),
                ("mlp.c_fc.weight", vec![d, f]),
                ("mlp.c_fc.bias", vec![f]),
                ("mlp.c_proj.weight", vec![f, d]),
                ("mlp.c_proj.bias", vec![d]),
            ];
            specs
                .extend(parts.map(|(name, shape)| Spec::new(format!("transformer.h.{layer}.{name}"), shape)));
        }
        specs.push(Spec::new("transformer.ln_f.weight", [d]));
        specs.push(Spec::new("transformer.ln_f.bias", [d]));
        if !self.shape.tied {
            specs.push(Spec::new(NAMING.head, [v, d]));
        }
        specs
    }

    fn cuts(&self) -> &'static Cuts {
        &CUTS
    }

    fn build(&self, params: &Params) -> Result<Parts> {
        let d = self.shape.hidden;
        let base = Under { params, prefix: NAMING.prefix };
        let mut blocks: Vec<Box<dyn Block>> = Vec::new();
        for layer in 0..self.shape.layers {
            let under = Under { params, prefix: &format!("transformer.h.{layer}.") };
            let root = if self.scaled { (self.shape.head_dim as f64).sqrt() } else { 1.0 };
            let by_layer = if self.scaled_by_layer { (layer + 1) as f64 } else { 1.0 };
            blocks.push(Box::new(Gpt2Block {
                before_attention: Norm::layer(under, "ln_1", d, self.eps, true)?,
                qkv: Linear::input_first(under, "attn.c_attn")?,
                out: Linear::input_first(under, "attn.c_proj")?,
                before_mlp: Norm::layer(under, "ln_2", d, self.eps, true)?,
                mlp: Mlp::Plain {
                    up: Linear::input_first(under, "mlp.c_fc")?,
                    down: Linear::input_first(under, "mlp.c_proj")?,
                    act: self.act,
                },
                geometry: Geometry::of(&self.shape, layer).scaled(1.0 / (root * by_layer)),
            }));
        }
        let tokens_vd = base.get("wte.weight")?;
        let head = if self.shape.tied { tokens_vd.shallow_clone() } else { params.get(NAMING.head)? };
        Ok(Parts {
            embedding: Embedding { tokens_vd, positions: Some((base.get("wpe.weight")?, 0)), project: None },
            blocks,
            finish: Finish { norm: Some(Norm::layer(base, "ln_f", d, self.eps, true)?), project: None },
            head: Head { weight_vd: head, bias_v: None },
        })
    }
}

#[derive(Debug)]
struct Gpt2Block {
    before_attention: Norm,
    qkv: Linear,
    out: Linear,
    before_mlp: Norm,
    mlp: Mlp,
    geometry: Geometry,
}

impl Block for Gpt2Block {
    fn forward(&self, x: &Tensor, sight: &Sight, cache: Option<&mut LayerCache>) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.before_attention.forward(x)?)?;
        let part = |n: i64| qkv.f_narrow(-1, n * self.geometry.width(), self.geometry.width());
        let attended = self.geometry.attend([part(0)?, part(1)?, part(2)?], None, sight, cache)?;
        let x = sight.add(x, &self.out.forward(&attended)?)?;
        sight.add(&x, &self.mlp.forward(&self.before_mlp.forward(&x)?)?)
    }

    fn share(&self) -> Box<dyn Block> {
        Box::new(Gpt2Block {
            before_attention: self.before_attention.share(),
            qkv: self.qkv.share(),
            out: self.out.share(),
            before_mlp: self.before_mlp.share(),
            mlp: self.mlp.share(),
            geometry: self.geometry.clone(),
        })
    }
}
