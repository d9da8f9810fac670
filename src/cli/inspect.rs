//! `retort inspect`: what a model folder holds, and whether its parts fit together; how far a run is (`run.rs`);
//! what a config sets (`config.rs`).

mod config;
mod run;

use std::path::Path;

use serde_json::{Value, json};
use tch::Kind;

use super::args::{Common, Inspect};
use super::output::{Out, bytes, count, table};
use crate::checkpoint::RunDir;
use crate::error::Result;
use crate::model::config::Shape;
use crate::model::read_design;
use crate::text::{Audit, Tokenizer};
use crate::weights::{Plan, WeightFiles, locate};

pub(super) fn run(args: &Inspect, common: &Common) -> Result<()> {
    let path = Path::new(&args.what);
    if path.extension().is_some_and(|e| e == "toml") {
        return config::run(path, common);
    }
    if path.is_dir() && RunDir::is_run(path) {
        return run::run(path, common);
    }
    let folder = locate::model_folder(&args.what)?;
    let design = read_design(&folder)?;
    let shape = design.shape();
    let files = WeightFiles::open(&folder)?;
    let plan = files.plan(&design.naming(), design.specs(), shape.tied)?;
    plan.check_finite()?;
    let tokenizer = Tokenizer::load(&folder)?;
    let audit = Audit::of(&folder, &tokenizer)?;
    let mut out = Out::stdout();
    if common.json {
        out.json(&document(&folder, shape, &plan, &audit))?;
    } else {
        out.text(&table(&facts(&folder, shape, &plan, &files)))?;
        out.text("\ntokens\n")?;
        let token = |id: &u32| format!("{id} {:?}", tokenizer.id_to_token(*id).unwrap_or_default());
        let named = |ids: &[u32]| match ids {
            [] => "none".to_string(),
            ids => ids.iter().map(token).collect::<Vec<_>>().join(", "),
        };
        let special = [
            ("  size", audit.tokenizer_size.to_string()),
            ("  ends a reply", named(&audit.eos)),
            ("  begins a text", named(audit.bos.as_slice())),
            ("  padding", named(audit.pad.as_slice())),
            ("  chat template", if audit.chat_template { "yes" } else { "no" }.to_string()),
        ];
        out.text(&table(&special.map(|(k, v)| vec![k.to_string(), v])))?;
        let lines: Vec<Vec<String>> = audit
            .lines()
            .into_iter()
            .map(|(level, text)| vec![format!("  {}", format!("{level:?}").to_lowercase()), text])
            .collect();
        out.text(&table(&lines))?;
    }
    out.finish()
}

/// A float type as config.json calls it.
fn float_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Double => "float64",
        Kind::Half => "float16",
        Kind::BFloat16 => "bfloat16",
        _ => "float32",
    }
}

/// Bytes of keys and values for each position of each row.
fn cache_bytes(shape: &Shape, size: i64) -> i64 {
    2 * shape.layers * shape.kv_heads * shape.head_dim * size
}

fn document(folder: &Path, shape: &Shape, plan: &Plan<'_>, audit: &Audit) -> Value {
    json!({
        "path": folder, "model_type": shape.model_type, "params": plan.parameters(),
        "params_without_embeddings": shape.without_embeddings(plan.parameters()),
        "layers": shape.layers, "hidden": shape.hidden, "heads": shape.heads, "kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim, "ffn": shape.ffn, "context": shape.context, "vocabulary": shape.vocabulary,
        "tied": shape.tied, "dtype": float_name(plan.main_kind()), "windows": shape.windows,
        "tokens": audit,
    })
}

fn facts(folder: &Path, shape: &Shape, plan: &Plan<'_>, files: &WeightFiles) -> Vec<Vec<String>> {
    let size: i64 = plan.tensors().map(|t| t.bytes.len() as i64).sum();
    let windows = shape.windows.iter().flatten().count();
    let mut facts = vec![
        ("model", folder.display().to_string()),
        ("architecture", shape.model_type.to_string()),
        (
            "parameters",
            format!(
                "{} ({} without embeddings)",
                count(plan.parameters()),
                count(shape.without_embeddings(plan.parameters()))
            ),
        ),
        ("layers", shape.layers.to_string()),
        ("hidden", shape.hidden.to_string()),
        (
            "heads",
            format!("{} of {} channels, {} key/value heads", shape.heads, shape.head_dim, shape.kv_heads),
        ),
        ("feed-forward", shape.ffn.to_string()),
        ("context", format!("{} tokens", shape.context)),
        (
            "vocabulary",
            format!("{} rows, {}", shape.vocabulary, if shape.tied { "tied head" } else { "its own head" }),
        ),
        (
            "weights",
            format!(
                "{} in {} file(s), mostly {}, all finite",
                bytes(size),
                files.files().len(),
                float_name(plan.main_kind())
            ),
        ),
        (
            "cache",
            format!(
                "{} a token in bf16, {} in f32",
                bytes(cache_bytes(shape, 2)),
                bytes(cache_bytes(shape, 4))
            ),
        ),
    ];
    if windows > 0 {
        facts.push((
            "windows",
            format!(
                "{windows} of {} layers look back {} tokens",
                shape.layers,
                shape.windows.iter().flatten().next().copied().unwrap_or_default()
            ),
        ));
    }
    facts.into_iter().map(|(k, v)| vec![k.to_string(), v]).collect()
}
