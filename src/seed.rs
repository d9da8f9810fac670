//! The only source of randomness. Layer 0: uses nothing of the project.
//!
//! Every random number is a pure function of four counters, `(run, stream, step, index)`. Nothing is
//! carried from one draw to the next, so a run resumes in the middle, cuts its batches as it likes
//! and reorders its rows without changing a single draw. The function is Philox4x64-10 (Salmon et
//! al., "Parallel random numbers: as easy as 1, 2, 3", 2011): the key is `(run, stream)`, the counter
//! `(step, index, block, 0)`.

use std::convert::Infallible;

use rand::TryRng;

/// What a draw is for. Two streams never share a number, whatever their steps and indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Stream {
    /// Random weights of a model that is not loaded.
    Weights = 1,
    /// The order of rows and documents.
    Shuffle = 2,
    /// A sampled token.
    Sample = 3,
    /// The coin between teacher and student.
    Mix = 4,
    /// Which source a batch comes from.
    Source = 5,
    /// Noise on gradients.
    Noise = 6,
    /// Dropout, where it is asked for.
    Dropout = 7,
    /// Resampling in an evaluation.
    Bootstrap = 8,
    /// Tokens drawn from a teacher, to be kept.
    Draws = 9,
    /// Rows of the quickstart's task.
    Task = 10,
    /// What goes where nothing is measured of it.
    Prune = 16,
}

const MULTIPLIERS: [u64; 2] = [0xD2E7_470E_E14C_6C93, 0xCA5A_8263_9512_1157];
const WEYL: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0xBB67_AE85_84CA_A73B];

/// Ten rounds of Philox4x64: 256 random bits of a 128-bit key and a 256-bit counter.
fn philox(mut key: [u64; 2], mut counter: [u64; 4]) -> [u64; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let wide = [
            u128::from(counter[0]) * u128::from(MULTIPLIERS[0]),
            u128::from(counter[2]) * u128::from(MULTIPLIERS[1]),
        ];
        let high = wide.map(|w| (w >> 64) as u64);
        let low = wide.map(|w| w as u64);
        counter = [high[1] ^ counter[1] ^ key[0], low[1], high[0] ^ counter[3] ^ key[1], low[0]];
    }
    counter
}

/// The draw at `(run, stream, step, index)`.
///
/// ```
/// use retort::seed::{Stream, draw};
/// assert_eq!(draw(1, Stream::Sample, 7, 3), draw(1, Stream::Sample, 7, 3));
/// assert_ne!(draw(1, Stream::Sample, 7, 3), draw(1, Stream::Mix, 7, 3));
/// ```
pub fn draw(run: u64, stream: Stream, step: u64, index: u64) -> u64 {
    philox([run, stream as u64], [step, index, 0, 0])[0]
}

/// A uniform number in [0, 1) at these counters, with 53 random bits.
pub fn uniform(run: u64, stream: Stream, step: u64, index: u64) -> f64 {
    (draw(run, stream, step, index) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// A generator for whoever needs many numbers at one place (a shuffle, a normal tensor): it starts
/// with [`draw`] at the same counters.
pub fn generator(run: u64, stream: Stream, step: u64, index: u64) -> Generator {
    Generator { key: [run, stream as u64], place: [step, index], block: 0, words: [0; 4], left: 0 }
}

/// Draws at one place, one after the other; made by [`generator`], read through `rand::Rng`.
#[derive(Debug, Clone)]
pub struct Generator {
    key: [u64; 2],
    place: [u64; 2],
    block: u64,
    words: [u64; 4],
    left: usize,
}

impl Generator {
    fn word(&mut self) -> u64 {
        if self.left == 0 {
            self.words = philox(self.key, [self.place[0], self.place[1], self.block, 0]);
            self.block = self.block.wrapping_add(1);
            self.left = 4;
        }
        self.left -= 1;
        self.words[3 - self.left]
    }
}

impl TryRng for Generator {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.word() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.word())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let word = self.word().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    /// The known answers of Random123's own test file (kat_vectors, philox4x64 10).
    #[test]
    fn philox_known_answers() {
        let all = u64::MAX;
        assert_eq!(
            philox([0, 0], [0; 4]),
            [0x16554d9eca36314c, 0xdb20fe9d672d0fdc, 0xd7e772cee186176b, 0x7e68b68aec7ba23b]
        );
        assert_eq!(
            philox([all, all], [all; 4]),
            [0x87b092c3013fe90b, 0x438c3c67be8d0224, 0x9cc7d7c69cd777b6, 0xa09caebf594f0ba0]
        );
    }

    /// numpy.random.Philox(key=[5, 3], counter=[6, 2, 0, 0]).random_raw(4); numpy counts up first.
    #[test]
    fn draws_equal_numpys() {
        let mut g = generator(5, Stream::Sample, 7, 2);
        assert_eq!(draw(5, Stream::Sample, 7, 2), 0xb55fb9724edf03b8);
        let numpy = [0xb55fb9724edf03b8, 0x660c5a787441527f, 0x2d03c6e240387583, 0x12e57f629f3b9c40];
        assert_eq!([(); 4].map(|()| g.next_u64()), numpy);
    }

    #[test]
    fn a_generator_starts_with_the_draw_and_goes_on() {
        let mut g = generator(9, Stream::Weights, 4, 2);
        assert_eq!(g.next_u64(), draw(9, Stream::Weights, 4, 2));
        let rest: std::collections::HashSet<u64> = (0..1000).map(|_| g.next_u64()).collect();
        assert_eq!(rest.len(), 1000);
    }

    /// Mean and variance of many neighbouring counters: what a bad mix of the counters would break.
    #[test]
    fn neighbours_are_uniform() {
        let n = 20_000;
        for stream in [Stream::Sample, Stream::Mix] {
            let u: Vec<f64> = (0..n).map(|i| uniform(1, stream, i / 100, i % 100)).collect();
            let mean = u.iter().sum::<f64>() / n as f64;
            let var = u.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
            assert!((mean - 0.5).abs() < 5.0 / (12.0 * n as f64).sqrt(), "mean {mean}");
            assert!((var - 1.0 / 12.0).abs() < 2e-3, "variance {var}");
        }
    }
}
