//! Which parameters the student's head is, and where the fused head adds up its gradient.

use retort_policies::objective::head::HeadGrads;
use tch::Tensor;

use super::gradients::Gradients;
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::native;

/// Which parameters the head is, and where its gradient adds up.
#[derive(Debug)]
pub struct HeadPlace {
    weight: usize,
    bias: Option<usize>,
    /// Whether the weight is the embedding's too, and gets a gradient from there.
    tied: bool,
    /// What the fused head adds to.
    pub grads: HeadGrads,
}

impl HeadPlace {
    /// The head of a student all of which learns.
    pub fn of(student: &CausalLm) -> Result<Self> {
        let compute = student.params().compute();
        let place = |t: &Tensor| {
            let found = compute.iter().position(|c| c.data_ptr() == t.data_ptr());
            found.ok_or_else(|| Error::bug("the head is none of the parameters"))
        };
        let own = student.head();
        let (weight, bias) = (place(&own.weight_vd)?, own.bias_v.as_ref().map(place).transpose()?);
        let (tied, grads) = (student.shape().tied, HeadGrads::zeros(&student.scoring_head())?);
        Ok(HeadPlace { weight, bias, tied, grads })
    }

    /// Forgets what has added up.
    pub fn clear(&self) -> Result<()> {
        let all = [Some(&self.grads.weight_vd), self.grads.bias_v.as_ref()];
        native::zero_all(&all.into_iter().flatten().map(Tensor::shallow_clone).collect::<Vec<_>>())
    }

    /// Adds the head's gradient to the others.
    pub fn add(&self, gradients: &mut Gradients, factor: f64) -> Result<()> {
        let mut pairs = vec![(self.weight, &self.grads.weight_vd)];
        pairs.extend(self.bias.zip(self.grads.bias_v.as_ref()));
        for (place, from) in pairs {
            native::add_all(&[gradients.view(place)?], &[from.shallow_clone()], factor)?;
        }
        Ok(())
    }

    /// The parameters that get their gradient from here alone, and none from a backward pass.
    pub fn alone(&self) -> Vec<usize> {
        (!self.tied).then_some(self.weight).into_iter().chain(self.bias).collect()
    }
}
