//! `retort law run`: a grid of teachers and students, trained and measured.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::args::Common;
use super::super::output::{Out, count, table};
use super::super::quickstart::Teller;
use super::fit;
use crate::config::grid::GridConfig;
use crate::error::{Error, Result};
use crate::law::grid::{self, GridPlan, Hears, Settings};

/// What `run` takes.
#[derive(Debug, Args)]
#[command(
    long_about = "A grid: teachers of growing size, each trained once; students of each size under each teacher that is
larger, cut out of it or begun anew, with it and without it, with every seed; on one corpus whose documents
are the teachers', the students' or held out.

Every teacher and every cell is a run directory. What is finished is not done again, what was stopped goes on.
results.csv is written anew as each cell ends; report.html and the fits of law fit come at the end."
)]
pub struct Run {
    /// The grid; configs/research/capacity-gap.toml is one
    #[arg(value_name = "CONFIG.toml")]
    pub config: PathBuf,
    /// Lays a setting over the config, such as train.student.steps=100
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Where everything goes [default: runs/ and the config's name]; where it was stopped it goes on
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Only check, and print the cells with a guess of their time
    #[arg(long)]
    pub dry_run: bool,
}

pub(super) fn run(args: &Run, common: &Common) -> Result<()> {
    if !args.config.exists() {
        return Err(Error::user("no such file").file(&args.config).expected("a grid's config"));
    }
    let config = GridConfig::load(&args.config, &args.set)?;
    let device = common.device.resolve()?;
    // Models as small as a grid's gain nothing from threads: each run has one, and several runs go on at a time.
    let threads = tch::get_num_threads().max(1) as usize;
    tch::set_num_threads(1);
    let name = args.config.file_stem().map_or("grid".into(), |stem| stem.to_os_string());
    let settings = Settings {
        out: args.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(name)),
        device,
        kind: common.dtype.resolve(device),
        at_once: if device.is_cuda() { 1 } else { threads },
    };
    if args.dry_run {
        return show(&grid::plan(&config, &settings)?, common);
    }
    let teller = Teller::new(common.quiet);
    let found = grid::run(&config, &settings, &teller)?;
    teller.clear();
    let mut answer = Out::stdout();
    if common.json {
        let mut all = fit::as_json(&found.points, &found.fits);
        all["results"] = json!(found.results);
        all["report"] = json!(found.report);
        all["trained"] = found.done.into();
        answer.json(&all)?;
    } else {
        answer.text(&fit::as_text(&found.points, &found.fits))?;
        answer.text(&format!(
            "\nresults  {}\npage     {}\n",
            found.results.display(),
            found.report.display()
        ))?;
        answer.text(&left_out(&found.left_out))?;
    }
    answer.finish()
}

fn left_out(pairs: &[(usize, String)]) -> String {
    let names: Vec<String> =
        pairs.iter().map(|(n, teacher)| format!("{} under {teacher}", count(*n as i64))).collect();
    match names.is_empty() {
        true => String::new(),
        false => {
            format!("left out  {}: the teacher is no larger, or cannot be cut so small\n", names.join(", "))
        }
    }
}

fn show(plan: &GridPlan, common: &Common) -> Result<()> {
    let mut answer = Out::stdout();
    if common.json {
        let runs = plan.runs.iter().map(|run| {
            json!({
                "run": run.name, "teacher": run.teacher, "params": run.parameters, "tokens": run.tokens,
                "seconds": run.time.map(|t| t.as_secs_f64()),
            })
        });
        answer.json(&json!({
            "out": plan.out, "runs": runs.collect::<Vec<_>>(), "left_out": plan.left_out,
            "seconds": plan.time.map(|t| t.as_secs_f64()),
        }))?;
        return answer.finish();
    }
    let clock =
        |t: Option<std::time::Duration>| t.map_or("-".into(), |t| format!("{:.0} s", t.as_secs_f64()));
    let mut rows = vec![["run", "parameters", "tokens", "time"].map(String::from).to_vec()];
    for run in &plan.runs {
        rows.push(vec![
            run.name.clone(),
            count(run.parameters as i64),
            run.tokens.map_or("-".into(), |n| count(n as i64)),
            clock(run.time),
        ]);
    }
    answer.text(&table(&rows))?;
    answer.text(&left_out(&plan.left_out))?;
    answer.text(&format!(
        "{} runs, about {} in all, into {}\n",
        plan.runs.len(),
        clock(plan.time),
        plan.out.display()
    ))?;
    answer.finish()
}

impl Hears for Teller {
    fn begins(&self, part: &str, what: &str) {
        crate::quickstart::Hears::begins(self, part, what);
    }

    fn progress(&self, run: &str, done: u64, total: u64) {
        self.note(run, format!("{done}/{total}"));
    }

    fn preparing(&self, run: &str, what: &'static str, done: usize, total: usize) {
        self.note(run, format!("{what} {done}/{total}"));
    }

    fn ended(&self, run: &str, loss: f64) {
        self.forget(run);
        self.line(&format!("  {run}: loss {loss:.4} on the held-out text"));
    }
}
