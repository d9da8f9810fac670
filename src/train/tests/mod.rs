//! The loop of MiniLLM held to float64: its updates (`follows`), and what its gradients estimate (`estimate`).

mod estimate;
mod follows;

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use super::{News, Watch};
use crate::model::{CausalLm, Design};

use crate::weights::params::Params;

struct Silent;

impl Watch for Silent {
    fn update(&mut self, _: News<'_>) {}
    fn evaluated(&mut self, _: u64, _: &[(&'static str, f64)]) {}
    fn preparing(&mut self, _: &'static str, _: usize, _: usize) {}
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A copy of a model that computes in float64, with gradients.
fn wide(model: &CausalLm, design: Box<dyn Design>) -> CausalLm {
    let params = model.params();
    let copy = params.names().iter().cloned().zip(params.compute().iter().map(|t| t.detach().copy()));
    let params = Params::trained(copy.collect(), Kind::Double).unwrap();
    CausalLm::new(design, params, Kind::Double, Device::Cpu).unwrap()
}

/// A gradient as one row of float64.
fn flat(parts: &[Tensor]) -> Tensor {
    let rows: Vec<Tensor> = parts.iter().map(|t| t.detach().flatten(0, -1).to_kind(Kind::Double)).collect();
    Tensor::cat(&rows, 0)
}
