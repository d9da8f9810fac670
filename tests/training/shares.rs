//! Processes that deal out masters, moments and gradients (`dist.zero`) make the update of those that hold all of it;
//! buckets that are exchanged while the backward pass runs are those that are exchanged behind it.

use crate::Case;
use crate::learning::{chain, student};
use crate::minillm::School;
use crate::processes::{alike, apart, beginning};

/// A bucket that holds a few hundred numbers, so that the tests' models have many of them.
const SMALL: &str = "dist.bucket=0.001";

/// Rows to learn, a teacher, and what a run of these policies asks for.
struct Class {
    school: School,
    folder: tempfile::TempDir,
}

impl Class {
    fn new() -> Class {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("rows.jsonl"), chain(2, 40, 14)).unwrap();
        std::fs::write(folder.path().join("text.txt"), "a c e b d f a b c d e f a d b e c f ".repeat(100))
            .unwrap();
        Class { school: School::new(20), folder }
    }

    fn case(&self, policy: &str) -> Case {
        Case::new(policy, &self.folder.path().join("rows.jsonl"))
    }

    fn settings(&self, case: &Case, more: &[&str]) -> Vec<String> {
        let given =
            ["train.steps=10", "train.batch=8", "train.lr=1e-3", "train.eval_every=0", "train.save_every=5"];
        let own = [student(case, "student", 32, 2), self.school.teacher.clone()];
        own.into_iter().chain(given.iter().chain(more).map(|s| s.to_string())).collect()
    }

    fn corpus(&self) -> String {
        format!("data.corpus={:?}", self.folder.path().join("text.txt").display().to_string())
    }
}

fn all<'s>(settings: &'s [String], more: &[&'s str]) -> Vec<&'s str> {
    settings.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

/// Every way of dealing out makes the weights of one process: with micro-batches that differ in number from rank to
/// rank, with text beside the replies, and in worlds that the buckets do not divide by.
#[test]
fn dealt_out_masters_moments_and_gradients_make_the_same_updates() {
    let class = Class::new();
    let corpus = class.corpus();
    let own: [(&str, &[&str]); 3] = [
        ("sft", &["train.micro_batch=1"]),
        ("kd", &["train.micro_batch=3", "train.clip=0.01"]),
        ("minillm", &["minillm.rollouts=16", "data.max_response=10", &corpus, "data.sequence=16"]),
    ];
    for (policy, more) in own {
        let case = class.case(policy);
        let settings = class.settings(&case, more);
        if policy == "sft" {
            // A head of its own, which no backward pass gives a gradient.
            let config = case.path("student/config.json");
            let text = std::fs::read_to_string(&config).unwrap();
            let untied = text.replace("\"tie_word_embeddings\":true", "\"tie_word_embeddings\":false");
            assert_ne!(text, untied);
            std::fs::write(&config, untied).unwrap();
        }
        let begun = beginning(&case, &all(&settings, &[]));
        case.good("one", &all(&settings, &[]), &[]);
        for (zero, size) in
            [("dist.zero=1", "2"), ("dist.zero=1", "3"), ("dist.zero=2", "2"), ("dist.zero=2", "3")]
        {
            let out = format!("{zero}-{size}");
            case.good(&out, &all(&settings, &[SMALL, zero]), &["--nproc", size]);
            alike(&case, "one", &out);
            let off = apart(&case, "one/final", &format!("{out}/final"), &begun);
            assert!(off < 1e-5, "{policy}, {out}: {off} of the way apart");
        }
    }
}

/// What is summed while the backward pass still runs, bucket by bucket, is to the bit what is summed in one piece: in
/// float32 and in bfloat16, and with blocks that are computed twice. (A norm is a sum too: what is clipped by it may differ.)
#[test]
fn buckets_change_no_bit() {
    let class = Class::new();
    for (dtype, recompute) in [("f32", "train.recompute=false"), ("bf16", "train.recompute=true")] {
        let case = class.case("kd").computes_in(dtype);
        let settings = class.settings(&case, &["train.micro_batch=2", "train.clip=0", recompute]);
        let two = |out: &str, more: &[&str]| {
            case.good(out, &all(&settings, more), &["--nproc", "2"]);
            case.bytes(out, "final/model.safetensors")
        };
        let whole = two("whole", &[]);
        assert!(whole == two("small", &[SMALL]), "{dtype}: buckets");
        assert!(whole == two("parts", &[SMALL, "dist.zero=1"]), "{dtype}: parts");
    }
}

/// A run goes on with any number of processes, whatever each of them held.
#[test]
fn a_run_goes_on_with_other_parts() {
    let class = Class::new();
    let case = class.case("sft");
    let settings = class.settings(&case, &["train.micro_batch=2", "train.schedule=constant"]);
    let begun = beginning(&case, &all(&settings, &[]));
    case.good("one", &all(&settings, &[]), &[]);
    let ways: [[(&str, &[&str]); 2]; 3] = [
        [("dist.zero=2", &["--nproc", "2"]), ("dist.zero=0", &[])],
        [("dist.zero=1", &["--nproc", "3"]), ("dist.zero=2", &["--nproc", "2"])],
        [("dist.zero=0", &[]), ("dist.zero=2", &["--nproc", "3"])],
    ];
    for (n, [(first, flags), (then, other)]) in ways.into_iter().enumerate() {
        let out = format!("way-{n}");
        case.good(&out, &all(&settings, &[SMALL, first, "train.steps=5"]), flags);
        let saved = case.path(&out).join("checkpoints/step-5");
        let moments = |name: &str| saved.join(name).exists();
        let parts = flags.get(1).map_or(0, |size| size.parse::<usize>().unwrap());
        assert_eq!(moments("optimizer.safetensors"), parts == 0, "{out}");
        let named = |n: usize| moments(&format!("optimizer-{n:05}-of-{parts:05}.safetensors"));
        assert!((1..=parts).all(named), "{out}");
        let resumed = [&["--resume"], other].concat();
        case.good(&out, &all(&settings, &[SMALL, then]), &resumed);
        let off = apart(&case, "one/final", &format!("{out}/final"), &begun);
        assert!(off < 1e-5, "{out}: {off} of the way apart");
    }
}

/// The float32 masters behind bfloat16 are saved and gone on from to the bit, dealt out or not.
#[test]
fn dealt_out_masters_of_bfloat16_go_on() {
    let class = Class::new();
    let case = class.case("sft").computes_in("bf16");
    let more = ["train.micro_batch=2", "train.schedule=constant", "train.clip=0"];
    let settings = class.settings(&case, &more);
    let two = |out: &str, more: &[&str], flags: &[&str]| {
        case.good(out, &all(&settings, more), &[&["--nproc", "2"], flags].concat());
        case.bytes(out, "final/model.safetensors")
    };
    let whole = two("whole", &[], &[]);
    for (n, (first, then)) in
        [("dist.zero=1", "dist.zero=0"), ("dist.zero=0", "dist.zero=1")].into_iter().enumerate()
    {
        let out = format!("way-{n}");
        two(&out, &[SMALL, first, "train.steps=5"], &[]);
        assert!(whole == two(&out, &[SMALL, then], &["--resume"]), "{first}, then {then}");
    }
}

/// What needs a whole gradient or whole masters is refused before the processes meet.
#[test]
fn what_needs_the_whole_is_refused() {
    let class = Class::new();
    let case = class.case("minillm");
    let settings = class.settings(&case, &["minillm.rollouts=16", "data.max_response=10", "dist.zero=1"]);
    for (key, value) in [("train.measure_distance", "true"), ("minillm.measure_variance", "2")] {
        let answer = case.run("run", &all(&settings, &[&format!("{key}={value}")]), &["--nproc", "2"]);
        assert_eq!(answer.code, 2, "{}", answer.err);
        assert!(answer.err.contains(key) && answer.err.contains("dist.zero"), "{}", answer.err);
        assert!(!case.path("run").exists());
    }
    let wrong = case.run("run", &all(&settings, &["dist.zero=3"]), &[]);
    assert!(wrong.code == 2 && wrong.err.contains("0, 1 or 2"), "{}", wrong.err);
}

/// A teacher whose blocks are dealt out says what the whole one says: to the ranks that ask it equally often and to those
/// that do not, in updates, in mixtures that are sampled, in evaluations.
#[test]
fn a_dealt_out_teacher_says_the_same() {
    let class = Class::new();
    let held = class.folder.path().join("held.jsonl");
    std::fs::write(&held, chain(3, 9, 10)).unwrap();
    let valid = format!("data.valid={:?}", held.display().to_string());
    let own: [(&str, &[&str]); 2] = [
        ("kd", &["train.micro_batch=1"]),
        ("minillm", &["minillm.rollouts=16", "data.max_response=10", "train.micro_batch=3"]),
    ];
    for (policy, more) in own {
        let case = class.case(policy);
        let settings = class.settings(&case, &[more, &[&valid, "train.eval_every=5"]].concat());
        let begun = beginning(&case, &all(&settings, &[]));
        for size in ["2", "3"] {
            let of = |out: &str, more: &[&str]| {
                let out = format!("{out}-{size}");
                case.good(&out, &all(&settings, more), &["--nproc", size]);
                out
            };
            let whole = of("whole", &[]);
            let dealt = of("dealt", &["dist.shard_teacher=true"]);
            let bytes = |out: &str| case.bytes(out, "final/model.safetensors");
            assert!(bytes(&whole) == bytes(&dealt), "{policy}, a world of {size}");
            assert_eq!(case.metrics(&whole), case.metrics(&dealt), "{policy}, a world of {size}");
            let parts = of("parts", &["dist.shard_teacher=true", "dist.zero=2", SMALL]);
            alike(&case, &whole, &parts);
            let off = apart(&case, &format!("{whole}/final"), &format!("{parts}/final"), &begun);
            assert!(off < 1e-5, "{policy}, a world of {size}: {off} of the way apart");
        }
    }
    let case = class.case("kd");
    let settings = class.settings(&case, &["dist.shard_teacher=true", "teacher.cache=states"]);
    let answer = case.run("run", &all(&settings, &[]), &["--nproc", "2"]);
    assert!(answer.code == 2 && answer.err.contains("teacher.cache"), "{}", answer.err);
}
