//! What is done on the stand-in inside of a process that has it: the other tests start these, with it preloaded.

use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use retort::decode::{Form, Mixture, Request, Sampling, replies, sample_mixed};
use retort::error::{Error, Result};
use retort::model::{CausalLm, LoadOptions};
use retort::native::cuda;
use retort::weights::Residence;
use tch::{Device, Kind, Tensor};

use crate::journal::Journal;
use crate::support::{finish, fixture};
use crate::{on_stand_in, preload};

/// Every way in which the models differ in their kernels.
pub const CASES: [&str; 7] = ["gpt2", "opt-post", "llama3", "mistral", "qwen2-window", "qwen3", "gpt_neox"];
/// Tokens of a reply: two blocks of steps and some. The shortest context has no room for three.
pub const TOKENS: usize = 21;

/// Runs one of the tests below on so many stand-in GPUs; its journal, or none where there is no stand-in.
pub fn run(test: &str, inside: &str, devices: usize) -> Option<Journal> {
    let preload = preload(test)?;
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", inside, "--ignored", "--nocapture", "--test-threads", "1"]);
    command.env("OMP_NUM_THREADS", "1");
    let command = on_stand_in(command, &preload, devices, dir.path());
    let answer = finish(command, Duration::from_secs(300));
    assert_eq!(answer.code, 0, "{inside}: {}{}", answer.out, answer.err);
    assert!(answer.out.contains("1 passed"), "{}", answer.out);
    let mut journals = Journal::read(dir.path());
    assert_eq!(journals.len(), 1, "{inside} asked nothing of the stand-in");
    journals.pop()
}

/// Writes a line of one's own into the journal.
fn mark(line: &str) {
    let line = CString::new(line).unwrap();
    // SAFETY: the stand-in has a function of this name and type.
    unsafe {
        let found = libc::dlsym(libc::RTLD_DEFAULT, c"stand_in_mark".as_ptr());
        assert!(!found.is_null(), "no stand-in in this process");
        std::mem::transmute::<*mut libc::c_void, unsafe extern "C" fn(*const c_char)>(found)(line.as_ptr());
    }
}

fn load(case: &str, device: usize) -> CausalLm {
    cuda::load().unwrap();
    let folder: PathBuf = fixture("parity").join(case);
    let (kind, device) = (Kind::BFloat16, Device::Cuda(device));
    let options = LoadOptions { kind, device, residence: Residence::Mapped, ..LoadOptions::default() };
    CausalLm::load(&folder, options).unwrap()
}

const PROMPTS: [&[u32]; 2] = [&[5, 9, 12, 3], &[7]];

fn settings() -> Sampling {
    Sampling { max_new_tokens: TOKENS, top_p: 0.9, ..Sampling::default() }
}

fn reply(case: &str, device: usize) {
    let model = load(case, device);
    mark(case);
    let replies = replies(&model, &PROMPTS, &settings(), 2).unwrap();
    mark("end");
    assert!(replies.iter().all(|reply| reply.ids == [0; TOKENS]), "the stand-in answers zeros");
}

#[test]
#[ignore = "decoding starts it on the stand-in"]
fn every_architecture_replies() {
    CASES.iter().for_each(|case| reply(case, 0));
}

#[test]
#[ignore = "decoding starts it on the stand-in"]
fn the_second_gpu_replies() {
    reply("llama3", 1);
}

#[test]
#[ignore = "decoding starts it on the stand-in"]
fn two_models_reply() {
    let (student, teacher) = (load("llama3", 0), load("llama3", 0));
    let requests = PROMPTS.map(|prompt| Request { prompt, row: 0, sample: 0 });
    for (name, form) in [("lockstep", Form::Lockstep), ("coins", Form::COINS)] {
        let mixture = Mixture { teacher: &teacher, alpha: 0.2, form, scores: true, states: false };
        mark(name);
        let mut ended = 0;
        let mut count = |_, _| {
            ended += 1;
            Ok(())
        };
        sample_mixed(&student, mixture, &requests, &settings(), 2, &mut count).unwrap();
        mark("end");
        assert_eq!(ended, 2);
    }
}

/// What CUDA forbids in a capture is an error, and leaves nothing behind: another graph lives all the time, and the next
/// capture into its memory is a good one.
#[test]
#[ignore = "decoding starts it on the stand-in"]
fn failed_captures_leave_nothing_behind() {
    cuda::load().unwrap();
    let _off = tch::no_grad_guard();
    let device = Device::Cuda(0);
    let x = Tensor::ones([64, 64], (Kind::Float, device));
    let of_host = Tensor::ones([64, 64], (Kind::Float, Device::Cpu));
    let out = x.zeros_like();
    let work = || {
        out.shallow_clone().f_copy_(&x.f_matmul(&x)?)?;
        Ok(())
    };
    work().unwrap();
    let first = cuda::Graph::capture(0, work).unwrap();
    let forbidden: [(&str, &dyn Fn() -> Result<()>); 5] = [
        ("item", &|| x.f_sum(Kind::Float)?.f_double_value(&[]).map(|_| ()).map_err(Error::from)),
        ("in", &|| of_host.f_to_device(device).map(drop).map_err(Error::from)),
        ("out", &|| x.f_to_device(Device::Cpu).map(drop).map_err(Error::from)),
        ("synchronize", &|| cuda::synchronize(0)),
        ("fails", &|| Err(Error::user("a step that fails"))),
    ];
    for (name, step) in forbidden {
        mark(name);
        let why = cuda::Graph::capture(0, step).map(drop).unwrap_err().to_string();
        assert!(why.contains("captur") || why.contains("a step that fails"), "{name}: {why}");
        mark(&format!("after {name}"));
        let graph = cuda::Graph::capture(0, work).unwrap();
        (0..3).for_each(|_| graph.replay().unwrap());
        drop(graph);
        cuda::empty_cache().unwrap();
    }
    mark("end");
    first.replay().unwrap();
    let before = cuda::memory(0).unwrap();
    let held = Tensor::zeros([1 << 20], (Kind::Float, device));
    assert_eq!(cuda::memory(0).unwrap().allocated - before.allocated, 4 << 20);
    drop(held);
    assert_eq!(cuda::memory(0).unwrap().allocated, before.allocated);
}

/// Where the rows of these tests lie.
pub fn rows(dir: &Path) -> PathBuf {
    let path = dir.join("rows.jsonl");
    let row = |n: usize| {
        let ids: Vec<String> = (0..4 + n % 13).map(|t| (3 + (n * 31 + t * 7) % 300).to_string()).collect();
        format!("{{\"ids\": [{}], \"prompt_len\": {}}}\n", ids.join(", "), 1 + n % 3)
    };
    std::fs::write(&path, (0..48).map(row).collect::<String>()).unwrap();
    path
}
