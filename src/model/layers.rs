//! The layers that architectures share. Each holds tensors of the model's one float type and computes
//! in it; libtorch's norms and attention accumulate in float32 inside.

use tch::{Kind, Tensor};

use super::Under;
use super::sight::Sight;
use crate::error::Result;
use crate::native::small::{self, Order};
use crate::native::widen;
use crate::weights::{Adapter, Tap};

/// A linear map, stored as `[out, in]`, or as `[in, out]` by GPT-2, and a change of low rank beside it.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    input_first: bool,
    adapter: Option<Adapter>,
    tap: Option<Tap>,
}

impl Linear {
    /// Stored as `[out, in]`.
    pub(super) fn new(under: Under<'_>, name: &str, bias: bool) -> Result<Self> {
        let weight = under.get(&format!("{name}.weight"))?;
        let full = format!("{}{name}.weight", under.prefix);
        let (adapter, tap) = (under.params.adapter(&full), under.params.tap(&full));
        let bias = under.maybe(bias, &format!("{name}.bias"))?;
        Ok(Linear { weight, bias, input_first: false, adapter, tap })
    }

    /// Stored as `[in, out]` (GPT-2's Conv1D).
    pub(super) fn input_first(under: Under<'_>, name: &str) -> Result<Self> {
        Ok(Linear { input_first: true, ..Self::new(under, name, true)? })
    }

    /// The map's value.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.tap {
            None => self.adapted(x),
            Some(tap) => self.adapted(&tap.pass(x)?),
        }
    }

    /// Its value with the adapter's share.
    fn adapted(&self, x: &Tensor) -> Result<Tensor> {
        let out = self.unchanged(x)?;
        let Some(Adapter { a_ri, b_or, scale }) = &self.adapter else { return Ok(out) };
        let low = widen::linear(x, a_ri, None)?.f_mul_scalar(*scale)?;
        Ok(out.f_add(&widen::linear(&low, b_or, None)?)?)
    }

    /// Its value without the adapter.
    fn unchanged(&self, x: &Tensor) -> Result<Tensor> {
        let order = if self.input_first { Order::InputFirst } else { Order::OutputFirst };
        if let Some(out) = small::linear(x, &self.weight, order, self.bias.as_ref(), x.kind())? {
            return Ok(out);
        }
        // The transposed view is made anew each time: one made at start would carry no gradient
        // where the model was built with gradients off.
        if self.input_first {
            return widen::linear(x, &self.weight.f_transpose(0, 1)?, self.bias.as_ref());
        }
        widen::linear(x, &self.weight, self.bias.as_ref())
    }

    /// Over the same memory.
    pub fn share(&self) -> Self {
        let bias = self.bias.as_ref().map(Tensor::shallow_clone);
        let adapter = self.adapter.as_ref().map(Adapter::share);
        let tap = self.tap.as_ref().map(Tap::share);
        Linear { weight: self.weight.shallow_clone(), bias, input_first: self.input_first, adapter, tap }
    }
}

/// A norm over the channels.
#[derive(Debug)]
pub enum Norm {
    /// Mean and variance, with weight and bias or (rarely) neither.
    Layer {
        /// Factor a channel.
        weight: Option<Tensor>,
        /// Summand a channel.
        bias: Option<Tensor>,
        /// Channels.
        width: i64,
        /// Added to the variance.
        eps: f64,
    },
    /// Root mean square alone.
    Rms {
        /// Factor a channel.
        weight: Tensor,
        /// Channels.
        width: i64,
        /// Added to the mean square.
        eps: f64,
    },
}

impl Norm {
    pub(super) fn layer(under: Under<'_>, name: &str, width: i64, eps: f64, affine: bool) -> Result<Self> {
        let weight = under.maybe(affine, &format!("{name}.weight"))?;
        let bias = under.maybe(affine, &format!("{name}.bias"))?;
        Ok(Norm::Layer { weight, bias, width, eps })
    }

    pub(super) fn rms(under: Under<'_>, name: &str, width: i64, eps: f64) -> Result<Self> {
        Ok(Norm::Rms { weight: under.get(&format!("{name}.weight"))?, width, eps })
    }

    /// The normalised state.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Norm::Layer { weight, bias, width, eps } => {
                Ok(x.f_layer_norm([*width], weight.as_ref(), bias.as_ref(), *eps, true)?)
            }
            Norm::Rms { weight, width, eps } => match small::rms_norm(x, weight, *eps)? {
                Some(out) => Ok(out),
                None => Ok(x.f_rms_norm([*width], Some(weight), *eps)?),
            },
        }
    }

    /// Over the same memory.
    pub fn share(&self) -> Self {
        let same = |t: &Option<Tensor>| t.as_ref().map(Tensor::shallow_clone);
        match self {
            Norm::Layer { weight, bias, width, eps } => {
                Norm::Layer { weight: same(weight), bias: same(bias), width: *width, eps: *eps }
            }
            Norm::Rms { weight, width, eps } => {
                Norm::Rms { weight: weight.shallow_clone(), width: *width, eps: *eps }
            }
        }
    }
}

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x sigmoid(x).
    Silu,
    /// x Phi(x), exact.
    Gelu,
    /// x Phi(x) by the tanh formula.
    GeluTanh,
    /// max(x, 0).
    Relu,
}

impl Activation {
    /// The names that transformers has for them.
    pub const NAMES: [&'static str; 7] =
        ["silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu"];

    /// By transformers' name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "silu" | "swish" => Some(Activation::Silu),
            "gelu" => Some(Activation::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Some(Activation::GeluTanh),
            "relu" => Some(Activation::Relu),
            _ => None,
        }
    }

    /// Its value.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Activation::Silu => x.f_silu()?,
            Activation::Gelu => x.f_gelu("none")?,
            Activation::GeluTanh => x.f_gelu("tanh")?,
            Activation::Relu => x.f_relu()?,
        })
    }

    /// Its value times another.
    fn gate(self, x: &Tensor, up: &Tensor) -> Result<Tensor> {
        if self == Activation::Silu
            && let Some(gated) = small::gate(x, up)?
        {
            return Ok(gated);
        }
        Ok(self.forward(x)?.f_mul(up)?)
    }
}

/// The feed-forward net.
#[derive(Debug)]
pub enum Mlp {
    /// `down(act(up(x)))`.
    Plain {
        /// Into the net.
        up: Linear,
        /// Out of it.
        down: Linear,
        /// Between.
        act: Activation,
    },
    /// `down(act(gate(x)) * up(x))`.
    Gated {
        /// The gate.
        gate: Linear,
        /// What it gates.
        up: Linear,
        /// Out of the net.
        down: Linear,
        /// On the gate.
        act: Activation,
    },
}

impl Mlp {
    /// The net's value.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Mlp::Plain { up, down, act } => down.forward(&act.forward(&up.forward(x)?)?),
            Mlp::Gated { gate, up, down, act } => {
                down.forward(&act.gate(&gate.forward(x)?, &up.forward(x)?)?)
            }
        }
    }

    /// Over the same memory.
    pub fn share(&self) -> Self {
        match self {
            Mlp::Plain { up, down, act } => Mlp::Plain { up: up.share(), down: down.share(), act: *act },
            Mlp::Gated { gate, up, down, act } => {
                Mlp::Gated { gate: gate.share(), up: up.share(), down: down.share(), act: *act }
            }
        }
    }
}

/// Tokens to the first hidden state.
#[derive(Debug)]
pub struct Embedding {
    /// One row a token.
    pub tokens_vd: Tensor,
    /// One row a position, and how many rows come before the first (OPT keeps two free).
    pub positions: Option<(Tensor, i64)>,
    /// To another width.
    pub project: Option<Linear>,
}

impl Embedding {
    /// The state before the first block.
    pub fn forward(&self, ids_bt: &Tensor, sight: &Sight) -> Result<Tensor> {
        let mut x = Tensor::f_embedding(&self.tokens_vd, ids_bt, -1, false, false)?;
        if let Some(project) = &self.project {
            x = project.forward(&x)?;
        }
        if let Some((rows, offset)) = &self.positions {
            let places = sight.positions_bt().f_add_scalar(*offset)?;
            x = x.f_add(&Tensor::f_embedding(rows, &places, -1, false, false)?)?;
        }
        Ok(x)
    }
}

/// What comes between the last block and the head.
#[derive(Debug)]
pub struct Finish {
    /// The last norm.
    pub norm: Option<Norm>,
    /// To another width.
    pub project: Option<Linear>,
}

impl Finish {
    /// The state that the head sees.
    pub fn forward(&self, x: Tensor) -> Result<Tensor> {
        let x = match &self.norm {
            Some(norm) => norm.forward(&x)?,
            None => x,
        };
        match &self.project {
            Some(project) => project.forward(&x),
            None => Ok(x),
        }
    }
}

/// The last hidden state to logits.
#[derive(Debug)]
pub struct Head {
    /// One row a token; the embedding's own where the head is tied.
    pub weight_vd: Tensor,
    /// A summand a token.
    pub bias_v: Option<Tensor>,
}

impl Head {
    /// The logits over the whole output, in the model's float type.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        widen::linear(hidden, &self.weight_vd, self.bias_v.as_ref())
    }

    /// The logits that a token is drawn from, in float32 where it costs nothing. Gradients must be off.
    pub fn next_logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let _few = small::allow();
        let bias = self.bias_v.as_ref();
        match small::linear(hidden, &self.weight_vd, Order::OutputFirst, bias, Kind::Float)? {
            Some(logits) => Ok(logits),
            // Rounded or not must not depend on the number of rows.
            None if widen::pays(hidden) => widen::wide(hidden, &self.weight_vd, bias),
            None => self.logits(hidden),
        }
    }

    /// log p of `targets` (same leading shape as `hidden`, less the channels), softmax in float32.
    pub fn log_probability(&self, hidden: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let logits = self.logits(hidden)?.f_to_kind(Kind::Float)?;
        let chosen = logits.f_gather(-1, &targets.f_unsqueeze(-1)?, false)?.f_squeeze_dim(-1)?;
        Ok(chosen.f_sub(&logits.f_logsumexp([-1i64], false)?)?)
    }
}
