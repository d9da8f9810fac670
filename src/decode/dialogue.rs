//! One sequence that goes on: what was said stays in the cache, and only what is new is fed.

use tch::Tensor;

use super::distribution::{Distribution, draw};
use super::lanes::{Lanes, right_padded};
use super::plain::uniforms;
use super::rules::Rules;
use super::settings::{Request, Sampling};
use super::{Finish, Reply};
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::model::cache::Cache;

/// Tokens that are fed in one pass.
const CHUNK: usize = 512;

/// A model, and the sequence that its cache holds.
#[derive(Debug)]
pub struct Dialogue<'m> {
    model: &'m CausalLm,
    cache: Cache,
    held: Vec<u32>,
    replies: u64,
}

impl<'m> Dialogue<'m> {
    /// An empty one, with room for the model's whole context.
    pub fn new(model: &'m CausalLm) -> Result<Self> {
        let cache = model.cache(1, model.shape().context as usize)?;
        Ok(Dialogue { model, cache, held: Vec::new(), replies: 0 })
    }

    /// Tokens of a sequence that need not be fed again.
    pub fn known(&self, sequence: &[u32]) -> usize {
        // The last one is always fed: its pass says what comes next.
        let most = sequence.len().saturating_sub(1);
        self.held.iter().zip(&sequence[..most]).take_while(|(a, b)| a == b).count()
    }

    /// Replies to the whole of `sequence`, of which what the cache holds already is not computed again.
    /// `on_token` sees each token as it comes; its `false` ends the reply.
    pub fn reply(
        &mut self,
        sequence: &[u32],
        settings: &Sampling,
        on_token: &mut dyn FnMut(u32) -> Result<bool>,
    ) -> Result<Reply> {
        let _off = tch::no_grad_guard();
        let request = [Request { prompt: sequence, row: self.replies, sample: 0 }];
        self.replies += 1;
        let mut lanes = Lanes::new(&request, 1, self.model.shape().context as usize, settings)?;
        self.held.truncate(self.known(sequence));
        let end = sequence.len() - 1;
        while self.held.len() < end {
            let until = end.min(self.held.len() + CHUNK);
            let _state = self.feed(&sequence[self.held.len()..until])?;
        }
        // The prompt is in the cache already: the lane comes in without a pass.
        let mut reply = None;
        lanes.turn_over(&mut [], &mut |_, _| Ok(()))?;
        while reply.is_none() {
            let lane = lanes.lanes.last_mut().ok_or_else(|| Error::bug("a dialogue without a lane"))?;
            let last = [lane.last() as u32];
            let hidden = self.feed(&last)?;
            let lane = &lanes.lanes[..1];
            let rules = Rules::next(lane, settings, self.model.device())?;
            let distribution = Distribution::of(&self.model.next_logits(&hidden)?, settings, &rules)?;
            let id_b = if settings.greedy {
                distribution.most_probable()?
            } else {
                let u = uniforms(lane, 1, settings, self.model.device())?.f_select(0, 0)?;
                draw(&[(&distribution, 1.0)], &u)?
            };
            let scored = distribution.score(&id_b)?;
            let id = i64::try_from(&id_b)?;
            let lane = &mut lanes.lanes[0];
            lane.take(id, f32::try_from(&scored.own_b)?, f32::try_from(&scored.drawn_b)?, &settings.eos);
            if lane.finish != Some(Finish::Eos) && !on_token(id as u32)? {
                lane.finish = Some(Finish::Stopped);
            }
            lanes.turn_over(&mut [], &mut |_, done| {
                reply = Some(done);
                Ok(())
            })?;
        }
        reply.ok_or_else(|| Error::bug("a dialogue without a reply"))
    }

    /// Puts tokens behind those that are held, and answers the last one's state: [1, channels].
    fn feed(&mut self, tokens: &[u32]) -> Result<Tensor> {
        let next = self.cache.next(&[0], &[self.held.len()], &[tokens.len()])?;
        let ids_bt = right_padded(&[tokens])?.f_to_device(self.model.device())?;
        let hidden_btd = self.model.advance(&ids_bt, &next, &mut self.cache)?;
        self.held.extend_from_slice(tokens);
        Ok(hidden_btd.f_select(1, -1)?)
    }
}
