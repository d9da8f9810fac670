//! `--metrics judge`: replies beside references, rated by another model.

use std::sync::Arc;

use serde_json::json;

use super::args::JudgeArgs;
use super::given::Texts;
use super::measure::Replies;
use super::{Found, Metric};
use crate::cli::args::Common;
use crate::cli::progress::Progress;
use crate::error::{Error, Result};
use crate::eval::judge::{Asker, Case, Kept, judge};

/// Refuses a judge that this binary, or these arguments, do not have.
pub(super) fn check(args: &JudgeArgs) -> Result<()> {
    if cfg!(not(feature = "judge")) {
        return Err(not_built_in());
    }
    let missing = [
        ("--judge-url", args.judge_url.is_none()),
        ("--judge-model", args.judge_model.is_none()),
        ("--judge-answers", args.judge_answers.is_none()),
    ];
    match missing.iter().find(|(_, missing)| *missing) {
        Some((name, _)) => {
            Err(Error::user("a metric needs more").field("judge").expected(name).found("none"))
        }
        None => Ok(()),
    }
}

fn not_built_in() -> Error {
    Error::user("this binary has no judge")
        .field("judge")
        .advice("build it in: cargo build --release --features judge")
}

/// What the judge makes of the replies.
pub(super) fn measure(args: &JudgeArgs, common: &Common, replies: &Replies, texts: &Texts) -> Result<Found> {
    check(args)?;
    let (Some(url), Some(model), Some(file)) = (&args.judge_url, &args.judge_model, &args.judge_answers)
    else {
        return Err(Error::bug("a judge that is nowhere"));
    };
    let ask = asker(args, url, model)?;
    let case = |row: usize| Case {
        question: texts.asked[row].clone().unwrap_or_default(),
        gold: texts.references[row].first().cloned().unwrap_or_default(),
        replies: replies.seeds.iter().map(|answers| answers[row].text.clone()).collect(),
    };
    let cases: Vec<Case> = (0..texts.asked.len()).map(case).collect();
    let mut kept = Kept::open(file, model)?;
    let all = 2 * replies.seeds.len() * cases.len();
    let mut progress = Progress::new("answers of the judge", all, common.quiet);
    let found = judge(&cases, &mut kept, &ask, usize::from(args.judge_at_once), &mut |n| progress.add(n))?;
    if found.unreadable > 0 {
        tracing::warn!(
            "{} of the judge's {} answers are not two numbers from 1 to 10: what they are about is left out",
            found.unreadable,
            found.asked + found.kept
        );
    }
    let mut judged = Found::of_rows(Metric::Judge, found.rows, &texts.words())?;
    for (name, count) in [("asked", found.asked), ("kept", found.kept), ("unreadable", found.unreadable)] {
        judged.beside.insert(name.into(), json!(count));
    }
    Ok(judged)
}

#[cfg(not(feature = "judge"))]
fn asker(_: &JudgeArgs, _: &str, _: &str) -> Result<Arc<Asker>> {
    Err(not_built_in())
}

/// The endpoint; its key comes from the environment and goes nowhere else.
#[cfg(feature = "judge")]
fn asker(args: &JudgeArgs, url: &str, model: &str) -> Result<Arc<Asker>> {
    use std::time::Duration;

    use crate::eval::judge::{Endpoint, Patience};

    let patience = Patience {
        timeout: Duration::from_secs(args.judge_timeout as u64),
        retries: args.judge_retries.min(100) as u32,
        pause: Duration::from_millis(500),
    };
    let key = std::env::var("RETORT_JUDGE_KEY").ok().filter(|key| !key.is_empty());
    let endpoint = Endpoint::new(url, model, key, patience)?;
    Ok(Arc::new(move |shown| endpoint.ask(shown)))
}
