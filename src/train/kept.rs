//! A file of what a teacher said: a record of one width for each learnt token of fixed rows, to be read row by
//! row in any order without holding it in memory.
//!
//! ```text
//! the records of a row behind each other, rows as they were made
//! for each row: its first record (u64), how many it has (u32), little-endian
//! a JSON object: of what it is, and how many there are
//! the length of that object (u64), the magic word
//! ```
//!
//! It takes its name when it is whole. It is read at its places and not mapped: a mapped page counts as this
//! process's memory, and every row is copied into a batch anyway.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::Pending;

const MAGIC: &[u8; 8] = b"retortt1";
/// Bytes of a row's entry.
const ENTRY: u64 = 12;
/// The end that every file has.
const END: u64 = 16;
/// The longest JSON object that is believed.
const LONGEST: u64 = 1 << 20;

/// What a file depends on, in the parts that an error can name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The teacher: a digest of its config and weights.
    pub teacher: String,
    /// The rows: a digest of files, tokenizer, template and limits.
    pub rows: String,
    /// What was kept, computed in what, drawn from which seed.
    pub how: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct About {
    identity: Identity,
    width: usize,
    rows: usize,
    records: u64,
}

/// Writes such a file.
#[derive(Debug)]
pub struct Writer {
    out: Pending,
    path: PathBuf,
    width: usize,
    entries: Vec<Option<(u64, u32)>>,
    records: u64,
}

impl Writer {
    /// Begins the file that will stand at `path`, of so many rows.
    pub fn create(path: &Path, rows: usize, width: usize) -> Result<Self> {
        let out = Pending::create(path)?;
        Ok(Writer { out, path: path.to_path_buf(), width, entries: vec![None; rows], records: 0 })
    }

    /// Whether it has a row.
    pub fn has(&self, row: usize) -> bool {
        self.entries.get(row).is_some_and(Option::is_some)
    }

    /// Adds a row that it has not.
    pub fn add(&mut self, row: usize, records: &[u8]) -> Result<()> {
        let count = records.len() / self.width.max(1);
        match self.entries.get_mut(row) {
            Some(entry @ None) if count * self.width == records.len() => {
                *entry = Some((self.records, count as u32));
            }
            _ => return Err(Error::bug("a row that a cache cannot take").file(&self.path).found(row)),
        }
        self.records += count as u64;
        self.write(records)
    }

    /// Ends the file, which takes its name.
    pub fn finish(mut self, identity: &Identity) -> Result<()> {
        let entries = std::mem::take(&mut self.entries);
        let mut bytes = Vec::with_capacity(entries.len() * ENTRY as usize);
        for entry in &entries {
            let (start, count) =
                entry.ok_or_else(|| Error::bug("a cache without one of its rows").file(&self.path))?;
            bytes.extend(start.to_le_bytes());
            bytes.extend(count.to_le_bytes());
        }
        let about = About {
            identity: identity.clone(),
            width: self.width,
            rows: entries.len(),
            records: self.records,
        };
        let json = serde_json::to_vec(&about).map_err(|e| Error::bug("JSON cannot be written").found(e))?;
        bytes.extend(&json);
        bytes.extend((json.len() as u64).to_le_bytes());
        bytes.extend(MAGIC);
        self.write(&bytes)?;
        self.out.commit()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|e| Error::io("cannot write", &self.path, &e))
    }
}

/// What stands at a place.
#[derive(Debug)]
pub enum Found {
    /// A whole file of just this.
    Whole(Kept),
    /// No file, or none that is whole.
    Nothing,
    /// A whole file of something else: what of it differs.
    Other(&'static str),
}

/// Such a file, open.
#[derive(Debug)]
pub struct Kept {
    file: File,
    path: PathBuf,
    entries: Vec<(u64, u32)>,
    width: usize,
}

impl Kept {
    /// Opens the file at `path` where it is of this.
    pub fn open(path: &Path, identity: &Identity, width: usize) -> Result<Found> {
        let fail = |e: std::io::Error| Error::io("cannot read", path, &e);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(e) => return Err(fail(e)),
        };
        let length = file.metadata().map_err(fail)?.len();
        let Some((about, entries_at)) = about(&file, length).map_err(fail)? else {
            return Ok(Found::Nothing);
        };
        let Identity { teacher, rows, how } = &about.identity;
        for (differs, what) in [
            (*teacher != identity.teacher, "another teacher"),
            (*rows != identity.rows, "other rows, another tokenizer, template or limit"),
            (*how != identity.how || about.width != width, "the same, kept in another way"),
        ] {
            if differs {
                return Ok(Found::Other(what));
            }
        }
        let mut bytes = vec![0; about.rows * ENTRY as usize];
        file.read_exact_at(&mut bytes, entries_at).map_err(fail)?;
        let entry = |b: &[u8]| {
            let (start, count) = b.split_first_chunk::<8>()?;
            Some((u64::from_le_bytes(*start), u32::from_le_bytes(*count.first_chunk::<4>()?)))
        };
        let entries: Vec<(u64, u32)> = bytes.chunks_exact(ENTRY as usize).filter_map(entry).collect();
        let inside = |&(start, count): &(u64, u32)| {
            start.checked_add(u64::from(count)).is_some_and(|end| end <= about.records)
        };
        if !entries.iter().all(inside) {
            return Ok(Found::Nothing);
        }
        Ok(Found::Whole(Kept { file, path: path.to_path_buf(), entries, width }))
    }

    /// Puts a row's records behind `into`; there must be so many.
    pub fn read(&self, row: u64, count: usize, into: &mut Vec<u8>) -> Result<()> {
        let found = self.entries.get(row as usize).copied();
        let Some((start, _)) = found.filter(|(_, own)| *own as usize == count) else {
            return Err(Error::bug("a cache is of other rows")
                .file(&self.path)
                .expected(format!("{count} tokens in row {row}"))
                .found(format!("{found:?}")));
        };
        let begin = into.len();
        into.resize(begin + count * self.width, 0);
        self.file
            .read_exact_at(&mut into[begin..], start * self.width as u64)
            .map_err(|e| Error::io("cannot read", &self.path, &e))
    }
}

/// What a file's end says of it, and where its entries begin; none where it is not whole.
fn about(file: &File, length: u64) -> std::io::Result<Option<(About, u64)>> {
    let Some(body) = length.checked_sub(END) else { return Ok(None) };
    let mut end = [0; END as usize];
    file.read_exact_at(&mut end, body)?;
    let (json, magic) = end.split_at(8);
    let json = json.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
    if magic != MAGIC || json > LONGEST.min(body) {
        return Ok(None);
    }
    let mut bytes = vec![0; json as usize];
    file.read_exact_at(&mut bytes, body - json)?;
    let Ok(about) = serde_json::from_slice::<About>(&bytes) else { return Ok(None) };
    let records = about.records.checked_mul(about.width as u64);
    let entries = (about.rows as u64).checked_mul(ENTRY);
    let whole = records.zip(entries).and_then(|(r, e)| r.checked_add(e)?.checked_add(json));
    Ok(records.filter(|_| whole == Some(body)).map(|at| (about, at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(teacher: &str) -> Identity {
        Identity { teacher: teacher.into(), rows: "r".into(), how: "states".into() }
    }

    fn write(path: &Path) {
        let mut writer = Writer::create(path, 3, 2).unwrap();
        for (row, records) in [(2, &[5u8, 6][..]), (0, &[1, 2, 3, 4]), (1, &[])] {
            assert!(!writer.has(row));
            writer.add(row, records).unwrap();
            assert!(writer.has(row));
        }
        writer.finish(&identity("t")).unwrap();
    }

    #[test]
    fn rows_come_back_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("teacher.states");
        write(&path);
        let Found::Whole(kept) = Kept::open(&path, &identity("t"), 2).unwrap() else { panic!() };
        let mut bytes = Vec::new();
        for (row, count) in [(0, 2), (2, 1), (1, 0)] {
            kept.read(row, count, &mut bytes).unwrap();
        }
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6]);
        assert!(kept.read(0, 1, &mut bytes).is_err() && kept.read(3, 1, &mut bytes).is_err());
    }

    #[test]
    fn another_ones_file_is_told_and_a_cut_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("teacher.states");
        assert!(matches!(Kept::open(&path, &identity("t"), 2).unwrap(), Found::Nothing));
        write(&path);
        let other = |i: Identity, width| match Kept::open(&path, &i, width).unwrap() {
            Found::Other(what) => what,
            found => panic!("{found:?}"),
        };
        assert!(other(identity("u"), 2).contains("teacher"));
        assert!(other(Identity { rows: "s".into(), ..identity("t") }, 2).contains("rows"));
        assert!(other(Identity { how: "tokens".into(), ..identity("t") }, 2).contains("way"));
        assert!(other(identity("t"), 3).contains("way"));
        let bytes = std::fs::read(&path).unwrap();
        for end in 0..bytes.len() {
            std::fs::write(&path, &bytes[..end]).unwrap();
            assert!(matches!(Kept::open(&path, &identity("t"), 2).unwrap(), Found::Nothing), "{end}");
        }
    }
}
