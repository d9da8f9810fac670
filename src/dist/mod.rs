//! Several processes that train one model together: who they are, and what they exchange. Layer 1: uses `native`,
//! `signal`, `seed`.
//!
//! A process is a rank of a world. Every rank goes through the same exchanges in the same order; an exchange gives
//! every rank the same bits. A world of one exchanges nothing and costs nothing. What is exchanged goes through
//! c10d's Gloo, over the processors' memory, and tensors on GPUs through its NCCL where all ranks have that.
//!
//! No rank waits for ever: one that is gone or does not move is named, and the others end with an error.

pub mod cost;
mod deal;
mod devices;
mod launch;
mod layout;
mod link;
mod under_way;
mod watch;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tch::{Device, Tensor};

use crate::error::{Cause, Error, Result};
use crate::native::{self, group::Exchanged};
pub use deal::{Dealing, deal};
pub use launch::{Keeper, Launch, children};
pub use layout::{BUCKET, Layout, Member, Piece};
use link::Link;
pub use under_way::{Bytes, UnderWay};

/// The processes of a run, as one of them sees them.
#[derive(Debug)]
pub struct World {
    rank: usize,
    size: usize,
    local: usize,
    link: Option<Link>,
    /// Whether all have agreed to stop for a signal.
    stops: AtomicBool,
    /// Pieces of work that were dealt out for whoever is free.
    deals: AtomicU64,
}

impl World {
    /// A world of this process alone.
    pub fn alone() -> World {
        World {
            rank: 0,
            size: 1,
            local: 1,
            link: None,
            stops: AtomicBool::new(false),
            deals: AtomicU64::new(0),
        }
    }

    /// Meets the others where the launch says. A rank that is gone or does not move for `timeout` is an error
    /// from then on; to come at first they have five times as long.
    pub fn join(launch: &Launch, timeout: Duration) -> Result<World> {
        World::join_on(launch, timeout, Device::Cpu)
    }

    /// The same of a rank that computes on this device.
    pub fn join_on(launch: &Launch, timeout: Duration, device: Device) -> Result<World> {
        if launch.size == 1 { Ok(World::alone()) } else { World::meet(launch, timeout, device) }
    }

    /// The same, where a world of one goes through its exchanges too: for what they cost.
    pub fn meet(launch: &Launch, timeout: Duration, device: Device) -> Result<World> {
        let link = Link::join(launch, timeout)?.with_device(device)?;
        let (stops, deals) = (AtomicBool::new(false), AtomicU64::new(0));
        let (rank, size, local) = (launch.rank, launch.size, launch.local_size);
        Ok(World { rank, size, local, link: Some(link), stops, deals })
    }

    /// Whether tensors on this device are exchanged where they are.
    pub fn exchanges_on(&self, device: Device) -> bool {
        self.link.as_ref().is_some_and(|link| device == Device::Cpu || link.device() == Some(device))
    }

    /// The number of this process, from 0 on.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many processes there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether this process exchanges nothing with anybody.
    pub fn is_alone(&self) -> bool {
        self.link.is_none()
    }

    /// How many of them share this machine.
    pub fn local_size(&self) -> usize {
        self.local
    }

    /// Whether this is the one that writes files and talks to the user.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// How long this process has spent in exchanges, waiting for the others in.
    pub fn spent(&self) -> Duration {
        self.link.as_ref().map_or(Duration::ZERO, Link::spent)
    }

    /// Sums each tensor over all ranks, in place.
    pub fn all_reduce(&self, tensors: &[Tensor]) -> Result<()> {
        let Some(link) = &self.link else { return Ok(()) };
        let mut rest = tensors;
        while !rest.is_empty() {
            let (bucket, behind) = rest.split_at(first_bucket(rest));
            match bucket {
                [one] if link.takes(one) => link.exchange(Exchanged::Sum, Some(one), None, 0)?,
                many => sum_together(link, many)?,
            }
            rest = behind;
        }
        Ok(())
    }

    /// What each rank has, in the ranks' order; of the same shape everywhere.
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>> {
        let Some(link) = &self.link else { return Ok(vec![tensor.shallow_clone()]) };
        let own = link.near(tensor)?;
        let shape: Vec<i64> = std::iter::once(self.size as i64).chain(own.size()).collect();
        let all = Tensor::f_zeros(&shape[..], (own.kind(), own.device()))?;
        link.exchange(Exchanged::All, Some(&own), Some(&all), 0)?;
        (0..self.size).map(|rank| Ok(all.f_select(0, rank as i64)?.f_to_device(tensor.device())?)).collect()
    }

    /// Gives the tensors of one rank to all, in place.
    pub fn broadcast(&self, tensors: &[Tensor], root: usize) -> Result<()> {
        let Some(link) = &self.link else { return Ok(()) };
        for tensor in tensors {
            let sent = link.near(tensor)?;
            link.exchange(Exchanged::OfOne, Some(&sent), None, root)?;
            if sent.data_ptr() != tensor.data_ptr() {
                native::copy_all(&[tensor.shallow_clone()], &[sent])?;
            }
        }
        Ok(())
    }

    /// This rank's part of the sum over all ranks: the tensor is cut along its first dimension, which the number of
    /// ranks must divide.
    pub fn reduce_scatter(&self, tensor: &Tensor) -> Result<Tensor> {
        let Some(link) = &self.link else { return Ok(tensor.shallow_clone()) };
        let own = link.near(tensor)?;
        let mut shape = own.size();
        match shape.first_mut() {
            Some(rows) if *rows % self.size as i64 == 0 => *rows /= self.size as i64,
            _ => return Err(Error::bug("a tensor that cannot be cut into parts for all ranks")),
        }
        let part = Tensor::f_zeros(&shape[..], (own.kind(), own.device()))?;
        link.exchange(Exchanged::PartOfSum, Some(&own), Some(&part), 0)?;
        Ok(part.f_to_device(tensor.device())?)
    }

    /// Waits until all ranks are here.
    pub fn barrier(&self) -> Result<()> {
        self.link.as_ref().map_or(Ok(()), |link| link.exchange(Exchanged::Nothing, None, None, 0))
    }

    /// The bytes of each rank, in the ranks' order.
    pub fn gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        if self.link.is_none() {
            return Ok(vec![bytes.to_vec()]);
        }
        let lengths = self.all_gather(&Tensor::f_from_slice(&[bytes.len() as i64])?)?;
        let lengths =
            lengths.iter().map(|t| Ok(t.f_int64_value(&[0])? as usize)).collect::<Result<Vec<usize>>>()?;
        let longest = lengths.iter().copied().max().unwrap_or(0).max(1);
        let mut padded = bytes.to_vec();
        padded.resize(longest, 0);
        let all = self.all_gather(&native::group::of_bytes(&padded)?)?;
        let cut = |(t, length): (&Tensor, usize)| {
            let mut bytes: Vec<u8> = Vec::try_from(t.f_contiguous()?)?;
            bytes.truncate(length);
            Ok(bytes)
        };
        all.iter().zip(lengths).map(cut).collect()
    }

    /// The numbers of each rank, in the ranks' order, to the bit.
    pub fn gather_numbers(&self, numbers: &[f64]) -> Result<Vec<Vec<f64>>> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let of = |bytes: Vec<u8>| {
            let number = |b: &[u8]| f64::from_le_bytes(b.try_into().unwrap_or_default());
            bytes.chunks_exact(8).map(number).collect()
        };
        Ok(self.gather_bytes(&bytes)?.into_iter().map(of).collect())
    }

    /// The sum of each of these numbers over all ranks. A rank with nothing to add may have none.
    pub fn sum(&self, numbers: &[f64]) -> Result<Vec<f64>> {
        if self.link.is_none() {
            return Ok(numbers.to_vec());
        }
        let all = self.gather_numbers(numbers)?;
        let mut sums = vec![0.0; all.iter().map(Vec::len).max().unwrap_or(0)];
        for own in &all {
            sums.iter_mut().zip(own).for_each(|(sum, x)| *sum += x);
        }
        Ok(sums)
    }

    /// What came of a piece of work of every rank by itself, agreed on by all: a signal at one of them is one at all.
    /// Another error is this rank's own, and ends it; [`World::end`] tells the others.
    pub fn agree<T>(&self, done: Result<T>) -> Result<T> {
        if self.link.is_none() {
            return done;
        }
        let number = match &done {
            Ok(_) => 0,
            Err(e) => match e.cause() {
                Cause::Stopped(number) => number,
                _ => return done,
            },
        };
        let heard = self.all_gather(&Tensor::f_from_slice(&[number])?)?;
        let numbers = heard.iter().map(|t| Ok(t.f_int64_value(&[0])? as u8)).collect::<Result<Vec<u8>>>()?;
        let heard = numbers.into_iter().max().unwrap_or(0);
        self.stops.fetch_or(heard > 0, Ordering::Relaxed);
        match (heard, done) {
            (_, Err(e)) => Err(e),
            (0, Ok(done)) => Ok(done),
            (number, Ok(_)) => Err(Error::new(Cause::Stopped(number), "stopped by a signal")),
        }
    }

    /// Goes through this rank's share of some work, and then through what nobody has taken yet: a rank that is done early
    /// takes more. All ranks deal the same, one dealing behind the other; which pieces go together is the same whoever
    /// takes them.
    pub fn work(&self, dealing: &Dealing, each: &mut dyn FnMut(&[usize]) -> Result<()>) -> Result<()> {
        let number = self.deals.fetch_add(1, Ordering::Relaxed);
        each(&dealing.first[self.rank])?;
        let Some(link) = &self.link else {
            return dealing.later.iter().try_for_each(|pieces| each(pieces));
        };
        while let Some(pieces) = dealing.later.get(link.take(number)?) {
            each(pieces)?;
        }
        Ok(())
    }

    /// Lets rank 0 do something first, which the others then find done.
    pub fn first<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.is_first() {
            let done = work()?;
            self.barrier()?;
            return Ok(done);
        }
        self.barrier()?;
        work()
    }

    /// Ends a run with what came of it at this rank. Where all end alike, each waits until the others are done; else
    /// the others are told how this one ends.
    pub fn end<T>(&self, done: Result<T>) -> Result<T> {
        let Some(link) = &self.link else { return done };
        match done {
            Ok(done) => self.barrier().map(|()| done),
            Err(e) if self.stops.load(Ordering::Relaxed) && matches!(e.cause(), Cause::Stopped(_)) => {
                self.barrier()?;
                Err(e)
            }
            Err(e) => {
                link.ends(&e);
                Err(e)
            }
        }
    }
}

impl Default for World {
    fn default() -> Self {
        World::alone()
    }
}

/// How many of the first tensors go together: as many of one type on one device as a bucket has room for.
fn first_bucket(tensors: &[Tensor]) -> usize {
    let bytes = |t: &Tensor| t.numel() * t.kind().elt_size_in_bytes();
    let Some(first) = tensors.first() else { return 0 };
    let mut total = 0;
    let fits = |t: &&Tensor| {
        total += bytes(t);
        total <= BUCKET && t.kind() == first.kind() && t.device() == first.device()
    };
    tensors.iter().take_while(fits).count().max(1)
}

/// Sums tensors as one.
fn sum_together(link: &Link, tensors: &[Tensor]) -> Result<()> {
    let flat = tensors.iter().map(|t| Ok(t.f_reshape([-1])?)).collect::<Result<Vec<_>>>()?;
    let all = link.near(&Tensor::f_cat(&flat, 0)?)?;
    link.exchange(Exchanged::Sum, Some(&all), None, 0)?;
    let (mut from, mut start) = (Vec::new(), 0);
    for tensor in tensors {
        let own = all.f_narrow(0, start, tensor.numel() as i64)?;
        from.push(own.f_view(&tensor.size()[..])?.f_to_device(tensor.device())?);
        start += tensor.numel() as i64;
    }
    native::copy_all(tensors, &from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    /// A world of one gives back what it got, and touches nothing.
    #[test]
    fn a_world_of_one_exchanges_nothing() {
        let world = World::alone();
        let tensor = Tensor::from_slice(&[1f32, 2.0]);
        world.all_reduce(&[tensor.shallow_clone()]).unwrap();
        world.broadcast(&[tensor.shallow_clone()], 0).unwrap();
        assert_eq!(Vec::<f32>::try_from(&tensor).unwrap(), [1.0, 2.0]);
        assert_eq!(world.all_gather(&tensor).unwrap().len(), 1);
        assert_eq!(world.reduce_scatter(&tensor).unwrap().size(), [2]);
        assert_eq!(world.gather_bytes(b"x").unwrap(), [b"x"]);
        assert_eq!(world.sum(&[1.5]).unwrap(), [1.5]);
        assert!(world.agree(Ok(())).is_ok() && world.barrier().is_ok() && world.spent().is_zero());
        let stopped = world.agree::<()>(Err(Error::new(Cause::Stopped(15), "stopped"))).unwrap_err();
        assert_eq!(stopped.cause(), Cause::Stopped(15));
    }

    #[test]
    fn buckets_have_room_for_so_much() {
        let of = |n: i64, kind| Tensor::zeros([n], (kind, Device::Cpu));
        let small = [of(8, Kind::Float), of(8, Kind::Float), of(8, Kind::Double)];
        assert_eq!(first_bucket(&small), 2, "another type begins another bucket");
        let large = [of(BUCKET as i64, Kind::Float), of(8, Kind::Float)];
        assert_eq!(first_bucket(&large), 1);
        let full = [of(BUCKET as i64 / 4, Kind::Float), of(1, Kind::Float)];
        assert_eq!(first_bucket(&full), 1);
    }
}
