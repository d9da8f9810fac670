//! A file that grows piece by piece: each is handed to the system before the next is made, and a file that
//! was left with more than is wanted is cut.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::fault;
use crate::error::{Error, Result};

/// A growing file.
#[derive(Debug)]
pub struct Growing {
    file: File,
    path: PathBuf,
    length: u64,
}

impl Growing {
    /// Opens a file to go on behind its first `length` bytes; what comes after them is cut. A file that is
    /// not there, or is shorter, is an error unless `length` is 0.
    pub fn open(path: &Path, length: u64) -> Result<Self> {
        let fail = |e: std::io::Error| Error::io("cannot write", path, &e);
        let mut file =
            OpenOptions::new().create(length == 0).write(true).truncate(false).open(path).map_err(fail)?;
        let there = file.metadata().map_err(fail)?.len();
        if there < length {
            return Err(Error::data("a file is shorter than it was")
                .file(path)
                .expected(format!("at least {length} bytes"))
                .found(there));
        }
        file.set_len(length).and_then(|()| file.seek(SeekFrom::End(0))).map_err(fail)?;
        Ok(Growing { file, path: path.to_path_buf(), length })
    }

    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) -> Result<()> {
        fault::step("grow");
        self.file.write_all(bytes).map_err(|e| Error::io("cannot write", &self.path, &e))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Waits until all of it is on the disk.
    pub fn sync(&self) -> Result<()> {
        fault::step("sync what has grown");
        self.file.sync_data().map_err(|e| Error::io("cannot write", &self.path, &e))
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }
}
