//! `retort law`: which teacher a student learns most from, by published laws (`advise.rs`), or by
//! those fitted to what was measured (`fit.rs`), which a grid measures (`run.rs`).

mod advise;
mod fit;
mod run;

use clap::{Args, Subcommand};

use super::args::Common;
use crate::error::Result;

/// What `law` takes.
#[derive(Debug, Args)]
pub struct Law {
    /// What to do.
    #[command(subcommand)]
    pub what: What,
}

/// The subcommands of `law`.
#[derive(Debug, Subcommand)]
pub enum What {
    /// Which teacher to take, by two published laws
    Advise(advise::Advise),
    /// A grid of teachers and students, trained and measured
    Run(run::Run),
    /// The laws fitted to what a grid measured
    Fit(fit::Fit),
}

pub(super) fn run(args: &Law, common: &Common) -> Result<()> {
    match &args.what {
        What::Advise(args) => advise::run(args, common),
        What::Run(args) => run::run(args, common),
        What::Fit(args) => fit::run(args, common),
    }
}
