//! The model that teaches: asked now, or known by what was kept of it. Its body is loaded when it is first
//! asked, and goes when all that will be wanted of it is kept.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use retort_policies::objective::draws::Draws;
use retort_policies::objective::input::{Head, Side};
use tch::{Device, Kind, Tensor};

use super::batch::Micro;
use super::kept::Kept;
use super::lent::{self, Lent};
use super::setup::Options;
use super::update::states;
use crate::config::RunConfig;
use crate::dist::World;
use crate::error::{Error, Result};
use crate::model::config::Shape;
use crate::model::layers;
use crate::model::{CausalLm, LoadOptions, read_design};
use crate::weights::{Residence, WeightFiles};

/// A teacher.
#[derive(Debug)]
pub struct Teacher {
    folder: PathBuf,
    options: Options,
    shape: Shape,
    parameters: u64,
    in_blocks: u64,
    body: OnceCell<CausalLm>,
    /// Its blocks, where they are dealt out.
    lent: Option<Rc<Lent>>,
    /// Its head alone, once the body has gone.
    head: Option<layers::Head>,
    /// What is kept of it at the rows that are trained on.
    trained: Option<Record>,
    /// And at the held-out ones.
    held: Option<Record>,
}

/// What was kept.
#[derive(Debug)]
pub enum Record {
    /// Hidden states.
    States(Kept),
    /// So many drawn tokens a position.
    Tokens(Kept, usize),
}

/// Which rows a micro-batch is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// Those that are trained on.
    Trained,
    /// The held-out ones.
    Held,
    /// Others: sampled while the run goes on, or text beside the rows. Nothing is kept of them.
    New,
}

/// What a teacher says of a micro-batch.
#[derive(Debug)]
pub enum Said {
    /// The states that its head sees, [n, d].
    States(Tensor),
    /// Tokens that were drawn from it, [n, K], and the mean of their log-probabilities, [n].
    Tokens(Tensor, Tensor),
}

impl Teacher {
    /// The model of a folder. Nothing but its config is read.
    pub fn of(folder: PathBuf, options: &Options) -> Result<Self> {
        let design = read_design(&folder)?;
        let specs = design.specs();
        let counted = lent::counted(specs.iter().map(|s| (s.name.as_str(), s.numel() as u64)));
        Ok(Teacher {
            shape: design.shape().clone(),
            parameters: counted.0 + counted.1,
            in_blocks: counted.0,
            folder,
            options: *options,
            body: OnceCell::new(),
            lent: None,
            head: None,
            trained: None,
            held: None,
        })
    }

    /// A model at hand, as if it were of a folder.
    #[cfg(test)]
    pub fn at_hand(model: CausalLm, folder: PathBuf) -> Self {
        let (kind, device) = (model.kind(), model.device());
        let write = crate::weights::Dtype::F32;
        Teacher {
            shape: model.shape().clone(),
            parameters: model.params().compute().iter().map(|t| t.numel() as u64).sum(),
            in_blocks: 0,
            folder,
            options: Options { device, kind, write, resume: false },
            body: OnceCell::from(model),
            lent: None,
            head: None,
            trained: None,
            held: None,
        }
    }

    /// Takes its body away for good: who asks it for more than its head has an error.
    #[cfg(test)]
    pub fn lose_body(&mut self) -> Result<()> {
        self.head = Some(self.own_head()?);
        self.body.take();
        self.folder = PathBuf::from("gone");
        Ok(())
    }

    /// Its sizes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Its parameters.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// How many of them each of so many processes holds.
    pub fn held(&self, config: &RunConfig, ranks: usize) -> u64 {
        lent::held_of(config, (self.parameters, self.in_blocks), self.shape.layers, ranks)
    }

    /// Where it came from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it computes in, and where.
    pub fn computes(&self) -> (Kind, Device) {
        (self.options.kind, self.options.device)
    }

    /// Loads it, and holds no more of its blocks than this rank's share.
    pub fn deal_out(&mut self, world: &Rc<World>) -> Result<()> {
        let (model, lent) = lent::load(&self.folder, self.loading(), world)?;
        (self.body, self.lent) = (OnceCell::from(model), Some(lent));
        Ok(())
    }

    /// Where its blocks are dealt out: helps the other ranks to theirs until none of them asks it any more.
    pub fn rest(&self) -> Result<()> {
        self.lent.as_ref().map_or(Ok(()), |lent| lent.rest())
    }

    fn loading(&self) -> LoadOptions {
        let Options { kind, device, .. } = self.options;
        LoadOptions { kind, device, residence: Residence::Mapped, check_finite: true }
    }

    /// The whole model.
    pub fn body(&self) -> Result<&CausalLm> {
        if let Some(model) = self.body.get() {
            return Ok(model);
        }
        let model = CausalLm::load(&self.folder, self.loading())?;
        Ok(self.body.get_or_init(|| model))
    }

    /// What it says of a micro-batch of these rows.
    pub fn said(&self, among: Among, micro: &Micro, rows: &[u64]) -> Result<Said> {
        let record = match among {
            Among::Trained => self.trained.as_ref(),
            Among::Held => self.held.as_ref(),
            Among::New => None,
        };
        let device = self.options.device;
        let read = |kept: &Kept| -> Result<Vec<u8>> {
            let mut bytes = Vec::new();
            for (&row, &length) in rows.iter().zip(&micro.lengths) {
                kept.read(row, length, &mut bytes)?;
            }
            Ok(bytes)
        };
        let count = micro.tokens();
        match record {
            None => Ok(Said::States(states(self.body()?, micro)?)),
            Some(Record::States(kept)) => {
                let size = [count as i64, self.shape.head_input];
                let states_nd = Tensor::f_from_data_size(&read(kept)?, &size, self.options.kind)?;
                Ok(Said::States(states_nd.f_to_device(device)?))
            }
            Some(Record::Tokens(kept, draws)) => {
                let (ids, logs) = tokens(&read(kept)?, *draws);
                let ids_nk = Tensor::f_from_slice(&ids)?.f_view([count as i64, *draws as i64])?;
                Ok(Said::Tokens(
                    ids_nk.f_to_device(device)?,
                    Tensor::f_from_slice(&logs)?.f_to_device(device)?,
                ))
            }
        }
    }

    /// The same as a policy takes it.
    pub fn side<'a>(&'a self, said: &'a Said) -> Result<Side<'a>> {
        Ok(match said {
            Said::States(hidden_nd) => Side::Hidden { hidden_nd, head: self.head()? },
            Said::Tokens(ids_nk, log_n) => Side::Draws(Draws { ids_nk, log_n }),
        })
    }

    /// Its head.
    pub fn head(&self) -> Result<Head<'_>> {
        match &self.head {
            Some(own) => Ok(Head { weight_vd: &own.weight_vd, bias_v: own.bias_v.as_ref(), softcap: None }),
            None => Ok(self.body()?.scoring_head()),
        }
    }

    /// Goes on with what was kept, without the body. Where states are kept, a copy of the head stays.
    pub fn rely_on(&mut self, trained: Option<Record>, held: Option<Record>) -> Result<()> {
        let states = |r: &Option<Record>| matches!(r, Some(Record::States(_)));
        if states(&trained) || states(&held) {
            self.head = Some(self.own_head()?);
        }
        (self.trained, self.held) = (trained, held);
        self.body.take();
        Ok(())
    }

    /// A copy of the head: of the model that is there, or of one whose file is mapped as it is, so that
    /// nothing of the body is read.
    fn own_head(&self) -> Result<layers::Head> {
        let mapped;
        let model = match self.body.get() {
            Some(model) => model,
            None => {
                let design = read_design(&self.folder)?;
                let files = WeightFiles::open(&self.folder)?;
                let kind = files.plan(&design.naming(), design.specs(), design.shape().tied)?.main_kind();
                let options = LoadOptions { kind, check_finite: false, ..LoadOptions::default() };
                mapped = CausalLm::load(&self.folder, options)?;
                &mapped
            }
        };
        let (kind, device) = self.computes();
        let copy =
            |t: &Tensor| -> Result<Tensor> { Ok(t.f_to_kind(kind)?.f_to_device(device)?.f_detach_copy()?) };
        let own = model.head();
        Ok(layers::Head {
            weight_vd: copy(&own.weight_vd)?,
            bias_v: own.bias_v.as_ref().map(copy).transpose()?,
        })
    }
}

/// Bytes of the record of a position at which so many tokens were drawn.
pub fn tokens_width(draws: usize) -> usize {
    4 * draws + 4
}

/// Drawn tokens as bytes: the ids of a position (u32), and the mean of their log-probabilities (f32).
pub fn token_bytes(ids: &[i64], logs: &[f32], draws: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(logs.len() * tokens_width(draws));
    for (ids, log) in ids.chunks_exact(draws.max(1)).zip(logs) {
        ids.iter().for_each(|&id| bytes.extend((id as u32).to_le_bytes()));
        bytes.extend(log.to_le_bytes());
    }
    bytes
}

/// The same back.
fn tokens(bytes: &[u8], draws: usize) -> (Vec<i64>, Vec<f32>) {
    let (mut ids, mut logs) = (Vec::new(), Vec::new());
    for record in bytes.chunks_exact(tokens_width(draws)) {
        let (of_ids, of_log) = record.split_at(4 * draws);
        let words = of_ids.chunks_exact(4).filter_map(|b| b.first_chunk::<4>());
        ids.extend(words.map(|b| i64::from(u32::from_le_bytes(*b))));
        logs.push(of_log.first_chunk::<4>().map_or(0.0, |b| f32::from_le_bytes(*b)));
    }
    (ids, logs)
}

impl Record {
    /// A record of this kind.
    pub fn of(kept: Kept, draws: Option<usize>) -> Self {
        match draws {
            Some(draws) => Record::Tokens(kept, draws),
            None => Record::States(kept),
        }
    }
}

/// What there is to be kept of a batch of states: their bytes as they are.
pub fn state_bytes(states_nd: &Tensor) -> Result<Vec<u8>> {
    let flat = states_nd.f_to_device(Device::Cpu)?.f_contiguous()?;
    let mut bytes = vec![0; flat.numel() * flat.kind().elt_size_in_bytes()];
    flat.f_copy_data_u8(&mut bytes, flat.numel()).map_err(Error::from)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_tokens_come_back() {
        let (ids, logs) = (vec![3i64, 3, 70_000, 0, 1, 2], vec![-0.5f32, -7.25]);
        let bytes = token_bytes(&ids, &logs, 3);
        assert_eq!(bytes.len(), 2 * tokens_width(3));
        assert_eq!(tokens(&bytes, 3), (ids, logs));
    }
}
