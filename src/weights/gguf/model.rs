//! ggml's tensors -> transformers' names, shapes and layout, each checked against the sizes.

use std::collections::HashMap;
use std::io::Write;

use half::{bf16, f16};

use super::dequant::{Kind, dequantise};
use super::file::{Gguf, Tensor};
use super::metadata::{Family, Hyper};
use super::rope;
use crate::error::{Error, Result};
use crate::store::WriteError;
use crate::weights::save::{Dtype, Entry};

/// Numbers that are turned and written at a time.
const CHUNK: usize = 1 << 22;

/// What has to be done to a tensor's layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing.
    Keep,
    /// llama.cpp interleaves the two halves of each of this many heads; take them apart again.
    Heads(usize),
    /// GPT-2 keeps its linear layers as inputs x outputs (Conv1D), GGUF the other way round.
    Transpose,
}

/// A tensor to be written, and where it comes from.
#[derive(Debug)]
pub(super) struct Planned<'a> {
    pub entry: Entry,
    pub source: &'a Tensor,
    pub turn: Turn,
}

/// A name in the file, the name written, the written shape and the way there.
type Row = (String, String, Vec<usize>, Turn);

/// Matches the file's tensors with those that the sizes ask for: none missing, none left over.
pub(super) fn plan<'a>(gguf: &'a Gguf, hyper: &Hyper) -> Result<Vec<Planned<'a>>> {
    let mut left: HashMap<&str, &Tensor> = gguf.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut planned = Vec::new();
    for (name, written, shape, turn) in wanted(hyper) {
        let source = left
            .remove(name.as_str())
            .ok_or_else(|| Error::data("a tensor is missing").file(&gguf.path).field(&name))?;
        let mut stored = shape.clone();
        if turn == Turn::Transpose {
            stored.reverse();
        }
        if source.shape != stored {
            return Err(Error::data("wrong shape of a tensor")
                .file(&gguf.path)
                .field(&name)
                .expected(format!("{stored:?}"))
                .found(format!("{:?}", source.shape)));
        }
        planned.push(Planned { entry: Entry { name: written, shape }, source, turn });
    }
    // Read into the config, or buffers that follow from it.
    left.retain(|name, _| {
        let derived = *name == rope::FACTORS && hyper.family != Family::Gpt2;
        let copy = *name == "output.weight" && hyper.tied;
        !(derived || copy || name.ends_with(".attn_rot_embd.weight"))
    });
    match left.into_keys().min() {
        Some(name) => {
            Err(Error::data("a tensor that the architecture does not have").file(&gguf.path).field(name))
        }
        None => Ok(planned),
    }
}

fn wanted(h: &Hyper) -> Vec<Row> {
    let keep = |a: &str, b: &str, shape: &[usize]| (a.to_string(), b.to_string(), shape.to_vec(), Turn::Keep);
    let mut rows = Vec::new();
    if h.family == Family::Gpt2 {
        rows.push(keep("token_embd.weight", "transformer.wte.weight", &[h.vocab, h.hidden]));
        rows.push(keep("position_embd.weight", "transformer.wpe.weight", &[h.context, h.hidden]));
        (0..h.layers).for_each(|n| gpt2_layer(h, n, &mut rows));
        rows.push(keep("output_norm.weight", "transformer.ln_f.weight", &[h.hidden]));
        rows.push(keep("output_norm.bias", "transformer.ln_f.bias", &[h.hidden]));
    } else {
        rows.push(keep("token_embd.weight", "model.embed_tokens.weight", &[h.vocab, h.hidden]));
        (0..h.layers).for_each(|n| llama_layer(h, n, &mut rows));
        rows.push(keep("output_norm.weight", "model.norm.weight", &[h.hidden]));
    }
    if !h.tied {
        rows.push(keep("output.weight", "lm_head.weight", &[h.vocab, h.hidden]));
    }
    rows
}

fn llama_layer(h: &Hyper, n: usize, rows: &mut Vec<Row>) {
    let (q, kv) = (h.heads * h.head_dim, h.kv_heads * h.head_dim);
    let turn = |heads| if h.family == Family::Llama { Turn::Heads(heads) } else { Turn::Keep };
    let mut add = |a: &str, b: &str, shape: Vec<usize>, turn| {
        rows.push((format!("blk.{n}.{a}"), format!("model.layers.{n}.{b}"), shape, turn));
    };
    add("attn_norm.weight", "input_layernorm.weight", vec![h.hidden], Turn::Keep);
    let attention = [
        ("attn_q", "q_proj", q, h.hidden, turn(h.heads)),
        ("attn_k", "k_proj", kv, h.hidden, turn(h.kv_heads)),
        ("attn_v", "v_proj", kv, h.hidden, Turn::Keep),
        ("attn_output", "o_proj", h.hidden, q, Turn::Keep),
    ];
    for (a, b, out, inputs, turn) in attention {
        add(&format!("{a}.weight"), &format!("self_attn.{b}.weight"), vec![out, inputs], turn);
        let biased = match h.family {
            Family::Llama => h.biased,
            Family::Qwen2 => b != "o_proj",
            _ => false,
        };
        if biased {
            add(&format!("{a}.bias"), &format!("self_attn.{b}.bias"), vec![out], turn);
        }
    }
    if h.family == Family::Qwen3 {
        add("attn_q_norm.weight", "self_attn.q_norm.weight", vec![h.head_dim], Turn::Keep);
        add("attn_k_norm.weight", "self_attn.k_norm.weight", vec![h.head_dim], Turn::Keep);
    }
    add("ffn_norm.weight", "post_attention_layernorm.weight", vec![h.hidden], Turn::Keep);
    add("ffn_gate.weight", "mlp.gate_proj.weight", vec![h.ffn, h.hidden], Turn::Keep);
    add("ffn_up.weight", "mlp.up_proj.weight", vec![h.ffn, h.hidden], Turn::Keep);
    add("ffn_down.weight", "mlp.down_proj.weight", vec![h.hidden, h.ffn], Turn::Keep);
}

fn gpt2_layer(h: &Hyper, n: usize, rows: &mut Vec<Row>) {
    let mut add = |a: &str, b: &str, shape: &[usize], turn| {
        rows.push((format!("blk.{n}.{a}"), format!("transformer.h.{n}.{b}"), shape.to_vec(), turn));
    };
    for (a, b) in [("attn_norm", "ln_1"), ("ffn_norm", "ln_2")] {
        add(&format!("{a}.weight"), &format!("{b}.weight"), &[h.hidden], Turn::Keep);
        add(&format!("{a}.bias"), &format!("{b}.bias"), &[h.hidden], Turn::Keep);
    }
    let linear = [
        ("attn_qkv", "attn.c_attn", h.hidden, 3 * h.hidden),
        ("attn_output", "attn.c_proj", h.hidden, h.hidden),
        ("ffn_up", "mlp.c_fc", h.hidden, h.ffn),
        ("ffn_down", "mlp.c_proj", h.ffn, h.hidden),
    ];
    for (a, b, inputs, out) in linear {
        add(&format!("{a}.weight"), &format!("{b}.weight"), &[inputs, out], Turn::Transpose);
        add(&format!("{a}.bias"), &format!("{b}.bias"), &[out], Turn::Keep);
    }
}

impl Planned<'_> {
    /// Writes the tensor's numbers, little-endian; only a transposed tensor is held as a whole.
    pub fn write(&self, gguf: &Gguf, dtype: Dtype, w: &mut dyn Write) -> Result<(), WriteError> {
        let bytes = gguf.bytes(self.source);
        // A vector is a row, except that its heads are turned number by number.
        let (rows, row) = match (self.source.shape.as_slice(), self.turn) {
            ([n], Turn::Heads(_)) => (*n, 1),
            ([n], _) => (1, *n),
            (shape, _) => (shape[0], shape[1..].iter().product()),
        };
        let (numbers, size) = self.source.kind.block();
        if row % numbers != 0 {
            return Err(Error::data("a vector in blocks cannot be turned").field(&self.source.name).into());
        }
        if self.turn == Turn::Transpose {
            let mut all = vec![0.0; rows * row];
            dequantise(self.source.kind, bytes, &mut all)?;
            let turned: Vec<f32> = (0..row).flat_map(|c| all.iter().skip(c).step_by(row).copied()).collect();
            drop(all);
            return turned.chunks(CHUNK).try_for_each(|part| self.put(gguf, part, dtype, w));
        }
        let stored = row / numbers * size;
        let at_once = (CHUNK / row).clamp(1, rows);
        let mut picked = Vec::new();
        let mut out = vec![0.0; at_once * row];
        for first in (0..rows).step_by(at_once) {
            let count = at_once.min(rows - first);
            let source = match self.turn {
                Turn::Heads(heads) => {
                    picked.clear();
                    for r in first..first + count {
                        let from = interleaved(r, rows / heads) * stored;
                        picked.extend_from_slice(&bytes[from..from + stored]);
                    }
                    picked.as_slice()
                }
                _ => &bytes[first * stored..(first + count) * stored],
            };
            let out = &mut out[..count * row];
            dequantise(self.source.kind, source, out)?;
            self.put(gguf, out, dtype, w)?;
        }
        Ok(())
    }

    /// Writes numbers that are finite, also in `dtype`.
    fn put(&self, gguf: &Gguf, numbers: &[f32], dtype: Dtype, w: &mut dyn Write) -> Result<(), WriteError> {
        let refuse =
            |what: &str, x: f32| Error::data(what).file(&gguf.path).field(&self.source.name).found(x);
        if let Some(&x) = numbers.iter().find(|x| !x.is_finite()) {
            return Err(refuse("a weight is not finite", x).into());
        }
        let mut bytes = Vec::with_capacity(numbers.len() * dtype.size() as usize);
        for &x in numbers {
            let finite = match dtype {
                Dtype::F32 => {
                    bytes.extend_from_slice(&x.to_le_bytes());
                    true
                }
                Dtype::F16 => {
                    let y = f16::from_f32(x);
                    bytes.extend_from_slice(&y.to_le_bytes());
                    y.is_finite()
                }
                Dtype::BF16 => {
                    let y = bf16::from_f32(x);
                    bytes.extend_from_slice(&y.to_le_bytes());
                    y.is_finite()
                }
            };
            if !finite {
                let e = refuse("a weight is too large for the chosen dtype", x);
                return Err(e.advice("use --dtype f32").into());
            }
        }
        Ok(w.write_all(&bytes)?)
    }
}

/// Where row `r` stands in the file: of a head of `dim` rows, row `h * dim/2 + i` (half h) is at `2i + h`.
fn interleaved(r: usize, dim: usize) -> usize {
    let (head, within) = (r / dim, r % dim);
    let (half, i) = (within / (dim / 2), within % (dim / 2));
    head * dim + 2 * i + half
}

/// How many tensors there are of each kind, most first.
pub(super) fn kinds(gguf: &Gguf) -> Vec<(Kind, usize)> {
    let mut counts: HashMap<Kind, usize> = HashMap::new();
    gguf.tensors.iter().for_each(|t| *counts.entry(t.kind).or_default() += 1);
    let mut all: Vec<_> = counts.into_iter().collect();
    all.sort_by_key(|&(kind, n)| (std::cmp::Reverse(n), kind));
    all
}
