//! How a student begins that is cut out of its teacher. The one file of this room that knows how to cut.
//!
//! Hidden channels, key/value groups with their heads, and neurons each keep the share that makes the whole as large
//! as it should be (the square root of the student's share, were there no embedding); depth and the size of a head
//! stay. What is kept is what has the largest weights: the norm of all that a channel, a group or a neuron takes part
//! in, the same channels in every layer. Nothing is rescaled. An importance that is measured on text knows better; it
//! would stand here, behind the same two functions.

use std::path::Path;

use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::checkpoint::ModelFiles;
use crate::error::{Error, Result};
use crate::model::config::Shape;
use crate::model::{CausalLm, LoadOptions};
use crate::store::Staged;
use crate::text::json::{SMALL, read_optional};
use crate::weights::save::{write_json, write_tensors};
use crate::weights::{Dtype, Spec};

/// Architectures whose tensors are called as llama's are.
const LLAMAS: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

/// What a cut keeps of each width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Widths {
    /// Channels between blocks.
    pub hidden: i64,
    /// Key/value groups.
    pub groups: i64,
    /// Neurons.
    pub ffn: i64,
}

/// A kind of place along a tensor's axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Axis {
    Hidden,
    /// Channels of query heads.
    Queries,
    /// Channels of key/value heads.
    Keys,
    Ffn,
    /// All of it stays.
    Whole,
}

/// What the axes of a llama's tensor are.
fn axes(name: &str) -> Result<Vec<Axis>> {
    use Axis::{Ffn, Hidden, Keys, Queries, Whole};
    let part =
        name.trim_end_matches(".weight").trim_end_matches(".bias").rsplit('.').next().unwrap_or_default();
    let bias = name.ends_with(".bias");
    let both = match part {
        "embed_tokens" | "lm_head" => vec![Whole, Hidden],
        "q_proj" => vec![Queries, Hidden],
        "k_proj" | "v_proj" => vec![Keys, Hidden],
        "o_proj" => vec![Hidden, Queries],
        "gate_proj" | "up_proj" => vec![Ffn, Hidden],
        "down_proj" => vec![Hidden, Ffn],
        "q_norm" | "k_norm" => return Ok(vec![Whole]),
        "input_layernorm" | "post_attention_layernorm" | "norm" => return Ok(vec![Hidden]),
        _ => return Err(Error::bug("a tensor that no cut knows").field(name)),
    };
    Ok(if bias { both[..1].to_vec() } else { both })
}

impl Widths {
    fn of(shape: &Shape) -> Self {
        Widths { hidden: shape.hidden, groups: shape.kv_heads, ffn: shape.ffn }
    }

    fn along(&self, axis: Axis, shape: &Shape, whole: i64) -> i64 {
        match axis {
            Axis::Hidden => self.hidden,
            Axis::Queries => self.groups * shape.heads / shape.kv_heads * shape.head_dim,
            Axis::Keys => self.groups * shape.head_dim,
            Axis::Ffn => self.ffn,
            Axis::Whole => whole,
        }
    }

    /// The parameters of a model cut to these widths.
    pub fn parameters(&self, shape: &Shape, specs: &[Spec]) -> Result<i64> {
        let one = |spec: &Spec| -> Result<i64> {
            let along = axes(&spec.name)?.into_iter().zip(&spec.shape);
            Ok(along.map(|(axis, whole)| self.along(axis, shape, *whole)).product())
        };
        specs.iter().map(one).sum()
    }
}

/// The widths that leave about so many parameters; none where the model has no more than that, or where even its
/// smallest cut has.
pub fn widths(shape: &Shape, specs: &[Spec], parameters: i64) -> Result<Option<Widths>> {
    if !LLAMAS.contains(&shape.model_type) {
        let e = Error::user("a teacher that cannot be cut").expected(LLAMAS.join(", "));
        return Err(e.found(shape.model_type));
    }
    let full = Widths::of(shape);
    if full.parameters(shape, specs)? <= parameters {
        return Ok(None);
    }
    let share = |whole: i64, share: f64| ((whole as f64 * share).round() as i64).clamp(1, whole);
    let at = |s: f64| Widths {
        hidden: share(full.hidden, s),
        groups: share(full.groups, s),
        ffn: share(full.ffn, s),
    };
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if at(middle).parameters(shape, specs)? <= parameters { low = middle } else { high = middle }
    }
    // Groups go in large steps, channels in smaller ones and neurons in the smallest: each makes good what the one
    // before left.
    let mut found = at(0.5 * (low + high));
    let nearest = |of: &dyn Fn(i64) -> Widths, most: i64| -> Result<Widths> {
        let (mut low, mut high) = (1, most);
        while low < high {
            let middle = (low + high + 1) / 2;
            if of(middle).parameters(shape, specs)? <= parameters { low = middle } else { high = middle - 1 }
        }
        Ok(of(low))
    };
    let groups = found.groups;
    let joined =
        |hidden: i64| Widths { hidden, groups, ffn: share(full.ffn, hidden as f64 / full.hidden as f64) };
    found = nearest(&joined, full.hidden)?;
    found = nearest(&|ffn| Widths { ffn, ..found }, full.ffn)?;
    Ok((found.parameters(shape, specs)? <= parameters).then_some(found))
}

/// A student that is to be cut.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// The teacher's folder.
    pub teacher: &'a Path,
    /// Text of the students', by which an importance would be measured.
    #[expect(dead_code, reason = "norms of weights need no text; an importance that is measured does")]
    pub text: &'a Path,
    /// The size at most, all parameters counted.
    pub parameters: i64,
    /// Where an importance would be measured, and in what.
    #[expect(dead_code, reason = "norms of weights are computed where the file is mapped")]
    pub place: (Device, Kind),
    /// The folder to write.
    pub out: &'a Path,
}

/// Cuts a student out of its teacher, and writes its folder with the teacher's tokenizer.
pub fn cut(order: Order<'_>) -> Result<()> {
    let Order { teacher, parameters, out, .. } = order;
    let _off = tch::no_grad_guard();
    let model = CausalLm::load(teacher, LoadOptions::default())?;
    let (shape, specs) = (model.shape().clone(), model.design().specs());
    let wanted = widths(&shape, &specs, parameters)?.ok_or_else(|| {
        Error::user("a student that cannot be cut out of its teacher")
            .file(teacher)
            .found(format!("{parameters} parameters"))
    })?;
    let named: Vec<(String, Tensor)> = specs
        .iter()
        .map(|spec| Ok((spec.name.clone(), model.params().get(&spec.name)?)))
        .collect::<Result<_>>()?;
    let hidden = kept(&named, Axis::Hidden, &shape, wanted.hidden)?;
    let layers: Vec<(String, [Tensor; 3])> = (0..shape.layers)
        .map(|n| {
            let prefix = format!("model.layers.{n}.");
            let own: Vec<(String, Tensor)> = named
                .iter()
                .filter(|(name, _)| name.starts_with(&prefix))
                .map(|(n, t)| (n.clone(), t.shallow_clone()))
                .collect();
            let groups = kept(&own, Axis::Keys, &shape, wanted.groups)?;
            let ffn = kept(&own, Axis::Ffn, &shape, wanted.ffn)?;
            let queries = spread(&groups, shape.heads / shape.kv_heads * shape.head_dim)?;
            Ok((prefix, [queries, spread(&groups, shape.head_dim)?, ffn]))
        })
        .collect::<Result<_>>()?;
    let mut cut = Vec::with_capacity(named.len());
    for (name, tensor) in named {
        let layer = layers.iter().find(|(prefix, _)| name.starts_with(prefix.as_str())).map(|(_, kept)| kept);
        let mut made = tensor;
        for (at, axis) in axes(&name)?.into_iter().enumerate() {
            let index = match (axis, layer) {
                (Axis::Hidden, _) => &hidden,
                (Axis::Queries, Some([queries, ..])) => queries,
                (Axis::Keys, Some([_, keys, _])) => keys,
                (Axis::Ffn, Some([.., ffn])) => ffn,
                _ => continue,
            };
            made = made.f_index_select(at as i64, index)?;
        }
        cut.push((name, made));
    }
    write(teacher, &shape, wanted, &cut, out)
}

/// The places along an axis whose weights have the largest norms, in their order; for keys these are whole groups,
/// with the queries that look at them.
fn kept(tensors: &[(String, Tensor)], axis: Axis, shape: &Shape, many: i64) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (name, tensor) in tensors {
        for (at, own) in axes(name)?.into_iter().enumerate() {
            let groups = matches!((axis, own), (Axis::Keys, Axis::Keys | Axis::Queries));
            if own != axis && !groups {
                continue;
            }
            let whole = tensor.size()[at];
            let many = if groups { shape.kv_heads } else { whole };
            let squares = tensor.f_transpose(0, at as i64)?.f_reshape([many, -1])?.f_square()?;
            let norms = squares.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
            sum = Some(match sum {
                Some(sum) => sum.f_add(&norms)?,
                None => norms,
            });
        }
    }
    let sum = sum.ok_or_else(|| Error::bug("no tensor has this axis"))?;
    let (_, places) = sum.f_topk(many, 0, true, true)?;
    Ok(places.f_sort(0, false)?.0)
}

/// The channels of these groups.
fn spread(groups: &Tensor, channels: i64) -> Result<Tensor> {
    let inside = Tensor::f_arange(channels, (Kind::Int64, groups.device()))?;
    Ok(groups.f_mul_scalar(channels)?.f_unsqueeze(1)?.f_add(&inside)?.f_reshape([-1])?)
}

fn write(
    teacher: &Path,
    shape: &Shape,
    widths: Widths,
    tensors: &[(String, Tensor)],
    out: &Path,
) -> Result<()> {
    let file = teacher.join("config.json");
    let Some(Value::Object(mut config)) = read_optional(&file, SMALL)? else {
        return Err(Error::data("not a config").file(file));
    };
    for (key, n) in [
        ("hidden_size", widths.hidden),
        ("num_attention_heads", widths.groups * shape.heads / shape.kv_heads),
        ("num_key_value_heads", widths.groups),
        ("head_dim", shape.head_dim),
        ("intermediate_size", widths.ffn),
    ] {
        config.insert(key.into(), n.into());
    }
    let staged = Staged::create(out)?;
    write_json(staged.folder(), "config.json", &Value::Object(config))?;
    let files = ModelFiles::read(&staged.folder().path("config.json")?, teacher)?;
    files.write(staged.folder(), Dtype::F32)?;
    write_tensors(staged.folder(), tensors, Dtype::F32)?;
    staged.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Params;

    fn shape(folder: &Path) -> (Shape, Vec<Spec>) {
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": 11, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16, "tie_word_embeddings": true,
        });
        let file = folder.join("config.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let design = crate::model::read_config(&file).unwrap();
        (design.shape().clone(), design.specs())
    }

    /// Scales the rows of a tensor's axis.
    fn scaled(t: &Tensor, axis: i64, places: &[i64], by: f64) -> Tensor {
        let t = t.copy();
        places.iter().for_each(|at| drop(t.narrow(axis, *at, 1).g_mul_scalar_(by)));
        t
    }

    #[test]
    fn the_largest_weights_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (shape, specs) = shape(dir.path());
        let mut tensors = Params::random(&specs, 1).unwrap();
        for (name, t) in &mut tensors {
            // Channels 0, 3, 4, 7; in layer 1 the second group, in layer 0 the first; neurons 1, 2, 5.
            for (axis, kind) in axes(name).unwrap().into_iter().enumerate() {
                let axis = axis as i64;
                let group = i64::from(name.contains("layers.1."));
                *t = match kind {
                    Axis::Hidden => scaled(t, axis, &[0, 3, 4, 7], 9.0),
                    Axis::Ffn => scaled(t, axis, &[1, 2, 5], 9.0),
                    Axis::Keys => scaled(t, axis, &[2 * group, 2 * group + 1], 9.0),
                    Axis::Queries => scaled(t, axis, &(4 * group..4 * group + 4).collect::<Vec<_>>(), 9.0),
                    Axis::Whole => t.shallow_clone(),
                };
            }
        }
        let numbers = |t: Tensor| Vec::<i64>::try_from(t).unwrap();
        let of = |tensors: &[(String, Tensor)], axis, n| numbers(kept(tensors, axis, &shape, n).unwrap());
        assert_eq!(of(&tensors, Axis::Hidden, 4), [0, 3, 4, 7]);
        for layer in 0..2 {
            let own: Vec<(String, Tensor)> = tensors
                .iter()
                .filter(|(name, _)| name.contains(&format!("layers.{layer}.")))
                .map(|(name, t)| (name.clone(), t.shallow_clone()))
                .collect();
            assert_eq!(of(&own, Axis::Keys, 1), [layer]);
            assert_eq!(of(&own, Axis::Ffn, 3), [1, 2, 5]);
        }
        assert_eq!(numbers(spread(&Tensor::from_slice(&[0i64, 2]), 3).unwrap()), [0, 1, 2, 6, 7, 8]);
    }

    #[test]
    fn a_size_is_met_from_below() {
        let dir = tempfile::tempdir().unwrap();
        let (shape, specs) = shape(dir.path());
        let whole: i64 = specs.iter().map(Spec::numel).sum();
        assert_eq!(Widths::of(&shape).parameters(&shape, &specs).unwrap(), whole);
        assert_eq!(widths(&shape, &specs, whole).unwrap(), None, "a teacher that is no larger");
        assert_eq!(widths(&shape, &specs, 5).unwrap(), None, "less than the smallest cut");
        for wanted in [120, 200, 350, 500, whole - 1] {
            let found = widths(&shape, &specs, wanted).unwrap().unwrap();
            let there = found.parameters(&shape, &specs).unwrap();
            assert!(there <= wanted && there > wanted - 60, "{wanted} {found:?} {there}");
        }
    }
}
