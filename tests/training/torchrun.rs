//! PyPI's torchrun starts the processes, and starts them again; `RETORT_PEER_PYTHON` is a Python that has torch.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::learning::student;
use crate::processes::{alike, apart, beginning};
use crate::support::{Answer, fixture};
use crate::{Case, text_of};

/// torchrun with two processes of the program; none, with one loud line, where there is no torchrun.
fn torchrun(flags: &[&str], arguments: &[String]) -> Option<Command> {
    let Some(python) = text_of("RETORT_PEER_PYTHON") else {
        eprintln!("SKIPPED: RETORT_PEER_PYTHON names no Python with torch, whose torchrun this is about");
        return None;
    };
    let mut command = Command::new(python);
    command.args(["-m", "torch.distributed.run", "--no-python", "--standalone", "--nproc-per-node", "2"]);
    command.args(flags).arg(env!("CARGO_BIN_EXE_retort")).args(arguments);
    command.env("OMP_NUM_THREADS", "1").stdin(Stdio::null());
    Some(command)
}

#[test]
fn torchrun_launches_it() {
    let case = Case::new("sft", &fixture("score/llama/rows_prompt.jsonl"));
    let student = student(&case, "student", 32, 1);
    let settings = [student.as_str(), "train.steps=3", "train.batch=4"];
    let Some(command) = torchrun(&[], &case.arguments("two", &settings, &[])) else { return };
    let begun = beginning(&case, &settings);
    let answer: Answer = crate::support::finish(command, crate::LIMIT);
    assert_eq!(answer.code, 0, "{}", answer.err);
    case.good("one", &settings, &[]);
    let off = apart(&case, "one/final", "two/final", &begun);
    assert!(off < 1e-5, "{off} of the way apart");
    alike(&case, "one", "two");
}

/// The process of rank 1 of a run.
fn rank_1_of(run: &str) -> Option<i32> {
    let all =
        std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let has = |pid: i32, file: &str, wanted: &str| {
        let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        bytes.split(|b| *b == 0).any(|word| word == wanted.as_bytes())
    };
    all.into_iter().find(|&pid| has(pid, "environ", "RANK=1") && has(pid, "cmdline", run))
}

/// A rank that is killed ends the start; the next one goes on from the last checkpoint, and every update is there once.
#[test]
fn torchruns_next_start_goes_on() {
    let case = Case::new("sft", &fixture("score/llama/rows_prompt.jsonl"));
    let student = student(&case, "student", 32, 1);
    let settings =
        [student.as_str(), "train.steps=120", "train.batch=4", "train.save_every=5", "dist.timeout=20"];
    let arguments = case.arguments("run", &settings, &["--resume"]);
    let Some(mut command) = torchrun(&["--max-restarts", "2"], &arguments) else { return };
    let err = std::fs::File::create(case.path("err")).unwrap();
    let mut child = command.stdout(Stdio::null()).stderr(err).spawn().unwrap();
    let said = || std::fs::read_to_string(case.path("err")).unwrap();
    let begun = Instant::now();
    let lines =
        || std::fs::read_to_string(case.path("run/metrics.jsonl")).map_or(0, |text| text.lines().count());
    while lines() < 12 {
        assert!(begun.elapsed() < crate::LIMIT, "no update: {}", said());
        std::thread::sleep(Duration::from_millis(5));
    }
    let victim = rank_1_of(&case.text("run")).unwrap();
    // SAFETY: a process of this test's run.
    unsafe { libc::kill(victim, libc::SIGKILL) };
    while child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < crate::LIMIT, "it does not end: {}", said());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(child.wait().unwrap().success(), "{}", said());
    // One start that ended, and one that was gone on with from its checkpoint.
    let begun = said().matches("without data.valid nothing is evaluated").count();
    assert_eq!(begun, 2, "{}", said());
    let steps: Vec<u64> = case.metrics("run").iter().filter_map(|line| line["step"].as_u64()).collect();
    assert_eq!(steps, (1..=120).collect::<Vec<u64>>());
}
