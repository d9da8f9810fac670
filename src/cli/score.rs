//! `retort score`: log p of every token of every row, as transformers computes it.

use serde_json::json;

use super::args::{Common, Score};
use super::models::{self, read_rows};
use super::output::{Out, table};
use super::progress::Progress;
use crate::decode::Use;
use crate::error::Result;
use crate::model::score::{check_finite, log_probabilities};
use crate::signal;

/// Rows that are brought together before they are sorted by length and cut into batches.
const WINDOW: usize = 256;

pub(super) fn run(args: &Score, common: &Common) -> Result<()> {
    args.rows.need_input()?;
    let loaded = models::open(&args.model, common)?;
    let tokens = read_rows(&loaded, &args.rows, &args.rows.template, Use::Rows)?;
    let mut out = Out::to(args.rows.output.as_deref())?;
    let json = common.json || args.rows.output.is_some();
    let mut progress = Progress::new("rows scored", tokens.encoded.len(), common.quiet);
    let mut lines = vec![["row", "tokens", "log p (nats)", "nats a token"].map(String::from).to_vec()];
    for (n, window) in tokens.encoded.chunks(WINDOW).enumerate() {
        let ids: Vec<&[u32]> = window.iter().map(|e| e.ids.as_slice()).collect();
        let scores = log_probabilities(&loaded.model, &ids, &mut |rows| {
            progress.add(rows);
            signal::check()
        })?;
        for (i, (ids, scores)) in ids.iter().zip(scores).enumerate() {
            let line = tokens.lines[n * WINDOW + i];
            check_finite(&scores, 1).map_err(|e| e.at_row(&tokens.file, line))?;
            if json {
                let first = if ids.is_empty() { None } else { Some(None) };
                let all: Vec<Option<f32>> = first.into_iter().chain(scores.into_iter().map(Some)).collect();
                out.json(&json!({"ids": ids, "logprobs": all}))?;
            } else {
                // An empty sum of floats is -0.
                let sum = scores.iter().fold(0.0, |sum, &x| sum + f64::from(x));
                let mean =
                    if scores.is_empty() { "-".into() } else { format!("{:.4}", -sum / scores.len() as f64) };
                lines.push(vec![
                    (n * WINDOW + i + 1).to_string(),
                    ids.len().to_string(),
                    format!("{sum:.4}"),
                    mean,
                ]);
            }
        }
    }
    drop(progress);
    if !json {
        out.text(&table(&lines))?;
    }
    out.finish()
}
