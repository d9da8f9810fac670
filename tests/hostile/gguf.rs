//! Files for `import`. (`src/weights/gguf/tests` breaks whole models byte by byte; here it is the way
//! through the program.)

use super::folder::Folder;
use super::{Case, Run};
use crate::support::fixture;

const FILE: &str = "model.gguf";

fn case(name: &str, says: &str, change: impl Fn(&Folder) + 'static) -> Case {
    Case::new(format!("gguf: {name}"), Run::Import, says, change)
}

/// A file of these bytes.
fn bytes(name: &str, says: &str, bytes: impl AsRef<[u8]> + 'static) -> Case {
    case(name, says, move |f| f.write(FILE, &bytes))
}

/// A small file of all block formats, which is no model, with its bytes changed.
fn blocks(name: &str, says: &str, change: fn(&mut Vec<u8>)) -> Case {
    case(name, says, move |f| {
        let mut all = std::fs::read(fixture("gguf/blocks.gguf")).unwrap();
        change(&mut all);
        f.write(FILE, all);
    })
}

/// A file that begins so.
fn header(tensors: u64, values: u64, rest: &[u8]) -> Vec<u8> {
    [b"GGUF\x03\0\0\0".as_slice(), &tensors.to_le_bytes(), &values.to_le_bytes(), rest].concat()
}

pub fn cases() -> Vec<Case> {
    vec![
        bytes("an empty file", "the file is empty", ""),
        bytes("garbage", "not a GGUF file", [0xa5; 4096]),
        bytes("safetensors", "not a GGUF file", b"\x10\0\0\0\0\0\0\0{\"a\": 1}"),
        bytes("version 1", "GGUF version 1", b"GGUF\x01\0\0\0\0\0\0\0"),
        bytes("big-endian", "big-endian", b"GGUF\0\0\0\x03"),
        bytes("2^60 tensors", "larger than the file", header(1 << 60, 0, b"")),
        bytes("2^64-1 values", "larger than the file", header(0, u64::MAX, b"")),
        bytes("no metadata", "general.architecture", header(0, 0, b"")),
        blocks("no architecture", "general.architecture", |_| {}),
        blocks("cut in its metadata", "number of tensors: expected at most 1", |b| b.truncate(60)),
        blocks("cut in its tensors", "past the end", |b| b.truncate(20_000)),
        case("no file", "no such file", |_| ()).code(2),
        case("a folder", "not a file", |f| std::fs::create_dir(f.at(FILE)).unwrap()).code(2),
        case("a pipe", "not a file", |f| f.pipe(FILE)).code(2),
        case("a device", "not a file", |f| f.link(FILE, "/dev/zero")).code(2),
    ]
}
