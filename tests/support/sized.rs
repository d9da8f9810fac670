//! Small models of random weights in sizes as real models have them: multiples of eight throughout.

use retort::model::{CausalLm, read_design};
use retort::seed::{Stream, uniform};
use retort::weights::Params;
use serde_json::json;
use tch::{Device, Kind, Tensor};

/// A model of this type.
pub fn model(kind: &str) -> CausalLm {
    let llama = |kind: &str| {
        json!({
            "model_type": kind, "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6,
            "num_key_value_heads": 2, "intermediate_size": 160, "vocab_size": 72,
            "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu", "head_dim": 16,
            "rope_theta": 100.0, "sliding_window": if kind == "mistral" { Some(7) } else { None },
            "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2,
        })
    };
    let config = match kind {
        "gpt2" => json!({
            "model_type": kind, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64, "vocab_size": 72,
            "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new", "bos_token_id": 1, "eos_token_id": 2,
        }),
        "gpt_neox" => json!({
            "model_type": kind, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
            "intermediate_size": 128, "vocab_size": 72, "max_position_embeddings": 64, "rotary_pct": 0.5,
            "rotary_emb_base": 100.0, "layer_norm_eps": 1e-5, "hidden_act": "gelu",
            "use_parallel_residual": true, "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2,
        }),
        llamas => llama(llamas),
    };
    let dir = tempfile::tempdir().unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test makes its own files")]
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let design = read_design(dir.path()).unwrap();
    // Wide enough that tokens differ by more than rounding.
    let weights = design.specs().into_iter().enumerate().map(|(n, spec)| {
        let numbers = (0..spec.numel() as u64).map(|i| uniform(n as u64, Stream::Weights, 0, i) as f32 - 0.5);
        let (scale, shift) = match spec.shape.len() {
            1 if spec.name.ends_with(".weight") => (0.5, 1.0),
            1 => (0.2, 0.0),
            _ => (0.6, 0.0),
        };
        let numbers: Vec<f32> = numbers.map(|x| scale * x + shift).collect();
        (spec.name.clone(), Tensor::from_slice(&numbers).view(spec.shape.as_slice()))
    });
    let params = Params::trained(weights.collect(), Kind::Float).unwrap();
    CausalLm::new(design, params, Kind::Float, Device::Cpu).unwrap()
}
