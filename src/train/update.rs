//! One update: rows in, changed weights out.
//!
//! Each micro-batch goes forward, is scored as a sum, and its gradient goes back; gradients add up in
//! float32. The gradient of the head is made by the fused head itself and is added once a part; the
//! rest of the model gets its gradient from the hidden states. The rows of the policy's source are divided
//! by their tokens (or rows) in the whole update, the text beside them by its own.

use std::time::{Duration, Instant};

use retort_policies::objective::head::Want;
use retort_policies::objective::input::{Barred, Side};
use retort_policies::objective::rows::first_of_rows;
use retort_policies::{Part, Policy, Scored, Signals, Unit, View};
use tch::{Device, Kind, Tensor};

use super::batch::Micro;
use super::gradients::Gradients;
use super::head::HeadPlace;
use super::noise;
use super::setup::Material;
use super::teacher::{Among, Said, Teacher};
use super::together::{self, Dealt};
use super::work::{Learnt, Work};
use crate::data::sampler::Cut;
use crate::data::{Example, by_length};
use crate::dist::Bytes;
use crate::error::{Error, Result};
use crate::model::{CausalLm, Padding};
use crate::native;
use crate::optim::noise::Estimate;
use crate::optim::{Optimizer, Outcome};
use crate::signal;

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
    /// What was measured of the gradient's noise.
    pub noise: Option<Estimate>,
    /// How long it took.
    pub time: Duration,
    /// What this process exchanged with the others, for the update and the replies that it learns from.
    pub exchanged: Bytes,
}

/// What came of the rows of an update.
#[derive(Debug)]
pub struct Gradient {
    /// The loss.
    pub loss: f64,
    /// Its terms, and what the policy watches.
    pub terms: Vec<(&'static str, f64)>,
    /// Tokens learnt.
    pub tokens: usize,
    /// What was measured of its noise, by the main rows.
    pub noise: Option<Estimate>,
}

/// What updates are made with.
#[derive(Debug)]
pub struct Updater {
    policy: Box<dyn Policy>,
    gradients: Gradients,
    /// None where the head does not learn.
    head: Option<HeadPlace>,
    cut: Cut,
    /// The ids that end replies, and for how many tokens of a sampled one they were barred.
    eos: Vec<i64>,
    least: usize,
}

impl Updater {
    /// Room for the gradients of the student.
    pub fn new(material: &Material, policy: Box<dyn Policy>, cut: Cut, least: usize) -> Result<Self> {
        let gradients = material.gradients()?;
        let head = material.adapted.is_none().then(|| HeadPlace::of(&material.student)).transpose()?;
        let eos = material.eos.iter().map(|&id| i64::from(id)).collect();
        Ok(Updater { policy, gradients, head, cut, eos, least })
    }

    /// The policy.
    pub fn policy(&self) -> &dyn Policy {
        self.policy.as_ref()
    }

    /// The same, to be told something.
    pub fn policy_mut(&mut self) -> &mut dyn Policy {
        self.policy.as_mut()
    }

    /// Puts another policy in the place of this one, and answers this one.
    pub fn replace_policy(&mut self, policy: Box<dyn Policy>) -> Box<dyn Policy> {
        std::mem::replace(&mut self.policy, policy)
    }

    /// The gradient of each parameter, as the last update left it.
    pub fn sums(&self) -> &[Tensor] {
        self.gradients.sums()
    }

    /// Puts other tensors where gradients add up, and answers those.
    pub(super) fn replace_sums(&mut self, sums: Vec<Tensor>) -> Vec<Tensor> {
        self.gradients.replace_sums(sums)
    }

    /// How rows are cut.
    pub fn cut(&self) -> Cut {
        self.cut
    }

    /// One update by these rows.
    pub fn run(
        &mut self,
        material: &Material,
        work: &Work,
        optimizer: &mut Optimizer,
        lr: f64,
    ) -> Result<Told> {
        let begun = Instant::now();
        let Gradient { loss, terms, tokens, noise } = self.gradient(material, work)?;
        let outcome = if loss.is_finite() {
            material.step(&self.gradients, optimizer, lr)?
        } else {
            Outcome::Skipped(f64::NAN)
        };
        Ok(Told {
            outcome,
            loss,
            terms,
            tokens,
            rows: work.main.len(),
            noise,
            time: begun.elapsed(),
            exchanged: Bytes::default(),
        })
    }

    /// The gradient of an update: each rank goes through its share of the rows, and all have the whole, or each its part.
    pub fn gradient(&mut self, material: &Material, work: &Work) -> Result<Gradient> {
        let tokens: usize = work.main.iter().map(|row| row.example.targets()).sum();
        let divisor = match self.policy.plan().unit {
            Unit::Tokens => tokens,
            Unit::Rows => work.main.len(),
        };
        self.gradients.clear()?;
        let Dealt { own, passes } =
            together::dealt(work.main.iter().map(|row| &row.example), &material.world, self.cut);
        let main: Vec<&Learnt> = own.iter().map(|&n| &work.main[n]).collect();
        let (numbers, sampled) = (&of_rows(&own, &work.numbers)[..], work.sampled);
        let (noise, beside) = work.noise.split_at(work.noise.len().min(work.main.len()));
        let (noise, reach) = (&of_rows(&own, noise)[..], Reach { last: work.corpus.is_empty(), passes });
        let rows =
            PartRows { part: Part::Main, rows: &main, numbers, noise, divisor, tokens, sampled, reach };
        let (mut loss, mut terms, noise) = self.part(material, &rows, work.measured)?;
        if !work.corpus.is_empty() {
            let Dealt { own, passes } = together::dealt(work.corpus.iter(), &material.world, self.cut);
            let text: Vec<Learnt> = own.iter().map(|&n| Learnt::given(work.corpus[n].clone())).collect();
            let tokens = work.corpus.iter().map(Example::targets).sum();
            let rows = text.iter().collect::<Vec<_>>();
            let (part, reach) = (Part::Corpus, Reach { last: true, passes });
            let (rows, numbers, noise, sampled) = (&rows[..], &[][..], &of_rows(&own, beside)[..], false);
            let rows = PartRows { part, rows, numbers, noise, divisor: tokens, tokens, sampled, reach };
            let (more, named, _) = self.part(material, &rows, false)?;
            loss += more;
            terms.extend(named);
        }
        Ok(Gradient { loss, terms, tokens, noise })
    }

    /// Forward, score, backward of one part, micro-batch by micro-batch: its loss and terms, and its gradient's noise
    /// where that is `measured`.
    fn part(&mut self, material: &Material, part: &PartRows<'_>, measured: bool) -> Result<Made> {
        let lengths: Vec<usize> = part.rows.iter().map(|row| row.example.ids.len()).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let each = if measured { noise::equal_rows(lengths.len(), longest, self.cut) } else { None };
        let (sums, noise) = match each {
            Some(each) => self.measured(material, part, each)?,
            None => {
                let mut sums = Sums::default();
                self.groups(material, part, &by_length(&lengths, self.cut), &mut sums)?;
                (sums, None)
            }
        };
        let own = sums.read(part.divisor.max(1) as f64, part.tokens.max(1) as f64)?;
        let (loss, terms) = together::means(&material.world, own)?;
        Ok((loss, terms, noise))
    }

    /// The gradient of these groups of a part's rows, added to the others.
    pub(super) fn groups(
        &mut self,
        material: &Material,
        part: &PartRows<'_>,
        groups: &[Vec<usize>],
        sums: &mut Sums,
    ) -> Result<()> {
        self.head.iter().try_for_each(HeadPlace::clear)?;
        let divisor = part.divisor.max(1) as f64;
        for (n, group) in groups.iter().enumerate() {
            let rows: Vec<&Learnt> = group.iter().map(|&row| part.rows[row]).collect();
            let (numbers, noise) = (of_rows(group, part.numbers), of_rows(group, part.noise));
            let group = PartRows { rows: &rows, numbers: &numbers, noise: &noise, ..*part };
            self.micro(material, &group, (divisor, n + 1 == groups.len()), sums)?;
        }
        // The others may have more to go through than this rank, and wait for it.
        let passes = if self.gradients.in_step() { part.reach.passes } else { 1 };
        for _ in groups.len()..passes {
            material.rest()?;
            if part.reach.last || self.gradients.in_step() {
                self.gradients.empty_pass(&material.world)?;
            }
        }
        Ok(())
    }

    fn micro(
        &mut self,
        material: &Material,
        part: &PartRows<'_>,
        (divisor, last): (f64, bool),
        sums: &mut Sums,
    ) -> Result<()> {
        signal::pass();
        let student = &material.student;
        let examples: Vec<&Example> = part.rows.iter().map(|row| &row.example).collect();
        let micro = Micro::of(&examples, student.device())?;
        let hidden_nd = micro.rows.pack(&student.hidden(&micro.ids_bt, &Padding::Right)?)?;
        let teacher = self.teacher_said(material, part, &micro)?;
        let signals: Vec<Signals> = part.rows.iter().filter_map(|row| row.signals.clone()).collect();
        let (eos, least) = (&self.eos, if part.sampled { self.least } else { 0 });
        let at_n = first_of_rows(&micro.lengths, least, student.device())?;
        let scale_n = each_token(part.noise, &micro.lengths, student.device())?;
        let view = View {
            part: part.part,
            student: Side::Hidden { hidden_nd: &hidden_nd, head: student.scoring_head() },
            teacher: teacher.as_ref().map(|(t, said)| t.side(said)).transpose()?,
            targets_n: &micro.targets_n,
            lengths: &micro.lengths,
            signals: &signals,
            vocabulary: material.vocabulary as i64,
            scale_n: scale_n.as_ref(),
            barred: (least > 0).then_some(Barred { ids: eos, at_n: &at_n }),
            want: match &mut self.head {
                Some(head) => Want::Head(&mut head.grads),
                None => Want::Hidden,
            },
        };
        let scored = self.policy.score(view)?;
        let grad = scored.grad.as_ref().ok_or_else(|| Error::bug("a loss without a gradient"))?;
        if last || self.gradients.in_step() {
            material.rest()?;
        }
        let grad = [grad.f_mul_scalar(1.0 / divisor)?];
        // No pass gives them anything: nobody waits for them.
        let alone = self.head.as_ref().map_or(Vec::new(), HeadPlace::alone);
        if let Some(head) = self.head.as_ref().filter(|_| last) {
            // Whole before the pass that the others are to have the gradients of.
            head.add(&mut self.gradients, 1.0 / divisor)?;
        }
        let end = (last && part.reach.last, &alone[..]);
        let backward = || native::backward(&[hidden_nd], &grad, false);
        self.gradients.pass(&material.world, material.learnt(), end, backward)?;
        sums.add(scored)
    }

    /// The teacher and what it says at the scored positions, where the policy looks at it: states that came
    /// with sampled rows, what was kept of fixed ones, or a pass now.
    fn teacher_said<'m>(
        &self,
        material: &'m Material,
        part: &PartRows<'_>,
        micro: &Micro,
    ) -> Result<Option<(&'m Teacher, Said)>> {
        let plan = self.policy.plan();
        let wanted = match part.part {
            Part::Main => plan.teacher,
            Part::Corpus => plan.corpus_teacher,
        };
        let Some(teacher) = material.teacher.as_ref().filter(|_| wanted) else { return Ok(None) };
        let kept: Option<Vec<&Tensor>> = part.rows.iter().map(|row| row.states.as_ref()).collect();
        let among = match part.part {
            Part::Main if !part.sampled => Among::Trained,
            _ => Among::New,
        };
        let said = match kept {
            Some(kept) => Said::States(Tensor::f_cat(&kept, 0)?),
            None => teacher.said(among, micro, part.numbers)?,
        };
        Ok(Some((teacher, said)))
    }
}

/// A loss, its terms, what was measured of the gradient's noise.
type Made = (f64, Vec<(&'static str, f64)>, Option<Estimate>);

/// What these rows have of what all have; nothing where none has any.
fn of_rows<T: Copy>(rows: &[usize], all: &[T]) -> Vec<T> {
    rows.iter().filter_map(|&row| all.get(row).copied()).collect()
}

/// Some rows of a part of an update.
#[derive(Clone, Copy)]
pub(super) struct PartRows<'a> {
    part: Part,
    pub(super) rows: &'a [&'a Learnt],
    /// Their numbers among all rows; none of text beside them.
    numbers: &'a [u64],
    /// What the gradient of each is multiplied with; none for 1.
    noise: &'a [f64],
    /// What the part's sums are divided by, and its tokens.
    divisor: usize,
    tokens: usize,
    /// Whether EOS was barred at first.
    sampled: bool,
    reach: Reach,
}

/// What a part of an update means to the other ranks.
#[derive(Clone, Copy)]
struct Reach {
    /// Whether the gradients go to them when it is through.
    last: bool,
    /// Micro-batches of the rank that has most.
    passes: usize,
}

/// A number for each token of rows that have one each; none where they have none.
fn each_token(rows: &[f64], lengths: &[usize], device: Device) -> Result<Option<Tensor>> {
    if rows.is_empty() {
        return Ok(None);
    }
    let all: Vec<f64> = rows.iter().zip(lengths).flat_map(|(&x, &n)| std::iter::repeat_n(x, n)).collect();
    Ok(Some(Tensor::f_from_slice(&all)?.f_to_device(device)?))
}

/// The states that a model's head sees at the scored positions, without a gradient.
pub(super) fn states(model: &CausalLm, micro: &Micro) -> Result<Tensor> {
    let _off = tch::no_grad_guard();
    Ok(micro.rows.pack(&model.hidden(&micro.ids_bt, &Padding::Right)?)?)
}

/// What the micro-batches add up to, on the device until the part's end.
#[derive(Default)]
pub(super) struct Sums {
    loss: Option<Tensor>,
    names: Vec<&'static str>,
    terms_k: Option<Tensor>,
    /// What policies watch beside their terms.
    watched: Vec<&'static str>,
    watched_k: Option<Tensor>,
}

impl Sums {
    fn add(&mut self, scored: Scored) -> Result<()> {
        let plus = |sum: &mut Option<Tensor>, more: Tensor| -> Result<()> {
            *sum = Some(match sum.take() {
                Some(sum) => sum.f_add(&more)?,
                None => more,
            });
            Ok(())
        };
        self.names = scored.names;
        plus(&mut self.loss, scored.loss)?;
        plus(&mut self.terms_k, scored.sums_k)?;
        let (names, values): (Vec<_>, Vec<_>) = scored.watched.into_iter().unzip();
        if !names.is_empty() {
            self.watched = names;
            plus(&mut self.watched_k, Tensor::f_stack(&values, 0)?)?;
        }
        Ok(())
    }

    /// The loss, and each term by its name; what is watched is a mean over tokens.
    fn read(self, divisor: f64, tokens: f64) -> Result<(f64, Vec<(&'static str, f64)>)> {
        let numbers = |t: Option<Tensor>| -> Result<Vec<f64>> {
            match t {
                Some(t) => Ok(Vec::try_from(t.f_to_kind(Kind::Double)?.f_to_device(Device::Cpu)?)?),
                None => Ok(Vec::new()),
            }
        };
        let loss = self.loss.map(|t| t.f_double_value(&[])).transpose()?.unwrap_or(0.0);
        let terms = self.names.into_iter().zip(numbers(self.terms_k)?.into_iter().map(|x| x / divisor));
        let watched = self.watched.into_iter().zip(numbers(self.watched_k)?.into_iter().map(|x| x / tokens));
        Ok((loss / divisor, terms.chain(watched).collect()))
    }
}
