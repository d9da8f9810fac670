//! `retort distill`: trains a student as a config says.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::args::{Common, Distill};
use super::output::{Out, bytes, count, table};
use super::processes;
use super::progress::draw;
use crate::config::RunConfig;
use crate::data::Counts;
use crate::dist::{Launch, World};
use crate::error::{Error, Result};
use crate::train::{self, Finished, Found, News, Options, Plan, Silent, Watch};

pub(super) fn run(args: &Distill, common: &Common) -> Result<()> {
    if !args.config.exists() {
        return Err(Error::user("no such file").file(&args.config).expected("a config"));
    }
    let config = RunConfig::load(&args.config, &args.set)?;
    let timeout = config.settings.dist.timeout;
    let copies = args.nproc.map_or(1, usize::from);
    if copies > 1 && !args.dry_run {
        train::refuse(&config, copies)?;
        return processes::run(copies, timeout, common.threads);
    }
    let launch = Launch::from_environment()?;
    let device = common.device.resolve_for(launch.as_ref().map_or(0, |launch| launch.local_rank))?;
    let options = Options {
        device,
        kind: common.dtype.resolve(device),
        write: common.dtype.to_write(),
        resume: args.resume,
    };
    let out = args.out.clone().unwrap_or_else(|| default_out(args));
    if args.dry_run {
        return match &launch {
            Some(launch) if launch.rank > 0 => Ok(()),
            Some(launch) => {
                show(&train::plan_of(config, &out, &options, (launch.size, launch.local_size))?, common)
            }
            None => show(&train::plan_of(config, &out, &options, (copies, copies))?, common),
        };
    }
    let timeout = Duration::from_secs_f64(timeout);
    let world = launch.map(|launch| World::join_on(&launch, timeout, device)).transpose()?;
    let world = Rc::new(world.unwrap_or_default());
    if !world.is_first() {
        return train::run_in(&world, config, &out, &options, &mut Silent).map(|_| ());
    }
    let mut bar = Bar::new(common.quiet);
    let finished = train::run_in(&world, config, &out, &options, &mut bar)?;
    bar.clear();
    told(&finished, common)
}

/// How a run ended.
fn told(finished: &Finished, common: &Common) -> Result<()> {
    let last = finished.run.join("final");
    let best = finished.run.join("best");
    let mut answer = Out::stdout();
    if common.json {
        answer.json(&json!({
            "run": finished.run, "steps": finished.steps, "done": finished.done, "final": last,
            "memory": finished.memory,
            "best": finished.best.map(|b| json!({"path": best, b.name: b.value, "step": b.step})),
        }))?;
        return answer.finish();
    }
    let mut rows = vec![
        ("updates", format!("{} ({} of them now)", finished.steps, finished.done)),
        ("model", last.display().to_string()),
    ];
    let held: Vec<String> = finished.memory.iter().map(|n| bytes(*n as i64)).collect();
    rows.push(("memory", format!("at most {}", held.join(", "))));
    if let Some(Found { name, value, step }) = finished.best {
        let what = name.replace('_', " ");
        rows.push(("best", format!("{} ({what} {value:.4}, update {step})", best.display())));
    }
    answer.text(&table(&rows.into_iter().map(|(k, v)| vec![k.to_string(), v]).collect::<Vec<_>>()))?;
    answer.finish()
}

/// What a run would be.
fn show(plan: &Plan, common: &Common) -> Result<()> {
    let mut answer = Out::stdout();
    if common.json {
        answer.json(&json!({
            "run": plan.out, "processes": plan.processes, "params": plan.parameters, "adapter_params": plan.adapters, "teacher_params": plan.teacher_parameters,
            "rows": plan.rows, "valid": plan.valid, "steps": plan.steps, "regime": plan.regime.as_ref().map(|(recipe, _)| recipe),
            "tokens_at_once": plan.at_once.map(|(tokens, _)| tokens),
            "recompute": plan.at_once.map(|(_, twice)| twice),
            "memory": plan.memory, "total_memory": plan.total_memory,
            "cache": plan.cache.map(|c| json!({"disk": c.disk, "memory": c.memory})),
            "seconds": plan.time.map(|t| t.as_secs_f64()), "writes": plan.writes, "missing": plan.missing,
        }))?;
        return answer.finish();
    }
    let mut rows = vec![("run directory", plan.out.display().to_string())];
    rows.extend((plan.processes > 1).then(|| ("processes", plan.processes.to_string())));
    rows.push(("student", format!("{} parameters", count(plan.parameters as i64))));
    rows.extend(plan.adapters.map(|n| ("adapters", format!("{} parameters, which learn", count(n as i64)))));
    rows.extend(plan.teacher_parameters.map(|n| ("teacher", format!("{} parameters", count(n as i64)))));
    for (what, counts) in [("rows", plan.rows), ("held-out rows", plan.valid)] {
        rows.extend(counts.map(|c| (what, counted(&c))));
    }
    rows.extend(plan.steps.map(|n| ("updates", n.to_string())));
    rows.extend(plan.regime.iter().map(|(_, says)| ("regime", says.clone())));
    rows.extend(plan.at_once.map(|(tokens, twice)| {
        ("at once", format!("{tokens} tokens{}", if twice { ", blocks computed twice" } else { "" }))
    }));
    rows.extend(plan.memory.map(|n| {
        let of = plan.total_memory.map_or(String::new(), |total| format!(" of {}", bytes(total as i64)));
        let each = if plan.processes > 1 { " in each process" } else { "" };
        ("memory", format!("about {}{of}{each}", bytes(n as i64)))
    }));
    rows.extend(plan.cache.map(|c| {
        let (disk, memory) = (bytes(c.disk as i64), bytes(c.memory as i64));
        ("teacher's cache", format!("{disk} on the disk, {memory} in memory in place of the teacher"))
    }));
    rows.extend(plan.time.map(|t| ("time", format!("about {}", clock(t.as_secs_f64())))));
    rows.push(("would write", plan.writes.join(", ")));
    rows.extend(plan.missing.iter().map(|what| ("missing", what.clone())));
    answer.text(&table(&rows.into_iter().map(|(k, v)| vec![k.to_string(), v]).collect::<Vec<_>>()))?;
    answer.finish()
}

fn counted(c: &Counts) -> String {
    let mut text =
        format!("{}, {} tokens, {} learnt", c.rows, count(c.tokens as i64), count(c.learnt as i64));
    for (n, what) in [
        (c.shortened, "prompts shortened"),
        (c.cut, "responses cut"),
        (c.left_out, "replies left out"),
        (c.last_alone, "conversations learnt by their last reply"),
        (c.rejected, "bad rows"),
    ] {
        if n > 0 {
            text += &format!(", {n} {what}");
        }
    }
    text
}

/// Where a run goes if nobody says: below `runs`, under the config's name.
fn default_out(args: &Distill) -> PathBuf {
    let name = args.config.file_stem().map_or("run".into(), |s| s.to_os_string());
    PathBuf::from("runs").join(name)
}

/// How a run goes, on stderr: a line that is drawn again on a terminal, a line now and then elsewhere.
struct Bar {
    quiet: bool,
    terminal: bool,
    drawn: Option<Instant>,
    /// Tokens and time since it was drawn.
    tokens: usize,
    time: Duration,
    /// A mean over the last updates.
    update: Option<f64>,
}

impl Bar {
    fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Bar { quiet, terminal, drawn: None, tokens: 0, time: Duration::ZERO, update: None }
    }

    fn due(&mut self, last: bool) -> bool {
        let pause = if self.terminal { Duration::from_millis(200) } else { Duration::from_secs(10) };
        let due = last || self.drawn.is_none_or(|at| at.elapsed() >= pause);
        if due {
            self.drawn = Some(Instant::now());
        }
        due && !self.quiet
    }

    fn draw(&self, text: &str) {
        draw(self.terminal, text);
    }

    fn clear(&self) {
        if self.terminal && !self.quiet {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Watch for Bar {
    fn update(&mut self, news: News<'_>) {
        self.tokens += news.tokens;
        self.time += news.time;
        let seconds = news.time.as_secs_f64();
        self.update = Some(self.update.map_or(seconds, |mean| mean + 0.1 * (seconds - mean)));
        if !self.due(news.step == news.steps) {
            return;
        }
        let rate = self.tokens as f64 / self.time.as_secs_f64().max(1e-9);
        let left = self.update.unwrap_or(0.0) * (news.steps - news.step) as f64;
        let skipped = news.skipped.map_or(String::new(), |why| format!("  skipped: {why}"));
        self.draw(&format!(
            "update {}/{}  loss {:.4}  {} tokens/s  {} left{skipped}",
            news.step,
            news.steps,
            news.loss,
            count(rate as i64),
            clock(left)
        ));
        (self.tokens, self.time) = (0, Duration::ZERO);
    }

    fn evaluated(&mut self, step: u64, values: &[(&'static str, f64)]) {
        if self.quiet {
            return;
        }
        self.clear();
        let beside = ["tokens", "prompts", "rouge_l_low", "rouge_l_high"];
        let shown = values.iter().filter(|(name, _)| !beside.contains(name));
        let shown: Vec<String> = shown.map(|(name, value)| format!("{name} {value:.4}")).collect();
        let _ = writeln!(std::io::stderr(), "after update {step}: {}", shown.join("  "));
    }

    fn preparing(&mut self, what: &'static str, done: usize, total: usize) {
        if self.due(false) {
            self.draw(&format!("{what}: {done} of {total}"));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Seconds as people say them.
fn clock(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        ..60 => format!("{s} s"),
        60..3600 => format!("{}:{:02} min", s / 60, s % 60),
        _ => format!("{}:{:02} h", s / 3600, s % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        assert_eq!((clock(59.4).as_str(), clock(61.0).as_str()), ("59 s", "1:01 min"));
        assert_eq!(clock(3660.0), "1:01 h");
    }
}
