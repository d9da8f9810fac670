//! A small convolutional network with (ghost) batch norm, and SGD with momentum.

use rand_distr::{Distribution, Normal};
use retort::error::{Error, Result};
use retort::model::ghost::GhostNorm;
use retort::native;
use retort::seed::{Stream, generator};
use tch::{Device, Kind, Reduction, Tensor};

/// Channels of the three convolutions; the first two halve the image's sides.
const CHANNELS: [i64; 4] = [1, 16, 32, 32];
/// The sides of what the last one leaves.
const LEFT: i64 = 7;
const CLASSES: i64 = 10;
const MOMENTUM: f64 = 0.9;
const DECAY: f64 = 1e-4;

/// Three convolutions, each with a norm behind it, and a linear map to the classes.
pub struct Network {
    kernels: Vec<Tensor>,
    norms: Vec<GhostNorm>,
    weight: Tensor,
    bias: Tensor,
}

impl Network {
    /// Random weights by He's rule; each is a function of the seed and its place. Norms have ghosts of so many rows.
    pub fn new(seed: u64, ghost: i64) -> Result<Self> {
        let options = (Kind::Float, Device::Cpu);
        let layers = CHANNELS.windows(2).enumerate();
        let kernels =
            layers.map(|(n, c)| random(seed, n as u64, &[c[1], c[0], 3, 3])).collect::<Result<_>>()?;
        let norms =
            CHANNELS[1..].iter().map(|c| GhostNorm::new(*c, ghost, options)).collect::<Result<_>>()?;
        let weight = random(seed, 9, &[CLASSES, CHANNELS[3] * LEFT * LEFT])?;
        let bias = Tensor::f_zeros([CLASSES], options)?.f_set_requires_grad(true)?;
        Ok(Network { kernels, norms, weight, bias })
    }

    /// All that learns.
    pub fn parameters(&self) -> Vec<Tensor> {
        let norms = self.norms.iter().flat_map(|n| [&n.weight_c, &n.bias_c]);
        self.kernels
            .iter()
            .chain(norms)
            .chain([&self.weight, &self.bias])
            .map(Tensor::shallow_clone)
            .collect()
    }

    /// The classes' logits.
    pub fn logits(&self, pixels: &Tensor, training: bool) -> Result<Tensor> {
        let mut x = pixels.shallow_clone();
        for (n, (kernel, norm)) in self.kernels.iter().zip(&self.norms).enumerate() {
            let stride = if n < 2 { 2 } else { 1 };
            let none: Option<&Tensor> = None;
            x = x.f_conv2d(kernel, none, [stride, stride], [1, 1], [1, 1], 1)?;
            x = norm.forward(&x, training)?.f_relu()?;
        }
        Ok(x.f_flatten(1, -1)?.f_linear(&self.weight, Some(&self.bias))?)
    }

    /// The mean cross-entropy of these images.
    pub fn loss(&self, pixels: &Tensor, classes: &Tensor, training: bool) -> Result<Tensor> {
        let none: Option<&Tensor> = None;
        let logits = self.logits(pixels, training)?;
        Ok(logits.f_cross_entropy_loss(classes, none, Reduction::Mean, -100, 0.0)?)
    }

    /// The share of images that it names rightly, in percent, by the running statistics.
    pub fn accuracy(&self, pixels: &Tensor, classes: &Tensor) -> Result<f64> {
        let _off = tch::no_grad_guard();
        let (rows, mut right) = (classes.size()[0], 0.0);
        for from in (0..rows).step_by(500) {
            let count = 500.min(rows - from);
            let found = self.logits(&pixels.f_narrow(0, from, count)?, false)?.f_argmax(1, false)?;
            right += found
                .f_eq_tensor(&classes.f_narrow(0, from, count)?)?
                .f_sum(Kind::Float)?
                .f_double_value(&[])?;
        }
        Ok(100.0 * right / rows as f64)
    }
}

/// He's normal law for a ReLU behind it.
fn random(seed: u64, place: u64, shape: &[i64]) -> Result<Tensor> {
    let inputs: i64 = shape[1..].iter().product();
    let law = Normal::new(0f32, (2.0 / inputs as f32).sqrt()).map_err(|e| Error::bug("no law").found(e))?;
    let mut draws = generator(seed, Stream::Weights, 0, place);
    let values: Vec<f32> = (0..shape.iter().product::<i64>()).map(|_| law.sample(&mut draws)).collect();
    Ok(Tensor::f_from_slice(&values)?.f_view(shape)?.f_set_requires_grad(true)?)
}

/// SGD with momentum and weight decay, as torch has it.
pub struct Sgd {
    parameters: Vec<Tensor>,
    momenta: Vec<Tensor>,
    clip: f64,
}

impl Sgd {
    /// For these parameters; `clip` is the largest norm of the gradients together, 0 for any.
    pub fn new(parameters: Vec<Tensor>, clip: f64) -> Result<Self> {
        let momenta = parameters.iter().map(|p| Ok(p.f_zeros_like()?)).collect::<Result<_>>()?;
        Ok(Sgd { parameters, momenta, clip })
    }

    /// One update by the gradients that a backward pass left, which are gone afterwards.
    pub fn step(&mut self, lr: f64) -> Result<()> {
        let _off = tch::no_grad_guard();
        let grads: Vec<Tensor> = self.parameters.iter().map(Tensor::grad).collect();
        if self.clip > 0.0 {
            let _norm = native::clip(&grads, self.clip)?;
        }
        for (momentum, (parameter, grad)) in self.momenta.iter().zip(self.parameters.iter().zip(&grads)) {
            let _new = momentum.shallow_clone().f_mul_scalar_(MOMENTUM)?.f_add_(grad)?;
            let _new = momentum.shallow_clone().f_add_(&parameter.f_mul_scalar(DECAY)?)?;
            let _moved = parameter.shallow_clone().f_sub_(&momentum.f_mul_scalar(lr)?)?;
        }
        native::zero_all(&grads)
    }
}
