//! The arguments of commands that run models: rows, sampling, and what each command takes beside them.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::eval::Metric;
use crate::config::numbers::{at_least_one, at_least_zero};
use crate::decode::Sampling;
use crate::error::{Error, Result};
use crate::text::TemplateChoice;

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
    pub(in crate::cli) fn need_input(&self) -> Result<&Path> {
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
over float32 masters, and writes final/ in bf16.

Several processes train together with --nproc N on this machine, or under torchrun or srun; the updates are
those of one process. The first writes the run directory, which all must see.")]
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
    /// Train in so many processes on this machine; under torchrun or srun leave it out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub nproc: Option<u16>,
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
  judge         another model's scores of the replies, x 100 over those of the references (--judge-url)
Rows are resampled, what the seeds gave for a row averaged first. Beside a metric of rows stands the same
by words of the reference; with --against the other's, the difference and its p-value. --responses scores
the replies of a file (lines as generate writes them, in the order of --input): of them rouge_l, exact_match,
length and judge need response alone, distinct_4 ids, eos_rate finish.")]
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
    /// What else there is to compare with.
    #[command(flatten)]
    pub more: crate::cli::eval::args::More,
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
    pub(in crate::cli) fn settings(&self) -> Sampling {
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
