//! The replies that runs show: the last of samples.jsonl, and those of a teacher from a file that `generate`
//! wrote, matched by their prompts.

use std::path::Path;

use serde_json::{Map, Value};

use super::lines;
use crate::error::{Error, Result};

/// Replies that are kept of an evaluation; a run writes 8.
const MOST: usize = 1024;

/// The replies of a run's last evaluation.
#[derive(Debug, Default)]
pub struct Samples {
    /// The update after which they were sampled.
    pub step: u64,
    /// Them.
    pub replies: Vec<Reply>,
}

/// A reply to a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// What was asked.
    pub prompt: String,
    /// What was answered.
    pub response: String,
    /// What the data has.
    pub references: Vec<String>,
    /// Rouge-L x 100 against them.
    pub rouge_l: Option<f64>,
    /// Whether it was cut.
    pub cut: bool,
}

impl Reply {
    fn of(line: &Map<String, Value>) -> Result<Self> {
        let text = |key: &str| {
            let wrong = || Error::data("not a reply").field(key).expected("a text");
            line.get(key).and_then(Value::as_str).map(String::from).ok_or_else(wrong)
        };
        let references = line.get("references").and_then(Value::as_array);
        let references = references.into_iter().flatten().filter_map(|r| r.as_str().map(String::from));
        Ok(Reply {
            prompt: text("prompt")?,
            response: text("response")?,
            references: references.collect(),
            rouge_l: line.get("rouge_l").and_then(Value::as_f64),
            cut: line.get("finish").and_then(Value::as_str) == Some("length"),
        })
    }
}

impl Samples {
    /// Reads a file; one that is not there has none.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let mut samples = Samples::default();
        lines::each(path, |line| {
            let wrong = || Error::data("not a reply").field("step").expected("the number of an update");
            let step = line.get("step").and_then(Value::as_u64).ok_or_else(wrong)?;
            let reply = Reply::of(&line)?;
            if step > samples.step {
                samples = Samples { step, replies: Vec::new() };
            }
            if step == samples.step && samples.replies.len() < MOST {
                samples.replies.push(reply);
            }
            Ok(())
        })?;
        Ok(samples)
    }

    /// The reply to this prompt.
    pub fn to(&self, prompt: &str) -> Option<&Reply> {
        self.replies.iter().find(|reply| reply.prompt == prompt)
    }
}

/// A teacher's replies.
#[derive(Debug, Default)]
pub struct Teacher(Vec<Reply>);

impl Teacher {
    /// Reads a file of lines as `generate --json` writes them.
    pub fn read(path: &Path) -> Result<Self> {
        let mut replies = Vec::new();
        let there = lines::each(path, |line| {
            replies.push(Reply::of(&line)?);
            Ok(())
        })?;
        if !there {
            return Err(Error::user("no such file").file(path).expected("lines of generate --json"));
        }
        Ok(Teacher(replies))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first reply to this prompt. samples.jsonl has prompts as the student saw them, in their template,
    /// where `generate` writes what was asked: so where no prompt is the same, the longest that stands in
    /// this one as words of its own is it.
    pub fn to(&self, prompt: &str) -> Option<&Reply> {
        let same = self.0.iter().find(|reply| reply.prompt.trim() == prompt.trim());
        same.or_else(|| {
            let inside = self.0.iter().filter(|reply| has_words(prompt, reply.prompt.trim()));
            // Of equals the first, as `max_by_key` would not have it.
            inside.fold(None, |best: Option<&Reply>, reply| match best {
                Some(best) if best.prompt.trim().len() >= reply.prompt.trim().len() => Some(best),
                _ => Some(reply),
            })
        })
    }
}

/// Whether a text stands in another without a letter or digit beside it that would go on with it.
fn has_words(text: &str, words: &str) -> bool {
    let goes_on = |beside: Option<char>, end: Option<char>| {
        beside.is_some_and(char::is_alphanumeric) && end.is_some_and(char::is_alphanumeric)
    };
    !words.is_empty()
        && text.match_indices(words).any(|(at, _)| {
            let (before, after) = (&text[..at], &text[at + words.len()..]);
            !goes_on(before.chars().next_back(), words.chars().next())
                && !goes_on(after.chars().next(), words.chars().next_back())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_teachers_reply_is_found_by_its_prompt() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        let line = |prompt: &str, n: u32| format!("{{\"prompt\":{prompt:?},\"response\":\"{n}\"}}\n");
        let text = [line("1?", 1), line("11?", 2), line("Say 1?", 3), line("1?", 4)].concat();
        std::fs::write(&path, text).unwrap();
        let teacher = Teacher::read(&path).unwrap();
        for (prompt, reply) in [
            ("1?", Some("1")),
            ("<s> 11?", Some("2")),
            ("<user>Say 1?</user>", Some("3")),
            ("<user>1?</user>", Some("1")),
            ("21?", None),
            ("", None),
        ] {
            assert_eq!(teacher.to(prompt).map(|r| r.response.as_str()), reply, "{prompt}");
        }
        std::fs::write(&path, "{\"prompt\":\"x\"}\n").unwrap();
        let text = Teacher::read(&path).unwrap_err().to_string();
        assert!(text.contains("t.jsonl:1: response: expected a text"), "{text}");
    }

    #[test]
    fn the_last_evaluations_replies_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples.jsonl");
        assert!(Samples::read(&path).unwrap().replies.is_empty());
        let line = |step: u32, n: u32| {
            format!(
                "{{\"step\":{step},\"prompt\":\"p{n}\",\"response\":\"r{step}\",\"references\":[\"a\",\"b\"],\
                 \"finish\":\"length\",\"rouge_l\":12.5}}\n"
            )
        };
        std::fs::write(&path, [line(0, 1), line(5, 1), line(5, 2), "{\"st".into()].concat()).unwrap();
        let samples = Samples::read(&path).unwrap();
        assert_eq!((samples.step, samples.replies.len()), (5, 2));
        let reply = samples.to("p2").unwrap();
        assert!(reply.cut && reply.references == ["a", "b"] && reply.rouge_l == Some(12.5));
        assert_eq!(samples.to("p3"), None);
    }
}
