//! The model that is measured, as a float32 folder and a bfloat16 folder outside the tree.

use std::path::{Path, PathBuf};

use retort::model::read_design;
use retort::store::Folder;
use retort::weights::save::{write_json, write_tensors};
use retort::weights::{Dtype, Params, Residence, WeightFiles};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

/// A float type to measure in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Float(Dtype);

impl Float {
    /// Those that are measured.
    pub const ALL: [Float; 2] = [Float(Dtype::F32), Float(Dtype::BF16)];

    /// In a row's name.
    pub fn name(self) -> &'static str {
        if self.0 == Dtype::F32 { "f32" } else { "bf16" }
    }

    /// torch's name.
    pub fn torch_name(self) -> &'static str {
        self.0.torch_name()
    }

    /// tch's name.
    pub fn kind(self) -> Kind {
        self.0.kind()
    }
}

/// Two folders with the same model.
pub struct Folders {
    dir: tempfile::TempDir,
    /// Which model it is.
    pub what: String,
}

impl Folders {
    /// Of the folder that RETORT_BENCH_MODEL names, or of random weights in SmolLM2-135M's shape.
    pub fn make(quick: bool, shape: Llama) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let real = std::env::var_os("RETORT_BENCH_MODEL").filter(|_| !quick).map(PathBuf::from);
        let config = match &real {
            Some(folder) => {
                serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
            }
            None => config(quick, shape),
        };
        let whose = if real.is_some() { "its own weights" } else { "random weights" };
        let folders = Folders { what: describe(&config, whose), dir };
        let made: Vec<Folder> = Float::ALL.map(|f| Folder::create(folders.of(f)).unwrap()).into();
        made.iter().for_each(|f| write_json(f, "config.json", &config).unwrap());
        let tensors = tensors(real.as_deref(), made[0].root());
        for (folder, float) in made.iter().zip(Float::ALL) {
            write_tensors(folder, &tensors, float.0).unwrap();
        }
        folders
    }

    /// The folder of this float type.
    pub fn of(&self, float: Float) -> PathBuf {
        self.dir.path().join(float.name())
    }
}

fn tensors(real: Option<&Path>, config: &Path) -> Vec<(String, Tensor)> {
    let design = read_design(config).unwrap();
    let Some(folder) = real else { return Params::random(&design.specs(), 1).unwrap() };
    let files = WeightFiles::open(folder).unwrap();
    let plan = files.plan(&design.naming(), design.specs(), design.shape().tied).unwrap();
    let params = Params::from_plan(&plan, Kind::Float, Device::Cpu, Residence::Mapped).unwrap();
    params.names().iter().map(|name| (name.clone(), params.get(name).unwrap())).collect()
}

/// The sizes of a model of the Llama family.
#[derive(Debug, Clone, Copy)]
pub struct Llama {
    pub hidden: i64,
    pub layers: i64,
    pub heads: i64,
    pub kv_heads: i64,
    pub ffn: i64,
    pub vocabulary: i64,
}

/// Ten million parameters: what a quickstart distils.
pub const TEN_MILLION: Llama =
    Llama { hidden: 288, layers: 8, heads: 6, kv_heads: 6, ffn: 768, vocabulary: 6144 };

/// SmolLM2-135M.
pub const SMOLLM2: Llama =
    Llama { hidden: 576, layers: 30, heads: 9, kv_heads: 3, ffn: 1536, vocabulary: 49152 };

/// A student of a third of its size.
pub const SMOLLM2_THIRD: Llama =
    Llama { hidden: 384, layers: 16, heads: 6, kv_heads: 2, ffn: 1024, vocabulary: 49152 };

/// The shape's config.json, or one like it that takes no time.
fn config(quick: bool, shape: Llama) -> Value {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": shape.hidden, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.ffn, "vocab_size": shape.vocabulary, "max_position_embeddings": 8192,
        "rope_theta": 100_000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        "attention_bias": false, "mlp_bias": false, "bos_token_id": 1, "eos_token_id": 2,
    });
    if quick {
        let width = 4 * shape.heads;
        for (key, small) in [("hidden_size", width), ("num_hidden_layers", 2), ("vocab_size", 96)] {
            config[key] = small.into();
        }
        config["intermediate_size"] = 64.into();
    }
    config
}

fn describe(config: &Value, whose: &str) -> String {
    let of = |key: &str| config[key].to_string();
    format!(
        "{}, {} layers x {}, {} heads / {} KV, FFN {}, vocabulary {}, {whose}",
        config["model_type"].as_str().unwrap(),
        of("num_hidden_layers"),
        of("hidden_size"),
        of("num_attention_heads"),
        of("num_key_value_heads"),
        of("intermediate_size"),
        of("vocab_size"),
    )
}
