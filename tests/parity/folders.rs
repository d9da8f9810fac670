//! Folders as they are met: without the base prefix, with buffers of old, in shards, in float16.

use retort::model::{CausalLm, LoadOptions, Padding};
use tch::Kind;

use crate::golden::{Golden, fixture, real, worst};

fn agrees(name: &str, tolerance: f64) {
    let folder = format!("folders/{name}");
    let golden = Golden::open(&folder);
    let model = CausalLm::load(&fixture(&folder), LoadOptions::default()).unwrap();
    let ids = golden.get("ids");
    let mask = real(&golden.ints("lengths"), ids.size()[1], false);
    let _off = tch::no_grad_guard();
    let logits =
        model.logits(&model.hidden(&ids, &Padding::Right).unwrap()).unwrap().to_kind(Kind::Float) * &mask;
    let off = worst(&logits, &(golden.get("logits") * &mask));
    assert!(off < tolerance, "{name}: off by {off:.1e}");
}

#[test]
fn gpt2_without_prefix_with_buffers_and_a_tied_head_written_out() {
    agrees("gpt2-bare", 2e-5);
}

#[test]
fn gpt_neox_with_buffers() {
    agrees("gpt_neox-old", 2e-5);
}

#[test]
fn llama_in_shards_with_buffers() {
    agrees("llama-sharded", 2e-5);
}

#[test]
fn llama_in_float16() {
    agrees("llama-f16", 2e-5);
}

#[test]
fn opt_without_prefix() {
    agrees("opt-bare", 2e-5);
}
