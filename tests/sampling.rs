//! What is drawn, against exact distributions: chi-square tests of tokens by the thousand, plain and
//! mixed in every form, with every filter; and what is reported of them, against plain forward passes.

#![expect(clippy::unwrap_used, reason = "a test says so by panicking")]

use std::path::PathBuf;

use retort::decode::{
    Effort, Form, Mixture, Reply, Request, Sampling, Scores, replies, sample, sample_mixed,
};
use retort::model::score::log_probabilities;
use retort::model::{CausalLm, LoadOptions, Padding};
use tch::{Kind, Tensor};

const LOCKSTEP: Form = Form::Lockstep;
const FORMS: [Form; 5] = [
    LOCKSTEP,
    Form::COINS,
    Form::Coins { shared: false, patience: 0.0 },
    Form::Coins { shared: false, patience: 1.0 },
    Form::Coins { shared: true, patience: 0.0 },
];
/// Of the parity fixtures: two models with the same vocabulary.
const STUDENT: &str = "llama3";
const TEACHER: &str = "qwen3-window";

fn model(case: &str) -> CausalLm {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(case);
    CausalLm::load(&folder, LoadOptions::default()).unwrap()
}

/// Logits behind each of these sequences, over the first `v` ids, in float64.
fn logits(model: &CausalLm, sequences: &[Vec<u32>], v: usize) -> Vec<Vec<f64>> {
    let _off = tch::no_grad_guard();
    let ids: Vec<i64> = sequences.iter().flatten().map(|&id| i64::from(id)).collect();
    let ids_bt = Tensor::from_slice(&ids).view([sequences.len() as i64, -1]);
    let hidden = model.hidden(&ids_bt, &Padding::Right).unwrap().select(1, -1);
    let logits = model.logits(&hidden).unwrap().narrow(1, 0, v as i64);
    Vec::try_from(logits.to_kind(Kind::Double)).unwrap()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = logits.iter().map(|x| (x - top).exp()).collect();
    let total: f64 = e.iter().sum();
    e.iter().map(|x| x / total).collect()
}

/// The filtered distribution, by its definition.
fn filtered(logits: &[f64], s: &Sampling, before: &[u32], new: usize) -> Vec<f64> {
    let mut x = logits.to_vec();
    if new < s.min_new_tokens {
        s.eos.iter().for_each(|&id| x[id as usize] = f64::NEG_INFINITY);
    }
    if s.no_repeat_ngram == 2 {
        for pair in before.windows(2).filter(|pair| pair[0] == *before.last().unwrap()) {
            x[pair[1] as usize] = f64::NEG_INFINITY;
        }
    }
    x.iter_mut().for_each(|x| *x /= s.temperature);
    if s.top_k > 0 {
        let mut sorted = x.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        x.iter_mut().filter(|x| **x < sorted[s.top_k - 1]).for_each(|x| *x = f64::NEG_INFINITY);
    }
    if s.top_p < 1.0 {
        let p = softmax(&x);
        let mut order: Vec<usize> = (0..x.len()).collect();
        order.sort_by(|&a, &b| p[b].total_cmp(&p[a]).then(a.cmp(&b)));
        let mut before = 0.0;
        for id in order {
            if before >= s.top_p {
                x[id] = f64::NEG_INFINITY;
            }
            before += p[id];
        }
    }
    softmax(&x)
}

/// The marginals of the first and of the second token of a reply. A reply that ended has no second.
fn marginals(models: &[(&CausalLm, f64)], prompt: &[u32], s: &Sampling, v: usize) -> [Vec<f64>; 2] {
    let step = |sequences: &[Vec<u32>], new: usize| -> Vec<Vec<f64>> {
        let mut mixed = vec![vec![0.0; v]; sequences.len()];
        for (model, weight) in models {
            for ((row, logits), before) in mixed.iter_mut().zip(logits(model, sequences, v)).zip(sequences) {
                let p = filtered(&logits, s, before, new);
                row.iter_mut().zip(p).for_each(|(m, p)| *m += weight * p);
            }
        }
        mixed
    };
    let first = step(&[prompt.to_vec()], 0).remove(0);
    let sequences: Vec<Vec<u32>> =
        (0..v as u32).map(|id| prompt.iter().copied().chain([id]).collect()).collect();
    let mut second = vec![0.0; v];
    for (id, row) in step(&sequences, 1).iter().enumerate() {
        if !s.eos.contains(&(id as u32)) {
            second.iter_mut().zip(row).for_each(|(sum, p)| *sum += first[id] * p);
        }
    }
    [first, second]
}

/// How far counts are from a distribution, as a normal deviate (Wilson and Hilferty's for chi-square);
/// tokens that are expected less than five times count together.
fn deviate(counts: &[usize], p: &[f64]) -> f64 {
    let n = counts.iter().sum::<usize>() as f64;
    let total: f64 = p.iter().sum();
    let (mut chi, mut bins, mut rare) = (0.0, 0.0, (0.0, 0.0));
    for (&count, p) in counts.iter().zip(p) {
        let expected = n * p / total;
        if expected < 5.0 {
            rare = (rare.0 + count as f64, rare.1 + expected);
        } else {
            chi += (count as f64 - expected).powi(2) / expected;
            bins += 1.0;
        }
    }
    if rare.1 > 0.0 {
        chi += (rare.0 - rare.1).powi(2) / rare.1;
        bins += 1.0;
    }
    let k: f64 = bins - 1.0;
    assert!(k >= 1.0, "a distribution of {bins} bins tests nothing: {p:.4?}");
    ((chi / k).cbrt() - (1.0 - 2.0 / (9.0 * k))) / (2.0 / (9.0 * k)).sqrt()
}

/// Counts of the first and of the second tokens.
fn counts(replies: &[Reply], v: usize) -> [Vec<usize>; 2] {
    let mut counts = [vec![0; v], vec![0; v]];
    for reply in replies {
        for (count, &id) in counts.iter_mut().zip(&reply.ids) {
            count[id as usize] += 1;
        }
    }
    counts
}

fn requests(prompt: &[u32], n: usize) -> Vec<Request<'_>> {
    (0..n).map(|i| Request { prompt, row: i as u64 / 7, sample: (i % 7) as u32 }).collect()
}

fn mix(
    (student, teacher): (&CausalLm, &CausalLm),
    form: Form,
    alpha: f64,
    requests: &[Request<'_>],
    s: &Sampling,
    batch: usize,
) -> (Vec<Reply>, Effort) {
    let mixture = Mixture { teacher, alpha, form, scores: true, states: true };
    let mut all: Vec<Option<Reply>> = requests.iter().map(|_| None).collect();
    let effort = sample_mixed(student, mixture, requests, s, batch, &mut |n, reply| {
        assert!(all[n].replace(reply).is_none());
        Ok(())
    })
    .unwrap();
    (all.into_iter().map(Option::unwrap).collect(), effort)
}

const N: usize = 3000;
/// A deviate that one draw of 30,000 passes by chance. The seeds are fixed: a test that passes goes on.
const FAR: f64 = 4.0;

fn settings() -> Sampling {
    Sampling { max_new_tokens: 2, eos: vec![3, 11], vocabulary: 40, seed: 9, ..Sampling::default() }
}

fn every_filter() -> Vec<(&'static str, Sampling)> {
    let s = settings;
    vec![
        ("plain", s()),
        ("temperature", Sampling { temperature: 3.0, ..s() }),
        ("top-k", Sampling { top_k: 6, temperature: 4.0, ..s() }),
        ("top-p", Sampling { top_p: 0.6, temperature: 4.0, ..s() }),
        ("all", Sampling { top_k: 20, top_p: 0.8, temperature: 4.0, min_new_tokens: 1, ..s() }),
        ("min-new", Sampling { min_new_tokens: 2, temperature: 4.0, ..s() }),
        ("n-grams", Sampling { no_repeat_ngram: 2, temperature: 4.0, ..s() }),
    ]
}

#[test]
fn plain_draws_follow_their_distribution() {
    let model = model(STUDENT);
    let prompt = [5, 9, 2, 5, 30, 9, 5];
    for (what, s) in every_filter() {
        let mut got = Vec::new();
        sample(&model, &requests(&prompt, N), &s, 256, &mut |_, reply| {
            got.push(reply);
            Ok(())
        })
        .unwrap();
        let exact = marginals(&[(&model, 1.0)], &prompt, &s, 40);
        for (place, (counts, p)) in counts(&got, 40).iter().zip(&exact).enumerate() {
            let far = deviate(counts, p);
            assert!(far < FAR, "{what}, token {place}: {far:.1}");
            let banned = counts.iter().zip(p).find(|(count, p)| **count > 0 && **p == 0.0);
            assert!(banned.is_none(), "{what}, token {place}");
        }
    }
}

#[test]
fn mixed_draws_follow_their_distribution() {
    let (student, teacher) = (model(STUDENT), model(TEACHER));
    let prompt = [5, 9, 2, 5, 30, 9, 5];
    for (what, s) in every_filter() {
        let exact = marginals(&[(&teacher, 0.3), (&student, 0.7)], &prompt, &s, 40);
        let all = ["plain", "all", "n-grams"].contains(&what);
        for form in FORMS.into_iter().take(if all { 5 } else { 2 }) {
            // Shared coins tie the rows of a batch together, so their counts would spread wider.
            let (n, batch) = if form == FORMS[4] { (N / 3, 1) } else { (N, 256) };
            let (got, _) = mix((&student, &teacher), form, 0.3, &requests(&prompt, n), &s, batch);
            for (place, (counts, p)) in counts(&got, 40).iter().zip(&exact).enumerate() {
                let far = deviate(counts, p);
                assert!(far < FAR, "{what}, {form:?}, token {place}: {far:.1}");
            }
        }
    }
}

/// Shared coins tie the rows of a batch together; over many batches each row still has its law.
#[test]
fn shared_coins_keep_each_rows_law() {
    let (student, teacher) = (model(STUDENT), model(TEACHER));
    let prompt = [5, 9, 2, 5, 30, 9, 5];
    let exact = marginals(&[(&teacher, 0.3), (&student, 0.7)], &prompt, &settings(), 40);
    // The second of four rows, of one batch a seed.
    let got: Vec<Reply> = (0..N as u64 / 2)
        .map(|seed| {
            let s = Sampling { seed, ..settings() };
            mix((&student, &teacher), FORMS[4], 0.3, &requests(&prompt, 4), &s, 4).0.swap_remove(1)
        })
        .collect();
    for (place, (counts, p)) in counts(&got, 40).iter().zip(&exact).enumerate() {
        let far = deviate(counts, p);
        assert!(far < FAR, "token {place}: {far:.1}");
    }
}

/// These tests would notice: another share, another temperature, a filter too many.
#[test]
fn a_wrong_distribution_is_noticed() {
    let (student, teacher) = (model(STUDENT), model(TEACHER));
    let prompt = [5, 9, 2, 5, 30, 9, 5];
    let s = settings();
    let (got, _) = mix((&student, &teacher), Form::COINS, 0.3, &requests(&prompt, N), &s, 256);
    let counts = counts(&got, 40);
    let wrong = [
        marginals(&[(&teacher, 0.1), (&student, 0.9)], &prompt, &s, 40),
        marginals(&[(&student, 1.0)], &prompt, &s, 40),
        marginals(
            &[(&teacher, 0.3), (&student, 0.7)],
            &prompt,
            &Sampling { temperature: 1.3, ..s.clone() },
            40,
        ),
        marginals(&[(&teacher, 0.3), (&student, 0.7)], &prompt, &Sampling { top_p: 0.8, ..s.clone() }, 40),
    ];
    for (n, exact) in wrong.iter().enumerate() {
        let far = deviate(&counts[0], &exact[0]);
        assert!(far > 1.5 * FAR, "wrong distribution {n} passes: {far:.1}");
    }
}

fn near(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(worst < 1e-4, "{what}: off by {worst:.1e}");
}

fn scores(model: &CausalLm, prompt: &[u32], reply: &[u32]) -> Vec<f32> {
    let whole: Vec<u32> = prompt.iter().chain(reply).copied().collect();
    log_probabilities(model, &[&whole], &mut |_| Ok(())).unwrap().remove(0).split_off(prompt.len() - 1)
}

/// A mixed reply carries the student's, the teacher's and the mixture's log-probability of every token,
/// the weight, and the states that the teacher's logits come from; in every form and batch the same.
#[test]
fn a_mixed_reply_carries_what_training_needs() {
    let models = (model(STUDENT), model(TEACHER));
    let prompts: Vec<Vec<u32>> =
        (1..9u32).map(|n| (0..n * 2 % 7 + 1).map(|i| (i * n + 5) % 40).collect()).collect();
    let requests: Vec<Request> =
        prompts.iter().zip(0..).map(|(prompt, row)| Request { prompt, row, sample: 0 }).collect();
    let s = Sampling {
        max_new_tokens: 17,
        eos: (0..4).collect(),
        seed: 2,
        vocabulary: 80,
        ..Sampling::default()
    };
    for form in FORMS {
        let (all, effort) = mix((&models.0, &models.1), form, 0.3, &requests, &s, 8);
        for (prompt, reply) in prompts.iter().zip(&all) {
            let heard = reply.teacher.as_ref().unwrap();
            near(&reply.logprobs, &scores(&models.0, prompt, &reply.ids), "student");
            near(&heard.logprobs, &scores(&models.1, prompt, &reply.ids), "teacher");
            let mixed: Vec<f32> = reply
                .logprobs
                .iter()
                .zip(&heard.logprobs)
                .map(|(q, p)| (0.3 * p.exp() + 0.7 * q.exp()).ln())
                .collect();
            near(&reply.drawn, &mixed, "mixture");
            assert!(reply.weights().iter().all(|w| *w > 0.0 && *w <= 1.0 / 0.7 + 1e-4));
            let states = heard.states.as_ref().unwrap();
            let rebuilt = models.1.logits(states).unwrap().log_softmax(-1, Kind::Float);
            let ids: Vec<i64> = reply.ids.iter().map(|&id| i64::from(id)).collect();
            let rebuilt = rebuilt.gather(1, &Tensor::from_slice(&ids).unsqueeze(1), false).squeeze_dim(1);
            near(&Vec::<f32>::try_from(rebuilt).unwrap(), &heard.logprobs, "states");
        }
        if form == FORMS[4] {
            continue;
        }
        for batch in [1, 3] {
            let (again, _) = mix((&models.0, &models.1), form, 0.3, &requests, &s, batch);
            assert!(again.iter().zip(&all).all(|(a, b)| a.ids == b.ids), "{form:?}, {batch} at a time");
        }
        if form != LOCKSTEP {
            // The teacher sees every token once.
            let tokens: usize = all.iter().map(|r| r.ids.len()).sum();
            assert_eq!(effort.teacher_tokens, tokens, "{form:?}");
        }
    }
}

/// Waiting changes what the teacher's visits cost, not what is drawn.
#[test]
fn patience_changes_no_draw_and_saves_visits() {
    let models = (model(STUDENT), model(TEACHER));
    let prompt = [5, 9, 2];
    let s = Sampling { max_new_tokens: 24, seed: 4, ..Sampling::default() };
    let run = |form| mix((&models.0, &models.1), form, 0.2, &requests(&prompt, 32), &s, 32);
    let (hasty, often) = run(Form::Coins { shared: false, patience: 0.0 });
    let (patient, seldom) = run(Form::COINS);
    assert!(hasty.iter().zip(&patient).all(|(a, b)| a.ids == b.ids));
    assert!(3 * seldom.teacher_passes < 2 * often.teacher_passes, "{seldom:?} {often:?}");
    let (_, lockstep) = run(LOCKSTEP);
    assert_eq!(lockstep.teacher_passes, 24);
}

/// With a share of nothing the student samples alone, and the teacher only scores; a share of everything
/// leaves the draws to the teacher.
#[test]
fn the_ends_of_the_mixture_are_its_parts() {
    let models = (model(STUDENT), model(TEACHER));
    let prompts: [&[u32]; 3] = [&[5, 9, 2], &[7], &[1, 2, 3, 4, 5, 6]];
    let requests: Vec<Request> =
        prompts.iter().zip(0..).map(|(prompt, row)| Request { prompt, row, sample: 0 }).collect();
    let s = Sampling { max_new_tokens: 9, seed: 4, vocabulary: 40, ..Sampling::default() };
    for (alpha, alone) in [(0.0, &models.0), (1.0, &models.1)] {
        let expected = replies(alone, &prompts, &s, 3).unwrap();
        for form in FORMS {
            let (got, _) = mix((&models.0, &models.1), form, alpha, &requests, &s, 2);
            assert!(got.iter().zip(&expected).all(|(a, b)| a.ids == b.ids), "{form:?} at {alpha}");
        }
    }
}

/// In training a token's own log-probability is over the vocabulary, with the ends of replies barred
/// where they are: what is drawn from, without a teacher or filters.
#[test]
fn scores_of_training_are_those_of_the_draw() {
    let model = model(STUDENT);
    let s = Sampling {
        max_new_tokens: 9,
        min_new_tokens: 4,
        eos: (0..12).collect(),
        vocabulary: 40,
        scores: Scores::Vocabulary,
        ..Sampling::default()
    };
    for reply in replies(&model, &[&[5, 9, 2], &[7]], &s, 2).unwrap() {
        assert_eq!(reply.logprobs, reply.drawn);
        let whole = Sampling { scores: Scores::Whole, ..s.clone() };
        let again = replies(&model, &[&[5, 9, 2], &[7]], &whole, 2).unwrap();
        assert!(again[0].logprobs.iter().zip(&again[0].drawn).all(|(own, drawn)| own < drawn));
        assert!(reply.weights().iter().all(|w| *w == 1.0));
    }
}
