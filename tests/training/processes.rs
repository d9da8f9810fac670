//! Several processes train as one does: the same updates whatever the world, faults that are named, signals that are
//! agreed on.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tch::{Kind, Tensor};

use crate::learning::{chain, student};
use crate::minillm::School;
use crate::support::{command, fixture};
use crate::{Case, tensors};

/// How far apart the weights of two runs are, by the length of the way from where both began.
pub fn apart(case: &Case, one: &str, other: &str, begun: &Path) -> f64 {
    let of = |path: &Path| tensors(&path.join("model.safetensors"));
    let (a, b, start) = (of(&case.path(one)), of(&case.path(other)), of(begun));
    let square = |t: Tensor| t.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]);
    let (mut off, mut way) = (0.0, 0.0);
    for (name, tensor) in &a {
        off += square(tensor - &b[name]);
        way += square(tensor - &start[name]);
    }
    assert!(way > 0.0, "nothing was learnt");
    (off / way).sqrt()
}

/// Metrics agree to what the order of sums can do.
pub fn alike(case: &Case, one: &str, other: &str) {
    let (a, b) = (case.metrics(one), case.metrics(other));
    assert_eq!(a.len(), b.len(), "{other}");
    for (a, b) in a.iter().zip(&b) {
        let flat = |line: &serde_json::Value| {
            let mut all = line.as_object().unwrap().clone();
            for within in ["eval", "distance"] {
                if let Some(values) = all.remove(within) {
                    all.extend(values.as_object().unwrap().clone());
                }
            }
            all
        };
        let (a, b) = (flat(a), flat(b));
        assert!(a.keys().eq(b.keys()), "{other}: {:?} and {:?}", a.keys(), b.keys());
        for (key, x) in &a {
            match (x.as_f64(), b[key].as_f64()) {
                (Some(x), Some(y)) => {
                    assert!((x - y).abs() <= 2e-4 * x.abs().max(1e-2), "{other}: {key}: {x} and {y}")
                }
                _ => assert_eq!(x, &b[key], "{other}: {key}"),
            }
        }
    }
}

/// Where a run of no update to speak of leaves what the others begin with.
pub fn beginning(case: &Case, settings: &[&str]) -> std::path::PathBuf {
    let settings = [settings, &["train.steps=1", "train.lr=1e-30", "train.eval_every=0"]].concat();
    case.good("begun", &settings, &[]);
    case.path("begun/final")
}

/// The ten updates of worlds of one, two and four: weights, metrics, and the ids of what was sampled.
#[test]
fn worlds_of_one_two_and_four_make_the_same_updates() {
    let school = School::new(20);
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows.jsonl");
    std::fs::write(&rows, chain(2, 40, 14)).unwrap();
    let held = folder.path().join("held.jsonl");
    std::fs::write(&held, chain(3, 9, 10)).unwrap();
    let valid = format!("data.valid={:?}", held.display().to_string());
    let given =
        ["train.steps=10", "train.batch=8", "train.lr=1e-3", "train.eval_every=5", "train.save_every=5"];
    let own: [(&str, &[&str]); 3] = [
        ("sft", &["train.micro_batch=3"]),
        ("kd", &[]),
        // Collections are of four updates: behind the fifth and the tenth one is at hand.
        ("minillm", &["minillm.rollouts=16", "minillm.inner_epochs=2", "data.max_response=10"]),
    ];
    for (policy, more) in own {
        let case = Case::new(policy, &rows);
        let student = student(&case, "student", 32, 1);
        let settings = [&[student.as_str(), school.teacher.as_str(), &valid], &given[..], more].concat();
        let begun = beginning(&case, &settings);
        case.good("one", &settings, &[]);
        for size in ["2", "4"] {
            case.good(size, &settings, &["--nproc", size]);
            alike(&case, "one", size);
            let off = apart(&case, "one/final", &format!("{size}/final"), &begun);
            eprintln!("{policy}, a world of {size}: {off:.1e} of the way apart");
            assert!(off < 1e-5, "{policy}, a world of {size}: {off} of the way apart");
            if policy == "minillm" {
                for step in [5, 10] {
                    let ids = |out: &str| {
                        let path = case.path(out).join(format!("checkpoints/step-{step}/rollouts.json"));
                        let kept: serde_json::Value =
                            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
                        let rows = kept["collection"]["rows"].as_array().unwrap().clone();
                        rows.iter().map(|row| row["ids"].clone()).collect::<Vec<_>>()
                    };
                    assert!(ids("one").len() == 16 && ids("one") == ids(size), "other replies in {size}");
                }
            }
        }
    }
}

/// A regime's noise is that of the run, the update and the row, whoever goes through the row: of replies and of the text
/// beside them. The distance from the start is that of one process.
#[test]
fn noise_goes_with_its_rows_and_distances_are_of_all() {
    let school = School::new(20);
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows.jsonl");
    std::fs::write(&rows, chain(2, 40, 14)).unwrap();
    let case = Case::new("minillm", &rows);
    let student = student(&case, "student", 32, 1);
    let text = case.path("text.txt");
    std::fs::write(&text, "a c e b d f a b c d e f a d b e c f ".repeat(200)).unwrap();
    let corpus = format!("data.corpus={:?}", text.display().to_string());
    let settings = [
        &[student.as_str(), school.teacher.as_str(), &corpus, "data.sequence=16", "data.max_response=10"][..],
        &["train.steps=4", "train.batch=8", "train.lr=1e-3", "train.eval_every=0", "minillm.rollouts=16"],
        &["train.regime.kind=hoffer", "train.regime.reference_batch=2", "train.regime.noise=multiplicative"],
        &["train.measure_distance=true"],
    ]
    .concat();
    let begun = beginning(&case, &settings);
    case.good("one", &settings, &[]);
    assert_eq!(case.metrics("one").iter().filter(|line| line.get("distance").is_some()).count(), 4);
    case.good("three", &settings, &["--nproc", "3"]);
    alike(&case, "one", "three");
    let off = apart(&case, "one/final", "three/final", &begun);
    assert!(off < 1e-5, "{off} of the way apart");
}

/// The gradient noise scale is of one process: several refuse it before they meet, and go on without it.
#[test]
fn several_processes_refuse_the_noise_scale() {
    let case = Case::new("sft", &fixture("score/llama/rows_prompt.jsonl"));
    let student = student(&case, "student", 32, 1);
    let with = |steps| [student.as_str(), steps, "train.batch=4", "train.measure_noise=2"];
    for flags in [&["--nproc", "2"][..], &["--nproc", "2", "--dry-run"]] {
        let answer = case.run("run", &with("train.steps=2"), flags);
        assert_eq!(answer.code, 2, "{}", answer.err);
        let named = answer.err.contains("train.measure_noise") && answer.err.contains("a world of 2");
        assert!(named && answer.err.matches("retort: ").count() == 1, "{}", answer.err);
        assert!(!case.path("run").exists());
    }
    case.good("run", &with("train.steps=2"), &[]);
    let without = [&with("train.steps=4")[..], &["train.measure_noise=0"]].concat();
    case.good("run", &without, &["--resume", "--nproc", "2"]);
    let measured = case.metrics("run").iter().filter(|line| line.get("noise_scale").is_some()).count();
    assert_eq!(measured, 1);
}

/// A run that goes on until it is ended, in a world of so many.
pub struct Going<'c> {
    case: &'c Case,
    child: Child,
    out: String,
}

const LONG: [&str; 7] = [
    "train.steps=100000",
    "train.batch=4",
    "train.lr=1e-3",
    "train.eval_every=0",
    "train.save_every=2",
    "train.schedule=constant",
    "dist.timeout=10",
];

impl<'c> Going<'c> {
    pub fn new(case: &'c Case, out: &str, settings: &[&str], size: &str) -> Going<'c> {
        Going::with_fault(case, out, settings, size, None)
    }

    /// The same, killed at a step of what is written: see `RETORT_FAULT`.
    pub fn with_fault(
        case: &'c Case,
        out: &str,
        settings: &[&str],
        size: &str,
        fault: Option<String>,
    ) -> Going<'c> {
        let err = std::fs::File::create(case.path(&format!("{out}.err"))).unwrap();
        let arguments = case.arguments(out, settings, &["--nproc", size]);
        let mut command = command(&arguments);
        command.envs(fault.map(|fault| ("RETORT_FAULT", fault)));
        let child = command.stdout(Stdio::null()).stderr(err).spawn().unwrap();
        Going { case, child, out: out.into() }
    }

    /// Waits until so many updates are written down.
    pub fn after(self, updates: usize) -> Self {
        let path = self.case.path(&self.out).join("metrics.jsonl");
        let begun = Instant::now();
        while std::fs::read_to_string(&path).map_or(0, |text| text.lines().count()) < updates {
            assert!(begun.elapsed() < crate::LIMIT, "no update: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
        self
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.case.path(&format!("{}.err", self.out))).unwrap()
    }

    /// The process of a rank.
    fn of_rank(&self, rank: usize) -> i32 {
        let parent = self.child.id();
        let list = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
        let wanted = format!("RANK={rank}");
        let is = |pid: &&str| {
            let variables = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            variables.split(|b| *b == 0).any(|v| v == wanted.as_bytes())
        };
        list.split_whitespace().find(is).unwrap().parse().unwrap()
    }

    pub fn tell(&self, rank: usize, signal: i32) {
        // SAFETY: a child of a child of this test, which has not been waited for.
        unsafe { libc::kill(self.of_rank(rank), signal) };
    }

    /// The exit code, and what was said.
    pub fn ends(mut self) -> (i32, String) {
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < crate::LIMIT, "it does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
        (self.child.wait().unwrap().code().unwrap(), self.said())
    }
}

/// A rank that is killed or stands still ends the others, who name it; a world of another size goes on from what is
/// saved, and ends where one process would have.
#[test]
fn a_rank_that_is_gone_ends_the_others_and_another_world_goes_on() {
    let case = Case::new("sft", &fixture("score/llama/rows_prompt.jsonl"));
    let student = student(&case, "student", 32, 1);
    let settings = [&[student.as_str()], &LONG[..]].concat();
    let begun = beginning(&case, &settings);
    for (rank, signal, size, then, zero) in [
        (1, libc::SIGKILL, "2", "4", 0),
        (0, libc::SIGKILL, "3", "1", 2),
        (1, libc::SIGSTOP, "2", "2", 0),
        (1, libc::SIGSTOP, "3", "2", 1),
    ] {
        let out = format!("rank-{rank}-{signal}-{zero}");
        let zero = format!("dist.zero={zero}");
        let settings = [&settings[..], &[zero.as_str()]].concat();
        let going = Going::new(&case, &out, &settings, size).after(5);
        going.tell(rank, signal);
        let told = Instant::now();
        let (code, said) = going.ends();
        assert_eq!(code, 4, "{said}");
        // Gloo's own limit is five times the time-out.
        assert!(told.elapsed() < Duration::from_secs(40), "{out}: too late: {said}");
        let named = format!("rank {rank} is gone");
        assert!(said.lines().any(|l| l.starts_with("retort: ") && l.contains(&named)), "{said}");
        let done = case.metrics(&out).len();
        let steps = format!("train.steps={}", done + 3);
        let rest: Vec<&str> = settings.iter().copied().chain([steps.as_str()]).collect();
        case.good(&out, &rest, &["--resume", "--nproc", then]);
        let whole = format!("whole-{done}");
        if !case.path(&whole).exists() {
            case.good(&whole, &rest, &[]);
        }
        let off = apart(&case, &format!("{whole}/final"), &format!("{out}/final"), &begun);
        assert!(off < 1e-5, "{out}: {off} of the way apart");
        alike(&case, &whole, &out);
    }
}

/// SIGTERM at one rank is one at all: the update is finished, the state saved, and it goes on from there.
#[test]
fn a_signal_at_one_rank_is_agreed_on() {
    let case = Case::new("sft", &fixture("score/llama/rows_prompt.jsonl"));
    let student = student(&case, "student", 32, 1);
    let mut settings = [&[student.as_str()], &LONG[..]].concat();
    settings.retain(|s| !s.starts_with("train.save_every"));
    settings.push("train.save_every=0");
    for (rank, signal, code) in [(1, libc::SIGTERM, 143), (0, libc::SIGINT, 130)] {
        let out = format!("signal-{signal}");
        let going = Going::new(&case, &out, &settings, "2").after(3);
        going.tell(rank, signal);
        let (ended, said) = going.ends();
        assert_eq!(ended, code, "{said}");
        let last = case.metrics(&out).last().unwrap()["step"].as_u64().unwrap();
        let saved = case.path(&out).join(format!("checkpoints/step-{last}/manifest.json"));
        assert!(saved.exists(), "{} is not there: {said}", saved.display());
    }
    // A signal to the parent is handed on.
    let going = Going::new(&case, "parent", &settings, "2").after(3);
    // SAFETY: a child of this test that has not been waited for.
    unsafe { libc::kill(going.child.id() as i32, libc::SIGTERM) };
    let (ended, said) = going.ends();
    assert_eq!(ended, 143, "{said}");
}

/// An error of one rank is told by it and named by the others; a mistake in the config is told before they meet.
#[test]
fn what_goes_wrong_at_one_rank_is_told_by_all() {
    let case = Case::new("sft", &fixture("score/llama/rows_prompt.jsonl"));
    let student = student(&case, "student", 32, 1);
    let settings = [student.as_str(), "train.steps=2", "train.batch=2", "dist.timeout=10"];
    case.good("run", &settings, &["--nproc", "2"]);
    let again = case.run("run", &settings, &["--nproc", "2"]);
    assert_eq!(again.code, 2, "{}", again.err);
    assert!(again.err.contains("retort: the folder holds a run"), "{}", again.err);
    assert!(again.err.contains("retort: rank 1: rank 0 has ended: the folder holds a run"), "{}", again.err);
    let wrong = case.run("other", &[&settings[..], &["train.lr=-1"]].concat(), &["--nproc", "2"]);
    assert_eq!(wrong.code, 2, "{}", wrong.err);
    // One process has no use for the others' table, and may set it.
    case.good("alone", &settings, &[]);
}

/// Rank 0 alone talks: one document on stdout, one line of each update, one run directory.
#[test]
fn rank_0_alone_talks() {
    let case = Case::new("sft", &fixture("score/llama/rows_prompt.jsonl"));
    let student = student(&case, "student", 32, 1);
    let settings = [student.as_str(), "train.steps=3", "train.batch=4"];
    let answer = case.good("run", &settings, &["--nproc", "3"]);
    assert_eq!(answer.out.lines().count(), 1, "{}", answer.out);
    assert_eq!(case.metrics("run").len(), 3);
    assert_eq!(answer.err.matches("update 3/3").count(), 1, "{}", answer.err);
    let text = std::fs::read_to_string(case.path("run/metrics.jsonl")).unwrap();
    let exchange =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["seconds"]["exchange"].clone();
    assert!(text.lines().all(|line| exchange(line).as_f64().is_some_and(|s| s > 0.0)), "{text}");
    // A plan is of the world that would run, and is printed once.
    let of = |flags: &[&str]| -> serde_json::Value {
        let answer = case.good("planned", &[&settings[..], &["train.micro_batch=4"]].concat(), flags);
        serde_json::from_str(answer.out.trim()).unwrap()
    };
    let (one, two) = (of(&["--dry-run"]), of(&["--dry-run", "--nproc", "2"]));
    assert_eq!((one["processes"].as_u64(), two["processes"].as_u64()), (Some(1), Some(2)));
    assert!(two["memory"].as_u64() < one["memory"].as_u64(), "{one} {two}");
}
