//! `--metrics judge`: replies beside references, rated by another model.

use super::Found;
use super::args::JudgeArgs;
use super::given::Texts;
use super::measure::Replies;
use crate::cli::args::Common;
use crate::error::{Error, Result};

/// Where the key of the judge is read from.
#[cfg(feature = "judge")]
const KEY: &str = "RETORT_JUDGE_KEY";

/// Refuses a judge that this binary, or these arguments, do not have.
pub(super) fn check(args: &JudgeArgs) -> Result<()> {
    if cfg!(not(feature = "judge")) {
        return Err(Error::user("this binary has no judge")
            .field("judge")
            .advice("build it in: cargo build --release --features judge"));
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

#[cfg(not(feature = "judge"))]
pub(super) fn measure(args: &JudgeArgs, _: &Common, _: &Replies, _: &Texts) -> Result<Found> {
    check(args)?;
    Err(Error::bug("a judge without its feature"))
}

#[cfg(feature = "judge")]
pub(super) fn measure(args: &JudgeArgs, common: &Common, replies: &Replies, texts: &Texts) -> Result<Found> {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::json;

    use super::Metric;
    use crate::cli::progress::Progress;
    use crate::eval::judge::{Asker, Case, Endpoint, Kept, Patience, Shown, judge};

    check(args)?;
    let (Some(url), Some(model), Some(file)) = (&args.judge_url, &args.judge_model, &args.judge_answers)
    else {
        return Err(Error::bug("a judge that is nowhere"));
    };
    let patience = Patience {
        timeout: Duration::from_secs(args.judge_timeout as u64),
        retries: args.judge_retries.min(100) as u32,
        pause: Duration::from_millis(500),
    };
    let key = std::env::var(KEY).ok().filter(|key| !key.is_empty());
    let endpoint = Endpoint::new(url, model, key, patience)?;
    let case = |row: usize| Case {
        question: texts.asked[row].clone().unwrap_or_default(),
        gold: texts.references[row].first().cloned().unwrap_or_default(),
        replies: replies.seeds.iter().map(|answers| answers[row].text.clone()).collect(),
    };
    let cases: Vec<Case> = (0..texts.asked.len()).map(case).collect();
    let mut kept = Kept::open(file, model)?;
    let ask: Arc<Asker> = Arc::new(move |shown: &Shown| endpoint.ask(shown));
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
