//! Tensors on GPUs are exchanged over NCCL where every rank has a GPU of its own and NCCL is to be had; else they go
//! by way of the processors' memory. All ranks agree on that when they meet.

use std::collections::BTreeSet;
use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::link::Link;
use super::watch::{Fault, Lookout};
use crate::error::{Error, Result};
use crate::native::group::{self, Exchanged, Group};
use crate::native::nccl::{self, Joining};
use crate::signal;

/// Where a rank leaves why NCCL did not take it, so that the others wait no longer.
const REFUSED: &str = "nccl-refused";

/// The ties over NCCL.
#[derive(Debug)]
pub struct Devices {
    index: usize,
    group: Group,
}

impl Devices {
    /// Joins where all can. Every rank calls it, whatever its device is.
    pub fn join(link: &Link, device: Device) -> Result<Option<Devices>> {
        let own = match device {
            Device::Cuda(index) => nccl::check().and_then(|()| nccl::name(index)).map(|name| (index, name)),
            _ => Err(Error::user("this rank computes on the processor")),
        };
        let name = own.as_ref().ok().map(|(_, name)| *name);
        let index = match (all_apart(link, name)?, own) {
            (true, Ok((index, _))) => index,
            (_, Err(e)) if device.is_cuda() => {
                tracing::warn!("gradients go by way of the processors' memory: {e}");
                return Ok(None);
            }
            _ if device.is_cuda() => {
                let why = "not every process has a GPU of its own";
                tracing::warn!("gradients go by way of the processors' memory: {why}");
                return Ok(None);
            }
            _ => return Ok(None),
        };
        let group = come(link, index)?;
        let all = heard(link, &[u8::from(group.is_some())])?;
        match group {
            Some(group) if all.iter().all(|came| came == &[1]) => Ok(Some(Devices { index, group })),
            group => {
                if let Some(group) = group {
                    group.abandon();
                }
                let why = link.store.find(REFUSED)?.unwrap_or_default();
                let why = String::from_utf8_lossy(&why).into_owned();
                tracing::warn!("gradients go by way of the processors' memory: {why}");
                Ok(None)
            }
        }
    }

    /// Whose tensors go this way.
    pub fn device(&self) -> Device {
        Device::Cuda(self.index)
    }

    /// Whether a tensor goes this way.
    pub fn takes(&self, tensor: &Tensor) -> bool {
        use Kind::{BFloat16, Double, Float, Half, Int, Int8, Int64, Uint8};
        let known = [BFloat16, Double, Float, Half, Int, Int8, Int64, Uint8];
        tensor.device() == self.device() && known.contains(&tensor.kind())
    }

    /// The group, for an exchange that begins when the GPU has done what it was given: so long as it computes, this
    /// rank has not come to the exchange, and is not waited for as one that has.
    pub fn ready(&self) -> Result<&Group> {
        nccl::settle(self.index)?;
        Ok(&self.group)
    }

    /// Leaves when an exchange broke.
    pub fn abandon(self) {
        self.group.abandon();
    }
}

/// Whether every rank has a GPU that no other has.
fn all_apart(link: &Link, own: Option<[u8; 16]>) -> Result<bool> {
    let mut said = [0; 17];
    if let Some(name) = own {
        said[0] = 1;
        said[1..].copy_from_slice(&name);
    }
    Ok(apart(&heard(link, &said)?))
}

fn apart(said: &[Vec<u8>]) -> bool {
    let names: BTreeSet<_> = said.iter().collect();
    names.len() == said.len() && said.iter().all(|said| said.first() == Some(&1))
}

/// So many bytes of each rank.
fn heard(link: &Link, own: &[u8]) -> Result<Vec<Vec<u8>>> {
    let all = Tensor::f_zeros([(link.size * own.len()) as i64], (Kind::Uint8, Device::Cpu))?;
    link.exchange(Exchanged::All, Some(&group::of_bytes(own)?), Some(&all), 0)?;
    Ok(Vec::<u8>::try_from(&all)?.chunks_exact(own.len()).map(<[u8]>::to_vec).collect())
}

/// The group over NCCL; none where it refuses a rank, or does not come about in time.
fn come(link: &Link, index: usize) -> Result<Option<Group>> {
    let refuse = |why: &str| link.store.set_first(REFUSED, why.as_bytes()).map(|_| None);
    let (begun, mut lookout) = (Instant::now(), Lookout::new());
    let joining = match Joining::begin(&link.store, link.rank, link.size, index) {
        Ok(joining) => joining,
        Err(e) => return refuse(&e.to_string()),
    };
    loop {
        signal::pass();
        match joining.wait(link.pause) {
            Ok(Some(group)) => return Ok(Some(group)),
            Ok(None) => {}
            Err(e) => return refuse(&e.to_string()),
        }
        if link.store.find(REFUSED)?.is_some() {
            return Ok(None);
        }
        let fault = match Fault::look(&link.store)? {
            Some(fault) => Some(fault),
            None => lookout.look(&link.store, link.size, (link.rank, link.begun()), link.timeout)?,
        };
        if let Some(fault) = fault {
            return Err(fault.leave(&link.store).error());
        }
        if begun.elapsed() > link.timeout.mul_f64(0.9) {
            return refuse("NCCL did not connect the processes in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_apart_where_each_has_a_gpu_of_its_own() {
        let with = |last: u8| [[1].as_slice(), &[7; 15], &[last]].concat();
        assert!(apart(&[with(1)]) && apart(&[with(1), with(2)]));
        assert!(!apart(&[with(1), with(1)]), "two on one GPU");
        assert!(!apart(&[with(1), vec![0; 17]]) && !apart(&[vec![0; 17]]), "one without");
    }
}
