//! A shape to train in: a small llama without weights, with the tokenizer of the score goldens.

#![expect(clippy::disallowed_methods, reason = "tests make their own files")]

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::fixture;

/// Writes the folder, and answers its config.json, which a run may begin with.
pub fn llama(folder: &Path, hidden: i64, layers: i64) -> PathBuf {
    std::fs::create_dir_all(folder).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 2 * hidden, "vocab_size": 320, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true, "eos_token_id": 2, "pad_token_id": 0,
    });
    let path = folder.join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture("score/llama").join(file), folder.join(file)).unwrap();
    }
    path
}
