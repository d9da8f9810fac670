//! `retort law fit`: the laws fitted to what a grid measured.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::super::args::Common;
use super::super::output::{Out, table};
use crate::error::Result;
use crate::law::{Curve, Fits, Form, Points, Verdict, fit, page, short, words};
use crate::store;

/// What `fit` takes.
#[derive(Debug, Args)]
#[command(
    long_about = "The laws fitted to what a grid measured: a CSV file, as law run writes it or one of your own.

Needed columns: student and teacher (parameters), loss or perplexity. Used where they are there: arm, seed,
tokens, teacher_tokens, student_body, teacher_body (without embeddings), teacher_loss, kl, initial_loss;
rows of arm = teacher are models trained alone. Other columns are passed over.

The best teacher of each student size is the vertex of a quadratic in log T with a bootstrap interval; that
there is none inside the range is an answer. Then the line through those, and the distillation-scaling law's
form, which needs teacher_loss, tokens and models trained alone."
)]
pub struct Fit {
    /// The points
    #[arg(value_name = "POINTS.csv")]
    pub points: PathBuf,
    /// A page with the points, the curves and the tables
    #[arg(long, value_name = "FILE.html")]
    pub out: Option<PathBuf>,
    /// Of the bootstrap
    #[arg(long, default_value = "1", value_name = "N")]
    pub seed: u64,
}

pub(super) fn run(args: &Fit, common: &Common) -> Result<()> {
    let points = Points::read(&args.points)?;
    let fits = fit(&points, args.seed)?;
    if let Some(path) = &args.out {
        let html = page(&points, &fits).html();
        store::write_file(path, |w| Ok(w.write_all(html.as_bytes())?))?;
    }
    let mut answer = Out::stdout();
    if common.json {
        let mut all = as_json(&points, &fits);
        if let Some(path) = &args.out {
            all["report"] = json!(path);
        }
        answer.json(&all)?;
    } else {
        answer.text(&as_text(&points, &fits))?;
        if let Some(path) = &args.out {
            answer.text(&format!("\npage  {}\n", path.display()))?;
        }
    }
    answer.finish()
}

pub(super) fn as_json(points: &Points, fits: &Fits) -> Value {
    let lines = fits.lines.iter().map(|(arm, line)| {
        json!({
            "arm": arm, "students": line.students, "slope": line.slope, "slope_interval": line.slope_interval,
            "intercept": line.intercept, "intercept_interval": line.intercept_interval, "r2": line.r2,
        })
    });
    let alone = fits.forms.alone.as_ref().map(|alone| {
        let law = alone.law;
        json!({
            "models": alone.models, "r2": alone.r2, "e": law.e, "a": law.a, "b": law.b, "g": law.g,
        })
    });
    json!({
        "points": points.rows.len(), "passed_over": points.passed_over,
        "curves": fits.curves.iter().map(curve).collect::<Vec<_>>(), "lines": lines.collect::<Vec<_>>(),
        "scaling": {
            "alone": alone, "arms": fits.forms.arms.iter().map(form).collect::<Vec<_>>(), "missing": fits.forms.missing,
        },
    })
}

fn curve(curve: &Curve) -> Value {
    let (verdict, more) = match &curve.verdict {
        Verdict::Inside { teacher, interval, loss } => {
            ("inside", json!({"teacher": teacher, "interval": interval, "loss": loss}))
        }
        Verdict::Falling => ("falling", json!({})),
        Verdict::Rising => ("rising", json!({})),
        Verdict::Unclear(at) => ("unclear", json!({"vertex": at})),
        Verdict::TooFew => ("too few", json!({})),
    };
    json!({
        "arm": curve.arm, "student": curve.student, "tokens": curve.tokens, "points": curve.points.len(),
        "verdict": verdict, "best": more,
    })
}

fn form(form: &Form) -> Value {
    let law = form.law;
    let predicted: Vec<Value> =
        form.predicted.iter().map(|(loss, [low, high])| json!([loss, low, high])).collect();
    json!({
        "arm": form.arm, "runs": form.runs, "huber": form.cost, "r2": form.r2, "a": law.a, "b": law.b, "g": law.g,
        "c0": law.c0, "c1": law.c1, "f1": law.f1, "d1": law.d1, "predicted": predicted,
    })
}

pub(super) fn as_text(points: &Points, fits: &Fits) -> String {
    let row = |cells: [String; 4]| cells.to_vec();
    let mut rows = vec![row(["student", "arm", "runs", "best teacher"].map(String::from))];
    for curve in &fits.curves {
        rows.push(row([
            short(curve.student),
            curve.arm.clone(),
            curve.points.len().to_string(),
            words(&curve.verdict),
        ]));
    }
    let mut text = table(&rows);
    for (arm, line) in &fits.lines {
        let [[low, high], [least, most]] = [line.slope_interval, line.intercept_interval];
        let r2 = line.r2.map_or("two sizes, which any line fits".into(), |r2| format!("R^2 {r2:.3}"));
        text += &format!(
            "\n{arm}: T* = {:.3} ({low:.3} to {high:.3}) S {:+.3}M ({:+.3}M to {:+.3}M), {r2}\n",
            line.slope,
            line.intercept / 1e6,
            least / 1e6,
            most / 1e6
        );
    }
    text += "\nby the teacher's loss\n";
    if let Some(alone) = &fits.forms.alone {
        let r2 = alone.r2.map_or(String::new(), |r2| format!(", R^2 {r2:.4} of log L"));
        text += &format!("  {} models alone{r2}\n", alone.models);
    }
    for form in &fits.forms.arms {
        let r2 = form.r2.map_or(String::new(), |r2| format!(", R^2 {r2:.4} of log L"));
        text += &format!("  {}: {} runs{r2}\n", form.arm, form.runs);
    }
    for why in &fits.forms.missing {
        text += &format!("  not fitted: {why}\n");
    }
    if !points.passed_over.is_empty() {
        text += &format!("\ncolumns that were passed over: {}\n", points.passed_over.join(", "));
    }
    text
}
