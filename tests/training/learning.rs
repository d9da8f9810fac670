//! That training learns what it is there for.

use serde_json::json;

use crate::support::fixture;
use crate::{Case, losses};

/// A student of random weights with the small llama's tokenizer.
pub fn student(case: &Case, name: &str, hidden: i64, layers: i64) -> String {
    let folder = case.path(name);
    std::fs::create_dir_all(&folder).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 2 * hidden, "vocab_size": 320, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true, "eos_token_id": 2, "pad_token_id": 0,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture("score/llama").join(file), folder.join(file)).unwrap();
    }
    let path = folder.join("config.json").display().to_string();
    format!("student.model={{ config = {path:?} }}")
}

/// Thirty-two rows are learnt by heart.
#[test]
fn thirty_two_rows_are_learnt_by_heart() {
    let dir = tempfile::tempdir().unwrap();
    let rows = dir.path().join("rows.jsonl");
    let words = ["vessel", "neck", "glass", "fire", "salt", "water", "oil", "stone"];
    let row = |n: usize| {
        let (a, b) = (words[n % 8], words[n / 8 * 3 % 8]);
        json!({"prompt": format!("{n} {a}?"), "response": format!(" {b} and {a}, {}", n * 7 % 32)})
            .to_string()
    };
    std::fs::write(&rows, (0..32).map(|n| row(n) + "\n").collect::<String>()).unwrap();
    let case = Case::new("sft", &rows);
    let student = student(&case, "student", 64, 2);
    let settings =
        [student.as_str(), "train.steps=200", "train.batch=32", "train.lr=1e-2", "train.warmup=10"];
    case.good("run", &settings, &[]);
    let losses = losses(&case.metrics("run"));
    assert!(losses[0] > 4.0, "it begins at {}", losses[0]);
    assert!(losses[199] < 0.02, "it ends at {}", losses[199]);
}
