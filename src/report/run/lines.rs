//! Files of JSON objects, one a line, which may be growing while they are read.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The longest line that is read, in bytes.
const LONGEST: u64 = 16 << 20;

/// Hands over every object with its line's number; answers false where there is no file. A last line that is not
/// ended and not whole is one that is being written, or that a killed run left, and is passed over.
pub(super) fn each(path: &Path, mut with: impl FnMut(Map<String, Value>) -> Result<()>) -> Result<bool> {
    let fail = |e: std::io::Error| Error::io("cannot read", path, &e);
    match std::fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(fail(e)),
        // A pipe would be waited for.
        Ok(meta) if !meta.is_file() => return Err(Error::data("not a file").file(path)),
        Ok(_) => {}
    }
    let mut input = BufReader::with_capacity(1 << 18, File::open(path).map_err(fail)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if input.by_ref().take(LONGEST).read_until(b'\n', &mut line).map_err(fail)? == 0 {
            break;
        }
        let place = |e: Error| e.or_file(path).line(number);
        if line.len() as u64 == LONGEST {
            return Err(place(
                Error::data("a line without end").expected(format!("less than {LONGEST} bytes")),
            ));
        }
        match serde_json::from_slice::<Value>(&line) {
            Ok(Value::Object(map)) => with(map).map_err(place)?,
            Ok(_) => return Err(place(Error::data("not a JSON object"))),
            Err(_) if !line.ends_with(b"\n") => break,
            Err(_) if line.iter().all(u8::is_ascii_whitespace) => {}
            Err(e) => {
                let found = e.to_string().replace(" at line 1 ", " at ");
                return Err(place(Error::data("not JSON").found(found)));
            }
        }
    }
    Ok(true)
}
