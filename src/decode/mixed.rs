//! Teacher-mixed sampling (MiniLLM, Gu et al. 2024, section 2.2): each token is drawn from
//! `m = alpha p + (1 - alpha) q`, teacher p, student q.
//!
//! Two forms of one law. `Lockstep` steps both models and draws from the mixed probabilities. `Coins`
//! uses that a draw from a mixture is a coin and then a draw from one part: the teacher runs only where
//! its coin comes up, and takes all tokens since its last visit in one pass, which also scores them. So
//! its weights are read about alpha times as often, and there is no scoring pass.
//!
//! Coins of different rows come up at different places. A row whose coin is the teacher's waits until
//! enough others do (`patience`), so that one visit serves many; the student computes its place again
//! meanwhile, which changes nothing. Draws and coins are counted by row and position, so waiting cannot
//! change what is drawn.

use tch::{Device, Tensor};

use super::Reply;
use super::distribution::{Distribution, draw};
use super::lanes::{Lane, Lanes, Wanted, right_padded};
use super::plain::uniforms;
use super::recorded::{How, Passes};
use super::rules::Rules;
use super::settings::{Request, Sampling};
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::model::cache::Cache;
use crate::seed::{Stream, uniform};
use crate::signal;

/// Positions whose logits over the vocabulary are held at once.
const POSITIONS: usize = 256;
/// Tokens that the teacher takes in one pass.
const AT_ONCE: usize = 256;

/// A teacher that takes part in the draws.
#[derive(Debug, Clone, Copy)]
pub struct Mixture<'m> {
    /// The teacher.
    pub teacher: &'m CausalLm,
    /// Its share.
    pub alpha: f64,
    /// How a token of the mixture is drawn.
    pub form: Form,
    /// Whether it says of every token how likely it finds it.
    pub scores: bool,
    /// Whether its last states are kept, which needs `scores`.
    pub states: bool,
}

/// How a token of the mixture is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Form {
    /// Both models step, one draw from the mixed probabilities: the reference.
    Lockstep,
    /// A coin, then a draw from one model.
    Coins {
        /// One coin for all rows of a step. The law of each row stays what it is, but rows are no longer
        /// independent, and depend on their batch.
        shared: bool,
        /// The share of the rows that must wait for the teacher before it is asked; 0 asks at once.
        patience: f64,
    },
}

impl Form {
    /// The default: a coin a row and token. `benches/results/mixed.md` has the measurement.
    pub const COINS: Form = Form::Coins { shared: false, patience: 0.5 };
}

/// What a sampling took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Effort {
    /// Passes of the student.
    pub student_passes: usize,
    /// Passes of the teacher behind the prompts.
    pub teacher_passes: usize,
    /// Tokens that the teacher took in these.
    pub teacher_tokens: usize,
}

/// Samples replies from a mixture, as [`super::sample`] does from one model. A reply's `logprobs` are the
/// student's; its `drawn` are those of the mixture where `scores` are asked for or the form is lockstep,
/// else the student's part alone.
pub fn sample_mixed(
    student: &CausalLm,
    mixture: Mixture<'_>,
    requests: &[Request<'_>],
    settings: &Sampling,
    batch: usize,
    done: &mut dyn FnMut(usize, Reply) -> Result<()>,
) -> Result<Effort> {
    let how = [student, mixture.teacher].map(How::of);
    sample_mixed_as(student, mixture, requests, (settings, batch), how, done)
}

pub(super) fn sample_mixed_as(
    student: &CausalLm,
    mixture: Mixture<'_>,
    requests: &[Request<'_>],
    (settings, batch): (&Sampling, usize),
    how: [How; 2],
    done: &mut dyn FnMut(usize, Reply) -> Result<()>,
) -> Result<Effort> {
    let mut effort = Effort::default();
    let settings = check(student, &mixture, settings)?;
    if requests.is_empty() {
        return Ok(effort);
    }
    let _off = tch::no_grad_guard();
    let context = student.shape().context.min(mixture.teacher.shape().context) as usize;
    let heard = (mixture.scores || mixture.form == Form::Lockstep)
        .then_some(Wanted { alpha: mixture.alpha, states: mixture.states });
    let mut lanes = Lanes::new(requests, batch, context, &settings)?.heard_by_a_teacher(heard);
    let (rows, room) = lanes.size();
    let mut caches = [student.cache(rows, room)?, mixture.teacher.cache(rows, room)?];
    let mut passes = [Passes::new(student, how[0]), Passes::new(mixture.teacher, how[1])];
    loop {
        signal::check()?;
        let [own, teachers] = &mut caches;
        lanes.turn_over(&mut [(student, own), (mixture.teacher, teachers)], done)?;
        if lanes.lanes.is_empty() {
            return Ok(effort);
        }
        let mut tick =
            Tick { student, mixture, settings: &settings, lanes: &mut lanes.lanes, effort: &mut effort };
        let [student, teacher] = &mut passes;
        match mixture.form {
            Form::Lockstep => tick.lockstep((student, own), (teacher, teachers))?,
            Form::Coins { shared, patience } => tick.coins((student, own), teachers, shared, patience)?,
        }
    }
}

fn check(student: &CausalLm, mixture: &Mixture<'_>, settings: &Sampling) -> Result<Sampling> {
    let vocabulary = student.shared_vocabulary(mixture.teacher, settings.vocabulary)?;
    if !(0.0..=1.0).contains(&mixture.alpha) {
        return Err(Error::user("the teacher's share must be between 0 and 1").found(mixture.alpha));
    }
    if settings.greedy {
        return Err(Error::user("a mixture is drawn from: it has no greedy replies"));
    }
    if mixture.states && !mixture.scores {
        return Err(Error::bug("a teacher's states come with its scores"));
    }
    Ok(Sampling { vocabulary, ..settings.clone() })
}

/// A model that steps, and its cache.
type Stepping<'a, 'm> = (&'a mut Passes<'m>, &'a mut Cache);

/// One round of the rows that are in the batch.
struct Tick<'a, 'm> {
    student: &'m CausalLm,
    mixture: Mixture<'m>,
    settings: &'a Sampling,
    lanes: &'a mut Vec<Lane>,
    effort: &'a mut Effort,
}

/// Tokens that the teacher predicts in a visit.
struct Visit {
    /// The lane, and the place of the predicted token in its sequence.
    places: Vec<(usize, usize)>,
    /// What the teacher drew for the lanes that waited.
    drew: Vec<(usize, i64)>,
}

impl Tick<'_, '_> {
    /// The next token's distribution of every row under a model that is fed the last one.
    fn step(&self, (passes, cache): Stepping<'_, '_>) -> Result<(Tensor, Distribution)> {
        let [hidden, logits] = passes.step(self.lanes, cache)?;
        let rules = Rules::next(self.lanes, self.settings, passes.model().device())?;
        Ok((hidden, Distribution::of(&logits, self.settings, &rules)?))
    }

    /// The uniform number of each row's next token.
    fn uniforms(&self) -> Result<Tensor> {
        Ok(uniforms(self.lanes, 1, self.settings, self.student.device())?.f_select(0, 0)?)
    }

    fn lockstep(&mut self, student: Stepping<'_, '_>, teacher: Stepping<'_, '_>) -> Result<()> {
        let (_, q) = self.step(student)?;
        let (states, p) = self.step(teacher)?;
        self.effort.student_passes += 1;
        self.effort.teacher_passes += 1;
        self.effort.teacher_tokens += self.lanes.len();
        let ids = draw(&[(&p, self.mixture.alpha), (&q, 1.0 - self.mixture.alpha)], &self.uniforms()?)?;
        let (of_q, of_p) = (Numbers::of(&q, &ids)?, Numbers::of(&p, &ids)?);
        for (i, lane) in self.lanes.iter_mut().enumerate() {
            lane.take(of_q.ids[i], of_q.own[i], of_q.drawn[i], &self.settings.eos);
            lane.teacher.own.push(of_p.own[i]);
            lane.teacher.drawn.push(of_p.drawn[i]);
            lane.teacher.fed += 1;
            if self.mixture.states {
                // A copy: the next step may write to the same memory.
                lane.teacher.states.push(states.f_narrow(0, i as i64, 1)?.f_detach_copy()?);
            }
        }
        Ok(())
    }

    fn coins(
        &mut self,
        student: Stepping<'_, '_>,
        teachers: &mut Cache,
        shared: bool,
        patience: f64,
    ) -> Result<()> {
        let (_, q) = self.step(student)?;
        let tick = self.effort.student_passes as u64;
        self.effort.student_passes += 1;
        let seed = self.settings.seed;
        let common = uniform(seed, Stream::Mix, u64::MAX, tick);
        for lane in self.lanes.iter_mut().filter(|lane| lane.finish.is_none()) {
            let coin = if shared { common } else { lane.uniform(seed, Stream::Mix, 0) };
            // A row that waits has had its coin.
            lane.teacher.waiting |= coin < self.mixture.alpha;
        }
        let mut ids = Vec::<i64>::try_from(draw(&[(&q, 1.0)], &self.uniforms()?)?)?;
        let mut moves: Vec<bool> =
            self.lanes.iter().map(|l| !l.teacher.waiting && l.finish.is_none()).collect();
        let still = moves.iter().filter(|&&moves| !moves).count();
        let asked = still == moves.len() || still as f64 >= patience * moves.len() as f64;
        if still > 0 && asked {
            for (i, id) in self.visit(teachers)?.drew {
                (ids[i], moves[i]) = (id, true);
            }
        }
        let of_q = Numbers::of(&q, &Tensor::f_from_slice(&ids)?.f_to_device(self.student.device())?)?;
        for (i, lane) in self.lanes.iter_mut().enumerate().filter(|(i, _)| moves[*i]) {
            lane.take(of_q.ids[i], of_q.own[i], of_q.drawn[i], &self.settings.eos);
            lane.teacher.waiting = false;
        }
        Ok(())
    }

    /// Feeds the teacher what it has not seen of the rows that wait for it, or that have ended and are
    /// not scored, and answers what it drew for the former.
    fn visit(&mut self, teachers: &mut Cache) -> Result<Visit> {
        let rows: Vec<usize> = (0..self.lanes.len())
            .filter(|&i| self.lanes[i].teacher.waiting || self.lanes[i].finish.is_some())
            .collect();
        // The last token of a row that has ended predicts nothing.
        let ends = |lane: &Lane| lane.tokens.len() - usize::from(lane.finish.is_some());
        let starts: Vec<usize> = rows.iter().map(|&i| self.lanes[i].teacher.fed).collect();
        let counts: Vec<usize> =
            rows.iter().map(|&i| ends(&self.lanes[i]) - self.lanes[i].teacher.fed).collect();
        let hidden_nd = self.feed(teachers, &rows, &starts, &counts)?;
        // Without scores the places of tokens that are there already say nothing that is wanted.
        let first = |n: usize| if self.mixture.scores { 0 } else { n - 1 };
        let (mut wanted, mut places, mut at) = (Vec::new(), Vec::new(), 0);
        for (b, &n) in counts.iter().enumerate() {
            wanted.extend((first(n)..n).map(|t| (at + t) as i64));
            places.extend((first(n)..n).map(|t| (rows[b], starts[b] + t + 1)));
            at += n;
        }
        let hidden_nd = if self.mixture.scores {
            hidden_nd
        } else {
            hidden_nd.f_index_select(0, &Tensor::f_from_slice(&wanted)?.f_to_device(hidden_nd.device())?)?
        };
        self.effort.teacher_tokens += counts.iter().sum::<usize>();
        let mut visit = Visit { places, drew: Vec::new() };
        for part in 0..visit.places.len().div_ceil(POSITIONS) {
            let start = part * POSITIONS;
            let n = POSITIONS.min(visit.places.len() - start);
            self.hear(&hidden_nd.f_narrow(0, start as i64, n as i64)?, start, &mut visit)?;
        }
        for (&i, &n) in rows.iter().zip(&counts) {
            self.lanes[i].teacher.fed += n;
        }
        if self.mixture.states {
            let mut start = 0;
            for (&i, &n) in rows.iter().zip(&counts) {
                self.lanes[i].teacher.states.push(hidden_nd.f_narrow(0, start, n as i64)?);
                start += n as i64;
            }
        }
        Ok(visit)
    }

    /// Feeds the teacher the tokens `starts..starts + counts` of these lanes, and answers their states, lane
    /// by lane: [sum of counts, channels]. Each token counts as a sequence of its own that shares its row
    /// of the cache with those before it, so nothing is padded; on a GPU, whose attention would copy the
    /// row for each of them, rows are padded instead.
    fn feed(
        &mut self,
        cache: &mut Cache,
        rows: &[usize],
        starts: &[usize],
        counts: &[usize],
    ) -> Result<Tensor> {
        let teacher = self.mixture.teacher;
        let lanes = &*self.lanes;
        let mut states = Vec::new();
        if teacher.device() == Device::Cpu {
            let each = rows.iter().zip(starts).zip(counts);
            let all: Vec<(usize, usize)> =
                each.flat_map(|((&i, &start), &n)| (start..start + n).map(move |at| (i, at))).collect();
            for part in all.chunks(AT_ONCE) {
                let (rows, places): (Vec<usize>, Vec<usize>) = part.iter().copied().unzip();
                let ids: Vec<i64> = part.iter().map(|&(i, at)| i64::from(lanes[i].tokens[at])).collect();
                let next = cache.next(&rows, &places, &vec![1; rows.len()])?;
                let ids_n1 = Tensor::f_from_slice(&ids)?.f_unsqueeze(1)?;
                states.push(teacher.advance(&ids_n1, &next, cache)?.f_squeeze_dim(1)?);
                self.effort.teacher_passes += 1;
            }
            return Ok(Tensor::f_cat(&states, 0)?);
        }
        // As many rows at once as leave the padded passes in bounds.
        let mut from = 0;
        while from < rows.len() {
            let widest = |until: usize| counts[from..until].iter().copied().max().unwrap_or(0);
            let fits = |until: usize| (until - from) * widest(until) <= AT_ONCE * 32;
            let until =
                (from + 1..=rows.len()).take_while(|&n| n == from + 1 || fits(n)).last().unwrap_or(from + 1);
            let new: Vec<&[u32]> =
                (from..until).map(|b| &lanes[rows[b]].tokens[starts[b]..starts[b] + counts[b]]).collect();
            let next = cache.next(&rows[from..until], &starts[from..until], &counts[from..until])?;
            let ids_bt = right_padded(&new)?.f_to_device(teacher.device())?;
            let hidden_btd = teacher.advance(&ids_bt, &next, cache)?;
            let width = widest(until);
            let real =
                (from..until).flat_map(|b| (0..counts[b]).map(move |t| ((b - from) * width + t) as i64));
            let real = Tensor::f_from_slice(&real.collect::<Vec<_>>())?.f_to_device(teacher.device())?;
            states.push(hidden_btd.f_flatten(0, 1)?.f_index_select(0, &real)?);
            self.effort.teacher_passes += 1;
            from = until;
        }
        Ok(Tensor::f_cat(&states, 0)?)
    }

    /// What the teacher says at some of the places of a visit: the log-probability of the token that
    /// stands there, or of one that it draws.
    fn hear(&mut self, hidden_nd: &Tensor, start: usize, visit: &mut Visit) -> Result<()> {
        let teacher = self.mixture.teacher;
        let n = hidden_nd.size()[0] as usize;
        let places = visit.places[start..start + n].to_vec();
        let prefixes: Vec<(&Lane, usize)> = places.iter().map(|&(i, at)| (&self.lanes[i], at)).collect();
        let rules = Rules::at(&prefixes, self.settings, teacher.device())?;
        let p = Distribution::of(&teacher.next_logits(hidden_nd)?, self.settings, &rules)?;
        let uniforms: Vec<f64> = places
            .iter()
            .map(|&(i, _)| self.lanes[i].uniform(self.settings.seed, Stream::Sample, 0))
            .collect();
        let drawn = draw(&[(&p, 1.0)], &Tensor::f_from_slice(&uniforms)?.f_to_device(teacher.device())?)?;
        let mut ids = Vec::<i64>::try_from(drawn)?;
        for (id, &(i, at)) in ids.iter_mut().zip(&places) {
            match self.lanes[i].tokens.get(at) {
                Some(&token) => *id = i64::from(token),
                None => visit.drew.push((i, *id)),
            }
        }
        let of_p = Numbers::of(&p, &Tensor::f_from_slice(&ids)?.f_to_device(teacher.device())?)?;
        for (k, &(i, _)) in places.iter().enumerate() {
            self.lanes[i].teacher.own.push(of_p.own[k]);
            self.lanes[i].teacher.drawn.push(of_p.drawn[k]);
        }
        Ok(())
    }
}

/// Tokens and their log-probabilities on the host.
struct Numbers {
    ids: Vec<i64>,
    own: Vec<f32>,
    drawn: Vec<f32>,
}

impl Numbers {
    fn of(distribution: &Distribution, ids: &Tensor) -> Result<Self> {
        let scored = distribution.score(ids)?;
        Ok(Numbers {
            ids: Vec::try_from(ids)?,
            own: Vec::try_from(scored.own_b)?,
            drawn: Vec::try_from(scored.drawn_b)?,
        })
    }
}
