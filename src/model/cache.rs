//! The keys and values of a batch, allocated once and written in place, with what each further step
//! needs kept ready: positions, rotations, the mask of the padding in front of short rows.

use tch::{Device, Kind, Tensor};

use super::attention::LayerCache;
use super::config::Shape;
use super::sight::{Extent, Look, Padding, Sight, additive};
use crate::error::{Error, Result};

/// The state of a batch that is being decoded. All rows end at the same place; shorter prompts have
/// padding in front.
#[derive(Debug)]
pub struct Cache {
    shape: Shape,
    pub(super) layers: Vec<LayerCache>,
    capacity: i64,
    length: i64,
    padding: Padding,
    /// Where each row's next token stands in its row: [b, 1].
    next_b1: Tensor,
    /// 0 or -inf for each row and key: [b, 1, 1, capacity]; none without padding.
    mask: Option<Tensor>,
    /// Cosines and sines of every position: [capacity, rotated].
    rope: Option<(Tensor, Tensor)>,
    kind: Kind,
    device: Device,
}

impl Cache {
    /// Room for `capacity` positions of each row; `lengths` are the rows' prompt lengths.
    pub fn new(shape: &Shape, lengths: &[i64], capacity: i64, kind: Kind, device: Device) -> Result<Self> {
        if lengths.is_empty() || lengths.iter().any(|&n| n < 1 || n > capacity) {
            return Err(Error::bug("a batch to decode has an empty prompt, or one longer than its cache"));
        }
        let batch = lengths.len() as i64;
        // Not filled: what is not reached costs no memory, and nothing is read before it is written.
        let room = || Tensor::f_empty([batch, shape.kv_heads, capacity, shape.head_dim], (kind, device));
        let layers = (0..shape.layers).map(|_| Ok(LayerCache { keys: room()?, values: room()? }));
        let positions = Tensor::f_arange(capacity, (Kind::Int64, device))?;
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mask = if lengths.iter().any(|&n| n != longest) {
            let starts: Vec<i64> = lengths.iter().map(|n| longest - n).collect();
            let starts_b1 = Tensor::f_from_slice(&starts)?.f_view([-1, 1])?.f_to_device(device)?;
            Some(additive(&positions.f_ge_tensor(&starts_b1)?.f_view([batch, 1, 1, capacity])?, kind)?)
        } else {
            None
        };
        Ok(Cache {
            shape: shape.clone(),
            layers: layers.collect::<Result<_>>()?,
            capacity,
            length: 0,
            padding: Padding::Left(lengths.to_vec()),
            next_b1: Tensor::f_from_slice(lengths)?.f_view([-1, 1])?.f_to_device(device)?,
            mask,
            rope: shape.rope.as_ref().map(|rope| rope.tables(&positions, kind, device)).transpose()?,
            kind,
            device,
        })
    }

    /// Positions filled so far, padding included.
    pub fn length(&self) -> i64 {
        self.length
    }

    /// Positions that fit.
    pub fn capacity(&self) -> i64 {
        self.capacity
    }

    /// The sight of the next `tokens` positions: the prompt first, then one token at a time.
    pub(super) fn sight(&self, tokens: i64) -> Result<Sight> {
        if self.length + tokens > self.capacity {
            return Err(Error::bug("a cache is full").expected(self.capacity).found(self.length + tokens));
        }
        if self.length == 0 {
            let Padding::Left(lengths) = &self.padding else {
                return Err(Error::bug("a cache of no left padding"));
            };
            if lengths.iter().max() != Some(&tokens) {
                return Err(Error::bug("prompts and their lengths differ").found(tokens));
            }
            let extent = Extent { past: 0, tokens };
            return Sight::new(&self.shape, extent, &self.padding, self.kind, self.device);
        }
        if tokens != 1 {
            return Err(Error::bug("a cache takes the prompt and then one token at a time").found(tokens));
        }
        let rope = self.rope.as_ref().map(|tables| self.rotation(tables)).transpose()?;
        let mut looks: Vec<(Option<i64>, Look)> = Vec::new();
        for &window in &self.shape.windows {
            if !looks.iter().any(|(w, _)| *w == window) {
                looks.push((window, self.step_look(window)?));
            }
        }
        Ok(Sight::step(self.next_b1.shallow_clone(), rope, looks, self.length))
    }

    /// Cosines and sines of the next token of each row: [b or 1, 1, 1, rotated].
    fn rotation(&self, (cos, sin): &(Tensor, Tensor)) -> Result<(Tensor, Tensor)> {
        let rows = |table: &Tensor| -> Result<Tensor> {
            let width = table.size()[1];
            if self.mask.is_none() {
                return Ok(table.f_narrow(0, self.length, 1)?.f_view([1, 1, 1, width])?);
            }
            Ok(table.f_index_select(0, &self.next_b1.f_view([-1])?)?.f_view([-1, 1, 1, width])?)
        };
        Ok((rows(cos)?, rows(sin)?))
    }

    /// What one more token sees: views of what is ready, nothing is built.
    fn step_look(&self, window: Option<i64>) -> Result<Look> {
        let keys = self.length + 1;
        let first = window.map_or(0, |w| (keys - w).max(0));
        let mask = self.mask.as_ref().map(|m| m.f_narrow(3, first, keys - first)).transpose()?;
        Ok(Look { mask, causal: false, first })
    }

    /// Counts the positions of a pass that is done.
    pub(super) fn advance(&mut self, tokens: i64) -> Result<()> {
        // `next` starts at the prompts' lengths: the prompt itself moves it nowhere.
        if self.length > 0 {
            self.next_b1 = self.next_b1.f_add_scalar(tokens)?;
            if self.capacity > self.shape.context {
                // A row that has reached the context's end goes on as padding, at a place that exists.
                self.next_b1 = self.next_b1.f_clamp_max(self.shape.context - 1)?;
            }
        }
        self.length += tokens;
        Ok(())
    }
}
