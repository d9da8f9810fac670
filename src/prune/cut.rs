//! The cut: which parts stay, each tensor with them alone, the config.json that says so, and the folder.

use serde_json::{Map, Value, json};
use tch::Tensor;

use super::shape::Sizes;
use crate::error::{Error, Result};
use crate::model::axes::Axis;
use crate::model::config::{RawConfig, Shape};
use crate::model::{CausalLm, Design, design_of};
use crate::signal;
use crate::store::Folder;
use crate::weights::params::narrow;
use crate::weights::save::{Dtype, Entry, write_bytes, write_safetensors};
use crate::weights::{ModelFiles, Spec};

/// What stays. All lists rise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Layers, by their numbers in the teacher.
    pub layers: Vec<usize>,
    /// Channels of the hidden state.
    pub hidden: Vec<i64>,
    /// Groups of heads in each layer that stays: numbers of key/value heads.
    pub groups: Vec<Vec<i64>>,
    /// Neurons in each layer that stays.
    pub neurons: Vec<Vec<i64>>,
    /// Rows of the embedding.
    pub tokens: Vec<i64>,
}

impl Kept {
    /// All of a model of this shape.
    pub fn all(shape: &Shape) -> Self {
        let layers = shape.layers as usize;
        Kept {
            layers: (0..layers).collect(),
            hidden: (0..shape.hidden).collect(),
            groups: vec![(0..shape.kv_heads).collect(); layers],
            neurons: vec![(0..shape.ffn).collect(); layers],
            tokens: (0..shape.vocabulary).collect(),
        }
    }

    /// The channels of an axis that stay in the n-th layer that does; none where all do.
    fn along(&self, axis: Axis, n: Option<usize>, shape: &Shape) -> Result<Option<Vec<i64>>> {
        let of = |lists: &[Vec<i64>]| -> Result<Vec<i64>> {
            let list = n.and_then(|n| lists.get(n));
            list.cloned().ok_or_else(|| Error::bug("a tensor of no layer has heads or neurons"))
        };
        let (dim, group) = (shape.head_dim, shape.heads / shape.kv_heads);
        let spread = |groups: Vec<i64>, width: i64| -> Vec<i64> {
            groups.into_iter().flat_map(|g| g * width..(g + 1) * width).collect()
        };
        Ok(Some(match axis {
            Axis::Whole => return Ok(None),
            Axis::Word if shape.head_input != shape.hidden => return Ok(None),
            Axis::Hidden | Axis::Word => self.hidden.clone(),
            Axis::Vocabulary => self.tokens.clone(),
            Axis::Neurons | Axis::Activated => of(&self.neurons)?,
            Axis::Queries | Axis::Attended => spread(of(&self.groups)?, group * dim),
            Axis::Keys => spread(of(&self.groups)?, dim),
            Axis::FusedByHead => spread(of(&self.groups)?, 3 * dim),
            Axis::Fused => {
                let one = spread(of(&self.groups)?, group * dim);
                let width = shape.heads * dim;
                (0..3).flat_map(|part| one.iter().map(move |c| part * width + c)).collect()
            }
        }))
    }
}

/// The number of the layer that a tensor belongs to, and where it stands in the name.
fn layer_of(name: &str) -> Option<(usize, std::ops::Range<usize>)> {
    let mut at = 0;
    for part in name.split('.') {
        if let Ok(layer) = part.parse() {
            return Some((layer, at..at + part.len()));
        }
        at += part.len() + 1;
    }
    None
}

/// The layer of a tensor, where it belongs to one.
pub fn layer(name: &str) -> Option<usize> {
    layer_of(name).map(|(layer, _)| layer)
}

/// config.json for a student of these sizes that keeps these layers.
pub fn config_of(
    design: &dyn Design,
    config: &Map<String, Value>,
    sizes: &Sizes,
    layers: &[usize],
) -> Result<Map<String, Value>> {
    let (shape, cuts) = (design.shape(), design.cuts());
    let mut new = config.clone();
    let mut set = |names: &[&str], value: Value| {
        let there: Vec<&&str> =
            names.iter().filter(|n| config.get(**n).is_some_and(|v| !v.is_null())).collect();
        let names = if there.is_empty() { names.iter().take(1).collect() } else { there };
        names.into_iter().for_each(|name| {
            new.insert(name.to_string(), value.clone());
        });
    };
    set(cuts.hidden, sizes.hidden.into());
    set(cuts.heads, sizes.heads.into());
    set(cuts.layers, sizes.layers.into());
    set(cuts.neurons, sizes.ffn.into());
    set(&["vocab_size"], sizes.vocabulary.into());
    if let Some(name) = cuts.kv_heads {
        set(&[name], sizes.kv_heads.into());
    }
    if let Some(name) = cuts.head_dim {
        set(&[name], shape.head_dim.into());
    }
    if let Some(name) = cuts.word {
        let word = if shape.head_input == shape.hidden { sizes.hidden } else { shape.head_input };
        set(&[name], word.into());
    }
    windows(shape, config, layers, &mut new);
    let moved = layers.iter().enumerate().any(|(now, &then)| now != then);
    if moved && config.get("scale_attn_by_inverse_layer_idx") == Some(&Value::Bool(true)) {
        return Err(Error::user("these layers cannot go")
            .field("--layers")
            .expected("the first layers to stay, as scale_attn_by_inverse_layer_idx ties each to its number")
            .found("layers that would get other numbers"));
    }
    Ok(new)
}

/// How far each layer looks back, written out where layers differ in it.
fn windows(shape: &Shape, config: &Map<String, Value>, layers: &[usize], new: &mut Map<String, Value>) {
    let differ = shape.windows.iter().any(|w| *w != shape.windows[0]);
    let said = config.get("layer_types").and_then(Value::as_array);
    if !differ && said.is_none() {
        return;
    }
    let types = layers.iter().map(|&layer| match said.and_then(|types| types.get(layer)) {
        Some(kind) => kind.clone(),
        None if shape.windows[layer].is_some() => json!("sliding_attention"),
        None => json!("full_attention"),
    });
    new.insert("layer_types".into(), types.collect());
}

/// A student as it will be: its config, its tensors' names and shapes, and where each comes from.
#[derive(Debug)]
pub struct Student<'a> {
    teacher: &'a CausalLm,
    kept: &'a Kept,
    /// Its config.json.
    pub config: Map<String, Value>,
    /// Its tensors.
    pub specs: Vec<Spec>,
}

impl<'a> Student<'a> {
    /// What stays of this teacher.
    pub fn of(teacher: &'a CausalLm, config: &Map<String, Value>, kept: &'a Kept) -> Result<Self> {
        let (design, shape) = (teacher.design(), teacher.shape());
        let count = |list: Option<&Vec<i64>>| list.map_or(0, |list| list.len() as i64);
        let kv_heads = count(kept.groups.first());
        let sizes = Sizes {
            vocabulary: kept.tokens.len() as i64,
            layers: kept.layers.len() as i64,
            hidden: kept.hidden.len() as i64,
            heads: kv_heads * (shape.heads / shape.kv_heads),
            kv_heads,
            ffn: count(kept.neurons.first()),
        };
        let config = config_of(design, config, &sizes, &kept.layers)?;
        let specs = design_of(&RawConfig::of("config.json".as_ref(), config.clone()))?.specs();
        Ok(Student { teacher, kept, config, specs })
    }

    /// How many numbers it holds.
    pub fn parameters(&self) -> i64 {
        self.specs.iter().map(Spec::numel).sum()
    }

    /// One of its tensors.
    pub fn tensor(&self, spec: &Spec) -> Result<Tensor> {
        let place = layer_of(&spec.name);
        let n = place.as_ref().map(|(n, _)| *n);
        let name = match &place {
            None => spec.name.clone(),
            Some((n, range)) => {
                let old =
                    self.kept.layers.get(*n).ok_or_else(|| Error::bug("a layer that nothing becomes"))?;
                format!("{}{old}{}", &spec.name[..range.start], &spec.name[range.end..])
            }
        };
        let axes = self.teacher.design().cuts().axes(&name);
        let axes = axes.ok_or_else(|| Error::bug("nobody says how to cut a tensor").field(name.as_str()))?;
        let mut t = self.teacher.params().get(&name)?;
        for (at, axis) in axes.iter().enumerate() {
            let Some(kept) = self.kept.along(*axis, n, self.teacher.shape())? else { continue };
            if kept.len() as i64 != t.size()[at] {
                let kept = Tensor::f_from_slice(&kept)?.f_to_device(t.device())?;
                t = t.f_index_select(at as i64, &kept)?;
            }
        }
        if t.size() != spec.shape {
            let e = Error::bug("a tensor was cut to another shape than the config says").field(name);
            return Err(e.expected(format!("{:?}", spec.shape)).found(format!("{:?}", t.size())));
        }
        Ok(t)
    }

    /// All of its tensors, for a model in memory.
    pub fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        self.specs.iter().map(|spec| Ok((spec.name.clone(), self.tensor(spec)?))).collect()
    }
}

/// Writes the student's weights and small files; `files` are those that its config was made of.
pub fn write(folder: &Folder, student: &Student<'_>, files: ModelFiles, dtype: Dtype) -> Result<()> {
    files.with_config(student.config.clone()).write(folder, dtype)?;
    let entry = |spec: &Spec| Entry {
        name: spec.name.clone(),
        shape: spec.shape.iter().map(|&d| d as usize).collect(),
    };
    let entries: Vec<Entry> = student.specs.iter().map(entry).collect();
    write_safetensors(folder, &entries, dtype, &mut |i, w| {
        signal::check()?;
        let t = student.tensor(&student.specs[i])?;
        let t = narrow(&t, t.kind(), dtype.kind()).map_err(|e| e.field(entries[i].name.as_str()))?;
        write_bytes(&t, dtype, w)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensors_layer_is_the_number_in_its_name() {
        assert_eq!(layer("model.layers.12.mlp.up_proj.weight"), Some(12));
        assert_eq!(layer("transformer.h.0.ln_1.bias"), Some(0));
        assert_eq!(layer("model.embed_tokens.weight"), None);
    }
}
