//! Named tensors -> safetensors on disk, whole or not at all.

use std::io::Write;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::store::{Folder, WriteError};

/// The number format of written weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a float32.
    BF16,
}

impl Dtype {
    /// Bytes a number.
    pub fn bytes(self) -> usize {
        if self == Dtype::F32 { 4 } else { 2 }
    }
}

/// A tensor to be written: what it is called and how large it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// transformers' own name.
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
}

/// Writes the tensors into `folder`; `fill(i, w)` writes the little-endian bytes of tensor `i`.
pub fn write_safetensors(
    folder: &Folder,
    tensors: &[Entry],
    dtype: Dtype,
    fill: &mut dyn FnMut(usize, &mut dyn Write) -> Result<(), WriteError>,
) -> Result<()> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by(|&a, &b| tensors[a].name.cmp(&tensors[b].name));
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut at = 0;
    for &i in &order {
        let end = at + tensors[i].shape.iter().product::<usize>() * dtype.bytes();
        let name = match dtype {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
        };
        let entry = json!({"dtype": name, "shape": tensors[i].shape, "data_offsets": [at, end]});
        header.insert(tensors[i].name.clone(), entry);
        at = end;
    }
    let mut head = serde_json::to_vec(&Value::Object(header)).map_err(|e| Error::bug(e.to_string()))?;
    head.resize(head.len().next_multiple_of(8), b' ');
    folder.write("model.safetensors", |w| {
        w.write_all(&(head.len() as u64).to_le_bytes())?;
        w.write_all(&head)?;
        order.iter().try_for_each(|&i| fill(i, w))
    })
}
