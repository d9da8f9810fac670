//! `x w^T` and `x w` for few rows of x: AVX2 and FMA, each weight read from memory once.
//!
//! The order of a sum does not depend on the number of rows: along the inputs, in eight lanes for weights
//! [out, in], in one for weights [in, out].
#![expect(unsafe_op_in_unsafe_fn, reason = "loads of vectors, each inside the slice that its loop walks")]

use std::arch::x86_64::*;
use std::ops::Range;

use super::number::Number;

/// Bytes of weights, as float32, that stay in the first cache while all rows look at them.
const BLOCK: usize = 16 << 10;
/// Inputs that are summed before their sum is added to the others'.
const PART: usize = 128;
/// Bytes of a cache line.
const LINE: usize = 64;

/// One product of few rows.
pub struct Product<'a, W> {
    /// [rows, k].
    pub x: &'a [f32],
    /// [n, k], or [k, n] where the input comes first.
    pub w: &'a [W],
    /// [n].
    pub bias: Option<&'a [f32]>,
    pub rows: usize,
    pub k: usize,
    pub n: usize,
}

impl<W: Number> Product<'_, W> {
    /// These columns of `x w^T + bias` into `out` [rows, n]. `k` is a multiple of eight.
    ///
    /// # Safety
    /// The machine has AVX2 and FMA; nothing else touches these columns of `out`.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn output_first(&self, part: Range<usize>, out: *mut f32) {
        let at_once = (BLOCK / (4 * self.k)).max(4) / 4 * 4;
        let mut wide = Vec::new();
        for start in part.clone().step_by(at_once) {
            let columns = start..(start + at_once).min(part.end);
            let block = &self.w[columns.start * self.k..columns.end * self.k];
            let ahead = at_once * self.k;
            if self.rows > 4 && size_of::<W>() < 4 {
                // Many rows look at each weight: widen it once.
                wide.resize(block.len(), 0f32);
                for at in (0..block.len()).step_by(8) {
                    let from = block.as_ptr().add(at);
                    prefetch(from.wrapping_add(ahead));
                    _mm256_storeu_ps(wide.as_mut_ptr().add(at), W::eight(from));
                }
                self.block::<f32>(wide.as_ptr(), columns, None, out);
            } else {
                // One row waits for memory alone: calling for more than it reads only slows it down.
                let next = (self.rows > 1).then(|| block.as_ptr().wrapping_add(ahead));
                self.block(block.as_ptr(), columns, next, out);
            }
        }
    }

    /// All rows on a block of columns; meanwhile as many weights are called for from `ahead` on.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn block<V: Number>(
        &self,
        w: *const V,
        columns: Range<usize>,
        ahead: Option<*const W>,
        out: *mut f32,
    ) {
        let lines = (columns.len() * self.k * size_of::<W>()).div_ceil(LINE);
        let tiles = self.rows.div_ceil(3) * columns.len().div_ceil(4);
        let mut ahead = ahead.map(|at| Ahead { at: at.cast(), lines: lines.div_ceil(tiles) });
        let mut row = 0;
        while row < self.rows {
            let (columns, ahead) = (columns.clone(), &mut ahead);
            row += match self.rows - row {
                // One row waits for memory alone, and that flows best in one stream.
                1 if self.rows == 1 => self.tiles::<V, 1, 1>(w, columns, row, ahead, out),
                1 => self.tiles::<V, 1, 4>(w, columns, row, ahead, out),
                2 => self.tiles::<V, 2, 4>(w, columns, row, ahead, out),
                _ => self.tiles::<V, 3, 4>(w, columns, row, ahead, out),
            };
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tiles<V: Number, const M: usize, const N: usize>(
        &self,
        w: *const V,
        columns: Range<usize>,
        row: usize,
        ahead: &mut Option<Ahead>,
        out: *mut f32,
    ) -> usize {
        let x = self.x.as_ptr().add(row * self.k);
        let mut column = columns.start;
        while column < columns.end {
            if let Some(ahead) = ahead {
                ahead.call();
            }
            let w = w.add((column - columns.start) * self.k);
            let out = out.add(row * self.n + column);
            if N == 4 && columns.end - column >= 4 {
                let sums = dots::<V, M, 4>(x, w, self.k);
                let bias = match self.bias {
                    Some(b) => _mm_loadu_ps(b[column..column + 4].as_ptr()),
                    None => _mm_setzero_ps(),
                };
                for (m, [a, b, c, d]) in sums.into_iter().enumerate() {
                    _mm_storeu_ps(out.add(m * self.n), _mm_add_ps(totals(a, b, c, d), bias));
                }
                column += 4;
            } else {
                let bias = self.bias.map_or(0.0, |b| b[column]);
                for (m, [a]) in dots::<V, M, 1>(x, w, self.k).into_iter().enumerate() {
                    *out.add(m * self.n) = _mm_cvtss_f32(totals(a, a, a, a)) + bias;
                }
                column += 1;
            }
        }
        M
    }

    /// These columns, from a multiple of eight on, of `x w + bias` for `w` [k, n] into `out` [rows, n].
    /// `n` is a multiple of eight.
    ///
    /// # Safety
    /// As above.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn input_first(&self, part: Range<usize>, out: *mut f32) {
        let mut column = part.start;
        while column < part.end {
            let left = (part.end - column) / 8;
            let mut row = 0;
            let taken = match (self.rows, left) {
                (1, 8..) => 8,
                (_, 4..) => 4,
                _ => 1,
            };
            while row < self.rows {
                row += match (self.rows - row, taken) {
                    (1, 8) => self.strip::<1, 8>(row, column, out),
                    (1, 4) => self.strip::<1, 4>(row, column, out),
                    (1, _) => self.strip::<1, 1>(row, column, out),
                    (2, 4) => self.strip::<2, 4>(row, column, out),
                    (2, _) => self.strip::<2, 1>(row, column, out),
                    (_, 4) => self.strip::<3, 4>(row, column, out),
                    _ => self.strip::<3, 1>(row, column, out),
                };
            }
            column += 8 * taken;
        }
    }

    /// M rows on N vectors of columns.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn strip<const M: usize, const N: usize>(
        &self,
        row: usize,
        column: usize,
        out: *mut f32,
    ) -> usize {
        let (x, w) = (self.x.as_ptr().add(row * self.k), self.w.as_ptr().add(column));
        let mut totals = [[_mm256_setzero_ps(); N]; M];
        // Part by part, as one long sum in float32 loses digits.
        for start in (0..self.k).step_by(PART) {
            let mut sums = [[_mm256_setzero_ps(); N]; M];
            for at in start..(start + PART).min(self.k) {
                let line = w.add(at * self.n);
                let mut weights = [_mm256_setzero_ps(); N];
                for (n, weight) in weights.iter_mut().enumerate() {
                    *weight = W::eight(line.add(8 * n));
                }
                for (m, sums) in sums.iter_mut().enumerate() {
                    let x = _mm256_broadcast_ss(&*x.add(m * self.k + at));
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum = _mm256_fmadd_ps(x, weight, *sum);
                    }
                }
            }
            for (totals, sums) in totals.iter_mut().zip(sums) {
                for (total, sum) in totals.iter_mut().zip(sums) {
                    *total = _mm256_add_ps(*total, sum);
                }
            }
        }
        for (m, sums) in totals.into_iter().enumerate() {
            for (n, sum) in sums.into_iter().enumerate() {
                let at = column + 8 * n;
                let bias = match self.bias {
                    Some(b) => _mm256_loadu_ps(b[at..at + 8].as_ptr()),
                    None => _mm256_setzero_ps(),
                };
                _mm256_storeu_ps(out.add((row + m) * self.n + at), _mm256_add_ps(sum, bias));
            }
        }
        M
    }
}

/// Memory that is called for a little at a time, so that it is there when its turn comes.
struct Ahead {
    at: *const u8,
    /// Cache lines at a time.
    lines: usize,
}

impl Ahead {
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn call(&mut self) {
        for _ in 0..self.lines {
            prefetch(self.at);
            self.at = self.at.wrapping_add(LINE);
        }
    }
}

/// Eight lanes of the products of M rows of `x` with N rows of `w`, all of length `k`.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub unsafe fn dots<W: Number, const M: usize, const N: usize>(
    x: *const f32,
    w: *const W,
    k: usize,
) -> [[__m256; N]; M] {
    let mut sums = [[_mm256_setzero_ps(); N]; M];
    let mut at = 0;
    while at < k {
        let mut rows = [_mm256_setzero_ps(); M];
        for (m, row) in rows.iter_mut().enumerate() {
            *row = _mm256_loadu_ps(x.add(m * k + at));
        }
        let mut n = 0;
        while n < N {
            let from = w.add(n * k + at);
            let column = W::eight(from);
            for (sums, row) in sums.iter_mut().zip(rows) {
                sums[n] = _mm256_fmadd_ps(row, column, sums[n]);
            }
            n += 1;
        }
        at += 8;
    }
    sums
}

/// Calls for these numbers' memory.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub fn call<W>(numbers: &[W]) {
    for line in (0..size_of_val(numbers)).step_by(LINE) {
        // SAFETY: an address inside the slice.
        unsafe { prefetch(numbers.as_ptr().cast::<u8>().add(line)) };
    }
}

/// Calls for the memory at an address, which need not exist.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn prefetch<W>(at: *const W) {
    _mm_prefetch::<_MM_HINT_T0>(at.cast());
}

/// The sum of the lanes of each.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub fn totals(a: __m256, b: __m256, c: __m256, d: __m256) -> __m128 {
    let sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums))
}
