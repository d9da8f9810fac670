//! `retort prune`: a smaller model cut out of a larger one.

use std::time::Instant;

use serde_json::{Value, json};

use super::args::{Common, Prune as Arguments};
use super::output::{Out, table};
use super::progress::Progress;
use crate::error::{Error, Result};
use crate::model::read_design;
use crate::prune::card::Done;
use crate::prune::sample::Amount;
use crate::prune::{Job, Wish, prune};
use crate::weights::locate;

/// Tokens of a sequence unless told, where the model's context has room for them.
const SEQUENCE: i64 = 512;

pub(super) fn run(args: &Arguments, common: &Common) -> Result<()> {
    let started = Instant::now();
    if !args.input.is_file() {
        let what = if args.input.exists() { "not a file" } else { "no such file" };
        return Err(Error::user(what).file(&args.input).expected("text, or rows"));
    }
    let job = job(args, common)?;
    let mut shown: Option<(&'static str, usize, Progress)> = None;
    let done = prune(&job, &mut |what, at, total| {
        let (_, before, progress) = match &mut shown {
            Some(shown) if shown.0 == what => shown,
            other => {
                // The line of what is done goes before the next one is drawn.
                *other = None;
                other.insert((what, 0, Progress::new(what, total, common.quiet)))
            }
        };
        progress.add(at - *before);
        *before = at;
    })?;
    drop(shown);
    answer(args, common, &done, started)
}

fn job(args: &Arguments, common: &Common) -> Result<Job> {
    let model = locate::model_folder(&args.model)?;
    let context = read_design(&model)?.shape().context;
    let device = common.device.resolve()?;
    let size = |n: Option<usize>| n.map(|n| n as i64);
    Ok(Job {
        model,
        name: args.model.clone(),
        input: args.input.clone(),
        out: args.out.clone(),
        wish: Wish {
            layers: args.layers.clone(),
            hidden: size(args.hidden),
            heads: size(args.heads),
            ffn: size(args.ffn),
            params: size(args.params),
            vocabulary: size(args.vocab),
        },
        importance: args.importance(),
        rule: args.rule(),
        amount: Amount {
            samples: args.samples,
            held: args.held_out,
            sequence: args.sequence.unwrap_or(SEQUENCE.min(context) as usize),
            seed: args.seed,
        },
        batch: args.batch,
        template: args.template.clone(),
        kind: common.dtype.resolve(device),
        device,
        dtype: common.dtype.to_write(),
    })
}

fn answer(args: &Arguments, common: &Common, done: &Done, started: Instant) -> Result<()> {
    let mut out = Out::stdout();
    if common.json {
        let mut value = json!(done);
        if let Value::Object(map) = &mut value {
            let sizes = done.sizes.map(|s| {
                json!({
                    "layers": s.layers, "hidden": s.hidden, "heads": s.heads, "kv_heads": s.kv_heads,
                    "ffn": s.ffn, "vocabulary": s.vocabulary,
                })
            });
            map.insert("sizes".into(), json!(sizes));
            map.insert("out".into(), json!(args.out));
        }
        out.json(&value)?;
        return out.finish();
    }
    let mut rows = vec![vec![String::new(), "before".into(), "after".into()]];
    rows.extend(done.rows().into_iter().map(Vec::from));
    out.text(&table(&rows))?;
    let layers: Vec<String> = done.layers.iter().map(usize::to_string).collect();
    out.text(&format!("layers that stayed: {}\n", layers.join(", ")))?;
    let seconds = started.elapsed().as_secs_f64();
    out.text(&format!("written: {} ({seconds:.1} s)\n", args.out.display()))?;
    out.finish()
}
