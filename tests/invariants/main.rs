//! What must not matter: how rows are batched, where their padding is, whether a cache is used.

#![expect(clippy::unwrap_used, reason = "a test says so by panicking")]

use std::path::PathBuf;

use retort::decode::{Finish, Reply, Request, Sampling, sample};
use retort::model::gap::{Given, gaps};
use retort::model::score::log_probabilities;
use retort::model::{CausalLm, LoadOptions, read_design};
use retort::native::small;

#[path = "../support/sized.rs"]
mod sized;

const CASES: [&str; 20] = [
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
    // In sizes that this machine's own loops take.
    "sized llama",
    "sized mistral",
    "sized gpt2",
    "sized gpt_neox",
];

fn model(case: &str) -> CausalLm {
    if let Some(kind) = case.strip_prefix("sized ") {
        return sized::model(kind);
    }
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(case);
    CausalLm::load(&folder, LoadOptions::default()).unwrap()
}

fn row(length: u32, salt: u32) -> Vec<u32> {
    (0..length).map(|i| (i * i + 7 * i * salt + salt) % 59 + 1).collect()
}

/// With this machine's own loops for few rows, and with libtorch's operations alone.
fn both_ways(work: impl Fn()) {
    work();
    let _barred = small::bar();
    work();
}

fn close(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let worst = a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0f32, f32::max);
    assert!(worst < 1e-4, "{what}: off by {worst:.1e}");
}

fn decode(model: &CausalLm, prompts: &[&[u32]], settings: &Sampling, batch: usize) -> Vec<Reply> {
    retort::decode::replies(model, prompts, settings, batch).unwrap()
}

fn greedy(most: usize) -> Sampling {
    Sampling { greedy: true, max_new_tokens: most, ..Sampling::default() }
}

fn replies(model: &CausalLm, prompts: &[&[u32]], most: usize) -> Vec<Reply> {
    decode(model, prompts, &greedy(most), 32)
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

/// ms-swift#10097, DistillKit#4: logits of all tokens at once fill the memory. Here whole logits would be 915 MiB
/// a model; what is held is a few hundred positions of them.
#[test]
fn a_gap_never_holds_tokens_times_vocabulary() {
    let dir = tempfile::tempdir().unwrap();
    let config = r#"{"model_type": "gpt2", "vocab_size": 30000, "n_embd": 4, "n_head": 1, "n_layer": 1,
        "n_positions": 4000, "tie_word_embeddings": true}"#;
    #[expect(clippy::disallowed_methods, reason = "a test makes its own files")]
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    let model = |seed: u64| {
        let design = read_design(dir.path()).unwrap();
        CausalLm::random(design, seed, tch::Kind::Float, tch::Device::Cpu).unwrap()
    };
    let (teacher, student) = (model(1), model(2));
    let run = |tokens: usize| {
        let ids = row(tokens as u32, 3);
        let given = [Given { ids: &ids, prompt_len: 0 }];
        let found = gaps(&teacher, &student, 30000, &given, &mut |_| Ok(())).unwrap();
        assert_eq!(found[0].tokens, tokens - 1);
        peak_mib()
    };
    let few = run(300);
    let grown = run(4000) - few;
    assert!(grown < 150.0, "the peak grew by {grown} MiB");
    // The mistake: one such tensor, in float32.
    let before = peak_mib();
    let whole = tch::Tensor::ones([4000, 30000], tch::kind::FLOAT_CPU);
    assert!(peak_mib() - before > 250.0, "{} values would not show", whole.numel());
}

/// The process's highest memory so far. Other tests run beside this one; they are small.
fn peak_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with("VmHWM"));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// The log-probabilities that decoding with the cache reports are those of a plain forward pass.
#[test]
fn cached_equals_uncached() {
    both_ways(|| CASES.into_iter().for_each(cached_equals_uncached_in));
}

fn cached_equals_uncached_in(case: &str) {
    let model = model(case);
    let prompts = [row(9, 1), row(3, 2), row(14, 3)];
    let together: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    for (prompt, reply) in together.iter().zip(replies(&model, &together, 12)) {
        let whole: Vec<u32> = prompt.iter().chain(&reply.ids).copied().collect();
        let scores = log_probabilities(&model, &[&whole], &mut |_| Ok(())).unwrap();
        close(&scores[0][prompt.len() - 1..], &reply.logprobs, case);
    }
}

/// A prompt that nearly fills the context takes no room from a short one beside it.
#[test]
fn a_long_neighbour_takes_no_room() {
    both_ways(|| CASES.into_iter().for_each(a_long_neighbour_takes_no_room_in));
}

fn a_long_neighbour_takes_no_room_in(case: &str) {
    let model = model(case);
    let context = model.shape().context as u32;
    let (long, short) = (row(context - 3, 1), row(4, 2));
    let together = replies(&model, &[&long, &short], 20);
    assert_eq!(together[0].ids.len(), 3, "{case}: to the context's end");
    assert_eq!(together[0].finish, Finish::Context);
    assert_eq!(together[0].ids, replies(&model, &[&long], 20)[0].ids, "{case}");
    assert_eq!(together[1].ids, replies(&model, &[&short], 20)[0].ids, "{case}");
}

/// A token that ends replies ends this row and leaves the others as they are.
#[test]
fn a_row_that_ends_changes_no_other() {
    let model = model("llama");
    let prompts = [row(9, 1), row(3, 2), row(14, 3)];
    let together: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let free = replies(&model, &together, 10);
    let stop = free[1].ids[2];
    let settings = Sampling { eos: vec![stop], ..greedy(10) };
    for (reply, free) in decode(&model, &together, &settings, 32).iter().zip(&free) {
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
    let bounded = decode(&model, &[&prompt], &Sampling { vocabulary: bound, ..greedy(10) }, 32);
    assert!(bounded[0].ids.iter().all(|&id| (id as usize) < bound) && bounded[0].ids != free[0].ids);
}

/// Sampled replies: the batch they are in, the order of the rows, how often lanes are refilled and moved
/// together, and whether a prompt's pass is shared must not matter.
#[test]
fn samples_depend_on_their_row_alone() {
    both_ways(|| CASES.into_iter().for_each(samples_depend_on_their_row_alone_in));
}

fn samples_depend_on_their_row_alone_in(case: &str) {
    let model = model(case);
    let rows: Vec<Vec<u32>> = (0..11)
        .map(|n| row([9, 3, 14, 9, 1, 30, 3, 2, 17, 9, 5][n as usize], [1, 2, 3, 1][n as usize % 4]))
        .collect();
    let together: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    // A third of the vocabulary ends a reply, so that lengths differ.
    let settings = Sampling { max_new_tokens: 14, eos: (0..20).collect(), seed: 5, ..Sampling::default() };
    let all = decode(&model, &together, &settings, 32);
    let lengths: std::collections::HashSet<usize> = all.iter().map(|r| r.ids.len()).collect();
    assert!(lengths.len() > 3, "{case}: {lengths:?}");
    for batch in [1, 2, 3, 5] {
        for (one, other) in decode(&model, &together, &settings, batch).iter().zip(&all) {
            assert_eq!((&one.ids, one.finish), (&other.ids, other.finish), "{case}, {batch} at a time");
            close(&one.logprobs, &other.logprobs, case);
        }
    }
    let requests: Vec<Request> = (0..together.len())
        .rev()
        .map(|n| Request { prompt: together[n], row: n as u64, sample: 0 })
        .collect();
    sample(&model, &requests, &settings, 4, &mut |n, reply| {
        assert_eq!(reply.ids, all[together.len() - 1 - n].ids, "{case}, backwards");
        Ok(())
    })
    .unwrap();
}

/// What sampling reports is what a plain forward pass says of the same tokens.
#[test]
fn sampled_scores_equal_uncached_ones() {
    both_ways(|| CASES.into_iter().for_each(sampled_scores_equal_uncached_ones_in));
}

fn sampled_scores_equal_uncached_ones_in(case: &str) {
    let model = model(case);
    let prompts = [row(9, 1), row(9, 1), row(1, 2), row(14, 3)];
    let together: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let settings = Sampling { max_new_tokens: 12, temperature: 0.7, top_k: 20, ..Sampling::default() };
    for (prompt, reply) in together.iter().zip(decode(&model, &together, &settings, 3)) {
        let whole: Vec<u32> = prompt.iter().chain(&reply.ids).copied().collect();
        let scores = log_probabilities(&model, &[&whole], &mut |_| Ok(())).unwrap();
        close(&scores[0][prompt.len() - 1..], &reply.logprobs, case);
    }
}
