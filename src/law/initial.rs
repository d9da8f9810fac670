//! How a student begins that is cut out of its teacher: by `prune`, to a size. The one file of this room that cuts.

use std::path::Path;

use serde_json::{Map, Value};
use tch::{Device, Kind};

use crate::error::Result;
use crate::model::config::RawConfig;
use crate::model::{Design, design_of, read_design};
use crate::prune::sample::Amount;
use crate::prune::{Importance, Job, Rule, Sizes, Wish, prune, shape};
use crate::text::TemplateChoice;
use crate::weights::Dtype;

/// What importance is measured on, and what perplexity.
const SEQUENCES: usize = 64;
const HELD_OUT: usize = 16;

/// Tokens of a sequence, and sequences whose gradient is one: the paper's.
const SEQUENCE: i64 = 512;
const BATCH: usize = 8;

fn design(config: &Map<String, Value>) -> Result<Box<dyn Design>> {
    design_of(&RawConfig::of(Path::new("config.json"), config.clone()))
}

/// The sizes that leave a teacher of this config.json about so many parameters; none where it has no more than that,
/// or where even its smallest cut has.
pub fn sizes(config: &Map<String, Value>, parameters: i64) -> Result<Option<Sizes>> {
    let design = design(config)?;
    let full = shape::parameters(design.as_ref(), config, &Sizes::of(design.shape()))?;
    if full <= parameters {
        return Ok(None);
    }
    let wish = Wish { params: Some(parameters), ..Wish::default() };
    // What can be wrong with a wish for parameters alone is that there is no such small cut.
    let found = shape::sizes(design.as_ref(), config, &wish, design.shape().vocabulary).ok();
    Ok(found.filter(|found| *found != Sizes::of(design.shape())))
}

/// The parameters of a student of these sizes.
pub fn parameters(config: &Map<String, Value>, sizes: &Sizes) -> Result<i64> {
    shape::parameters(design(config)?.as_ref(), config, sizes)
}

/// A student that is to be cut.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// The teacher's folder.
    pub teacher: &'a Path,
    /// Text of the students', by which importance is measured.
    pub text: &'a Path,
    /// Its size, all parameters counted.
    pub parameters: i64,
    /// Where importance is measured, and in what.
    pub place: (Device, Kind),
    /// Decides which sequences.
    pub seed: u64,
    /// The folder to write.
    pub out: &'a Path,
}

/// Cuts a student out of its teacher, and writes its folder with the teacher's tokenizer.
pub fn cut(order: Order<'_>) -> Result<()> {
    let Order { teacher, text, parameters, place: (device, kind), seed, out } = order;
    let sequence = SEQUENCE.min(read_design(teacher)?.shape().context) as usize;
    let job = Job {
        model: teacher.to_path_buf(),
        name: teacher.display().to_string(),
        input: text.to_path_buf(),
        out: out.to_path_buf(),
        wish: Wish { params: Some(parameters), ..Wish::default() },
        importance: Importance::Gradient,
        rule: Rule::Damage,
        amount: Amount { samples: SEQUENCES, held: HELD_OUT, sequence, seed },
        batch: BATCH,
        template: TemplateChoice::Plain,
        kind,
        device,
        dtype: Dtype::F32,
    };
    prune(&job, &mut |_, _, _| ()).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_smaller_students_are_cut() {
        let config = serde_json::json!({"model_type": "llama", "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 8,
            "num_key_value_heads": 8, "head_dim": 16, "intermediate_size": 384, "vocab_size": 500, "max_position_embeddings": 64,
            "tie_word_embeddings": true});
        let config = config.as_object().unwrap();
        let full = parameters(config, &Sizes::of(design(config).unwrap().shape())).unwrap();
        assert_eq!(sizes(config, full).unwrap(), None, "a teacher that is no larger");
        assert_eq!(sizes(config, 50).unwrap(), None, "less than the smallest cut");
        for wanted in [full / 2, full / 4] {
            let found = sizes(config, wanted).unwrap().unwrap();
            assert_eq!(found.layers, 4, "depth is kept");
            let off = parameters(config, &found).unwrap() as f64 / wanted as f64 - 1.0;
            assert!(off.abs() < 0.1, "{wanted}: {found:?} is off by {off}");
        }
    }
}
