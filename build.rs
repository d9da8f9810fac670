//! Compiles the C++ shim (`src/native/`, with stand-ins for gloo's headers) against the libtorch that torch-sys
//! found, and tells the linker where libtorch is, so that the binary starts from any folder without LD_LIBRARY_PATH.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let lib = std::env::var_os("DEP_TCH_LIBTORCH_LIB").ok_or("torch-sys did not say where libtorch is")?;
    let lib = PathBuf::from(lib);
    if !lib.join("libtorch_cpu.so").exists() && !lib.join("libtorch_cpu.dylib").exists() {
        return Err(format!(
            "no libtorch in {}: run `make setup`, or set LIBTORCH to a libtorch 2.11.0",
            lib.display()
        )
        .into());
    }
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    // A clone that is moved as a whole still finds the libtorch inside it.
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../../.torch/torch/lib");

    let include = lib.with_file_name("include");
    shim(&include)
        .flag("-isystem")
        .flag("src/native/stand-in")
        .files(["src/native/shim.cpp", "src/native/dist.cpp"])
        .try_compile("retort_shim")?;
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=dylib=torch_cpu");
    println!("cargo:rustc-link-lib=dylib=c10");
    cuda_half(&lib, &include)?;
    commit();
    Ok(())
}

fn shim(include: &Path) -> cc::Build {
    for file in ["shim.cpp", "cuda.cpp", "nccl.cpp", "dist.cpp", "shim.h", "stand-in"] {
        println!("cargo:rerun-if-changed=src/native/{file}");
    }
    let mut build = cc::Build::new();
    build.cpp(true).pic(true).std("c++17").flag("-fvisibility=hidden").warnings(false);
    for path in [include.to_path_buf(), include.join("torch/csrc/api/include")] {
        build.flag("-isystem").flag(path);
    }
    build
}

/// Builds the CUDA half as a library of its own, which the binary carries inside and loads where
/// libtorch_cuda.so is. It needs CUDA's headers alone: no toolkit, no GPU. Without them it is empty.
fn cuda_half(lib: &Path, include: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=CUDA_HOME");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("no OUT_DIR")?);
    let half = out.join("libretort_cuda.so");
    let beside_torch = lib.join("../../nvidia/cu13/include");
    let toolkit = std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("include"));
    let headers = [Some(beside_torch), toolkit]
        .into_iter()
        .flatten()
        .find(|dir| dir.join("cuda_runtime_api.h").exists() && dir.join("crt/host_defines.h").exists());
    let linked = headers.is_some_and(|headers| {
        // NCCL's header is that of torch's own NCCL, or the stand-in for it: never another version's.
        let nccl = lib.join("../../nvidia/nccl/include");
        let nccl = if nccl.join("nccl.h").exists() { nccl } else { "src/native/stand-in/nccl".into() };
        let mut build = shim(include);
        for dir in [nccl, headers, "src/native/stand-in/cuda".into()] {
            build.flag("-isystem").flag(dir);
        }
        // Both at once: c10d's headers take long.
        let parts = [
            ("cuda", "the CUDA half did not compile, this binary is for the CPU"),
            ("nccl", "NCCL's part did not compile, GPUs exchange over the processors' memory"),
        ];
        let begun = parts.map(|(name, without)| (object(&build, &out, name), without));
        let made = begun.map(|((object, compiling), without)| ended(compiling, without).then_some(object));
        let [Some(first), second] = made else { return false };
        let mut link = build.get_compiler().to_command();
        link.args(["-shared", "-o"]).arg(&half).arg(first).args(second);
        ended(link.stderr(Stdio::piped()).spawn(), "the CUDA half did not link, this binary is for the CPU")
    });
    if !linked {
        #[expect(
            clippy::disallowed_methods,
            reason = "an empty file in cargo's own folder, before there is a store"
        )]
        std::fs::write(&half, [])?;
    }
    Ok(())
}

/// Begins to compile a part of the CUDA half.
fn object(build: &cc::Build, out: &Path, name: &str) -> (PathBuf, std::io::Result<Child>) {
    let object = out.join(format!("half-{name}.o"));
    let mut command = build.get_compiler().to_command();
    command.args(["-c", "-o"]).arg(&object).arg(format!("src/native/{name}.cpp"));
    (object, command.stderr(Stdio::piped()).spawn())
}

/// Whether a compiler has done its work; else cargo says what follows, and why.
fn ended(begun: std::io::Result<Child>, without: &str) -> bool {
    let done = begun.and_then(Child::wait_with_output);
    let why = match &done {
        Ok(o) if o.status.success() => return true,
        Ok(o) => {
            let text = String::from_utf8_lossy(&o.stderr);
            text.lines().find(|line| line.contains("error")).unwrap_or("unknown").to_string()
        }
        Err(e) => e.to_string(),
    };
    println!("cargo:warning={without}: {why}");
    false
}

/// The commit for `--version`, where there is a git.
fn commit() {
    // A path that is not there (a worktree, an archive) would make cargo run this every time.
    for path in [".git/HEAD", ".git/refs/heads"].iter().filter(|path| Path::new(path).exists()) {
        println!("cargo:rerun-if-changed={path}");
    }
    let commit = Command::new("git")
        .args(["rev-parse", "--short=10", "HEAD"])
        .output()
        .ok()
        .filter(|o| o.status.success())
        .and_then(|o| String::from_utf8(o.stdout).ok())
        .unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=RETORT_COMMIT={}", commit.trim());
}
