//! What went wrong, sorted by whose it is. Layer 0: uses nothing of the project but the errors of
//! `retort_policies`, which are turned into these.
//!
//! An error prints as one line (what, where, expected, found) and at most one line of advice.
//! Text that comes from files is made printable and cut short, so a hostile file cannot draw on
//! the terminal or fill the screen.

use std::fmt;
use std::path::{Path, PathBuf};

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose mistake an [`Error`] is; it decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Arguments, config, a path named that is not there. Exit code 2.
    User,
    /// Bad data or model files, a part of a model folder missing. Exit code 3.
    Data,
    /// A read or write that failed. Exit code 4.
    Io,
    /// A number that is not finite where it must be. Exit code 5.
    Numeric,
    /// A mistake of ours. Exit code 101.
    Bug,
    /// A signal that asked to stop. Exit code 128 and its number.
    Stopped(u8),
}

impl Cause {
    /// The exit code of the process.
    pub fn exit_code(self) -> u8 {
        match self {
            Cause::User => 2,
            Cause::Data => 3,
            Cause::Io => 4,
            Cause::Numeric => 5,
            Cause::Bug => 101,
            Cause::Stopped(signal) => 128u8.saturating_add(signal),
        }
    }
}

/// An error of any cause, built up from what is known where it is found.
///
/// ```
/// use retort::error::{Cause, Error};
/// let e = Error::data("wrong shape").file("model.safetensors").field("wte.weight")
///     .expected("[61, 20]").found("[60, 20]").advice("was the vocabulary cut by hand?");
/// assert_eq!(e.to_string(),
///     "wrong shape: model.safetensors: wte.weight: expected [61, 20], found [60, 20]\n  was the vocabulary cut by hand?");
/// assert_eq!(e.cause().exit_code(), 3);
/// ```
#[derive(Debug, Clone)]
pub struct Error(Box<Report>);

#[derive(Debug, Clone)]
struct Report {
    cause: Cause,
    what: String,
    file: Option<PathBuf>,
    line: Option<usize>,
    field: Option<String>,
    expected: Option<String>,
    found: Option<String>,
    advice: Option<String>,
}

macro_rules! cause_constructors {
    ($($(#[$doc:meta])* $name:ident => $cause:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(what: impl Into<String>) -> Self {
            Self::new(Cause::$cause, what)
        }
    )*};
}

impl Error {
    /// An error of this cause; `what` is a few words without a full stop.
    pub fn new(cause: Cause, what: impl Into<String>) -> Self {
        Error(Box::new(Report {
            cause,
            what: what.into(),
            file: None,
            line: None,
            field: None,
            expected: None,
            found: None,
            advice: None,
        }))
    }

    cause_constructors! {
        /// The user's mistake: arguments, config, a path that is not there.
        user => User;
        /// Bad data or model files.
        data => Data;
        /// A numeric failure.
        numeric => Numeric;
        /// A mistake of ours.
        bug => Bug;
    }

    /// A read or write that failed, with the system's word for it.
    pub fn io(what: impl Into<String>, file: impl AsRef<Path>, source: &std::io::Error) -> Self {
        Self::new(Cause::Io, what).file(file).found(source.to_string())
    }

    /// The file it is in.
    pub fn file(mut self, path: impl AsRef<Path>) -> Self {
        self.0.file = Some(path.as_ref().to_path_buf());
        self
    }

    /// The file it is in, where none is known yet.
    pub fn or_file(self, path: impl AsRef<Path>) -> Self {
        if self.0.file.is_some() { self } else { self.file(path) }
    }

    /// The row it came up in. Where it is about another file (a tokenizer that fails on this row), the
    /// row is named beside that file.
    pub fn at_row(self, file: impl AsRef<Path>, line: usize) -> Self {
        match (&self.0.file, &self.0.field) {
            (None, _) => self.file(file).line(line),
            (Some(_), None) => self.field(format!("{}:{line}", file.as_ref().display())),
            _ => self,
        }
    }

    /// The line it is at, counted from 1.
    pub fn line(mut self, line: usize) -> Self {
        self.0.line = Some(line);
        self
    }

    /// The field, tensor or key it is in.
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    /// What should have been there.
    pub fn expected(mut self, expected: impl fmt::Display) -> Self {
        self.0.expected = Some(expected.to_string());
        self
    }

    /// What was there.
    pub fn found(mut self, found: impl fmt::Display) -> Self {
        self.0.found = Some(found.to_string());
        self
    }

    /// One line of what to do.
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// Whose mistake it is.
    pub fn cause(&self) -> Cause {
        self.0.cause
    }
}

/// The longest piece of foreign text that an error repeats, in characters.
const LONGEST: usize = 256;

/// Makes text fit for one line of a terminal: no control characters, no endless names.
fn printable(text: &str) -> String {
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == LONGEST {
            out.push_str("...");
            break;
        }
        if c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = &self.0;
        write!(f, "{}", printable(&r.what))?;
        if let Some(file) = &r.file {
            write!(f, ": {}", printable(&file.to_string_lossy()))?;
            if let Some(line) = r.line {
                write!(f, ":{line}")?;
            }
        } else if let Some(line) = r.line {
            write!(f, ": line {line}")?;
        }
        if let Some(field) = &r.field {
            write!(f, ": {}", printable(field))?;
        }
        match (&r.expected, &r.found) {
            (Some(e), Some(g)) => write!(f, ": expected {}, found {}", printable(e), printable(g))?,
            (Some(e), None) => write!(f, ": expected {}", printable(e))?,
            (None, Some(g)) => write!(f, ": {}", printable(g))?,
            (None, None) => {}
        }
        if let Some(advice) = &r.advice {
            write!(f, "\n  {}", printable(advice))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<tch::TchError> for Error {
    /// A libtorch error: memory that ran out is the user's to act on, the rest is a bug of ours.
    fn from(e: tch::TchError) -> Self {
        let text = e.to_string();
        let first = text.lines().next().unwrap_or_default().to_string();
        if text.contains("out of memory") || text.contains("can't allocate memory") {
            return Error::user("out of memory")
                .found(first)
                .advice("use a smaller batch, shorter rows or a smaller dtype, or --device cpu");
        }
        Error::bug("libtorch refused an operation").found(first)
    }
}

impl From<retort_policies::Error> for Error {
    /// A setting is the user's, a number is nobody's, and what was handed over wrongly is a bug of ours.
    fn from(e: retort_policies::Error) -> Self {
        use retort_policies::Error as Theirs;
        match e {
            Theirs::Setting { key, expected, found } => {
                Error::user("a setting that cannot be").field(key).expected(expected).found(found)
            }
            Theirs::NotFinite { what } => Error::numeric("not finite").field(what),
            Theirs::Handed { what, expected, found } => {
                Error::bug(format!("{what} was handed over wrongly")).expected(expected).found(found)
            }
            Theirs::Torch(e) => e.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_policies_keeps_its_cause_and_its_words() {
        let e = retort_policies::named("minilm").map(|_| ()).unwrap_err();
        let said = Error::from(e);
        assert_eq!(said.cause(), Cause::User);
        let text = said.to_string();
        assert!(text.starts_with("a setting that cannot be: policy: expected sft, kd,"), "{text}");
        assert!(text.ends_with("found minilm"), "{text}");
    }

    #[test]
    fn foreign_text_cannot_break_the_line() {
        let e = Error::data("bad name").file("a\nb").field("x\u{1b}[2J\u{202e}").found("y".repeat(10_000));
        let text = e.to_string();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.contains('\u{1b}') && text.len() < 400, "{text}");
    }

    #[test]
    fn a_row_is_not_a_line_of_another_file() {
        let rows = |e: Error| e.at_row("rows.jsonl", 3).to_string();
        assert_eq!(rows(Error::data("no").field("text")), "no: rows.jsonl:3: text");
        assert_eq!(rows(Error::data("no").file("tokenizer.json")), "no: tokenizer.json: rows.jsonl:3");
    }

    #[test]
    fn line_counts_behind_the_file() {
        let e = Error::data("not a row").file("rows.jsonl").line(3).field("response");
        assert_eq!(e.to_string(), "not a row: rows.jsonl:3: response");
    }
}
