//! What the gradients of sampled replies estimate: on a vocabulary of 3 and replies of at most 3 tokens, every
//! reply can be listed, and the gradient of the sequence KL is known.

use serde_json::json;
use tch::{Device, Kind, Tensor};

use super::super::setup::Material;
use super::super::teacher::Teacher;
use super::super::update::Updater;
use super::super::work::{Work, rollouts};
use super::{fixture, flat, wide};
use crate::checkpoint::ModelFiles;
use crate::data::sampler::Cut;
use crate::decode::{Sampling, Scores};
use crate::model::{CausalLm, Padding, read_config};
use crate::rollout::{Collector, Experience, Prompt};
use crate::text::Tokenizer;

const LONGEST: usize = 3;
const EOS: u32 = 0;
const PROMPT: [u32; 2] = [2, 1];
/// Gradients, and replies behind each.
const GRADIENTS: u64 = 160;
const REPLIES: u64 = 64;

/// Two small models over three tokens.
struct Toy {
    dir: tempfile::TempDir,
    material: Material,
}

impl Toy {
    #[expect(clippy::disallowed_methods, reason = "a test makes its own files")]
    fn new() -> Toy {
        let dir = tempfile::tempdir().unwrap();
        let config = json!({
            "model_type": "llama", "hidden_act": "silu", "hidden_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 8, "vocab_size": 3,
            "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
        });
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let file = dir.path().join("config.json");
        let model = |seed: u64| {
            let model =
                CausalLm::random(read_config(&file).unwrap(), seed, Kind::Float, Device::Cpu).unwrap();
            let _off = tch::no_grad_guard();
            // As they begin, both say nearly the same of everything.
            let _sharper = model.head().weight_vd.shallow_clone().g_mul_scalar_(40.0);
            model
        };
        let folder = fixture("score/llama");
        let material = Material {
            student: model(3),
            teacher: Some(Teacher::at_hand(model(11), folder.clone())),
            tokenizer: Tokenizer::load(&folder).unwrap(),
            eos: vec![EOS],
            vocabulary: 3,
            context: 16,
            adapted: None,
            world: Default::default(),
            files: ModelFiles::read(&folder.join("config.json"), &folder).unwrap(),
            split: None,
        };
        Toy { dir, material }
    }

    /// The gradient of KL(q(y|x) || p(y|x)) by listing every reply, in float64.
    fn exact(&self) -> Tensor {
        let design = || read_config(&self.dir.path().join("config.json")).unwrap();
        let q = wide(&self.material.student, design());
        let p = wide(self.material.teacher_model().unwrap().unwrap(), design());
        let mut kl = Tensor::zeros([0i64; 0], (Kind::Double, Device::Cpu));
        for reply in every_reply() {
            let (lq, lp) = (log_of(&q, &reply), log_of(&p, &reply).detach());
            kl += lq.exp() * (&lq - lp);
        }
        kl.backward();
        flat(&q.params().compute().iter().map(Tensor::grad).collect::<Vec<_>>())
    }

    /// Gradients of so many collections under these settings: [gradients, parameters].
    fn sampled(&self, settings: serde_json::Value) -> Tensor {
        let build =
            || (retort_policies::named("minillm").unwrap().build)(settings.as_object().unwrap()).unwrap();
        let (policy, alpha) = (build(), build().settings()["alpha"].as_f64().unwrap());
        let mut updater = Updater::new(&self.material, build(), Cut::Rows(64), 0).unwrap();
        let collector = Collector {
            student: &self.material.student,
            teacher: self.material.teacher_model().unwrap(),
            alpha,
            sampling: Sampling {
                max_new_tokens: LONGEST,
                eos: vec![EOS],
                vocabulary: 3,
                seed: 5,
                scores: Scores::Vocabulary,
                ..Sampling::default()
            },
            numbers: true,
            states: true,
        };
        let gradient = |n: u64| {
            let prompt = |turn: u64| Prompt { row: 0, turn, ids: PROMPT.to_vec() };
            let prompts: Vec<Prompt> = (n * REPLIES..(n + 1) * REPLIES).map(prompt).collect();
            let collected = collector.collect(&prompts, &mut |_| {}).unwrap().experiences;
            let rows: Vec<&Experience> = collected.iter().collect();
            let update = retort_policies::Update { longest: LONGEST, total: &mut |_| Ok(()) };
            let signals = policy.prepare(&rollouts(&rows), update).unwrap();
            updater.gradient(&self.material, &Work::sampled(&rows, Some(signals))).unwrap();
            flat(updater.sums())
        };
        Tensor::stack(&(0..GRADIENTS).map(gradient).collect::<Vec<_>>(), 0)
    }
}

fn every_reply() -> Vec<Vec<u32>> {
    let (mut done, mut open) = (Vec::new(), vec![Vec::new()]);
    while let Some(prefix) = open.pop() {
        for y in 0..3 {
            let reply: Vec<u32> = [&prefix[..], &[y]].concat();
            if y == EOS || reply.len() == LONGEST { done.push(reply) } else { open.push(reply) }
        }
    }
    assert_eq!(done.len(), 15);
    done
}

fn log_of(model: &CausalLm, reply: &[u32]) -> Tensor {
    let ids: Vec<i64> = PROMPT.iter().chain(reply).map(|&id| id.into()).collect();
    let hidden =
        model.hidden(&Tensor::from_slice(&ids[..ids.len() - 1]).unsqueeze(0), &Padding::Right).unwrap();
    let log = model.head().logits(&hidden).unwrap().squeeze_dim(0).log_softmax(-1, Kind::Double);
    let log = log.narrow(0, PROMPT.len() as i64 - 1, reply.len() as i64);
    let targets = Tensor::from_slice(&ids[PROMPT.len()..]).unsqueeze(1);
    log.gather(1, &targets, false).sum(Kind::Double)
}

/// How far the mean of the gradients is from the exact one, in standard errors, along the exact one and
/// along some directions that have nothing to do with it; and the cosine between the two.
fn off(gradients: &Tensor, exact: &Tensor) -> (Vec<f64>, f64) {
    let mean = gradients.mean_dim(0i64, false, Kind::Double);
    let cosine = mean.dot(exact) / (mean.norm() * exact.norm());
    let n = exact.size()[0];
    let wave = |k: f64| (Tensor::arange(n, (Kind::Double, Device::Cpu)) * k).sin();
    let directions = [exact.shallow_clone(), wave(0.37), wave(1.1), wave(2.9), wave(7.3)];
    let errors = directions.iter().map(|d| {
        let along = gradients.mv(d);
        let error = along.std(true) / (GRADIENTS as f64).sqrt();
        ((along.mean(Kind::Double) - d.dot(exact)) / error).double_value(&[])
    });
    (errors.collect(), cosine.double_value(&[]))
}

/// The `exact` preset from the student's own replies, and with products of weights from the mixture's, has the
/// gradient of the sequence KL. One weight a step, length normalisation, and the single step alone have not: their
/// directions have these cosines with it.
#[test]
fn sampled_gradients_estimate_what_they_should() {
    let toy = Toy::new();
    let exact = toy.exact();
    assert!(exact.norm().double_value(&[]) > 0.05);
    let base = json!({"preset": "exact", "normalise": "rows"});
    let with = |more: serde_json::Value| {
        let mut all = base.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let unbiased = [
        ("own replies", with(json!({}))),
        ("mixed, products", with(json!({"alpha": 0.3, "weights": "prefix", "weight_single_step": true}))),
    ];
    for (name, settings) in unbiased {
        let (errors, cosine) = off(&toy.sampled(settings), &exact);
        eprintln!("{name}: off by {errors:.2?} standard errors, cosine {cosine:.4}");
        assert!(errors.iter().all(|z| z.abs() < 3.0), "{name}: {errors:?}");
    }
    let biased = [
        ("mixed, one weight a step", with(json!({"alpha": 0.3, "weight_single_step": true})), 0.88),
        ("length normalisation", with(json!({"length_norm": true})), 0.998),
        ("single step alone", with(json!({"reward_scale": 1e12})), 0.98),
    ];
    for (name, settings, told) in biased {
        let (errors, cosine) = off(&toy.sampled(settings), &exact);
        eprintln!("{name}: off by {errors:.2?} standard errors, cosine {cosine:.4}");
        assert!(errors.iter().all(|z| z.abs() > 3.0), "{name}: {errors:?}");
        assert!((cosine - told).abs() < 0.01, "{name}: {cosine}");
    }
}
