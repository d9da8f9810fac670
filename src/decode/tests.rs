//! Steps as a GPU records them against steps as they are, and draws by tensor operations against the walk.

use std::path::PathBuf;

use tch::{Kind, Tensor};

use super::distribution::{Distribution, draw};
use super::mixed::sample_mixed_as;
use super::plain::sample_as;
use super::recorded::How;
use super::rules::Rules;
use super::*;
use crate::model::{CausalLm, LoadOptions};

fn model(case: &str) -> CausalLm {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(case);
    CausalLm::load(&folder, LoadOptions::default()).unwrap()
}

fn prompts() -> Vec<Vec<u32>> {
    (0..13u32).map(|n| (0..1 + n % 5).map(|i| (7 * i + n) % 59 + 1).collect()).collect()
}

fn requests(prompts: &[Vec<u32>]) -> Vec<Request<'_>> {
    prompts.iter().zip(0..).map(|(prompt, row)| Request { prompt, row, sample: 0 }).collect()
}

fn settings() -> Sampling {
    Sampling { max_new_tokens: 25, eos: (0..6).collect(), seed: 3, vocabulary: 60, ..Sampling::default() }
}

/// With free rows, masked keys and several lengths of them.
#[test]
fn steps_that_could_be_recorded_draw_the_same() {
    let prompts = prompts();
    let requests = requests(&prompts);
    for case in ["gpt2", "llama3", "qwen2-window", "opt-post", "gpt_neox"] {
        let model = model(case);
        let min = Sampling { min_new_tokens: 4, temperature: 0.7, top_k: 30, ..settings() };
        let cut = Sampling { top_p: 0.8, ..settings() };
        for (settings, batch) in [(&settings(), 11), (&settings(), 3), (&min, 13), (&cut, 13)] {
            let replies = |how| {
                let mut all = vec![Vec::new(); requests.len()];
                sample_as(&model, &requests, (settings, batch), how, &mut |n, reply| {
                    all[n] = reply.ids;
                    Ok(())
                })
                .unwrap();
                all
            };
            assert_eq!(replies(How::Still), replies(How::Fitted), "{case}, {batch}");
        }
    }
}

#[test]
fn mixed_steps_that_could_be_recorded_draw_the_same() {
    let prompts = prompts();
    let requests = requests(&prompts);
    let (student, teacher) = (model("llama3"), model("qwen2-window"));
    for form in [Form::Lockstep, Form::COINS] {
        for batch in [3, 11] {
            let replies = |how| {
                let mixture = Mixture { teacher: &teacher, alpha: 0.3, form, scores: true, states: true };
                let mut all = vec![(Vec::new(), Vec::new()); requests.len()];
                sample_mixed_as(
                    &student,
                    mixture,
                    &requests,
                    (&settings(), batch),
                    [how; 2],
                    &mut |n, reply| {
                        let states = reply.teacher.and_then(|heard| heard.states).unwrap();
                        let sums =
                            Vec::<f32>::try_from(states.sum_dim_intlist(1, false, Kind::Float)).unwrap();
                        all[n] = (reply.ids, sums);
                        Ok(())
                    },
                )
                .unwrap();
                all
            };
            for ((ids, states), (same, near)) in replies(How::Still).iter().zip(&replies(How::Fitted)) {
                assert_eq!(ids, same, "{form:?}, {batch}");
                assert!(states.iter().zip(near).all(|(a, b)| (a - b).abs() < 1e-4), "{form:?}, {batch}");
            }
        }
    }
}

fn logits(rows: i64, width: i64, spread: f64) -> Tensor {
    let x: Vec<f32> = (0..rows * width)
        .map(|i| (spread * (crate::seed::uniform(5, crate::seed::Stream::Noise, 0, i as u64) - 0.5)) as f32)
        .collect();
    Tensor::from_slice(&x).view([rows, width])
}

/// What a GPU computes by tensor operations alone is what the host finds: draws, of one model and of two with filters,
/// best tokens and log-probabilities.
#[test]
fn a_devices_operations_draw_what_the_host_draws() {
    let rows = 64;
    let u: Vec<f64> =
        (0..rows).map(|i| crate::seed::uniform(9, crate::seed::Stream::Sample, 0, i as u64)).collect();
    let u = Tensor::from_slice(&u);
    let settings = Sampling { top_k: 30, top_p: 0.9, vocabulary: 300, ..Sampling::default() };
    for s in [Sampling::default(), settings] {
        let of = |raw: &Tensor| Distribution::of(raw, &s, &Rules::default()).unwrap();
        let (p, q) = (logits(rows, 300, 9.0), logits(rows, 300, 4.0).flip([1]));
        let host = [of(&p), of(&q)];
        let device = [of(&p).with_device_totals().unwrap(), of(&q).with_device_totals().unwrap()];
        for weights in [[1.0, 0.0], [0.3, 0.7]] {
            let drawn = |of: &[Distribution; 2]| {
                let both = [(&of[0], weights[0]), (&of[1], weights[1])];
                let parts = if weights[1] > 0.0 { &both[..] } else { &both[..1] };
                draw(parts, &u).unwrap()
            };
            let (a, b) = (drawn(&host), drawn(&device));
            assert_eq!(Vec::<i64>::try_from(&a).unwrap(), Vec::<i64>::try_from(&b).unwrap());
            assert!(a.unique_dim(0, true, false, false).0.size()[0] > 10, "they are not all the same");
            let (a, b) = (host[0].score(&a).unwrap(), device[0].score(&b).unwrap());
            for (a, b) in [(a.own_b, b.own_b), (a.drawn_b, b.drawn_b)] {
                let finite = a.isfinite();
                let off = (&a - &b).masked_select(&finite).abs().max().double_value(&[]);
                assert!(off < 1e-5 && finite.equal(&b.isfinite()), "{off}");
            }
        }
        let best = |d: &Distribution| Vec::<i64>::try_from(d.most_probable().unwrap()).unwrap();
        assert_eq!(best(&host[0]), best(&device[0]));
    }
}

/// A filter that keeps everything, on a padded vocabulary and several rows.
#[test]
fn filters_that_keep_everything_change_nothing() {
    let raw = logits(3, 50, 4.0);
    let u = Tensor::from_slice(&[0.2f64, 0.5, 0.9]);
    let ids = |s: &Sampling| {
        let all = Distribution::of(&raw, s, &Rules::default()).unwrap();
        Vec::<i64>::try_from(draw(&[(&all, 1.0)], &u).unwrap()).unwrap()
    };
    let plain = Sampling { vocabulary: 40, ..Sampling::default() };
    for top_k in [40, 41, 50, 1000] {
        assert_eq!(ids(&Sampling { top_k, ..plain.clone() }), ids(&plain), "{top_k}");
    }
}

/// Above a thousand tokens the nucleus looks at candidates before it sorts: it keeps what sorting keeps.
#[test]
fn a_large_vocabularys_nucleus_is_the_one_that_sorting_finds() {
    for (spread, share) in [(30.0, 0.6), (14.0, 0.95), (2.0, 0.5), (60.0, 0.999)] {
        let raw = logits(4, 3000, spread);
        let settings = Sampling { top_p: share, ..Sampling::default() };
        let all = Distribution::of(&raw, &settings, &Rules::default()).unwrap();
        let p = raw.softmax(-1, Kind::Double);
        let (sorted, order) = p.sort(-1, true);
        let before = sorted.cumsum(-1, Kind::Double) - &sorted;
        let kept = before.lt(share).to_kind(Kind::Float);
        let kept = kept.zeros_like().scatter(1, &order, &kept);
        for row in 0..4 {
            for (u, place) in [(0.001, 0), (0.35, 1), (0.7, 2), (0.999, 3)] {
                let ids = draw(&[(&all, 1.0)], &Tensor::from_slice(&[u; 4])).unwrap();
                assert_eq!(kept.double_value(&[row, ids.int64_value(&[row])]), 1.0, "{spread}, {place}");
            }
            // Everything that is kept has its share: the log-probability of each is that of the cut law.
            let total: f64 = (p.get(row) * kept.get(row)).sum(Kind::Double).double_value(&[]);
            let most = p.get(row).argmax(None, false).int64_value(&[]);
            let scored = all.score(&Tensor::from_slice(&[most; 4])).unwrap();
            let want = (p.double_value(&[row, most]) / total).ln();
            assert!((scored.drawn_b.double_value(&[row]) - want).abs() < 1e-4, "{spread}, {share}");
        }
    }
}

/// What was said and answered is not computed again: only the last token, which was never fed, and what is new.
#[test]
fn a_dialogue_keeps_what_was_said() {
    let model = model("llama3");
    let mut dialogue = Dialogue::new(&model).unwrap();
    let settings = Sampling { greedy: true, max_new_tokens: 5, ..Sampling::default() };
    let mut said = vec![5, 9, 2];
    assert_eq!(dialogue.known(&said), 0);
    said.extend(dialogue.reply(&said, &settings, &mut |_| Ok(true)).unwrap().ids);
    let held = said.len() - 1;
    said.extend([7, 11]);
    assert_eq!(dialogue.known(&said), held);
    assert_eq!(dialogue.known(&[5, 9, 4, 1]), 2);
}
