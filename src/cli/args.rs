//! Every argument, with the help that people read: here of all commands and of those that run no model,
//! in `args/models.rs` of those that do.

mod models;
mod prune;

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use super::machine::{DeviceChoice, DtypeChoice};
use crate::native;
pub use models::{Chat, Distill, Eval, Gap, Generate, Rows, Score};
pub use prune::Prune;

/// `retort --version`: ours, libtorch's, and the commit.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let (ours, commit) = (env!("CARGO_PKG_VERSION"), env!("RETORT_COMMIT"));
    format!("{ours} (libtorch {}, commit {commit})", native::torch_version())
});

const LONG: &str = "\
Retort distils a large language model into a small one.

A model is a Hugging Face folder (config.json, safetensors, tokenizer), or org/name of one in the
Hugging Face cache; nothing is downloaded. Rows are JSON lines: {\"prompt\", \"response\"}, Alpaca and
Dolly rows, {\"messages\"}, ShareGPT rows, {\"text\"}, or {\"ids\"}.

Answers go to stdout (a table, or JSON lines with --json), logs and progress to stderr.";

const EXIT_CODES: &str = "\
Examples:
  retort inspect MODEL                                  what a model is, and whether its parts fit
  retort score --model MODEL --input rows.jsonl --json  log-probability of every token
  retort law advise --student 120M --tokens 10B         which teacher to take
  retort generate --model MODEL --prompt 'Hello'        a sampled reply; --greedy for the most probable
  retort gap --teacher T --student S --input rows.jsonl how far S is from T on these responses
  retort distill run.toml --out runs/one                train a student
  retort eval --model MODEL --input rows.jsonl --metrics rouge_l,perplexity
  retort report runs/one runs/two                       a page that shows both
  retort prune --model MODEL --input text.txt --params 100M --out STUDENT
  retort import model.gguf --out MODEL                  a Hugging Face folder from a GGUF file

Exit codes:
  0 done   2 your arguments   3 bad data or model files   4 a read or write that failed
  5 a number that is not finite   101 a bug of ours   130/143 stopped by Ctrl-C or SIGTERM";

/// The program's arguments.
#[derive(Debug, Parser)]
#[command(name = "retort", version = VERSION.as_str(), long_about = LONG, after_help = EXIT_CODES)]
#[command(about = "Distils a large language model into a small one", arg_required_else_help = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What every command takes.
    #[command(flatten)]
    pub common: Common,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a student as a config says
    Distill(Distill),
    /// The log-probability of every token of every row
    Score(Score),
    /// Replies to prompts
    Generate(Generate),
    /// How far a student is from its teacher on given rows
    Gap(Gap),
    /// How good replies are, and a model's probabilities of given ones
    Eval(Eval),
    /// A conversation, line by line
    Chat(Chat),
    /// A smaller model cut out of a larger one
    Prune(Prune),
    /// A page that shows runs side by side
    Report(Report),
    /// What a model folder holds, how far a run is, or what a config sets
    Inspect(Inspect),
    /// A Hugging Face folder from a GGUF file
    Import(Import),
    /// Which teacher a student learns most from: by published laws, or measured
    Law(super::law::Law),
    /// Distillation from end to end in two minutes, on a small task
    Quickstart(super::quickstart::Quickstart),
    /// A completion script for a shell
    Completions(Completions),
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Common {
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// What to compute in; auto is bf16 where the machine multiplies it fast, else f32
    #[arg(long, global = true, default_value = "auto", value_enum)]
    pub dtype: DtypeChoice,
    /// CPU threads (else OMP_NUM_THREADS, else all cores)
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Answer in JSON, one document a line
    #[arg(long, global = true)]
    pub json: bool,
    /// No logs, no progress; errors only
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// More logs; twice for more still
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// `retort inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// A model (a folder, or org/name in the Hugging Face cache), a run directory, or a config (.toml), whose
    /// settings -v explains
    #[arg(value_name = "MODEL|RUN|CONFIG.toml")]
    pub what: String,
}

/// `retort report`.
#[derive(Debug, Args)]
#[command(long_about = "A page that shows runs side by side: one HTML file that opens offline.

It has each run's last and best evaluation with intervals, the curves of all runs on shared axes, their
replies to held-out prompts side by side, the settings in which they differ, and where their time went.
Runs at work can be shown. With --json, one object says what was written: path, runs, sections.")]
pub struct Report {
    /// Run directories, as distill writes them
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
    /// The page to write
    #[arg(long, value_name = "FILE.html", default_value = "report.html")]
    pub out: PathBuf,
    /// The teacher's replies, lines of generate --json, shown beside the students' to the same prompts
    #[arg(long, value_name = "FILE.jsonl")]
    pub teacher_samples: Option<PathBuf>,
}

/// `retort import`.
#[derive(Debug, Args)]
#[command(
    long_about = "A Hugging Face folder from a GGUF file: weights, config, tokenizer and chat template.

Reads F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 and Q2_K to Q6_K of the llama, mistral, qwen2, qwen3
and gpt2 families. Writes float32 unless --dtype says bf16 or f16. The folder appears whole or not at
all."
)]
pub struct Import {
    /// The file
    #[arg(value_name = "MODEL.gguf")]
    pub gguf: PathBuf,
    /// The folder to write, which must not be there yet
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// `retort completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Shells that completions are made for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Shell {
    /// bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
    /// elvish
    Elvish,
    /// PowerShell
    Powershell,
}
