//! Where an update's gradients add up, and how they become those of all ranks: float32, side by side in buckets. A
//! bucket goes to the other ranks as soon as the backward pass has made the last gradient in it, while the pass still
//! runs.
//!
//! With `dist.zero` each rank gets a part of every bucket's sum: behind the last pass of an update (1), or behind each
//! pass, so that no rank ever holds the whole (2). Then all ranks must make equally many passes.

use std::collections::VecDeque;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use crate::dist::{Layout, Piece, UnderWay, World};
use crate::error::{Error, Result};
use crate::native::{self, arrivals::with_arrivals};
use crate::weights::Params;

/// Exchanges of buckets that may be under way together where their memory is given back behind them.
const TOGETHER: usize = 2;

/// Who holds what of a gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Every rank the whole of it.
    Whole,
    /// Every rank the whole of what it adds, and its part of the sum.
    Part,
    /// Every rank its part of the sum alone.
    PartAlone,
}

/// The gradients of an update.
#[derive(Debug)]
pub struct Gradients {
    layout: Rc<Layout>,
    rank: usize,
    held: Held,
    shapes: Vec<Vec<i64>>,
    device: Device,
    /// The buckets; where parts alone are held, those that a pass is about.
    buckets: Vec<Option<Tensor>>,
    /// One a parameter, over the buckets; none where parts alone are held.
    sums: Vec<Tensor>,
    /// This rank's part of each bucket's sum.
    parts: Vec<Tensor>,
}

/// How the parameters' gradients stand in buckets of so many MiB.
pub fn layout(params: &Params, ranks: usize, bucket: f64) -> Layout {
    let sizes: Vec<usize> = params.compute().iter().map(Tensor::numel).collect();
    Layout::new(&sizes, ranks, ((bucket * f64::from(1 << 20)) as usize / 4).max(1))
}

impl Gradients {
    /// Room for them.
    pub fn new(params: &Params, layout: Rc<Layout>, rank: usize, held: Held) -> Result<Self> {
        let device = params.compute().first().map_or(Device::Cpu, Tensor::device);
        let shapes = params.compute().iter().map(Tensor::size).collect();
        let buckets = (0..layout.buckets()).map(|_| None).collect();
        let (parts, sums) = (Vec::new(), Vec::new());
        let mut made = Gradients { layout, rank, held, shapes, device, buckets, sums, parts };
        if held != Held::PartAlone {
            let all = 0..made.shapes.len();
            made.sums = all.map(|place| made.view(place)).collect::<Result<_>>()?;
        }
        if held != Held::Whole {
            let parts = (0..made.layout.buckets()).map(|bucket| made.zeros(made.layout.part(bucket)));
            made.parts = parts.collect::<Result<_>>()?;
        }
        Ok(made)
    }

    fn zeros(&self, elements: usize) -> Result<Tensor> {
        Ok(Tensor::f_zeros([elements as i64], (Kind::Float, self.device))?)
    }

    /// One a parameter; none where each rank holds its part alone.
    pub fn sums(&self) -> &[Tensor] {
        &self.sums
    }

    /// Puts other tensors where gradients add up, and answers those.
    pub fn replace_sums(&mut self, sums: Vec<Tensor>) -> Vec<Tensor> {
        std::mem::replace(&mut self.sums, sums)
    }

    /// Forgets them all.
    pub fn clear(&self) -> Result<()> {
        native::zero_all(&self.sums)?;
        native::zero_all(&self.parts)
    }

    /// Whether all ranks must make equally many passes.
    pub fn in_step(&self) -> bool {
        self.held == Held::PartAlone
    }

    /// Where the gradient of a parameter adds up.
    pub fn view(&mut self, place: usize) -> Result<Tensor> {
        if let Some(sum) = self.sums.get(place) {
            return Ok(sum.shallow_clone());
        }
        let (bucket, member) = self.layout.place(place);
        let flat = self.bucket(bucket)?.f_narrow(0, member.at as i64, member.size as i64)?;
        Ok(flat.f_view(&self.shapes[place][..])?)
    }

    fn bucket(&mut self, bucket: usize) -> Result<Tensor> {
        if self.buckets[bucket].is_none() {
            self.buckets[bucket] = Some(self.zeros(self.layout.length(bucket))?);
        }
        let found = self.buckets[bucket].as_ref().map(Tensor::shallow_clone);
        found.ok_or_else(|| Error::bug("a bucket that is not there"))
    }

    /// What belongs to this rank of the sums of all, in the order of [`Layout::pieces`].
    pub fn pieces(&self) -> Result<Vec<Tensor>> {
        let piece = |p: Piece| Ok(self.parts[p.bucket].f_narrow(0, p.at as i64, p.size as i64)?);
        self.layout.pieces(self.rank).into_iter().map(piece).collect()
    }

    /// A backward pass whose gradients are added up. Where it is the `last` of the update, or parts alone are held, they
    /// go to the other ranks; `settled` are parameters that get none in this pass.
    pub fn pass(
        &mut self,
        world: &World,
        params: &Params,
        (last, settled): (bool, &[usize]),
        backward: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let (compute, mut failed) = (params.compute(), Ok(()));
        if world.is_alone() || !(last || self.in_step()) {
            // As they come, too: the gradients of all parameters are never held together beside their sums.
            let mut hear = |place| {
                failed = std::mem::replace(&mut failed, Ok(())).and_then(|()| self.take(compute, place))
            };
            with_arrivals(compute, &mut hear, backward)?;
            return failed;
        }
        let mut round = Round::new(self, world, compute);
        settled.iter().try_for_each(|&place| round.settle(place))?;
        let mut hear =
            |place| failed = std::mem::replace(&mut failed, Ok(())).and_then(|()| round.arrived(place));
        with_arrivals(compute, &mut hear, backward)?;
        failed?;
        round.finish()
    }

    /// Adds a parameter's gradient to its sum, and gives its memory back.
    fn take(&mut self, compute: &[Tensor], place: usize) -> Result<()> {
        let grad = compute[place].f_grad()?;
        if !grad.defined() {
            return Ok(());
        }
        native::add_all(&[self.view(place)?], &[grad], 1.0)?;
        native::drop_grads(&[compute[place].shallow_clone()])
    }

    /// A pass of a rank that has nothing to add, beside those of the others.
    pub fn empty_pass(&mut self, world: &World) -> Result<()> {
        Round::new(self, world, &[]).finish()
    }
}

/// A backward pass whose gradients go to the other ranks.
struct Round<'r> {
    gradients: &'r mut Gradients,
    world: &'r World,
    compute: &'r [Tensor],
    /// Parameters of each bucket whose gradient has not come.
    missing: Vec<usize>,
    /// Those whose gradient has.
    settled: Vec<bool>,
    /// The bucket that goes next: all ranks exchange them in one order.
    next: usize,
    /// What was begun; with the part of a sum that is to be added to the others.
    under_way: VecDeque<(UnderWay, Option<(usize, Tensor)>)>,
}

impl<'r> Round<'r> {
    fn new(gradients: &'r mut Gradients, world: &'r World, compute: &'r [Tensor]) -> Self {
        let all = 0..gradients.layout.buckets();
        let missing = all.map(|bucket| gradients.layout.members(bucket).len()).collect();
        let settled = vec![false; gradients.shapes.len()];
        Round { gradients, world, compute, missing, settled, next: 0, under_way: VecDeque::new() }
    }

    /// A gradient is whole.
    fn arrived(&mut self, place: usize) -> Result<()> {
        if self.settled[place] {
            return Err(Error::bug("a gradient that comes behind its bucket"));
        }
        self.gradients.take(self.compute, place)?;
        self.settle(place)
    }

    /// Nothing more will come of this parameter.
    fn settle(&mut self, place: usize) -> Result<()> {
        let (bucket, _) = self.gradients.layout.place(place);
        if !std::mem::replace(&mut self.settled[place], true) {
            self.missing[bucket] -= 1;
        }
        while self.missing.get(self.next) == Some(&0) {
            self.begin()?;
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<()> {
        let bucket = self.next;
        self.next += 1;
        let flat = self.gradients.bucket(bucket)?;
        let begun = match self.gradients.held {
            Held::Whole => (self.world.begin_sum(&flat)?, None),
            Held::Part => {
                self.make_room()?;
                (self.world.begin_part_of_sum(&flat, &self.gradients.parts[bucket])?, None)
            }
            Held::PartAlone => {
                self.make_room()?;
                // The exchange holds on to it.
                self.gradients.buckets[bucket] = None;
                let part = self.gradients.zeros(self.gradients.layout.part(bucket))?;
                (self.world.begin_part_of_sum(&flat, &part)?, Some((bucket, part)))
            }
        };
        self.under_way.push_back(begun);
        Ok(())
    }

    /// Gloo works on a copy of what is dealt out.
    fn make_room(&mut self) -> Result<()> {
        while self.under_way.len() >= TOGETHER {
            self.end()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some((under_way, part)) = self.under_way.pop_front() else { return Ok(()) };
        self.world.end_of(under_way)?;
        match part {
            Some((bucket, part)) => {
                native::add_all(&[self.gradients.parts[bucket].shallow_clone()], &[part], 1.0)
            }
            None => Ok(()),
        }
    }

    /// What has not gone goes now; all is waited for.
    fn finish(mut self) -> Result<()> {
        while self.next < self.missing.len() {
            self.begin()?;
        }
        while !self.under_way.is_empty() {
            self.end()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params() -> Params {
        let of = |name: &str, n: i64| (name.to_string(), Tensor::ones([n], (Kind::Float, Device::Cpu)));
        Params::trained(vec![of("a", 3), of("b", 5), of("c", 2)], Kind::Float).unwrap()
    }

    /// A world of one that goes through its exchanges: the sums are those of one that exchanges nothing, whoever holds what.
    #[test]
    fn a_world_of_one_can_exchange_with_itself() {
        use crate::dist::Launch;
        let world = World::meet(&Launch::alone(), std::time::Duration::from_secs(20), Device::Cpu).unwrap();
        for (held, passes) in [(Held::Whole, 1.0), (Held::Part, 1.0), (Held::PartAlone, 2.0)] {
            let params = params();
            let layout = Rc::new(Layout::new(&[3, 5, 2], 1, 6));
            let mut gradients = Gradients::new(&params, layout, 0, held).unwrap();
            for last in [false, true].into_iter().skip(2 - passes as usize) {
                let loss = params.compute()[0].sum(Kind::Float) * 2.0 + params.compute()[2].sum(Kind::Float);
                let ones = [Tensor::from(1f32)];
                gradients
                    .pass(&world, &params, (last, &[]), || native::backward(&[loss], &ones, false))
                    .unwrap();
            }
            let whole: Vec<Tensor> = if held == Held::Whole {
                [2, 1, 0].iter().map(|&n| gradients.sums()[n].shallow_clone()).collect()
            } else {
                gradients.pieces().unwrap()
            };
            let found = Vec::<f32>::try_from(Tensor::cat(&whole, 0)).unwrap();
            let expected: Vec<f32> = [vec![1.0; 2], vec![0.0; 5], vec![2.0; 3]].concat();
            assert_eq!(found, expected.iter().map(|x| x * passes as f32).collect::<Vec<_>>(), "{held:?}");
        }
    }

    /// A world of one: a pass adds to every sum, whoever holds what, and what is not reached adds nothing.
    #[test]
    fn passes_add_up() {
        let (params, world) = (params(), World::alone());
        let layout = Rc::new(Layout::new(&[3, 5, 2], 1, 6));
        let mut gradients = Gradients::new(&params, layout, 0, Held::Whole).unwrap();
        for last in [false, true] {
            let loss = params.compute()[0].sum(Kind::Float) * 2.0 + params.compute()[2].sum(Kind::Float);
            let ones = [Tensor::from(1f32)];
            gradients.pass(&world, &params, (last, &[]), || native::backward(&[loss], &ones, false)).unwrap();
        }
        let sums: Vec<Vec<f32>> = gradients.sums().iter().map(|t| Vec::try_from(t).unwrap()).collect();
        assert_eq!(sums, [vec![4.0; 3], vec![0.0; 5], vec![2.0; 2]]);
        gradients.clear().unwrap();
        assert!(gradients.sums().iter().all(|t| t.abs().sum(Kind::Float).double_value(&[]) == 0.0));
    }
}
