//! `retort distill`: trains a student as a config says.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use super::args::{Common, Distill};
use super::output::{Out, count, table};
use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::train::{self, News, Options, Watch};

pub(super) fn run(args: &Distill, common: &Common) -> Result<()> {
    if !args.config.exists() {
        return Err(Error::user("no such file").file(&args.config).expected("a config"));
    }
    let config = RunConfig::load(&args.config, &args.set)?;
    let device = common.device.resolve()?;
    let options = Options {
        device,
        kind: common.dtype.resolve(device),
        write: common.dtype.to_write(),
        resume: args.resume,
    };
    let out = args.out.clone().unwrap_or_else(|| default_out(args));
    let mut bar = Bar::new(common.quiet);
    let finished = train::run(config, &out, &options, &mut bar)?;
    bar.clear();
    let last = finished.run.join("final");
    let best = finished.run.join("best");
    let mut answer = Out::stdout();
    if common.json {
        answer.json(&json!({
            "run": finished.run, "steps": finished.steps, "done": finished.done, "final": last,
            "best": finished.best.map(|(loss, step)| json!({"path": best, "valid_loss": loss, "step": step})),
        }))?;
        return answer.finish();
    }
    let mut rows = vec![
        ("updates", format!("{} ({} of them now)", finished.steps, finished.done)),
        ("model", last.display().to_string()),
    ];
    if let Some((loss, step)) = finished.best {
        rows.push(("best", format!("{} (valid loss {loss:.4}, update {step})", best.display())));
    }
    answer.text(&table(&rows.into_iter().map(|(k, v)| vec![k.to_string(), v]).collect::<Vec<_>>()))?;
    answer.finish()
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
        let mut err = std::io::stderr();
        // Nothing depends on the drawing.
        let _ = if self.terminal {
            write!(err, "\r\x1b[K{text}").and_then(|()| err.flush())
        } else {
            writeln!(err, "{text}")
        };
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
        let shown = values.iter().filter(|(name, _)| *name != "tokens");
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
