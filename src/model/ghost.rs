//! Ghost batch normalisation (Hoffer, Hubara and Soudry, "Train longer, generalize better", 2017): a large batch is
//! normalised as the small batches that it is made of, its ghosts, so that the noise of small batches' statistics
//! stays. For image networks; no language model here has a batch norm.
//!
//! ```text
//! training     y = gamma (x - mu_i) / sqrt(var_i + eps) + beta      mu_i, var_i of the ghost of x; var_i biased
//! running      run = (1-eta)^n run + sum_{i<n} eta (1-eta)^(n-1-i) mu_i       of the variance, the unbiased one
//! evaluation   y = gamma (x - run mean) / sqrt(run var + eps) + beta
//! ```
//!
//! Running statistics are thus what n updates one after the other, of one ghost each, would have left; the exponents
//! that the paper prints give weights that do not sum to 1, and its code has these. A last ghost that is short is its
//! own. With one ghost it is batch norm.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};

/// The layer, over `[batch, channels, ...]`.
#[derive(Debug)]
pub struct GhostNorm {
    /// gamma, a number a channel.
    pub weight_c: Tensor,
    /// beta.
    pub bias_c: Tensor,
    /// The running mean.
    pub mean_c: Tensor,
    /// The running variance.
    pub variance_c: Tensor,
    /// Rows of a ghost.
    pub ghost: i64,
    /// eta, the share of the newest statistics.
    pub eta: f64,
    /// Added to the variance.
    pub eps: f64,
}

impl GhostNorm {
    /// A fresh layer: gamma 1, beta 0, running mean 0 and variance 1; libtorch's eta and eps. gamma and beta learn.
    ///
    /// ```
    /// use retort::model::ghost::GhostNorm;
    /// use tch::{Device, Kind, Tensor};
    /// let norm = GhostNorm::new(3, 2, (Kind::Float, Device::Cpu))?;
    /// let x = Tensor::arange(24, (Kind::Float, Device::Cpu)).view([4, 3, 2]);
    /// let y = norm.forward(&x, true)?;
    /// // The second ghost has the first one's shape, wherever it lies.
    /// assert!(y.narrow(0, 0, 2).allclose(&y.narrow(0, 2, 2), 1e-5, 1e-5, false));
    /// # Ok::<(), retort::error::Error>(())
    /// ```
    pub fn new(channels: i64, ghost: i64, options: (Kind, Device)) -> Result<Self> {
        let full = |value: f64| Tensor::f_full([channels], value, options);
        Ok(GhostNorm {
            weight_c: full(1.0)?.f_set_requires_grad(true)?,
            bias_c: full(0.0)?.f_set_requires_grad(true)?,
            mean_c: full(0.0)?,
            variance_c: full(1.0)?,
            ghost,
            eta: 0.1,
            eps: 1e-5,
        })
    }

    /// Normalises by the ghosts' own statistics and takes them into the running ones, or by the running ones.
    pub fn forward(&self, x: &Tensor, training: bool) -> Result<Tensor> {
        if !training {
            return self.normalised(x, false);
        }
        let size = x.size();
        let rows = size.first().copied().unwrap_or(0);
        let places: i64 = size.iter().skip(2).product();
        let ghost = self.ghost.clamp(1, rows.max(1));
        let short = if rows % ghost == 0 { ghost } else { rows % ghost };
        if rows == 0 || short * places < 2 {
            return Err(Error::user("a ghost batch of one value a channel has no variance")
                .expected(format!("rows that leave no such rest by {ghost}"))
                .found(rows));
        }
        let starts = (0..rows).step_by(ghost as usize);
        // One behind the other: each takes its own statistics into the running ones.
        let normalised = starts
            .map(|from| self.normalised(&x.f_narrow(0, from, ghost.min(rows - from))?, true))
            .collect::<Result<Vec<Tensor>>>()?;
        Ok(Tensor::f_cat(&normalised, 0)?)
    }

    fn normalised(&self, x: &Tensor, training: bool) -> Result<Tensor> {
        let own = [&self.weight_c, &self.bias_c, &self.mean_c, &self.variance_c].map(Some);
        let [weight, bias, mean, variance] = own;
        Ok(x.f_batch_norm(weight, bias, mean, variance, training, self.eta, self.eps, false)?)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, Array2, Array3, Axis, s};
    use rand_distr::{Distribution, Normal};

    use super::*;
    use crate::seed::{Stream, generator};

    fn draws(n: usize, place: u64) -> Vec<f64> {
        let law = Normal::new(0.3, 1.7).unwrap();
        let mut random = generator(11, Stream::Noise, place, 0);
        (0..n).map(|_| law.sample(&mut random)).collect()
    }

    fn numbers(t: &Tensor) -> Vec<f64> {
        t.contiguous().view([-1]).to_kind(Kind::Double).try_into().unwrap()
    }

    fn near(found: &Tensor, expected: impl IntoIterator<Item = f64>, what: &str) {
        let expected: Vec<f64> = expected.into_iter().collect();
        let found = numbers(found);
        assert_eq!(found.len(), expected.len(), "{what}");
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-10 * (1.0 + b.abs()), "{what}: {a} and {b}");
        }
    }

    /// Everything that a pass over `[batch, channels, places]` leaves, from the definitions alone.
    struct Reference {
        y: Array3<f64>,
        by_x: Array3<f64>,
        by_weight: Array1<f64>,
        by_bias: Array1<f64>,
        mean: Array1<f64>,
        variance: Array1<f64>,
    }

    /// `back` is the derivative of a loss by y; running statistics start at 0 and 1.
    fn reference(
        x: &Array3<f64>,
        weight: &[f64],
        bias: &[f64],
        back: &Array3<f64>,
        ghost: usize,
    ) -> Reference {
        let (rows, channels, places) = x.dim();
        let (eta, eps) = (0.1, 1e-5);
        let mut out = Reference {
            y: x.clone(),
            by_x: x.clone(),
            by_weight: Array1::zeros(channels),
            by_bias: Array1::zeros(channels),
            mean: Array1::zeros(channels),
            variance: Array1::ones(channels),
        };
        let ghosts: Vec<(usize, usize)> =
            (0..rows).step_by(ghost).map(|a| (a, (a + ghost).min(rows))).collect();
        let n = ghosts.len() as i32;
        for c in 0..channels {
            out.mean[c] *= (1.0f64 - eta).powi(n);
            out.variance[c] *= (1.0f64 - eta).powi(n);
            for (i, &(from, to)) in ghosts.iter().enumerate() {
                let own = x.slice(s![from..to, c, ..]).to_owned();
                let d = back.slice(s![from..to, c, ..]).to_owned();
                let m = ((to - from) * places) as f64;
                let mu = own.sum() / m;
                let var = own.mapv(|v| (v - mu).powi(2)).sum() / m;
                let share = eta * (1.0f64 - eta).powi(n - 1 - i as i32);
                out.mean[c] += share * mu;
                out.variance[c] += share * var * m / (m - 1.0);
                let sd = (var + eps).sqrt();
                let hat: Array2<f64> = own.mapv(|v| (v - mu) / sd);
                out.by_weight[c] += (&d * &hat).sum();
                out.by_bias[c] += d.sum();
                let (sum, with) = (d.sum() / m, (&d * &hat).sum() / m);
                let by_x = (&d - sum - &hat * with) * (weight[c] / sd);
                out.y.slice_mut(s![from..to, c, ..]).assign(&(&hat * weight[c] + bias[c]));
                out.by_x.slice_mut(s![from..to, c, ..]).assign(&by_x);
            }
        }
        out
    }

    /// Values, all three gradients and running statistics, whole ghosts and a short last one.
    #[test]
    fn ghosts_equal_their_definition() {
        let wide = (Kind::Double, Device::Cpu);
        for (rows, ghost) in [(6, 2), (7, 3), (5, 4), (4, 4), (3, 8)] {
            let shape = (rows, 3, 4);
            let x = Array3::from_shape_vec(shape, draws(rows * 12, 1)).unwrap();
            let back = Array3::from_shape_vec(shape, draws(rows * 12, 2)).unwrap();
            let (weight, bias) = ([0.5, -1.5, 2.0], [0.1, 0.2, -0.3]);
            let expected = reference(&x, &weight, &bias, &back, ghost);
            let layer = GhostNorm {
                weight_c: Tensor::from_slice(&weight).set_requires_grad(true),
                bias_c: Tensor::from_slice(&bias).set_requires_grad(true),
                ..GhostNorm::new(3, ghost as i64, wide).unwrap()
            };
            let of = |a: &Array3<f64>| Tensor::from_slice(a.as_slice().unwrap()).view([rows as i64, 3, 2, 2]);
            let input = of(&x).set_requires_grad(true);
            let y = layer.forward(&input, true).unwrap();
            (&y * of(&back)).sum(Kind::Double).backward();
            let case = |what: &str| format!("{what}, {rows} rows by {ghost}");
            near(&y, expected.y.clone(), &case("y"));
            near(&input.grad(), expected.by_x.clone(), &case("by x"));
            near(&layer.weight_c.grad(), expected.by_weight.clone(), &case("by gamma"));
            near(&layer.bias_c.grad(), expected.by_bias.clone(), &case("by beta"));
            near(&layer.mean_c, expected.mean.clone(), &case("running mean"));
            near(&layer.variance_c, expected.variance.clone(), &case("running variance"));
            // In evaluation the running statistics are used and stay.
            let flat = layer.forward(&of(&x), false).unwrap();
            let by_hand = x.axis_iter(Axis(0)).flat_map(|row| {
                let of = |(c, channel): (usize, ndarray::ArrayView1<'_, f64>)| {
                    let sd = (expected.variance[c] + 1e-5).sqrt();
                    channel.mapv(|v| weight[c] * (v - expected.mean[c]) / sd + bias[c]).to_vec()
                };
                row.axis_iter(Axis(0)).enumerate().flat_map(of).collect::<Vec<f64>>()
            });
            near(&flat, by_hand.collect::<Vec<f64>>(), &case("evaluation"));
            near(&layer.mean_c, expected.mean, &case("running mean after it"));
        }
    }

    /// One ghost: libtorch's own batch norm, to the bit.
    #[test]
    fn one_ghost_is_batch_norm() {
        let options = (Kind::Float, Device::Cpu);
        let made =
            |place| Tensor::from_slice(&draws(8 * 5 * 9, place)).to_kind(Kind::Float).view([8, 5, 3, 3]);
        let layer = GhostNorm::new(5, 8, options).unwrap();
        let (mean, var) = (Tensor::zeros([5], options), Tensor::ones([5], options));
        let (weight, bias) = (Tensor::ones([5], options), Tensor::zeros([5], options));
        for turn in 0..3 {
            let x = made(turn).set_requires_grad(true);
            let other = made(turn).set_requires_grad(true);
            let back = made(turn + 10);
            let own = layer.forward(&x, true).unwrap();
            let theirs =
                other.batch_norm(Some(&weight), Some(&bias), Some(&mean), Some(&var), true, 0.1, 1e-5, false);
            (&own * &back).sum(Kind::Float).backward();
            (&theirs * &back).sum(Kind::Float).backward();
            assert_eq!(own, theirs);
            assert_eq!(x.grad(), other.grad());
            assert_eq!((&layer.mean_c, &layer.variance_c), (&mean, &var));
        }
        let x = made(7);
        let theirs =
            x.batch_norm(Some(&weight), Some(&bias), Some(&mean), Some(&var), false, 0.1, 1e-5, false);
        assert_eq!(layer.forward(&x, false).unwrap(), theirs);
    }

    #[test]
    fn a_ghost_of_one_value_is_refused() {
        let layer = GhostNorm::new(2, 2, (Kind::Float, Device::Cpu)).unwrap();
        let x = |rows: i64| Tensor::ones([rows, 2], (Kind::Float, Device::Cpu));
        assert!(layer.forward(&x(4), true).is_ok());
        for rows in [0, 1, 3] {
            let before = layer.variance_c.copy();
            let e = layer.forward(&x(rows), true).unwrap_err();
            assert!(e.to_string().contains("one value a channel"), "{e}");
            assert_eq!(layer.variance_c, before);
        }
        assert!(layer.forward(&x(3).view([3, 2, 1]).expand([3, 2, 2], false), true).is_ok());
    }
}
