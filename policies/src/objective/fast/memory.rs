//! The memory of a tensor as a slice of float32: the one place of this crate that needs `unsafe` for it.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};

/// The numbers of a tensor of float32 on the CPU that lies in memory without gaps, to be written. Nothing
/// else may use its memory meanwhile: it is a buffer of the caller's own, or a part of one.
pub(super) fn numbers(x: &mut Tensor) -> Result<&mut [f32]> {
    if x.device() != Device::Cpu || x.kind() != Kind::Float || !x.is_contiguous() {
        let found = format!("{:?} of {:?} on {:?}", x.size(), x.kind(), x.device());
        return Err(Error::handed("a buffer", "Float on the CPU, without gaps", found));
    }
    match x.numel() {
        0 => Ok(&mut []),
        // SAFETY: n numbers of this type lie there in a row, the tensor keeps them alive for as long as it
        // is borrowed, and the caller sees to it that nobody else looks at them.
        n => Ok(unsafe { std::slice::from_raw_parts_mut(x.data_ptr().cast(), n) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_float32_without_gaps_is_handed_out() {
        let mut x = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]);
        numbers(&mut x.narrow(0, 1, 1)).unwrap()[2] = -1.0;
        assert_eq!(numbers(&mut x).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, -1.0]);
        assert!(numbers(&mut x.narrow(0, 0, 0)).unwrap().is_empty());
        for mut wrong in [x.narrow(1, 0, 2), x.transpose(0, 1), x.to_kind(Kind::Double)] {
            assert!(numbers(&mut wrong).is_err());
        }
    }
}
