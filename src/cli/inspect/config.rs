//! `retort inspect CONFIG.toml`: the checked settings, every default written out, each with where it came from.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::super::args::Common;
use super::super::output::{Out, table};
use crate::config::{Listed, RunConfig, SetBy, about};
use crate::error::Result;

pub(super) fn run(file: &Path, common: &Common) -> Result<()> {
    let config = RunConfig::load(file, &[])?;
    let settings = config.listed()?;
    let mut out = Out::stdout();
    if common.json {
        let each = |s: &Listed| {
            (s.key.clone(), json!({"value": s.value, "from": from(s.from), "about": about(&s.key)}))
        };
        let settings: Map<String, Value> = settings.iter().map(each).collect();
        out.json(&json!({
            "config": file, "policy": config.entry.name, "settings": settings, "unused": config.unused,
        }))?;
        return out.finish();
    }
    // What each does makes long lines: on demand.
    let columns = if common.verbose > 0 { 4 } else { 3 };
    let row = |s: &Listed| {
        let about = about(&s.key).unwrap_or_default().to_string();
        [s.key.clone(), s.text.clone(), from(s.from), about][..columns].to_vec()
    };
    let heading = ["setting", "value", "from", "what it does"].map(String::from)[..columns].to_vec();
    out.text(&table(&std::iter::once(heading).chain(settings.iter().map(row)).collect::<Vec<_>>()))?;
    for name in &config.unused {
        out.text(&format!("[{name}] is not used by policy = \"{}\"\n", config.entry.name))?;
    }
    let file = file.display();
    out.text(&format!("next: retort distill {file} --dry-run says what it would take\n"))?;
    out.finish()
}

fn from(by: SetBy) -> String {
    match by {
        SetBy::Line(line) => format!("line {line}"),
        SetBy::Option => "--set".into(),
        SetBy::Nobody => "default".into(),
    }
}
