//! One safetensors file: mapped, its header checked before anything is believed.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::{Dtype as FileType, SafeTensorError, SafeTensors};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use tch::Kind;

use crate::error::{Error, Result};

/// The longest header that is read. A model of a thousand layers has one of a few MiB.
const LONGEST_HEADER: u64 = 32 << 20;

/// A mapped file and what its header says.
#[derive(Debug, Clone)]
pub struct MappedFile {
    path: PathBuf,
    map: Arc<Mmap>,
    tensors: Vec<Stored>,
}

/// One tensor of a file: where its bytes are.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its name in the file.
    pub name: String,
    /// The element type, or the file's word for one that is not a float type.
    pub kind: Result<Kind, String>,
    /// Its shape.
    pub shape: Vec<i64>,
    range: Range<usize>,
}

impl Stored {
    /// Where its bytes are in the file.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }
}

impl MappedFile {
    /// Maps a file and checks its header: sizes, offsets, overlaps, names that occur twice.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_inner(path).map_err(|e| e.or_file(path))
    }

    fn open_inner(path: &Path) -> Result<Self> {
        // Asked before it is opened: opening a pipe would wait for a writer.
        let meta = std::fs::metadata(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::data("a weight file is missing"),
            _ => Error::io("cannot read", path, &e),
        })?;
        if !meta.is_file() {
            return Err(Error::data("not a file").expected("safetensors"));
        }
        if meta.len() < 8 {
            return Err(Error::data("a safetensors file is too short")
                .expected("8 bytes or more")
                .found(meta.len()));
        }
        let file = File::open(path).map_err(|e| Error::io("cannot read", path, &e))?;
        // SAFETY: the file is only read. One that another process cuts short while it is mapped ends
        // this process, as it does for every program that maps a file.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("cannot map", path, &e))?;
        let header = header(&map)?;
        refuse_repeated_names(header)?;
        let (_, metadata) = SafeTensors::read_metadata(&map).map_err(|e| explain(&e))?;
        let start = 8 + header.len();
        let mut tensors = Vec::new();
        for (name, info) in metadata.tensors() {
            if name.contains('\0') {
                return Err(Error::data("a tensor's name has a NUL in it").field(name));
            }
            let shape = info.shape.iter().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect();
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            tensors.push(Stored { name, kind: float_kind(info.dtype), shape, range });
        }
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(MappedFile { path: path.to_path_buf(), map: Arc::new(map), tensors })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its tensors, sorted by name.
    pub fn tensors(&self) -> &[Stored] {
        &self.tensors
    }

    /// A tensor's bytes, in the mapped file.
    pub fn bytes(&self, tensor: &Stored) -> &[u8] {
        &self.map[tensor.range.clone()]
    }

    /// What keeps the bytes alive.
    pub fn owner(&self) -> Arc<Mmap> {
        self.map.clone()
    }
}

/// The header's bytes, where its length is believable.
fn header(file: &[u8]) -> Result<&[u8]> {
    let (length, rest) =
        file.split_first_chunk::<8>().ok_or_else(|| Error::data("a safetensors file is too short"))?;
    let length = u64::from_le_bytes(*length);
    if length > LONGEST_HEADER || length > rest.len() as u64 {
        return Err(Error::data("not a safetensors file, or one that was cut short")
            .field("header length")
            .expected(format!("at most {}", LONGEST_HEADER.min(rest.len() as u64)))
            .found(length));
    }
    Ok(&rest[..length as usize])
}

/// The safetensors crate keeps the last of two equal names; here that is an error.
fn refuse_repeated_names(header: &[u8]) -> Result<()> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of tensors")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
            let mut seen = HashSet::new();
            while let Some(name) = map.next_key::<String>()? {
                map.next_value::<IgnoredAny>()?;
                if let Some(name) = seen.replace(name) {
                    return Err(serde::de::Error::custom(format!("the name {name:?} occurs twice")));
                }
            }
            Ok(())
        }
    }
    let mut json = serde_json::Deserializer::from_slice(header);
    json.deserialize_map(Names)
        .map_err(|e| Error::data("the header of a safetensors file is not valid").found(e))
}

fn explain(e: &SafeTensorError) -> Error {
    let what = match e {
        SafeTensorError::MetadataIncompleteBuffer => "the file is shorter or longer than its header says",
        SafeTensorError::InvalidOffset(_) => "tensors overlap, or leave a gap, or end before they begin",
        SafeTensorError::TensorInvalidInfo => "a tensor's shape and its bytes differ",
        SafeTensorError::ValidationOverflow => "a tensor's size does not fit a 64-bit number",
        _ => "the header of a safetensors file is not valid",
    };
    match e {
        SafeTensorError::InvalidOffset(name) => Error::data(what).field(name.as_str()),
        _ => Error::data(what).found(e),
    }
}

fn float_kind(dtype: FileType) -> Result<Kind, String> {
    match dtype {
        FileType::F64 => Ok(Kind::Double),
        FileType::F32 => Ok(Kind::Float),
        FileType::F16 => Ok(Kind::Half),
        FileType::BF16 => Ok(Kind::BFloat16),
        other => Err(format!("{other:?}")),
    }
}
