//! What is put in front of a linear map to learn how much its inputs matter: a factor on each of them, whose gradient
//! tells what leaving one out would do, or a place where the inputs are kept to be looked at.

use std::sync::{Arc, Mutex, PoisonError};

use tch::Tensor;

use crate::error::Result;

/// A tap on the inputs of a linear map.
#[derive(Debug)]
pub enum Tap {
    /// Factors, one a channel, in float32.
    Mask(Tensor),
    /// Where the inputs of the last pass are kept.
    Watch(Arc<Mutex<Option<Tensor>>>),
}

impl Tap {
    /// The inputs as the map is to see them.
    pub fn pass(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Tap::Mask(mask_f) => masked(x, mask_f),
            Tap::Watch(kept) => {
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(x.f_detach()?);
                Ok(x.shallow_clone())
            }
        }
    }

    /// Over the same memory.
    pub fn share(&self) -> Self {
        match self {
            Tap::Mask(mask_f) => Tap::Mask(mask_f.shallow_clone()),
            Tap::Watch(kept) => Tap::Watch(kept.clone()),
        }
    }
}

/// A state times float32 factors of its channels, in its own type.
pub fn masked(x: &Tensor, mask_d: &Tensor) -> Result<Tensor> {
    Ok(x.f_mul(&mask_d.f_to_kind(x.kind())?)?)
}
