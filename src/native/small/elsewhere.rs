//! Machines without these loops: everything is libtorch's.

use tch::{Kind, Tensor};

use super::{Behind, Order};
use crate::error::Result;

pub fn linear(_: &Tensor, _: &Tensor, _: Order, _: Option<&Tensor>, _: Kind) -> Result<Option<Tensor>> {
    Ok(None)
}

pub fn rms_norm(_: &Tensor, _: &Tensor, _: f64) -> Result<Option<Tensor>> {
    Ok(None)
}

pub fn turn(_: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
    Ok(None)
}

pub fn gate(_: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
    Ok(None)
}

pub fn keep(_: &mut Tensor, _: &Tensor, _: &Tensor) -> Result<bool> {
    Ok(false)
}

pub fn attend(_: &Tensor, _: &Tensor, _: &Tensor, _: Behind<'_>) -> Result<Option<Tensor>> {
    Ok(None)
}
