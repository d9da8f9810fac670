//! Small whole files through `import`, and a real one where it is given.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::writer::{T, V, Writer, gpt2, llama, qwen2, sentencepiece};
use crate::weights::gguf::{Imported, import};
use crate::weights::save::Dtype;

struct Out {
    dir: tempfile::TempDir,
    imported: Imported,
}

fn run(w: &Writer) -> Out {
    let dir = tempfile::tempdir().unwrap();
    let imported = import(&w.save(dir.path()), &dir.path().join("out"), Dtype::F32, "a test").unwrap();
    Out { dir, imported }
}

impl Out {
    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join("out").join(name)).unwrap()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.text(name)).unwrap()
    }

    fn tokenizer(&self) -> Tokenizer {
        Tokenizer::from_file(self.dir.path().join("out/tokenizer.json")).unwrap()
    }

    fn tensors(&self) -> HashMap<String, (Vec<usize>, Vec<f32>)> {
        let bytes = std::fs::read(self.dir.path().join("out/model.safetensors")).unwrap();
        let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let numbers =
            |b: &[u8]| b.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        all.tensors().into_iter().map(|(n, t)| (n, (t.shape().to_vec(), numbers(t.data())))).collect()
    }
}

fn numbers(t: &T) -> Vec<f32> {
    t.data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn gguf_llama_rows_of_queries_and_keys_are_taken_apart() {
    let mut w = llama("llama");
    let out = run(&w);
    let tensors = out.tensors();
    assert_eq!(tensors.len(), 11);
    let (shape, q) = &tensors["model.layers.0.self_attn.q_proj.weight"];
    assert_eq!(shape, &[16, 8]);
    let stored = numbers(w.get("blk.0.attn_q.weight"));
    for (row, from) in [(0, 0), (1, 2), (2, 1), (3, 3), (4, 4), (5, 6), (14, 13)] {
        assert_eq!(q[row * 8..row * 8 + 8], stored[from * 8..from * 8 + 8], "row {row}");
    }
    assert_eq!(tensors["model.layers.0.self_attn.v_proj.weight"].1, numbers(w.get("blk.0.attn_v.weight")));
    let config = out.json("config.json");
    let expected = json!({"model_type": "llama", "hidden_size": 8, "num_key_value_heads": 2, "head_dim": 4,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true, "eos_token_id": 5});
    expected.as_object().unwrap().iter().for_each(|(k, v)| assert_eq!(&config[k], v, "{k}"));
    assert_eq!(out.json("tokenizer_config.json")["tokenizer_class"], "PreTrainedTokenizerFast");
    assert!(out.imported.tied && out.imported.tokens == 6 && out.imported.params == 600);
}

#[test]
fn gguf_qwen2_keeps_its_rows_and_its_biases() {
    let mut w = qwen2();
    w.tensor("output.weight", &[6, 8]);
    let out = run(&w);
    let tensors = out.tensors();
    assert_eq!(tensors["model.layers.0.self_attn.q_proj.weight"].1, numbers(w.get("blk.0.attn_q.weight")));
    assert_eq!(tensors["model.layers.0.self_attn.k_proj.bias"].1, numbers(w.get("blk.0.attn_k.bias")));
    assert!(tensors.contains_key("lm_head.weight") && !out.imported.tied);
    assert_eq!(out.json("config.json")["architectures"], json!(["Qwen2ForCausalLM"]));
}

#[test]
fn gguf_gpt2_linear_layers_are_turned_and_a_copied_head_is_tied() {
    let mut w = gpt2();
    w.tensor("output.weight", &[6, 4]);
    w.get("output.weight").data = w.get("token_embd.weight").data.clone();
    let out = run(&w);
    let tensors = out.tensors();
    let (shape, fc) = &tensors["transformer.h.0.mlp.c_fc.weight"];
    assert_eq!(shape, &[4, 16]);
    let stored = numbers(w.get("blk.0.ffn_up.weight"));
    for (i, x) in fc.iter().enumerate() {
        assert_eq!(*x, stored[i % 16 * 4 + i / 16]);
    }
    assert!(out.imported.tied && !tensors.contains_key("lm_head.weight"));
}

#[test]
fn gguf_stretched_rotary_embeddings_are_recognised() {
    let mut w = llama("llama");
    w.set("llama.rope.scaling.type", V::Str("linear".into()));
    w.set("llama.rope.scaling.factor", V::F32(2.5));
    let config = run(&w).json("config.json");
    assert_eq!(
        config["rope_parameters"],
        json!({"rope_type": "linear", "factor": 2.5, "rope_theta": 10000.0})
    );
    // Llama 3.2's factors: theta 500,000, heads of 64, factor 32, 8,192 positions.
    let mut w = llama("llama");
    w.set("llama.rope.freq_base", V::F32(500_000.0));
    w.set("llama.attention.key_length", V::U32(64));
    w.set("llama.attention.value_length", V::U32(64));
    w.tensors.retain(|t| !t.name.contains("attn_") || t.name.contains("norm"));
    for (name, shape) in [("q", [256, 8]), ("k", [128, 8]), ("v", [128, 8]), ("output", [8, 256])] {
        w.tensor(&format!("blk.0.attn_{name}.weight"), &shape);
    }
    w.tensor("rope_freqs.weight", &[32]);
    let factor = |i: i32| {
        let wavelength = 2.0 * std::f64::consts::PI * 500_000_f64.powf(f64::from(i) / 32.0);
        let smooth = ((8192.0 / wavelength - 1.0) / 3.0).clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / 32.0 + smooth)
    };
    w.get("rope_freqs.weight").data = (0..32).flat_map(|i| (factor(i) as f32).to_le_bytes()).collect();
    let scaling = run(&w).json("config.json")["rope_scaling"].clone();
    assert_eq!(scaling["rope_type"], "llama3");
    assert_eq!(
        (&scaling["factor"], &scaling["original_max_position_embeddings"]),
        (&json!(32.0), &json!(8192))
    );
}

#[test]
fn gguf_sentencepiece_merges_come_from_the_scores() {
    let out = run(&sentencepiece());
    let model = out.json("tokenizer.json")["model"].clone();
    assert_eq!(model["merges"], json!([["a", "b"], ["ab", "a"]]));
    let tokenizer = out.tokenizer();
    assert_eq!(tokenizer.encode("aba", true).unwrap().get_ids(), [1, 0, 5], "BOS, the unknown space, aba");
    assert_eq!(tokenizer.encode("aba", false).unwrap().get_ids(), [0, 5]);
}

#[test]
fn gguf_byte_level_tokenizers_split_as_their_name_says() {
    let mut w = llama("llama");
    let vocabulary = ["a", "b", "1", "11", "aa", "<end>"].map(String::from);
    w.set("tokenizer.ggml.tokens", V::Strs(vocabulary.to_vec()));
    w.set("tokenizer.ggml.merges", V::Strs(vec!["1 1".into(), "a a".into()]));
    for (pre, expected) in [
        ("smollm", [2, 2, 2, 5].as_slice()),
        ("gpt-2", &[3, 2, 5]),
        ("llama-bpe", &[5, 3, 2, 5]),
        ("qwen2", &[2, 2, 2, 5]),
    ] {
        w.set("tokenizer.ggml.pre", V::Str(pre.into()));
        let ids = run(&w).tokenizer().encode("111<end>", true).unwrap().get_ids().to_vec();
        assert_eq!(ids, expected, "{pre}");
    }
}

#[test]
fn gguf_padding_tokens_are_not_tokens() {
    let mut w = llama("llama");
    w.set("tokenizer.ggml.token_type", V::I32s(vec![1, 1, 1, 3, 5, 5]));
    w.set("tokenizer.ggml.merges", V::Strs(vec![]));
    w.set("tokenizer.ggml.eos_token_id", V::U32(3));
    w.set("tokenizer.ggml.bos_token_id", V::U32(3));
    let out = run(&w);
    assert_eq!((out.imported.tokens, out.tokenizer().get_vocab_size(true)), (4, 4));
    assert_eq!(out.json("config.json")["vocab_size"], 6);
}

#[test]
fn gguf_card_cannot_be_broken_out_of() {
    let mut w = llama("llama");
    w.set("general.license", V::Str("x\"\n---\n# owned <script>".into()));
    let card = run(&w).text("README.md");
    assert_eq!(card.lines().filter(|l| *l == "---").count(), 2, "{card}");
    assert!(!card.contains('<'), "{card}");
}

#[test]
fn gguf_weights_are_written_in_the_dtype_asked_for() {
    let mut w = llama("llama");
    w.get("output_norm.weight").data[..4].copy_from_slice(&70_000_f32.to_le_bytes());
    let dir = tempfile::tempdir().unwrap();
    let path = w.save(dir.path());
    let e = import(&path, &dir.path().join("f16"), Dtype::F16, "a test").unwrap_err();
    assert!(e.to_string().contains("output_norm.weight") && !dir.path().join("f16").exists(), "{e}");
    let out = dir.path().join("bf16");
    import(&path, &out, Dtype::BF16, "a test").unwrap();
    let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let norm = all.tensor("model.norm.weight").unwrap();
    assert_eq!((norm.dtype(), &norm.data()[..2]), (safetensors::Dtype::BF16, &[0x89, 0x47][..]));
}

/// `RETORT_GGUF=model.gguf RETORT_OUT=folder cargo test --release --lib -- --ignored real_gguf`
#[test]
#[ignore = "needs a real file; tests/golden/check_smollm2.py compares what it writes"]
fn real_gguf() {
    let var = |name: &str| std::env::var(name).unwrap();
    let start = std::time::Instant::now();
    let imported =
        import(Path::new(&var("RETORT_GGUF")), Path::new(&var("RETORT_OUT")), Dtype::F32, "a test").unwrap();
    println!("{imported:?} in {:.2} s", start.elapsed().as_secs_f64());
}
