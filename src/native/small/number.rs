//! The float types that weights and states have, and the vector loads and exponentials of their loops.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::bf16;
pub use retort_policies::objective::exp::exp;

use crate::native::host::Element;

/// A float type that these loops read and write; they compute in float32.
pub trait Number: Element + Send + Sync {
    /// Its value.
    fn wide(self) -> f32;

    /// The nearest number, ties to even.
    fn narrow(x: f32) -> Self;

    /// Eight of them as float32.
    ///
    /// # Safety
    /// Eight numbers can be read at `at`, and the machine has AVX2.
    #[cfg(target_arch = "x86_64")]
    unsafe fn eight(at: *const Self) -> __m256;
}

impl Number for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(x: f32) -> f32 {
        x
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn eight(at: *const f32) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_loadu_ps(at) }
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn narrow(x: f32) -> bf16 {
        let bits = x.to_bits();
        // Without a branch, so that loops over it use the whole width of the machine.
        let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
        bf16::from_bits(if x.is_nan() { 0x7fc0 } else { rounded })
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn eight(at: *const bf16) -> __m256 {
        // SAFETY: the caller's.
        unsafe {
            let raw = _mm_loadu_si128(at.cast());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(raw)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bfloat16_rounds_as_its_crate_does() {
        for i in 0..=u16::MAX {
            let exact = bf16::from_bits(i);
            assert!(exact.is_nan() || bf16::narrow(exact.wide()) == exact);
            for low in [0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits(u32::from(i) << 16 | low);
                let (ours, theirs) = (bf16::narrow(x), bf16::from_f32(x));
                assert!(ours == theirs || ours.is_nan() && theirs.is_nan(), "{x:e}");
            }
        }
    }
}
