//! Reading what transformers computed (`tests/golden/` makes it), and comparing.

use std::collections::HashMap;
use std::path::PathBuf;

use retort::weights::safetensors::MappedFile;
use tch::{Device, Kind, Tensor};

/// A folder of fixtures.
pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The tensors of a golden file.
pub struct Golden(HashMap<String, Tensor>);

impl Golden {
    pub fn open(folder: &str) -> Golden {
        let path = fixture(folder).join("golden.safetensors");
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.tensors().into_iter().map(|(name, t)| {
            let kind = match t.dtype() {
                safetensors::Dtype::I64 => Kind::Int64,
                safetensors::Dtype::F32 => Kind::Float,
                other => panic!("{name} is {other:?}"),
            };
            let shape: Vec<i64> = t.shape().iter().map(|&d| d as i64).collect();
            (name.to_string(), Tensor::from_data_size(t.data(), &shape, kind))
        });
        Golden(tensors.collect())
    }

    pub fn get(&self, name: &str) -> Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("no {name} in the golden file")).shallow_clone()
    }

    /// The names that begin with `prefix`, without it, sorted.
    pub fn under(&self, prefix: &str) -> Vec<String> {
        let mut names: Vec<String> =
            self.0.keys().filter_map(|n| n.strip_prefix(prefix).map(String::from)).collect();
        names.sort();
        names
    }

    pub fn ints(&self, name: &str) -> Vec<i64> {
        Vec::try_from(self.get(name)).unwrap()
    }
}

/// 1 where a batch has a token, 0 where padding: [b, t, 1].
pub fn real(lengths: &[i64], tokens: i64, left: bool) -> Tensor {
    let place = Tensor::arange(tokens, (Kind::Int64, Device::Cpu));
    let lengths = Tensor::from_slice(lengths).view([-1, 1]);
    let real = if left { place.ge_tensor(&(-lengths + tokens)) } else { place.lt_tensor(&lengths) };
    real.unsqueeze(-1).to_kind(Kind::Float)
}

/// The largest difference.
pub fn worst(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// The norm of a difference.
pub fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).norm().double_value(&[])
}

/// The names of the tensors in a fixture's weight file.
pub fn stored_names(folder: &str) -> Vec<String> {
    let file = MappedFile::open(&fixture(folder).join("model.safetensors")).unwrap();
    file.tensors().iter().map(|t| t.name.clone()).collect()
}
