//! Arguments of `eval` about a second model and about a judge.

use std::path::PathBuf;

use clap::Args;

use crate::config::numbers::{at_least_one, at_least_zero};

/// What else there is to compare with.
#[derive(Debug, Args)]
pub struct More {
    /// Compare with another model, sampled with the same seeds, or with replies of a file
    #[arg(long, value_name = "MODEL|FILE.jsonl")]
    pub against: Option<String>,
    /// Measure exposure as the reference code of MiniLLM does
    #[arg(long)]
    pub lmops: bool,
    /// The judge.
    #[command(flatten)]
    pub judge: JudgeArgs,
}

/// The judge of `--metrics judge`, behind an OpenAI-compatible chat endpoint.
#[derive(Debug, Args)]
#[command(next_help_heading = "Judge (in binaries built with --features judge)")]
pub struct JudgeArgs {
    /// Where it is asked, as https://host/v1; its key, if it needs one, is read from RETORT_JUDGE_KEY
    #[arg(long, value_name = "URL")]
    pub judge_url: Option<String>,
    /// The model that judges
    #[arg(long, value_name = "NAME")]
    pub judge_model: Option<String>,
    /// Where its answers are kept; what stands there is not asked again
    #[arg(long, value_name = "FILE.jsonl")]
    pub judge_answers: Option<PathBuf>,
    /// Seconds that an answer is waited for
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = at_least_one)]
    pub judge_timeout: usize,
    /// How often a question is asked again after 429, 5xx or a time-out
    #[arg(long, default_value = "5", value_name = "N", value_parser = at_least_zero)]
    pub judge_retries: usize,
    /// Questions that are asked at once
    #[arg(long, default_value = "4", value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub judge_at_once: u8,
}
