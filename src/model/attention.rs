//! Causal attention with grouped key/value heads, rotary positions, a window and a cache, through
//! libtorch's `scaled_dot_product_attention`: no scores are kept, no keys are repeated for their group.

use tch::Tensor;

use super::config::Shape;
use super::layers::{Linear, Norm};
use super::rope::Rope;
use super::sight::Sight;
use crate::error::{Error, Result};

/// Keys and values of one layer, for a whole batch, allocated once: [b, k, capacity, d].
#[derive(Debug)]
pub struct LayerCache {
    pub(super) keys: Tensor,
    pub(super) values: Tensor,
}

impl LayerCache {
    /// Writes keys and values behind the `past` ones, and answers all of them as views.
    fn append(&mut self, past: i64, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let tokens = k.size()[2];
        let all = past + tokens;
        if all > self.keys.size()[2] {
            return Err(Error::bug("a cache is full").expected(self.keys.size()[2]).found(all));
        }
        self.keys.f_narrow(2, past, tokens)?.f_copy_(k)?;
        self.values.f_narrow(2, past, tokens)?.f_copy_(v)?;
        Ok((self.keys.f_narrow(2, 0, all)?, self.values.f_narrow(2, 0, all)?))
    }
}

/// The sizes of an attention layer.
#[derive(Debug, Clone)]
pub struct Geometry {
    /// Query heads.
    pub heads: i64,
    /// Key/value heads.
    pub kv_heads: i64,
    /// Channels of a head.
    pub head_dim: i64,
    /// Factor on the scores; 1 / sqrt(head_dim) where none is given.
    pub scale: Option<f64>,
    /// How far back it looks.
    pub window: Option<i64>,
    /// Rotary positions.
    pub rope: Option<Rope>,
}

impl Geometry {
    /// The geometry of one layer of a model.
    pub fn of(shape: &Shape, layer: i64) -> Self {
        Geometry {
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            scale: None,
            window: shape.windows.get(layer as usize).copied().flatten(),
            rope: shape.rope.clone(),
        }
    }

    /// With another factor on the scores.
    pub fn scaled(self, scale: f64) -> Self {
        Geometry { scale: Some(scale), ..self }
    }

    /// Channels of all query heads together.
    pub fn width(&self) -> i64 {
        self.heads * self.head_dim
    }

    /// Attention of queries [b, t, heads * d] to keys and values [b, t, kv_heads * d] and those in
    /// the cache; with norms on each head's queries and keys where the architecture has them.
    pub fn attend(
        &self,
        qkv: [Tensor; 3],
        norms: Option<&(Norm, Norm)>,
        sight: &Sight,
        cache: Option<&mut LayerCache>,
    ) -> Result<Tensor> {
        let [q, k, v] = qkv;
        let mut q = q.f_unflatten(-1, [self.heads, self.head_dim])?;
        let mut k = k.f_unflatten(-1, [self.kv_heads, self.head_dim])?;
        let v = v.f_unflatten(-1, [self.kv_heads, self.head_dim])?;
        if let Some((on_q, on_k)) = norms {
            (q, k) = (on_q.forward(&q)?, on_k.forward(&k)?);
        }
        self.attend_heads([q, k, v], sight, cache)
    }

    /// The same for queries, keys and values that are split into heads: [b, t, h, d].
    pub fn attend_heads(
        &self,
        qkv_bthd: [Tensor; 3],
        sight: &Sight,
        cache: Option<&mut LayerCache>,
    ) -> Result<Tensor> {
        let [q, k, v] = qkv_bthd;
        let (mut q, mut k, mut v) = (q.f_transpose(1, 2)?, k.f_transpose(1, 2)?, v.f_transpose(1, 2)?);
        if let (Some(rope), Some((cos, sin))) = (&self.rope, sight.rope()) {
            (q, k) = (rope.turn(&q, cos, sin)?, rope.turn(&k, cos, sin)?);
        }
        if let Some(cache) = cache {
            (k, v) = cache.append(sight.past(), &k, &v)?;
        }
        let look = sight
            .look(self.window)
            .ok_or_else(|| Error::bug("a layer looks through a window that the pass does not know"))?;
        if look.first > 0 {
            let seen = k.size()[2] - look.first;
            (k, v) = (k.f_narrow(2, look.first, seen)?, v.f_narrow(2, look.first, seen)?);
        }
        let grouped = self.kv_heads != self.heads;
        let out = Tensor::f_scaled_dot_product_attention(
            &q,
            &k,
            &v,
            look.mask.as_ref(),
            0.0,
            look.causal,
            self.scale,
            grouped,
        )?;
        Ok(out.f_transpose(1, 2)?.f_flatten(2, 3)?)
    }
}

/// Attention with separate projections for queries, keys and values.
#[derive(Debug)]
pub struct Attention {
    /// Queries, keys, values.
    pub qkv: [Linear; 3],
    /// Out of the heads.
    pub out: Linear,
    /// Norms of each head's queries and keys (Qwen3).
    pub norms: Option<(Norm, Norm)>,
    /// Sizes.
    pub geometry: Geometry,
}

impl Attention {
    /// The layer's value.
    pub fn forward(&self, x: &Tensor, sight: &Sight, cache: Option<&mut LayerCache>) -> Result<Tensor> {
        let [q, k, v] = &self.qkv;
        let qkv = [q.forward(x)?, k.forward(x)?, v.forward(x)?];
        self.out.forward(&self.geometry.attend(qkv, self.norms.as_ref(), sight, cache)?)
    }

    /// Over the same memory.
    pub fn share(&self) -> Self {
        Attention {
            qkv: self.qkv.each_ref().map(Linear::share),
            out: self.out.share(),
            norms: self.norms.as_ref().map(|(q, k)| (q.share(), k.share())),
            geometry: self.geometry.clone(),
        }
    }
}
