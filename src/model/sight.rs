//! What each position of a forward pass sees: its place, its rotation, which keys it may look at, and
//! where its own keys and values are kept. Made once a pass and shared by all layers, so no layer builds
//! a mask.

use std::cell::OnceCell;

use tch::{Device, Kind, Tensor};

use super::config::Shape;
use crate::error::Result;
use crate::weights::tap::masked;

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
    keep: Option<Keep>,
    mask_d: Option<Tensor>,
}

/// Which keys the queries of a pass may look at, for one width of window.
#[derive(Debug)]
pub struct Look {
    mask: OnceCell<Tensor>,
    later: Option<Later>,
    /// Query t sees keys 0 to t.
    pub causal: bool,
    /// The first key of the cache that any query sees; those before are left out.
    pub first: i64,
}

/// What a mask is made of when it is asked for; some devices never ask.
#[derive(Debug)]
struct Later {
    positions_bt: Tensor,
    range: (i64, i64),
    window: Option<i64>,
    group: i64,
    kind: Kind,
}

/// Where a pass puts its keys and values in a cache, and which of the cache it reads.
#[derive(Debug)]
pub enum Keep {
    /// Whole prompts: kept for later passes; this one looks at its own keys alone.
    Prompts {
        /// Row of the cache times its heads, plus the head: [b * kv_heads].
        rows_bk: Tensor,
    },
    /// Tokens behind what is there.
    Next {
        /// Each token's place in the flattened cache: [b * kv_heads * t].
        places: Tensor,
        /// Rows of the cache that are read, in the order of the batch; the first ones where none.
        rows: Option<Tensor>,
        /// Keys that are read, from the front of each row.
        keys: i64,
    },
}

impl Sight {
    /// The sight of a pass without a cache.
    pub fn new(shape: &Shape, tokens: i64, padding: &Padding, kind: Kind, device: Device) -> Result<Self> {
        let starts = match padding {
            Padding::Right => None,
            Padding::Left(lengths) => {
                let starts: Vec<i64> = lengths.iter().map(|n| tokens - n).collect();
                starts.iter().any(|&s| s > 0).then_some(starts)
            }
        };
        let starts =
            starts.map(|s| Tensor::f_from_slice(&s)?.f_view([-1, 1])?.f_to_device(device)).transpose()?;
        let mut positions_bt = Tensor::f_arange(tokens, (Kind::Int64, device))?.f_unsqueeze(0)?;
        if let Some(starts_b1) = &starts {
            positions_bt = positions_bt.f_sub(starts_b1)?.f_clamp_min(0)?;
        }
        let rope = shape
            .rope
            .as_ref()
            .map(|rope| rope.tables(&positions_bt.f_unsqueeze(2)?, kind, device))
            .transpose()?;
        let looks = each_window(shape, |window| Look::whole(tokens, window, starts.as_ref(), kind, device))?;
        Ok(Sight { positions_bt, rope, looks, keep: None, mask_d: None })
    }

    /// The sight of whole prompts, padding behind them, that a cache keeps.
    pub(super) fn prompts(
        shape: &Shape,
        tokens: i64,
        rows_bk: Tensor,
        kind: Kind,
        device: Device,
    ) -> Result<Self> {
        let sight = Self::new(shape, tokens, &Padding::Right, kind, device)?;
        Ok(Sight { keep: Some(Keep::Prompts { rows_bk }), ..sight })
    }

    /// The sight of tokens behind what a cache holds, from what it keeps ready.
    pub(super) fn next(
        positions_bt: Tensor,
        rope: Option<(Tensor, Tensor)>,
        looks: Vec<(Option<i64>, Look)>,
        keep: Keep,
    ) -> Self {
        Sight { positions_bt, rope, looks, keep: Some(keep), mask_d: None }
    }

    /// The place of each token in its row, counted from 0 at the row's first token: [b or 1, t].
    pub fn positions_bt(&self) -> &Tensor {
        &self.positions_bt
    }

    /// Cosines and sines for the rotary embedding: [b or 1, t, 1, rotated].
    pub fn rope(&self) -> Option<(&Tensor, &Tensor)> {
        self.rope.as_ref().map(|(cos, sin)| (cos, sin))
    }

    /// With a factor on each channel of the state between blocks, in float32: on what begins it, on what each sublayer
    /// adds to it, and on each sum.
    pub fn with_mask(self, mask_d: Option<&Tensor>) -> Self {
        Sight { mask_d: mask_d.map(Tensor::shallow_clone), ..self }
    }

    /// The state before the first block.
    pub fn begin(&self, x: Tensor) -> Result<Tensor> {
        match &self.mask_d {
            None => Ok(x),
            Some(mask_d) => masked(&x, mask_d),
        }
    }

    /// The state behind a sublayer that adds `out` to it.
    pub fn add(&self, x: &Tensor, out: &Tensor) -> Result<Tensor> {
        match &self.mask_d {
            None => Ok(x.f_add(out)?),
            Some(mask_d) => masked(&x.f_add(&masked(out, mask_d)?)?, mask_d),
        }
    }

    /// Where keys and values are kept, in a pass with a cache.
    pub fn keep(&self) -> Option<&Keep> {
        self.keep.as_ref()
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
            keep: self.keep.as_ref().map(Keep::share),
            mask_d: self.mask_d.as_ref().map(Tensor::shallow_clone),
        }
    }
}

/// One look for each width of window that a model has.
pub(super) fn each_window(
    shape: &Shape,
    mut look: impl FnMut(Option<i64>) -> Result<Look>,
) -> Result<Vec<(Option<i64>, Look)>> {
    let mut looks: Vec<(Option<i64>, Look)> = Vec::new();
    for &window in &shape.windows {
        if !looks.iter().any(|(w, _)| *w == window) {
            looks.push((window, look(window)?));
        }
    }
    Ok(looks)
}

impl Look {
    fn whole(
        tokens: i64,
        window: Option<i64>,
        starts_b1: Option<&Tensor>,
        kind: Kind,
        device: Device,
    ) -> Result<Self> {
        // A window that reaches over everything is none.
        let window = window.filter(|w| *w < tokens);
        if starts_b1.is_none() && window.is_none() {
            return Ok(Look { causal: tokens > 1, ..Look::all(0) });
        }
        let key_s = Tensor::f_arange(tokens, (Kind::Int64, device))?;
        let query_t1 = key_s.f_unsqueeze(1)?;
        let mut hidden = key_s.f_gt_tensor(&query_t1)?;
        if let Some(window) = window {
            hidden = hidden.f_logical_or(&key_s.f_le_tensor(&query_t1.f_sub_scalar(window)?)?)?;
        }
        let mut hidden = hidden.f_unsqueeze(0)?.f_unsqueeze(0)?;
        if let Some(starts_b1) = starts_b1 {
            let padding = key_s.f_lt_tensor(starts_b1)?.f_unsqueeze(1)?.f_unsqueeze(1)?;
            // A padding position sees itself: a row of scores that is -inf throughout would be NaN,
            // and a NaN reaches other rows through the products of later layers.
            let another = key_s.f_ne_tensor(&query_t1)?;
            hidden = hidden.f_logical_or(&padding)?.f_logical_and(&another)?;
        }
        Ok(Look { mask: OnceCell::from(additive(&hidden, kind)?), ..Look::all(0) })
    }

    /// Every query sees every key from `first` on.
    pub(super) fn all(first: i64) -> Self {
        Look { mask: OnceCell::new(), later: None, causal: false, first }
    }

    /// What queries at `positions_bt` see of the keys of a cache from `first` up to `keys`: those before
    /// them and their own.
    pub(super) fn behind(
        positions_bt: &Tensor,
        range: (i64, i64),
        window: Option<i64>,
        group: i64,
        kind: Kind,
    ) -> Self {
        let positions_bt = positions_bt.shallow_clone();
        let later = Later { positions_bt, range, window, group, kind };
        Look { later: Some(later), ..Look::all(range.0) }
    }

    /// Added to the scores: 0 or -inf, [b or 1, 1, t, keys]; none where every key is seen, or where
    /// `causal` says it all. With a cache the queries of a group of heads stand below each other:
    /// [b or 1, 1, group * t or 1, keys].
    pub fn mask(&self) -> Result<Option<&Tensor>> {
        if let (None, Some(later)) = (self.mask.get(), &self.later) {
            let mask = later.mask()?;
            return Ok(Some(self.mask.get_or_init(|| mask)));
        }
        Ok(self.mask.get())
    }

    /// The same, over the same memory.
    pub fn share(&self) -> Self {
        let mask = self.mask.get().map_or_else(OnceCell::new, |mask| OnceCell::from(mask.shallow_clone()));
        Look { mask, later: self.later.as_ref().map(Later::share), causal: self.causal, first: self.first }
    }
}

impl Later {
    fn mask(&self) -> Result<Tensor> {
        let key_s =
            Tensor::f_arange_start(self.range.0, self.range.1, (Kind::Int64, self.positions_bt.device()))?;
        let query_b1t1 = self.positions_bt.f_unsqueeze(1)?.f_unsqueeze(3)?;
        let mut hidden = key_s.f_gt_tensor(&query_b1t1)?;
        if let Some(window) = self.window {
            hidden = hidden.f_logical_or(&key_s.f_le_tensor(&query_b1t1.f_sub_scalar(window)?)?)?;
        }
        let mask = additive(&hidden, self.kind)?;
        if self.group > 1 && self.positions_bt.size()[1] > 1 {
            return Ok(mask.f_repeat([1, 1, self.group, 1])?);
        }
        Ok(mask)
    }

    fn share(&self) -> Self {
        Later { positions_bt: self.positions_bt.shallow_clone(), ..*self }
    }
}

impl Keep {
    fn share(&self) -> Self {
        match self {
            Keep::Prompts { rows_bk } => Keep::Prompts { rows_bk: rows_bk.shallow_clone() },
            Keep::Next { places, rows, keys } => Keep::Next {
                places: places.shallow_clone(),
                rows: rows.as_ref().map(Tensor::shallow_clone),
                keys: *keys,
            },
        }
    }
}

/// -inf where hidden, 0 elsewhere. Attention adds it as it is; a boolean mask would be converted in
/// every layer.
fn additive(hidden: &Tensor, kind: Kind) -> Result<Tensor> {
    let zeros = Tensor::f_zeros(hidden.size(), (kind, hidden.device()))?;
    Ok(zeros.f_masked_fill(hidden, f64::NEG_INFINITY)?)
}
