//! OPT ("OPT: open pre-trained transformer language models", Zhang et al., 2022).
//!
//! Learned positions behind two free rows; norms in front of each sublayer, or behind the residual sum
//! (`do_layer_norm_before = false`, OPT-350M, which then has no last norm); an embedding of another
//! width than the blocks, with a projection in and one out.

use tch::Tensor;

use super::attention::{Attention, Geometry};
use super::axes::{Axis, Cuts};
use super::cache::LayerCache;
use super::config::{CONTEXT, HEADS, LAYERS, RawConfig, Shape, VOCABULARY, WIDTH};
use super::layers::{Activation, Embedding, Finish, Head, Linear, Mlp, Norm};
use super::{Block, Design, Parts, Sight, Under};
use crate::error::Result;
use crate::weights::{Naming, Params, Spec};

const NAMING: Naming = Naming {
    prefix: "model.",
    head: "lm_head.weight",
    embedding: "model.decoder.embed_tokens.weight",
    buffers: &[],
};

const CUTS: Cuts = Cuts {
    axes: &[
        ("embed_tokens.weight", &[Axis::Vocabulary, Axis::Word]),
        ("lm_head.weight", &[Axis::Vocabulary, Axis::Word]),
        ("embed_positions.weight", &[Axis::Whole, Axis::Hidden]),
        ("project_in.weight", &[Axis::Hidden, Axis::Word]),
        ("project_out.weight", &[Axis::Word, Axis::Hidden]),
        ("q_proj.weight", &[Axis::Queries, Axis::Hidden]),
        ("q_proj.bias", &[Axis::Queries]),
        ("k_proj.weight", &[Axis::Keys, Axis::Hidden]),
        ("k_proj.bias", &[Axis::Keys]),
        ("v_proj.weight", &[Axis::Keys, Axis::Hidden]),
        ("v_proj.bias", &[Axis::Keys]),
        ("out_proj.weight", &[Axis::Hidden, Axis::Attended]),
        ("out_proj.bias", &[Axis::Hidden]),
        ("fc1.weight", &[Axis::Neurons, Axis::Hidden]),
        ("fc1.bias", &[Axis::Neurons]),
        ("fc2.weight", &[Axis::Hidden, Axis::Activated]),
        ("fc2.bias", &[Axis::Hidden]),
        ("self_attn_layer_norm.weight", &[Axis::Hidden]),
        ("self_attn_layer_norm.bias", &[Axis::Hidden]),
        ("final_layer_norm.weight", &[Axis::Hidden]),
        ("final_layer_norm.bias", &[Axis::Hidden]),
    ],
    hidden: &["hidden_size"],
    heads: &["num_attention_heads"],
    layers: &["num_hidden_layers"],
    neurons: &["ffn_dim"],
    kv_heads: None,
    head_dim: None,
    word: Some("word_embed_proj_dim"),
};
/// OPT has no setting for it.
const EPS: f64 = 1e-5;
/// Rows of the position table that no position uses.
const FREE_ROWS: i64 = 2;

#[derive(Debug)]
struct Opt {
    shape: Shape,
    act: Activation,
    norm_first: bool,
    last_norm: bool,
    bias: bool,
    affine: bool,
}

/// Reads and checks the config.
pub(super) fn read(raw: &RawConfig) -> Result<Box<dyn Design>> {
    let hidden = raw.int("hidden_size", WIDTH)?;
    let heads = raw.int("num_attention_heads", HEADS)?;
    if hidden % heads != 0 {
        return Err(raw.bad("num_attention_heads", format!("a divisor of the hidden size {hidden}"), heads));
    }
    let layers = raw.int("num_hidden_layers", LAYERS)?;
    let shape = Shape {
        model_type: "opt",
        vocabulary: raw.int("vocab_size", VOCABULARY)?,
        hidden,
        head_input: raw.int_or("word_embed_proj_dim", WIDTH, hidden)?,
        layers,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads,
        ffn: raw.int("ffn_dim", WIDTH)?,
        context: raw.int("max_position_embeddings", CONTEXT)?,
        tied: raw.flag_or("tie_word_embeddings", true)?,
        windows: vec![None; layers as usize],
        rope: None,
    };
    let norm_first = raw.flag_or("do_layer_norm_before", true)?;
    Ok(Box::new(Opt {
        shape,
        act: raw.activation("activation_function", "relu")?,
        norm_first,
        last_norm: norm_first && !raw.flag_or("_remove_final_layer_norm", false)?,
        bias: raw.flag_or("enable_bias", true)?,
        affine: raw.flag_or("layer_norm_elementwise_affine", true)?,
    }))
}

impl Opt {
    fn projects(&self) -> bool {
        self.shape.head_input != self.shape.hidden
    }

    fn block_specs(&self, layer: i64, specs: &mut Vec<Spec>) {
        let (d, f) = (self.shape.hidden, self.shape.ffn);
        let mut add = |name: &str, shape: Vec<i64>| {
            specs.push(Spec::new(format!("model.decoder.layers.{layer}.{name}"), shape))
        };
        let mut linear = |name: &str, out: i64, input: i64| {
            add(&format!("{name}.weight"), vec![out, input]);
            if self.bias {
                add(&format!("{name}.bias"), vec![out]);
            }
        };
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            linear(&format!("self_attn.{name}"), d, d);
        }
        linear("fc1", f, d);
        linear("fc2", d, f);
        if self.affine {
            for norm in ["self_attn_layer_norm", "final_layer_norm"] {
                add(&format!("{norm}.weight"), vec![d]);
                add(&format!("{norm}.bias"), vec![d]);
            }
        }
    }

    fn block(&self, params: &Params, layer: i64) -> Result<OptBlock> {
        let under = Under { params, prefix: &format!("model.decoder.layers.{layer}.") };
        let linear = |name: &str| Linear::new(under, name, self.bias);
        let norm = |name: &str| Norm::layer(under, name, self.shape.hidden, EPS, self.affine);
        Ok(OptBlock {
            norm_first: self.norm_first,
            attention_norm: norm("self_attn_layer_norm")?,
            attention: Attention {
                qkv: [linear("self_attn.q_proj")?, linear("self_attn.k_proj")?, linear("self_attn.v_proj")?],
                out: linear("self_attn.out_proj")?,
                norms: None,
                geometry: Geometry::of(&self.shape, layer),
            },
            mlp_norm: norm("final_layer_norm")?,
            mlp: Mlp::Plain { up: linear("fc1")?, down: linear("fc2")?, act: self.act },
        })
    }
}

impl Design for Opt {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn naming(&self) -> Naming {
        NAMING
    }

    fn specs(&self) -> Vec<Spec> {
        let Shape { vocabulary: v, hidden: d, head_input: w, context, .. } = self.shape;
        let mut specs = vec![
            Spec::new(NAMING.embedding, [v, w]),
            Spec::new("model.decoder.embed_positions.weight", [context + FREE_ROWS, d]),
        ];
        if self.projects() {
            specs.push(Spec::new("model.decoder.project_in.weight", [d, w]));
            specs.push(Spec::new("model.decoder.project_out.weight", [w, d]));
        }
        if self.last_norm && self.affine {
            specs.push(Spec::new("model.decoder.final_layer_norm.weight", [d]));
            specs.push(Spec::new("model.decoder.final_layer_norm.bias", [d]));
        }
        (0..self.shape.layers).for_each(|layer| self.block_specs(layer, &mut specs));
        if !self.shape.tied {
            specs.push(Spec::new(NAMING.head, [v, w]));
        }
        specs
    }

    fn cuts(&self) -> &'static Cuts {
        &CUTS
    }

    fn build(&self, params: &Params) -> Result<Parts> {
        let base = Under { params, prefix: "model.decoder." };
        let project = |name: &str| self.projects().then(|| Linear::new(base, name, false)).transpose();
        let norm = |name: &str| Norm::layer(base, name, self.shape.hidden, EPS, self.affine);
        let blocks =
            (0..self.shape.layers).map(|layer| Ok(Box::new(self.block(params, layer)?) as Box<dyn Block>));
        let tokens_vd = base.get("embed_tokens.weight")?;
        let head = if self.shape.tied { tokens_vd.shallow_clone() } else { params.get(NAMING.head)? };
        Ok(Parts {
            blocks: blocks.collect::<Result<_>>()?,
            embedding: Embedding {
                tokens_vd,
                positions: Some((base.get("embed_positions.weight")?, FREE_ROWS)),
                project: project("project_in")?,
            },
            finish: Finish {
                norm: self.last_norm.then(|| norm("final_layer_norm")).transpose()?,
                project: project("project_out")?,
            },
            head: Head { weight_vd: head, bias_v: None },
        })
    }
}

#[derive(Debug)]
struct OptBlock {
    norm_first: bool,
    attention_norm: Norm,
    attention: Attention,
    mlp_norm: Norm,
    mlp: Mlp,
}

impl Block for OptBlock {
    fn forward(&self, x: &Tensor, sight: &Sight, cache: Option<&mut LayerCache>) -> Result<Tensor> {
        if self.norm_first {
            let x = sight.add(x, &self.attention.forward(&self.attention_norm.forward(x)?, sight, cache)?)?;
            return sight.add(&x, &self.mlp.forward(&self.mlp_norm.forward(&x)?)?);
        }
        let x = self.attention_norm.forward(&sight.add(x, &self.attention.forward(x, sight, cache)?)?)?;
        self.mlp_norm.forward(&sight.add(&x, &self.mlp.forward(&x)?)?)
    }

    fn share(&self) -> Box<dyn Block> {
        Box::new(OptBlock {
            norm_first: self.norm_first,
            attention_norm: self.attention_norm.share(),
            attention: self.attention.share(),
            mlp_norm: self.mlp_norm.share(),
            mlp: self.mlp.share(),
        })
    }
}
