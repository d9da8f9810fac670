//! The cells of a grid: which students are trained under which teachers, and what each is called.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::config::grid::{Arm, GridConfig, Teacher};
use crate::error::{Error, Result};
use crate::law::Sizes;
use crate::law::initial;
use crate::model::config::{RawConfig, Shape};
use crate::model::design_of;
use crate::prune;

/// A teacher of the grid, before there is one.
#[derive(Debug)]
pub struct Sketch {
    /// As it is called.
    pub name: String,
    /// Its config.json.
    pub config: Map<String, Value>,
    /// Its sizes, checked.
    pub shape: Shape,
    /// Its parameters.
    pub sizes: Sizes,
    /// Its own learning rate.
    pub lr: Option<f64>,
}

impl Sketch {
    /// Of this shape, with so many tokens of which `eos` ends a text.
    pub fn of(teacher: &Teacher, vocabulary: i64, context: usize, eos: Option<u32>) -> Result<Self> {
        let Teacher { name, hidden, layers, heads, ffn, lr } = teacher;
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary,
            "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": hidden / heads, "hidden_act": "silu",
            "max_position_embeddings": context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": true, "initializer_range": 0.02, "eos_token_id": eos, "bos_token_id": null,
            "torch_dtype": "float32",
        });
        let Value::Object(config) = config else { return Err(Error::bug("a config is no object")) };
        let design = design_of(&RawConfig::of(Path::new("config.json"), config.clone()))?;
        let sizes = Sizes::of_design(design.as_ref());
        let shape = design.shape().clone();
        Ok(Sketch { name: name.clone(), config, shape, sizes, lr: *lr })
    }
}

/// A student of a size, as a teacher has it: how it is cut.
#[derive(Debug, Clone, PartialEq)]
pub struct Cut {
    /// The teacher's place.
    pub teacher: usize,
    /// The size that was asked for, all parameters counted.
    pub student: usize,
    /// What is kept.
    pub kept: prune::Sizes,
    /// Its folder's name.
    pub name: String,
}

/// A run of the grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// Its folder's name.
    pub name: String,
    /// The place of its cut.
    pub cut: usize,
    /// How it begins and learns.
    pub arm: Arm,
    /// Its seed.
    pub seed: u64,
}

/// All of them.
#[derive(Debug)]
pub struct Cells {
    /// From the smallest to the largest.
    pub teachers: Vec<Sketch>,
    /// Each student under each teacher that is larger.
    pub cuts: Vec<Cut>,
    /// Each of those by arms and seeds.
    pub cells: Vec<Cell>,
    /// Students and teachers of which there is no cell: the teacher is no larger, or cannot be cut so small.
    pub left_out: Vec<(usize, String)>,
}

impl Cells {
    /// Lays them out.
    pub fn of(config: &GridConfig, vocabulary: i64, eos: Option<u32>) -> Result<Self> {
        let context = 2 * config.data.sequence.max(64);
        let sketch = |teacher| Sketch::of(teacher, vocabulary, context, eos);
        let teachers: Vec<Sketch> = config.teachers.iter().map(sketch).collect::<Result<_>>()?;
        let (mut cuts, mut cells, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
        for &student in &config.students {
            for (at, teacher) in teachers.iter().enumerate() {
                let Some(kept) = initial::sizes(&teacher.config, student as i64)? else {
                    left_out.push((student, teacher.name.clone()));
                    continue;
                };
                let name = format!("{student}-{}", teacher.name);
                cuts.push(Cut { teacher: at, student, kept, name });
            }
        }
        for (at, cut) in cuts.iter().enumerate() {
            for &arm in &config.arms {
                for &seed in &config.seeds {
                    let name = format!("{}-{}-{seed}", cut.name, arm.name());
                    cells.push(Cell { name, cut: at, arm, seed });
                }
            }
        }
        if cells.is_empty() {
            let largest = teachers.last().map_or(0.0, |t| t.sizes.all);
            return Err(Error::user("no student is smaller than a teacher")
                .file(&config.file)
                .field("students")
                .expected(format!("sizes below {largest:.0}, the largest teacher's")));
        }
        Ok(Cells { teachers, cuts, cells, left_out })
    }
}
