//! Compiles the C++ shim (`src/native/`, with stand-ins for gloo's headers) against the libtorch that torch-sys
//! found, and tells the linker where libtorch is, so that the binary starts from any folder without LD_LIBRARY_PATH.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

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
    for file in ["shim.cpp", "cuda.cpp", "dist.cpp", "shim.h", "stand-in"] {
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
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("no OUT_DIR")?).join("libretort_cuda.so");
    let beside_torch = lib.join("../../nvidia/cu13/include");
    let toolkit = std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("include"));
    let headers = [Some(beside_torch), toolkit]
        .into_iter()
        .flatten()
        .find(|dir| dir.join("cuda_runtime_api.h").exists() && dir.join("crt/host_defines.h").exists());
    let built = headers.is_some_and(|headers| {
        let mut build = shim(include);
        build.flag("-isystem").flag(&headers);
        let mut command = build.get_compiler().to_command();
        command.args(["-shared", "-o"]).arg(&out).arg("src/native/cuda.cpp");
        command.output().is_ok_and(|o| {
            if !o.status.success() {
                let text = String::from_utf8_lossy(&o.stderr);
                let first = text.lines().find(|l| l.contains("error")).unwrap_or("unknown");
                println!("cargo:warning=the CUDA half did not compile, this binary is for the CPU: {first}");
            }
            o.status.success()
        })
    });
    if !built {
        #[expect(
            clippy::disallowed_methods,
            reason = "an empty file in cargo's own folder, before there is a store"
        )]
        std::fs::write(&out, [])?;
    }
    Ok(())
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
