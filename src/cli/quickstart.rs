//! `retort quickstart`: distillation from end to end, and what came of it.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Map, Value, json};

use super::args::Common;
use super::output::{Out, count, table};
use super::progress::draw;
use crate::error::Result;
use crate::eval::bootstrap::Estimate;
use crate::quickstart::{self, Found, Hears, Model, Settings};

/// What `quickstart` takes.
#[derive(Debug, Args)]
pub struct Quickstart {
    /// Where everything goes; in a folder where it was stopped it goes on
    #[arg(long, default_value = "runs/quickstart", value_name = "DIR")]
    pub out: PathBuf,
    /// Of the rows and of every run
    #[arg(long, default_value = "1", value_name = "N")]
    pub seed: u64,
    /// Prompts to learn from; one in five has a reply
    #[arg(long, default_value = "1500", value_name = "N", value_parser = clap::value_parser!(u32).range(25..=1_000_000))]
    pub prompts: u32,
    /// Rows that the models are measured on
    #[arg(long, default_value = "512", value_name = "N", value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub held_out: u32,
    /// A setting laid over every run's config
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

pub(super) fn run(args: &Quickstart, common: &Common) -> Result<()> {
    let device = common.device.resolve()?;
    // Models as small as these gain nothing from threads: each run has one, and several runs go on at a time.
    let threads = tch::get_num_threads().max(1) as usize;
    tch::set_num_threads(1);
    let settings = Settings {
        out: args.out.clone(),
        seed: args.seed,
        prompts: args.prompts as usize,
        held_out: args.held_out as usize,
        set: args.set.clone(),
        device,
        kind: common.dtype.resolve(device),
        at_once: if device.is_cuda() { 1 } else { threads },
    };
    let teller = Teller::new(common.quiet);
    let found = quickstart::run(&settings, &teller)?;
    teller.clear();
    let mut answer = Out::stdout();
    if common.json {
        answer.json(&as_json(&found))?;
    } else {
        answer.text(&as_text(&found))?;
    }
    answer.finish()
}

fn as_json(found: &Found) -> Value {
    let model = |model: &Model| {
        let m = &model.measured;
        let mut object = Map::new();
        object.insert("name".into(), model.name.as_str().into());
        object.insert("path".into(), model.path.display().to_string().into());
        object.insert("params".into(), m.parameters.into());
        for (name, estimate) in numbers(model) {
            object.insert(name.into(), estimate.mean.into());
            object.insert(format!("{name}_interval"), json!([estimate.low, estimate.high]));
        }
        if let Some((steps, time)) = model.trained {
            object.insert("steps".into(), steps.into());
            object.insert("seconds".into(), time.as_secs_f64().into());
        }
        Value::Object(object)
    };
    let ahead = found.ahead.iter().map(|(name, pair)| {
        let Estimate { mean, low, high, n } = pair.difference;
        json!({"against": name, "rouge_l": mean, "low": low, "high": high, "n": n, "p": pair.p})
    });
    json!({
        "models": found.models.iter().map(model).collect::<Vec<_>>(),
        "minillm_ahead": ahead.collect::<Vec<_>>(),
        "held_out": found.held_out, "report": found.report, "seconds": found.time.as_secs_f64(),
    })
}

/// What is measured of a model, by the names of the answer.
fn numbers(model: &Model) -> Vec<(&'static str, Estimate)> {
    let m = &model.measured;
    let mut all = vec![
        ("rouge_l", m.rouge_l),
        ("exact_match", m.exact_match),
        ("valid", m.valid),
        ("valid_greedy", m.valid_greedy),
        ("reverse_kl", m.reverse_kl),
        ("exposure", m.exposure),
    ];
    all.extend(m.distinct_4.map(|estimate| ("distinct_4", estimate)));
    all
}

fn as_text(found: &Found) -> String {
    let heading =
        ["", "parameters", "Rouge-L", "valid, %", "valid, % (greedy)", "reverse KL", "exposure, %", "time"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    for model in &found.models {
        let m = &model.measured;
        let teacher = model.trained.is_none();
        let apart = |text: String| if teacher { "-".into() } else { text };
        rows.push(vec![
            model.name.clone(),
            count(m.parameters as i64),
            around(m.rouge_l, 1),
            around(m.valid.scaled(100.0), 1),
            around(m.valid_greedy.scaled(100.0), 1),
            apart(around(m.reverse_kl, 3)),
            apart(around(m.exposure, 0)),
            model.trained.map_or("-".into(), |(_, time)| format!("{:.0} s", time.as_secs_f64())),
        ]);
    }
    let mut text = table(&rows);
    text += &format!(
        "\n{} prompts whose wordings and arguments are new to all; a reply each, sampled at temperature 1; 95 % intervals.\n\
         Rouge-L: words in common with the references. valid: the reply answers the request, word for word as the\n\
         task's grammar allows. reverse KL: nats a token by which the student's own replies are unlike the teacher's\n\
         (less is better). exposure: how much worse the student does behind its own words than behind the teacher's.\n\n",
        found.models.first().map_or(0, |m| m.measured.rouge_l.n)
    );
    for (name, pair) in &found.ahead {
        let Estimate { mean, low, high, .. } = pair.difference;
        text +=
            &format!("minillm - {name}: Rouge-L {mean:+.1} ({low:+.1} to {high:+.1}), p = {:.4}\n", pair.p);
    }
    let minillm = found.models.iter().find(|m| m.name == "minillm");
    text += &format!("\nreport     {}\n", found.report.display());
    if let Some(model) = minillm {
        text += &format!("chat       retort chat --model {}\n", model.path.display());
        text += "           then: Please tell a short story about Mia and an owl at the lake.\n";
    }
    text + &format!("all of it  {:.0} s\n", found.time.as_secs_f64())
}

/// A value with half the width of its interval.
fn around(estimate: Estimate, digits: usize) -> String {
    let Estimate { mean, low, high, .. } = estimate;
    format!("{mean:.digits$} ± {:.digits$}", (high - low) / 2.0)
}

/// Says on stderr how several runs go.
pub(super) struct Teller {
    quiet: bool,
    terminal: bool,
    state: Mutex<State>,
}

struct State {
    begun: Instant,
    drawn: Instant,
    runs: BTreeMap<String, String>,
}

impl Teller {
    pub fn new(quiet: bool) -> Self {
        let now = Instant::now();
        let state = State { begun: now, drawn: now, runs: BTreeMap::new() };
        Teller { quiet, terminal: std::io::stderr().is_terminal(), state: Mutex::new(state) }
    }

    pub fn clear(&self) {
        if self.terminal && !self.quiet {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    /// Speaks no more of a run.
    pub fn forget(&self, run: &str) {
        if let Ok(mut state) = self.state.lock() {
            state.runs.remove(run);
        }
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        if !self.quiet {
            self.clear();
            // Nothing depends on what is said.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Notes how far a run is, and draws all of them if it is time to.
    pub fn note(&self, run: &str, text: String) {
        let Ok(mut state) = self.state.lock() else { return };
        state.runs.insert(run.into(), text);
        let pause = if self.terminal { Duration::from_millis(200) } else { Duration::from_secs(10) };
        if self.quiet || state.drawn.elapsed() < pause {
            return;
        }
        state.drawn = Instant::now();
        let runs: Vec<String> = state.runs.iter().map(|(run, text)| format!("{run} {text}")).collect();
        let text = format!("{:4.0} s  {}", state.begun.elapsed().as_secs_f64(), runs.join("   "));
        draw(self.terminal, &text);
    }
}

impl Hears for Teller {
    fn begins(&self, part: &str, what: &str) {
        if let Ok(mut state) = self.state.lock() {
            state.runs.clear();
        }
        self.line(&format!("{part}: {what}"));
    }

    fn progress(&self, run: &str, done: u64, total: u64) {
        self.note(run, format!("{done}/{total}"));
    }

    fn evaluated(&self, run: &str, step: u64, rouge_l: f64) {
        self.line(&format!("  {run}: Rouge-L {rouge_l:.1} on the validation rows after update {step}"));
    }

    fn preparing(&self, run: &str, what: &'static str, done: usize, total: usize) {
        self.note(run, format!("{what} {done}/{total}"));
    }
}
