//! The command line: one file a subcommand, over the rooms below. Layer 7: uses everything.
//!
//! Arguments are parsed by clap and then checked here; answers go to stdout, logs and progress to
//! stderr; an error is one line and at most one more of advice.

mod args;
mod chat;
mod completions;
mod distill;
mod eval;
mod gap;
mod generate;
mod import;
mod inspect;
mod law;
mod machine;
mod models;
mod output;
mod processes;
mod progress;
mod prune;
mod quickstart;
mod report;
mod score;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::error::{Error, Result};
use crate::signal;
pub use args::{Arguments, Command, Common};

/// Runs the program with these arguments, and answers its exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
        let what = payload(info);
        complain(format_args!("a bug{place}: {what}\n  please report it with the command that led here"));
    }));
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(e) => return usage(&e),
    };
    signal::install();
    processes::note_rank(&arguments);
    start_tracing(&arguments.common);
    match std::panic::catch_unwind(|| run(&arguments)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(e)) => {
            complain(format_args!("{e}"));
            ExitCode::from(e.cause().exit_code())
        }
        Err(_) => ExitCode::from(101),
    }
}

/// An error on stderr. That stderr may be closed or full is no reason for another one: `eprintln` would
/// panic there, and the exit code would be lost.
fn complain(what: std::fmt::Arguments<'_>) {
    let rank = processes::rank_of_many().map_or(String::new(), |rank| format!("rank {rank}: "));
    let _ = writeln!(std::io::stderr(), "retort: {rank}{what}");
}

fn run(arguments: &Arguments) -> Result<()> {
    let common = &arguments.common;
    machine::set_threads(common.threads)?;
    match &arguments.command {
        Command::Distill(args) => distill::run(args, common),
        Command::Score(args) => score::run(args, common),
        Command::Generate(args) => generate::run(args, common),
        Command::Gap(args) => gap::run(args, common),
        Command::Eval(args) => eval::run(args, common),
        Command::Chat(args) => chat::run(args, common),
        Command::Prune(args) => prune::run(args, common),
        Command::Report(args) => report::run(args, common),
        Command::Inspect(args) => inspect::run(args, common),
        Command::Import(args) => import::run(args, common),
        Command::Law(args) => law::run(args, common),
        Command::Quickstart(args) => quickstart::run(args, common),
        Command::Completions(args) => completions::run(args),
    }
}

fn payload(info: &std::panic::PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_string());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_string()
}

/// What clap says of arguments: help and version as they are, mistakes as one line and advice.
fn usage(e: &clap::Error) -> ExitCode {
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = e.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = e.print();
            ExitCode::from(2)
        }
        _ => {
            let text = e.to_string();
            let mut lines = text
                .lines()
                .map(str::trim)
                .take_while(|l| !l.starts_with("Usage:") && !l.starts_with("For more"));
            let first = lines.next().unwrap_or_default().trim_start_matches("error: ").to_string();
            let rest: Vec<&str> = lines.filter(|l| !l.is_empty()).collect();
            let (tips, details): (Vec<&str>, Vec<&str>) =
                rest.into_iter().partition(|l| l.starts_with("tip:"));
            let what = if details.is_empty() { first } else { format!("{first} {}", details.join(", ")) };
            let tip =
                tips.first().map_or("retort --help lists what there is", |t| t.trim_start_matches("tip: "));
            complain(format_args!("{}", Error::user(what).advice(tip)));
            ExitCode::from(2)
        }
    }
}

fn start_tracing(common: &Common) {
    let level = match (common.quiet, common.verbose) {
        (true, _) => "error",
        // What it has to say rank 0 says too.
        (_, 0) if processes::rank_of_many().is_some() => "error",
        (_, 0) => "warn,retort=info",
        (_, 1) => "info,retort=debug",
        _ => "trace",
    };
    let wish =
        if common.quiet { None } else { tracing_subscriber::EnvFilter::try_from_env("RETORT_LOG").ok() };
    let filter = wish.unwrap_or_else(|| level.into());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| processes::Tagged);
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // A second start (tests call `main` more than once) keeps the first one's settings.
    let _ = logs.without_time().with_target(false).with_ansi(ansi).try_init();
}
