//! Our models against transformers' own numbers: logits, gradients, greedy replies, in float32 and
//! bfloat16, with padding left, right and none. `tests/golden/` makes the files.

#![expect(clippy::disallowed_methods, reason = "tests make their own files")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says so by panicking")]

mod folders;
mod golden;

use golden::{Golden, distance, fixture, real, stored_names, worst};
use retort::decode::{Sampling, replies};
use retort::model::{CausalLm, LoadOptions, Padding, read_design};
use retort::native::small;
use retort::store::Folder;
use retort::weights::save::write_tensors;
use retort::weights::{Dtype, Residence, WeightFiles};
use tch::{Kind, Tensor};

/// Against float32 logits of order one. transformers' own two ways to attend differ by up to 8e-6, and
/// the smallest mistake that a config can hide (another epsilon) shows as 2.3e-5.
const LOGITS: f64 = 2e-5;

fn load(case: &str, kind: Kind, residence: Residence) -> CausalLm {
    let options = LoadOptions { kind, residence, ..LoadOptions::default() };
    CausalLm::load(&fixture(&format!("parity/{case}")), options).unwrap()
}

/// The same model from the spelling of config.json that transformers 4 wrote.
fn load_v4(case: &str) -> CausalLm {
    let folder = fixture(&format!("parity/{case}"));
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("config.v4.json"), dir.path().join("config.json")).unwrap();
    std::fs::copy(folder.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    CausalLm::load(dir.path(), LoadOptions::default()).unwrap()
}

fn padding(golden: &Golden, pad: &str) -> (Tensor, Padding, Tensor) {
    let ids = golden.get(&format!("{pad}.ids"));
    let lengths = golden.ints(&format!("{pad}.lengths"));
    let mask = real(&lengths, ids.size()[1], pad == "left");
    let padding = if pad == "left" { Padding::Left(lengths) } else { Padding::Right };
    (ids, padding, mask)
}

/// Our logits, zero where there is padding.
fn logits(model: &CausalLm, ids: &Tensor, padding: &Padding, mask: &Tensor) -> Tensor {
    let _off = tch::no_grad_guard();
    model.logits(&model.hidden(ids, padding).unwrap()).unwrap().to_kind(Kind::Float) * mask
}

fn logits_agree(case: &str) {
    let golden = Golden::open(&format!("parity/{case}"));
    for model in [load(case, Kind::Float, Residence::Mapped), load_v4(case)] {
        for pad in ["none", "right", "left"] {
            let (ids, padding, mask) = padding(&golden, pad);
            let off = worst(&logits(&model, &ids, &padding, &mask), &golden.get(&format!("{pad}.logits")));
            assert!(off < LOGITS, "{case}, padding {pad}: off by {off:.1e}");
        }
    }
}

/// bfloat16 keeps 8 bits: no two implementations agree closely. Ours may be as far from the float32
/// logits as transformers' own bfloat16 is, give or take the luck of a small model.
fn bf16_agrees(case: &str) {
    let golden = Golden::open(&format!("parity/{case}"));
    let model = load(case, Kind::BFloat16, Residence::Mapped);
    for pad in ["none", "right", "left"] {
        let (ids, padding, mask) = padding(&golden, pad);
        let exact = golden.get(&format!("{pad}.logits"));
        let theirs = distance(&golden.get(&format!("{pad}.logits_bf16")), &exact);
        let ours = distance(&logits(&model, &ids, &padding, &mask), &exact);
        assert!(
            ours < 1.5 * theirs,
            "{case}, padding {pad}: {ours:.3} from float32, transformers {theirs:.3}"
        );
    }
}

/// Mean cross-entropy of the next token over the real targets of the right-padded batch.
fn loss(model: &CausalLm, golden: &Golden) -> Tensor {
    let ids = golden.get("right.ids");
    let lengths = golden.ints("right.lengths");
    let tokens = ids.size()[1];
    let hidden = model.hidden(&ids, &Padding::Right).unwrap();
    let logits = model.logits(&hidden).unwrap().to_kind(Kind::Float);
    let targets = ids.narrow(1, 1, tokens - 1);
    let logprob = logits.narrow(1, 0, tokens - 1).log_softmax(-1, Kind::Float).gather(
        -1,
        &targets.unsqueeze(-1),
        false,
    );
    let shorter: Vec<i64> = lengths.iter().map(|n| n - 1).collect();
    let mask = real(&shorter, tokens - 1, false);
    -(logprob * &mask).sum(Kind::Float) / mask.sum(Kind::Float)
}

/// The gradient of every parameter, as the trainer collects it: in float32.
fn gradients(model: &CausalLm, golden: &Golden) -> Vec<(String, Tensor)> {
    loss(model, golden).backward();
    let params = model.params();
    let sums: Vec<Tensor> = params.masters().iter().map(|m| m.zeros_like()).collect();
    params.collect_grads(&sums).unwrap();
    params.names().iter().cloned().zip(sums).collect()
}

fn gradients_agree(case: &str) {
    let golden = Golden::open(&format!("parity/{case}"));
    for recompute in [false, true] {
        let mut model = load(case, Kind::Float, Residence::Trained);
        model.set_recompute(recompute);
        let off = (loss(&model, &golden) - golden.get("right.loss")).abs().double_value(&[0]);
        assert!(off < 1e-5, "{case}: loss off by {off:.1e}");
        let ours = gradients(&model, &golden);
        let mut names: Vec<&str> = ours.iter().map(|(n, _)| n.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, golden.under("grad."), "{case}: every parameter, and no other");
        for (name, grad) in &ours {
            let theirs = golden.get(&format!("grad.{name}"));
            let (off, norm) = (distance(grad, &theirs), theirs.norm().double_value(&[]));
            // The bias of OPT's keys has no effect at all: its gradient is noise around zero.
            assert!(
                off < 1e-4 * norm + 1e-6,
                "{case}, recompute {recompute}: {name} off by {off:.1e} of {norm:.1e}"
            );
        }
    }
}

/// bfloat16 over float32 masters: how far from the float32 gradients, over how far transformers' bfloat16 is.
fn bf16_distance(case: &str) -> f64 {
    let golden = Golden::open(&format!("parity/{case}"));
    let model = load(case, Kind::BFloat16, Residence::Trained);
    assert!(model.params().masters().iter().all(|m| m.kind() == Kind::Float));
    let (mut ours, mut theirs) = (0f64, 0f64);
    for (name, grad) in gradients(&model, &golden) {
        let exact = golden.get(&format!("grad.{name}"));
        ours += distance(&grad, &exact).powi(2);
        theirs += distance(&golden.get(&format!("grad_bf16.{name}")), &exact).powi(2);
    }
    (ours / theirs).sqrt()
}

/// One case is a throw of the dice: one rounding early in a model this small moves every gradient. Twice as
/// far would be something else; all cases together have to be as close as transformers.
fn bf16_gradients_agree(case: &str) {
    let ratio = bf16_distance(case);
    assert!(ratio < 2.0, "{case}: {ratio:.2} times as far from float32 as transformers");
}

/// Greedy decoding with the cache, all rows in one batch and each alone.
fn greedy_agrees(case: &str) {
    let golden = Golden::open(&format!("parity/{case}"));
    let model = load(case, Kind::Float, Residence::Mapped);
    let padded: Vec<Vec<i64>> = Vec::try_from(golden.get("greedy.prompt_ids")).unwrap();
    let lengths = golden.ints("greedy.prompt_lengths");
    let prompts: Vec<Vec<u32>> = padded
        .iter()
        .zip(&lengths)
        .map(|(row, &n)| row[row.len() - n as usize..].iter().map(|&id| id as u32).collect())
        .collect();
    let expected: Vec<Vec<i64>> = Vec::try_from(golden.get("greedy.ids")).unwrap();
    let settings = Sampling { greedy: true, max_new_tokens: 16, ..Sampling::default() };
    let together: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let mut all = replies(&model, &together, &settings, together.len()).unwrap();
    all.extend(replies(&model, &together, &settings, 1).unwrap());
    // And with libtorch's operations alone.
    let _barred = small::bar();
    all.extend(replies(&model, &together, &settings, 2).unwrap());
    for (n, reply) in all.iter().enumerate() {
        let ids: Vec<i64> = reply.ids.iter().map(|&id| i64::from(id)).collect();
        assert_eq!(ids, expected[n % expected.len()], "{case}, reply {n}");
        assert_eq!(reply.logprobs.len(), 16);
    }
}

/// What the design asks for is what transformers stores, name by name.
fn names_agree(case: &str) {
    let folder = fixture(&format!("parity/{case}"));
    let design = read_design(&folder).unwrap();
    let mut names: Vec<String> = design.specs().into_iter().map(|s| s.name).collect();
    names.sort();
    assert_eq!(names, stored_names(&format!("parity/{case}")));
    let files = WeightFiles::open(&folder).unwrap();
    assert!(files.plan(&design.naming(), design.specs(), design.shape().tied).is_ok());
}

/// What we write is what transformers wrote, byte for byte: names, order, header, numbers.
fn writing_agrees(case: &str) {
    let model = load(case, Kind::Float, Residence::Mapped);
    let named = model.params().names().iter().cloned();
    let tensors: Vec<(String, Tensor)> =
        named.zip(model.params().compute().iter().map(Tensor::shallow_clone)).collect();
    let dir = tempfile::tempdir().unwrap();
    write_tensors(&Folder::create(dir.path()).unwrap(), &tensors, Dtype::F32).unwrap();
    let ours = std::fs::read(dir.path().join("model.safetensors")).unwrap();
    let theirs = std::fs::read(fixture(&format!("parity/{case}/model.safetensors"))).unwrap();
    assert!(ours == theirs, "{case}: {} bytes against {}", ours.len(), theirs.len());
}

/// One module a case, so that each row of the README's table names tests that can be run alone.
macro_rules! cases {
    ($($module:ident: $case:literal;)*) => {
        const CASES: &[&str] = &[$($case),*];
        $(mod $module {
            #[test]
            fn logits() {
                super::logits_agree($case);
            }
            #[test]
            fn logits_bf16() {
                super::bf16_agrees($case);
            }
            #[test]
            fn gradients() {
                super::gradients_agree($case);
            }
            #[test]
            fn gradients_bf16() {
                super::bf16_gradients_agree($case);
            }
            #[test]
            fn greedy() {
                super::greedy_agrees($case);
            }
            #[test]
            fn names() {
                super::names_agree($case);
            }
            #[test]
            fn written() {
                super::writing_agrees($case);
            }
        })*
    };
}

cases! {
    gpt2: "gpt2";
    gpt2_variant: "gpt2-variant";
    opt_pre: "opt-pre";
    opt_post: "opt-post";
    opt_nobias: "opt-nobias";
    llama: "llama";
    llama_linear: "llama-linear";
    llama3: "llama3";
    mistral: "mistral";
    mistral_full: "mistral-full";
    qwen2: "qwen2";
    qwen2_window: "qwen2-window";
    qwen3: "qwen3";
    qwen3_window: "qwen3-window";
    gpt_neox: "gpt_neox";
    gpt_neox_sequential: "gpt_neox-sequential";
}

#[test]
fn bf16_gradients_are_together_as_close_as_transformers() {
    let ratios: Vec<f64> = CASES.iter().map(|case| bf16_distance(case)).collect();
    let mean = ratios.iter().map(|r| r.ln()).sum::<f64>() / ratios.len() as f64;
    assert!(mean < 0.0, "{:.3} times as far from float32: {ratios:.2?}", mean.exp());
}

#[test]
fn every_architecture_has_a_case() {
    for (name, _) in retort::model::ARCHITECTURES {
        assert!(
            fixture(&format!("parity/{name}")).exists() || fixture(&format!("parity/{name}-pre")).exists(),
            "{name}"
        );
    }
}
