//! A teacher whose blocks are dealt out to the ranks (`dist.shard_teacher`): each holds some of them, and every pass
//! gathers the weights of one block while the one before it computes. Embedding, last norm and head are whole everywhere.
//!
//! Ranks need not ask equally often: a pass begins with asking who else has one, and who has none takes part in the
//! gathering alone, until nobody has any ([`Lent::rest`]).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use tch::Tensor;

use crate::config::RunConfig;
use crate::dist::{UnderWay, World};
use crate::error::{Error, Result};
use crate::model::{CausalLm, Lender, LoadOptions};
use crate::native;
use crate::weights::Params;

/// Elements that every tensor's place in a block's memory is a multiple of: as aligned as libtorch's own.
const ALIGNED: i64 = 64;

/// Blocks that are somebody else's are in two places by turns: one is used, the next one comes.
const PLACES: usize = 2;

/// The blocks of a model, as one rank has them.
#[derive(Debug)]
pub struct Lent {
    world: Rc<World>,
    /// The rank that holds each, and where its weights are here when it is used.
    blocks: Vec<(usize, Tensor)>,
    coming: RefCell<Option<UnderWay>>,
}

/// The number of the block that a tensor belongs to.
fn block_of(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

/// Elements of a tensor with what fills them up.
fn room(t: &Tensor) -> i64 {
    (t.numel() as i64 + ALIGNED - 1) / ALIGNED * ALIGNED
}

/// Loads the model of a folder, and of its blocks those that are this rank's.
pub fn load(folder: &Path, options: LoadOptions, world: &Rc<World>) -> Result<(CausalLm, Rc<Lent>)> {
    let wanted = |name: &str| block_of(name).is_none_or(|block| block % world.size() == world.rank());
    let mut lent = None;
    let mut model = CausalLm::load_some(folder, options, &wanted, |_, params| {
        lent = Some(Rc::new(Lent::of(params, world)?));
        Ok(())
    })?;
    let lent = lent.ok_or_else(|| Error::bug("a model was made without its blocks"))?;
    model.set_lender(lent.clone());
    Ok((model, lent))
}

impl Lent {
    /// Puts each block's tensors side by side, where they are held or where they come to.
    fn of(params: &mut Params, world: &Rc<World>) -> Result<Lent> {
        let mut members: BTreeMap<usize, Vec<(String, Tensor)>> = BTreeMap::new();
        for (name, tensor) in params.names().iter().zip(params.compute()) {
            if let Some(block) = block_of(name) {
                members.entry(block).or_default().push((name.clone(), tensor.shallow_clone()));
            }
        }
        let first = members.values().flatten().next();
        let (_, first) = first.ok_or_else(|| Error::bug("a model without blocks"))?;
        let on = (first.kind(), first.device());
        let size = |tensors: &Vec<(String, Tensor)>| tensors.iter().map(|(_, t)| room(t)).sum::<i64>();
        let largest = members.values().map(size).max().unwrap_or(0);
        let places: Vec<Tensor> =
            (0..PLACES).map(|_| Ok(Tensor::f_zeros([largest], on)?)).collect::<Result<_>>()?;
        let mut blocks = Vec::new();
        for (block, tensors) in members {
            let (owner, size) = (block % world.size(), size(&tensors));
            let own = owner == world.rank();
            let flat = match own {
                true => Tensor::f_zeros([size], on)?,
                false => places[block % PLACES].f_narrow(0, 0, size)?,
            };
            let mut at = 0;
            for (name, tensor) in tensors {
                let view = flat.f_narrow(0, at, tensor.numel() as i64)?.f_view(&tensor.size()[..])?;
                if own {
                    native::copy_all(&[view.shallow_clone()], &[tensor.shallow_clone()])?;
                }
                at += room(&tensor);
                params.replace(&name, view)?;
            }
            blocks.push((owner, flat));
        }
        Ok(Lent { world: world.clone(), blocks, coming: RefCell::new(None) })
    }

    /// Begins to bring a block, where there is one of this number.
    fn bring(&self, block: usize) -> Result<()> {
        let coming = match self.blocks.get(block) {
            Some((owner, flat)) => Some(self.world.begin_broadcast(flat, *owner)?),
            None => None,
        };
        self.coming.replace(coming);
        Ok(())
    }

    /// Whether any rank has a pass to make.
    fn any(&self, own: bool) -> Result<bool> {
        let flags = self.world.all_gather(&Tensor::f_from_slice(&[i64::from(own)])?)?;
        let flags = flags.iter().map(|t| Ok(t.f_int64_value(&[0])? > 0)).collect::<Result<Vec<bool>>>()?;
        Ok(flags.contains(&true))
    }

    /// Takes part in the passes of the others until nobody has one.
    pub fn rest(&self) -> Result<()> {
        while self.any(false)? {
            self.bring(0)?;
            (0..self.blocks.len()).try_for_each(|block| self.lend(block))?;
        }
        Ok(())
    }
}

impl Lender for Lent {
    fn begin(&self) -> Result<()> {
        self.any(true)?;
        self.bring(0)
    }

    fn lend(&self, block: usize) -> Result<()> {
        let coming = self.coming.take().ok_or_else(|| Error::bug("a block that nobody brings"))?;
        self.world.end_of(coming)?;
        self.bring(block + 1)
    }
}

/// How many of a teacher's numbers each process holds: of all, and of those in its blocks.
pub fn held_of(config: &RunConfig, (all, in_blocks): (u64, u64), layers: i64, ranks: usize) -> u64 {
    if ranks > 1 && config.settings.dist.shard_teacher {
        return held(all, in_blocks, layers as u64, ranks as u64);
    }
    all
}

/// The same where blocks are dealt out; what is not in them is whole everywhere.
fn held(all: u64, in_blocks: u64, layers: u64, ranks: u64) -> u64 {
    let block = in_blocks / layers.max(1);
    all - in_blocks + layers.div_ceil(ranks) * block + PLACES as u64 * block
}

/// How many numbers of a model's tensors are in blocks, and how many are not.
pub fn counted<'n>(tensors: impl Iterator<Item = (&'n str, u64)>) -> (u64, u64) {
    tensors.fold((0, 0), |(inside, outside), (name, n)| match block_of(name) {
        Some(_) => (inside + n, outside),
        None => (inside, outside + n),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Padding;
    use crate::train::tests::fixture;
    use tch::Kind;

    /// A world of one lends itself everything, and says what the whole model says.
    #[test]
    fn lent_blocks_are_the_models() {
        let _off = tch::no_grad_guard();
        for name in ["llama", "gpt2", "opt-pre", "gpt_neox", "qwen3"] {
            let folder = fixture(&format!("parity/{name}"));
            let options = LoadOptions::default();
            let whole = CausalLm::load(&folder, options).unwrap();
            let (lent, _) = load(&folder, options, &Rc::new(World::alone())).unwrap();
            let ids = Tensor::from_slice(&[1i64, 2, 3, 4]).view([1, 4]);
            let of = |model: &CausalLm| model.hidden(&ids, &Padding::Right).unwrap().to_kind(Kind::Double);
            assert_eq!(of(&whole), of(&lent), "{name}");
        }
    }

    #[test]
    fn ranks_hold_some_of_the_blocks() {
        assert_eq!(held(130, 120, 12, 1), 10 + 120 + 20);
        assert_eq!(held(130, 120, 12, 5), 10 + 30 + 20);
        let of =
            [("embed.weight", 7), ("layers.0.up.weight", 5), ("layers.11.up.weight", 5), ("norm.weight", 1)];
        assert_eq!(counted(of.into_iter()), (10, 8));
    }
}
