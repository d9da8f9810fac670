//! Causal attention with grouped key/value heads, rotary positions, a window and a cache, through
//! libtorch's `scaled_dot_product_attention`: no scores are kept, no keys are repeated for their group.

use tch::{Kind, Tensor};

use super::cache::LayerCache;
use super::config::Shape;
use super::layers::{Linear, Norm};
use super::rope::Rope;
use super::sight::{Keep, Look, Sight};
use crate::error::{Error, Result};
use crate::native::small::Behind;
use crate::native::widen;

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
        let [mut q, mut k, v] = qkv_bthd;
        if let (Some(rope), Some((cos, sin))) = (&self.rope, sight.rope()) {
            (q, k) = (rope.turn(&q, cos, sin)?, rope.turn(&k, cos, sin)?);
        }
        let look = sight
            .look(self.window)
            .ok_or_else(|| Error::bug("a layer looks through a window that the pass does not know"))?;
        match (sight.keep(), cache) {
            (Some(Keep::Next { places, rows, keys: most }), Some(cache)) => {
                let (rows, most) = (rows.as_ref(), *most);
                cache.put(places, &k, &v)?;
                let (window, scale) = (self.window, self.scale);
                let behind = Behind { positions_bt: sight.positions_bt(), rows, most, window, scale };
                if let Some(out) = cache.attend(&q, behind)? {
                    return Ok(out);
                }
                let (k, v) = cache.seen(q.size()[0], rows, (look.first, most))?;
                self.grouped(&q, &k, &v, look)
            }
            (Some(Keep::Prompts { rows_bk }), Some(cache)) => {
                let (k, v) = cache.prompts(rows_bk, &k, &v)?;
                self.whole(&q, &k, &v, look)
            }
            _ => self.whole(&q, &k.f_transpose(1, 2)?, &v.f_transpose(1, 2)?, look),
        }
    }

    /// Queries [b, t, h, d] and the keys of the same positions [b, k, t, d].
    fn whole(&self, q_bthd: &Tensor, k: &Tensor, v: &Tensor, look: &Look) -> Result<Tensor> {
        let (mask, grouped) = (look.mask()?, self.kv_heads != self.heads);
        let q = q_bthd.f_transpose(1, 2)?;
        if widen::pays(&q) {
            let wide = |t: &Tensor| t.f_to_kind(Kind::Float);
            let mask = mask.map(wide).transpose()?;
            let (q, k, v) = (wide(&q)?, wide(k)?, wide(v)?);
            let out = sdpa([&q, &k, &v], mask.as_ref(), look.causal, self.scale, grouped)?;
            return Ok(out.f_transpose(1, 2)?.f_flatten(2, 3)?.f_to_kind(q_bthd.kind())?);
        }
        let out = sdpa([&q, k, v], mask, look.causal, self.scale, grouped)?;
        Ok(out.f_transpose(1, 2)?.f_flatten(2, 3)?)
    }

    /// Few queries [b, t, h, d] and the many keys of a cache [b, k, s, d]. The queries of a group of
    /// heads, which share their keys, stand below each other as if they were positions: keys are read
    /// once a group, and every device has a kernel for it.
    fn grouped(&self, q_bthd: &Tensor, k: &Tensor, v: &Tensor, look: &Look) -> Result<Tensor> {
        let (b, t, _, d) = q_bthd.size4()?;
        let group = self.heads / self.kv_heads;
        let q = q_bthd.f_transpose(1, 2)?.f_reshape([b, self.kv_heads, group * t, d])?;
        let out =
            Tensor::f_scaled_dot_product_attention(&q, k, v, look.mask()?, 0.0, false, self.scale, false)?;
        let out_bhtd = out.f_reshape([b, self.heads, t, d])?;
        Ok(out_bhtd.f_transpose(1, 2)?.f_flatten(2, 3)?)
    }
}

fn sdpa(
    [q, k, v]: [&Tensor; 3],
    mask: Option<&Tensor>,
    causal: bool,
    scale: Option<f64>,
    grouped: bool,
) -> Result<Tensor> {
    Ok(Tensor::f_scaled_dot_product_attention(q, k, v, mask, 0.0, causal, scale, grouped)?)
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
