//! Are all weights finite? Looked up in the file's own bytes, on every core, before they are used.

use rayon::prelude::*;
use tch::Kind;

/// How many numbers a task looks at.
const CHUNK: usize = 1 << 20;

/// The index of the first number that is infinite or not a number, in bytes of this float type.
///
/// ```
/// use retort::weights::finite::first_bad;
/// let bytes: Vec<u8> = [1f32, f32::NAN].iter().flat_map(|x| x.to_le_bytes()).collect();
/// assert_eq!(first_bad(&bytes, tch::Kind::Float), Some(1));
/// ```
pub fn first_bad(bytes: &[u8], kind: Kind) -> Option<usize> {
    match kind {
        Kind::Double => {
            scan::<8>(bytes, |b| u64::from_le_bytes(b) & 0x7ff0_0000_0000_0000 == 0x7ff0_0000_0000_0000)
        }
        Kind::Float => scan::<4>(bytes, |b| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000),
        Kind::Half => scan::<2>(bytes, |b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
        Kind::BFloat16 => scan::<2>(bytes, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
        _ => None,
    }
}

fn scan<const N: usize>(bytes: &[u8], bad: impl Fn([u8; N]) -> bool + Sync) -> Option<usize> {
    let (numbers, _) = bytes.as_chunks::<N>();
    numbers.par_chunks(CHUNK).enumerate().find_map_first(|(n, chunk)| {
        // Without a branch, and without a count to widen, the compiler looks at many numbers at once.
        let any = chunk.iter().fold(false, |any, &b| any | bad(b));
        any.then(|| n * CHUNK + chunk.iter().position(|&b| bad(b)).unwrap_or(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float_type_and_both_infinities() {
        let f32s = |x: &[f32]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
        assert_eq!(first_bad(&f32s(&[1.0, f32::MAX, -0.0, f32::MIN_POSITIVE]), Kind::Float), None);
        assert_eq!(first_bad(&f32s(&[1.0, f32::NEG_INFINITY]), Kind::Float), Some(1));
        let half: Vec<u8> = [half::f16::MAX, half::f16::NAN].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(first_bad(&half, Kind::Half), Some(1));
        assert_eq!(first_bad(&half[..2], Kind::Half), None);
        let brain: Vec<u8> =
            [half::bf16::MAX, half::bf16::INFINITY].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(first_bad(&brain, Kind::BFloat16), Some(1));
        let double: Vec<u8> = [f64::MAX, f64::NAN].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(first_bad(&double, Kind::Double), Some(1));
    }

    #[test]
    fn the_first_of_many_is_named() {
        let mut numbers = vec![1f32; 3 * CHUNK];
        numbers[2 * CHUNK + 5] = f32::NAN;
        numbers[2 * CHUNK + 9] = f32::NAN;
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(first_bad(&bytes, Kind::Float), Some(2 * CHUNK + 5));
    }
}
