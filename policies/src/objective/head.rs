//! The fused head: from hidden states and head weights to the loss and its gradient, without ever
//! holding tokens x vocabulary.
//!
//! Tokens go through in chunks. A chunk's logits are made, turned into the derivative of the loss where
//! they lie (one softmax pair for every term, `term`), and multiplied back at once: onto the
//! hidden states, and added into the gradient of the head. The softmax and all that follows it goes
//! block by block of a few rows, which stay in the cache, or on the CPU row by row by loops of our own
//! (`fast`), where they know the terms. Peak memory is two chunks x vocabulary and the
//! gradient of the head, however many tokens there are.
//!
//! The vocabulary itself is not cut into chunks: a softmax needs the whole row, so tiles of it would
//! have to compute both products a second time (six in place of four), and what they would save, the
//! cache, the blocks of rows save already.
//!
//! The gradient at the hidden states goes back into the model by
//! `(hidden_nd * grad.detach()).sum().backward()`; a tied head's gradient is added to the embedding's.

use tch::{Device, Kind, Tensor};

use super::fast::Fast;
use super::input::{Head, Input, Side, checked, may_bar};
use super::pair::{Pair, Soft};
use super::product;
use super::term::{Term, block, weighted, wide};
use crate::error::Result;

/// Where the gradient of a head is added up, over chunks and micro-batches. Float32, or float64 where the
/// model is; in the head's own shape, rows behind the vocabulary stay 0.
#[derive(Debug)]
pub struct HeadGrads {
    /// By the weight.
    pub weight_vd: Tensor,
    /// By the bias.
    pub bias_v: Option<Tensor>,
}

impl HeadGrads {
    /// Zeros for this head.
    pub fn zeros(head: &Head) -> Result<Self> {
        let like = |t: &Tensor| {
            let kind = if t.kind() == Kind::Double { Kind::Double } else { Kind::Float };
            Tensor::f_zeros(t.size(), (kind, t.device()))
        };
        Ok(HeadGrads { weight_vd: like(head.weight_vd)?, bias_v: head.bias_v.map(like).transpose()? })
    }
}

/// What is asked for.
#[derive(Debug)]
pub enum Want<'a> {
    /// Values alone.
    Values,
    /// The gradient at the student's hidden states (or logits, where those were given) too.
    Hidden,
    /// And that of the student's head, added to what is there.
    Head(&'a mut HeadGrads),
}

/// What came of it. Nothing is read back from the device here.
#[derive(Debug)]
pub struct Fused {
    /// The summed loss: every term with its weights, over all tokens (float64, no dimension).
    pub loss: Tensor,
    /// The unweighted sum of each term (float64).
    pub sums_k: Tensor,
    /// Each term at each token, unweighted.
    pub values_kn: Tensor,
    /// The gradient of `loss` at the student's hidden states or logits.
    pub grad: Option<Tensor>,
}

/// How many tokens go through together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunks {
    /// Rows of one product.
    pub tokens: i64,
    /// Rows of one softmax; what belongs to them should fit into the cache.
    pub block: i64,
}

impl Chunks {
    /// The sizes for a device and vocabulary: constants, never timings, so that the same run writes the same bytes.
    pub fn of(device: Device, vocabulary: i64) -> Self {
        if device.is_cuda() {
            return Chunks { tokens: 1024, block: 256 };
        }
        // Measured on one thread of an AVX2 machine (benches/results/head.md): products of 128 rows cost as
        // little as any, of 64 a tenth more. Blocks are for the operations: half a MiB a float32 buffer, of
        // which a handful is alive, cost a tenth less in all than 2 MiB.
        Chunks { tokens: 128, block: ((1 << 17) / vocabulary.max(1)).clamp(1, 256) }
    }
}

/// The loss of all terms over all tokens, and its gradient, at the sizes of [`Chunks::of`].
///
/// ```
/// use retort_policies::objective::head::{fused, Want};
/// use retort_policies::objective::input::{Head, Input, Side};
/// use retort_policies::objective::term::{Loss, Term};
/// use tch::{Device, Kind, Tensor};
/// # fn main() -> retort_policies::Result<()> {
/// let (hidden_nd, weight_vd) = (Tensor::ones([2, 4], (Kind::Float, Device::Cpu)), Tensor::zeros([5, 4], (Kind::Float, Device::Cpu)));
/// let head = Head { weight_vd: &weight_vd, bias_v: None, softcap: None };
/// let input = Input {
///     student: Side::Hidden { hidden_nd: &hidden_nd, head },
///     teacher: None,
///     targets_n: &Tensor::from_slice(&[1i64, 3]),
///     vocabulary: 5,
///     barred: None,
///     teacher_temperature: 1.0,
/// };
/// let made = fused(&input, &[Term::new("ce", Loss::CrossEntropy, 1.0)], Want::Hidden)?;
/// assert!((made.loss.double_value(&[]) - 2.0 * 5f64.ln()).abs() < 1e-6);
/// # Ok(()) }
/// ```
pub fn fused(input: &Input, terms: &[Term], want: Want) -> Result<Fused> {
    fused_in(input, terms, want, Chunks::of(input.targets_n.device(), input.vocabulary))
}

/// [`fused`], with the gradient at each token multiplied with a number of its own; values stay as they are.
pub fn fused_scaled(input: &Input, terms: &[Term], want: Want, scale_n: Option<&Tensor>) -> Result<Fused> {
    run(input, terms, want, Chunks::of(input.targets_n.device(), input.vocabulary), scale_n)
}

/// [`fused`] at sizes of one's own. The sizes change rounding and nothing else.
pub fn fused_in(input: &Input, terms: &[Term], want: Want, chunks: Chunks) -> Result<Fused> {
    run(input, terms, want, chunks, None)
}

fn run(
    input: &Input,
    terms: &[Term],
    mut want: Want,
    chunks: Chunks,
    scale_n: Option<&Tensor>,
) -> Result<Fused> {
    let _off = tch::no_grad_guard();
    checked(input, terms)?;
    let (count, kind, device) =
        (input.targets_n.size()[0], input.student.kind(), input.student.tensor().device());
    let run = Run {
        input,
        terms,
        scale_n,
        block: chunks.block.max(1),
        slope: !matches!(want, Want::Values),
        look: (may_bar(input, &input.student)?, input.teacher.map_or(Ok(false), |t| may_bar(input, &t))?),
    };
    if device == Device::Cpu {
        keep_freed_memory()?;
    }
    let values_kn = Tensor::f_zeros([terms.len() as i64, count], (kind, device))?;
    let grad = if run.slope { Some(input.student.tensor().f_zeros_like()?) } else { None };
    let fast = Fast::of(input, terms, scale_n, run.look.0 || run.look.1, run.slope)?;
    // The fast loops write where the logits lie, so given ones are copied.
    let own = |side: &Side| matches!(side, Side::Hidden { .. }) || fast.is_some();
    let rows = chunks.tokens.clamp(1, count.max(1));
    let buffer = |side: &Side| Tensor::f_empty([rows, input.vocabulary], (side.kind(), device));
    let student_cv = buffer(&input.student)?;
    let teacher_cv = input.teacher.as_ref().filter(|t| own(t)).map(buffer).transpose()?;
    for from in (0..count).step_by(rows as usize) {
        let length = rows.min(count - from);
        let mut slope_cv = student_cv.f_narrow(0, 0, length)?;
        let into = |side: &Side| own(side).then_some(&student_cv);
        let z_cv = logits(&input.student, from, length, input.vocabulary, into(&input.student))?;
        let mut teacher = match &input.teacher {
            None | Some(Side::Draws(_)) => None,
            Some(side) => Some(logits(side, from, length, input.vocabulary, teacher_cv.as_ref())?),
        };
        match &fast {
            Some(fast) => fast.chunk(&mut slope_cv, teacher.as_mut(), from, &values_kn)?,
            None => run.chunk(&z_cv, teacher.as_ref(), &slope_cv, from, &values_kn)?,
        }
        if let Some(grad) = &grad {
            multiply_back(input, &slope_cv, from, &mut want, grad)?;
        }
    }
    totals(terms, values_kn, grad)
}

/// The buffers of a block of operations are freed and asked for again all the time, those of a chunk with every
/// call. glibc gives the end of its heap back to the system at every turn, and the page faults took a
/// twelfth of the whole pass; once a large mapping was freed, it keeps twice its size. Untouched, the mapping
/// itself costs nothing; elsewhere it does nothing.
fn keep_freed_memory() -> Result<()> {
    drop(Tensor::f_empty([31 << 20], (Kind::Uint8, Device::Cpu))?);
    Ok(())
}

/// What does not change from chunk to chunk.
struct Run<'a> {
    input: &'a Input<'a>,
    terms: &'a [Term],
    scale_n: Option<&'a Tensor>,
    block: i64,
    slope: bool,
    /// Whether a logit of the student's, of the teacher's, may be -inf.
    look: (bool, bool),
}

impl Run<'_> {
    /// One chunk, block by block: values into `values_kn`, the derivative into `slope_cv`, which may be
    /// the memory that the logits lie in.
    fn chunk(
        &self,
        z_cv: &Tensor,
        teacher_cv: Option<&Tensor>,
        slope_cv: &Tensor,
        from: i64,
        values_kn: &Tensor,
    ) -> Result<()> {
        let length = z_cv.size()[0];
        let wide = wide(self.terms) && z_cv.kind() != Kind::Double;
        for start in (0..length).step_by(self.block as usize) {
            let rows = self.block.min(length - start);
            let at = from + start;
            let (q_cv, damp_cv) =
                self.finished(&self.input.student, &z_cv.f_narrow(0, start, rows)?, at, wide)?;
            let q = Soft::of(&q_cv, self.look.0)?;
            let p = match (&self.input.teacher, teacher_cv) {
                (Some(side), Some(t_cv)) => {
                    let (p_cv, _) = self.finished(side, &t_cv.f_narrow(0, start, rows)?, at, wide)?;
                    let heat = self.input.teacher_temperature;
                    Some(Soft::of(&if heat == 1.0 { p_cv } else { p_cv.f_div_scalar(heat)? }, self.look.1)?)
                }
                _ => None,
            };
            let drawn = match &self.input.teacher {
                Some(Side::Draws(draws)) => Some(draws.at(at, rows)?),
                _ => None,
            };
            let targets_c = self.input.targets_n.f_narrow(0, at, rows)?;
            let made = block(self.terms, &Pair { q, p, drawn }, &targets_c, at, self.slope)?;
            for (k, value_c) in made.values_c.iter().enumerate() {
                values_kn.f_select(0, k as i64)?.f_narrow(0, at, rows)?.f_copy_(value_c)?;
            }
            let mut into_cv = slope_cv.f_narrow(0, start, rows)?;
            match made.slope_cv {
                Some(mut made_cv) => {
                    if let Some(damp_cv) = damp_cv {
                        made_cv = made_cv.f_mul_(&damp_cv)?;
                    }
                    if let Some(scale_n) = self.scale_n {
                        let scale_c = scale_n.f_narrow(0, at, rows)?.f_to_kind(made_cv.kind())?;
                        made_cv = made_cv.f_mul_(&scale_c.f_unsqueeze(-1)?)?;
                    }
                    into_cv.f_copy_(&made_cv)?;
                }
                None if self.slope => drop(into_cv.f_zero_()?),
                None => {}
            }
        }
        Ok(())
    }

    /// Logits with the soft cap and the bars on them, and what the cap multiplies the derivative with.
    fn finished(
        &self,
        side: &Side,
        raw_cv: &Tensor,
        at: i64,
        wide: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let mut z_cv = raw_cv.shallow_clone();
        let mut damp_cv = None;
        if wide {
            z_cv = z_cv.f_to_kind(Kind::Double)?;
        }
        if let Side::Hidden { head: Head { softcap: Some(cap), .. }, .. } = side {
            let t_cv = z_cv.f_div_scalar(*cap)?.f_tanh_()?;
            damp_cv = Some(t_cv.f_square()?.f_neg_()?.f_add_scalar_(1.0)?);
            z_cv = t_cv.f_mul_scalar(*cap)?;
        }
        if let Some(barred) = &self.input.barred {
            let mut own_cv = z_cv.f_empty_like()?;
            own_cv.f_copy_(&z_cv)?;
            z_cv = own_cv;
            barred.bar(&z_cv, at)?;
        }
        Ok((z_cv, damp_cv))
    }
}

/// A side's logits for some tokens, cut to the vocabulary, in the type they are computed in.
pub(crate) fn logits(
    side: &Side,
    from: i64,
    length: i64,
    vocabulary: i64,
    buffer_cv: Option<&Tensor>,
) -> Result<Tensor> {
    match (side, buffer_cv) {
        (Side::Hidden { hidden_nd, head }, Some(buffer_cv)) => {
            let weight_vd = head.weight_vd.f_narrow(0, 0, vocabulary)?;
            let mut z_cv = buffer_cv.f_narrow(0, 0, length)?;
            product::logits(&hidden_nd.f_narrow(0, from, length)?, &weight_vd, &mut z_cv)?;
            if let Some(bias_v) = head.bias_v {
                let _sum = z_cv.f_add_(&bias_v.f_narrow(0, 0, vocabulary)?.f_to_kind(z_cv.kind())?)?;
            }
            Ok(z_cv)
        }
        (_, buffer_cv) => {
            let given_cv = side.tensor().f_narrow(0, from, length)?.f_narrow(1, 0, vocabulary)?;
            let Some(buffer_cv) = buffer_cv else { return Ok(given_cv.f_to_kind(side.kind())?) };
            let mut z_cv = buffer_cv.f_narrow(0, 0, length)?;
            z_cv.f_copy_(&given_cv)?;
            Ok(z_cv)
        }
    }
}

/// The chunk's derivative, taken back through the student's head.
fn multiply_back(input: &Input, slope_cv: &Tensor, from: i64, want: &mut Want, grad: &Tensor) -> Result<()> {
    let length = slope_cv.size()[0];
    let mut grad_c = grad.f_narrow(0, from, length)?;
    let Side::Hidden { hidden_nd, head } = &input.student else {
        return Ok(grad_c.f_narrow(1, 0, input.vocabulary)?.f_copy_(slope_cv)?);
    };
    let weight_vd = head.weight_vd.f_narrow(0, 0, input.vocabulary)?;
    product::to_hidden(slope_cv, &weight_vd, &mut grad_c)?;
    if let Want::Head(grads) = want {
        let mut into_vd = grads.weight_vd.f_narrow(0, 0, input.vocabulary)?;
        product::to_weight(slope_cv, &hidden_nd.f_narrow(0, from, length)?, &mut into_vd)?;
        if let Some(bias_v) = &grads.bias_v {
            let sum_v = slope_cv.f_sum_dim_intlist(0i64, false, None::<Kind>)?;
            let _sum = bias_v.f_narrow(0, 0, input.vocabulary)?.f_add_(&sum_v)?;
        }
    }
    Ok(())
}

/// The sums over tokens, in float64.
fn totals(terms: &[Term], values_kn: Tensor, grad: Option<Tensor>) -> Result<Fused> {
    let wide_kn = values_kn.f_to_kind(Kind::Double)?;
    let sums_k = wide_kn.f_sum_dim_intlist(1i64, false, None::<Kind>)?;
    let mut loss = Tensor::f_zeros([0i64; 0], (Kind::Double, values_kn.device()))?;
    // A term of weight 0 is left out and not multiplied: it may be infinite.
    for (k, term) in terms.iter().enumerate().filter(|(_, t)| t.weight != 0.0) {
        let value_n = weighted(wide_kn.f_select(0, k as i64)?, term.weight, term.each_n.as_ref())?;
        loss = loss.f_add(&value_n.f_sum(None::<Kind>)?)?;
    }
    Ok(Fused { loss, sums_k, values_kn, grad })
}
