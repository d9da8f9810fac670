//! The GPU against transformers' numbers and against the CPU. Skipped, with one loud line, where there is
//! no GPU. `scripts/gpu-check` carries this program to a machine that has one.

#![expect(clippy::unwrap_used, reason = "a test says so by panicking")]

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use retort::decode::{Sampling, replies};
use retort::dist::{Launch, World};
use retort::model::{CausalLm, LoadOptions, Padding};
use retort::native::group::{Exchanged, Group, Store};
use retort::native::{self, cuda, nccl};
use retort::weights::Residence;
use tch::{Device, Kind, Tensor};

const CASES: [&str; 7] = ["gpt2", "opt-post", "llama3", "mistral", "qwen2-window", "qwen3", "gpt_neox"];

/// One test at a time on the device (memory figures and captures are the process's); none without one.
fn gpu(test: &str) -> Option<MutexGuard<'static, ()>> {
    static ONE: Mutex<()> = Mutex::new(());
    match cuda::load() {
        Ok(()) if tch::Cuda::device_count() > 0 => {
            native::set_tf32(false).unwrap();
            Some(ONE.lock().unwrap_or_else(PoisonError::into_inner))
        }
        other => {
            let why = other.err().unwrap_or_else(|| "no device".into());
            // Past the runner's capture, so that it is seen.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {test} needs an NVIDIA GPU ({why})");
            None
        }
    }
}

/// Fixtures travel with the tree, which may stand elsewhere than where this was compiled.
fn model(case: &str, kind: Kind, device: Device, residence: Residence) -> CausalLm {
    let root = std::env::var_os("RETORT_ROOT")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let options = LoadOptions { kind, device, residence, ..LoadOptions::default() };
    CausalLm::load(&root.join("tests/fixtures/parity").join(case), options).unwrap()
}

fn ids(device: Device) -> (Tensor, Padding) {
    let rows: Vec<i64> = (0..3 * 11).map(|i| (7 * i + i * i) % 59 + 1).collect();
    (Tensor::from_slice(&rows).view([3, 11]).to_device(device), Padding::Left(vec![11, 6, 2]))
}

/// Logits where there are tokens, on the CPU in float32.
fn logits(case: &str, kind: Kind, device: Device) -> Tensor {
    let _off = tch::no_grad_guard();
    let model = model(case, kind, device, Residence::Mapped);
    let (ids, padding) = ids(device);
    let logits = model.logits(&model.hidden(&ids, &padding).unwrap()).unwrap();
    let logits = logits.to_device(Device::Cpu).to_kind(Kind::Float);
    Tensor::cat(&[logits.get(0), logits.get(1).narrow(0, 5, 6), logits.get(2).narrow(0, 9, 2)], 0)
}

#[test]
fn logits_equal_the_cpus() {
    let Some(_one) = gpu("logits_equal_the_cpus") else { return };
    for case in CASES {
        let cpu = logits(case, Kind::Float, Device::Cpu);
        let off = (&cpu - logits(case, Kind::Float, Device::Cuda(0))).abs().max().double_value(&[]);
        assert!(off < 1e-4, "{case}: off by {off:.1e}");
        let rounded = (&cpu - logits(case, Kind::BFloat16, Device::Cpu)).norm().double_value(&[]);
        let on_gpu = (&cpu - logits(case, Kind::BFloat16, Device::Cuda(0))).norm().double_value(&[]);
        assert!(on_gpu < 1.5 * rounded, "{case}, bf16: {on_gpu:.3} from float32, the CPU {rounded:.3}");
    }
}

#[test]
fn replies_equal_the_cpus() {
    let Some(_one) = gpu("replies_equal_the_cpus") else { return };
    let prompts: [&[u32]; 2] = [&[5, 9, 12, 3], &[7]];
    let greedy = Sampling { greedy: true, max_new_tokens: 12, ..Sampling::default() };
    let drawn = Sampling { temperature: 0.8, top_p: 0.9, max_new_tokens: 12, ..Sampling::default() };
    for (case, settings) in CASES.iter().flat_map(|case| [(case, &greedy), (case, &drawn)]) {
        let on = |device| {
            let model = model(case, Kind::Float, device, Residence::Mapped);
            let replies = replies(&model, &prompts, settings, 2).unwrap();
            replies.into_iter().map(|r| r.ids).collect::<Vec<_>>()
        };
        assert_eq!(on(Device::Cpu), on(Device::Cuda(0)), "{case}");
    }
}

#[test]
fn gradients_equal_the_cpus() {
    let Some(_one) = gpu("gradients_equal_the_cpus") else { return };
    for case in CASES {
        let on = |device: Device| {
            let mut model = model(case, Kind::Float, device, Residence::Trained);
            model.set_recompute(true);
            let (ids, _) = ids(device);
            let hidden = model.hidden(&ids, &Padding::Right).unwrap();
            model
                .logits(&hidden)
                .unwrap()
                .log_softmax(-1, Kind::Float)
                .select(-1, 3)
                .mean(Kind::Float)
                .backward();
            let sums: Vec<Tensor> = model.params().masters().iter().map(Tensor::zeros_like).collect();
            model.params().collect_grads(&sums).unwrap();
            sums
        };
        for (a, b) in on(Device::Cpu).iter().zip(on(Device::Cuda(0))) {
            let off = (a - b.to_device(Device::Cpu)).norm().double_value(&[]);
            assert!(off < 1e-4 * a.norm().double_value(&[]) + 1e-6, "{case}: off by {off:.1e}");
        }
    }
}

#[test]
fn memory_is_counted() {
    let Some(_one) = gpu("memory_is_counted") else { return };
    let before = cuda::memory(0).unwrap();
    cuda::reset_peak(0).unwrap();
    let held = Tensor::zeros([1 << 20], (Kind::Float, Device::Cuda(0)));
    let during = cuda::memory(0).unwrap();
    assert_eq!(during.allocated - before.allocated, held.numel() as i64 * 4);
    drop(held);
    let after = cuda::memory(0).unwrap();
    assert_eq!(after.allocated, before.allocated);
    assert!(after.allocated_peak >= during.allocated && after.total > after.free);
}

#[test]
fn a_captured_graph_replays() {
    let Some(_one) = gpu("a_captured_graph_replays") else { return };
    let _off = tch::no_grad_guard();
    let x = Tensor::ones([64, 64], (Kind::Float, Device::Cuda(0)));
    let out = Tensor::zeros([64, 64], (Kind::Float, Device::Cuda(0)));
    let work = || {
        out.shallow_clone().f_copy_(&x.f_matmul(&x)?)?;
        Ok(())
    };
    work().unwrap();
    let graph = cuda::Graph::capture(0, work).unwrap();
    let _ = x.shallow_clone().fill_(2.0);
    graph.replay().unwrap();
    cuda::synchronize(0).unwrap();
    assert_eq!(out.max().double_value(&[]), 4.0 * 64.0);
}

/// NCCL with a world of one, through the same calls as many: nothing is added, and what each gets is what it gave.
#[test]
fn exchanges_go_over_nccl() {
    let Some(_one) = gpu("exchanges_go_over_nccl") else { return };
    let most = Duration::from_secs(60);
    nccl::check().unwrap();
    let store = Store::open("127.0.0.1", 0, true, "gpu", most).unwrap();
    let group = Group::join_nccl(&store, 0, 1, 0, most).unwrap();
    let of = |kind: Kind| (Tensor::arange(6, (Kind::Float, Device::Cuda(0))) + 0.5).to_kind(kind);
    for kind in [Kind::Float, Kind::BFloat16] {
        for what in
            [Exchanged::Sum, Exchanged::All, Exchanged::OfOne, Exchanged::PartOfSum, Exchanged::Nothing]
        {
            let (given, got) = (of(kind), of(kind).zeros_like());
            let (input, out) = match what {
                Exchanged::Nothing => (None, None),
                Exchanged::All | Exchanged::PartOfSum => (Some(&given), Some(&got)),
                Exchanged::Sum | Exchanged::OfOne => (Some(&given), None),
            };
            let exchange = group.begin(what, input, out, 0).unwrap();
            assert!(exchange.wait(most).unwrap(), "{what:?}");
            assert!(given.equal(&of(kind)), "{what:?} changed what it was given");
            assert!(out.is_none_or(|got| got.equal(&of(kind))), "{what:?}");
        }
    }
}

/// A world's gradients stay on the GPU: the sums are those of the CPU, and nothing of their size is copied to it.
#[test]
fn a_world_of_one_sums_on_the_gpu() {
    let Some(_one) = gpu("a_world_of_one_sums_on_the_gpu") else { return };
    let world = World::meet(&Launch::alone(), Duration::from_secs(60), Device::Cuda(0)).unwrap();
    assert!(world.exchanges_on(Device::Cuda(0)));
    let of = |n: i64| Tensor::arange(n, (Kind::Float, Device::Cuda(0))).sin();
    let sums = [of(7), of(1 << 20).view([1 << 10, 1 << 10]).tr(), of(5_000_000)];
    let before: Vec<Tensor> = sums.iter().map(Tensor::copy).collect();
    world.all_reduce(&sums).unwrap();
    world.broadcast(&sums, 0).unwrap();
    for (sum, before) in sums.iter().zip(&before) {
        assert!(sum.equal(before));
        assert!(
            world.all_gather(sum).unwrap()[0].equal(before)
                && world.reduce_scatter(sum).unwrap().equal(before)
        );
    }
    world.barrier().unwrap();
}
