//! Steps on buffers that stay where they are, so that a GPU can record a step once and launch it as one
//! graph: a small model's step is hundreds of short kernels, and launching each costs more than running it.
//!
//! A recorded step is the same each time. So batches are filled up to a few widths with free rows of the
//! cache, and the keys that are read up to a few lengths, under a mask; one graph for each pair. On a
//! device that cannot record, the same steps run one by one.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

use super::distribution::{Distribution, draw};
use super::lanes::Lane;
use super::plain::{STEPS_UNSEEN, last_tokens, uniforms};
use super::rules::Rules;
use super::settings::Sampling;
use crate::error::Result;
use crate::model::CausalLm;
use crate::model::cache::{Cache, Next};
use crate::native::cuda::Graph;

/// Keys by which the length that is read grows; few in tests, whose contexts are short.
const KEYS: usize = if cfg!(test) { 16 } else { 256 };

/// How steps are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// Each with the rows and keys that it has.
    Fitted,
    /// As they would be recorded, one by one: what the other two are compared by.
    #[cfg(test)]
    Still,
    /// Recorded on this GPU.
    Recorded(usize),
}

impl How {
    /// What suits a model. Weights that come and go are not recorded: what brings them is no work of the GPU.
    pub fn of(model: &CausalLm) -> Self {
        match model.device() {
            Device::Cuda(n) if !model.is_lent() => How::Recorded(n),
            _ => How::Fitted,
        }
    }
}

/// The rows that a batch is filled up to.
fn width(lanes: usize, cache: &Cache) -> usize {
    let wide = if lanes > 8 { lanes.next_multiple_of(16) } else { lanes.next_power_of_two() };
    wide.min(cache.rows())
}

/// Tokens and places of one width of batch, and the graphs that were recorded over them.
#[derive(Debug)]
struct Stage {
    width: usize,
    ids_b1: Tensor,
    next: Next,
    /// By the keys that are read; none where recording failed.
    graphs: HashMap<usize, Option<Graph>>,
}

impl Stage {
    fn new(width: usize, cache: &Cache, device: Device) -> Result<Self> {
        Ok(Stage {
            width,
            ids_b1: Tensor::f_zeros([width as i64, 1], (Kind::Int64, device))?,
            next: places(&[], width, cache)?,
            graphs: HashMap::new(),
        })
    }

    /// Where the lanes stand, for `steps` steps: the keys that these read.
    fn set(&mut self, lanes: &[Lane], steps: usize, cache: &mut Cache) -> Result<usize> {
        self.next.set(&places(lanes, self.width, cache)?)?;
        self.ids_b1.f_narrow(0, 0, lanes.len() as i64)?.f_copy_(&last_tokens(lanes)?.f_unsqueeze(1)?)?;
        let longest = lanes.iter().map(|lane| lane.tokens.len()).max().unwrap_or(1);
        let keys = (longest - 1 + steps).next_multiple_of(KEYS).min(cache.room());
        cache.reach(keys as i64)?;
        self.next.hold(keys);
        Ok(keys)
    }

    /// Does `step` so many times.
    fn run(
        &mut self,
        (steps, keys): (usize, usize),
        how: How,
        step: &mut dyn FnMut(&Tensor, &mut Next) -> Result<()>,
    ) -> Result<()> {
        let How::Recorded(device) = how else {
            return (0..steps).try_for_each(|_| step(&self.ids_b1, &mut self.next));
        };
        let mut left = steps;
        if !self.graphs.contains_key(&keys) {
            // Once as it is, so that the libraries have their workspaces; then for the record.
            step(&self.ids_b1, &mut self.next)?;
            left -= 1;
            let graph = Graph::capture(device, || step(&self.ids_b1, &mut self.next));
            if let Err(why) = &graph {
                tracing::warn!("a decoding step could not be recorded as a graph and runs slower: {why}");
            }
            self.graphs.insert(keys, graph.ok());
        }
        match self.graphs.get(&keys).and_then(Option::as_ref) {
            Some(graph) => (0..left).try_for_each(|_| graph.replay()),
            None => (0..left).try_for_each(|_| step(&self.ids_b1, &mut self.next)),
        }
    }
}

/// The next place of each lane; rows without a lane write to their own row's front, which nobody reads.
fn places(lanes: &[Lane], width: usize, cache: &Cache) -> Result<Next> {
    let rows: Vec<usize> = (0..width).collect();
    let start = |row: usize| lanes.get(row).map_or(0, |lane| lane.tokens.len() - 1);
    let starts: Vec<usize> = rows.iter().map(|&row| start(row)).collect();
    cache.next(&rows, &starts, &vec![1; width])
}

/// Several steps of one model, draws and all, without a word to the host.
#[derive(Debug)]
pub(super) struct Blocks<'a> {
    model: &'a CausalLm,
    settings: &'a Sampling,
    how: How,
    by_width: HashMap<usize, Block>,
}

/// The buffers of one width.
#[derive(Debug)]
struct Block {
    stage: Stage,
    /// Random numbers of each step and row.
    uniforms_sb: Tensor,
    /// Which step it is.
    at_1: Tensor,
    /// Tokens, their own log-probabilities and the drawn ones, of each step and row.
    ids_sb: Tensor,
    own_sb: Tensor,
    drawn_sb: Tensor,
}

impl<'a> Blocks<'a> {
    pub fn new(model: &'a CausalLm, settings: &'a Sampling, how: How) -> Self {
        Blocks { model, settings, how, by_width: HashMap::new() }
    }

    /// So many steps of all lanes: tokens and log-probabilities [steps, b].
    pub fn run(&mut self, lanes: &[Lane], steps: usize, cache: &mut Cache) -> Result<[Tensor; 3]> {
        let (model, settings, device) = (self.model, self.settings, self.model.device());
        let width = width(lanes.len(), cache);
        let block = match self.by_width.entry(width) {
            std::collections::hash_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::hash_map::Entry::Vacant(free) => free.insert(Block::new(width, cache, device)?),
        };
        let keys = block.stage.set(lanes, steps, cache)?;
        let (s, b) = (steps as i64, lanes.len() as i64);
        let uniforms_sb = Tensor::f_zeros(block.uniforms_sb.size(), (Kind::Double, Device::Cpu))?;
        uniforms_sb.f_narrow(0, 0, s)?.f_narrow(1, 0, b)?.f_copy_(&uniforms(
            lanes,
            steps,
            settings,
            Device::Cpu,
        )?)?;
        block.uniforms_sb.f_copy_(&uniforms_sb)?;
        let _ = block.at_1.f_zero_()?;
        let Block { stage, uniforms_sb, at_1, ids_sb, own_sb, drawn_sb } = block;
        stage.run((steps, keys), self.how, &mut |ids_b1, next| {
            let hidden = model.advance(ids_b1, next, cache)?;
            next.step()?;
            let logits = model.next_logits(&hidden.f_squeeze_dim(1)?)?;
            let distribution = Distribution::of(&logits, settings, &Rules::default())?;
            let ids_b = if settings.greedy {
                distribution.most_probable()?
            } else {
                draw(&[(&distribution, 1.0)], &uniforms_sb.f_index_select(0, at_1)?.f_squeeze_dim(0)?)?
            };
            let scored = distribution.score(&ids_b)?;
            for (all_sb, one_b) in [(&*ids_sb, &ids_b), (own_sb, &scored.own_b), (drawn_sb, &scored.drawn_b)]
            {
                let _ = all_sb.shallow_clone().f_index_copy_(0, at_1, &one_b.f_unsqueeze(0)?)?;
            }
            let _ = at_1.f_add_scalar_(1)?;
            ids_b1.shallow_clone().f_copy_(&ids_b.f_unsqueeze(1)?)?;
            Ok(())
        })?;
        let seen = |all_sb: &Tensor| -> Result<Tensor> { Ok(all_sb.f_narrow(0, 0, s)?.f_narrow(1, 0, b)?) };
        Ok([seen(ids_sb)?, seen(own_sb)?, seen(drawn_sb)?])
    }
}

impl Block {
    fn new(width: usize, cache: &Cache, device: Device) -> Result<Self> {
        let zeros = |kind| Tensor::f_zeros([STEPS_UNSEEN as i64, width as i64], (kind, device));
        Ok(Block {
            stage: Stage::new(width, cache, device)?,
            uniforms_sb: zeros(Kind::Double)?,
            at_1: Tensor::f_zeros([1], (Kind::Int64, device))?,
            ids_sb: zeros(Kind::Int64)?,
            own_sb: zeros(Kind::Float)?,
            drawn_sb: zeros(Kind::Float)?,
        })
    }
}

/// Single steps of one model, whose logits the host does something with.
#[derive(Debug)]
pub(super) struct Passes<'a> {
    model: &'a CausalLm,
    how: How,
    by_width: HashMap<usize, (Stage, Option<[Tensor; 2]>)>,
}

impl<'a> Passes<'a> {
    pub fn new(model: &'a CausalLm, how: How) -> Self {
        Passes { model, how, by_width: HashMap::new() }
    }

    /// The model that steps.
    pub fn model(&self) -> &'a CausalLm {
        self.model
    }

    /// The last states and the next token's logits of every lane, fed its last token: [b, channels] and
    /// [b, vocabulary], to be used before the next step.
    pub fn step(&mut self, lanes: &[Lane], cache: &mut Cache) -> Result<[Tensor; 2]> {
        let model = self.model;
        if self.how == How::Fitted {
            let next = places(lanes, lanes.len(), cache)?;
            let ids_b1 = last_tokens(lanes)?.f_to_device(model.device())?.f_unsqueeze(1)?;
            let hidden = model.advance(&ids_b1, &next, cache)?.f_squeeze_dim(1)?;
            let logits = model.next_logits(&hidden)?;
            return Ok([hidden, logits]);
        }
        let width = width(lanes.len(), cache);
        let (stage, kept) = match self.by_width.entry(width) {
            std::collections::hash_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert((Stage::new(width, cache, model.device())?, None))
            }
        };
        let keys = stage.set(lanes, 1, cache)?;
        stage.run((1, keys), self.how, &mut |ids_b1, next| {
            let hidden = model.advance(ids_b1, next, cache)?.f_squeeze_dim(1)?;
            let logits = model.next_logits(&hidden)?;
            match kept {
                None => *kept = Some([hidden, logits]),
                Some([states, all]) => {
                    states.f_copy_(&hidden)?;
                    all.f_copy_(&logits)?;
                }
            }
            Ok(())
        })?;
        let b = lanes.len() as i64;
        match kept {
            Some([hidden, logits]) => Ok([hidden.f_narrow(0, 0, b)?, logits.f_narrow(0, 0, b)?]),
            None => Err(crate::error::Error::bug("a step that answered nothing")),
        }
    }
}
