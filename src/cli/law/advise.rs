//! `retort law advise`: which teacher to take, by both laws, with what each assumes.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::super::args::Common;
use super::super::output::{Out, table};
use crate::config::numbers;
use crate::error::Result;
use crate::law::{Advice, Ground, Question, Sizes, Taught, advise, curves, short};
use crate::store;

/// What `advise` takes.
#[derive(Debug, Args)]
#[command(long_about = "Which teacher to take, by two published laws side by side.

The law of capacity gap goes by size: a student cut out of its teacher does best under one of about 2.5
times its parameters. The distillation-scaling law goes by loss: what counts of a teacher is its
cross-entropy, whatever its size. They answer different questions, and often differently; what each
assumes and where it was measured stands beside its answer, with a warning wherever yours lies outside.")]
pub struct Advise {
    /// The student: parameters in all (120M), or a model folder, whose parameters are counted
    #[arg(long, value_name = "N|DIR")]
    pub student: String,
    /// Tokens that the student learns [default: 20 a parameter]
    #[arg(long, value_name = "N", value_parser = numbers::at_least_one)]
    pub tokens: Option<usize>,
    /// Tokens that the teacher learnt [default: 20 a parameter]
    #[arg(long, value_name = "N", value_parser = numbers::at_least_one)]
    pub teacher_tokens: Option<usize>,
    /// A page with the law's curves for this student and others
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
}

pub(super) fn run(args: &Advise, common: &Common) -> Result<()> {
    let question = Question {
        student: Sizes::said(&args.student)?,
        tokens: args.tokens.map(|n| n as f64),
        teacher_tokens: args.teacher_tokens.map(|n| n as f64),
    };
    let advice = advise(question)?;
    if let Some(path) = &args.report {
        let page = curves(&question, &advice)?;
        store::write_file(path, |w| Ok(w.write_all(page.html().as_bytes())?))?;
    }
    let mut answer = Out::stdout();
    if common.json {
        answer.json(&as_json(&advice, args))?;
    } else {
        answer.text(&as_text(&advice, args))?;
    }
    answer.finish()
}

fn as_json(advice: &Advice, args: &Advise) -> Value {
    let whole = |x: f64| x.round() as u64;
    let ground = |mut object: Value, ground: &Ground| {
        for (key, text) in
            [("source", &ground.source), ("assumes", &ground.assumes), ("measured", &ground.measured)]
        {
            object[key] = text.as_str().into();
        }
        object["warnings"] = ground.warnings.clone().into();
        object
    };
    let taught = |taught: &Taught| {
        json!({
            "teacher": whole(taught.teacher.all), "teacher_without_embeddings": whole(taught.teacher.body),
            "teacher_tokens": whole(taught.teacher_tokens), "teacher_loss": taught.teacher_loss,
            "student_loss": taught.student_loss,
        })
    };
    let (size, loss) = (&advice.capacity_gap, &advice.scaling);
    let mut by_loss = taught(&loss.answer);
    by_loss["best"] = taught(&loss.best);
    by_loss["teacher_loss_interval"] = json!(loss.interval);
    by_loss["student_loss_alone"] = loss.alone.into();
    let mut all = json!({
        "student": whole(advice.student.all), "student_without_embeddings": whole(advice.student.body),
        "exact": advice.student.exact, "tokens": whole(advice.tokens),
        "capacity_gap": ground(json!({"teacher": whole(size.teacher), "extrapolated": size.extrapolated}), &size.ground),
        "scaling_law": ground(by_loss, &loss.ground),
    });
    if let Some(path) = &args.report {
        all["report"] = json!(path);
    }
    all
}

fn as_text(advice: &Advice, args: &Advise) -> String {
    let (size, loss) = (&advice.capacity_gap, &advice.scaling);
    let guessed = if advice.student.exact { "" } else { ", by a usual shape" };
    let one = |taught: &Taught| {
        format!(
            "{} parameters ({} without embeddings) on {} tokens: its loss {:.3}, the student's {:.3}",
            short(taught.teacher.all),
            short(taught.teacher.body),
            short(taught.teacher_tokens),
            taught.teacher_loss,
            taught.student_loss
        )
    };
    let row = |name: &str, text: String| vec![name.to_string(), text];
    let mut rows = vec![
        row(
            "student",
            format!(
                "{} parameters ({} without embeddings{guessed}), {} tokens",
                short(advice.student.all),
                short(advice.student.body),
                short(advice.tokens)
            ),
        ),
        row("", String::new()),
        row("by size", format!("a teacher of {} parameters", short(size.teacher))),
    ];
    let ground = |ground: &Ground, rows: &mut Vec<Vec<String>>| {
        rows.push(row("  law", ground.source.clone()));
        rows.push(row("  assumes", ground.assumes.clone()));
        rows.push(row("  measured", ground.measured.clone()));
        rows.extend(ground.warnings.iter().map(|text| row("  note", text.clone())));
        rows.push(row("", String::new()));
    };
    ground(&size.ground, &mut rows);
    rows.push(row("by loss", format!("a teacher of {}", one(&loss.answer))));
    rows.push(row("  optimum", one(&loss.best)));
    rows.push(row(
        "  alike",
        format!(
            "teachers' losses from {:.3} to {:.3} cost the student at most 0.01 nat; the answer is the smallest of them",
            loss.interval[0], loss.interval[1]
        ),
    ));
    rows.push(row("  alone", format!("without a teacher the student's loss is {:.3}", loss.alone)));
    ground(&loss.ground, &mut rows);
    rows.push(row("why", WHY.into()));
    rows.extend(args.report.iter().map(|path| row("page", path.display().to_string())));
    table(&rows)
}

/// Why the two differ.
const WHY: &str = "the first compares teachers that a student was cut out of, so a larger one loses more in the cut; the second \
trains students from nothing, where only a teacher far better than its student harms, and a better one helps little";
