//! `retort report`: a page that shows runs side by side.

use serde_json::{Value, json};

use super::args::{Common, Report};
use super::output::{Out, bytes, table};
use crate::error::Result;
use crate::report::run::{Run, load};
use crate::report::{Teacher, of_runs};
use crate::store;

pub(super) fn run(args: &Report, common: &Common) -> Result<()> {
    let teacher = args.teacher_samples.as_deref().map(Teacher::read).transpose()?.unwrap_or_default();
    let runs = load(&args.runs)?;
    let page = of_runs(&runs, &teacher);
    let html = page.html();
    store::write_file(&args.out, |w| Ok(w.write_all(html.as_bytes())?))?;
    let sections: Vec<&str> = page.headings().collect();
    let mut out = Out::stdout();
    if common.json {
        out.json(&json!({
            "path": args.out, "runs": runs.iter().map(document).collect::<Vec<_>>(), "sections": sections,
        }))?;
        return out.finish();
    }
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let rows = [
        ("page", format!("{} ({})", args.out.display(), bytes(html.len() as i64))),
        ("runs", names.join(", ")),
        ("sections", sections.join(", ")),
    ];
    out.text(&table(&rows.map(|(k, v)| vec![k.to_string(), v])))?;
    out.finish()
}

fn document(run: &Run) -> Value {
    json!({
        "name": run.name, "path": run.path, "updates": run.metrics.updates,
        "evaluations": run.metrics.evaluations,
    })
}
