//! The weights of a model folder: one file, or shards with an index; every tensor that the model
//! needs found and checked before one is made.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tch::Kind;

use super::finite;
use super::names::{Naming, Spec};
use super::safetensors::{MappedFile, Stored};
use crate::error::{Error, Result};
use crate::signal;
use crate::store::read_file;

/// The longest index file that is read.
const LONGEST_INDEX: u64 = 64 << 20;

/// The weight files of a folder, mapped, their headers checked.
#[derive(Debug)]
pub struct WeightFiles {
    folder: PathBuf,
    files: Vec<MappedFile>,
}

/// Where each tensor that the model needs is found; made by [`WeightFiles::plan`].
#[derive(Debug)]
pub struct Plan<'a> {
    files: &'a WeightFiles,
    found: Vec<(Spec, usize, usize)>,
}

/// One planned tensor.
#[derive(Debug, Clone)]
pub struct Planned<'a> {
    /// Its name as transformers writes it, and its shape.
    pub spec: &'a Spec,
    /// The float type in the file.
    pub kind: Kind,
    /// Its bytes in the mapped file.
    pub bytes: &'a [u8],
    /// Where they are in it.
    pub range: Range<usize>,
    /// The file.
    pub file: &'a MappedFile,
}

impl WeightFiles {
    /// Finds and maps the weight files of a folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        let files = if single.exists() {
            vec![MappedFile::open(&single)?]
        } else if index.exists() {
            open_shards(folder, &index)?
        } else {
            return Err(no_weights(folder));
        };
        Ok(WeightFiles { folder: folder.to_path_buf(), files })
    }

    /// Whether a folder holds weights in no form at all, not even one that is refused: with a config.json it is a
    /// shape, that a run can be planned for.
    pub fn are_missing(folder: &Path) -> bool {
        !has_file(folder, &[".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".gguf"])
    }

    /// The files.
    pub fn files(&self) -> &[MappedFile] {
        &self.files
    }

    fn stored(&self) -> impl Iterator<Item = (usize, usize, &Stored)> {
        self.files
            .iter()
            .enumerate()
            .flat_map(|(f, file)| file.tensors().iter().enumerate().map(move |(t, s)| (f, t, s)))
    }

    /// Finds every tensor of `specs`, and refuses a folder that lacks one, has another one, has one
    /// twice, or has one of another shape or of no float type.
    pub fn plan(&self, naming: &Naming, specs: Vec<Spec>, tied: bool) -> Result<Plan<'_>> {
        let mut by_name: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for (f, t, stored) in self.stored() {
            let Some(name) = naming.canonical(&stored.name) else { continue };
            if by_name.insert(name.clone(), (f, t)).is_some() {
                return Err(Error::data("a tensor is there twice").file(self.files[f].path()).field(name));
            }
        }
        let mut found = Vec::with_capacity(specs.len());
        let mut missing = Vec::new();
        for spec in specs {
            match by_name.remove(&spec.name) {
                None => missing.push(spec.name),
                Some((f, t)) => {
                    self.check(&spec, f, t)?;
                    found.push((spec, f, t));
                }
            }
        }
        if let Some(first) = missing.first() {
            return Err(Error::data(many("a tensor is missing", missing.len()))
                .file(&self.folder)
                .field(first.as_str()));
        }
        let plan = Plan { files: self, found };
        if tied && let Some(place) = by_name.remove(naming.head) {
            plan.check_tied(naming, place)?;
        }
        if let Some((name, (f, _))) = by_name.first_key_value() {
            return Err(Error::data(many("a tensor that the model has no place for", by_name.len()))
                .file(self.files[*f].path())
                .field(name.as_str())
                .advice("is config.json of another model?"));
        }
        Ok(plan)
    }

    fn check(&self, spec: &Spec, f: usize, t: usize) -> Result<()> {
        let file = &self.files[f];
        let stored = &file.tensors()[t];
        let at = |what: &str| Error::data(what).file(file.path()).field(spec.name.as_str());
        if let Err(kind) = &stored.kind {
            return Err(at("a tensor is not of a float type").expected("F32, F16, BF16 or F64").found(kind));
        }
        if stored.shape != spec.shape {
            return Err(at("a tensor has the wrong shape")
                .expected(format!("{:?}", spec.shape))
                .found(format!("{:?}", stored.shape)));
        }
        Ok(())
    }
}

impl<'a> Plan<'a> {
    /// The tensors, in the order of the specs.
    pub fn tensors(&self) -> impl Iterator<Item = Planned<'_>> {
        self.found.iter().map(|(spec, f, t)| self.planned(spec, *f, *t))
    }

    fn planned<'b>(&'b self, spec: &'b Spec, f: usize, t: usize) -> Planned<'b> {
        let file = &self.files.files[f];
        let stored = &file.tensors()[t];
        // `plan` refused every tensor that is of no float type.
        let kind = stored.kind.clone().unwrap_or(Kind::Float);
        Planned { spec, kind, bytes: file.bytes(stored), range: stored.range(), file }
    }

    /// How many numbers the model holds, a tied head once.
    pub fn parameters(&self) -> i64 {
        self.found.iter().map(|(spec, ..)| spec.numel()).sum()
    }

    /// The float type that most of the numbers have.
    pub fn main_kind(&self) -> Kind {
        let mut count: HashMap<Kind, i64> = HashMap::new();
        for t in self.tensors() {
            *count.entry(t.kind).or_default() += t.spec.numel();
        }
        count
            .into_iter()
            .max_by_key(|&(kind, n)| (n, kind.elt_size_in_bytes(), kind == Kind::BFloat16))
            .map_or(Kind::Float, |(kind, _)| kind)
    }

    /// Looks at every number: an error for the first that is not finite.
    pub fn check_finite(&self) -> Result<()> {
        for t in self.tensors() {
            signal::check()?;
            if let Some(n) = finite::first_bad(t.bytes, t.kind) {
                return Err(Error::data("a weight is not finite")
                    .file(t.file.path())
                    .field(t.spec.name.as_str())
                    .found(format!("element {n}")));
            }
        }
        Ok(())
    }

    /// A tied head that is written out must be the embedding, or it would be lost in silence.
    fn check_tied(&self, naming: &Naming, (f, t): (usize, usize)) -> Result<()> {
        let head = &self.files.files[f].tensors()[t];
        let bytes = self.files.files[f].bytes(head);
        let same = self.tensors().any(|e| {
            e.spec.name == naming.embedding
                && e.spec.shape == head.shape
                && Ok(e.kind) == head.kind
                && e.bytes == bytes
        });
        if same {
            return Ok(());
        }
        Err(Error::data("the head differs from the embedding that config.json ties it to")
            .file(self.files.files[f].path())
            .field(naming.head)
            .advice("set \"tie_word_embeddings\": false in config.json if the model was trained so"))
    }
}

fn many(what: &str, n: usize) -> String {
    if n > 1 { format!("{what} (and {} more)", n - 1) } else { what.to_string() }
}

fn no_weights(folder: &Path) -> Error {
    let e = Error::data("no weights in the model folder")
        .file(folder)
        .expected("model.safetensors, or shards with model.safetensors.index.json");
    let ends_with = |end: &str| has_file(folder, &[end]);
    if ends_with(".bin") || ends_with(".pt") || ends_with(".pth") {
        return e.found("pickled weights").advice(
            "a pickle can run code when it is read: load it with transformers where you trust it, and save_pretrained() writes safetensors",
        );
    }
    if ends_with(".gguf") {
        return e.found("a GGUF file").advice("retort import FILE.gguf --out DIR makes a model folder of it");
    }
    e
}

/// Whether any file of a folder ends in one of these.
fn has_file(folder: &Path, ends: &[&str]) -> bool {
    let named = |name: &std::ffi::OsStr| ends.iter().any(|end| name.to_string_lossy().ends_with(end));
    std::fs::read_dir(folder).into_iter().flatten().flatten().any(|file| named(&file.file_name()))
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn open_shards(folder: &Path, index: &Path) -> Result<Vec<MappedFile>> {
    let bytes = read_file(index, LONGEST_INDEX)?
        .ok_or_else(|| Error::data("a part of the model folder is missing").file(index))?;
    let parsed: Index = serde_json::from_slice(&bytes)
        .map_err(|e| Error::data("not an index of shards").file(index).line(e.line()).found(e))?;
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, file) in &parsed.weight_map {
        let plain = !file.is_empty() && !file.contains(['/', '\\', '\0']) && file != ".." && file != ".";
        if !plain || !file.ends_with(".safetensors") {
            return Err(Error::data("a shard's name is not a plain file name")
                .file(index)
                .field(name.as_str())
                .expected("NAME.safetensors in the same folder")
                .found(file));
        }
        shards.entry(file).or_default().push(name);
    }
    if shards.is_empty() {
        return Err(Error::data("the index names no shard").file(index));
    }
    let mut files = Vec::new();
    for (file, names) in shards {
        let mapped = MappedFile::open(&folder.join(file))?;
        for name in names {
            if mapped.tensors().binary_search_by(|t| t.name.as_str().cmp(name)).is_err() {
                return Err(Error::data("a shard lacks a tensor that the index puts there")
                    .file(mapped.path())
                    .field(name));
            }
        }
        files.push(mapped);
    }
    Ok(files)
}
