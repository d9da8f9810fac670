//! TensorBoard's event file: scalars by step, one record behind the other.
//!
//! ```text
//! record:  length (u64) | masked CRC of it (u32) | bytes | masked CRC of them (u32)      little-endian
//! bytes:   an Event in protobuf: 1 wall time (double), 2 step (int64), 3 version (string) | 5 summary
//! summary: repeated 1 value; value: 1 tag (string), 2 number (float)
//! ```
//!
//! The CRC is CRC-32C, turned and shifted as TensorFlow's records have it. A run keeps one file, which is cut
//! with metrics.jsonl when the run goes on from an earlier place.

use std::path::Path;

use crate::error::Result;
use crate::store::Growing;

/// The file's name in a run directory: TensorBoard looks for `tfevents`.
pub const NAME: &str = "events.out.tfevents.1.retort";

/// The file.
#[derive(Debug)]
pub struct Events(Growing);

impl Events {
    /// Opens it to go on behind its first `length` bytes.
    pub fn open(path: &Path, length: u64) -> Result<Self> {
        let mut events = Events(Growing::open(path, length)?);
        if length == 0 {
            let mut event = Vec::new();
            field(&mut event, 3, b"brain.Event:2");
            events.write(0, event)?;
        }
        Ok(events)
    }

    /// Adds numbers at a step.
    pub fn add(&mut self, step: u64, scalars: &[(String, f64)]) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, number) in scalars {
            let mut value = Vec::new();
            field(&mut value, 1, tag.as_bytes());
            value.push(2 << 3 | 5);
            value.extend((*number as f32).to_le_bytes());
            field(&mut summary, 1, &value);
        }
        let mut event = Vec::new();
        field(&mut event, 5, &summary);
        self.write(step, event)
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.0.length()
    }

    /// Waits until all of it is on the disk.
    pub fn sync(&self) -> Result<()> {
        self.0.sync()
    }

    fn write(&mut self, step: u64, what: Vec<u8>) -> Result<()> {
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0.0, |d| d.as_secs_f64());
        let mut event = vec![1 << 3 | 1];
        event.extend(now.to_le_bytes());
        event.push(2 << 3);
        varint(&mut event, step);
        event.extend(what);
        let length = (event.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked(&length).to_le_bytes());
        record.extend(&event);
        record.extend(masked(&event).to_le_bytes());
        self.0.add(&record)
    }
}

/// A field of bytes.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// Seven bits a byte, the lowest first.
fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// The CRC as records carry it.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: a record has some hundred bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    let byte = |crc: u32, b: &u8| (0..8).fold(crc ^ u32::from(*b), |crc, _| bit(crc));
    !bytes.iter().fold(!0, byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value that every table of CRCs has for CRC-32C.
    #[test]
    fn the_crc_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    /// Records lie behind each other, each with its length and both sums; a scalar stands where protobuf
    /// puts it; a file that goes on is cut.
    #[test]
    fn records_are_as_tensorboard_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let mut events = Events::open(&path, 0).unwrap();
        events.add(300, &[("train/loss".into(), 1.5)]).unwrap();
        let length = events.length();
        events.add(301, &[("train/loss".into(), 1.0), ("train/lr".into(), 0.5)]).unwrap();
        drop(events);
        let read = || {
            let bytes = std::fs::read(&path).unwrap();
            let (mut rest, mut records) = (bytes.as_slice(), Vec::new());
            while !rest.is_empty() {
                let n = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
                let sum = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
                assert_eq!((sum(8), sum(12 + n)), (masked(&rest[..8]), masked(&rest[12..12 + n])));
                records.push(rest[12..12 + n].to_vec());
                rest = &rest[16 + n..];
            }
            records
        };
        let records = read();
        assert_eq!(records.len(), 3);
        assert!(records[0].ends_with(b"\x1a\x0dbrain.Event:2"));
        let scalar = b"\x10\xac\x02\x2a\x13\x0a\x11\x0a\x0atrain/loss\x15\x00\x00\xc0\x3f";
        assert!(records[1][9..] == scalar[..], "{:x?}", &records[1][9..]);
        drop(Events::open(&path, length).unwrap());
        assert_eq!(read(), records[..2]);
    }
}
