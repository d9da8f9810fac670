//! How large the student is to be: what was asked for, checked against the teacher, and a shape for a number of
//! parameters.
//!
//! To a number of parameters the hidden state, the heads and the neurons each keep the same share as nearly as whole
//! heads and round numbers allow; the depth is kept.

use serde_json::{Map, Value};

use super::cut::config_of;
use crate::error::{Error, Result};
use crate::model::config::{RawConfig, Shape};
use crate::model::{Design, design_of};

/// Widths that a search tries are multiples of this, or of the largest power of two below it in the teacher's.
const ROUND: i64 = 64;
/// Below this a hidden width is searched one by one.
const NARROW: i64 = 512;
/// How near a shape must come to the wanted number of parameters before the evenness of its shares counts.
const NEAR: f64 = 0.01;

/// Which layers stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layers {
    /// This many, by a rule.
    Count(usize),
    /// These, numbered from 0 as in the tensors' names.
    List(Vec<usize>),
}

/// What was asked for; what was not stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// Layers.
    pub layers: Option<Layers>,
    /// Channels of the hidden state.
    pub hidden: Option<i64>,
    /// Query heads.
    pub heads: Option<i64>,
    /// Neurons of each feed-forward net.
    pub ffn: Option<i64>,
    /// Parameters in all.
    pub params: Option<i64>,
    /// Tokens.
    pub vocabulary: Option<i64>,
}

/// The sizes of a student.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Rows of the embedding.
    pub vocabulary: i64,
    /// Layers.
    pub layers: i64,
    /// Channels of the hidden state.
    pub hidden: i64,
    /// Query heads.
    pub heads: i64,
    /// Key/value heads.
    pub kv_heads: i64,
    /// Neurons of each feed-forward net.
    pub ffn: i64,
}

impl Sizes {
    /// Those of a model.
    pub fn of(shape: &Shape) -> Self {
        let Shape { vocabulary, layers, hidden, heads, kv_heads, ffn, .. } = *shape;
        Sizes { vocabulary, layers, hidden, heads, kv_heads, ffn }
    }

    fn with_heads(self, heads: i64, group: i64) -> Self {
        Sizes { heads, kv_heads: heads / group, ..self }
    }
}

/// A teacher, as far as its sizes go.
struct Teacher<'a> {
    design: &'a dyn Design,
    config: &'a Map<String, Value>,
    shape: &'a Shape,
    /// Query heads that share a key/value head.
    group: i64,
}

/// The sizes that a wish means for a teacher of this config.json. `tokens` are those of its tokenizer.
pub fn sizes(design: &dyn Design, config: &Map<String, Value>, wish: &Wish, tokens: i64) -> Result<Sizes> {
    let shape = design.shape();
    let teacher = Teacher { design, config, shape, group: shape.heads / shape.kv_heads };
    let mut sizes = Sizes::of(shape);
    if let Some(layers) = &wish.layers {
        sizes.layers = check_layers(layers, shape.layers)?;
    }
    if let Some(vocabulary) = wish.vocabulary {
        sizes.vocabulary = within("--vocab", vocabulary, tokens, "the tokenizer's")?;
    }
    if let Some(ffn) = wish.ffn {
        sizes.ffn = within("--ffn", ffn, shape.ffn, "the teacher's")?;
    }
    sizes = teacher.width(sizes, wish.hidden, wish.heads)?;
    match wish.params {
        None => Ok(sizes),
        Some(params) => teacher.search(sizes, wish, params),
    }
}

/// How many numbers a student of these sizes holds.
pub fn parameters(design: &dyn Design, config: &Map<String, Value>, sizes: &Sizes) -> Result<i64> {
    // Which layers they are matters to no number.
    let kept: Vec<usize> = (0..sizes.layers as usize).collect();
    let raw = RawConfig::of("config.json".as_ref(), config_of(design, config, sizes, &kept)?);
    Ok(design_of(&raw)?.specs().iter().map(|spec| spec.numel()).sum())
}

fn within(flag: &str, asked: i64, most: i64, whose: &str) -> Result<i64> {
    if (1..=most).contains(&asked) {
        return Ok(asked);
    }
    Err(Error::user("a size that cannot be cut to")
        .field(flag)
        .expected(format!("from 1 to {whose} {most}"))
        .found(asked))
}

fn check_layers(layers: &Layers, most: i64) -> Result<i64> {
    match layers {
        Layers::Count(n) => within("--layers", *n as i64, most, "the teacher's"),
        Layers::List(list) => {
            let rising = list.windows(2).all(|pair| pair[0] < pair[1]);
            if rising && list.last().is_some_and(|&last| (last as i64) < most) {
                return Ok(list.len() as i64);
            }
            Err(Error::user("layers that cannot be kept")
                .field("--layers")
                .expected(format!("rising numbers from 0 to {}", most - 1))
                .found(list.iter().map(usize::to_string).collect::<Vec<_>>().join(",")))
        }
    }
}

impl Teacher<'_> {
    /// Whether config.json can name a head's channels; else they are the hidden width over the heads.
    fn free(&self) -> bool {
        self.design.cuts().head_dim.is_some()
    }

    /// With this hidden width and these heads. Where they depend on each other, one follows from the other.
    fn width(&self, sizes: Sizes, hidden: Option<i64>, heads: Option<i64>) -> Result<Sizes> {
        let dim = self.shape.head_dim;
        let follows =
            |what: &str| format!("{what}, as a head of {} keeps its {dim} channels", self.shape.model_type);
        let (hidden, heads) = match (hidden, heads) {
            (Some(hidden), None) if !self.free() => {
                if hidden % dim != 0 {
                    let e = Error::user("a size that cannot be cut to").field("--hidden").found(hidden);
                    return Err(e.expected(follows(&format!("a multiple of {dim}"))));
                }
                (Some(hidden), Some(hidden / dim))
            }
            (None, Some(heads)) if !self.free() => (Some(heads.saturating_mul(dim)), Some(heads)),
            (Some(hidden), Some(heads)) if !self.free() && hidden != heads.saturating_mul(dim) => {
                let e = Error::user("sizes that do not go together").field("--hidden").found(hidden);
                return Err(e.expected(follows(&format!("{heads} x {dim}"))));
            }
            asked => asked,
        };
        let mut sizes = sizes;
        if let Some(heads) = heads {
            within("--heads", heads, self.shape.heads, "the teacher's")?;
            if heads % self.group != 0 {
                let e = Error::user("a size that cannot be cut to").field("--heads").found(heads);
                let groups = format!("a multiple of {}, which share keys and values", self.group);
                return Err(e.expected(groups));
            }
            sizes = sizes.with_heads(heads, self.group);
        }
        if let Some(hidden) = hidden {
            sizes.hidden = within("--hidden", hidden, self.shape.hidden, "the teacher's")?;
        }
        if !self.loads(sizes.hidden, sizes.heads) {
            let e = Error::user("sizes that do not go together").field("--hidden").found(sizes.hidden);
            return Err(
                e.expected(format!("a multiple of the {} heads, or transformers refuses it", sizes.heads))
            );
        }
        Ok(sizes)
    }

    /// Whether transformers loads it: its llama wants a hidden width that the heads divide, although it reads a
    /// head's channels by themselves. What the teacher is not either cannot be asked for.
    fn loads(&self, hidden: i64, heads: i64) -> bool {
        !self.strict() || hidden % heads == 0
    }

    fn strict(&self) -> bool {
        self.shape.model_type == "llama" && self.shape.hidden % self.shape.heads == 0
    }

    fn count(&self, sizes: &Sizes) -> Result<i64> {
        parameters(self.design, self.config, sizes)
    }

    /// The widths that are tried for what was not asked for.
    fn choices(&self, fixed: bool, now: i64, step: i64) -> Vec<i64> {
        if fixed { vec![now] } else { (1..=now / step).map(|n| n * step).collect() }
    }

    /// The shape for a number of parameters: of those within a hundredth of it the one whose shares are the most
    /// alike, else the nearest.
    fn search(&self, full: Sizes, wish: &Wish, params: i64) -> Result<Sizes> {
        let fixed_width = wish.hidden.is_some() || (!self.free() && wish.heads.is_some());
        let step = match (self.free(), self.strict()) {
            (false, _) => self.shape.head_dim,
            // What the heads must divide is seldom a round number.
            (true, true) => round(full.hidden).min(if full.hidden < NARROW { 1 } else { 8 }),
            (true, false) => round(full.hidden),
        };
        let hiddens = self.choices(fixed_width, full.hidden, step);
        let heads = self.choices(wish.heads.is_some(), full.heads, self.group);
        let ffns = self.choices(wish.ffn.is_some(), full.ffn, round(full.ffn));
        let (most, mut best) = (self.count(&full)?, None::<(f64, Sizes)>);
        let mut least = most;
        for &hidden in &hiddens {
            let own = [hidden / self.shape.head_dim];
            let heads: &[i64] = if self.free() { &heads } else { &own };
            // At one hidden width the number is a plane over heads and neurons: three points tell all of it.
            let at = |heads: i64, ffn: i64| {
                self.count(&Sizes { hidden, ffn, ..full }.with_heads(heads, self.group))
            };
            let (h, f) = (heads[0], ffns[0]);
            let origin = at(h, f)?;
            let slope = |there: Option<i64>, by: i64| there.map_or(0, |count| (count - origin) / by);
            let next_head = heads.get(1).map(|&next| at(next, f)).transpose()?;
            let next_ffn = ffns.get(1).map(|&next| at(h, next)).transpose()?;
            let by_head = slope(next_head, heads.get(1).map_or(1, |next| next - h));
            let by_ffn = slope(next_ffn, ffns.get(1).map_or(1, |next| next - f));
            for &head in heads.iter().filter(|&&head| self.loads(hidden, head)) {
                for &ffn in &ffns {
                    let count = origin + by_head * (head - h) + by_ffn * (ffn - f);
                    least = least.min(count);
                    let sizes = Sizes { hidden, ffn, ..full }.with_heads(head, self.group);
                    let cost = self.cost(&sizes, count, params);
                    if best.is_none_or(|(known, _)| cost < known) {
                        best = Some((cost, sizes));
                    }
                }
            }
        }
        match best {
            Some((_, sizes)) if (least..=most).contains(&params) => Ok(sizes),
            _ => Err(Error::user("no shape has so many parameters")
                .field("--params")
                .expected(format!("from {least} to {most}"))
                .found(params)),
        }
    }

    /// Far from the wanted number the distance counts, near it the unlikeness of the shares.
    fn cost(&self, sizes: &Sizes, count: i64, params: i64) -> f64 {
        let far = (count as f64 / params as f64).ln().abs();
        if far > NEAR {
            return 10.0 + far;
        }
        let share = |now: i64, full: i64| (now as f64 / full as f64).ln();
        let shares = [
            share(sizes.hidden, self.shape.hidden),
            share(sizes.heads, self.shape.heads),
            share(sizes.ffn, self.shape.ffn),
        ];
        let (low, high) = shares.iter().fold((0f64, f64::NEG_INFINITY), |(l, h), &s| (l.min(s), h.max(s)));
        high - low + far
    }
}

/// The largest power of two that divides a width, up to [`ROUND`].
fn round(width: i64) -> i64 {
    let two = 1i64 << width.trailing_zeros().min(30);
    two.min(ROUND)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn smollm2() -> Map<String, Value> {
        let value = json!({
            "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
            "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152,
            "max_position_embeddings": 8192, "tie_word_embeddings": true,
        });
        value.as_object().unwrap().clone()
    }

    fn gpt2() -> Map<String, Value> {
        let value = json!({
            "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
            "vocab_size": 50257, "n_inner": null,
        });
        value.as_object().unwrap().clone()
    }

    fn sizes_of(config: &Map<String, Value>, wish: &Wish) -> Result<(Sizes, i64)> {
        let design = design_of(&RawConfig::of("config.json".as_ref(), config.clone()))?;
        let found = sizes(design.as_ref(), config, wish, 49_152)?;
        Ok((found, parameters(design.as_ref(), config, &found)?))
    }

    #[test]
    fn a_number_of_parameters_becomes_a_shape_with_whole_heads() {
        for (wanted, config) in [(100_000_000, smollm2()), (60_000_000, smollm2()), (80_000_000, gpt2())] {
            let wish = Wish { params: Some(wanted), ..Wish::default() };
            let (sizes, count) = sizes_of(&config, &wish).unwrap();
            let off = (count as f64 / wanted as f64 - 1.0).abs();
            assert!(off < 0.02, "{wanted}: {sizes:?} has {count}");
            assert_eq!((sizes.layers, sizes.hidden % 8), (config_layers(&config), 0));
            assert_eq!(sizes.hidden % sizes.heads, 0, "transformers would refuse it");
            assert_eq!(sizes.heads % (sizes.heads / sizes.kv_heads), 0);
        }
    }

    fn config_layers(config: &Map<String, Value>) -> i64 {
        config.get("num_hidden_layers").or(config.get("n_layer")).unwrap().as_i64().unwrap()
    }

    #[test]
    fn the_search_counts_as_the_model_does() {
        // The plane over heads and neurons must be the number that the specs have: the whole model is found again.
        let full = sizes_of(&smollm2(), &Wish::default()).unwrap();
        assert_eq!(full.1, 134_515_008);
        let wish = Wish { params: Some(full.1), ..Wish::default() };
        assert_eq!(sizes_of(&smollm2(), &wish).unwrap().0, full.0);
    }

    #[test]
    fn what_depends_on_each_other_follows() {
        let wish = Wish { heads: Some(8), ..Wish::default() };
        assert_eq!(sizes_of(&gpt2(), &wish).unwrap().0.hidden, 512);
        let wish = Wish { hidden: Some(512), ..Wish::default() };
        assert_eq!(sizes_of(&gpt2(), &wish).unwrap().0.heads, 8);
        assert_eq!(sizes_of(&smollm2(), &wish).unwrap().0.heads, 9, "llama names the size of a head");
    }

    #[test]
    fn sizes_that_cannot_be_are_named() {
        let wrong =
            |config: &Map<String, Value>, wish: Wish| sizes_of(config, &wish).unwrap_err().to_string();
        for (wish, says) in [
            (Wish { heads: Some(7), ..Wish::default() }, "a multiple of 3"),
            (Wish { heads: Some(12), ..Wish::default() }, "--heads"),
            (Wish { hidden: Some(577), ..Wish::default() }, "--hidden"),
            (Wish { hidden: Some(512), ..Wish::default() }, "a multiple of the 9 heads"),
            (Wish { ffn: Some(0), ..Wish::default() }, "--ffn"),
            (Wish { vocabulary: Some(49_153), ..Wish::default() }, "--vocab"),
            (Wish { layers: Some(Layers::Count(31)), ..Wish::default() }, "--layers"),
            (Wish { layers: Some(Layers::List(vec![3, 2])), ..Wish::default() }, "rising"),
            (Wish { layers: Some(Layers::List(vec![2, 30])), ..Wish::default() }, "0 to 29"),
            (Wish { params: Some(200_000_000), ..Wish::default() }, "--params"),
            (Wish { params: Some(1000), ..Wish::default() }, "--params"),
        ] {
            let said = wrong(&smollm2(), wish.clone());
            assert!(said.contains(says), "{wish:?}: {said}");
        }
        for (wish, says) in [
            (Wish { hidden: Some(100), ..Wish::default() }, "a multiple of 64"),
            (Wish { hidden: Some(512), heads: Some(6), ..Wish::default() }, "do not go together"),
        ] {
            let said = wrong(&gpt2(), wish.clone());
            assert!(said.contains(says), "{wish:?}: {said}");
        }
    }
}
