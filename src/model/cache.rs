//! The keys and values of a batch, allocated once and written in place.
//!
//! A row of the cache holds one sequence from its first token on; rows may differ in length. The cache
//! does not know how long they are: each pass says where its tokens begin ([`Next`]), so a token may be
//! computed again at its place, and a row that has ended may be taken by another sequence.

use tch::{Device, Kind, Tensor};

use super::config::Shape;
use super::sight::{Keep, Look, Sight, each_window};
use crate::error::{Error, Result};
use crate::native::small::{self, Behind};

/// How many places beyond those that a pass needs are cleared with them.
const CLEARED_AT_ONCE: i64 = 63;

/// Keys and values of one layer, for all rows: [rows, k, room + 1, d]. The last place of each row takes
/// what stands for padding and is never read.
#[derive(Debug)]
pub struct LayerCache {
    keys: Tensor,
    values: Tensor,
}

/// The keys and values of every layer.
#[derive(Debug)]
pub struct Cache {
    shape: Shape,
    pub(super) layers: Vec<LayerCache>,
    rows: i64,
    room: i64,
    /// Places of each row that have been cleared, from the front.
    cleared: i64,
    /// Cosines and sines of every position: [positions, rotated].
    rope: Option<(Tensor, Tensor)>,
    kind: Kind,
    device: Device,
}

/// Where the tokens of a pass stand: made once, then moved on by one token at a time without a word to
/// the host, or set anew.
#[derive(Debug)]
pub struct Next {
    /// The place of each token in its row: [b, t].
    positions_bt: Tensor,
    /// The same as a place in the flattened cache: [b * kv_heads * t].
    places: Tensor,
    /// The rows of the cache, where they are not the first ones in order.
    rows: Option<Tensor>,
    /// The least and the most tokens that a row has before this pass.
    least: i64,
    most: i64,
    even: bool,
    /// Keys that every pass reads, where that must not change from pass to pass.
    held: Option<i64>,
}

impl Cache {
    /// Room for `rows` sequences of up to `room` tokens each.
    pub fn new(shape: &Shape, rows: usize, room: usize, kind: Kind, device: Device) -> Result<Self> {
        let (rows, room) = (rows as i64, room as i64);
        if rows < 1 || room < 1 || room > shape.context {
            return Err(Error::bug("a cache of no use")
                .expected(format!("rows of 1 to {} tokens", shape.context))
                .found(format!("{rows} rows of {room} tokens")));
        }
        let layers = (0..shape.layers).map(|_| LayerCache::new(shape, rows, room, kind, device));
        let positions = Tensor::f_arange(room, (Kind::Int64, device))?;
        Ok(Cache {
            shape: shape.clone(),
            layers: layers.collect::<Result<_>>()?,
            rows,
            room,
            cleared: 0,
            rope: shape.rope.as_ref().map(|rope| rope.tables(&positions, kind, device)).transpose()?,
            kind,
            device,
        })
    }

    /// Sequences that fit.
    pub fn rows(&self) -> usize {
        self.rows as usize
    }

    /// Tokens of each that fit.
    pub fn room(&self) -> usize {
        self.room as usize
    }

    /// The sight of whole prompts of up to `tokens` tokens (padding behind), into these rows.
    pub(super) fn prompts(&mut self, rows: &[usize], tokens: i64) -> Result<Sight> {
        if tokens > self.room || rows.iter().any(|&r| r as i64 >= self.rows) {
            return Err(Error::bug("prompts do not fit their cache").expected(self.room).found(tokens));
        }
        self.reach(tokens)?;
        let k = self.shape.kv_heads;
        let rows_bk: Vec<i64> = rows.iter().flat_map(|&r| (0..k).map(move |h| r as i64 * k + h)).collect();
        let rows_bk = Tensor::f_from_slice(&rows_bk)?.f_to_device(self.device)?;
        Sight::prompts(&self.shape, tokens, rows_bk, self.kind, self.device)
    }

    /// Where `counts[i]` tokens behind the first `starts[i]` of row `rows[i]` stand; all rows get as many
    /// as the one with the most, and what is too much is padding.
    pub fn next(&self, rows: &[usize], starts: &[usize], counts: &[usize]) -> Result<Next> {
        let (t, k) = (counts.iter().copied().max().unwrap_or(0) as i64, self.shape.kv_heads);
        let fits = |i: usize| (starts[i] + counts[i]) as i64 <= self.room && (rows[i] as i64) < self.rows;
        if t == 0 || rows.len() != starts.len() || rows.len() != counts.len() || !(0..rows.len()).all(fits) {
            return Err(Error::bug("tokens do not fit their cache").expected(self.room));
        }
        let mut positions = Vec::with_capacity(rows.len() * t as usize);
        let mut places = Vec::with_capacity(rows.len() * (k * t) as usize);
        for ((&row, &start), &count) in rows.iter().zip(starts).zip(counts) {
            let place = |j: i64| if j < count as i64 { start as i64 + j } else { self.room };
            positions.extend((0..t).map(|j| place(j).min(self.room - 1)));
            let head = |h: i64| (row as i64 * k + h) * (self.room + 1);
            places.extend((0..k).flat_map(|h| (0..t).map(move |j| head(h) + place(j))));
        }
        let in_order = rows.iter().enumerate().all(|(i, &r)| i == r);
        let wanted: Vec<i64> = rows.iter().map(|&r| r as i64).collect();
        let on_device =
            |x: &[i64]| -> Result<Tensor> { Ok(Tensor::f_from_slice(x)?.f_to_device(self.device)?) };
        Ok(Next {
            positions_bt: on_device(&positions)?.f_view([-1, t])?,
            places: on_device(&places)?,
            rows: if in_order { None } else { Some(on_device(&wanted)?) },
            least: starts.iter().copied().min().unwrap_or(0) as i64,
            most: (0..rows.len()).map(|i| starts[i] + counts[i]).max().unwrap_or(0) as i64 - t,
            even: (1..rows.len()).all(|i| starts[i] == starts[0] && counts[i] == counts[0]),
            held: None,
        })
    }

    /// The sight of the tokens at `next`, reading keys up to the longest row's last.
    pub(super) fn sight(&mut self, next: &Next) -> Result<Sight> {
        let (b, t) = next.positions_bt.size2()?;
        let keys = next.held.unwrap_or(next.most + t);
        self.reach(keys)?;
        let rope = match &self.rope {
            None => None,
            Some((cos, sin)) => {
                let flat = next.positions_bt.f_view([-1])?;
                let of = |table: &Tensor| table.f_index_select(0, &flat)?.f_view([b, t, 1, -1]);
                Some((of(cos)?, of(sin)?))
            }
        };
        let group = self.shape.heads / self.shape.kv_heads;
        let looks = each_window(&self.shape, |window| {
            let first = match (window, next.held) {
                (Some(w), None) => (next.least + 1 - w).max(0),
                _ => 0,
            };
            if t == 1 && next.even && next.held.is_none() {
                return Ok(Look::all(first));
            }
            Ok(Look::behind(&next.positions_bt, (first, keys), window, group, self.kind))
        })?;
        let keep = Keep::Next {
            places: next.places.shallow_clone(),
            rows: next.rows.as_ref().map(Tensor::shallow_clone),
            keys,
        };
        Ok(Sight::next(next.positions_bt.shallow_clone(), rope, looks, keep))
    }

    /// Clears the places up to `keys` that no pass has reached yet. Memory is not cleared when it is
    /// allocated, as what is not reached costs nothing; but what a mask hides is still multiplied, by
    /// zero, and must be a number.
    pub fn reach(&mut self, keys: i64) -> Result<()> {
        if keys > self.room {
            return Err(Error::bug("a cache is full").expected(self.room).found(keys));
        }
        if keys > self.cleared {
            let until = (keys + CLEARED_AT_ONCE).min(self.room);
            for layer in &mut self.layers {
                for part in [&mut layer.keys, &mut layer.values] {
                    let _ = part.f_narrow(2, self.cleared, until - self.cleared)?.f_zero_()?;
                }
            }
            self.cleared = until;
        }
        Ok(())
    }

    /// Copies the first `tokens` tokens of rows to other rows: `(from, to)`. No row may be both.
    pub fn copy(&mut self, pairs: &[(usize, usize)], tokens: usize) -> Result<()> {
        if pairs.is_empty() || tokens == 0 {
            return Ok(());
        }
        let side = |f: fn(&(usize, usize)) -> usize| -> Result<Tensor> {
            let rows: Vec<i64> = pairs.iter().map(|p| f(p) as i64).collect();
            Ok(Tensor::f_from_slice(&rows)?.f_to_device(self.device)?)
        };
        let (from, to) = (side(|p| p.0)?, side(|p| p.1)?);
        for layer in &mut self.layers {
            for part in [&mut layer.keys, &mut layer.values] {
                let mut seen = part.f_narrow(2, 0, tokens as i64)?;
                let moved = seen.f_index_select(0, &from)?;
                let _ = seen.f_index_copy_(0, &to, &moved)?;
            }
        }
        Ok(())
    }
}

impl Next {
    /// One token further in every row. Only for a pass of one token a row.
    pub fn step(&mut self) -> Result<()> {
        let _ = self.positions_bt.f_add_scalar_(1)?;
        let _ = self.places.f_add_scalar_(1)?;
        self.least += 1;
        self.most += 1;
        Ok(())
    }

    /// Every pass reads the first `keys` keys of each row from here on, and a mask says which count: a pass
    /// that is recorded is the same each time.
    pub fn hold(&mut self, keys: usize) {
        self.held = Some(keys as i64);
    }

    /// The places of another, in the memory of this one. Both must be of as many tokens.
    pub fn set(&mut self, other: &Next) -> Result<()> {
        self.positions_bt.f_copy_(&other.positions_bt)?;
        self.places.f_copy_(&other.places)?;
        (self.least, self.most, self.even) = (other.least, other.most, other.even);
        Ok(())
    }
}

impl LayerCache {
    fn new(shape: &Shape, rows: i64, room: i64, kind: Kind, device: Device) -> Result<Self> {
        let size = [rows, shape.kv_heads, room + 1, shape.head_dim];
        let room = || Tensor::f_empty(size, (kind, device));
        Ok(LayerCache { keys: room()?, values: room()? })
    }

    /// Keeps the keys and values [b, t, k, d] of whole prompts, and answers them as the pass looks at them:
    /// [b, k, t, d].
    pub(super) fn prompts(&mut self, rows_bk: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let one = |kept: &mut Tensor, new_btkd: &Tensor| -> Result<Tensor> {
            let (b, t, k, d) = new_btkd.size4()?;
            let new_bktd = new_btkd.f_transpose(1, 2)?;
            let mut flat = kept.f_flatten(0, 1)?.f_narrow(1, 0, t)?;
            let _ = flat.f_index_copy_(0, rows_bk, &new_bktd.f_reshape([b * k, t, d])?)?;
            Ok(new_bktd)
        };
        Ok((one(&mut self.keys, k)?, one(&mut self.values, v)?))
    }

    /// Keeps keys and values [b, t, k, d] at these places of the flattened cache [b * k * t].
    pub(super) fn put(&mut self, places: &Tensor, k: &Tensor, v: &Tensor) -> Result<()> {
        for (kept, new_btkd) in [(&mut self.keys, k), (&mut self.values, v)] {
            if !small::keep(kept, new_btkd, places)? {
                let new_bktd = new_btkd.f_transpose(1, 2)?;
                let d = kept.size()[3];
                let _ = kept.f_view([-1, d])?.f_index_copy_(0, places, &new_bktd.f_reshape([-1, d])?)?;
            }
        }
        Ok(())
    }

    /// Attention of few queries to what is here, where this machine has loops for it.
    pub(super) fn attend(&self, q_bthd: &Tensor, behind: Behind<'_>) -> Result<Option<Tensor>> {
        small::attend(q_bthd, &self.keys, &self.values, behind)
    }

    /// The keys and values of `b` rows from `first` up to `keys`: [b, k, keys - first, d].
    pub(super) fn seen(
        &self,
        b: i64,
        rows: Option<&Tensor>,
        (first, keys): (i64, i64),
    ) -> Result<(Tensor, Tensor)> {
        let one = |kept: &Tensor| -> Result<Tensor> {
            let seen = kept.f_narrow(2, first, keys - first)?;
            Ok(match rows {
                None if b == kept.size()[0] => seen,
                None => seen.f_narrow(0, 0, b)?,
                Some(rows) => seen.f_index_select(0, rows)?,
            })
        };
        Ok((one(&self.keys)?, one(&self.values)?))
    }
}
