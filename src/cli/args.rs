//! Every argument, with the help that people read.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use super::eval::Metric;
use super::machine::{DeviceChoice, DtypeChoice};
use crate::config::numbers::{at_least_one, at_least_zero};
use crate::decode::Sampling;
use crate::error::{Error, Result};
use crate::native;
use crate::text::TemplateChoice;

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
  retort generate --model MODEL --prompt 'Hello'        a sampled reply; --greedy for the most probable
  retort gap --teacher T --student S --input rows.jsonl how far S is from T on these responses
  retort distill run.toml --out runs/one                train a student
  retort eval --model MODEL --input rows.jsonl --metrics rouge_l,perplexity
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
    /// What a model folder holds, how far a run is, or what a config sets
    Inspect(Inspect),
    /// A Hugging Face folder from a GGUF file
    Import(Import),
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

/// Rows to read.
#[derive(Debug, Args)]
pub struct Rows {
    /// Rows to read, JSON lines
    #[arg(long, value_name = "ROWS.jsonl")]
    pub input: Option<PathBuf>,
    /// How rows become text: auto, chat, alpaca, plain, or the path of a .jinja file
    #[arg(long, default_value = "auto", value_name = "TEMPLATE")]
    pub template: TemplateChoice,
    /// Put bad rows into ROWS.jsonl.rejects.jsonl beside the output and go on
    #[arg(long)]
    pub skip_invalid: bool,
    /// Write the answer here, as JSON lines
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

impl Rows {
    /// The file of rows, which must be there: asked before a model is read in vain.
    pub(super) fn need_input(&self) -> Result<&Path> {
        let none =
            || Error::user("no rows given").expected("--input ROWS.jsonl").advice("name a file with --input");
        let file = self.input.as_deref().ok_or_else(none)?;
        if file.exists() { Ok(file) } else { Err(Error::user("no such file").file(file)) }
    }
}

/// `retort score`.
#[derive(Debug, Args)]
#[command(long_about = "The log-probability of every token of every row.

With --json, a line a row: {\"ids\": [...], \"logprobs\": [null, -1.25, ...]}, where logprobs[i] is
log p(ids[i] | ids[<i]) over the model's whole output, in nats, as transformers computes it.")]
pub struct Score {
    /// The model: a folder, or org/name in the Hugging Face cache
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    /// The rows.
    #[command(flatten)]
    pub rows: Rows,
}

/// `retort generate`.
#[derive(Debug, Args)]
#[command(long_about = "Replies to prompts, in the order of the prompts.

With --json, a line a reply: {\"prompt\", \"response\", \"ids\", \"logprobs\", \"finish\": \"eos\"|\"length\"}.
ids includes the token that ended the reply, response does not.")]
pub struct Generate {
    /// The model: a folder, or org/name in the Hugging Face cache
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    /// A prompt; several may follow
    #[arg(long, value_name = "TEXT", num_args = 1.., allow_negative_numbers = true, required_unless_present = "input", conflicts_with = "input")]
    pub prompt: Vec<String>,
    /// The rows.
    #[command(flatten)]
    pub rows: Rows,
    /// How replies are sampled.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Draw each token from a mixture of the model and this teacher
    #[arg(long, value_name = "MODEL", conflicts_with = "greedy")]
    pub teacher: Option<String>,
    /// The teacher's share of the mixture (0.2 unless told)
    #[arg(long, value_name = "SHARE", requires = "teacher")]
    pub mix: Option<f64>,
    /// Replies to each prompt
    #[arg(long, default_value = "1", value_name = "N", value_parser = at_least_one)]
    pub samples: usize,
    /// Prompts that are decoded together
    #[arg(long, default_value = "32", value_name = "N", value_parser = at_least_one)]
    pub batch: usize,
    /// Prompts as they are, without a template (the same as --template plain)
    #[arg(long, conflicts_with = "template")]
    pub raw: bool,
}

/// `retort distill`.
#[derive(Debug, Args)]
#[command(long_about = "Trains a student as a config says.

The run directory gets config.toml (as run), metrics.jsonl (a line an update), checkpoints/, best/ and
final/ (model folders). Ctrl-C finishes the update, saves it and leaves; --resume goes on from there, also
after a crash. Paths in the config are relative to the working directory. --dtype bf16 computes in bf16
over float32 masters, and writes final/ in bf16.")]
pub struct Distill {
    /// The config
    #[arg(value_name = "CONFIG.toml")]
    pub config: PathBuf,
    /// Sets a key of the config, such as train.lr=1e-4; may be given again
    #[arg(long, value_name = "KEY=VALUE", allow_hyphen_values = true)]
    pub set: Vec<String>,
    /// The run directory (runs/NAME of CONFIG unless told)
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on from the newest checkpoint; begin where there is none
    #[arg(long)]
    pub resume: bool,
    /// Check everything and say what it would take; write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `retort gap`.
#[derive(Debug, Args)]
#[command(long_about = "How far a student is from its teacher on given rows.

With --json, a line a row, then one for all rows, each a mean over response tokens (the end of the
reply included), in nats:
  forward_kl, reverse_kl     KL(teacher || student), KL(student || teacher)
  jsd, tvd                   Jensen-Shannon divergence (beta 0.5), total variation
  nll_teacher, nll_student   minus the log-probability of the row's own token
  top1                       share of tokens at which both find the same one most probable
  tokens                     how many tokens that was (no means where there are none)
Both models are cut to the tokenizer's vocabulary before their softmax.")]
pub struct Gap {
    /// The teacher: a folder, or org/name in the Hugging Face cache
    #[arg(long, value_name = "MODEL")]
    pub teacher: String,
    /// The student, whose template makes text of rows
    #[arg(long, value_name = "MODEL")]
    pub student: String,
    /// The rows.
    #[command(flatten)]
    pub rows: Rows,
}

/// `retort eval`.
#[derive(Debug, Args)]
#[command(long_about = "How good replies are, and a model's probabilities of given ones.

The answer is one object, a key a metric, each {\"mean\", \"low\", \"high\", \"n\"} with a 95 % interval:
  rouge_l       x 100, against the best of a row's references, as rouge_score has it with its stemmer
  exact_match   share of replies that equal a reference, white space around them aside
  distinct_4    distinct over all 4-grams of tokens, pooled over the n replies of a seed
  eos_rate      share of replies that came to their own end
  length        words of a reply
  perplexity    of the rows' responses; with --teacher its own beside it, and the gap in nats a token
  exposure      ExAccErr in percent at the greatest length, and its curve (needs --teacher)
  ece           calibration on rows with choices and answer, over 10 equal bins of confidence
Rows are resampled, what the seeds gave for a row averaged first; of distinct_4 subsamples.
--responses scores the replies of a file (lines as generate writes them, in the order of --input): of them
rouge_l, exact_match and length need response alone, distinct_4 ids, eos_rate finish.")]
pub struct Eval {
    /// The model: a folder, or org/name in the Hugging Face cache
    #[arg(long, value_name = "MODEL", required_unless_present = "responses")]
    pub model: Option<String>,
    /// Its teacher, for exposure and beside its perplexity
    #[arg(long, value_name = "MODEL", requires = "model")]
    pub teacher: Option<String>,
    /// Replies that were made before, JSON lines
    #[arg(long, value_name = "FILE.jsonl", conflicts_with_all = ["model", "seed", "seeds"])]
    pub responses: Option<PathBuf>,
    /// What to measure, with commas between
    #[arg(long, value_name = "LIST", required = true, value_delimiter = ',')]
    pub metrics: Vec<Metric>,
    /// Seeds, a reply to each prompt for each (with --greedy one will do)
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "10,20,30,40,50",
        conflicts_with = "seed"
    )]
    pub seeds: Vec<u64>,
    /// The rows.
    #[command(flatten)]
    pub rows: Rows,
    /// How replies are sampled.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Prompts that are decoded together
    #[arg(long, default_value = "32", value_name = "N", value_parser = at_least_one)]
    pub batch: usize,
    /// Measure exposure as the reference code of MiniLLM does
    #[arg(long)]
    pub lmops: bool,
}

/// `retort chat`.
#[derive(Debug, Args)]
#[command(long_about = "A conversation, line by line: each line of standard input gets a reply.

Replies come token by token; Ctrl-C stops one. What was said stays in the model's cache. /new starts
again. With --json, a line a reply, as generate gives it.")]
pub struct Chat {
    /// The model: a folder, or org/name in the Hugging Face cache
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    /// How turns become text: auto, chat, alpaca, plain, or the path of a .jinja file
    #[arg(long, default_value = "auto", value_name = "TEMPLATE")]
    pub template: TemplateChoice,
    /// How replies are sampled.
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// How replies are sampled.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// The most tokens of a reply
    #[arg(long, default_value = "256", value_name = "N", value_parser = at_least_one)]
    pub max_new_tokens: usize,
    /// No reply ends before it has so many tokens
    #[arg(long, default_value = "0", value_name = "N", value_parser = at_least_zero)]
    pub min_new_tokens: usize,
    /// Divides the logits: below 1 the likely gets likelier
    #[arg(long, default_value = "1", value_name = "T")]
    pub temperature: f64,
    /// Only the N most probable tokens (0: all)
    #[arg(long, default_value = "0", value_name = "N", value_parser = at_least_zero)]
    pub top_k: usize,
    /// Only the most probable tokens that together reach this share
    #[arg(long, default_value = "1", value_name = "P")]
    pub top_p: f64,
    /// No N tokens in a row occur twice, the prompt's included (0: no such rule)
    #[arg(long, default_value = "0", value_name = "N", value_parser = at_least_zero)]
    pub no_repeat_ngram: usize,
    /// The most probable token each time; temperature, top-k and top-p do nothing then
    #[arg(long)]
    pub greedy: bool,
    /// What every draw depends on, beside its row and position (0 unless told)
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

impl SamplingArgs {
    /// The settings, without what depends on the model.
    pub(super) fn settings(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            no_repeat_ngram: self.no_repeat_ngram,
            greedy: self.greedy,
            max_new_tokens: self.max_new_tokens,
            min_new_tokens: self.min_new_tokens,
            seed: self.seed.unwrap_or(0),
            ..Sampling::default()
        }
    }
}

/// `retort inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// A model (a folder, or org/name in the Hugging Face cache), a run directory, or a config (.toml), whose
    /// settings -v explains
    #[arg(value_name = "MODEL|RUN|CONFIG.toml")]
    pub what: String,
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
