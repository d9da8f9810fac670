//! `retort completions`: a completion script on stdout.

use clap::CommandFactory;
use clap_complete::Shell as Script;

use super::args::{Arguments, Completions, Shell};
use super::output::Out;
use crate::error::Result;

pub(super) fn run(args: &Completions) -> Result<()> {
    let shell = match args.shell {
        Shell::Bash => Script::Bash,
        Shell::Zsh => Script::Zsh,
        Shell::Fish => Script::Fish,
        Shell::Elvish => Script::Elvish,
        Shell::Powershell => Script::PowerShell,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "retort", &mut script);
    let mut out = Out::stdout();
    out.text(&String::from_utf8_lossy(&script))?;
    out.finish()
}
