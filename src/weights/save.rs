//! Writing safetensors as transformers writes them: sorted names, metadata `{"format":"pt"}` alone,
//! shards with an index where one file would be too long.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::store::{Folder, WriteError};

/// The longest file that is written, in bytes of tensors; more goes into shards.
const SHARD: u64 = 5_000_000_000;

/// The float types that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits, 5 of exponent.
    F16,
    /// 16 bits, 8 of exponent.
    BF16,
}

impl Dtype {
    /// Bytes a number takes.
    pub fn size(self) -> u64 {
        if self == Dtype::F32 { 4 } else { 2 }
    }

    /// Its name in a safetensors header.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
        }
    }

    /// Its name in config.json.
    pub fn torch_name(self) -> &'static str {
        match self {
            Dtype::F32 => "float32",
            Dtype::F16 => "float16",
            Dtype::BF16 => "bfloat16",
        }
    }

    /// Its name in tch.
    pub fn kind(self) -> Kind {
        match self {
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
        }
    }
}

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// Writes tensors as `model.safetensors`, or as shards with an index. `fill(i, w)` writes the bytes
/// of `tensors[i]`, little-endian, in `dtype`; it is called once for each, in the order of the names.
pub fn write_safetensors(
    folder: &Folder,
    tensors: &[Entry],
    dtype: Dtype,
    fill: &mut dyn FnMut(usize, &mut dyn Write) -> Result<(), WriteError>,
) -> Result<()> {
    write_shards(folder, tensors, dtype, SHARD, fill)
}

fn write_shards(
    folder: &Folder,
    tensors: &[Entry],
    dtype: Dtype,
    most: u64,
    fill: &mut dyn FnMut(usize, &mut dyn Write) -> Result<(), WriteError>,
) -> Result<()> {
    let size = |i: usize| tensors[i].shape.iter().product::<usize>() as u64 * dtype.size();
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by(|&a, &b| tensors[a].name.cmp(&tensors[b].name));
    let mut shards: Vec<Vec<usize>> = vec![Vec::new()];
    let mut filled = 0;
    for i in order {
        if filled > 0 && filled + size(i) > most {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += size(i);
        if let Some(last) = shards.last_mut() {
            last.push(i);
        }
    }
    if let [only] = shards.as_slice() {
        return write_one(folder, "model.safetensors", tensors, only, dtype, fill);
    }
    let mut map = BTreeMap::new();
    for (n, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", n + 1, shards.len());
        write_one(folder, &name, tensors, shard, dtype, fill)?;
        map.extend(shard.iter().map(|&i| (tensors[i].name.clone(), name.clone())));
    }
    let total: u64 = (0..tensors.len()).map(size).sum();
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    write_json(folder, "model.safetensors.index.json", &index)
}

fn write_one(
    folder: &Folder,
    name: &str,
    tensors: &[Entry],
    which: &[usize],
    dtype: Dtype,
    fill: &mut dyn FnMut(usize, &mut dyn Write) -> Result<(), WriteError>,
) -> Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut end = 0u64;
    for &i in which {
        let begin = end;
        end += tensors[i].shape.iter().product::<usize>() as u64 * dtype.size();
        let entry = json!({"dtype": dtype.name(), "shape": tensors[i].shape, "data_offsets": [begin, end]});
        if header.insert(tensors[i].name.clone(), entry).is_some() {
            return Err(
                Error::bug("two tensors of one name are to be written").field(tensors[i].name.as_str())
            );
        }
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // The data begins at a multiple of eight, so that a mapped tensor is aligned.
    header.resize(header.len().next_multiple_of(8), b' ');
    folder.write(name, |w| {
        w.write_all(&(header.len() as u64).to_le_bytes())?;
        w.write_all(&header)?;
        for &i in which {
            let mut counted = Counted { inner: w, bytes: 0 };
            fill(i, &mut counted)?;
            let need = tensors[i].shape.iter().product::<usize>() as u64 * dtype.size();
            if counted.bytes != need {
                let e = Error::bug("a tensor was written with another size than announced");
                return Err(e.field(tensors[i].name.as_str()).expected(need).found(counted.bytes).into());
            }
        }
        Ok(())
    })
}

/// Counts what goes through.
struct Counted<'a> {
    inner: &'a mut dyn Write,
    bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Writes tensors that are in memory, on whatever device and of whatever float type.
pub fn write_tensors(folder: &Folder, tensors: &[(String, Tensor)], dtype: Dtype) -> Result<()> {
    write_safetensors(folder, &entries(tensors), dtype, &mut |i, w| write_bytes(&tensors[i].1, dtype, w))
}

/// The same into one file of this name, however long it gets.
pub fn write_tensors_to(
    folder: &Folder,
    name: &str,
    tensors: &[(String, Tensor)],
    dtype: Dtype,
) -> Result<()> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by(|&a, &b| tensors[a].0.cmp(&tensors[b].0));
    let fill = &mut |i: usize, w: &mut dyn Write| write_bytes(&tensors[i].1, dtype, w);
    write_one(folder, name, &entries(tensors), &order, dtype, fill)
}

fn entries(tensors: &[(String, Tensor)]) -> Vec<Entry> {
    let shape = |t: &Tensor| t.size().iter().map(|&d| d as usize).collect();
    tensors.iter().map(|(name, t)| Entry { name: name.clone(), shape: shape(t) }).collect()
}

/// Writes a tensor's numbers in this type, little-endian.
pub fn write_bytes(t: &Tensor, dtype: Dtype, w: &mut dyn Write) -> Result<(), WriteError> {
    let t = t.f_detach().and_then(|t| t.f_to_device(Device::Cpu)).map_err(Error::from)?;
    let t = t.f_to_kind(dtype.kind()).and_then(|t| t.f_contiguous()).map_err(Error::from)?;
    let mut bytes = vec![0u8; t.numel() * dtype.size() as usize];
    t.f_copy_data_u8(&mut bytes, t.numel()).map_err(Error::from)?;
    Ok(w.write_all(&bytes)?)
}

/// Writes a JSON file as people read it: indented, with a final newline.
pub fn write_json(folder: &Folder, name: &str, value: &Value) -> Result<()> {
    let mut text =
        serde_json::to_string_pretty(value).map_err(|e| Error::bug("JSON cannot be written").found(e))?;
    text.push('\n');
    folder.write_bytes(name, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::folder::WeightFiles;
    use crate::weights::names::{Naming, Spec};
    use crate::weights::params::{Params, Residence};

    const NAMING: Naming = Naming { prefix: "m.", head: "head.weight", embedding: "m.e", buffers: &[] };

    /// Written in shards and read again: the same numbers under the same names.
    #[test]
    fn shards_come_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::create(dir.path()).unwrap();
        let names = ["m.a", "m.b", "m.c"];
        let entries: Vec<Entry> =
            names.iter().map(|n| Entry { name: n.to_string(), shape: vec![2, 3] }).collect();
        write_shards(&folder, &entries, Dtype::F32, 30, &mut |i, w| {
            for k in 0..6 {
                w.write_all(&((10 * i + k) as f32).to_le_bytes())?;
            }
            Ok(())
        })
        .unwrap();
        assert!(dir.path().join("model-00003-of-00003.safetensors").exists());
        let files = WeightFiles::open(dir.path()).unwrap();
        let specs: Vec<Spec> = names.iter().map(|n| Spec::new(*n, [2, 3])).collect();
        let plan = files.plan(&NAMING, specs, false).unwrap();
        let params = Params::from_plan(&plan, Kind::Float, Device::Cpu, Residence::Mapped).unwrap();
        assert_eq!(params.get("m.b").unwrap().double_value(&[1, 2]), 15.0);
    }

    #[test]
    fn a_short_tensor_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::create(dir.path()).unwrap();
        let entry = [Entry { name: "a".into(), shape: vec![2] }];
        let e = write_safetensors(&folder, &entry, Dtype::F32, &mut |_, w| Ok(w.write_all(&[0; 4])?))
            .unwrap_err();
        assert_eq!(e.cause().exit_code(), 101);
        assert!(!dir.path().join("model.safetensors").exists());
    }
}
