//! The answer of `eval`: one object, or tables for people.

use serde_json::{Map, Value};

use super::{Arguments, Found, object};
use crate::cli::args::Common;
use crate::cli::output::{Out, table};
use crate::error::Result;
use crate::eval::bootstrap::Estimate;
use crate::eval::per_row::{BUCKET_NAMES, BUCKETS};

pub(super) fn show(args: &Arguments, common: &Common, found: &[Found]) -> Result<()> {
    let mut out = Out::to(args.rows.output.as_deref())?;
    if common.json || args.rows.output.is_some() {
        out.json(&answer(found))?;
        return out.finish();
    }
    out.text(&table(&lines(found)))?;
    if found.iter().any(|f| f.by_length.is_some()) {
        out.text(&format!("\n{}", table(&by_length(found))))?;
    }
    out.finish()
}

fn answer(found: &[Found]) -> Map<String, Value> {
    let mut all = Map::new();
    for f in found {
        let mut numbers = object(f.estimate);
        numbers.extend(f.beside.clone());
        all.insert(f.metric.name().to_string(), Value::Object(numbers));
        if let Some(buckets) = &f.by_length {
            all.insert(format!("{}_by_length", f.metric.name()), Value::Object(of_buckets(buckets)));
        }
    }
    all
}

fn of_buckets(buckets: &[Option<Estimate>; BUCKETS]) -> Map<String, Value> {
    let nothing = || Map::from_iter(["mean", "low", "high"].map(|key| (key.to_string(), Value::Null)));
    let bucket = |(name, found): (&str, &Option<Estimate>)| {
        let numbers = found.map(object).unwrap_or_else(|| {
            let mut numbers = nothing();
            numbers.insert("n".into(), 0.into());
            numbers
        });
        (name.to_string(), Value::Object(numbers))
    };
    BUCKET_NAMES.into_iter().zip(buckets).map(bucket).collect()
}

fn lines(found: &[Found]) -> Vec<Vec<String>> {
    let mut lines = vec![["metric", "mean", "95 % interval", "rows"].map(String::from).to_vec()];
    let line = |name: &str, [mean, low, high]: [f64; 3], n: u64| {
        vec![name.to_string(), format!("{mean:.4}"), format!("{low:.4} to {high:.4}"), n.to_string()]
    };
    for f in found {
        let Estimate { mean, low, high, n } = f.estimate;
        lines.push(line(f.metric.name(), [mean, low, high], n as u64));
        for (name, value) in &f.beside {
            let number = |key: &str| value.get(key).and_then(Value::as_f64);
            let (Some(mean), Some(low), Some(high)) = (number("mean"), number("low"), number("high")) else {
                continue;
            };
            let n = value.get("n").and_then(Value::as_u64).unwrap_or(n as u64);
            let mut cells = line(&format!("  {name}"), [mean, low, high], n);
            cells.extend(number("p").map(|p| format!("p {p:.4}{}", ahead(value))));
            lines.push(cells);
        }
    }
    lines
}

/// Who is ahead, in words.
fn ahead(difference: &Value) -> &'static str {
    match difference.get("ahead").and_then(Value::as_str) {
        Some("model") => ", the model is ahead",
        Some("against") => ", the other is ahead",
        Some(_) => ", neither is ahead",
        None => "",
    }
}

/// The metrics by words of the reference, the rows of each bucket above.
fn by_length(found: &[Found]) -> Vec<Vec<String>> {
    let all: Vec<_> = found.iter().filter_map(|f| Some((f.metric.name(), f.by_length.as_ref()?))).collect();
    let rows = |bucket: usize| {
        let n = all.iter().filter_map(|(_, found)| found[bucket].map(|e| e.n)).max().unwrap_or(0);
        format!("{} words ({n} rows)", BUCKET_NAMES[bucket])
    };
    let mut lines = vec![vec!["by reference".to_string()]];
    lines[0].extend((0..BUCKETS).map(rows));
    for (name, buckets) in all {
        let cell = |found: &Option<Estimate>| match found {
            Some(e) => format!("{:.4} ({:.4} to {:.4})", e.mean, e.low, e.high),
            None => "-".to_string(),
        };
        lines.push(std::iter::once(name.to_string()).chain(buckets.iter().map(cell)).collect());
    }
    lines
}
