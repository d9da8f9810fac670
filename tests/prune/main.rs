//! A teacher cut into a student: scores and cuts against torch's (`tests/golden/make_prune.py`), a cut to the full size,
//! the command with what it refuses, a vocabulary cut to a text, and the example that begins with a cut.

#![expect(clippy::disallowed_methods, reason = "tests make their own files")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says so by panicking")]

mod command;
#[expect(dead_code, reason = "the parity tests use all of it")]
#[path = "../parity/golden.rs"]
mod golden;
mod minichat;
#[path = "../support/mod.rs"]
mod support;
mod vocabulary;

use golden::{Golden, distance, fixture, worst};
use retort::data::Example;
use retort::model::{CausalLm, LoadOptions, Padding, design_of};
use retort::prune::importance::{Masks, Scores, Watches};
use retort::prune::{Kept, Student, layers};
use retort::weights::{ModelFiles, Params};
use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor};

/// Every case of the golden file: each architecture, in the variants that a cut could get wrong.
const CASES: [&str; 13] = [
    "gpt2",
    "opt-pre",
    "opt-post",
    "opt-nobias",
    "llama",
    "llama3",
    "mistral",
    "qwen2",
    "qwen2-window",
    "qwen3",
    "qwen3-window",
    "gpt_neox",
    "gpt_neox-sequential",
];

fn load(case: &str) -> CausalLm {
    CausalLm::load(&fixture(&format!("parity/{case}")), LoadOptions::default()).unwrap()
}

fn config(case: &str) -> Map<String, Value> {
    let folder = fixture(&format!("parity/{case}"));
    ModelFiles::read(&folder.join("config.json"), &folder).unwrap().config().clone()
}

fn sequences(golden: &Golden, case: &str) -> Vec<Example> {
    let ids = golden.get(&format!("{case}.ids"));
    let rows: Vec<Vec<i64>> = Vec::try_from(ids).unwrap();
    let ids = |row: Vec<i64>| row.into_iter().map(|id| id as u32).collect();
    rows.into_iter().map(|row| Example { ids: ids(row), from: 1, ..Example::default() }).collect()
}

/// A list of lists as a tensor.
fn table(rows: &[Vec<f64>]) -> Tensor {
    Tensor::cat(&rows.iter().map(|row| Tensor::from_slice(row).unsqueeze(0)).collect::<Vec<_>>(), 0)
}

/// Our scores against torch's, all within a part in ten thousand of their size.
fn scores_agree(golden: &Golden, case: &str, how: &str, scores: &Scores) {
    let ours = [
        ("groups", table(&scores.groups)),
        ("neurons", table(&scores.neurons)),
        ("hidden", Tensor::from_slice(&scores.hidden)),
    ];
    for (what, ours) in ours {
        let theirs = golden.get(&format!("{case}.{how}.{what}"));
        let (off, norm) = (distance(&ours, &theirs), theirs.norm().double_value(&[]));
        assert!(off < 1e-4 * norm, "{case}: {how} of {what} off by {off:.1e} of {norm:.1e}");
    }
}

#[test]
fn gradients_of_ones_equal_torchs() {
    let golden = Golden::open("prune");
    for case in CASES {
        let mut masks = None;
        let folder = fixture(&format!("parity/{case}"));
        let model = CausalLm::load_with(&folder, LoadOptions::default(), |design, params| {
            masks = Some(Masks::attach(design, params, Device::Cpu)?);
            Ok(())
        });
        let (model, rows) = (model.unwrap(), sequences(&golden, case));
        let mut seen = 0;
        let scores = masks.unwrap().score(&model, &rows, 4, &mut |n| seen += n).unwrap();
        scores_agree(&golden, case, "gradient", &scores);
        assert_eq!(seen, rows.len());
        // No weight has a gradient: the masks alone learn.
        assert!(model.params().compute().iter().all(|t| !t.requires_grad()));
    }
}

#[test]
fn activations_equal_torchs() {
    let golden = Golden::open("prune");
    for case in CASES {
        let mut watches = None;
        let folder = fixture(&format!("parity/{case}"));
        let model = CausalLm::load_with(&folder, LoadOptions::default(), |design, params| {
            watches = Some(Watches::attach(design, params));
            Ok(())
        });
        let rows = sequences(&golden, case);
        let scores = watches.unwrap().score(&model.unwrap(), &rows, &mut |_| {}).unwrap();
        scores_agree(&golden, case, "activation", &scores);
    }
}

#[test]
fn what_layers_do_equals_torchs() {
    let golden = Golden::open("prune");
    for case in CASES {
        let (model, rows) = (load(case), sequences(&golden, case));
        let damage = layers::damage(&model, &rows, &mut |_| {}).unwrap();
        let off = worst(&Tensor::from_slice(&damage), &golden.get(&format!("{case}.damage")));
        assert!(off < 1e-5, "{case}: damage off by {off:.1e}");
        let distances = layers::distances(&model, &rows, &mut |_| {}).unwrap();
        let off = worst(&Tensor::from_slice(&distances), &golden.get(&format!("{case}.distance")));
        assert!(off < 1e-5, "{case}: distances off by {off:.1e}");
    }
}

/// The student as a model.
fn built(student: &Student<'_>) -> CausalLm {
    let raw = retort::model::config::RawConfig::of("config.json".as_ref(), student.config.clone());
    let params = Params::frozen(student.tensors().unwrap());
    CausalLm::new(design_of(&raw).unwrap(), params, Kind::Float, Device::Cpu).unwrap()
}

fn logits(model: &CausalLm, ids: &Tensor) -> Tensor {
    let _off = tch::no_grad_guard();
    model.logits(&model.hidden(ids, &Padding::Right).unwrap()).unwrap()
}

#[test]
fn a_cut_to_the_full_size_changes_nothing() {
    let golden = Golden::open("prune");
    for case in CASES {
        let (teacher, ids) = (load(case), golden.get(&format!("{case}.ids")));
        let kept = Kept::all(teacher.shape());
        let student = Student::of(&teacher, &config(case), &kept).unwrap();
        assert_eq!(teacher.params().names().len(), student.specs.len(), "{case}");
        for (name, tensor) in student.tensors().unwrap() {
            assert_eq!(tensor, teacher.params().get(&name).unwrap(), "{case}: {name}");
        }
        assert_eq!(logits(&built(&student), &ids), logits(&teacher, &ids), "{case}");
    }
}

/// What stays in a golden file's cut, less one thing if asked for: the test must be able to fail.
fn kept(golden: &Golden, case: &str, teacher: &CausalLm) -> Kept {
    let get = |what: &str| golden.get(&format!("{case}.kept.{what}"));
    let list = |what: &str| -> Vec<i64> { Vec::try_from(get(what)).unwrap() };
    Kept {
        layers: list("layers").into_iter().map(|layer| layer as usize).collect(),
        hidden: list("hidden"),
        groups: Vec::try_from(get("groups")).unwrap(),
        neurons: Vec::try_from(get("neurons")).unwrap(),
        tokens: (0..teacher.shape().vocabulary).collect(),
    }
}

#[test]
fn cuts_by_hand_have_transformers_logits() {
    let golden = Golden::open("prune");
    for case in CASES {
        let (teacher, ids) = (load(case), golden.get(&format!("{case}.ids")));
        let theirs = golden.get(&format!("{case}.cut.logits"));
        let mut kept = kept(&golden, case, &teacher);
        let student = Student::of(&teacher, &config(case), &kept).unwrap();
        let off = worst(&logits(&built(&student), &ids), &theirs);
        assert!(off < 2e-5, "{case}: off by {off:.1e}");
        assert!(student.parameters() < teacher.design().specs().iter().map(|s| s.numel()).sum());
        // Another neuron in the place of one: it is seen.
        let other = (0..).find(|n| !kept.neurons[0].contains(n)).unwrap();
        kept.neurons[0][0] = other;
        let student = Student::of(&teacher, &config(case), &kept).unwrap();
        assert!(worst(&logits(&built(&student), &ids), &theirs) > 1e-3, "{case}: another neuron is not seen");
    }
}
