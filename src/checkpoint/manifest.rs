//! manifest.json: every file of a checkpoint with its size and digest. It is written last, so a folder with
//! a manifest that agrees with its files is a whole checkpoint, and any other is none.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::{Folder, hash, read_file};

/// The name of the file.
pub const NAME: &str = "manifest.json";

/// The longest manifest that is read.
const LONGEST: u64 = 16 << 20;

/// A file's size and digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Bytes.
    pub size: u64,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
}

/// What a folder holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The update after which it was saved.
    pub step: u64,
    /// The program's version.
    pub version: String,
    /// Its files by name.
    pub files: BTreeMap<String, File>,
}

impl Manifest {
    /// The manifest of what a folder holds now.
    pub fn of(folder: &Path, step: u64) -> Result<Self> {
        let mut files = BTreeMap::new();
        for name in names(folder)? {
            let (size, sha256) = hash::of_file(&folder.join(&name))?;
            files.insert(name, File { size, sha256 });
        }
        Ok(Manifest { step, version: env!("CARGO_PKG_VERSION").into(), files })
    }

    /// Writes it into the folder.
    pub fn write(&self, folder: &Folder) -> Result<()> {
        let mut text =
            serde_json::to_vec_pretty(self).map_err(|e| Error::bug("JSON cannot be written").found(e))?;
        text.push(b'\n');
        folder.write_bytes(NAME, &text)
    }

    /// Reads a folder's manifest.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let bytes = read_file(&path, LONGEST)?
            .ok_or_else(|| Error::data("a checkpoint without its manifest").file(folder))?;
        serde_json::from_slice(&bytes).map_err(|e| Error::data("not a manifest").file(&path).found(e))
    }

    /// That every file is there, of its size, with its digest.
    pub fn verify(&self, folder: &Path) -> Result<()> {
        for (name, file) in &self.files {
            let path = Folder::at(folder).path(name)?;
            let bad = |what: &str| Error::data(what).file(&path);
            let meta = std::fs::metadata(&path).map_err(|_| bad("a file of the checkpoint is missing"))?;
            if meta.len() != file.size {
                return Err(bad("a file of the checkpoint has another size")
                    .expected(format!("{} bytes", file.size))
                    .found(meta.len()));
            }
            let (_, sha256) = hash::of_file(&path)?;
            if sha256 != file.sha256 {
                return Err(bad("a file of the checkpoint has changed").expected(&file.sha256).found(sha256));
            }
        }
        Ok(())
    }
}

/// The plain files of a folder, its manifest left out, in the order of their names.
fn names(folder: &Path) -> Result<Vec<String>> {
    let fail = |e: std::io::Error| Error::io("cannot read the folder", folder, &e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name().to_string_lossy().into_owned();
        if name != NAME {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
