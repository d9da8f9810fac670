//! The bytes of a GGUF file -> named values and named, bounded tensors.
//!
//! The file is hostile until shown otherwise: every length is compared with what is left of the file
//! before anything is allocated, so a file of n bytes costs O(n of its metadata) memory. After
//! [`Gguf::open`] every range in it lies inside the file, tensors do not overlap, and names and keys
//! occur once.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::dequant::{self, Kind};
use super::values::{Scalar, Value, scalar};
use crate::error::{Error, Result};

/// The most elements of one metadata array: eight times the largest vocabulary there is.
const MAX_ARRAY: u64 = 1 << 21;
/// The most tensors, and the most metadata keys: each costs memory of its own, unlike an array's elements.
const MAX_ENTRIES: usize = 1 << 16;
/// The longest key or tensor name, in bytes (the format's own limit for keys).
const MAX_NAME: u64 = 65_535;
/// Names are shown and written; ggml's own limit is 64 bytes.
const MAX_TENSOR_NAME: usize = 256;
/// The largest alignment that is believed.
const MAX_ALIGNMENT: i128 = 1 << 16;
/// Where `general.alignment` is not given.
const DEFAULT_ALIGNMENT: usize = 32;
/// The largest single dimension.
const MAX_DIM: u64 = 1 << 31;

/// The array type's id: not a scalar, and not allowed inside an array.
const ARRAY: u32 = 9;

/// A tensor of the file.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// ggml's name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Outermost dimension first, as Hugging Face writes shapes (the file has them reversed).
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub kind: Kind,
    pub(super) at: Range<usize>,
}

impl Tensor {
    /// How many numbers it has.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Never: a tensor of no numbers is refused when the file is opened.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An open GGUF file.
#[derive(Debug)]
pub struct Gguf {
    pub(super) path: PathBuf,
    pub(super) map: Mmap,
    pub(super) values: HashMap<String, Value>,
    /// The tensors, in the file's order.
    pub tensors: Vec<Tensor>,
    /// The format's version, 2 or 3.
    pub version: u32,
}

impl Gguf {
    /// Maps the file and reads all of it but the weights.
    pub fn open(path: &Path) -> Result<Self> {
        let map = map_file(path)?;
        let (version, values, tensors) = parse(&map).map_err(|e| e.or_file(path))?;
        Ok(Gguf { path: path.to_path_buf(), map, values, tensors, version })
    }

    /// The stored bytes of a tensor.
    pub fn bytes(&self, tensor: &Tensor) -> &[u8] {
        &self.map[tensor.at.clone()]
    }

    /// The size of the file.
    pub fn file_len(&self) -> usize {
        self.map.len()
    }
}

/// Maps a regular file that is not empty.
fn map_file(path: &Path) -> Result<Mmap> {
    let fail = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => Error::user("no such file").file(path),
        _ => Error::io("cannot read", path, &e),
    };
    // Asked before it is opened: opening a pipe would wait for a writer.
    let meta = std::fs::metadata(path).map_err(fail)?;
    if !meta.is_file() {
        return Err(Error::user("not a file").file(path).advice("import takes one .gguf file"));
    }
    if meta.len() == 0 {
        return Err(Error::data("the file is empty").file(path).expected("a GGUF file"));
    }
    let file = File::open(path).map_err(fail)?;
    // SAFETY: the map is only read, as bytes, for which every value is valid. A file that another
    // process shortens meanwhile ends this process with a signal, as with any mapped model.
    unsafe { Mmap::map(&file) }.map_err(fail)
}

type Parsed = (u32, HashMap<String, Value>, Vec<Tensor>);

fn parse(bytes: &[u8]) -> Result<Parsed> {
    let mut r = Reader { bytes, at: 0 };
    let version = header(&mut r)?;
    let n_tensors = r.count("number of tensors", 32)?;
    let n_values = r.count("number of metadata keys", 13)?;
    for (what, n) in [("number of tensors", n_tensors), ("number of metadata keys", n_values)] {
        if n > MAX_ENTRIES {
            return Err(Error::data("more than any model has")
                .field(what)
                .expected(format!("at most {MAX_ENTRIES}"))
                .found(n));
        }
    }
    let mut values = HashMap::new();
    for _ in 0..n_values {
        let key = r.name("metadata key")?;
        let value = r.value().map_err(|e| e.field(key.clone()))?;
        if values.insert(key.clone(), value).is_some() {
            return Err(Error::data("a metadata key occurs twice").field(key));
        }
    }
    let alignment = alignment(&values)?;
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..n_tensors {
        let tensor = r.tensor()?;
        if !names.insert(tensor.name.clone()) {
            return Err(Error::data("a tensor name occurs twice").field(tensor.name));
        }
        tensors.push(tensor);
    }
    place(&mut tensors, r.at, alignment, bytes.len())?;
    Ok((version, values, tensors))
}

fn header(r: &mut Reader) -> Result<u32> {
    let refuse = |found: String| Error::data("not a GGUF file that is read here").found(found);
    if r.take(4).ok() != Some(b"GGUF") {
        return Err(Error::data("not a GGUF file").expected("a file that begins with \"GGUF\""));
    }
    match r.u32("version")? {
        version @ (2 | 3) => Ok(version),
        1 => Err(refuse("GGUF version 1".into()).expected("version 2 or 3")),
        v if v & 0xffff == 0 && v != 0 => Err(refuse("a big-endian file".into()).expected("little-endian")),
        v => Err(refuse(format!("GGUF version {v}")).expected("version 2 or 3")),
    }
}

fn alignment(values: &HashMap<String, Value>) -> Result<usize> {
    match values.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::Integer(n)) if (1..=MAX_ALIGNMENT).contains(&n) && n.count_ones() == 1 => Ok(n as usize),
        Some(other) => {
            let found = if let Value::Integer(n) = other { n.to_string() } else { "another type".into() };
            let expected = format!("a power of two up to {MAX_ALIGNMENT}");
            Err(Error::data("bad alignment").field("general.alignment").expected(expected).found(found))
        }
    }
}

/// Moves the tensors' ranges from the data section to the file, and checks them there.
fn place(tensors: &mut [Tensor], infos_end: usize, alignment: usize, file_len: usize) -> Result<()> {
    let start = infos_end.next_multiple_of(alignment);
    for t in tensors.iter_mut() {
        if t.at.start % alignment != 0 {
            return Err(Error::data("a tensor is not aligned")
                .field(&t.name)
                .expected(format!("an offset that is a multiple of {alignment}"))
                .found(t.at.start));
        }
        let inside = |n: usize| n.checked_add(start).filter(|&n| n <= file_len);
        t.at = match (inside(t.at.start), inside(t.at.end)) {
            (Some(a), Some(b)) => a..b,
            _ => {
                return Err(Error::data("a tensor reaches past the end of the file")
                    .field(&t.name)
                    .expected(format!("at most {} bytes of data", file_len.saturating_sub(start)))
                    .found(format!("bytes {} to {}", t.at.start, t.at.end))
                    .advice("the file is probably cut short: fetch it again"));
            }
        };
    }
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|t| t.at.start);
    match order.windows(2).find(|pair| pair[0].at.end > pair[1].at.start) {
        Some(pair) => {
            Err(Error::data("two tensors overlap").field(format!("{}, {}", pair[0].name, pair[1].name)))
        }
        None => Ok(()),
    }
}

/// A place in the bytes that never moves past their end.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        if n > self.left() {
            return Err(Error::data("the file ends too early")
                .expected(format!("{n} bytes at byte {}", self.at))
                .found(format!("{} bytes", self.left()))
                .advice("the file is probably cut short: fetch it again"));
        }
        let piece = &self.bytes[self.at..self.at + n];
        self.at += n;
        Ok(piece)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        let b = self.take(4).map_err(|e| e.field(what))?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        let b = self.take(8).map_err(|e| e.field(what))?;
        Ok(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
    }

    /// A count of things of which each takes at least `least` bytes of what is left.
    fn count(&mut self, what: &str, least: usize) -> Result<usize> {
        let n = self.u64(what)?;
        let most = self.left() / least.max(1);
        match usize::try_from(n) {
            Ok(n) if n <= most => Ok(n),
            _ => Err(Error::data("a count is larger than the file can hold")
                .field(what)
                .expected(format!("at most {most}"))
                .found(n)),
        }
    }

    /// A length and that many bytes, as their range.
    fn text(&mut self) -> Result<Range<usize>> {
        let n = self.count("length of a text", 1)?;
        self.take(n)?;
        Ok(self.at - n..self.at)
    }

    fn name(&mut self, what: &str) -> Result<String> {
        let at = self.text().map_err(|e| e.field(what))?;
        if at.len() as u64 > MAX_NAME {
            return Err(Error::data("a name is too long").field(what).found(format!("{} bytes", at.len())));
        }
        match std::str::from_utf8(&self.bytes[at]) {
            Ok("") => Err(Error::data("a name is empty").field(what)),
            Ok(name) => Ok(name.to_string()),
            Err(_) => Err(Error::data("a name is not UTF-8").field(what)),
        }
    }

    fn value(&mut self) -> Result<Value> {
        let id = self.u32("type of a value")?;
        match Scalar::of(id) {
            Some(Scalar::Text) => Ok(Value::Text(self.text()?)),
            Some(of) => Ok(scalar(of, self.take(of.size())?)),
            None if id == ARRAY => self.array(),
            None => Err(Error::data("unknown metadata type").expected("0 to 12").found(id)),
        }
    }

    fn array(&mut self) -> Result<Value> {
        let id = self.u32("type of an array")?;
        if id == ARRAY {
            return Err(Error::data("an array inside an array is not read"));
        }
        let of = Scalar::of(id)
            .ok_or_else(|| Error::data("unknown metadata type").expected("0 to 12").found(id))?;
        let count = self.count("length of an array", of.size())?;
        if count as u64 > MAX_ARRAY {
            return Err(Error::data("an array is too long")
                .expected(format!("at most {MAX_ARRAY}"))
                .found(count));
        }
        let start = self.at;
        if of == Scalar::Text {
            for _ in 0..count {
                self.text()?;
            }
        } else {
            // In range: `count` has compared the product with what is left.
            self.take(count * of.size())?;
        }
        Ok(Value::Array { of, count, at: start..self.at })
    }

    /// A tensor's description; its range still counts from the start of the data.
    fn tensor(&mut self) -> Result<Tensor> {
        let name = self.name("tensor name")?;
        if name.len() > MAX_TENSOR_NAME {
            return Err(Error::data("a tensor name is too long").field(name));
        }
        let (shape, kind, at) = self.tensor_body().map_err(|e| e.field(name.clone()))?;
        Ok(Tensor { name, shape, kind, at })
    }

    fn tensor_body(&mut self) -> Result<(Vec<usize>, Kind, Range<usize>)> {
        let n_dims = self.u32("number of dimensions")?;
        if !(1..=4).contains(&n_dims) {
            return Err(Error::data("bad number of dimensions").expected("1 to 4").found(n_dims));
        }
        let mut shape = Vec::new();
        for _ in 0..n_dims {
            let n = self.u64("dimension")?;
            if !(1..=MAX_DIM).contains(&n) {
                return Err(Error::data("bad dimension").expected(format!("1 to {MAX_DIM}")).found(n));
            }
            shape.push(n as usize);
        }
        shape.reverse();
        let kind = Kind::of(self.u32("tensor type")?)?;
        let offset = self.u64("tensor offset")?;
        let size = dequant::stored_len(kind, &shape)?;
        let end = usize::try_from(offset).ok().and_then(|o| o.checked_add(size));
        match end {
            Some(end) => Ok((shape, kind, end - size..end)),
            None => {
                Err(Error::data("a tensor reaches past the end of the file")
                    .found(format!("offset {offset}")))
            }
        }
    }
}
