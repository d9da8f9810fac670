//! `retort import`: a Hugging Face folder from a GGUF file.

use std::time::Instant;

use serde_json::json;

use super::args::{Common, Import};
use super::output::{Out, bytes, count, table};
use crate::error::{Error, Result};
use crate::weights::gguf;

pub(super) fn run(args: &Import, common: &Common) -> Result<()> {
    if !args.gguf.exists() {
        return Err(Error::user("no such file").file(&args.gguf));
    }
    let started = Instant::now();
    let made_by = concat!("retort ", env!("CARGO_PKG_VERSION"));
    let done = gguf::import(&args.gguf, &args.out, common.dtype.to_write(), made_by)?;
    let kinds: Vec<String> = done.kinds.iter().map(|(kind, n)| format!("{n} {kind:?}")).collect();
    let mut out = Out::stdout();
    if common.json {
        out.json(&json!({
            "out": args.out, "model_type": done.model_type, "tensors": done.tensors, "params": done.params,
            "tokens": done.tokens, "chat_template": done.chat_template, "tied": done.tied,
        }))?;
        return out.finish();
    }
    let rows: Vec<Vec<String>> = [
        ("written", args.out.display().to_string()),
        ("architecture", done.model_type),
        ("parameters", count(done.params as i64)),
        ("tensors", format!("{} ({})", done.tensors, kinds.join(", "))),
        ("tokens", done.tokens.to_string()),
        ("chat template", if done.chat_template { "yes" } else { "no" }.into()),
        ("from", format!("{} ({})", args.gguf.display(), bytes(done.file_len as i64))),
        ("time", format!("{:.1} s", started.elapsed().as_secs_f64())),
    ]
    .into_iter()
    .map(|(k, v)| vec![k.to_string(), v])
    .collect();
    out.text(&table(&rows))?;
    out.finish()
}
