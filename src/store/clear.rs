//! Taking things away, and putting a folder in another's place: a name never stands for half of what it
//! was, whenever the process ends.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{Staged, beside, fault, sync_parent};
use crate::error::{Error, Result};

/// Removes a folder with all that is in it; one that is not there is fine. It loses its name first.
pub fn remove_folder(path: &Path) -> Result<()> {
    let fail = |e: std::io::Error| Error::io("cannot remove the folder", path, &e);
    if std::fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let hidden = beside(path)?;
    fault::step("hide a folder");
    std::fs::rename(path, &hidden).map_err(fail)?;
    sync_parent(path)?;
    fault::step("remove a hidden folder");
    std::fs::remove_dir_all(&hidden).map_err(fail)
}

/// Removes what killed processes left half done in a folder. The caller holds the folder's lock, so that
/// nobody is still at work on it.
pub fn remove_leftovers(folder: &Path) -> Result<()> {
    let fail = |e: std::io::Error| Error::io("cannot read the folder", folder, &e);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(fail(e)),
    };
    for entry in entries {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !(name.starts_with('.') && name.contains(".partial-")) {
            continue;
        }
        let path = entry.path();
        let is_folder = entry.file_type().is_ok_and(|t| t.is_dir());
        let removed = if is_folder { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(|e| Error::io("cannot remove", &path, &e))?;
    }
    Ok(())
}

impl Staged {
    /// Begins a folder that will take the place of whatever folder stands at `target` then.
    pub fn replacing(target: &Path) -> Result<Self> {
        Self::begin(target)
    }

    /// Gives the folder its name, which another folder may have: the two change places in one step, and
    /// the old one is removed.
    pub fn replace(mut self) -> Result<()> {
        self.sync()?;
        if std::fs::symlink_metadata(&self.target).is_err() {
            return self.commit();
        }
        let fail = |e: std::io::Error| Error::io("cannot write the folder", &self.target, &e);
        fault::step("exchange two folders");
        exchange(self.folder.root(), &self.target).map_err(fail)?;
        // The temporary name now holds the old folder, which dropping removes.
        sync_parent(&self.target)?;
        fault::step("remove the old folder");
        self.committed = false;
        Ok(())
    }
}

/// Two names change what they stand for, in one step.
fn exchange(a: &Path, b: &Path) -> std::io::Result<()> {
    let name = |p: &Path| CString::new(p.as_os_str().as_bytes()).map_err(std::io::Error::other);
    let (a, b) = (name(a)?, name(b)?);
    // SAFETY: two NUL-terminated names.
    let done = unsafe {
        libc::renameat2(libc::AT_FDCWD, a.as_ptr(), libc::AT_FDCWD, b.as_ptr(), libc::RENAME_EXCHANGE)
    };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
