//! One update: rows in, changed weights out.
//!
//! Each micro-batch goes forward, is scored as a sum, and its gradient goes back; gradients add up in
//! float32. The gradient of the head is made by the fused head itself and is added once an update; the
//! rest of the model gets its gradient from the hidden states. Everything is divided by the tokens of the
//! whole update.

use std::time::{Duration, Instant};

use retort_policies::objective::head::{HeadGrads, Want};
use retort_policies::objective::input::{Head, Side};
use retort_policies::{Part, Policy, Unit, View};
use tch::{Kind, Tensor};

use super::batch::Micro;
use super::feed::Batch;
use super::setup::Material;
use super::teacher::Among;
use crate::data::sampler::Cut;
use crate::data::{Example, by_length};
use crate::error::{Error, Result};
use crate::model::{CausalLm, Padding};
use crate::native;
use crate::optim::{Optimizer, Outcome};

/// What is told of an update.
#[derive(Debug, Clone)]
pub struct Told {
    /// Whether it was done, and the gradients' norm.
    pub outcome: Outcome,
    /// The loss, a mean.
    pub loss: f64,
    /// Its terms, unweighted, as means.
    pub terms: Vec<(&'static str, f64)>,
    /// Tokens learnt.
    pub tokens: usize,
    /// Rows.
    pub rows: usize,
    /// How long it took.
    pub time: Duration,
}

/// What updates are made with.
#[derive(Debug)]
pub struct Updater {
    policy: Box<dyn Policy>,
    /// Float32, one a parameter.
    sums: Vec<Tensor>,
    head: HeadPlace,
    cut: Cut,
}

/// Which parameters the head is, and where its gradient adds up.
#[derive(Debug)]
struct HeadPlace {
    weight: usize,
    bias: Option<usize>,
    grads: HeadGrads,
}

impl Updater {
    /// Room for the gradients of the student.
    pub fn new(material: &Material, policy: Box<dyn Policy>, cut: Cut) -> Result<Self> {
        let student = &material.student;
        let sums: Vec<Tensor> =
            student.params().masters().iter().map(|t| Ok(t.f_zeros_like()?)).collect::<Result<_>>()?;
        Ok(Updater { policy, sums, head: HeadPlace::of(student)?, cut })
    }

    /// The policy.
    pub fn policy(&self) -> &dyn Policy {
        self.policy.as_ref()
    }

    /// The same, to be told something.
    pub fn policy_mut(&mut self) -> &mut dyn Policy {
        self.policy.as_mut()
    }

    /// How rows are cut.
    pub fn cut(&self) -> Cut {
        self.cut
    }

    /// One update by these rows.
    pub fn run(
        &mut self,
        material: &Material,
        batch: &Batch,
        optimizer: &mut Optimizer,
        lr: f64,
    ) -> Result<Told> {
        let begun = Instant::now();
        let examples = &batch.examples;
        let tokens: usize = examples.iter().map(Example::targets).sum();
        let divisor = match self.policy.plan().unit {
            Unit::Tokens => tokens,
            Unit::Rows => examples.len(),
        }
        .max(1) as f64;
        native::zero_all(&self.sums)?;
        self.head.clear()?;
        let lengths: Vec<usize> = examples.iter().map(|e| e.ids.len()).collect();
        let mut sums = Sums::default();
        for group in by_length(&lengths, self.cut) {
            let rows: Vec<&Example> = group.iter().map(|&row| &examples[row]).collect();
            let numbers: Vec<u64> = group.iter().map(|&row| batch.numbers[row]).collect();
            self.micro(material, &rows, &numbers, divisor, &mut sums)?;
        }
        self.head.add(&self.sums, 1.0 / divisor)?;
        let (loss, terms) = sums.read(divisor)?;
        let outcome =
            if loss.is_finite() { optimizer.step(&self.sums, lr)? } else { Outcome::Skipped(f64::NAN) };
        if let Outcome::Done(_) = outcome {
            material.student.params().publish()?;
        }
        Ok(Told { outcome, loss, terms, tokens, rows: examples.len(), time: begun.elapsed() })
    }

    /// Forward, score, backward.
    fn micro(
        &mut self,
        material: &Material,
        rows: &[&Example],
        numbers: &[u64],
        divisor: f64,
        sums: &mut Sums,
    ) -> Result<()> {
        let student = &material.student;
        let micro = Micro::of(rows, student.device())?;
        let hidden_nd = micro.rows.pack(&student.hidden(&micro.ids_bt, &Padding::Right)?)?;
        let wants_teacher = self.policy.plan().teacher;
        let teacher = match &material.teacher {
            Some(teacher) if wants_teacher => Some((teacher, teacher.said(Among::Trained, &micro, numbers)?)),
            _ => None,
        };
        let view = View {
            part: Part::Main,
            student: Side::Hidden { hidden_nd: &hidden_nd, head: head(student) },
            teacher: teacher.as_ref().map(|(t, said)| t.side(said)).transpose()?,
            targets_n: &micro.targets_n,
            lengths: &micro.lengths,
            signals: &[],
            vocabulary: material.vocabulary as i64,
            barred: None,
            want: Want::Head(&mut self.head.grads),
        };
        let scored = self.policy.score(view)?;
        let grad = scored.grad.as_ref().ok_or_else(|| Error::bug("a loss without a gradient"))?;
        native::backward(&[hidden_nd], &[grad.f_mul_scalar(1.0 / divisor)?], false)?;
        student.params().collect_grads(&self.sums)?;
        sums.add(&scored.names, scored.loss, scored.sums_k)
    }
}

/// A model's head, as policies take it.
pub(super) fn head(model: &CausalLm) -> Head<'_> {
    Head { weight_vd: &model.head().weight_vd, bias_v: model.head().bias_v.as_ref(), softcap: None }
}

/// The states that a model's head sees at the scored positions, without a gradient.
pub(super) fn states(model: &CausalLm, micro: &Micro) -> Result<Tensor> {
    let _off = tch::no_grad_guard();
    Ok(micro.rows.pack(&model.hidden(&micro.ids_bt, &Padding::Right)?)?)
}

impl HeadPlace {
    fn of(student: &CausalLm) -> Result<Self> {
        let compute = student.params().compute();
        let place = |t: &Tensor| {
            let found = compute.iter().position(|c| c.data_ptr() == t.data_ptr());
            found.ok_or_else(|| Error::bug("the head is none of the parameters"))
        };
        let own = student.head();
        let (weight, bias) = (place(&own.weight_vd)?, own.bias_v.as_ref().map(place).transpose()?);
        Ok(HeadPlace { weight, bias, grads: HeadGrads::zeros(&head(student))? })
    }

    fn clear(&self) -> Result<()> {
        let all = [Some(&self.grads.weight_vd), self.grads.bias_v.as_ref()];
        native::zero_all(&all.into_iter().flatten().map(Tensor::shallow_clone).collect::<Vec<_>>())
    }

    /// Adds the head's gradient to the others.
    fn add(&self, sums: &[Tensor], factor: f64) -> Result<()> {
        let mut pairs = vec![(self.weight, &self.grads.weight_vd)];
        pairs.extend(self.bias.zip(self.grads.bias_v.as_ref()));
        let (into, from): (Vec<Tensor>, Vec<Tensor>) =
            pairs.into_iter().map(|(at, t)| (sums[at].shallow_clone(), t.shallow_clone())).unzip();
        native::add_all(&into, &from, factor)
    }
}

/// What the micro-batches add up to, on the device until the update's end.
#[derive(Default)]
struct Sums {
    loss: Option<Tensor>,
    names: Vec<&'static str>,
    terms_k: Option<Tensor>,
}

impl Sums {
    fn add(&mut self, names: &[&'static str], loss: Tensor, terms_k: Tensor) -> Result<()> {
        let plus = |sum: &mut Option<Tensor>, more: Tensor| -> Result<()> {
            *sum = Some(match sum.take() {
                Some(sum) => sum.f_add(&more)?,
                None => more,
            });
            Ok(())
        };
        self.names = names.to_vec();
        plus(&mut self.loss, loss)?;
        plus(&mut self.terms_k, terms_k)
    }

    fn read(self, divisor: f64) -> Result<(f64, Vec<(&'static str, f64)>)> {
        let loss = self.loss.map(|t| t.f_double_value(&[])).transpose()?.unwrap_or(0.0);
        let terms = match self.terms_k {
            Some(t) => Vec::<f64>::try_from(t.f_to_kind(Kind::Double)?.f_to_device(tch::Device::Cpu)?)?,
            None => Vec::new(),
        };
        Ok((loss / divisor, self.names.into_iter().zip(terms.into_iter().map(|x| x / divisor)).collect()))
    }
}
