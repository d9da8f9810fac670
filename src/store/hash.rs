//! SHA-256: digests of checkpoints, fingerprints of what caches depend on.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::signal;

/// Adds up bytes to a digest.
///
/// ```
/// use retort::store::hash::Hasher;
/// let mut hasher = Hasher::default();
/// hasher.add(b"abc");
/// assert_eq!(hasher.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
/// ```
#[derive(Debug, Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds a part of its own: neighbours cannot trade bytes without being noticed.
    pub fn part(&mut self, bytes: &[u8]) {
        self.add(&(bytes.len() as u64).to_le_bytes());
        self.add(bytes);
    }

    /// The digest in hexadecimal.
    pub fn hex(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The size and digest of a file.
pub fn of_file(path: &Path) -> Result<(u64, String)> {
    digest(path, || Ok(()))
}

/// The same of a file that may be long: a signal stops it.
pub fn of_long_file(path: &Path) -> Result<(u64, String)> {
    digest(path, signal::check)
}

fn digest(path: &Path, check: impl Fn() -> Result<()>) -> Result<(u64, String)> {
    let fail = |e: std::io::Error| Error::io("cannot read", path, &e);
    let mut file = File::open(path).map_err(fail)?;
    let (mut hasher, mut size) = (Hasher::default(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        check()?;
        let n = file.read(&mut buffer).map_err(fail)?;
        if n == 0 {
            return Ok((size, hasher.hex()));
        }
        hasher.add(&buffer[..n]);
        size += n as u64;
    }
}
