//! Exchanges that are begun and ended apart, so that a rank goes on meanwhile; and what was exchanged, counted.

use serde::Serialize;
use tch::Tensor;

use super::World;
use super::link::{Link, Pending};
use crate::error::Result;
use crate::native::{self, group::Exchanged};

/// An exchange that was begun; what it is about stays until [`World::end_of`].
#[derive(Debug)]
pub struct UnderWay {
    pending: Option<Pending>,
    /// What it changes, where that is not what was exchanged, and what was.
    back: Option<(Tensor, Tensor)>,
}

/// Bytes that a process put into exchanges, or got of all others from them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// Sums, of which every rank has the whole.
    pub summed: u64,
    /// Sums, of which every rank has a part: the whole.
    pub scattered: u64,
    /// What all ranks have together.
    pub gathered: u64,
    /// What one rank gave to all.
    pub given: u64,
}

impl Bytes {
    /// What has come since.
    pub fn since(self, before: Bytes) -> Bytes {
        Bytes {
            summed: self.summed - before.summed,
            scattered: self.scattered - before.scattered,
            gathered: self.gathered - before.gathered,
            given: self.given - before.given,
        }
    }
}

impl World {
    /// Bytes that this process has put into exchanges of tensors, by what was done with them.
    pub fn bytes(&self) -> Bytes {
        self.link.as_ref().map_or(Bytes::default(), Link::bytes)
    }

    /// Begins to sum a tensor over all ranks in place, while this one goes on.
    pub fn begin_sum(&self, tensor: &Tensor) -> Result<UnderWay> {
        self.begin(Exchanged::Sum, tensor, None, 0)
    }

    /// Begins to sum a tensor over all ranks; each gets its part of it, as [`World::reduce_scatter`] has them.
    pub fn begin_part_of_sum(&self, tensor: &Tensor, part: &Tensor) -> Result<UnderWay> {
        self.begin(Exchanged::PartOfSum, tensor, Some(part), 0)
    }

    /// Begins to give every rank what each has, one behind the other.
    pub fn begin_gather(&self, own: &Tensor, all: &Tensor) -> Result<UnderWay> {
        self.begin(Exchanged::All, own, Some(all), 0)
    }

    /// Begins to give a tensor of one rank to all, in place.
    pub fn begin_broadcast(&self, tensor: &Tensor, root: usize) -> Result<UnderWay> {
        self.begin(Exchanged::OfOne, tensor, None, root)
    }

    /// An exchange of tensors that are contiguous; those of a GPU without NCCL go by way of the processors' memory.
    fn begin(&self, what: Exchanged, input: &Tensor, out: Option<&Tensor>, root: usize) -> Result<UnderWay> {
        let Some(link) = &self.link else { return Ok(UnderWay { pending: None, back: None }) };
        let sent = link.near(input)?;
        let received = match out {
            Some(t) if t.device() == sent.device() => Some(t.f_detach()?),
            Some(t) => Some(Tensor::f_zeros(&t.size()[..], (t.kind(), sent.device()))?),
            None => None,
        };
        let changed = received.as_ref().unwrap_or(&sent);
        let target = out.unwrap_or(input);
        let away = changed.data_ptr() != target.data_ptr();
        let back = away.then(|| (target.shallow_clone(), changed.shallow_clone()));
        let pending = link.begin(what, Some(&sent), received.as_ref(), root)?;
        Ok(UnderWay { pending: Some(pending), back })
    }

    /// Waits until an exchange is over. All ranks begin and end theirs in the same order.
    pub fn end_of(&self, under_way: UnderWay) -> Result<()> {
        let (Some(link), Some(pending)) = (&self.link, under_way.pending) else { return Ok(()) };
        link.end(pending)?;
        match under_way.back {
            Some((to, from)) => native::copy_all(&[to], &[from]),
            None => Ok(()),
        }
    }
}
