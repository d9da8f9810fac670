//! Steps of decoding are recorded once and replayed, and the host waits for none of them.

use crate::inside::{CASES, TOKENS, run};
use crate::journal::{Journal, Line};

/// Steps between two looks of the host.
const UNSEEN: usize = 8;

/// Replays come eight in a row: nothing is launched, copied or waited for in between.
fn assert_replayed(part: &Journal, of: &str) {
    part.assert_clean(of);
    let [(_, replayed)] = part.replays()[..] else { panic!("{of}: {:?}", part.replays()) };
    // The first step is launched as it is before it is recorded, and so is a last one that stands alone.
    assert!(replayed + 2 >= TOKENS, "{of}: {replayed} of {TOKENS} steps are replays");
    let rows = part.replays_in_a_row();
    assert!(rows.len() <= TOKENS.div_ceil(UNSEEN), "{of}: {rows:?}");
}

/// What was recorded is what was launched right before: the same kernels of the same sizes in the same order.
fn assert_same_work(part: &Journal, of: &str) {
    let begun = part.0.iter().position(|line| line.what == "capture").unwrap();
    let before = Journal(part.0[..begun].to_vec()).work();
    let recorded = part.recorded();
    assert!(recorded.len() > 20, "{of}: {} pieces of work", recorded.len());
    let captured = part.0.iter().find(|line| line.what == "captured").unwrap();
    assert_eq!(captured.which, recorded.len().to_string(), "{of}");
    // After the step, libtorch fills the places of its random numbers.
    let fits = |after: usize| {
        let end = before.len() - after;
        before[end.saturating_sub(recorded.len())..end] == recorded[..]
    };
    let differ = |(a, b): (&Line, &Line)| (a != b).then(|| format!("{a:?} {b:?}"));
    let first = before.iter().rev().zip(recorded.iter().rev()).find_map(differ);
    assert!((0..4).any(fits), "{of}: {first:?}");
}

#[test]
fn every_architectures_step_is_recorded_once_and_replayed() {
    let test = "every_architectures_step_is_recorded_once_and_replayed";
    let Some(journal) = run(test, "inside::every_architecture_replies", 1) else { return };
    for case in CASES {
        let part = journal.part(case);
        assert_replayed(&part, case);
        assert_same_work(&part, case);
    }
}

#[test]
fn a_step_is_recorded_on_the_gpu_that_it_is_for() {
    let test = "a_step_is_recorded_on_the_gpu_that_it_is_for";
    let Some(journal) = run(test, "inside::the_second_gpu_replies", 2) else { return };
    let part = journal.part("llama3");
    assert_replayed(&part, "the second GPU");
    let on_device = ["kernel", "product", "recorded", "replay"];
    let elsewhere = part.0.iter().find(|l| on_device.contains(&l.what.as_str()) && l.device != 1);
    assert!(elsewhere.is_none(), "{elsewhere:?}");
}

/// In lockstep every step is one of both models. By coins the teacher's passes are chunks of many lengths, which are not
/// recorded.
#[test]
fn steps_of_both_models_of_a_mixture_are_recorded() {
    let test = "steps_of_both_models_of_a_mixture_are_recorded";
    let Some(journal) = run(test, "inside::two_models_reply", 1) else { return };
    for (form, models) in [("lockstep", 2), ("coins", 1)] {
        let part = journal.part(form);
        part.assert_clean(form);
        let replays = part.replays();
        assert_eq!(replays.len(), models, "{form}: {replays:?}");
        assert!(replays.iter().all(|(_, times)| times + 2 >= TOKENS), "{form}: {replays:?}");
    }
}

#[test]
fn what_cuda_forbids_in_a_capture_is_an_error_and_leaves_nothing_behind() {
    let test = "what_cuda_forbids_in_a_capture_is_an_error_and_leaves_nothing_behind";
    let Some(journal) = run(test, "inside::failed_captures_leave_nothing_behind", 1) else { return };
    // Copies of memory that is not pinned libtorch refuses before it asks.
    for (name, refused) in [("item", 1), ("in", 0), ("out", 0), ("synchronize", 1), ("fails", 0)] {
        assert_eq!(journal.part(name).count("refused"), refused, "{name}");
        let next = journal.part(&format!("after {name}"));
        next.assert_clean(name);
        assert_eq!((next.recorded().len(), next.count("replay")), (2, 3), "{name}");
    }
}
