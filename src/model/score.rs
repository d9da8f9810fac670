//! log p of given tokens under a model: rows of any lengths, batched by length so that little padding
//! is computed, the head applied to a few positions at a time so that [tokens, vocabulary] is never
//! held whole.

use tch::{Kind, Tensor};

use super::{CausalLm, Padding};
use crate::error::{Error, Result};

/// Positions of a batch, padding included.
const BATCH: usize = 4096;
/// Positions whose logits are held at once.
const HEAD_CHUNK: i64 = 256;

/// The log-probability of each token of each row but the first, given those before it, in float32 over the model's whole output. `done` is
/// told how many rows each batch had, and stops the work with an error.
pub fn log_probabilities(
    model: &CausalLm,
    rows: &[&[u32]],
    done: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Vec<f32>>> {
    let _off = tch::no_grad_guard();
    let mut scores = vec![Vec::new(); rows.len()];
    let lengths: Vec<usize> = rows.iter().map(|row| row.len()).collect();
    for batch in by_length(&lengths) {
        let part: Vec<&[u32]> = batch.iter().map(|&i| rows[i]).collect();
        let width = part[0].len();
        if width > 1 {
            for (&i, score) in batch.iter().zip(score_batch(model, &part, width)?) {
                scores[i] = score;
            }
        }
        done(batch.len())?;
    }
    Ok(scores)
}

/// Rows of these lengths cut into batches: longest first, equal lengths in order, so that little padding is
/// computed. No batch is empty, and its first row is its longest.
pub(super) fn by_length(lengths: &[usize]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    let mut batches = Vec::new();
    let mut rest = order.as_slice();
    while let Some(&longest) = rest.first() {
        let (batch, behind) = rest.split_at((BATCH / lengths[longest].max(1)).clamp(1, rest.len()));
        batches.push(batch.to_vec());
        rest = behind;
    }
    batches
}

/// The ids of a batch, padded on the right to this width.
pub(super) fn right_padded(rows: &[&[u32]], width: usize) -> Result<Tensor> {
    let mut ids = vec![0i64; rows.len() * width];
    for (slots, row) in ids.chunks_mut(width).zip(rows) {
        for (slot, &id) in slots.iter_mut().zip(*row) {
            *slot = i64::from(id);
        }
    }
    Ok(Tensor::f_from_slice(&ids)?.f_view([rows.len() as i64, width as i64])?)
}

/// Refuses log-probabilities that are not finite: weights that are can still overflow on the way, and
/// that must not pass for an answer. `first` is the place of the first of them in its row.
pub fn check_finite(scores: &[f32], first: usize) -> Result<()> {
    match scores.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(at) => Err(Error::numeric("a log-probability is not finite")
            .field(format!("token {}", first + at + 1))
            .found(scores[at])
            .advice("the model's numbers overflow: try --dtype f32, or check its weights and config.json")),
    }
}

/// One batch, padded on the right.
fn score_batch(model: &CausalLm, rows: &[&[u32]], width: usize) -> Result<Vec<Vec<f32>>> {
    let ids_bt = right_padded(rows, width)?.f_to_device(model.device())?;
    // The last position predicts nothing that is asked for.
    let inputs = ids_bt.f_narrow(1, 0, width as i64 - 1)?;
    let hidden = model.hidden(&inputs, &Padding::Right)?.f_flatten(0, 1)?;
    let targets = ids_bt.f_narrow(1, 1, width as i64 - 1)?.f_flatten(0, 1)?;
    let mut all: Vec<f32> = Vec::with_capacity(rows.len() * width);
    let total = targets.size()[0];
    for start in (0..total).step_by(HEAD_CHUNK as usize) {
        let n = HEAD_CHUNK.min(total - start);
        let chunk =
            model.head().log_probability(&hidden.f_narrow(0, start, n)?, &targets.f_narrow(0, start, n)?)?;
        all.extend(Vec::<f32>::try_from(chunk.f_to_kind(Kind::Float)?)?);
    }
    let per_row = all.chunks(width - 1).zip(rows);
    Ok(per_row.map(|(scores, row)| scores[..row.len().saturating_sub(1)].to_vec()).collect())
}
