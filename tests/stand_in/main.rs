//! The path of the code on a GPU, on machines without one: libtorch's own CUDA half runs on a stand-in that gives out
//! memory, holds captures to CUDA's rules and writes down every launch, but computes nothing (`gpu/gpu.h`). It shows what
//! is recorded, where the host waits, what memory is held and that nothing is on the wrong device; every number
//! is 0, so the numbers themselves are for `tests/gpu.rs`, on a GPU.

#![expect(clippy::disallowed_methods, reason = "tests make their own files")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot set up its case fails")]

mod decoding;
mod inside;
mod journal;
mod memory;
mod runs;
#[path = "../support/shape.rs"]
mod shape;
#[expect(dead_code, reason = "other tests measure more")]
#[path = "../support/mod.rs"]
mod support;

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// What to preload, built once; none where libtorch has no CUDA half or its headers are not there.
fn preload(test: &str) -> Option<String> {
    static BUILT: OnceLock<Result<String, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gpu-stand-in");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/gpu-stand-in");
        let built = Command::new(script).arg(&folder).output().unwrap();
        let said = String::from_utf8_lossy(&built.stderr).trim().to_string();
        match built.status.code() {
            Some(0) => Ok(std::fs::read_to_string(folder.join("preload")).unwrap().trim().to_string()),
            Some(77) => Err(said),
            _ => panic!("the stand-in does not build: {said}"),
        }
    });
    if let Err(why) = built {
        let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
    }
    built.clone().ok()
}

/// The command on so many stand-in GPUs; what is asked of them is written down in this folder.
fn on_stand_in(mut command: Command, preload: &str, devices: usize, dir: &Path) -> Command {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.file_stem().is_some_and(|name| name == "journal") {
            std::fs::remove_file(path).unwrap();
        }
    }
    command.env("LD_PRELOAD", preload).env("STAND_IN_JOURNAL", dir.join("journal"));
    command.env("STAND_IN_DEVICES", devices.to_string());
    for name in ["STAND_IN_MEMORY", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"] {
        command.env_remove(name);
    }
    command
}
