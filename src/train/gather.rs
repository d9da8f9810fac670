//! Where an update's rows come from, update by update, as the policy says: the data set, the student's own
//! replies, those of a mixture, replies of before; and the text beside them.
//!
//! What the n-th update learns from follows from n, the seed and the student of the time alone. A
//! collection is sampled when its first update comes, and is part of the checkpoints until its last.

use std::time::{Duration, Instant};

use retort_policies::{Collection, Moment, Plan, Policy, Signals, Source, Update};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::Watch;
use super::feed::Feed;
use super::setup::Material;
use super::together;
use super::work::{Learnt, Work, rollouts};
use crate::checkpoint::Rollouts;
use crate::config::{RunConfig, Settings};
use crate::data::Order;
use crate::decode::{Sampling, Scores};
use crate::error::{Error, Result};
use crate::rollout::{Collector, Experience, Guards, Kept, Replay, Tally, restore, tensors};
use crate::seed::{Stream, uniform};
use crate::weights::Dtype;

/// How replies of this run are sampled.
pub fn sampling(settings: &Settings, material: &Material, longest: usize) -> Sampling {
    Sampling {
        temperature: settings.sampling.temperature,
        top_k: settings.sampling.top_k,
        top_p: settings.sampling.top_p,
        no_repeat_ngram: 0,
        greedy: false,
        max_new_tokens: longest,
        min_new_tokens: settings.sampling.min_new_tokens,
        eos: material.eos.clone(),
        vocabulary: material.vocabulary,
        seed: settings.seed,
        scores: Scores::Vocabulary,
    }
}

/// The rows of a run, in the order of its updates.
#[derive(Debug)]
pub struct Gather {
    feed: Feed,
    corpus: Option<Feed>,
    plan: Plan,
    sampling: Sampling,
    /// Updates in all.
    steps: u64,
    replay: Option<Replay>,
    /// The collection at hand.
    collection: Vec<Experience>,
    /// Replies sampled so far.
    turns: u64,
    /// Tokens of those that were sampled last.
    sampled: usize,
    guards: Guards,
}

/// What of it goes into a checkpoint.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    collection: Kept,
    turns: u64,
    replay: Option<Replay>,
    guards: Guards,
}

impl Gather {
    /// The rows that a policy learns from.
    pub fn new(
        config: &RunConfig,
        material: &Material,
        policy: &dyn Policy,
        (feed, corpus): (Feed, Option<Feed>),
        steps: u64,
    ) -> Self {
        let plan = policy.plan();
        let longest = material.limits(config).response;
        Gather {
            feed,
            corpus,
            plan,
            sampling: sampling(&config.settings, material, longest),
            steps,
            replay: plan.replay.map(Replay::new),
            collection: Vec::new(),
            turns: 0,
            sampled: 0,
            guards: Guards::default(),
        }
    }

    /// The rows of the data set.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// How replies are sampled.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// The collection at hand.
    #[cfg(test)]
    pub fn collection(&self) -> &[Experience] {
        &self.collection
    }

    /// Rows taken from the data set, and from the text beside it.
    pub fn taken(&self) -> (u64, u64) {
        (self.feed.taken(), self.corpus.as_ref().map_or(0, Feed::taken))
    }

    /// What a checkpoint behind `step` updates needs of it, where replies are sampled at all.
    pub fn save(&self, step: u64) -> Result<Option<Rollouts>> {
        if self.turns == 0 {
            return Ok(None);
        }
        let goes_on = self.collected().is_some_and(|rows| self.place(step, rows).update > 0);
        let collection = if goes_on { &self.collection[..] } else { &[] };
        let saved = Saved {
            collection: Kept::of(collection),
            turns: self.turns,
            replay: self.replay.clone(),
            guards: self.guards.clone(),
        };
        let json = serde_json::to_vec(&saved).map_err(|e| Error::bug("JSON cannot be written").found(e))?;
        let states = tensors(collection)?;
        let thin = states.iter().any(|(_, t)| t.kind() == tch::Kind::BFloat16);
        Ok(Some(Rollouts { json, states, dtype: if thin { Dtype::BF16 } else { Dtype::F32 } }))
    }

    /// Goes on where a checkpoint was made.
    pub fn restore(
        &mut self,
        (rows, text): (u64, u64),
        saved: Saved,
        states: &[(String, Tensor)],
        material: &Material,
    ) -> Result<()> {
        self.feed.seek(rows);
        if let Some(corpus) = &mut self.corpus {
            corpus.seek(text);
        }
        self.collection = restore(saved.collection, states, material.student.device())?;
        (self.turns, self.guards) = (saved.turns, saved.guards);
        self.replay = saved.replay.or(self.replay.take());
        Ok(())
    }

    /// The rows of the update behind `step` others.
    pub fn next(
        &mut self,
        step: u64,
        material: &Material,
        policy: &dyn Policy,
        watch: &mut dyn Watch,
    ) -> Result<Work> {
        let begun = Instant::now();
        let replay_full = self.replay.as_ref().is_none_or(Replay::is_full);
        let source = policy.source(Moment { step, steps: self.steps, replay_full });
        let seed = self.sampling.seed;
        let mut work = match (self.collected(), source.pick(uniform(seed, Stream::Source, step, 0))) {
            (Some(rows), source) => {
                let place = self.place(step, rows);
                let seconds = match place.update {
                    0 => self.collect(rows, alpha(source)?, material, watch)?,
                    _ => Vec::new(),
                };
                Work { seconds, ..self.of_collection(&place, policy)? }
            }
            (None, Source::Gold | Source::Teacher | Source::Corpus) => self.given(),
            (None, Source::Replay) => self.replayed(step),
            (None, source) => {
                let seconds = self.collect(self.feed.batch(), alpha(source)?, material, watch)?;
                let fresh: Vec<&Experience> = self.collection.iter().collect();
                if let Some(replay) = &mut self.replay {
                    fresh.iter().for_each(|e| replay.add(e.row, &e.example));
                }
                let work = self.prepared(&fresh, policy)?;
                self.collection.clear();
                Work { seconds, ..work }
            }
        };
        if let Some(corpus) = &mut self.corpus {
            work.corpus = corpus.next_batch().examples;
        }
        if !work.seconds.is_empty() {
            work.values.push(("sampled_tokens", self.sampled as f64));
        }
        let rest = begun.elapsed().saturating_sub(work.seconds.iter().map(|s| s.1).sum());
        work.seconds.push(("data", rest));
        Ok(work)
    }

    fn given(&mut self) -> Work {
        let batch = self.feed.next_batch();
        let main = batch.examples.into_iter().map(Learnt::given).collect();
        Work { main, numbers: batch.numbers, ..Work::default() }
    }

    fn replayed(&self, step: u64) -> Work {
        let drawn = self.replay.as_ref().map(|r| r.draw(self.feed.batch(), self.sampling.seed, step));
        let (numbers, main) =
            drawn.unwrap_or_default().into_iter().map(|(n, e)| (n, Learnt::given(e))).unzip();
        Work { main, numbers, sampled: true, ..Work::default() }
    }

    /// The replies of a collection that is gone through in several updates.
    fn collected(&self) -> Option<usize> {
        match self.plan.collection {
            Collection::Rows(rows) => Some(rows),
            Collection::Batch => (self.plan.inner_epochs > 1).then(|| self.feed.batch()),
        }
    }

    /// Where in its collection the update behind `step` others stands.
    fn place(&self, step: u64, rows: usize) -> Place {
        let batch = self.feed.batch().min(rows);
        let each = rows.div_ceil(batch.max(1)) as u64;
        let update = step % (each * self.plan.inner_epochs as u64);
        let from = (update % each) as usize * batch;
        Place { update, epoch: step / each, rows: from..(from + batch).min(rows) }
    }

    /// A mini-batch of the collection at hand.
    fn of_collection(&self, place: &Place, policy: &dyn Policy) -> Result<Work> {
        // A stream of its own beside the order of the prompts: the seed's bits are turned over.
        let mut order = Order::new(!self.sampling.seed, self.collection.len());
        let which = order.epoch(place.epoch).get(place.rows.clone());
        let which = which.ok_or_else(|| Error::bug("a collection that is not there"))?;
        let experiences: Vec<&Experience> = which.iter().map(|&i| &self.collection[i as usize]).collect();
        self.prepared(&experiences, policy)
    }

    /// Samples a reply to each of the next prompts.
    fn collect(
        &mut self,
        rows: usize,
        alpha: f64,
        material: &Material,
        watch: &mut dyn Watch,
    ) -> Result<Vec<(&'static str, Duration)>> {
        let before = (self.feed.taken(), self.turns);
        let prompts = self.feed.next_prompts(rows, &mut self.turns);
        let collector = Collector {
            student: &material.student,
            teacher: material.teacher_model()?,
            alpha,
            sampling: self.sampling.clone(),
            numbers: self.plan.rollout,
            // Replies without numbers are scored with the teacher at hand, as rows of the data set are.
            states: self.plan.rollout && self.plan.teacher,
        };
        let mut tell = |done| watch.preparing("replies", done, rows);
        let collected = together::collect(material, &collector, &prompts, &mut tell);
        if collected.is_err() {
            // A signal: what is saved now begins with the same prompts again.
            self.feed.seek(before.0);
            self.turns = before.1;
        }
        let collected = collected?;
        self.collection = collected.experiences;
        self.sampled = self.collection.iter().map(|e| e.example.targets()).sum();
        let tally = Tally::of(&self.collection.iter().collect::<Vec<_>>());
        self.guards.hear(&tally).iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(vec![("sample", collected.sampling), ("score", collected.scoring)])
    }

    fn prepared(&self, experiences: &[&Experience], policy: &dyn Policy) -> Result<Work> {
        let signals = self.plan.rollout.then(|| self.signals(experiences, policy)).transpose()?;
        Ok(Work::sampled(experiences, signals))
    }

    fn signals(&self, experiences: &[&Experience], policy: &dyn Policy) -> Result<Vec<Signals>> {
        let update = Update { longest: self.sampling.max_new_tokens, total: &mut |_| Ok(()) };
        Ok(policy.prepare(&rollouts(experiences), update)?)
    }
}

/// A mini-batch of a collection.
struct Place {
    /// Updates of this collection before it.
    update: u64,
    /// Times through a collection, over the whole run.
    epoch: u64,
    /// Its rows, in the order of that epoch.
    rows: std::ops::Range<usize>,
}

/// The teacher's share where replies are sampled now.
pub fn alpha(source: &Source) -> Result<f64> {
    match source {
        Source::Mixed { alpha } => Ok(*alpha),
        Source::Student => Ok(0.0),
        other => Err(Error::bug("a collection that nobody samples").found(format!("{other:?}"))),
    }
}
