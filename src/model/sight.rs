//! What each position of a forward pass sees: its place, its rotation, and which keys it may look at.
//! Made once a pass and shared by all layers, so no layer builds a mask.

use tch::{Device, Kind, Tensor};

use super::config::Shape;
use crate::error::Result;

/// Where the padding of a batch is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Padding {
    /// Behind the tokens of each row, or nowhere. Causal attention never looks ahead, so the lengths
    /// do not matter here.
    Right,
    /// In front of the tokens of each row; these are the numbers of tokens.
    Left(Vec<i64>),
}

/// What the positions of one forward pass see.
#[derive(Debug)]
pub struct Sight {
    positions_bt: Tensor,
    rope: Option<(Tensor, Tensor)>,
    looks: Vec<(Option<i64>, Look)>,
    past: i64,
}

/// Which keys the queries of a pass may look at, for one width of window.
#[derive(Debug)]
pub struct Look {
    /// Added to the scores: 0 or -inf, [b or 1, 1, t, keys]; none where `causal` says it all.
    pub mask: Option<Tensor>,
    /// Query t sees keys 0 to t.
    pub causal: bool,
    /// The first key that any query sees; those before are left out.
    pub first: i64,
}

/// The sizes of a pass: `tokens` new positions behind `past` ones that a cache holds.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Positions that a cache holds already.
    pub past: i64,
    /// New positions.
    pub tokens: i64,
}

impl Sight {
    /// The sight of `extent.tokens` positions behind `extent.past`. Without padding every row sees
    /// alike.
    pub fn new(shape: &Shape, extent: Extent, padding: &Padding, kind: Kind, device: Device) -> Result<Self> {
        let starts = match padding {
            Padding::Right => None,
            Padding::Left(lengths) => {
                let starts: Vec<i64> = lengths.iter().map(|n| extent.past + extent.tokens - n).collect();
                starts.iter().any(|&s| s > 0).then_some(starts)
            }
        };
        let starts =
            starts.map(|s| Tensor::f_from_slice(&s)?.f_view([-1, 1])?.f_to_device(device)).transpose()?;
        let range = Tensor::f_arange_start(extent.past, extent.past + extent.tokens, (Kind::Int64, device))?;
        let mut positions_bt = range.f_unsqueeze(0)?;
        if let Some(starts_b1) = &starts {
            positions_bt = positions_bt.f_sub(starts_b1)?.f_clamp_min(0)?;
        }
        let rope = shape
            .rope
            .as_ref()
            .map(|rope| rope.tables(&positions_bt.f_unsqueeze(1)?, kind, device))
            .transpose()?;
        let mut looks = Vec::new();
        for &window in &shape.windows {
            if !looks.iter().any(|(w, _)| *w == window) {
                looks.push((window, Look::new(extent, window, starts.as_ref(), kind, device)?));
            }
        }
        Ok(Sight { positions_bt, rope, looks, past: extent.past })
    }

    /// The sight of one more token a row, from what a cache keeps ready.
    pub(super) fn step(
        positions_bt: Tensor,
        rope: Option<(Tensor, Tensor)>,
        looks: Vec<(Option<i64>, Look)>,
        past: i64,
    ) -> Self {
        Sight { positions_bt, rope, looks, past }
    }

    /// The place of each token in its row, counted from 0 at the row's first token: [b or 1, t].
    pub fn positions_bt(&self) -> &Tensor {
        &self.positions_bt
    }

    /// Cosines and sines for the rotary embedding.
    pub fn rope(&self) -> Option<(&Tensor, &Tensor)> {
        self.rope.as_ref().map(|(cos, sin)| (cos, sin))
    }

    /// How many positions a cache holds before this pass.
    pub fn past(&self) -> i64 {
        self.past
    }

    /// What a layer with this window looks at.
    pub fn look(&self, window: Option<i64>) -> Option<&Look> {
        self.looks.iter().find(|(w, _)| *w == window).map(|(_, look)| look)
    }

    /// The same, over the same memory.
    pub fn share(&self) -> Self {
        Sight {
            positions_bt: self.positions_bt.shallow_clone(),
            rope: self.rope.as_ref().map(|(c, s)| (c.shallow_clone(), s.shallow_clone())),
            looks: self.looks.iter().map(|(w, look)| (*w, look.share())).collect(),
            past: self.past,
        }
    }
}

impl Look {
    fn new(
        extent: Extent,
        window: Option<i64>,
        starts_b1: Option<&Tensor>,
        kind: Kind,
        device: Device,
    ) -> Result<Self> {
        let keys = extent.past + extent.tokens;
        // A window that reaches over everything is none.
        let window = window.filter(|w| *w < keys);
        if starts_b1.is_none() && window.is_none() && (extent.past == 0 || extent.tokens == 1) {
            return Ok(Look { mask: None, causal: extent.tokens > 1, first: 0 });
        }
        let query_t1 = Tensor::f_arange_start(extent.past, keys, (Kind::Int64, device))?.f_unsqueeze(1)?;
        let key_s = Tensor::f_arange(keys, (Kind::Int64, device))?;
        let mut seen = key_s.f_le_tensor(&query_t1)?;
        if let Some(window) = window {
            seen = seen.f_logical_and(&key_s.f_gt_tensor(&query_t1.f_sub_scalar(window)?)?)?;
        }
        let mut seen = seen.f_unsqueeze(0)?.f_unsqueeze(0)?;
        if let Some(starts_b1) = starts_b1 {
            let real = key_s.f_ge_tensor(starts_b1)?.f_unsqueeze(1)?.f_unsqueeze(1)?;
            // A padding position sees itself: a row of scores that is -inf throughout would be NaN,
            // and a NaN reaches other rows through the products of later layers.
            let itself = key_s.f_eq_tensor(&query_t1)?;
            seen = seen.f_logical_and(&real)?.f_logical_or(&itself)?;
        }
        Ok(Look { mask: Some(additive(&seen, kind)?), causal: false, first: 0 })
    }

    /// The same, over the same memory.
    pub fn share(&self) -> Self {
        Look { mask: self.mask.as_ref().map(Tensor::shallow_clone), causal: self.causal, first: self.first }
    }
}

/// 0 where seen, -inf elsewhere. Attention adds it as it is; a boolean mask would be converted in
/// every layer.
pub(super) fn additive(seen: &Tensor, kind: Kind) -> Result<Tensor> {
    let zeros = Tensor::f_zeros(seen.size(), (kind, seen.device()))?;
    Ok(zeros.f_masked_fill(&seen.f_logical_not()?, f64::NEG_INFINITY)?)
}
