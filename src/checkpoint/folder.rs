//! Reading back the tensors that a run wrote.

use std::path::Path;

use tch::Tensor;

use crate::error::{Error, Result};
use crate::native::tensor_over;
use crate::weights::safetensors::MappedFile;

/// Every tensor of a file of ours, over the mapped file.
pub(super) fn read_tensors(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let file = MappedFile::open(path)?;
    let made = file.tensors().iter().map(|stored| {
        let kind = stored.kind.clone().map_err(|found| {
            Error::data("a tensor is not of a float type").file(path).field(stored.name.as_str()).found(found)
        })?;
        Ok((stored.name.clone(), tensor_over(file.owner(), stored.range(), &stored.shape, kind)?))
    });
    made.collect()
}
