//! The only module that writes files, and how small ones are read. Layer 0: uses `error`.
//!
//! A file appears under its name whole or not at all: it is written beside its place, synced, renamed,
//! and the folder is synced. A name never leads out of its folder. A lock dies with its process.

#![expect(clippy::disallowed_methods, reason = "this is the one place that writes files")]

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

mod append;
mod clear;
mod fault;
pub mod hash;

pub use append::Growing;
pub use clear::{remove_folder, remove_leftovers};

/// A folder that is written through: names are checked, writes are atomic.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// let folder = retort::store::Folder::create(dir.path().join("run")).unwrap();
/// folder.write("notes/a.txt", |w| Ok(w.write_all(b"hello")?)).unwrap();
/// assert!(folder.write("../a.txt", |_| Ok(())).is_err());
/// ```
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The folder at this path, made if it is not there.
    pub fn create(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        std::fs::create_dir_all(&root).map_err(|e| Error::io("cannot make the folder", &root, &e))?;
        Ok(Folder { root })
    }

    /// A folder that is there, and is not made.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Folder { root: root.into() }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of a name in it, which must not lead out.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        check_inside(name).map_err(|e| e.or_file(&self.root))?;
        Ok(self.root.join(name))
    }

    /// Writes a file in it, whole or not at all; folders on the way are made.
    pub fn write(
        &self,
        name: &str,
        fill: impl FnOnce(&mut dyn Write) -> Result<(), WriteError>,
    ) -> Result<()> {
        let path = self.path(name)?;
        if let Some(parent) = path.parent() {
            Folder::create(parent)?;
        }
        write_file(&path, fill)
    }

    /// Writes a file of these bytes.
    pub fn write_bytes(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write(name, |w| Ok(w.write_all(bytes)?))
    }

    /// Takes the folder for this process; a second process is refused. The file stays, the lock
    /// ends with the value or with the process, however it ends.
    pub fn lock(&self) -> Result<Lock> {
        let path = self.root.join(".lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| Error::io("cannot open the lock", &path, &e))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(Error::user("the folder is in use by another process")
                    .file(&self.root)
                    .advice("wait for it to end, or choose another --out"))
            }
            Err(std::fs::TryLockError::Error(e)) => Err(Error::io("cannot lock", &path, &e)),
        }
    }
}

/// A folder held for this process; see [`Folder::lock`].
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// What can go wrong while a file is filled: the write itself, or what was to be written.
#[derive(Debug)]
pub enum WriteError {
    /// The system refused the write.
    Io(std::io::Error),
    /// The content could not be made.
    Content(Error),
}

impl From<std::io::Error> for WriteError {
    fn from(e: std::io::Error) -> Self {
        WriteError::Io(e)
    }
}

impl From<Error> for WriteError {
    fn from(e: Error) -> Self {
        WriteError::Content(e)
    }
}

impl WriteError {
    fn at(self, path: &Path) -> Error {
        match self {
            WriteError::Io(e) => Error::io("cannot write", path, &e),
            WriteError::Content(e) => e,
        }
    }
}

/// Reads a whole file of at most `most` bytes. One that is not there is `None`.
///
/// Only a regular file is opened: a pipe would be waited for, and a device may never end.
pub fn read_file(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    let fail = |e: std::io::Error| Error::io("cannot read", path, &e);
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(fail(e)),
    };
    if !meta.is_file() {
        return Err(Error::data("not a file").file(path));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|f| f.take(most.saturating_add(1)).read_to_end(&mut bytes)).map_err(fail)?;
    if bytes.len() as u64 > most {
        let e = Error::data("the file is too large").file(path);
        return Err(e.expected(format!("at most {most} bytes")).found("more"));
    }
    Ok(Some(bytes))
}

/// Writes one file, whole or not at all.
pub fn write_file(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<(), WriteError>) -> Result<()> {
    let mut pending = Pending::create(path)?;
    fill(&mut pending).map_err(|e| e.at(path))?;
    pending.commit()
}

/// A file being written beside its place; it takes its name at [`Pending::commit`], and is removed if
/// it is dropped before. A pipe or a device (`/dev/stdout`) is written to as it stands.
#[derive(Debug)]
pub struct Pending {
    out: Option<BufWriter<File>>,
    temp: Option<PathBuf>,
    path: PathBuf,
}

impl Pending {
    /// Begins the file that will stand at `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let fail = |e: std::io::Error| Error::io("cannot write", path, &e);
        let pending =
            |file, temp, path| Pending { out: Some(BufWriter::with_capacity(1 << 20, file)), temp, path };
        let path = match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() => {
                return Err(Error::user("cannot write a file over a folder").file(path));
            }
            // A rename would put a file in the device's place.
            Ok(meta) if !meta.is_file() => {
                let file = OpenOptions::new().write(true).open(path).map_err(fail)?;
                return Ok(pending(file, None, path.to_path_buf()));
            }
            // A link stays a link: what it points to is replaced.
            Ok(_) => std::fs::canonicalize(path).map_err(fail)?,
            Err(_) => path.to_path_buf(),
        };
        let temp = beside(&path)?;
        fault::step("begin a file");
        let file = OpenOptions::new().write(true).create_new(true).open(&temp).map_err(fail)?;
        Ok(pending(file, Some(temp), path))
    }

    /// Syncs the file and gives it its name.
    pub fn commit(mut self) -> Result<()> {
        let fail = |e: std::io::Error| Error::io("cannot write", &self.path, &e);
        let file = match self.out.take() {
            Some(out) => Some(out.into_inner().map_err(|e| fail(e.into_error()))?),
            None => None,
        };
        // A pipe or a device has its bytes, and cannot be synced.
        let Some(temp) = self.temp.as_deref() else { return Ok(()) };
        fault::step("sync a file");
        file.map_or(Ok(()), |file| file.sync_all()).map_err(fail)?;
        fault::step("name a file");
        std::fs::rename(temp, &self.path).map_err(fail)?;
        fault::step("sync a file's folder");
        sync_parent(&self.path)
    }
}

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.out.as_mut().map_or(Ok(0), |out| out.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // After a commit the temporary name is gone and there is nothing to remove.
        if let Some(temp) = &self.temp {
            let _ = std::fs::remove_file(temp);
        }
    }
}

/// A folder being written beside its place; it takes its name at [`Staged::commit`], and is removed
/// with all that is in it if it is dropped before.
#[derive(Debug)]
pub struct Staged {
    folder: Folder,
    target: PathBuf,
    committed: bool,
}

impl Staged {
    /// Begins the folder that will stand at `target`, which must not be there yet, or be empty.
    pub fn create(target: &Path) -> Result<Self> {
        refuse_occupied(target)?;
        Self::begin(target)
    }

    fn begin(target: &Path) -> Result<Self> {
        let temp = beside(target)?;
        if let Some(parent) = temp.parent() {
            Folder::create(parent)?;
        }
        std::fs::create_dir(&temp).map_err(|e| Error::io("cannot make the folder", &temp, &e))?;
        Ok(Staged { folder: Folder { root: temp }, target: target.to_path_buf(), committed: false })
    }

    /// The folder to write into.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Gives the folder its name.
    pub fn commit(mut self) -> Result<()> {
        let fail = |e: std::io::Error| Error::io("cannot write the folder", &self.target, &e);
        self.sync()?;
        refuse_occupied(&self.target)?;
        fault::step("name a folder");
        // A rename replaces an empty folder, and fails on one that has been filled since.
        std::fs::rename(self.folder.root(), &self.target).map_err(fail)?;
        self.committed = true;
        fault::step("sync a folder's parent");
        sync_parent(&self.target)
    }

    fn sync(&self) -> Result<()> {
        fault::step("sync a folder");
        let fail = |e: std::io::Error| Error::io("cannot write the folder", &self.target, &e);
        File::open(self.folder.root()).and_then(|f| f.sync_all()).map_err(fail)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.committed {
            let _ = std::fs::remove_dir_all(self.folder.root());
        }
    }
}

/// An error where something already stands at `target` that a new folder would replace.
pub fn refuse_occupied(target: &Path) -> Result<()> {
    let occupied = match std::fs::symlink_metadata(target) {
        Err(_) => false,
        Ok(meta) if meta.is_dir() => std::fs::read_dir(target)
            .map_err(|e| Error::io("cannot read the folder", target, &e))?
            .next()
            .is_some(),
        Ok(_) => true,
    };
    if occupied {
        return Err(Error::user("the output is already there")
            .file(target)
            .advice("choose another --out, or remove it first"));
    }
    Ok(())
}

/// A name for what will stand at `path` later: in the same folder, hidden, of this process alone.
fn beside(path: &Path) -> Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path
        .file_name()
        .ok_or_else(|| Error::user("not a name for a file or folder").file(path))?
        .to_string_lossy();
    let start: String = name.chars().take(40).collect();
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    // Process ids come back, in a container every time: the clock tells a new process from a killed one.
    let clock = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos() as u64);
    Ok(path.with_file_name(format!(".{start}.partial-{}-{clock:x}-{n}", std::process::id())))
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|f| f.sync_all()).map_err(|e| Error::io("cannot sync the folder", parent, &e))
}

/// A relative name of plain parts: no root, no `..`, no NUL.
fn check_inside(name: &str) -> Result<()> {
    let plain = !name.is_empty()
        && !name.contains('\0')
        && Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    if plain { Ok(()) } else { Err(Error::data("a name leads out of its folder").field(name)) }
}

#[cfg(test)]
mod tests;
