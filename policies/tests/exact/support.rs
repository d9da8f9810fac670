//! Numbers that look random, tensors from arrays, and how far two results are apart.

use ndarray::Array2;
use tch::{Kind, Tensor};

/// splitmix64: the same numbers everywhere, from a seed.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    /// Uniform in (0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64 + 1e-17
    }

    pub fn below(&mut self, n: usize) -> usize {
        ((self.uniform() * n as f64) as usize).min(n - 1)
    }

    pub fn normal(&mut self) -> f64 {
        let (a, b) = (self.uniform(), self.uniform());
        (-2.0 * a.ln()).sqrt() * (2.0 * std::f64::consts::PI * b).cos()
    }

    /// Normal numbers, rounded to float32 so that both widths see the same ones.
    pub fn matrix(&mut self, rows: usize, columns: usize, scale: f64) -> Array2<f64> {
        Array2::from_shape_fn((rows, columns), |_| f64::from((self.normal() * scale) as f32))
    }
}

pub fn tensor(a: &Array2<f64>, kind: Kind) -> Tensor {
    let flat: Vec<f64> = a.iter().copied().collect();
    Tensor::from_slice(&flat).view([a.nrows() as i64, a.ncols() as i64]).to_kind(kind)
}

pub fn array(t: &Tensor) -> Array2<f64> {
    let size = t.size();
    let flat = Vec::<f64>::try_from(t.to_kind(Kind::Double).contiguous().view([-1])).unwrap();
    Array2::from_shape_vec((size[0] as usize, size[1] as usize), flat).unwrap()
}

pub fn numbers(t: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(t.to_kind(Kind::Double).contiguous().view([-1])).unwrap()
}

/// How far `a` is from `b`, in units of `absolute + relative |b|`; equal infinities are equal.
pub fn off(a: &[f64], b: &[f64], absolute: f64, relative: f64) -> f64 {
    assert_eq!(a.len(), b.len());
    let one = |(a, b): (&f64, &f64)| {
        if a == b {
            0.0
        } else if a.is_nan() || b.is_nan() || a.is_infinite() || b.is_infinite() {
            f64::INFINITY
        } else {
            (a - b).abs() / (absolute + relative * b.abs())
        }
    };
    a.iter().zip(b).map(one).fold(0.0, f64::max)
}

/// How far `a` is from `b`, in units of `relative` times the norm of `b` (and 1e-12 for a norm of 0).
pub fn off_by_norm(a: &Array2<f64>, b: &Array2<f64>, relative: f64) -> f64 {
    assert_eq!(a.dim(), b.dim());
    if a.iter().chain(b).any(|x| !x.is_finite()) {
        return f64::INFINITY;
    }
    let norm = |x: &Array2<f64>| x.iter().map(|v| v * v).sum::<f64>().sqrt();
    norm(&(a - b)) / (relative * norm(b) + 1e-12)
}

/// That the code equals the reference, and that each mutation of the reference is noticed: a hundred
/// times over the tolerance. `distance` is how far the code is from the mutated reference, in tolerances.
pub fn holds_and_notices<M: Copy + std::fmt::Debug>(
    what: &str,
    mutations: &[M],
    mut distance: impl FnMut(Option<M>) -> f64,
) {
    let own = distance(None);
    assert!(own <= 1.0, "{what}: {own} tolerances from the reference");
    for mutation in mutations {
        let noticed = distance(Some(*mutation));
        assert!(noticed > 100.0, "{what}: {mutation:?} is only {noticed} tolerances away");
    }
}
