//! Exposure bias against sums written out from its definition, and against all replies of two tokens.

use retort::decode::{Sampling, replies};
use retort::eval::exposure::{Pair, Settings, exposure};
use retort::model::{CausalLm, Padding};
use tch::{Kind, Tensor};

use crate::sized::model;

/// Of 72 outputs the tokenizer would have so many.
const VOCABULARY: i64 = 70;

fn settings(max_new_tokens: usize, seeds: &[u64]) -> Settings {
    let eos: Vec<u32> = (0..12).collect();
    let sampling = Sampling { max_new_tokens, eos, vocabulary: VOCABULARY as usize, ..Sampling::default() };
    Settings { sampling, seeds: seeds.to_vec(), batch: 4, lmops: false }
}

/// log p of every token behind these, at every position.
fn log_probabilities(model: &CausalLm, ids: &[u32]) -> Tensor {
    let _off = tch::no_grad_guard();
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let hidden = model.hidden(&Tensor::from_slice(&ids).unsqueeze(0), &Padding::Right).unwrap();
    let logits = model.logits(&hidden).unwrap().squeeze_dim(0).narrow(1, 0, VOCABULARY);
    logits.to_kind(Kind::Double).log_softmax(-1, Kind::Double)
}

/// KL(teacher || student) at every position.
fn kls(teacher: &CausalLm, student: &CausalLm, ids: &[u32]) -> Vec<f64> {
    let (p, q) = (log_probabilities(teacher, ids), log_probabilities(student, ids));
    Vec::try_from((p.exp() * (&p - q)).sum_dim_intlist(-1, false, Kind::Double)).unwrap()
}

fn prompts() -> Vec<Vec<u32>> {
    (0..7u32).map(|n| (0..2 + n % 4).map(|i| 13 + (11 * i + 5 * n) % 50).collect()).collect()
}

#[test]
fn curves_equal_sums_by_hand() {
    let (student, teacher) = (model("llama"), model("gpt2"));
    let prompts = prompts();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let pair = Pair { student: &student, teacher: &teacher, vocabulary: VOCABULARY as usize };
    for lmops in [false, true] {
        let settings = Settings { lmops, ..settings(6, &[3, 4]) };
        let found = exposure(pair, &prompts, &settings, &mut || ()).unwrap();
        assert_eq!(found.iter().map(|p| p.l).collect::<Vec<_>>(), [1, 2, 4, 6]);
        let mut ended = 0;
        for point in &found {
            let mut sums = [0.0; 2];
            for (sum, model) in sums.iter_mut().zip([&student, &teacher]) {
                for seed in [3, 4] {
                    let ban = if lmops { 6 } else { 0 };
                    let sampling = Sampling { seed, no_repeat_ngram: ban, ..settings.sampling.clone() };
                    for (prompt, reply) in prompts.iter().zip(replies(model, &prompts, &sampling, 3).unwrap())
                    {
                        let whole: Vec<u32> = prompt.iter().chain(&reply.ids).copied().collect();
                        let kls = kls(&teacher, &student, &whole);
                        let own = &kls[prompt.len() - 1..whole.len() - 1];
                        let end = reply.ids.last().is_some_and(|&id| id < 12);
                        ended += usize::from(end);
                        let range = match lmops {
                            true => 1..own.len() - usize::from(end),
                            false => 0..own.len(),
                        };
                        *sum += range.filter(|t| *t < point.l).map(|t| own[t]).sum::<f64>();
                    }
                }
            }
            let [r, e] = sums;
            let expected = if point.l == 1 && lmops { 0.0 } else { 100.0 * (r - e) / e };
            assert!(
                (point.error.mean - expected).abs() < 1e-2,
                "l {}: {expected}, {:?}",
                point.l,
                point.error
            );
            assert!(point.l > 1 || point.error.mean.abs() < 1e-2, "nothing was said before the first token");
        }
        assert!(ended > 0, "no reply ended");
        assert_eq!(found[3].error.n, prompts.len());
    }
}

/// The expectation over all first tokens, with its interval: the samples are drawn from each model's own
/// distribution, and nothing follows an end.
#[test]
fn two_tokens_equal_their_enumeration() {
    let (student, teacher) = (model("llama"), model("gpt2"));
    let prompt: &[u32] = &[20, 31, 44];
    let vocabulary = VOCABULARY as usize;
    let first = kls(&teacher, &student, prompt)[prompt.len() - 1];
    let expected = |model: &CausalLm| {
        let p: Vec<f64> =
            Vec::try_from(log_probabilities(model, prompt).select(0, prompt.len() as i64 - 1).exp()).unwrap();
        let second = |v: u32| kls(&teacher, &student, &[prompt, &[v]].concat())[prompt.len()];
        first + (12..VOCABULARY as u32).map(|v| p[v as usize] * second(v)).sum::<f64>()
    };
    let (r, e) = (expected(&student), expected(&teacher));
    let exact = 100.0 * (r - e) / e;
    assert!(exact.abs() > 3.0, "{exact}");
    let settings = Settings { batch: 64, ..settings(2, &[1]) };
    let prompts = vec![prompt; 600];
    let pair = Pair { student: &student, teacher: &teacher, vocabulary };
    let found = exposure(pair, &prompts, &settings, &mut || ()).unwrap();
    let error = found.last().unwrap().error;
    // Four standard errors; the interval is 1.96 to either side.
    let within = 4.0 / 1.96 * (error.high - error.low) / 2.0;
    assert!((error.mean - exact).abs() < within, "{exact}, found {error:?}");
    assert!(within < 2.0 * exact.abs(), "too wide to tell: {error:?}");
}

#[test]
fn a_student_that_is_its_teacher_has_none() {
    let model = model("qwen2");
    let prompts = prompts();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let pair = Pair { student: &model, teacher: &model, vocabulary: VOCABULARY as usize };
    for point in exposure(pair, &prompts, &settings(5, &[1]), &mut || ()).unwrap() {
        assert_eq!((point.error.mean, point.error.low, point.error.high), (0.0, 0.0, 0.0));
    }
}
