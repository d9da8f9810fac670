//! Which sequences are in the batch: they come in when a lane is free, leave when they end, and what is
//! left moves together. Lane i is row i of every cache.

use std::collections::{HashMap, VecDeque};

use tch::Tensor;

use super::settings::{Request, Sampling};
use super::{Finish, Heard, Reply};
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::model::cache::Cache;
use crate::seed::{Stream, uniform};

/// Positions of prompts in one pass, padding included.
const PREFILL: usize = 8192;

/// A sequence that is growing.
#[derive(Debug)]
pub(super) struct Lane {
    /// Which request it answers.
    pub request: usize,
    row: u64,
    sample: u32,
    /// Prompt and reply so far.
    pub tokens: Vec<u32>,
    prompt: usize,
    /// The most tokens of its reply.
    room: usize,
    in_context: bool,
    own: Vec<f32>,
    drawn: Vec<f32>,
    pub finish: Option<Finish>,
    pub teacher: Teacher,
}

/// How far the teacher is with a sequence.
#[derive(Debug, Default)]
pub(super) struct Teacher {
    /// Tokens that its cache holds.
    pub fed: usize,
    /// Whether the next token is the teacher's to draw.
    pub waiting: bool,
    /// log p of the reply's tokens, as far as it has seen them: without filters and with them.
    pub own: Vec<f32>,
    pub drawn: Vec<f32>,
    /// The states it predicted them from.
    pub states: Vec<Tensor>,
}

impl Lane {
    /// Tokens of the reply so far.
    pub fn replied(&self) -> usize {
        self.tokens.len() - self.prompt
    }

    /// Tokens of the prompt.
    pub fn prompt(&self) -> usize {
        self.prompt
    }

    /// Tokens that it can still get.
    pub fn left(&self) -> usize {
        self.room - self.replied()
    }

    /// The token that has to be fed next, which is the last one.
    pub fn last(&self) -> i64 {
        self.tokens.last().map_or(0, |&id| i64::from(id))
    }

    /// The random number of the token `ahead` places behind the next one.
    pub fn uniform(&self, seed: u64, stream: Stream, ahead: usize) -> f64 {
        let place = (self.replied() + ahead) as u64;
        uniform(seed, stream, self.row, u64::from(self.sample) << 32 | place)
    }

    /// Takes a token; whether it ends the reply shows in `finish`.
    pub fn take(&mut self, id: i64, own: f32, drawn: f32, eos: &[u32]) {
        if self.finish.is_some() {
            return;
        }
        self.tokens.push(id as u32);
        self.own.push(own);
        self.drawn.push(drawn);
        if eos.contains(&(id as u32)) {
            self.finish = Some(Finish::Eos);
        } else if self.left() == 0 {
            self.finish = Some(if self.in_context { Finish::Length } else { Finish::Context });
        }
    }

    /// Whether all that is asked for is there.
    fn is_done(&self, heard: Option<Wanted>) -> bool {
        self.finish.is_some() && (heard.is_none() || self.teacher.own.len() == self.own.len())
    }

    fn reply(mut self, heard: Option<Wanted>) -> Result<Reply> {
        let ids = self.tokens.split_off(self.prompt);
        let finish = self.finish.unwrap_or(Finish::Length);
        let Some(wanted) = heard else {
            return Ok(Reply { ids, logprobs: self.own, drawn: self.drawn, finish, teacher: None });
        };
        let drawn = self.drawn.iter().zip(&self.teacher.drawn).map(|(&q, &p)| wanted.mixed(q, p)).collect();
        let states = wanted.states.then(|| Tensor::f_cat(&self.teacher.states, 0)).transpose()?;
        let teacher = Some(Heard { logprobs: self.teacher.own, states });
        Ok(Reply { ids, logprobs: self.own, drawn, finish, teacher })
    }
}

/// What is wanted of the teacher beside its draws.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Its share of the mixture.
    pub alpha: f64,
    /// Its last states.
    pub states: bool,
}

impl Wanted {
    /// The logarithm of the mixture of two probabilities.
    fn mixed(self, q: f32, p: f32) -> f32 {
        let (a, b) = (self.alpha.ln() + f64::from(p), (1.0 - self.alpha).ln() + f64::from(q));
        let most = a.max(b);
        if most == f64::NEG_INFINITY {
            return f32::NEG_INFINITY;
        }
        (most + ((a - most).exp() + (b - most).exp()).ln()) as f32
    }
}

/// All lanes, and the requests that wait for one.
#[derive(Debug)]
pub(super) struct Lanes<'a> {
    requests: &'a [Request<'a>],
    waiting: VecDeque<usize>,
    /// The sequences in the batch.
    pub lanes: Vec<Lane>,
    most: usize,
    context: usize,
    max_new: usize,
    heard: Option<Wanted>,
}

/// A model and its cache.
pub(super) type Fed<'a, 'm> = (&'m CausalLm, &'a mut Cache);

impl<'a> Lanes<'a> {
    /// Lanes for up to `most` of these requests at a time, in a context of so many tokens.
    pub fn new(requests: &'a [Request<'a>], most: usize, context: usize, s: &Sampling) -> Result<Self> {
        s.check()?;
        for (i, request) in requests.iter().enumerate() {
            let bad = |what: &str| Error::data(what).field(format!("row {}", i + 1));
            if request.prompt.is_empty() {
                return Err(bad("a prompt has no tokens"));
            }
            if request.prompt.len() >= context {
                return Err(bad("a prompt leaves no room for a reply")
                    .expected(format!("less than the model's context of {context} tokens"))
                    .found(request.prompt.len()));
            }
        }
        let lanes = Vec::with_capacity(most.min(requests.len()));
        let waiting = (0..requests.len()).collect();
        Ok(Lanes {
            requests,
            waiting,
            lanes,
            most: most.max(1),
            context,
            max_new: s.max_new_tokens,
            heard: None,
        })
    }

    /// Keeps sequences until the teacher has seen all of them.
    pub fn heard_by_a_teacher(self, wanted: Option<Wanted>) -> Self {
        Lanes { heard: wanted, ..self }
    }

    /// The rows and the tokens a row that a cache needs.
    pub fn size(&self) -> (usize, usize) {
        let longest = self.requests.iter().map(|r| r.prompt.len()).max().unwrap_or(1);
        (self.most.min(self.requests.len()).max(1), longest.saturating_add(self.max_new).min(self.context))
    }

    /// Hands finished replies out, lets waiting requests in, and moves the rest together. Answers whether
    /// the batch has changed.
    pub fn turn_over(
        &mut self,
        models: &mut [Fed<'_, '_>],
        done: &mut dyn FnMut(usize, Reply) -> Result<()>,
    ) -> Result<bool> {
        let mut fresh = Vec::new();
        let mut from: Vec<usize> = (0..self.lanes.len()).collect();
        let before = self.lanes.len();
        let mut ended: VecDeque<usize> = (0..before).filter(|&i| self.lanes[i].is_done(self.heard)).collect();
        // Waiting requests take the first free lanes; behind them the last lanes close the gaps.
        while !ended.is_empty()
            && let Some(request) = self.waiting.pop_front()
            && let Some(slot) = ended.pop_front()
        {
            fresh.push(slot);
            let lane = self.lane(request);
            let finished = std::mem::replace(&mut self.lanes[slot], lane);
            done(finished.request, finished.reply(self.heard)?)?;
        }
        for slot in ended.into_iter().rev() {
            from.swap_remove(slot);
            let finished = self.lanes.swap_remove(slot);
            done(finished.request, finished.reply(self.heard)?)?;
        }
        let moved: Vec<(usize, usize)> =
            from.iter().enumerate().filter(|(to, from)| to != *from).map(|(to, &from)| (from, to)).collect();
        while self.lanes.len() < self.most
            && let Some(request) = self.waiting.pop_front()
        {
            fresh.push(self.lanes.len());
            let lane = self.lane(request);
            self.lanes.push(lane);
        }
        let longest = moved.iter().map(|&(_, to)| self.lanes[to].tokens.len()).max().unwrap_or(0);
        for (model, cache) in models.iter_mut() {
            cache.copy(&moved, longest)?;
            self.prefill(model, cache, &fresh)?;
        }
        Ok(self.lanes.len() != before || !moved.is_empty() || !fresh.is_empty())
    }

    fn lane(&self, request: usize) -> Lane {
        let Request { prompt, row, sample } = self.requests[request];
        let room = self.max_new.min(self.context - prompt.len());
        let mut tokens = Vec::with_capacity(prompt.len() + room.min(4096));
        tokens.extend_from_slice(prompt);
        Lane {
            request,
            row,
            sample,
            tokens,
            prompt: prompt.len(),
            room,
            in_context: room == self.max_new,
            own: Vec::new(),
            drawn: Vec::new(),
            finish: None,
            teacher: Teacher { fed: prompt.len() - 1, ..Teacher::default() },
        }
    }

    /// Puts the prompts of fresh lanes into a cache, all but their last tokens, each distinct one once.
    fn prefill(&self, model: &CausalLm, cache: &mut Cache, fresh: &[usize]) -> Result<()> {
        let mut holders: HashMap<&[u32], usize> = HashMap::new();
        for (slot, lane) in self.lanes.iter().enumerate().filter(|(i, _)| !fresh.contains(i)) {
            holders.insert(&lane.tokens[..lane.prompt - 1], slot);
        }
        let (mut copies, mut new): (Vec<(usize, usize)>, Vec<usize>) = (Vec::new(), Vec::new());
        for &slot in fresh {
            let head = &self.lanes[slot].tokens[..self.lanes[slot].prompt - 1];
            if head.is_empty() {
                continue;
            }
            match holders.get(head) {
                Some(&holder) => copies.push((holder, slot)),
                None => {
                    holders.insert(head, slot);
                    new.push(slot);
                }
            }
        }
        new.sort_by_key(|&slot| self.lanes[slot].prompt);
        let mut rest = new.as_slice();
        while !rest.is_empty() {
            let fits = |n: usize| n * (self.lanes[rest[n - 1]].prompt - 1) <= PREFILL;
            let n = (1..=rest.len()).take_while(|&n| n == 1 || fits(n)).last().unwrap_or(1);
            let (batch, behind) = rest.split_at(n);
            model.prefill(&self.heads(batch)?.f_to_device(model.device())?, batch, cache)?;
            rest = behind;
        }
        let longest = copies.iter().map(|&(_, to)| self.lanes[to].prompt - 1).max().unwrap_or(0);
        cache.copy(&copies, longest)
    }

    /// Prompts without their last tokens as one tensor [b, longest], padding (id 0) behind.
    fn heads(&self, slots: &[usize]) -> Result<Tensor> {
        let heads: Vec<&[u32]> =
            slots.iter().map(|&s| &self.lanes[s].tokens[..self.lanes[s].prompt - 1]).collect();
        right_padded(&heads)
    }

    /// For each lane, how many of its tokens the cache holds once the last one is yet to be fed.
    pub fn starts(&self) -> Vec<usize> {
        self.lanes.iter().map(|lane| lane.tokens.len() - 1).collect()
    }
}

/// Rows of ids as one tensor [b, longest], padding (id 0) behind.
pub(super) fn right_padded(rows: &[&[u32]]) -> Result<Tensor> {
    let longest = rows.iter().map(|r| r.len()).max().unwrap_or(0);
    let mut ids = vec![0i64; rows.len() * longest];
    for (slots, row) in ids.chunks_mut(longest.max(1)).zip(rows) {
        for (slot, &id) in slots.iter_mut().zip(*row) {
            *slot = i64::from(id);
        }
    }
    Ok(Tensor::f_from_slice(&ids)?.f_view([rows.len() as i64, longest as i64])?)
}
