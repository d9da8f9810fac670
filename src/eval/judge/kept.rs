//! A judge's answers in a file of JSON lines, each as soon as it comes: a command that was stopped goes on
//! there, and the same command pays once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{Shown, WORDING, scores};
use crate::error::{Error, Result};
use crate::store::{Growing, read_file};
use crate::text::json::{SMALL, kind, parse};

/// The longest file of answers.
const LONGEST: u64 = 4 << 30;

/// What one judge has answered.
#[derive(Debug)]
pub struct Kept {
    judge: String,
    path: PathBuf,
    answers: HashMap<Shown, String>,
    /// Where the next answer goes; the file is made with the first.
    length: u64,
    file: Option<Growing>,
}

impl Kept {
    /// The answers of this judge in a file, which need not be there. Those of other judges stay in it. A last
    /// line that was cut off is cut off whole, at the next answer.
    pub fn open(path: &Path, judge: &str) -> Result<Self> {
        let bytes = read_file(path, LONGEST)?.unwrap_or_default();
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let mut answers = HashMap::new();
        for (line, bytes) in bytes[..whole].split(|b| *b == b'\n').enumerate() {
            if bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let (by, wording, shown, answer) = read(bytes).map_err(|e| e.at_row(path, line + 1))?;
            if by == judge && wording == WORDING {
                answers.insert(shown, answer);
            }
        }
        Ok(Kept {
            judge: judge.to_string(),
            path: path.to_path_buf(),
            answers,
            length: whole as u64,
            file: None,
        })
    }

    /// What the judge said to this.
    pub fn answer(&self, shown: &Shown) -> Option<&str> {
        self.answers.get(shown).map(String::as_str)
    }

    /// Writes an answer down.
    pub(super) fn keep(&mut self, shown: Shown, answer: String) -> Result<()> {
        let line = json!({
            "judge": self.judge,
            "wording": WORDING,
            "question": shown.question,
            "first": shown.first,
            "second": shown.second,
            "answer": answer,
            "scores": scores(&answer),
        });
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(Growing::open(&self.path, self.length)?),
        };
        file.add(format!("{line}\n").as_bytes())?;
        self.answers.insert(shown, answer);
        Ok(())
    }
}

fn read(bytes: &[u8]) -> Result<(String, u64, Shown, String)> {
    let value = parse(bytes, SMALL)?;
    let Value::Object(object) = &value else {
        return Err(Error::data("not a judge's answer").expected("a JSON object").found(kind(&value)));
    };
    let shown = Shown {
        question: string(object, "question")?,
        first: string(object, "first")?,
        second: string(object, "second")?,
    };
    let wording = object.get("wording").and_then(Value::as_u64).unwrap_or(0);
    Ok((string(object, "judge")?, wording, shown, string(object, "answer")?))
}

fn string(object: &Map<String, Value>, key: &str) -> Result<String> {
    let found = object.get(key);
    let wrong = || {
        Error::data("not a judge's answer")
            .field(key)
            .expected("a string")
            .found(found.map_or("nothing", kind))
            .advice("is it a file of another kind? --judge-answers names one that eval made, or none yet")
    };
    found.and_then(Value::as_str).map(String::from).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(first: &str) -> Shown {
        Shown { question: "q".into(), first: first.into(), second: "b".into() }
    }

    #[test]
    fn half_a_line_is_cut_off_and_other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.jsonl");
        Kept::open(&path, "j").unwrap();
        assert!(!path.exists(), "nothing was answered");
        let mut kept = Kept::open(&path, "j").unwrap();
        kept.keep(shown("a"), "1 2".into()).unwrap();
        kept.keep(shown("c"), "line\nbreaks".into()).unwrap();
        drop(kept);
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}{{\"judge\": \"j\", \"ques")).unwrap();
        let mut kept = Kept::open(&path, "j").unwrap();
        assert_eq!(kept.answer(&shown("c")), Some("line\nbreaks"));
        assert!(Kept::open(&path, "k").unwrap().answer(&shown("a")).is_none());
        kept.keep(shown("d"), "3 4".into()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(&whole) && text.lines().count() == 3, "{text}");
        let other = whole.replace("\"wording\":1", "\"wording\":0");
        std::fs::write(&path, other).unwrap();
        assert!(Kept::open(&path, "j").unwrap().answer(&shown("a")).is_none(), "another wording");
        std::fs::write(&path, "{\"prompt\": \"a\"}\n").unwrap();
        let said = Kept::open(&path, "j").unwrap_err().to_string();
        assert!(said.contains("answers.jsonl:1: question"), "{said}");
    }
}
