//! What must not matter: how rows are batched, where their padding is, whether a cache is used.

#![expect(clippy::unwrap_used, reason = "a test says so by panicking")]

use std::path::PathBuf;

use retort::decode::{Finish, Limits, Reply, greedy};
use retort::model::score::log_probabilities;
use retort::model::{CausalLm, LoadOptions};

const CASES: [&str; 16] = [
    "gpt2",
    "gpt2-variant",
    "opt-pre",
    "opt-post",
    "opt-nobias",
    "llama",
    "llama-linear",
    "llama3",
    "mistral",
    "mistral-full",
    "qwen2",
    "qwen2-window",
    "qwen3",
    "qwen3-window",
    "gpt_neox",
    "gpt_neox-sequential",
];

fn model(case: &str) -> CausalLm {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(case);
    CausalLm::load(&folder, LoadOptions::default()).unwrap()
}

fn row(length: u32, salt: u32) -> Vec<u32> {
    (0..length).map(|i| (i * i + 7 * i * salt + salt) % 59 + 1).collect()
}

fn close(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let worst = a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0f32, f32::max);
    assert!(worst < 1e-4, "{what}: off by {worst:.1e}");
}

fn replies(model: &CausalLm, prompts: &[&[u32]], most: usize) -> Vec<Reply> {
    greedy(model, prompts, &Limits { max_new_tokens: most, eos: vec![], vocabulary: usize::MAX }).unwrap()
}

#[test]
fn a_row_scores_the_same_in_any_batch() {
    for case in CASES {
        let model = model(case);
        let rows: Vec<Vec<u32>> =
            (0..9).map(|n| row([1, 17, 5, 30, 2, 8, 23, 0, 12][n as usize], n)).collect();
        let together: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let all = log_probabilities(&model, &together, &mut |_| Ok(())).unwrap();
        for (row, scores) in together.iter().zip(&all) {
            let alone = log_probabilities(&model, &[row], &mut |_| Ok(())).unwrap();
            close(scores, &alone[0], case);
            assert_eq!(scores.len(), row.len().saturating_sub(1));
        }
    }
}

/// The log-probabilities that decoding with the cache reports are those of a plain forward pass.
#[test]
fn cached_equals_uncached() {
    for case in CASES {
        let model = model(case);
        let prompts = [row(9, 1), row(3, 2), row(14, 3)];
        let together: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        for (prompt, reply) in together.iter().zip(replies(&model, &together, 12)) {
            let whole: Vec<u32> = prompt.iter().chain(&reply.ids).copied().collect();
            let scores = log_probabilities(&model, &[&whole], &mut |_| Ok(())).unwrap();
            close(&scores[0][prompt.len() - 1..], &reply.logprobs, case);
        }
    }
}

/// A prompt that nearly fills the context takes no room from a short one beside it.
#[test]
fn a_long_neighbour_takes_no_room() {
    for case in CASES {
        let model = model(case);
        let context = model.shape().context as u32;
        let (long, short) = (row(context - 3, 1), row(4, 2));
        let together = replies(&model, &[&long, &short], 20);
        assert_eq!(together[0].ids.len(), 3, "{case}: to the context's end");
        assert_eq!(together[0].finish, Finish::Length);
        assert_eq!(together[0].ids, replies(&model, &[&long], 20)[0].ids, "{case}");
        assert_eq!(together[1].ids, replies(&model, &[&short], 20)[0].ids, "{case}");
    }
}

/// A token that ends replies ends this row and leaves the others as they are.
#[test]
fn a_row_that_ends_changes_no_other() {
    let model = model("llama");
    let prompts = [row(9, 1), row(3, 2), row(14, 3)];
    let together: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let free = replies(&model, &together, 10);
    let stop = free[1].ids[2];
    let limits = Limits { max_new_tokens: 10, eos: vec![stop], vocabulary: usize::MAX };
    for (reply, free) in greedy(&model, &together, &limits).unwrap().iter().zip(&free) {
        let end = free.ids.iter().position(|&id| id == stop).map_or(free.ids.len(), |n| n + 1);
        assert_eq!(reply.ids, free.ids[..end]);
        assert_eq!(
            reply.finish,
            if end < 10 || reply.ids.last() == Some(&stop) { Finish::Eos } else { Finish::Length }
        );
    }
}

/// Ids at or above the tokenizer's size are never chosen.
#[test]
fn padding_rows_of_the_vocabulary_are_never_chosen() {
    let model = model("llama");
    let prompt = row(9, 1);
    let free = replies(&model, &[&prompt], 10);
    let bound = *free[0].ids.iter().max().unwrap() as usize;
    let limits = Limits { max_new_tokens: 10, eos: vec![], vocabulary: bound };
    let bounded = greedy(&model, &[&prompt], &limits).unwrap();
    assert!(bounded[0].ids.iter().all(|&id| (id as usize) < bound) && bounded[0].ids != free[0].ids);
}
