//! A rank's part of the float32 masters, where `dist.zero` deals them out: stretches of tensors, one optimizer entry
//! each. What the model computes with is whole on every rank, and gathered again behind every update.

use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use crate::dist::{Layout, Piece, World};
use crate::error::Result;
use crate::native;
use crate::optim::Entry;
use crate::weights::Params;

/// The part.
#[derive(Debug)]
pub struct Shard {
    layout: Rc<Layout>,
    pieces: Vec<Piece>,
    /// In float32 over what the model computes with, else by themselves.
    masters: Vec<Tensor>,
    names: Vec<String>,
    shapes: Vec<Vec<i64>>,
}

impl Shard {
    /// A rank's part of these parameters, whose own masters are given back where they are not what the model computes
    /// with.
    pub fn take(params: &mut Params, layout: Rc<Layout>, rank: usize) -> Result<Shard> {
        let pieces = layout.pieces(rank);
        let apart = params.compute().first().is_some_and(|t| t.kind() != Kind::Float);
        let piece = |p: &Piece| -> Result<Tensor> {
            let flat = params.masters()[p.tensor].f_detach()?.f_view([-1])?;
            let own = flat.f_narrow(0, p.from as i64, p.size as i64)?;
            Ok(if apart { own.f_detach_copy()? } else { own })
        };
        let masters = pieces.iter().map(piece).collect::<Result<_>>()?;
        if apart {
            params.forget_masters();
        }
        let shapes = params.compute().iter().map(Tensor::size).collect();
        Ok(Shard { layout, pieces, masters, names: params.names().to_vec(), shapes })
    }

    /// What the optimizer goes over, in the order of [`Layout::pieces`].
    pub fn entries(&self) -> Vec<Entry> {
        let of = |(piece, master): (&Piece, &Tensor)| Entry {
            name: self.names[piece.tensor].clone(),
            start: Some(piece.from),
            matrix: self.shapes[piece.tensor].len() > 1,
            master: master.shallow_clone(),
        };
        self.pieces.iter().zip(&self.masters).map(of).collect()
    }

    /// Gives every rank the parts of all, bucket by bucket, in this type, and lets `take` have each tensor's values.
    fn gather(
        &self,
        world: &World,
        (kind, device): (Kind, Device),
        take: &mut dyn FnMut(usize, Tensor) -> Result<()>,
    ) -> Result<()> {
        for bucket in 0..self.layout.buckets() {
            let (part, length) = (self.layout.part(bucket), self.layout.length(bucket));
            let own = Tensor::f_zeros([part as i64], (kind, device))?;
            let (mut into, mut from) = (Vec::new(), Vec::new());
            for (piece, master) in self.pieces.iter().zip(&self.masters).filter(|(p, _)| p.bucket == bucket) {
                into.push(own.f_narrow(0, piece.at as i64, piece.size as i64)?);
                from.push(master.shallow_clone());
            }
            native::copy_all(&into, &from)?;
            let all = Tensor::f_zeros([length as i64], (kind, device))?;
            world.end_of(world.begin_gather(&own, &all)?)?;
            for member in self.layout.members(bucket) {
                let values = all.f_narrow(0, member.at as i64, member.size as i64)?;
                take(member.tensor, values.f_view(&self.shapes[member.tensor][..])?)?;
            }
        }
        Ok(())
    }

    /// Rounds the masters of all ranks into what the model computes with.
    pub fn publish(&self, world: &World, params: &Params) -> Result<()> {
        let Some(first) = params.compute().first() else { return Ok(()) };
        let mut take =
            |place: usize, values| native::copy_all(&[params.compute()[place].shallow_clone()], &[values]);
        self.gather(world, (first.kind(), first.device()), &mut take)
    }

    /// The whole masters by name, in the processors' memory of rank 0; nothing elsewhere.
    pub fn whole(&self, world: &World) -> Result<Vec<(String, Tensor)>> {
        let device = self.masters.first().map_or(Device::Cpu, Tensor::device);
        let mut all: Vec<Option<Tensor>> = self.names.iter().map(|_| None).collect();
        self.gather(world, (Kind::Float, device), &mut |place, values| {
            if world.is_first() {
                all[place] = Some(values.f_to_device(Device::Cpu)?.f_detach_copy()?);
            }
            Ok(())
        })?;
        Ok(self.names.iter().cloned().zip(all).filter_map(|(name, t)| Some((name, t?))).collect())
    }
}
