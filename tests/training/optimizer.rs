//! AdamW against torch's, on the numbers of `tests/golden/make_adamw.py`.

use retort::optim::{Optimizer, Outcome, Settings};
use retort::weights::Params;
use tch::Kind;

use crate::support::fixture;
use crate::tensors;

/// Ten steps, some of them clipped, at a rate that changes: every weight equals torch's to 1e-6 of its size.
#[test]
fn ten_adamw_steps_equal_torchs() {
    let golden = tensors(&fixture("adamw/golden.safetensors"));
    let names = ["w", "b"];
    let start = names.map(|name| (name.to_string(), golden[&format!("start.{name}")].copy()));
    let params = Params::trained(start.into(), Kind::Float).unwrap();
    let settings = Settings { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1, decay_all: false, clip: 1.0 };
    let mut optimizer = Optimizer::new(&params, settings).unwrap();
    let (mut clipped, mut worst) = (0, 0f64);
    for n in 0..10 {
        let grads = names.map(|name| golden[&format!("grads.{n}.{name}")].copy());
        let lr = golden["lr"].double_value(&[n]);
        let Outcome::Done(norm) = optimizer.step(&grads, lr).unwrap() else { panic!("step {n} was skipped") };
        let expected = golden["norm"].double_value(&[n]);
        assert!((norm - expected).abs() < 1e-5 * expected, "step {n}: norm {norm}, torch's {expected}");
        clipped += usize::from(norm > 1.0);
        for (ours, name) in params.masters().iter().zip(names) {
            let theirs = &golden[&format!("after.{n}.{name}")];
            let off = (ours - theirs).abs().max().double_value(&[]);
            worst = worst.max(off / theirs.abs().max().double_value(&[]));
        }
    }
    assert!((1..10).contains(&clipped), "{clipped} steps were clipped");
    assert!(worst < 1e-6, "{worst}");
}
