//! Training held to torch: the optimizer's steps and whole updates against golden numbers; what a run
//! writes; runs that are stopped, killed and resumed.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its case fails")]

mod configs;
mod optimizer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use retort::native::tensor_over;
use retort::weights::safetensors::MappedFile;
use tch::Tensor;

/// A path below `tests/fixtures`.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The float tensors of a safetensors file.
fn tensors(path: &Path) -> HashMap<String, Tensor> {
    let file = MappedFile::open(path).unwrap();
    let of = |t: &retort::weights::safetensors::Stored| {
        let kind = t.kind.clone().unwrap();
        (t.name.clone(), tensor_over(file.owner(), t.range(), &t.shape, kind).unwrap().copy())
    };
    file.tensors().iter().map(of).collect()
}
