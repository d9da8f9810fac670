//! Several processes train as one does: the same updates whatever the world, faults that are named, signals that are
//! agreed on.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use retort::dist::{Launch, World, children};
use retort::error::Cause;
use retort::native::group::Store;
use tch::{Kind, Tensor};

use crate::learning::{chain, student};
use crate::minillm::School;
use crate::support::{Answer, command, fixture};
use crate::{Case, tensors, text_of};

/// Where a test that runs itself as ranks tells them to be ranks.
const AS_RANK: &str = "RETORT_TEST_AS_RANK";

/// How far apart the weights of two runs are, by the length of the way from where both began.
fn apart(case: &Case, one: &str, other: &str, begun: &Path) -> f64 {
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
fn alike(case: &Case, one: &str, other: &str) {
    let (a, b) = (case.metrics(one), case.metrics(other));
    assert_eq!(a.len(), b.len(), "{other}");
    for (a, b) in a.iter().zip(&b) {
        let flat = |line: &serde_json::Value| {
            let mut all = line.as_object().unwrap().clone();
            if let Some(eval) = all.remove("eval") {
                all.extend(eval.as_object().unwrap().clone());
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
fn beginning(case: &Case, settings: &[&str]) -> std::path::PathBuf {
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

/// A run that goes on until it is ended, in a world of so many.
struct Going<'c> {
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
    fn new(case: &'c Case, out: &str, settings: &[&str], size: &str) -> Going<'c> {
        let err = std::fs::File::create(case.path(&format!("{out}.err"))).unwrap();
        let arguments = case.arguments(out, settings, &["--nproc", size]);
        let child = command(&arguments).stdout(Stdio::null()).stderr(err).spawn().unwrap();
        Going { case, child, out: out.into() }
    }

    /// Waits until so many updates are written down.
    fn after(self, updates: usize) -> Self {
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

    fn tell(&self, rank: usize, signal: i32) {
        // SAFETY: a child of a child of this test, which has not been waited for.
        unsafe { libc::kill(self.of_rank(rank), signal) };
    }

    /// The exit code, and what was said.
    fn ends(mut self) -> (i32, String) {
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
    for (rank, signal, size, then) in
        [(1, libc::SIGKILL, "2", "4"), (0, libc::SIGKILL, "3", "1"), (1, libc::SIGSTOP, "2", "2")]
    {
        let out = format!("rank-{rank}-{signal}");
        let going = Going::new(&case, &out, &settings, size).after(5);
        going.tell(rank, signal);
        let (code, said) = going.ends();
        assert_eq!(code, 4, "{said}");
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

/// PyPI's torchrun starts the processes; `RETORT_PEER_PYTHON` is a Python that has torch.
#[test]
fn torchrun_launches_it() {
    let Some(python) = text_of("RETORT_PEER_PYTHON") else {
        eprintln!("SKIPPED: RETORT_PEER_PYTHON names no Python with torch, whose torchrun this is about");
        return;
    };
    let case = Case::new("sft", &fixture("score/llama/rows_prompt.jsonl"));
    let student = student(&case, "student", 32, 1);
    let settings = [student.as_str(), "train.steps=3", "train.batch=4"];
    let begun = beginning(&case, &settings);
    let mut torchrun = Command::new(python);
    torchrun.args(["-m", "torch.distributed.run", "--no-python", "--standalone", "--nproc-per-node", "2"]);
    torchrun.arg(env!("CARGO_BIN_EXE_retort")).args(case.arguments("two", &settings, &[]));
    torchrun.env("OMP_NUM_THREADS", "1").stdin(Stdio::null());
    let answer: Answer = crate::support::finish(torchrun, crate::LIMIT);
    assert_eq!(answer.code, 0, "{}", answer.err);
    case.good("one", &settings, &[]);
    let off = apart(&case, "one/final", "two/final", &begun);
    assert!(off < 1e-5, "{off} of the way apart");
    alike(&case, "one", "two");
}

/// What one rank of three finds in every exchange; the test below starts three of it.
#[test]
fn as_one_rank() {
    if text_of(AS_RANK).is_none() {
        return;
    }
    let launch = Launch::from_environment().unwrap().unwrap();
    let world = World::join(&launch, Duration::from_secs(20)).unwrap();
    let rank = world.rank() as f32;
    let of = |values: &[f32]| Tensor::from_slice(values);
    let values = |t: &Tensor| Vec::<f32>::try_from(t.flatten(0, -1)).unwrap();
    let (many, few) = (of(&[rank, 1.0, 0.5]).view([3, 1]), of(&[rank; 5]));
    world.all_reduce(&[many.shallow_clone(), few.shallow_clone()]).unwrap();
    assert_eq!((values(&many), values(&few)), (vec![3.0, 3.0, 1.5], vec![3.0; 5]));
    let gathered = world.all_gather(&of(&[rank, -rank])).unwrap();
    assert_eq!(gathered.iter().map(values).collect::<Vec<_>>(), [[0.0, 0.0], [1.0, -1.0], [2.0, -2.0]]);
    let given = of(&[rank, 7.0]);
    world.broadcast(&[given.shallow_clone()], 2).unwrap();
    assert_eq!(values(&given), [2.0, 7.0]);
    let part = world.reduce_scatter(&of(&[1.0, 10.0, 100.0 + rank])).unwrap();
    assert_eq!(values(&part), [[3.0, 30.0, 303.0][world.rank()]]);
    let words = ["", "two", "longer than two"];
    assert_eq!(
        world.gather_bytes(words[world.rank()].as_bytes()).unwrap(),
        words.map(|w| w.as_bytes().to_vec())
    );
    let third = [f64::MIN_POSITIVE, 1.0 / 3.0, -0.0][world.rank()];
    let all: Vec<u64> =
        world.gather_numbers(&[third]).unwrap().concat().iter().map(|x| x.to_bits()).collect();
    assert_eq!(all, [f64::MIN_POSITIVE, 1.0 / 3.0, -0.0].map(f64::to_bits));
    assert_eq!(world.sum(if rank == 1.0 { &[] } else { &[2.0, 1.0] }).unwrap(), [4.0, 2.0]);
    world.barrier().unwrap();
    // A signal at one is one at all.
    assert!(world.agree(Ok(())).is_ok());
    let own =
        if rank == 1.0 { Err(retort::error::Error::new(Cause::Stopped(15), "stopped")) } else { Ok(()) };
    assert_eq!(world.agree(own).unwrap_err().cause(), Cause::Stopped(15));
    world.barrier().unwrap();
}

#[test]
fn exchanges_give_every_rank_the_same() {
    let store = Store::open("127.0.0.1", 0, true, "test", Duration::from_secs(20)).unwrap();
    let start = |rank| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "processes::as_one_rank", "--nocapture"]).env(AS_RANK, "1");
        command.envs(children(rank, 3, store.port())).env("GLOO_SOCKET_IFNAME", "lo");
        command.stdout(Stdio::null()).spawn().unwrap()
    };
    let ranks: Vec<Child> = (0..3).map(start).collect();
    for (rank, mut child) in ranks.into_iter().enumerate() {
        assert!(child.wait().unwrap().success(), "rank {rank}");
    }
}
