//! Greedy decoding of a batch, with a cache: the most probable token, again and again.

use tch::{Kind, Tensor};

use super::{Finish, Limits, Reply};
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::signal;

/// The greedy replies to a batch of prompts, in their order. Prompts may differ in length; one does
/// not change another's reply.
pub fn greedy(model: &CausalLm, prompts: &[&[u32]], limits: &Limits) -> Result<Vec<Reply>> {
    if prompts.is_empty() {
        return Ok(Vec::new());
    }
    let _off = tch::no_grad_guard();
    let context = model.shape().context as usize;
    let longest = prompts.iter().map(|p| p.len()).max().unwrap_or(0);
    for (row, prompt) in prompts.iter().enumerate() {
        if prompt.is_empty() {
            return Err(Error::data("a prompt has no tokens").field(format!("row {}", row + 1)));
        }
        if prompt.len() >= context {
            return Err(Error::data("a prompt leaves no room for a reply")
                .field(format!("row {}", row + 1))
                .expected(format!("less than the model's context of {context} tokens"))
                .found(prompt.len()));
        }
    }
    let mut rows: Vec<Row> = prompts
        .iter()
        .map(|p| Row {
            room: limits.max_new_tokens.min(context - p.len()),
            ids: Vec::new(),
            logprobs: Vec::new(),
            finish: None,
        })
        .collect();
    let most = rows.iter().map(|r| r.room).max().unwrap_or(0);
    let lengths: Vec<i64> = prompts.iter().map(|p| p.len() as i64).collect();
    // More than the context where a short row has room left that a long one has not: what a row gets must
    // not depend on its neighbours.
    let capacity = (longest + most) as i64;
    let mut cache = model.cache(&lengths, capacity)?;
    let mut hidden =
        model.advance(&left_padded(prompts, longest)?.f_to_device(model.device())?, &mut cache)?;
    loop {
        signal::check()?;
        let last = hidden.f_select(1, -1)?;
        let logits = model.logits(&last)?.f_to_kind(Kind::Float)?;
        let width = logits.size()[1].min(i64::try_from(limits.vocabulary).unwrap_or(i64::MAX));
        let chosen = logits.f_narrow(1, 0, width)?.f_argmax(Some(1), true)?;
        let logprob = logits.f_gather(1, &chosen, false)?.f_sub(&logits.f_logsumexp([1i64], true)?)?;
        let ids: Vec<i64> = Vec::try_from(chosen.f_view([-1])?)?;
        let logprobs: Vec<f32> = Vec::try_from(logprob.f_view([-1])?)?;
        for ((row, id), logprob) in rows.iter_mut().zip(ids).zip(logprobs) {
            row.take(id as u32, logprob, &limits.eos);
        }
        if rows.iter().all(|r| r.finish.is_some()) || cache.length() == cache.capacity() {
            break;
        }
        hidden = model.advance(&chosen, &mut cache)?;
    }
    Ok(rows.into_iter().map(Row::reply).collect())
}

/// A reply that is growing.
struct Row {
    room: usize,
    ids: Vec<u32>,
    logprobs: Vec<f32>,
    finish: Option<Finish>,
}

impl Row {
    /// A row that has ended goes on in the batch; what it chooses there is dropped.
    fn take(&mut self, id: u32, logprob: f32, eos: &[u32]) {
        if self.ids.len() == self.room && self.finish.is_none() {
            self.finish = Some(Finish::Length);
        }
        if self.finish.is_some() {
            return;
        }
        self.ids.push(id);
        self.logprobs.push(logprob);
        if eos.contains(&id) {
            self.finish = Some(Finish::Eos);
        } else if self.ids.len() == self.room {
            self.finish = Some(Finish::Length);
        }
    }

    fn reply(self) -> Reply {
        Reply { ids: self.ids, logprobs: self.logprobs, finish: self.finish.unwrap_or(Finish::Length) }
    }
}

/// Prompts as one tensor [b, longest], padding (id 0) in front.
fn left_padded(prompts: &[&[u32]], longest: usize) -> Result<Tensor> {
    let mut ids = vec![0i64; prompts.len() * longest];
    for (row, prompt) in prompts.iter().enumerate() {
        let end = (row + 1) * longest;
        for (slot, &id) in ids[end - prompt.len()..end].iter_mut().zip(*prompt) {
            *slot = i64::from(id);
        }
    }
    Ok(Tensor::f_from_slice(&ids)?.f_view([prompts.len() as i64, longest as i64])?)
}
