//! `--against`: a second model, or replies that were made before, on the same rows.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Arguments, Found, Metric, SEED, object, of_model, of_responses};
use crate::cli::args::Common;
use crate::error::{Error, Result};
use crate::eval::per_row::paired;
use crate::weights::locate;

/// From this p-value on nobody is said to be ahead.
const ALPHA: f64 = 0.05;

/// Refuses what cannot be compared.
pub(super) fn check(args: &Arguments, metrics: &[Metric]) -> Result<()> {
    let Some(other) = &args.more.against else { return Ok(()) };
    if args.rows.skip_invalid {
        return Err(Error::user("rows cannot be passed over where two are compared on them")
            .field("--skip-invalid")
            .advice("leave it out: a row that one of them cannot take would be missing from one side"));
    }
    let file = Path::new(other).is_file();
    if args.responses.is_some() && !file {
        return Err(Error::user("replies are compared with replies")
            .field("--against")
            .expected("a file of replies")
            .found(other)
            .advice("give the model as --model, and the replies as --against"));
    }
    if !file {
        // Before the first model is measured, which may take hours.
        locate::model_folder(other)?;
    }
    match metrics.iter().find(|metric| file && !metric.is_of_replies()) {
        Some(metric) => Err(Error::user("a metric needs more")
            .field(metric.name())
            .expected("a model as --against")
            .found("a file of replies")),
        None => Ok(()),
    }
}

/// The other's numbers.
pub(super) fn other(args: &Arguments, common: &Common, name: &str, metrics: &[Metric]) -> Result<Vec<Found>> {
    match Path::new(name) {
        path if path.is_file() => of_responses(args, common, path, metrics),
        _ => of_model(args, common, name, metrics),
    }
}

/// Puts the other's numbers beside, and where both are made of rows the difference.
pub(super) fn with(found: &mut [Found], other: &[Found]) -> Result<()> {
    for (found, other) in found.iter_mut().zip(other) {
        found.beside.insert("against".into(), Value::Object(object(other.estimate)));
        if let Some(difference) = difference(found, other)? {
            found.beside.insert("difference".into(), Value::Object(difference));
        }
    }
    Ok(())
}

fn difference(found: &Found, other: &Found) -> Result<Option<Map<String, Value>>> {
    let (Some(a), Some(b)) = (&found.rows, &other.rows) else { return Ok(None) };
    let tokens = |part: &Option<[f64; 2]>| part.map(|[_, tokens]| tokens);
    if found.metric == Metric::Perplexity && !a.parts.iter().map(tokens).eq(b.parts.iter().map(tokens)) {
        return Err(Error::user("perplexities of other tokens cannot be compared")
            .field("--against")
            .expected("a model that makes as many tokens of every response")
            .found("other numbers of tokens")
            .advice("leave perplexity out of --metrics, or give both models one --template"));
    }
    let Some(compared) = paired(a, b, SEED)? else { return Ok(None) };
    let mut numbers = object(compared.difference);
    numbers.insert("p".into(), json!(compared.p));
    if let Some(more) = found.metric.more_is_better() {
        let ahead = match compared.p < ALPHA {
            false => "neither",
            true if (compared.difference.mean > 0.0) == more => "model",
            true => "against",
        };
        numbers.insert("ahead".into(), json!(ahead));
    }
    Ok(Some(numbers))
}
