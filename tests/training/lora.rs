//! LoRA against torch, and against what it is by definition: the base with a product of two thin matrices added.

use retort::model::{CausalLm, LoadOptions, Padding, read_design};
use retort::native;
use retort::weights::{Lora, Params, Residence, WeightFiles};
use tch::{Device, Kind, Tensor};

use crate::Case;
use crate::support::fixture;
use crate::{losses, tensors};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

/// A model of the fixtures with adapters of rank 3, alpha 6, on every projection.
fn adapted(name: &str) -> (CausalLm, Lora) {
    let mut made = None;
    let model = CausalLm::load_with(&fixture(name), LoadOptions::default(), |design, params| {
        let lora = Lora::new(&design.specs(), &["attention", "mlp"].map(String::from), (3, 6.0), 1, CPU)?;
        lora.attach(params);
        made = Some(lora);
        Ok(())
    });
    (model.unwrap(), made.unwrap())
}

/// Numbers of about this size for every adapter.
fn fill(lora: &Lora, size: f64) {
    let numbers = |(n, (name, t)): (usize, (String, Tensor))| {
        let count = t.numel() as i64;
        let values = (Tensor::arange(count, CPU) * 0.7 + n as f64).sin() * size;
        (name, values.view(t.size().as_slice()))
    };
    let made: Vec<_> = lora.state().into_iter().enumerate().map(numbers).collect();
    lora.restore(&made).unwrap();
}

fn cross_entropy(model: &CausalLm, ids: &Tensor) -> Tensor {
    let hidden = model.hidden(ids, &Padding::Right).unwrap();
    let logits = model.logits(&hidden).unwrap();
    let wide = ids.size()[1] - 1;
    let targets = ids.narrow(1, 1, wide).reshape([-1]);
    logits.narrow(1, 0, wide).flatten(0, 1).cross_entropy_for_logits(&targets)
}

/// The gradients at A and B equal torch's, blocks computed once or twice, for maps stored either way.
#[test]
fn gradients_equal_torchs() {
    let golden = tensors(&fixture("lora/golden.safetensors"));
    for name in ["llama", "gpt2", "gpt_neox"] {
        let (mut model, lora) = adapted(&format!("parity/{name}"));
        let given: Vec<(String, Tensor)> = lora
            .state()
            .into_iter()
            .map(|(key, _)| (key.clone(), golden[&format!("{name}.{key}")].copy()))
            .collect();
        assert_eq!(
            golden.keys().filter(|key| key.starts_with(&format!("grad.{name}."))).count(),
            given.len()
        );
        lora.restore(&given).unwrap();
        for recompute in [false, true] {
            model.set_recompute(recompute);
            let loss = cross_entropy(&model, &golden[&format!("{name}.ids")].to_kind(Kind::Int64));
            let expected = golden[&format!("{name}.loss")].double_value(&[0]);
            assert!((loss.double_value(&[]) - expected).abs() < 1e-5, "{name}: {loss:?}, torch's {expected}");
            native::backward(&[loss.view([1])], &[Tensor::ones([1], CPU)], false).unwrap();
            let sums: Vec<Tensor> = lora.learnt().masters().iter().map(Tensor::zeros_like).collect();
            lora.learnt().collect_grads(&sums).unwrap();
            for (key, sum) in lora.learnt().names().iter().zip(&sums) {
                let theirs = &golden[&format!("grad.{name}.{key}")];
                let off = (sum - theirs).norm().double_value(&[]) / theirs.norm().double_value(&[]);
                assert!(off < 1e-4, "{name}, {key}, twice {recompute}: {off}");
            }
            let still = |t: &Tensor| !t.requires_grad() && !t.grad().defined();
            assert!(model.params().compute().iter().all(still), "the base has no gradient");
            assert!(model.params().masters().is_empty(), "and no masters");
        }
    }
}

/// A model of the merged weights says what the base and its adapters say, in every architecture.
#[test]
fn merged_weights_are_base_and_adapters() {
    let mut checked = 0;
    for entry in std::fs::read_dir(fixture("parity")).unwrap() {
        let name = format!("parity/{}", entry.unwrap().file_name().to_string_lossy());
        let (model, lora) = adapted(&name);
        let ids = (Tensor::arange(18, (Kind::Int64, Device::Cpu)) * 7).remainder(50).view([2, 9]);
        let _off = tch::no_grad_guard();
        let logits = |model: &CausalLm| model.logits(&model.hidden(&ids, &Padding::Right).unwrap()).unwrap();
        let before = logits(&model);
        fill(&lora, 0.02);
        let with = logits(&model);
        let moved = (&with - &before).abs().max().double_value(&[]);
        assert!(moved > 1e-2, "{name}: the adapters change the logits by {moved}");
        let (design, files) =
            (read_design(&fixture(&name)).unwrap(), WeightFiles::open(&fixture(&name)).unwrap());
        let plan = files.plan(&design.naming(), design.specs(), design.shape().tied).unwrap();
        let base = Params::from_plan(&plan, Kind::Float, Device::Cpu, Residence::Mapped).unwrap();
        let merged = Params::frozen(lora.merged(&base).unwrap());
        let merged =
            CausalLm::new(read_design(&fixture(&name)).unwrap(), merged, Kind::Float, Device::Cpu).unwrap();
        let off = (logits(&merged) - &with).abs().max().double_value(&[]);
        assert!(off < 1e-5, "{name}: {off}");
        checked += 1;
    }
    assert!(checked >= 12, "{checked}");
}

fn small() -> Case {
    Case::new("sft", &fixture("score/llama/rows_prompt.jsonl"))
}

const RUN: [&str; 6] = [
    "train.steps=6",
    "train.batch=4",
    "train.lr=3e-2",
    "train.schedule=constant",
    "student.lora.rank=2",
    "train.save_every=3",
];

/// Adapters learn and the rest stays; the change has their rank; the folder is a model as any other.
#[test]
fn a_run_changes_projections_by_their_rank() {
    let case = small();
    let valid = format!("data.valid=[{:?}]", fixture("score/llama/rows_prompt.jsonl").display().to_string());
    case.good("run", &[&RUN[..], &[valid.as_str(), "train.eval_every=2"]].concat(), &[]);
    let start = tensors(&fixture("score/llama/model.safetensors"));
    for folder in ["final", "best", "checkpoints/step-6"] {
        let end = tensors(&case.path("run").join(folder).join("model.safetensors"));
        assert_eq!(start.len(), end.len(), "{folder}");
        let mut changed = 0;
        for (name, before) in &start {
            let change = &end[name] - before;
            if !name.contains("_proj") {
                assert_eq!(change.abs().max().double_value(&[]), 0.0, "{folder}, {name}");
                continue;
            }
            let (_, values, _) = change.to_kind(Kind::Double).svd(true, true);
            let values = Vec::<f64>::try_from(values).unwrap();
            assert!(values[0] > 1e-4 && values[2] < 1e-5 * values[0].max(1.0), "{name}: {values:?}");
            changed += 1;
        }
        assert_eq!(changed, 14, "seven projections in each of two layers");
        assert_eq!(case.path("run").join(folder).join("adapters.safetensors").exists(), folder.contains('6'));
    }
    // Two moments of A and B, and nothing of the rest.
    let moments = tensors(&case.path("run/checkpoints/step-6/optimizer.safetensors"));
    assert_eq!(moments.len(), 2 * 2 * 14);
    assert!(moments.keys().all(|name| name.contains(".lora_")));
    let lines = case.metrics("run");
    let loss = losses(&lines);
    assert!(loss[5] < loss[0], "{loss:?}");
    // What was evaluated is what was written: the trained folder, without adapters, scores as they did.
    let last = lines.iter().rfind(|m| m.get("eval").is_some()).unwrap();
    let model = format!("student.model={:?}", case.text("run/final"));
    case.good("plain", &["train.steps=1", "train.eval_every=1", model.as_str(), valid.as_str()], &[]);
    let (before, after) = (&last["eval"]["valid_loss"], &case.metrics("plain")[0]["eval"]["valid_loss"]);
    let (before, after) = (before.as_f64().unwrap(), after.as_f64().unwrap());
    assert!((before - after).abs() < 1e-5, "with adapters {before}, merged {after}");
}

/// Stopped and resumed: the same bits everywhere. On other weights it does not go on.
#[test]
fn a_resumed_run_with_adapters_ends_with_the_same_bits() {
    let case = small();
    let files = ["final/model.safetensors", "checkpoints/step-6/adapters.safetensors"];
    case.good("whole", &RUN, &[]);
    case.good("again", &[&RUN[1..], &["train.steps=3"]].concat(), &[]);
    case.good("again", &RUN, &["--resume"]);
    for name in files.iter().chain(&["checkpoints/step-6/optimizer.safetensors"]) {
        assert!(case.bytes("whole", name) == case.bytes("again", name), "{name}");
    }
    assert_eq!(case.metrics("whole"), case.metrics("again"));
    let folder = case.path("student");
    crate::golden::folder_with_tokenizer("score/llama", &folder);
    let model = format!("student.model={:?}", folder.display().to_string());
    let settings = [&RUN[1..], &[model.as_str()]].concat();
    case.good("moved", &[&settings[..], &["train.steps=3"]].concat(), &[]);
    std::fs::copy(case.path("again/final/model.safetensors"), folder.join("model.safetensors")).unwrap();
    let answer = case.run("moved", &[&settings[..], &["train.steps=6"]].concat(), &["--resume"]);
    assert_eq!(answer.code, 2, "{}", answer.err);
    assert!(answer.err.contains("not those that the run began with"), "{}", answer.err);
}

/// Computed in bfloat16 the weights that are written are the float32 ones with the change added.
#[test]
fn bfloat16_leaves_the_base_in_float32() {
    let case = small();
    let mut arguments = case.arguments("run", &RUN, &[]);
    let at = arguments.iter().position(|a| a == "f32").unwrap();
    arguments[at] = "bf16".into();
    let answer =
        crate::support::finish(crate::support::command(&arguments), std::time::Duration::from_secs(300));
    assert_eq!(answer.code, 0, "{}", answer.err);
    let start = tensors(&fixture("score/llama/model.safetensors"));
    let end = tensors(&case.path("run/checkpoints/step-6/model.safetensors"));
    for (name, before) in start.iter().filter(|(name, _)| !name.contains("_proj")) {
        assert_eq!(before, &end[name], "{name}");
    }
}

#[test]
fn mistakes_in_lora_are_named() {
    let case = small();
    let text = std::fs::read_to_string(case.path("run.toml")).unwrap();
    let line = text.lines().count() + 2;
    std::fs::write(case.path("run.toml"), text + "[student.lora]\ntargets = [\"attention\", \"v_prj\"]\n")
        .unwrap();
    for flags in [&[][..], &["--dry-run"]] {
        let answer = case.run("run", &["train.steps=1"], flags);
        assert_eq!(answer.code, 2, "{}", answer.err);
        let says = format!("student.lora.targets ({}:{line})", case.text("run.toml"));
        assert!(answer.err.contains(&says), "{}", answer.err);
        assert!(answer.err.contains("expected attention, mlp, q_proj") && answer.err.contains("found v_prj"));
        assert_eq!(
            answer.err.trim().lines().filter(|l| l.contains("error") || l.contains("lora")).count(),
            1
        );
    }
}
