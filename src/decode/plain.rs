//! Sampling from one model.

use tch::{Device, Tensor};

use super::Reply;
use super::distribution::{Distribution, draw};
use super::lanes::{Lane, Lanes};
use super::recorded::{Blocks, How};
use super::rules::Rules;
use super::settings::{Request, Sampling};
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::seed::Stream;
use crate::signal;

/// Steps between two looks of the host at what a GPU has drawn.
pub(super) const STEPS_UNSEEN: usize = 8;

/// Samples a reply to each request, `batch` at a time; `done` gets them as they end, by their number among
/// the requests.
pub fn sample(
    model: &CausalLm,
    requests: &[Request<'_>],
    settings: &Sampling,
    batch: usize,
    done: &mut dyn FnMut(usize, Reply) -> Result<()>,
) -> Result<()> {
    sample_as(model, requests, (settings, batch), How::of(model), done)
}

pub(super) fn sample_as(
    model: &CausalLm,
    requests: &[Request<'_>],
    (settings, batch): (&Sampling, usize),
    how: How,
    done: &mut dyn FnMut(usize, Reply) -> Result<()>,
) -> Result<()> {
    if requests.is_empty() {
        return Ok(());
    }
    let _off = tch::no_grad_guard();
    let mut lanes = Lanes::new(requests, batch, model.shape().context as usize, settings)?;
    let mut blocks = Blocks::new(model, settings, how);
    let (rows, room) = lanes.size();
    let mut cache = model.cache(rows, room)?;
    let mut next = None;
    loop {
        signal::check()?;
        if lanes.turn_over(&mut [(model, &mut cache)], done)? {
            next = None;
        }
        let n = lanes.lanes.len();
        if n == 0 {
            return Ok(());
        }
        let steps = unseen(&lanes.lanes, settings, how);
        if steps > 1 {
            let seen = blocks.run(&lanes.lanes, steps, &mut cache)?;
            take(&mut lanes.lanes, &seen, &settings.eos)?;
            next = None;
            continue;
        }
        let place = match &mut next {
            Some(next) => next,
            none => {
                let rows: Vec<usize> = (0..n).collect();
                none.insert(cache.next(&rows, &lanes.starts(), &vec![1; n])?)
            }
        };
        let ids_b = last_tokens(&lanes.lanes)?.f_to_device(model.device())?;
        let hidden = model.advance(&ids_b.f_unsqueeze(1)?, place, &mut cache)?;
        place.step()?;
        let logits = model.next_logits(&hidden.f_squeeze_dim(1)?)?;
        let rules = Rules::next(&lanes.lanes, settings, model.device())?;
        let distribution = Distribution::of(&logits, settings, &rules)?;
        let ids_b = if settings.greedy {
            distribution.most_probable()?
        } else {
            let uniforms_sb = uniforms(&lanes.lanes, 1, settings, model.device())?;
            draw(&[(&distribution, 1.0)], &uniforms_sb.f_select(0, 0)?)?
        };
        let scored = distribution.score(&ids_b)?;
        take(&mut lanes.lanes, &[ids_b, scored.own_b, scored.drawn_b], &settings.eos)?;
    }
}

/// One reply to each prompt, in their order; the n-th prompt's draws are those of row n.
///
/// ```no_run
/// use retort::decode::{Sampling, replies};
/// use retort::model::{CausalLm, LoadOptions};
/// let model = CausalLm::load("models/tiny".as_ref(), LoadOptions::default())?;
/// let settings = Sampling { max_new_tokens: 20, temperature: 0.8, eos: vec![2], ..Sampling::default() };
/// let replies = replies(&model, &[&[1, 15, 27], &[1, 99]], &settings, 32)?;
/// assert_eq!(replies.len(), 2);
/// # Ok::<(), retort::error::Error>(())
/// ```
pub fn replies(
    model: &CausalLm,
    prompts: &[&[u32]],
    settings: &Sampling,
    batch: usize,
) -> Result<Vec<Reply>> {
    let requests: Vec<Request<'_>> =
        prompts.iter().zip(0..).map(|(prompt, row)| Request { prompt, row, sample: 0 }).collect();
    let mut all: Vec<Option<Reply>> = prompts.iter().map(|_| None).collect();
    sample(model, &requests, settings, batch, &mut |n, reply| {
        all[n] = Some(reply);
        Ok(())
    })?;
    all.into_iter().map(|r| r.ok_or_else(|| Error::bug("a request without a reply"))).collect()
}

/// How many steps the host does not look at: none where it has to or where looking costs nothing;
/// otherwise several, but no row goes beyond its room.
fn unseen(lanes: &[Lane], s: &Sampling, how: How) -> usize {
    let left = lanes.iter().map(Lane::left).min().unwrap_or(1);
    // What may come next depends on what came, or on how many: the host has to know.
    let young = lanes.iter().any(|lane| lane.replied() < s.min_new_tokens);
    let most = if how == How::Fitted || s.no_repeat_ngram > 0 || young { 1 } else { STEPS_UNSEEN };
    most.min(left).max(1)
}

/// A random number for each of the next steps and each row: [steps, b], float64.
pub(super) fn uniforms(lanes: &[Lane], steps: usize, s: &Sampling, device: Device) -> Result<Tensor> {
    let place = |step: usize| lanes.iter().map(move |lane| lane.uniform(s.seed, Stream::Sample, step));
    let all: Vec<f64> = (0..steps).flat_map(place).collect();
    Ok(Tensor::f_from_slice(&all)?.f_view([steps as i64, lanes.len() as i64])?.f_to_device(device)?)
}

/// The token that each lane has to be fed next.
pub(super) fn last_tokens(lanes: &[Lane]) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(&lanes.iter().map(Lane::last).collect::<Vec<_>>())?)
}

/// Brings what was drawn, [steps, b] or [b], to the host, and each token to its lane.
fn take(lanes: &mut [Lane], [ids, own, drawn]: &[Tensor; 3], eos: &[u32]) -> Result<()> {
    let ids = Vec::<i64>::try_from(ids.f_flatten(0, -1)?)?;
    let own = Vec::<f32>::try_from(own.f_flatten(0, -1)?)?;
    let drawn = Vec::<f32>::try_from(drawn.f_flatten(0, -1)?)?;
    let n = lanes.len();
    for (i, ((id, own), drawn)) in ids.into_iter().zip(own).zip(drawn).enumerate() {
        lanes[i % n].take(id, own, drawn, eos);
    }
    Ok(())
}
