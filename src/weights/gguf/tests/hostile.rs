//! Broken files, each made from a small valid one: each is an error about data, none a panic, none
//! costs memory that the file does not have.

use std::path::Path;

use super::writer::{V, Writer, gpt2, llama, qwen2, sentencepiece};
use crate::error::{Cause, Error};
use crate::weights::gguf::import;
use crate::weights::save::Dtype;

fn outcome(bytes: &[u8]) -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    let result = import(&path, &dir.path().join("out"), Dtype::F32, "a test").map(|_| ());
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    let expected = 1 + usize::from(result.is_ok());
    assert_eq!(left.len(), expected, "half a folder is left: {left:?}");
    result
}

/// The file is refused as bad data, in a line that says this.
fn refused(name: &str, bytes: &[u8], says: &str) {
    let e = outcome(bytes).expect_err(name);
    assert_eq!(e.cause(), Cause::Data, "{name}: {e}");
    assert!(e.to_string().contains(says), "{name}: {e}");
    assert!(e.to_string().contains("model.gguf"), "{name}: no file in {e}");
}

/// Changes a valid file and expects it to be refused.
fn broken(name: &str, base: fn() -> Writer, change: impl FnOnce(&mut Writer), says: &str) {
    let mut w = base();
    assert!(outcome(&w.bytes()).is_ok(), "{name}: the file is bad before the change");
    change(&mut w);
    refused(name, &w.bytes(), says);
}

fn base() -> Writer {
    llama("llama")
}

fn raw_array(of: u32, count: u64, body: &[u8]) -> V {
    V::Raw(9, [&of.to_le_bytes()[..], &count.to_le_bytes(), body].concat())
}

#[test]
fn gguf_cut_short_anywhere_is_refused() {
    let bytes = base().bytes();
    for at in (0..bytes.len()).step_by(7).chain([0, 1, 4, 8, 16, 24, bytes.len() - 1]) {
        refused(&format!("cut at {at}"), &bytes[..at], "");
    }
}

#[test]
fn gguf_with_any_byte_changed_never_panics() {
    let bytes = base().bytes();
    for at in 0..bytes.len().min(1800) {
        let flip = [0x01, 0x80, 0xff][at % 3];
        let mut changed = bytes.clone();
        changed[at] ^= flip;
        if let Err(e) = outcome(&changed) {
            assert_eq!(e.cause(), Cause::Data, "byte {at} ^ {flip:#x}: {e}");
        }
    }
}

#[test]
fn gguf_headers_that_lie() {
    let mut bytes = base().bytes();
    bytes[0] = b'X';
    refused("magic", &bytes, "GGUF");
    broken("version 1", base, |w| w.version = 1, "version 1");
    broken("version 4", base, |w| w.version = 4, "version 4");
    broken("big-endian", base, |w| w.version = 3 << 24, "big-endian");
    broken("2^60 tensors", base, |w| w.n_tensors = Some(1 << 60), "larger than the file");
    broken("2^64-1 tensors", base, |w| w.n_tensors = Some(u64::MAX), "larger than the file");
    broken("one tensor more", base, |w| w.n_tensors = Some(12), "");
    broken("2^62 keys", base, |w| w.n_values = Some(1 << 62), "larger than the file");
    broken("one key more", base, |w| w.n_values = Some(w.values.len() as u64 + 1), "");
    let cut = |n: u64| V::Raw(8, [&n.to_le_bytes()[..], b"x"].concat());
    broken("a text of 2^63 bytes", base, |w| w.set("x", cut(1 << 63)), "larger than the file");
    broken("a text of 2^64-1 bytes", base, |w| w.set("x", cut(u64::MAX)), "larger than the file");
    broken("2^60 numbers", base, |w| w.set("x", raw_array(5, 1 << 60, &[])), "larger than the file");
    broken(
        "2^61 numbers of 8 bytes",
        base,
        |w| w.set("x", raw_array(10, 1 << 61, &[])),
        "larger than the file",
    );
    broken("2^60 texts", base, |w| w.set("x", raw_array(8, 1 << 60, &[])), "larger than the file");
    broken("an array of arrays", base, |w| w.set("x", raw_array(9, 1, &[0; 12])), "array inside an array");
    broken("an array of type 77", base, |w| w.set("x", raw_array(77, 1, &[0; 8])), "unknown metadata type");
    broken("a value of type 13", base, |w| w.set("x", V::Raw(13, vec![0; 8])), "unknown metadata type");
    broken("3 million flags", base, |w| w.set("x", raw_array(7, 3 << 20, &vec![0; 3 << 20])), "too long");
    broken("a key twice", base, |w| w.values.push(("llama.block_count".into(), V::U32(1))), "occurs twice");
    broken("an empty key", base, |w| w.set("", V::U32(1)), "empty");
    broken("a key of 70,000 bytes", base, |w| w.set(&"k".repeat(70_000), V::U32(1)), "too long");
    for n in [0, 3, 1 << 30] {
        broken("alignment", base, |w| w.set("general.alignment", V::U32(n)), "alignment");
    }
    broken("alignment 2^40", base, |w| w.set("general.alignment", V::U64(1 << 40)), "alignment");
    broken("alignment as text", base, |w| w.set("general.alignment", V::Str("32".into())), "alignment");
    broken("alignment -32", base, |w| w.set("general.alignment", V::I32(-32)), "alignment");
    broken("a part of a split file", base, |w| w.set("split.count", V::U32(3)), "split");
}

#[test]
fn gguf_tensors_that_lie() {
    const Q: &str = "blk.0.attn_q.weight";
    broken("a product beyond 2^64", base, |w| w.get(Q).dims = vec![1 << 31, 1 << 31, 1 << 31], "too large");
    broken("a dimension of 2^63", base, |w| w.get(Q).dims = vec![1 << 63, 2], "bad dimension");
    broken("a dimension of 0", base, |w| w.get(Q).dims = vec![8, 0], "bad dimension");
    broken("no dimension", base, |w| w.get(Q).dims = vec![], "number of dimensions");
    broken("five dimensions", base, |w| w.get(Q).dims = vec![1; 5], "number of dimensions");
    broken("2^40 numbers", base, |w| w.get(Q).dims = vec![1 << 20, 1 << 20], "past the end");
    broken("type 4, long gone", base, |w| w.get(Q).kind = 4, "type 4");
    broken("type 2^32-1", base, |w| w.get(Q).kind = u32::MAX, "type 4294967295");
    broken("IQ4_XS", base, |w| w.get(Q).kind = 23, "IQ4_XS");
    broken("rows of 8 as Q4_1", base, |w| w.get(Q).kind = 3, "whole blocks");
    broken("an offset of 2^40", base, |w| w.get(Q).offset = Some(1 << 40), "past the end");
    broken("an offset of 2^64-32", base, |w| w.get(Q).offset = Some(u64::MAX - 31), "past the end");
    broken("an offset of 4", base, |w| w.get(Q).offset = Some(4), "not aligned");
    broken("two in one place", base, |w| w.get(Q).offset = Some(0), "overlap");
    broken("a name twice", base, |w| w.get(Q).name = "blk.0.attn_k.weight".into(), "occurs twice");
    broken("a name of 300 bytes", base, |w| w.get(Q).name = "q".repeat(300), "too long");
    broken("a missing tensor", base, |w| w.tensors.retain(|t| t.name != Q), "missing");
    broken("an extra tensor", base, |w| w.tensor("blk.1.attn_q.weight", &[16, 8]), "does not have");
    broken("a transposed tensor", base, |w| w.get(Q).dims.reverse(), "wrong shape");
    broken("a vector for a matrix", base, |w| w.get(Q).dims = vec![128], "wrong shape");
    for bits in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let change = |w: &mut Writer| w.get(Q).data[40..44].copy_from_slice(&bits.to_le_bytes());
        broken("a weight that is not finite", base, change, Q);
    }
    let change = |w: &mut Writer| {
        // Hidden size 32, so that an embedding row is a block; the first scale is NaN.
        w.set("llama.embedding_length", V::U32(32));
        w.tensors.clear();
        for (name, shape) in [("token_embd", vec![6, 32]), ("output_norm", vec![32])] {
            w.tensor(&format!("{name}.weight"), &shape);
        }
        let layer = [("q", [16, 32]), ("k", [8, 32]), ("v", [8, 32]), ("output", [32, 16])];
        layer.iter().for_each(|(n, s)| w.tensor(&format!("blk.0.attn_{n}.weight"), s));
        for (name, shape) in [("attn_norm", vec![32]), ("ffn_norm", vec![32]), ("ffn_gate", vec![6, 32])] {
            w.tensor(&format!("blk.0.{name}.weight"), &shape);
        }
        w.tensor("blk.0.ffn_up.weight", &[6, 32]);
        w.tensor("blk.0.ffn_down.weight", &[32, 6]);
        let t = w.get("token_embd.weight");
        (t.kind, t.data) = (8, [&[0, 0x7e][..], &vec![1; 6 * 34 - 2]].concat());
    };
    broken("a scale that is NaN", base, change, "not finite");
}

#[test]
fn gguf_metadata_that_does_not_fit() {
    let set = |key: &'static str, value: V| move |w: &mut Writer| w.set(key, value);
    let unset = |key: &'static str| move |w: &mut Writer| w.unset(key);
    broken("no architecture", base, unset("general.architecture"), "missing");
    broken("a mamba", base, set("general.architecture", V::Str("mamba".into())), "mamba");
    broken("layers as text", base, set("llama.block_count", V::Str("1".into())), "a whole number");
    broken("-1 layers", base, set("llama.block_count", V::I32(-1)), "a whole number");
    broken("0 layers", base, set("llama.block_count", V::U32(0)), "zero");
    broken("10^9 layers", base, set("llama.block_count", V::U32(1_000_000_000)), "whole number");
    broken("10^6 layers", base, set("llama.block_count", V::U32(1_000_000)), "more layers than tensors");
    broken("no layers", base, unset("llama.block_count"), "missing");
    broken("hidden size 2^40", base, set("llama.embedding_length", V::U64(1 << 40)), "whole number");
    broken("hidden size 10", base, set("llama.embedding_length", V::U32(10)), "wrong shape");
    broken("0 heads", base, set("llama.attention.head_count", V::U32(0)), "zero");
    broken("heads an array", base, set("llama.attention.head_count", V::I32s(vec![4])), "whole number");
    broken("4 heads, 3 of keys", base, set("llama.attention.head_count_kv", V::U32(3)), "do not divide");
    let change = |w: &mut Writer| {
        w.unset("llama.attention.key_length");
        w.set("llama.attention.head_count", V::U32(3));
        w.set("llama.attention.head_count_kv", V::U32(3));
    };
    broken("3 heads in 8", base, change, "do not divide");
    broken("values of 5", base, set("llama.attention.value_length", V::U32(5)), "different length");
    broken("half a rotary", base, set("llama.rope.dimension_count", V::U32(2)), "rotary");
    broken("yarn", base, set("llama.rope.scaling.type", V::Str("yarn".into())), "yarn");
    broken("linear by nothing", base, set("llama.rope.scaling.type", V::Str("linear".into())), "missing");
    broken("theta NaN", base, set("llama.rope.freq_base", V::F32(f32::NAN)), "finite");
    broken("theta -1", base, set("llama.rope.freq_base", V::F32(-1.0)), "rotary");
    broken("unruly factors", base, |w| w.tensor("rope_freqs.weight", &[2]), "no known rule");
    broken("three factors", base, |w| w.tensor("rope_freqs.weight", &[3]), "wrong shape");
    broken(
        "epsilon infinite",
        base,
        set("llama.attention.layer_norm_rms_epsilon", V::F32(f32::INFINITY)),
        "finite",
    );
    broken("experts", base, set("llama.expert_count", V::U32(8)), "expert_count");
    broken("qwen2 with a window", qwen2, set("qwen2.attention.sliding_window", V::U32(4)), "sliding window");
    broken("gpt2 with grouped heads", gpt2, set("gpt2.attention.head_count_kv", V::U32(1)), "gpt2");
}

#[test]
fn gguf_tokenizers_that_do_not_fit() {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    let set = |key: &'static str, value: V| move |w: &mut Writer| w.set(key, value);
    let unset = |key: &'static str| move |w: &mut Writer| w.unset(key);
    let strs = |all: &[&str]| V::Strs(all.iter().map(|s| s.to_string()).collect());
    broken("no tokens", base, unset(TOKENS), "missing");
    broken("an empty vocabulary", base, set(TOKENS, V::Strs(vec![])), "no tokens");
    broken("tokens as numbers", base, set(TOKENS, V::I32s(vec![1; 6])), "an array of texts");
    let seven = strs(&["a", "b", "c", "ab", "abc", "<end>", "d"]);
    let change = |w: &mut Writer| {
        w.set(TOKENS, seven);
        w.set("tokenizer.ggml.token_type", V::I32s(vec![1; 7]));
    };
    broken("a token more than rows", base, change, "wrong shape");
    broken("a vocab_size of its own", base, set("llama.vocab_size", V::U32(7)), "vocabulary sizes differ");
    broken("a token twice", base, set(TOKENS, strs(&["a", "b", "c", "ab", "abc", "a"])), "occurs twice");
    let bad = [&1_u64.to_le_bytes()[..], &[0xff]].concat().repeat(6);
    broken("tokens that are not UTF-8", base, set(TOKENS, raw_array(8, 6, &bad)), "not UTF-8");
    broken("five types", base, set("tokenizer.ggml.token_type", V::I32s(vec![1; 5])), "token types");
    broken("types as numbers", base, set("tokenizer.ggml.token_type", V::F32s(vec![1.0; 6])), "integers");
    broken("all unused", base, set("tokenizer.ggml.token_type", V::I32s(vec![5; 6])), "no tokens");
    broken("no merges", base, unset("tokenizer.ggml.merges"), "missing");
    broken("a merge of one", base, set("tokenizer.ggml.merges", strs(&["ab"])), "two tokens");
    broken(
        "a merge of strangers",
        base,
        set("tokenizer.ggml.merges", strs(&["a x"])),
        "not in the vocabulary",
    );
    broken(
        "a merge into nothing",
        base,
        set("tokenizer.ggml.merges", strs(&["b a"])),
        "not in the vocabulary",
    );
    broken("EOS 6 of 6", base, set("tokenizer.ggml.eos_token_id", V::U32(6)), "whole number");
    broken("BOS -1", base, set("tokenizer.ggml.bos_token_id", V::I32(-1)), "whole number");
    broken("an unknown split", base, set("tokenizer.ggml.pre", V::Str("viking".into())), "viking");
    broken("no split named", base, unset("tokenizer.ggml.pre"), "missing");
    broken("a unigram", base, set("tokenizer.ggml.model", V::Str("t5".into())), "t5");
    broken("no model", base, unset("tokenizer.ggml.model"), "missing");
    broken("a flag of 2", base, set("tokenizer.ggml.add_bos_token", V::Bool(2)), "a flag");
    let template = V::Raw(8, [&1_u64.to_le_bytes()[..], &[0xff]].concat());
    broken("a template that is not UTF-8", base, set("tokenizer.chat_template", template), "not UTF-8");
    let spm = sentencepiece;
    broken("five scores", spm, set("tokenizer.ggml.scores", V::F32s(vec![0.0; 5])), "as many scores");
    broken("no scores", spm, unset("tokenizer.ggml.scores"), "missing");
    broken("a score NaN", spm, set("tokenizer.ggml.scores", V::F32s(vec![f32::NAN; 6])), "numbers");
    let mut long = ["<unk>", "<s>", "a", "b", "ab"].map(String::from).to_vec();
    long.push("é".repeat(100_000));
    broken("an endless piece", spm, set(TOKENS, V::Strs(long)), "too long");
    let change = |w: &mut Writer| {
        w.set("tokenizer.ggml.add_bos_token", V::Bool(1));
        w.unset("tokenizer.ggml.bos_token_id");
    };
    broken("BOS wanted, none named", base, change, "bos_token_id");
}

#[test]
fn gguf_paths_that_are_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let cause = |path: &Path| import(path, &out, Dtype::F32, "a test").unwrap_err().cause();
    assert_eq!(cause(&dir.path().join("nothing.gguf")), Cause::User);
    assert_eq!(cause(dir.path()), Cause::User);
    std::fs::write(dir.path().join("empty"), b"").unwrap();
    assert_eq!(cause(&dir.path().join("empty")), Cause::Data);
    // A sparse file of 8 GB that claims as many empty texts as fit: refused before they are read.
    let mut bytes = base().bytes();
    bytes.truncate(24);
    bytes.extend([&1_u64.to_le_bytes()[..], b"x", &9_u32.to_le_bytes(), &8_u32.to_le_bytes()].concat());
    bytes.extend((1_u64 << 29).to_le_bytes());
    let path = dir.path().join("sparse.gguf");
    std::fs::write(&path, &bytes).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(8 << 30).unwrap();
    assert_eq!(cause(&path), Cause::Data);
}
