//! Rows from a file of JSON lines, one after the other.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::rows::{Row, Schema};
use crate::error::{Cause, Error, Result};
use crate::signal;
use crate::store::Pending;
use crate::text::json::{Limits, kind, parse};

/// The longest line, in bytes.
pub const LONGEST_LINE: usize = 64 << 20;

/// What the JSON of a row may hold: an `ids` row of a long document has many values.
const LIMITS: Limits = Limits { bytes: LONGEST_LINE as u64, depth: 32, values: 16 << 20 };

/// Reads rows of one schema, which the first one settles. Blank lines are passed over, lines count
/// from 1.
///
/// ```
/// let lines = "{\"prompt\": \"a\"}\n\n{\"prompt\": \"b\"}\n";
/// let reader = retort::data::Reader::new(lines.as_bytes(), "rows.jsonl");
/// let numbers: Vec<usize> = reader.map(|row| row.unwrap().0).collect();
/// assert_eq!(numbers, [1, 3]);
/// ```
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    file: PathBuf,
    line: usize,
    longest: usize,
    schema: Option<Schema>,
    read: usize,
    over: bool,
    rejects: Option<Rejects>,
}

/// A row that was taken: where it stood, in what bytes, and what was made of it.
struct Taken<T> {
    line: usize,
    bytes: Vec<u8>,
    row: Row,
    made: T,
}

#[derive(Debug)]
struct Rejects {
    /// None where they were told of before.
    out: Option<Pending>,
    path: PathBuf,
    count: usize,
}

impl Reader<BufReader<File>> {
    /// Opens a file of rows.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                Error::user("no such file").file(path)
            }
            _ => Error::io("cannot read", path, &e),
        })?;
        if file.metadata().is_ok_and(|meta| meta.is_dir()) {
            return Err(Error::user("a folder where a file of rows should be").file(path));
        }
        Ok(Reader::new(BufReader::with_capacity(1 << 20, file), path))
    }
}

impl<R: BufRead> Reader<R> {
    /// Reads rows from anything; `file` is what errors call it.
    pub fn new(input: R, file: impl Into<PathBuf>) -> Self {
        let file = file.into();
        Reader {
            input,
            file,
            line: 0,
            longest: LONGEST_LINE,
            schema: None,
            read: 0,
            over: false,
            rejects: None,
        }
    }

    /// Puts bad rows into a file of their own at `path` and goes on. The file takes its place at
    /// [`Reader::finish`], and only if a row was rejected. The first good row settles the schema.
    pub fn skip_invalid(mut self, path: &Path) -> Result<Self> {
        let out = Some(Pending::create(path)?);
        self.rejects = Some(Rejects { out, path: path.to_path_buf(), count: 0 });
        Ok(self)
    }

    /// Passes over bad rows without a word, for who reads a file again.
    pub fn pass_over_invalid(mut self) -> Self {
        self.rejects = Some(Rejects { out: None, path: PathBuf::new(), count: 0 });
        self
    }

    /// The schema, once a row was read.
    pub fn schema(&self) -> Option<Schema> {
        self.schema
    }

    /// Ends the reading: how many rows were rejected, and into which file.
    pub fn finish(self) -> Result<Option<(usize, PathBuf)>> {
        match self.rejects {
            Some(Rejects { out: Some(out), path, count }) if count > 0 => {
                out.commit()?;
                Ok(Some((count, path)))
            }
            _ => Ok(None),
        }
    }

    /// The next row that `accept` takes, with its line and what `accept` made of it, or the end. What went
    /// wrong with a line, there too, is told with its place, or rejects the line.
    fn step<T>(
        &mut self,
        accept: &mut dyn FnMut(Schema, &Row) -> Result<T>,
    ) -> Result<Option<(usize, Row, T)>> {
        Ok(self.step_with_bytes(accept)?.map(|t| (t.line, t.row, t.made)))
    }

    /// The next row with its line and the bytes that it stood in, for who finds it bad later and hands it
    /// to [`Reader::reject_later`].
    pub(super) fn next_with_bytes(&mut self) -> Result<Option<(usize, Vec<u8>, Row)>> {
        Ok(self.step_with_bytes(&mut |_, _| Ok(()))?.map(|t| (t.line, t.bytes, t.row)))
    }

    /// Rejects a row that was read before, or answers the error at its place.
    pub(super) fn reject_later(&mut self, line: usize, bytes: &[u8], error: Error) -> Result<()> {
        let error = error.at_row(&self.file, line);
        if error.cause() == Cause::Data { self.reject(bytes, error) } else { Err(error) }
    }

    fn step_with_bytes<T>(
        &mut self,
        accept: &mut dyn FnMut(Schema, &Row) -> Result<T>,
    ) -> Result<Option<Taken<T>>> {
        loop {
            let Some(bytes) = self.next_line()? else {
                if self.read == 0 {
                    let found = if self.rejects.as_ref().is_some_and(|r| r.count > 0) {
                        "bad rows alone"
                    } else {
                        "nothing"
                    };
                    return Err(Error::data("no row").file(&self.file).expected("at least one").found(found));
                }
                return Ok(None);
            };
            if bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let taken = self.row(&bytes).and_then(|(schema, row)| {
                let made = accept(schema, &row)?;
                Ok((row, made))
            });
            match taken {
                Ok((row, made)) => {
                    self.read += 1;
                    return Ok(Some(Taken { line: self.line, bytes, row, made }));
                }
                Err(e) if e.cause() == Cause::Data => self.reject(&bytes, e.at_row(&self.file, self.line))?,
                Err(e) => return Err(e),
            }
        }
    }

    /// One line without its end; `None` after the last.
    fn next_line(&mut self) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let limit = self.longest as u64 + 1;
        let failed = |e: std::io::Error| Error::io("cannot read", &self.file, &e);
        let n = (&mut self.input).take(limit).read_until(b'\n', &mut bytes).map_err(failed)?;
        if n == 0 {
            return Ok(None);
        }
        self.line += 1;
        if bytes.len() > self.longest && bytes.last() != Some(&b'\n') {
            // The end of such a line is nowhere near, so this stops the reading whatever is skipped.
            return Err(Error::data("a line is too long")
                .file(&self.file)
                .line(self.line)
                .expected(format!("at most {} bytes", self.longest))
                .found("more"));
        }
        if self.line == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        Ok(Some(bytes))
    }

    fn row(&mut self, bytes: &[u8]) -> Result<(Schema, Row)> {
        let value = parse(bytes, LIMITS)?;
        let Value::Object(object) = &value else {
            return Err(Error::data("not a row").expected("a JSON object").found(kind(&value)));
        };
        let schema = match self.schema {
            Some(schema) => schema,
            None => Schema::of(object)?,
        };
        let row = schema.row(object)?;
        self.schema = Some(schema);
        Ok((schema, row))
    }

    fn reject(&mut self, bytes: &[u8], error: Error) -> Result<()> {
        let Some(rejects) = &mut self.rejects else { return Err(error) };
        rejects.count += 1;
        let Some(out) = &mut rejects.out else { return Ok(()) };
        let end: &[u8] = if bytes.ends_with(b"\n") { b"" } else { b"\n" };
        let written = out.write_all(bytes).and_then(|()| out.write_all(end));
        written.map_err(|e| Error::io("cannot write", &rejects.path, &e))
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<(usize, Row)>;

    /// After an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let step = self.step(&mut |_, _| Ok(()));
        self.over = !matches!(step, Ok(Some(_)));
        step.map(|found| found.map(|(line, row, ())| (line, row))).transpose()
    }
}

/// All rows of a file.
#[derive(Debug)]
pub struct Rows {
    /// Their schema.
    pub schema: Schema,
    /// The rows, in order.
    pub rows: Vec<Row>,
    /// The line of each.
    pub lines: Vec<usize>,
    /// How many rows were rejected, and the file that they are in.
    pub rejected: Option<(usize, PathBuf)>,
}

/// Reads all rows of a file. With `rejects` bad rows go into that file, instead of being an error.
pub fn read(path: &Path, rejects: Option<&Path>) -> Result<Rows> {
    Ok(read_with(path, rejects, &mut |_, _| Ok(()))?.0)
}

/// The same, with what `accept` makes of each row; a row that it finds bad is a bad row.
pub fn read_with<T>(
    path: &Path,
    rejects: Option<&Path>,
    accept: &mut dyn FnMut(Schema, &Row) -> Result<T>,
) -> Result<(Rows, Vec<T>)> {
    let mut reader = Reader::open(path)?;
    if let Some(rejects) = rejects {
        reader = reader.skip_invalid(rejects)?;
    }
    let (mut rows, mut lines, mut made) = (Vec::new(), Vec::new(), Vec::new());
    while let Some((line, row, of_row)) = reader.step(accept)? {
        signal::check()?;
        lines.push(line);
        rows.push(row);
        made.push(of_row);
    }
    let schema = reader.schema().ok_or_else(|| Error::data("no row").file(path))?;
    Ok((Rows { schema, rows, lines, rejected: reader.finish()? }, made))
}

/// Where the rejects of an input go if nobody says: beside `beside`, under the input's name.
pub fn rejects_path(input: &Path, beside: &Path) -> PathBuf {
    let name = input.file_name().map_or("rows".into(), |n| n.to_string_lossy());
    beside.join(format!("{name}.rejects.jsonl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &[u8]) -> Error {
        Reader::new(text, "f.jsonl").find_map(Result::err).unwrap()
    }

    #[test]
    fn errors_say_where() {
        let mixed = error(b"{\"text\":\"a\"}\n\n{\"prompt\":\"b\"}\n").to_string();
        assert_eq!(
            mixed,
            "the file mixes schemas: f.jsonl:3: prompt: expected {text} as in the first row, found {prompt, response?}"
        );
        for (text, line) in [
            (&b"{\"text\":\"a\"}\n{\"text\":\"\xff\"}"[..], 2),
            (b"{\"text\":\"a\"", 1),
            (b"\n[1]\n", 2),
            (b"{\"text\":\"a\",\"text\":\"b\"}", 1),
            (b"{\"text\":\"\\ud800\"}", 1),
        ] {
            let e = error(text);
            assert_eq!(e.cause(), Cause::Data);
            assert!(e.to_string().contains(&format!("f.jsonl:{line}: ")), "{e}");
        }
        assert_eq!(error(b"").cause(), Cause::Data);
        assert_eq!(error(b"\n \n").cause(), Cause::Data);
        assert_eq!(Reader::open(Path::new("/nowhere/x.jsonl")).unwrap_err().cause(), Cause::User);
        assert_eq!(Reader::open(Path::new("/")).unwrap_err().cause(), Cause::User);
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut reader = Reader::new(BufReader::new(std::io::repeat(b' ')), "endless");
        reader.longest = 1000;
        assert!(reader.next().unwrap().unwrap_err().to_string().contains("too long"));
        assert!(reader.next().is_none());
    }

    #[test]
    fn bad_rows_are_counted_into_their_file() {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("in.jsonl");
        std::fs::write(&input, "\u{feff}{\"text\":\"a\"}\nnope\n{\"prompt\":\"b\"}\n{\"text\":\"c\"}")
            .unwrap();
        let rejects = rejects_path(&input, dir.path());
        let rows = read(&input, Some(&rejects)).unwrap();
        assert_eq!((rows.lines, rows.rejected), (vec![1, 4], Some((2, rejects.clone()))));
        assert_eq!(std::fs::read_to_string(&rejects).unwrap(), "nope\n{\"prompt\":\"b\"}\n");
        assert_eq!(rejects.file_name().unwrap(), "in.jsonl.rejects.jsonl");
        std::fs::remove_file(&rejects).unwrap();
        std::fs::write(&input, "{\"text\":\"a\"}").unwrap();
        assert_eq!(read(&input, Some(&rejects)).unwrap().rejected, None);
        assert!(!rejects.exists());
    }
}
