//! Writes small GGUF files, valid and not.

use std::path::{Path, PathBuf};

/// A metadata value.
#[derive(Debug, Clone)]
pub enum V {
    U32(u32),
    I32(i32),
    U64(u64),
    F32(f32),
    Bool(u8),
    Str(String),
    Strs(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    /// A type id and bytes, as they are.
    Raw(u32, Vec<u8>),
}

/// A tensor as the file describes it.
#[derive(Debug, Clone)]
pub struct T {
    pub name: String,
    /// In the file's order, the innermost dimension first.
    pub dims: Vec<u64>,
    pub kind: u32,
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

/// A file to be.
#[derive(Debug, Clone)]
pub struct Writer {
    pub version: u32,
    pub n_tensors: Option<u64>,
    pub n_values: Option<u64>,
    pub values: Vec<(String, V)>,
    pub tensors: Vec<T>,
}

fn text(out: &mut Vec<u8>, s: &[u8]) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s);
}

impl V {
    fn write(&self, out: &mut Vec<u8>) {
        let mut head = |id: u32| out.extend(id.to_le_bytes());
        let array = |out: &mut Vec<u8>, id: u32, n: usize| {
            out.extend(9_u32.to_le_bytes());
            out.extend(id.to_le_bytes());
            out.extend((n as u64).to_le_bytes());
        };
        match self {
            V::U32(x) => (head(4), out.extend(x.to_le_bytes())).1,
            V::I32(x) => (head(5), out.extend(x.to_le_bytes())).1,
            V::U64(x) => (head(10), out.extend(x.to_le_bytes())).1,
            V::F32(x) => (head(6), out.extend(x.to_le_bytes())).1,
            V::Bool(x) => (head(7), out.push(*x)).1,
            V::Str(x) => (head(8), text(out, x.as_bytes())).1,
            V::Strs(all) => {
                array(out, 8, all.len());
                all.iter().for_each(|s| text(out, s.as_bytes()));
            }
            V::I32s(all) => {
                array(out, 5, all.len());
                all.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
            V::F32s(all) => {
                array(out, 6, all.len());
                all.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
            V::Raw(id, bytes) => (head(*id), out.extend(bytes)).1,
        }
    }
}

impl Writer {
    pub fn new(arch: &str) -> Self {
        let mut w = Writer { version: 3, n_tensors: None, n_values: None, values: vec![], tensors: vec![] };
        w.set("general.architecture", V::Str(arch.into()));
        w
    }

    /// Sets a key, or sets it anew.
    pub fn set(&mut self, key: &str, value: V) {
        self.unset(key);
        self.values.push((key.into(), value));
    }

    pub fn unset(&mut self, key: &str) {
        self.values.retain(|(k, _)| k != key);
    }

    /// A float32 tensor of a shape in Hugging Face's order; its numbers count up by thousandths.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) {
        let n: usize = shape.iter().product();
        let base = self.tensors.len() as f32;
        let data = (0..n).flat_map(|i| (base + i as f32 / 1024.0).to_le_bytes()).collect();
        let dims = shape.iter().rev().map(|&d| d as u64).collect();
        self.tensors.push(T { name: name.into(), dims, kind: 0, offset: None, data });
    }

    pub fn get(&mut self, name: &str) -> &mut T {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_values.unwrap_or(self.values.len() as u64).to_le_bytes());
        for (key, value) in &self.values {
            text(&mut out, key.as_bytes());
            value.write(&mut out);
        }
        let mut at = 0;
        for t in &self.tensors {
            text(&mut out, t.name.as_bytes());
            out.extend((t.dims.len() as u32).to_le_bytes());
            t.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(t.kind.to_le_bytes());
            out.extend(t.offset.unwrap_or(at).to_le_bytes());
            at += t.data.len().next_multiple_of(32) as u64;
        }
        for t in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&t.data);
        }
        out
    }

    pub fn save(&self, dir: &Path) -> PathBuf {
        let path = dir.join("model.gguf");
        std::fs::write(&path, self.bytes()).unwrap();
        path
    }
}

/// Numbers of an architecture, as GGUF names them.
fn sizes(w: &mut Writer, arch: &str, all: &[(&str, u32)]) {
    all.iter().for_each(|(key, n)| w.set(&format!("{arch}.{key}"), V::U32(*n)));
}

fn strings(all: &[&str]) -> V {
    V::Strs(all.iter().map(|s| s.to_string()).collect())
}

/// Byte-level tokens `a b c ab abc <end>`, the last one control.
fn byte_level(w: &mut Writer, pre: &str) {
    w.set("tokenizer.ggml.model", V::Str("gpt2".into()));
    w.set("tokenizer.ggml.pre", V::Str(pre.into()));
    w.set("tokenizer.ggml.tokens", strings(&["a", "b", "c", "ab", "abc", "<end>"]));
    w.set("tokenizer.ggml.token_type", V::I32s(vec![1, 1, 1, 1, 1, 3]));
    w.set("tokenizer.ggml.merges", strings(&["a b", "ab c"]));
    w.set("tokenizer.ggml.eos_token_id", V::U32(5));
    w.set("tokenizer.ggml.bos_token_id", V::U32(5));
}

/// A llama-like model of one layer: hidden 8, 4 heads of 4 with 2 of keys, FFN 6, 6 tokens.
pub fn llama(arch: &str) -> Writer {
    let mut w = Writer::new(arch);
    let all =
        [("block_count", 1), ("context_length", 16), ("embedding_length", 8), ("feed_forward_length", 6)];
    sizes(&mut w, arch, &all);
    let all = [("head_count", 4), ("head_count_kv", 2), ("key_length", 4), ("value_length", 4)];
    sizes(&mut w, &format!("{arch}.attention"), &all);
    w.set(&format!("{arch}.attention.layer_norm_rms_epsilon"), V::F32(1e-5));
    w.set(&format!("{arch}.rope.freq_base"), V::F32(10_000.0));
    byte_level(&mut w, "smollm");
    w.tensor("token_embd.weight", &[6, 8]);
    w.tensor("output_norm.weight", &[8]);
    let layer: [(&str, &[usize]); 9] = [
        ("attn_norm", &[8]),
        ("attn_q", &[16, 8]),
        ("attn_k", &[8, 8]),
        ("attn_v", &[8, 8]),
        ("attn_output", &[8, 16]),
        ("ffn_norm", &[8]),
        ("ffn_gate", &[6, 8]),
        ("ffn_up", &[6, 8]),
        ("ffn_down", &[8, 6]),
    ];
    layer.iter().for_each(|(name, shape)| w.tensor(&format!("blk.0.{name}.weight"), shape));
    w
}

/// A qwen2: the llama with biases on queries, keys and values.
pub fn qwen2() -> Writer {
    let mut w = llama("qwen2");
    w.set("tokenizer.ggml.pre", V::Str("qwen2".into()));
    w.tensor("blk.0.attn_q.bias", &[16]);
    w.tensor("blk.0.attn_k.bias", &[8]);
    w.tensor("blk.0.attn_v.bias", &[8]);
    w
}

/// A gpt2 of one layer: hidden 4, 2 heads, FFN 16, 6 tokens, 8 positions.
pub fn gpt2() -> Writer {
    let mut w = Writer::new("gpt2");
    let all =
        [("block_count", 1), ("context_length", 8), ("embedding_length", 4), ("feed_forward_length", 16)];
    sizes(&mut w, "gpt2", &all);
    sizes(&mut w, "gpt2.attention", &[("head_count", 2)]);
    w.set("gpt2.attention.layer_norm_epsilon", V::F32(1e-5));
    byte_level(&mut w, "gpt-2");
    w.tensor("token_embd.weight", &[6, 4]);
    w.tensor("position_embd.weight", &[8, 4]);
    for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
        w.tensor(&format!("{name}.weight"), &[4]);
        w.tensor(&format!("{name}.bias"), &[4]);
    }
    for (name, out, inputs) in
        [("attn_qkv", 12, 4), ("attn_output", 4, 4), ("ffn_up", 16, 4), ("ffn_down", 4, 16)]
    {
        w.tensor(&format!("blk.0.{name}.weight"), &[out, inputs]);
        w.tensor(&format!("blk.0.{name}.bias"), &[out]);
    }
    w
}

/// The llama with a SentencePiece vocabulary of six.
pub fn sentencepiece() -> Writer {
    let mut w = llama("llama");
    w.set("tokenizer.ggml.model", V::Str("llama".into()));
    w.set("tokenizer.ggml.tokens", strings(&["<unk>", "<s>", "a", "b", "ab", "aba"]));
    w.set("tokenizer.ggml.token_type", V::I32s(vec![2, 3, 1, 1, 1, 1]));
    w.set("tokenizer.ggml.scores", V::F32s(vec![0.0, 0.0, -3.0, -4.0, -1.0, -2.0]));
    w.set("tokenizer.ggml.bos_token_id", V::U32(1));
    w.set("tokenizer.ggml.eos_token_id", V::U32(1));
    w.set("tokenizer.ggml.unknown_token_id", V::U32(0));
    w
}
