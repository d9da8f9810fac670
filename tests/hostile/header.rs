//! The header of a safetensors file, and the file around it.

use serde_json::{Value, json};

use super::folder::{Folder, raw};
use super::{Case, Run};

const FILE: &str = "model.safetensors";
const NORM: &str = "model.norm.weight";

fn case(name: &str, says: &str, change: impl Fn(&Folder) + 'static) -> Case {
    Case::new(format!("header: {name}"), Run::Inspect, says, change)
}

/// Changes the header and leaves the data.
fn header(name: &str, says: &str, change: impl Fn(&mut Value) + 'static) -> Case {
    case(name, says, move |f| {
        let (header, data) = f.tensors().parts();
        let mut header = Value::Object(header);
        change(&mut header);
        f.write(FILE, raw(&header.to_string(), &data));
    })
}

/// Replaces the header by this text.
fn text(name: &str, says: &str, header: impl Fn(String) -> String + 'static) -> Case {
    case(name, says, move |f| {
        let (old, data) = f.tensors().parts();
        f.write(FILE, raw(&header(Value::Object(old).to_string()), &data));
    })
}

/// A tensor of no numbers more, under this name.
fn extra(name: &str, says: &str, tensor: &str) -> Case {
    let tensor = tensor.to_string();
    case(name, says, move |f| {
        f.weights(|t| {
            let norm = t.get(NORM).clone();
            t.all.push(super::folder::One { name: tensor.clone(), shape: vec![0], data: vec![], ..norm });
        });
    })
}

fn offsets(name: &str, says: &str, change: impl Fn(u64, u64) -> [u64; 2] + 'static) -> Case {
    header(name, says, move |h| {
        let old = &h[NORM]["data_offsets"];
        let (begin, end) = (old[0].as_u64().unwrap(), old[1].as_u64().unwrap());
        h[NORM]["data_offsets"] = json!(change(begin, end));
    })
}

pub fn cases() -> Vec<Case> {
    [the_file(), its_length(), its_json(), the_offsets(), the_shapes()].into_iter().flatten().collect()
}

fn the_file() -> Vec<Case> {
    let mut all = vec![
        case("an empty file", "too short", |f| f.write(FILE, "")),
        case("seven bytes", "too short", |f| f.cut(FILE, 7)),
        case("a folder under the file's name", "not a file", |f| {
            f.remove(FILE);
            std::fs::create_dir(f.at(FILE)).unwrap();
        }),
        case("a pipe under the file's name", "not a file", |f| f.pipe(FILE)),
        case("a device that never ends", "not a file", |f| f.link(FILE, "/dev/zero")),
        case("a link to itself", FILE, |f| f.link(FILE, FILE)),
        case("a pickle under the file's name", "header length", |f| {
            f.write(FILE, b"PK\x03\x04\x00\x00\x08\x08\x00\x00archive/data.pkl");
        }),
        case("a page of a download error", "header length", |f| f.write(FILE, "<html>404 Not Found</html>")),
        case("a pointer of git lfs", "header length", |f| {
            f.write(FILE, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
        }),
        case("bytes behind the last tensor", "shorter or longer", |f| {
            let mut bytes = f.tensors().bytes();
            bytes.extend([0; 8]);
            f.write(FILE, bytes);
        }),
    ];
    let cuts: [(usize, &str); 4] = [
        (8, "header length"),
        (500, "header length"),
        (40_000, "shorter or longer"),
        (78_015, "shorter or longer"),
    ];
    all.extend(cuts.map(|(at, says)| case(&format!("cut at byte {at}"), says, move |f| f.cut(FILE, at))));
    all
}

fn its_length() -> Vec<Case> {
    let length = |name: &str, says: &str, n: u64| {
        case(&format!("a length of {name}"), says, move |f| {
            let mut bytes = f.tensors().bytes();
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            f.write(FILE, bytes);
        })
    };
    vec![
        length("0", "not valid", 0),
        length("2^64-1", "header length", u64::MAX),
        length("2^64-8", "header length", u64::MAX - 7),
        length("the whole file", "header length", 78_000),
    ]
}

fn its_json() -> Vec<Case> {
    vec![
        text("not JSON", "not valid", |h| h.replace(':', ";")),
        text("a list", "an object of tensors", |_| "[]".into()),
        text("an empty object", "shorter or longer", |_| "{}".into()),
        text("nested a million deep", "not valid", |_| format!("{{\"a\":{}", "[".repeat(1_000_000))),
        text("not UTF-8 by escape", "not valid", |h| h.replacen(NORM, "\\ud800", 1)),
        text("a name that occurs twice", "occurs twice", |h| h.replacen("lm_head.weight", NORM, 1)),
        text("metadata that occurs twice", "occurs twice", |h| {
            h.replacen('{', "{\"__metadata__\":{},\"__metadata__\":{},", 1)
        }),
        text("a name with a NUL", "a NUL", |h| h.replacen(NORM, "model.norm\\u0000.weight", 1)),
        extra("a name that leads out", "no place for", "../../x"),
        extra("a name with an escape sequence", "u{1b}[2J", "\u{1b}[2J\n\u{202e}"),
        extra("a name of a million letters", "xxx...", &"x".repeat(1_000_000)),
        text("an empty name", "missing", |h| h.replacen(NORM, "", 1)),
        header("a tensor without a shape", "not valid", |h| {
            h[NORM].as_object_mut().unwrap().remove("shape");
        }),
        header("a type that nobody knows", "not valid", |h| h[NORM]["dtype"] = json!("F7")),
        header("a hundred thousand tensors", "leave a gap", |h| {
            for n in 0..100_000 {
                h[format!("x{n}")] = json!({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]});
            }
        }),
    ]
}

fn the_offsets() -> Vec<Case> {
    const GAP: &str = "overlap, or leave a gap";
    vec![
        offsets("tensors that overlap", GAP, |a, b| [a - 4, b - 4]),
        offsets("a gap between tensors", GAP, |a, b| [a + 4, b + 4]),
        offsets("an end before the beginning", GAP, |a, b| [b, a]),
        offsets("an end beyond the file", GAP, |_, _| [0, 1 << 40]),
        offsets("offsets near 2^64", GAP, |_, _| [u64::MAX - 80, u64::MAX]),
        header("an offset below zero", "not valid", |h| h[NORM]["data_offsets"] = json!([-80, 0])),
    ]
}

fn the_shapes() -> Vec<Case> {
    const DIFFER: &str = "a tensor's shape and its bytes differ";
    let shape = |name: &str, says: &str, shape: Value| {
        header(&format!("a shape {name}"), says, move |h| h[NORM]["shape"] = shape.clone())
    };
    vec![
        shape("too small for its bytes", DIFFER, json!([19])),
        shape("too large for its bytes", DIFFER, json!([21])),
        shape("of zero", DIFFER, json!([0])),
        shape("whose product overflows", "64-bit", json!([1u64 << 32, 1u64 << 32, 4])),
        shape("of 2^64", "not valid", json!([1.8446744073709552e19])),
        shape("of a thousand ones", "wrong shape", Value::from([vec![20], vec![1; 1000]].concat())),
    ]
}
