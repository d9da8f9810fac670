//! Progress on stderr: a line that is drawn again on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Draws a line over the last one on a terminal, writes it below elsewhere. Nothing depends on it.
pub(super) fn draw(terminal: bool, text: &str) {
    let mut err = std::io::stderr();
    let _ = if terminal {
        write!(err, "\r\x1b[K{text}").and_then(|()| err.flush())
    } else {
        writeln!(err, "{text}")
    };
}

/// How far a piece of work is.
pub(super) struct Progress {
    what: &'static str,
    total: usize,
    done: usize,
    started: Instant,
    drawn: Instant,
    quiet: bool,
    terminal: bool,
}

impl Progress {
    pub fn new(what: &'static str, total: usize, quiet: bool) -> Self {
        let now = Instant::now();
        let terminal = std::io::stderr().is_terminal();
        Progress { what, total, done: 0, started: now, drawn: now, quiet, terminal }
    }

    /// Counts what is done, and says so if it is time to.
    pub fn add(&mut self, n: usize) {
        self.done += n;
        let pause = if self.terminal { Duration::from_millis(200) } else { Duration::from_secs(10) };
        if self.quiet || self.drawn.elapsed() < pause {
            return;
        }
        self.drawn = Instant::now();
        let seconds = self.started.elapsed().as_secs_f64();
        let left = seconds / self.done.max(1) as f64 * self.total.saturating_sub(self.done) as f64;
        let text = format!("{}: {} of {}, about {left:.0} s left", self.what, self.done, self.total);
        draw(self.terminal, &text);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && !self.quiet {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
