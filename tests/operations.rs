//! The operations of libtorch that a decoding step takes, held here: in a small model they cost more than
//! its arithmetic, and their number does not depend on the machine's mood as time does.

#![expect(clippy::unwrap_used, reason = "a test says so by panicking")]

use retort::decode::{Sampling, replies};
use retort::model::CausalLm;
use retort::native::{count, small};

#[path = "support/sized.rs"]
mod sized;

/// What a step takes: the operations of nine tokens a row less those of one.
fn a_step(model: &CausalLm, rows: usize) -> u64 {
    let prompts = vec![[5u32, 9, 2, 11].as_slice(); rows];
    let of = |tokens: usize| {
        let sampling = Sampling { max_new_tokens: tokens, ..Sampling::default() };
        count::operations(|| replies(model, &prompts, &sampling, rows)).unwrap().1
    };
    let (one, nine) = (of(1), of(9));
    assert_eq!((nine - one) % 8, 0, "a step costs what the one before it did");
    (nine - one) / 8
}

/// Three layers each; with this machine's own loops where it has them, and with libtorch's alone. A change
/// that needs fewer lowers the number here; one that needs more has a reason in its commit.
#[test]
fn a_step_takes_no_more_operations_than_it_did() {
    for (kind, own, libtorchs) in
        [("llama", 131, 754), ("mistral", 131, 754), ("gpt2", 228, 532), ("gpt_neox", 302, 624)]
    {
        let model = sized::model(kind);
        let here = a_step(&model, 2);
        assert_eq!(here, a_step(&model, 20), "{kind}: rows cost no operations");
        let _barred = small::bar();
        let barred = a_step(&model, 2);
        assert!(barred <= libtorchs, "{kind}: {barred} operations of libtorch's, not {libtorchs}");
        assert!(here <= own || here == barred, "{kind}: {here} operations, not {own}");
    }
}
