//! bfloat16 on processors that cannot multiply it: libtorch's loops for them take ten times as long as
//! float32's, so products are computed in float32, from weights that are widened for the moment.

use tch::{Kind, Tensor};

use super::wide_linear;
use crate::error::Result;

/// Whether products of this tensor's float type are better computed in float32.
pub use retort_policies::objective::product::widened as pays;

/// `x w^T + bias`, in the float type of x.
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if pays(x) { wide_linear(x, w, bias) } else { Ok(x.f_linear(w, bias)?) }
}

/// The same in float32.
pub fn wide(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let wide = |t: &Tensor| t.f_to_kind(Kind::Float);
    let bias = bias.map(wide).transpose()?;
    Ok(wide(x)?.f_linear(&wide(w)?, bias.as_ref())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::{Stream, uniform};

    #[test]
    fn it_is_the_product_of_the_numbers_there() {
        let numbers = |shape: [i64; 2], salt: u64| {
            let x: Vec<f32> = (0..shape[0] * shape[1])
                .map(|i| (uniform(salt, Stream::Noise, 0, i as u64) - 0.5) as f32)
                .collect();
            Tensor::from_slice(&x).view(shape).to_kind(Kind::BFloat16)
        };
        let (x, w, b) = (numbers([70, 40], 1), numbers([30, 40], 2), numbers([1, 30], 3).view([30]));
        let out = linear(&x, &w, Some(&b)).unwrap();
        let double = |t: &Tensor| t.to_kind(Kind::Double);
        let exact = double(&x).linear(&double(&w), Some(&double(&b)));
        assert_eq!(out.kind(), Kind::BFloat16);
        let off = (double(&out) - &exact).abs().max().double_value(&[]);
        assert!(off <= 4e-3 * exact.abs().max().double_value(&[]), "{off}");
    }

    /// The gradients are those of float32's own product, rounded.
    #[test]
    fn its_gradients_are_those_of_the_wide_product() {
        let numbers = |shape: &[i64], salt: u64| {
            let count = shape.iter().product::<i64>() as u64;
            let x: Vec<f32> = (0..count).map(|i| (uniform(salt, Stream::Noise, 0, i) - 0.5) as f32).collect();
            Tensor::from_slice(&x).view(shape).to_kind(Kind::BFloat16).set_requires_grad(true)
        };
        let (x, b) = (numbers(&[2, 7, 40], 1), numbers(&[30], 3));
        for turned in [false, true] {
            let w = if turned { numbers(&[40, 30], 2) } else { numbers(&[30, 40], 2) };
            let as_used = |w: &Tensor| if turned { w.transpose(0, 1) } else { w.shallow_clone() };
            let slope = numbers(&[2, 7, 30], 4).detach();
            let grads = |out: Tensor| {
                Tensor::run_backward(&[(out * &slope).sum(Kind::Float)], &[&x, &w, &b], false, false)
            };
            let own = grads(wide_linear(&x, &as_used(&w), Some(&b)).unwrap());
            let whole = grads(wide(&x, &as_used(&w), Some(&b)).unwrap());
            for (own, whole) in own.iter().zip(&whole) {
                assert_eq!((own.kind(), own.size()), (Kind::BFloat16, whole.size()));
                let off = (own - whole).abs().max().double_value(&[]);
                assert!(off <= 8e-3 * whole.abs().max().double_value(&[]), "{off}");
            }
        }
    }
}
