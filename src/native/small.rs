//! Products, norms and rotations of few rows, on the CPU, without gradients: what a decoding step is made
//! of. libtorch's own are built for many rows; with few, most of their time goes elsewhere.
//!
//! A row's result does not depend on the other rows: every sum runs in the same order whatever the batch,
//! so a sequence decoded alone and in a batch meets the same numbers here. bfloat16 weights are widened in
//! registers, so they cost half the memory traffic of float32 also where the machine cannot multiply them.

use std::cell::Cell;

use half::bf16;
use tch::{Device, Kind, Tensor};

use super::{host, parallel};
use crate::error::Result;

/// Rows up to which these loops are worth it; beyond, libtorch's products are.
const MOST_ROWS: usize = 64;
/// Multiplications that are worth a thread.
const WORTH_A_THREAD: usize = 1 << 18;

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, layers of this thread may compute here.
#[derive(Debug)]
pub struct Allowed(bool);

/// Lets layers of this thread compute here. Only where gradients are off and no pass is computed twice.
pub fn allow() -> Allowed {
    Allowed(ON.with(|on| on.replace(true)))
}

impl Drop for Allowed {
    fn drop(&mut self) {
        ON.with(|on| on.set(self.0));
    }
}

fn usable(x: &Tensor) -> bool {
    ON.with(Cell::get)
        && machine::WIDE()
        && x.device() == Device::Cpu
        && matches!(x.kind(), Kind::Float | Kind::BFloat16)
}

/// `x w^T + bias` for `w` [out, in]; none where libtorch is the better choice.
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Option<Tensor>> {
    if !usable(x) || w.kind() != x.kind() || !w.is_contiguous() {
        return Ok(None);
    }
    let (n, k) = w.size2()?;
    let rows = x.numel() / (k as usize).max(1);
    if rows == 0 || rows > MOST_ROWS || k % 8 != 0 {
        return Ok(None);
    }
    let wide = x.f_to_kind(Kind::Float)?.f_contiguous()?;
    let bias = bias.map(|b| b.f_to_kind(Kind::Float)?.f_contiguous()).transpose()?;
    let mut shape = x.size();
    if let Some(last) = shape.last_mut() {
        *last = n;
    }
    let mut out = Tensor::f_empty(&shape, (Kind::Float, Device::Cpu))?;
    let product = Product {
        x: host::slice(&wide)?,
        bias: bias.as_ref().map(host::slice).transpose()?,
        rows,
        k: k as usize,
        n: n as usize,
    };
    if w.kind() == Kind::Float {
        product.run(host::slice::<f32>(w)?, host::slice_mut(&mut out)?)?;
    } else {
        product.run(host::slice::<bf16>(w)?, host::slice_mut(&mut out)?)?;
    }
    Ok(Some(out.f_to_kind(x.kind())?))
}

/// Root mean square norm over the last dimension; none where libtorch has to do it.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Option<Tensor>> {
    if !usable(x) || x.kind() != Kind::Float || weight.kind() != Kind::Float || !x.is_contiguous() {
        return Ok(None);
    }
    let (data, weight) = (host::slice::<f32>(x)?, host::slice::<f32>(weight)?);
    if data.len() > MOST_ROWS * weight.len().max(1) * 16 {
        return Ok(None);
    }
    let mut out = Tensor::f_empty(x.size(), (Kind::Float, Device::Cpu))?;
    let width = weight.len().max(1);
    for (row, to) in data.chunks_exact(width).zip(host::slice_mut::<f32>(&mut out)?.chunks_exact_mut(width)) {
        // SAFETY: `usable` has seen that the machine can.
        unsafe { machine::rms(row, weight, eps as f32, to) };
    }
    Ok(Some(out))
}

/// Rotates heads [b, t, h, d] by the tables of [`crate::model`]'s rotary positions: cosines and signed
/// sines [b or 1, t, 1, d]; none where libtorch has to do it.
pub fn turn(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Option<Tensor>> {
    let fits = |t: &Tensor| t.kind() == Kind::Float && t.is_contiguous();
    if !usable(x) || ![x, cos, sin].into_iter().all(fits) {
        return Ok(None);
    }
    let (b, t, h, d) = x.size4()?;
    if cos.size() != [b, t, 1, d] || sin.size() != [b, t, 1, d] || (b * t) as usize > MOST_ROWS {
        return Ok(None);
    }
    let mut out = Tensor::f_empty(x.size(), (Kind::Float, Device::Cpu))?;
    let (data, cos, sin) = (host::slice::<f32>(x)?, host::slice::<f32>(cos)?, host::slice::<f32>(sin)?);
    let (heads, d) = (h as usize, d as usize);
    let to = host::slice_mut::<f32>(&mut out)?;
    for (head, (x, to)) in data.chunks_exact(d).zip(to.chunks_exact_mut(d)).enumerate() {
        let at = head / heads * d;
        let (cos, sin) = (&cos[at..at + d], &sin[at..at + d]);
        let (first, second) = x.split_at(d / 2);
        let swapped = second.iter().chain(first);
        for ((to, (x, swapped)), (cos, sin)) in
            to.iter_mut().zip(x.iter().zip(swapped)).zip(cos.iter().zip(sin))
        {
            *to = x * cos + swapped * sin;
        }
    }
    Ok(Some(out))
}

/// One product of few rows.
struct Product<'a> {
    x: &'a [f32],
    bias: Option<&'a [f32]>,
    rows: usize,
    k: usize,
    n: usize,
}

/// A pointer that threads share; each writes places of its own.
struct Shared(*mut f32);
// SAFETY: see `Product::run`, where each output belongs to one part of the loop.
unsafe impl Sync for Shared {}

impl Product<'_> {
    fn run<W: machine::Weight + Sync>(&self, w: &[W], out: &mut [f32]) -> Result<()> {
        let to = Shared(out.as_mut_ptr());
        let to = &to;
        let grain = (WORTH_A_THREAD / (self.rows * self.k).max(1)).max(1).next_multiple_of(16);
        parallel::for_each(self.n, grain, &|part| {
            // SAFETY: `usable` has seen that the machine can; parts are disjoint columns of `out`.
            unsafe {
                machine::product(
                    self.x,
                    &w[part.start * self.k..part.end * self.k],
                    self.k,
                    self.rows,
                    |m, n, sum| {
                        let n = part.start + n;
                        let bias = self.bias.map_or(0.0, |b| b[n]);
                        to.0.add(m * self.n + n).write(sum + bias);
                    },
                )
            };
        })
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_op_in_unsafe_fn, reason = "loads of vectors, each inside the slice that its loop walks")]
mod machine {
    use std::arch::x86_64::*;

    use half::bf16;

    /// Whether the machine has AVX2 and FMA.
    #[expect(non_snake_case, reason = "reads as the constant that it is")]
    pub fn WIDE() -> bool {
        std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
    }

    /// A type that weights have.
    pub trait Weight: Copy {
        /// Eight of them as float32.
        unsafe fn eight(at: *const Self) -> __m256;
    }

    impl Weight for f32 {
        #[inline(always)]
        unsafe fn eight(at: *const f32) -> __m256 {
            _mm256_loadu_ps(at)
        }
    }

    impl Weight for bf16 {
        #[inline(always)]
        unsafe fn eight(at: *const bf16) -> __m256 {
            let raw = _mm_loadu_si128(at.cast());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(raw)))
        }
    }

    /// Bytes of widened weights that stay in the first cache.
    const BLOCK: usize = 16 << 10;

    /// Calls `put(row, column, sum)` for every row of `x` and row of `w`, both of length `k`.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn product<W: Weight>(
        x: &[f32],
        w: &[W],
        k: usize,
        rows: usize,
        mut put: impl FnMut(usize, usize, f32),
    ) {
        let n = w.len() / k;
        let at_once = (BLOCK / (4 * k)).max(4) / 4 * 4;
        let mut wide = Vec::new();
        let mut start = 0;
        while start < n {
            let count = at_once.min(n - start);
            let block = &w[start * k..(start + count) * k];
            let mut keep = |m: usize, c: usize, sum: f32| put(m, start + c, sum);
            if rows > 4 && size_of::<W>() < 4 {
                // Many rows look at each weight: widen it once.
                wide.resize(block.len(), 0f32);
                for at in (0..block.len()).step_by(8) {
                    _mm256_storeu_ps(wide.as_mut_ptr().add(at), W::eight(block.as_ptr().add(at)));
                }
                columns(x, wide.as_ptr(), k, rows, count, &mut keep);
            } else {
                columns(x, block.as_ptr(), k, rows, count, &mut keep);
            }
            start += count;
        }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn columns<W: Weight>(
        x: &[f32],
        w: *const W,
        k: usize,
        rows: usize,
        count: usize,
        put: &mut impl FnMut(usize, usize, f32),
    ) {
        let mut m = 0;
        while m < rows {
            let row = x.as_ptr().add(m * k);
            let step = (rows - m).min(3);
            let mut c = 0;
            while c < count {
                let col = w.add(c * k);
                let wide = count - c >= 4;
                let mut keep = |i: usize, j: usize, sum: f32| put(m + i, c + j, sum);
                match (step, wide) {
                    (3, true) => tile::<W, 3, 4>(row, col, k, &mut keep),
                    (2, true) => tile::<W, 2, 4>(row, col, k, &mut keep),
                    (_, true) => tile::<W, 1, 4>(row, col, k, &mut keep),
                    (3, _) => tile::<W, 3, 1>(row, col, k, &mut keep),
                    (2, _) => tile::<W, 2, 1>(row, col, k, &mut keep),
                    _ => tile::<W, 1, 1>(row, col, k, &mut keep),
                }
                c += if wide { 4 } else { 1 };
            }
            m += step;
        }
    }

    /// M rows times N columns, each sum in the same order: eight lanes along k, then the lanes.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile<W: Weight, const M: usize, const N: usize>(
        x: *const f32,
        w: *const W,
        k: usize,
        put: &mut impl FnMut(usize, usize, f32),
    ) {
        let mut sums = [[_mm256_setzero_ps(); N]; M];
        let mut at = 0;
        while at < k {
            let mut rows = [_mm256_setzero_ps(); M];
            for (m, row) in rows.iter_mut().enumerate() {
                *row = _mm256_loadu_ps(x.add(m * k + at));
            }
            let mut n = 0;
            while n < N {
                let column = W::eight(w.add(n * k + at));
                for (sums, row) in sums.iter_mut().zip(rows) {
                    sums[n] = _mm256_fmadd_ps(row, column, sums[n]);
                }
                n += 1;
            }
            at += 8;
        }
        for (m, row) in sums.iter().enumerate() {
            for (n, &sum) in row.iter().enumerate() {
                put(m, n, lanes(sum));
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn lanes(x: __m256) -> f32 {
        let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }

    /// `x / rms(x) * weight`, as libtorch rounds it: the mean in float32.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn rms(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let mut sums = [0f32; 16];
        let (whole, rest) = x.split_at(x.len() / 16 * 16);
        for part in whole.chunks_exact(16) {
            for (sum, x) in sums.iter_mut().zip(part) {
                *sum += x * x;
            }
        }
        let total: f32 = sums.iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>();
        let factor = 1.0 / (total / x.len() as f32 + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * factor * weight;
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod machine {
    use half::bf16;

    #[expect(non_snake_case, reason = "reads as the constant that it is")]
    pub fn WIDE() -> bool {
        false
    }

    pub trait Weight: Copy {}
    impl Weight for f32 {}
    impl Weight for bf16 {}

    pub unsafe fn product<W: Weight>(
        _: &[f32],
        _: &[W],
        _: usize,
        _: usize,
        _: impl FnMut(usize, usize, f32),
    ) {
    }

    pub unsafe fn rms(_: &[f32], _: &[f32], _: f32, _: &mut [f32]) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::{Stream, uniform};

    fn numbers(shape: &[i64], salt: u64) -> Tensor {
        let n: i64 = shape.iter().product();
        let x: Vec<f32> = (0..n).map(|i| (uniform(salt, Stream::Noise, 0, i as u64) - 0.5) as f32).collect();
        Tensor::from_slice(&x).view(shape)
    }

    #[test]
    fn products_equal_float64s_and_do_not_depend_on_the_batch() {
        if !machine::WIDE() {
            return;
        }
        let _few = allow();
        for (rows, k, n) in [(1, 8, 1), (2, 24, 5), (3, 288, 19), (7, 64, 4), (8, 1536, 33), (33, 576, 70)] {
            for kind in [Kind::Float, Kind::BFloat16] {
                let (x, w, b) = (numbers(&[rows, 1, k], 1), numbers(&[n, k], 2), numbers(&[n], 3));
                let [x, w, b] = [x, w, b].map(|t| t.to_kind(kind));
                let exact =
                    x.to_kind(Kind::Double).linear(&w.to_kind(Kind::Double), Some(&b.to_kind(Kind::Double)));
                let all = linear(&x, &w, Some(&b)).unwrap().unwrap();
                assert_eq!((all.size(), all.kind()), (vec![rows, 1, n], kind));
                let off = (all.to_kind(Kind::Double) - &exact).abs().max().double_value(&[]);
                let unit =
                    if kind == Kind::Float { 6e-7 } else { 4e-3 } * exact.abs().max().double_value(&[]);
                assert!(off <= unit, "{rows} x {k} x {n}: {off:.1e}");
                for row in 0..rows {
                    let alone = linear(&x.narrow(0, row, 1), &w, Some(&b)).unwrap().unwrap();
                    assert!(alone.equal(&all.narrow(0, row, 1)));
                }
            }
        }
        assert!(linear(&numbers(&[65, 8], 1), &numbers(&[4, 8], 2), None).unwrap().is_none());
        assert!(linear(&numbers(&[2, 9], 1), &numbers(&[4, 9], 2), None).unwrap().is_none());
    }

    #[test]
    fn norms_and_rotations_equal_libtorchs() {
        if !machine::WIDE() {
            return;
        }
        let (x, weight) = (numbers(&[5, 1, 36], 1), numbers(&[36], 2));
        assert!(rms_norm(&x, &weight, 1e-5).unwrap().is_none(), "nobody allowed it");
        let _few = allow();
        let off = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
        let normed = rms_norm(&x, &weight, 1e-5).unwrap().unwrap();
        assert!(off(&normed, &x.rms_norm([36], Some(&weight), 1e-5)) < 1e-6);
        let (heads, cos, sin) =
            (numbers(&[5, 1, 3, 12], 1), numbers(&[5, 1, 1, 12], 2), numbers(&[5, 1, 1, 12], 3));
        let expected = &heads * &cos + heads.roll([6], [-1]) * &sin;
        assert!(off(&turn(&heads, &cos, &sin).unwrap().unwrap(), &expected) < 1e-6);
    }
}
