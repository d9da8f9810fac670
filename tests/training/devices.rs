//! The CUDA half, which no test without a GPU can run: that every name in it is found where a whole libtorch is, that
//! it was built for that libtorch's NCCL, and that the stand-in for NCCL's header has its layouts. `RETORT_PEER_PYTHON`
//! is a Python with the CUDA build of torch.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use retort::native::cuda;

use crate::text_of;

/// The Python, and the folder of its packages; none where it has no CUDA build of torch 2.11.
fn peer(test: &str) -> Option<(String, PathBuf)> {
    let asked = "import os, torch; print(os.path.dirname(os.path.dirname(torch.__file__)), torch.version.cuda, \
                 torch.__version__)";
    let found = text_of("RETORT_PEER_PYTHON").and_then(|python| {
        let said = Command::new(&python).args(["-c", asked]).output().ok()?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let [packages, cuda, version] = said.split_whitespace().collect::<Vec<_>>()[..] else { return None };
        (cuda != "None" && version.starts_with("2.11.")).then(|| (python, PathBuf::from(packages)))
    });
    if found.is_none() {
        let why = "RETORT_PEER_PYTHON names no Python with a CUDA build of torch 2.11";
        let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn source(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

/// The entry points that the loader asks for.
fn entries() -> BTreeSet<String> {
    let text = source("src/native/cuda.rs") + &source("src/native/nccl.rs");
    text.split("entry(handle, c\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_string()).collect()
}

/// Loads the half as the binary does, and asks what NCCL libtorch was built with.
const LOAD: &str = r#"
import ctypes, os, sys, torch
lib = os.path.join(os.path.dirname(torch.__file__), "lib")
ctypes.CDLL(os.path.join(lib, "libtorch_cuda.so"), os.RTLD_NOW | os.RTLD_GLOBAL)
half = ctypes.CDLL(sys.argv[1], os.RTLD_NOW | os.RTLD_LOCAL)
for name in sys.argv[2:]:
    getattr(half, name)
half.retort_nccl_error.restype = ctypes.c_char_p
versions = [ctypes.c_int64(), ctypes.c_int64()]
code = half.retort_nccl_fits(*map(ctypes.byref, versions))
print(code, *[v.value for v in versions], half.retort_nccl_error().decode())
"#;

#[test]
fn every_name_of_the_cuda_half_is_found() {
    let Some((python, _)) = peer("every_name_of_the_cuda_half_is_found") else { return };
    let names = entries();
    assert!(names.contains("retort_cuda_graph_replay") && names.contains("retort_nccl_join"), "{names:?}");
    assert!(!cuda::half().is_empty(), "this was built without CUDA's headers");
    let dir = tempfile::tempdir().unwrap();
    let half = dir.path().join("half.so");
    std::fs::write(&half, cuda::half()).unwrap();
    let run = Command::new(&python).arg("-c").arg(LOAD).arg(&half).args(&names).output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{errors}");
    let numbers: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(numbers.first(), Some(&"0"), "{said}");
    assert_eq!(numbers[1], numbers[2], "libtorch's NCCL and the one that this was built for");
}

/// What follows from NCCL's header in what is handed to libtorch. The compiler tells the numbers in its complaint.
const LAYOUT: &str = r"
#define USE_DISTRIBUTED
#define USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
using Group = c10d::ProcessGroupNCCL;
using Options = Group::Options;
template <long... numbers> struct Layout;
Layout<NCCL_VERSION_CODE, sizeof(Group), alignof(Group), sizeof(Options), sizeof(Group::WorkNCCL),
       sizeof(c10d::NCCLComm), sizeof(ncclConfig_t), sizeof(ncclUniqueId), offsetof(Options, config),
       offsetof(Options, split_from), offsetof(Options, split_color), offsetof(Group, options_),
       offsetof(Group, devNCCLCommMap_), offsetof(Group, useNonblocking_), offsetof(c10d::NCCLComm, ncclComm_),
       offsetof(ncclConfig_t, version), offsetof(ncclConfig_t, blocking), offsetof(ncclConfig_t, netName),
       offsetof(ncclConfig_t, commName), offsetof(ncclConfig_t, nvlinkCentricSched), NCCL_SPLIT_NOCOLOR, ncclInt8,
       ncclUint8, ncclInt32, ncclInt64, ncclHalf, ncclFloat, ncclDouble, ncclBfloat16, ncclFloat8e4m3,
       ncclFloat8e5m2, ncclSuccess, ncclRemoteError, ncclInProgress> layout;
";

#[test]
fn the_stand_in_for_nccl_has_its_layouts() {
    let test = "the_stand_in_for_nccl_has_its_layouts";
    let Some((_, packages)) = peer(test) else { return };
    let (torch, nvidia) = (packages.join("torch/include"), packages.join("nvidia"));
    // CUDA's headers, whole with `crt/`, stand beside the libtorch that this was built with.
    let built = std::env::var_os("LIBTORCH").map_or_else(|| root().join(".torch/torch"), PathBuf::from);
    let cuda = built.join("../nvidia/cu13/include");
    let real = nvidia.join("nccl/include");
    if !real.join("nccl.h").exists() || !cuda.join("crt/host_defines.h").exists() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: no nccl.h at {}", real.display());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("layout.cpp");
    std::fs::write(&file, LAYOUT).unwrap();
    let ours = root().join("src/native/stand-in");
    let layout = |nccl: &Path| {
        let mut command = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()));
        command.args(["-std=c++17", "-fsyntax-only", "-fno-access-control", "-w"]).arg(&file);
        for dir in [&torch, &torch.join("torch/csrc/api/include"), nccl, &cuda, &ours.join("cuda")] {
            command.arg("-isystem").arg(dir);
        }
        let said = String::from_utf8_lossy(&command.output().unwrap().stderr).into_owned();
        let errors: Vec<&str> = said.lines().filter(|line| line.contains("error")).collect();
        let [error] = errors[..] else { panic!("{said}") };
        let numbers = error.split_once("Layout<").and_then(|(_, rest)| rest.split_once('>'));
        numbers.unwrap_or_else(|| panic!("{said}")).0.to_string()
    };
    let real = layout(&real);
    assert!(real.split(',').count() == 34, "{real}");
    assert_eq!(layout(&ours.join("nccl")), real, "the stand-in and NCCL's own header");
}
