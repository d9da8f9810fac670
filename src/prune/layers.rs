//! Which layers go, where a number of them is asked for.

use tch::{Kind, Tensor};

use super::importance::{states, tensor};
use super::shape::Layers;
use crate::data::Example;
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::signal;

/// Tokens that damage is measured on: each layer costs a pass over them.
const TOKENS: usize = 4096;
/// Positions whose logits are held at once.
const HEAD_CHUNK: i64 = 256;

/// How layers are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Those go without which, each left out alone, the loss rises least.
    Damage,
    /// Those go whose output is the most like their input (Minitron: 1 - cos, mean over tokens).
    Similarity,
    /// As many of the first as of the last go (MiniMA-3B: four and four of 32); of an odd number one more of the last.
    Ends,
}

impl Rule {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Damage => "damage",
            Rule::Similarity => "similarity",
            Rule::Ends => "ends",
        }
    }
}

/// The layers that stay, and what was measured of each layer for it.
pub fn choose(
    model: &CausalLm,
    wish: Option<&Layers>,
    rule: Rule,
    sequences: &[Example],
    done: &mut dyn FnMut(usize),
) -> Result<(Vec<usize>, Option<Vec<f64>>)> {
    let all = model.shape().layers as usize;
    let keep = match wish {
        Some(Layers::List(list)) => return Ok((list.clone(), None)),
        Some(Layers::Count(keep)) if *keep < all => *keep,
        _ => return Ok(((0..all).collect(), None)),
    };
    let scores = match rule {
        Rule::Ends => {
            let first = (all - keep) / 2;
            return Ok(((first..first + keep).collect(), None));
        }
        Rule::Similarity => distances(model, sequences, done)?,
        Rule::Damage => damage(model, sequences, done)?,
    };
    let kept = super::importance::largest(&scores, keep).into_iter().map(|layer| layer as usize).collect();
    Ok((kept, Some(scores)))
}

/// How many steps `choose` tells of.
pub fn steps(model: &CausalLm, rule: Rule, sequences: &[Example]) -> usize {
    match rule {
        Rule::Damage => model.shape().layers as usize * few(sequences).len(),
        Rule::Similarity => few(sequences).len(),
        Rule::Ends => 0,
    }
}

/// As many sequences as have the tokens that are measured on.
fn few(sequences: &[Example]) -> &[Example] {
    let mut tokens = 0;
    let end = sequences.iter().position(|row| {
        tokens += row.ids.len();
        tokens >= TOKENS
    });
    &sequences[..end.map_or(sequences.len(), |end| end + 1)]
}

/// The loss without each layer, in nats a token.
pub fn damage(model: &CausalLm, sequences: &[Example], done: &mut dyn FnMut(usize)) -> Result<Vec<f64>> {
    let _off = tch::no_grad_guard();
    let mut losses = Vec::new();
    for without in 0..model.shape().layers as usize {
        let (mut sum, mut count) = (0.0, 0);
        for row in few(sequences).iter().filter(|row| row.targets() > 0) {
            signal::check()?;
            sum += loss_without(model, row, without)?;
            count += row.targets();
            done(1);
        }
        let loss = sum / count.max(1) as f64;
        if !loss.is_finite() {
            return Err(Error::numeric("the loss without a layer is not finite")
                .field(format!("layer {without}"))
                .found(loss)
                .advice("the model's numbers overflow: try --dtype f32"));
        }
        losses.push(loss);
    }
    Ok(losses)
}

fn loss_without(model: &CausalLm, row: &Example, without: usize) -> Result<f64> {
    let tokens = row.targets() as i64;
    let mut visit = |layer: usize, x: &Tensor, block: &dyn Fn(&Tensor) -> Result<Tensor>| {
        if layer == without { Ok(x.shallow_clone()) } else { block(x) }
    };
    let (hidden, targets) = states(model, row, None, &mut visit)?;
    let mut sum = 0.0;
    for start in (0..tokens).step_by(HEAD_CHUNK as usize) {
        let n = HEAD_CHUNK.min(tokens - start);
        let log_p =
            model.head().log_probability(&hidden.f_narrow(0, start, n)?, &targets.f_narrow(0, start, n)?)?;
        sum -= log_p.f_sum(Kind::Double)?.f_double_value(&[])?;
    }
    Ok(sum)
}

/// 1 - cos between each layer's input and output, mean over tokens.
pub fn distances(model: &CausalLm, sequences: &[Example], done: &mut dyn FnMut(usize)) -> Result<Vec<f64>> {
    let _off = tch::no_grad_guard();
    let (mut sums, mut count) = (vec![0.0; model.shape().layers as usize], 0);
    for row in few(sequences) {
        signal::check()?;
        let mut visit = |layer: usize, x: &Tensor, block: &dyn Fn(&Tensor) -> Result<Tensor>| {
            let out = block(x)?;
            let wide = |t: &Tensor| t.f_to_kind(Kind::Float);
            let cos = Tensor::f_cosine_similarity(&wide(x)?, &wide(&out)?, -1, 1e-8)?;
            let off = cos.f_neg()?.f_add_scalar(1.0)?.f_sum(Kind::Double)?;
            sums[layer] += off.f_double_value(&[])?;
            Ok(out)
        };
        let _ = model.hidden_with(&tensor(model, row)?, None, &mut visit)?;
        count += row.ids.len();
        done(1);
    }
    Ok(sums.into_iter().map(|sum| sum / count.max(1) as f64).collect())
}
