//! Whole updates against torch's, on the numbers of `tests/golden/make_updates.py`.

use std::collections::HashMap;

use tch::Tensor;

use crate::support::fixture;
use crate::{Case, losses, tensors};

/// Five updates of `policy` equal torch's, whatever the cut: the distance between the two ways that the
/// weights went, over the length of the way.
fn equal_torchs(policy: &str) {
    let golden = tensors(&fixture("updates/golden.safetensors"));
    let start = tensors(&fixture("score/llama/model.safetensors"));
    let case = Case::new(policy, &fixture("updates/rows.jsonl"));
    let teacher = case.path("teacher");
    folder_with_tokenizer("updates/teacher", &teacher);
    let teacher = format!("teacher.model={:?}", teacher.display().to_string());
    let settings = [
        teacher.as_str(),
        "train.steps=5",
        "train.batch=64",
        "train.lr=2e-3",
        "train.schedule=constant",
        "train.weight_decay=0.1",
    ];
    for micro in ["1", "4", "auto"] {
        let cut = format!("train.micro_batch={micro}");
        let settings: Vec<&str> = settings.iter().copied().chain([cut.as_str()]).collect();
        case.good(micro, &settings, &[]);
        let ours = tensors(&case.path(micro).join("final/model.safetensors"));
        let off = distance(&start, &ours, &golden, policy);
        assert!(off < 5e-3, "{policy}, micro_batch {micro}: {off}");
        let expected: Vec<f32> = Vec::try_from(&golden[&format!("{policy}:losses")]).unwrap();
        for (n, (a, b)) in losses(&case.metrics(micro)).iter().zip(&expected).enumerate() {
            assert!((a - f64::from(*b)).abs() < 1e-4 * a, "{policy}, update {n}: loss {a}, torch's {b}");
        }
    }
}

/// A model folder of the fixtures, with the small llama's tokenizer in it.
pub fn folder_with_tokenizer(model: &str, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture(model).join(name), to.join(name)).unwrap();
    }
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture("score/llama").join(name), to.join(name)).unwrap();
    }
}

fn distance(
    start: &HashMap<String, Tensor>,
    ours: &HashMap<String, Tensor>,
    golden: &HashMap<String, Tensor>,
    policy: &str,
) -> f64 {
    let square = |t: Tensor| t.square().sum(tch::Kind::Double).double_value(&[]);
    let (mut off, mut way) = (0.0, 0.0);
    assert_eq!(start.len(), ours.len());
    for (name, from) in start {
        let theirs = &golden[&format!("{policy}.{name}")];
        off += square(&ours[name] - theirs);
        way += square(theirs - from);
    }
    assert!(way > 0.0);
    (off / way).sqrt()
}

#[test]
fn five_sft_updates_equal_torchs() {
    equal_torchs("sft");
}

#[test]
fn five_kd_updates_equal_torchs() {
    equal_torchs("kd");
}
