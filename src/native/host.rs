//! The memory of a tensor as a slice, for loops of our own on the CPU.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};

/// A type that a tensor's elements can have.
pub trait Element: Copy {
    /// libtorch's name for it.
    const KIND: Kind;
}

impl Element for f32 {
    const KIND: Kind = Kind::Float;
}

impl Element for f64 {
    const KIND: Kind = Kind::Double;
}

impl Element for i64 {
    const KIND: Kind = Kind::Int64;
}

impl Element for half::bf16 {
    const KIND: Kind = Kind::BFloat16;
}

/// The elements of a tensor on the CPU that lies in memory without gaps. Nothing may write to the tensor
/// while the slice is in use.
pub fn slice<T: Element>(tensor: &Tensor) -> Result<&[T]> {
    let n = checked::<T>(tensor)?;
    // SAFETY: as many elements of this type, in a row; the tensor keeps them alive for the borrow.
    Ok(if n == 0 { &[] } else { unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), n) } })
}

/// The same, to be written. The tensor must share its memory with no other that is in use.
pub fn slice_mut<T: Element>(tensor: &mut Tensor) -> Result<&mut [T]> {
    let n = checked::<T>(tensor)?;
    // SAFETY: as above, borrowed for this caller alone.
    Ok(if n == 0 { &mut [] } else { unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast(), n) } })
}

fn checked<T: Element>(tensor: &Tensor) -> Result<usize> {
    if tensor.device() != Device::Cpu || tensor.kind() != T::KIND || !tensor.is_contiguous() {
        return Err(Error::bug("a tensor is not in memory as it should be")
            .expected(format!("{:?} on the CPU, without gaps", T::KIND))
            .found(format!("{tensor:?}")));
    }
    Ok(tensor.numel())
}
