//! Replies to prompts, as they are measured.

use crate::decode::{Finish, Reply, Request, Sampling, sample};
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::model::score::check_finite;
use crate::text::Tokenizer;

/// A reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// As text, without the token that ended it.
    pub text: String,
    /// Its tokens, that one in.
    pub ids: Vec<u32>,
    /// Whether it came to an end of its own.
    pub ended: bool,
}

impl Answer {
    /// The text of these tokens, of which the last one ended the reply where it has `ended`.
    pub fn of(ids: Vec<u32>, ended: bool, tokenizer: &Tokenizer) -> Result<Self> {
        let text = tokenizer.decode(&ids[..ids.len() - usize::from(ended && !ids.is_empty())], true)?;
        Ok(Answer { text, ids, ended })
    }
}

/// One reply to each prompt, in their order. A prompt's draws are those of its number, whichever prompts are
/// beside it. A reply from a model whose numbers overflow is an error.
pub fn answers(
    model: (&CausalLm, &Tokenizer),
    prompts: &[&[u32]],
    settings: &Sampling,
    batch: usize,
    done: &mut dyn FnMut(),
) -> Result<Vec<Answer>> {
    let numbered: Vec<(u64, &[u32])> = (0..).zip(prompts.iter().copied()).collect();
    answers_of(model, &numbered, settings, batch, done)
}

/// The same to some of the prompts, each with its number.
pub fn answers_of(
    (model, tokenizer): (&CausalLm, &Tokenizer),
    prompts: &[(u64, &[u32])],
    settings: &Sampling,
    batch: usize,
    done: &mut dyn FnMut(),
) -> Result<Vec<Answer>> {
    let request = |&(row, prompt)| Request { prompt, row, sample: 0 };
    let requests: Vec<Request<'_>> = prompts.iter().map(request).collect();
    let mut all: Vec<Option<Reply>> = prompts.iter().map(|_| None).collect();
    sample(model, &requests, settings, batch, &mut |n, reply| {
        check_finite(&reply.logprobs, 0).and_then(|()| check_finite(&reply.drawn, 0))?;
        all[n] = Some(reply);
        done();
        Ok(())
    })?;
    let answer = |reply: Option<Reply>| {
        let reply = reply.ok_or_else(|| Error::bug("a prompt without a reply"))?;
        Answer::of(reply.ids, reply.finish == Finish::Eos, tokenizer)
    };
    all.into_iter().map(answer).collect()
}
