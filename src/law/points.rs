//! What a grid measured: a CSV file, a line a run.
//!
//! Columns, in any order, by the names of the first line; those that are called otherwise are passed over:
//!
//! | column | what it is | |
//! |---|---|---|
//! | `student` | its size, all parameters counted; rows of one size are one curve | needed |
//! | `teacher` | its size, counted alike; empty for a run without one | needed |
//! | `loss` or `perplexity` | of held-out text after training, nats a token | needed |
//! | `arm` | how the student began and learnt; `teacher` is a model trained alone | else `all` |
//! | `seed` | of the run | |
//! | `tokens`, `teacher_tokens` | that each of them learnt | for the scaling law |
//! | `student_body`, `teacher_body` | sizes without embeddings | else all parameters |
//! | `teacher_loss` | the teacher's own | for the scaling law |
//! | `kl` | forward KL from the teacher | shown |
//! | `initial_loss` | the loss before training | shown |

use std::path::Path;

use crate::config::numbers;
use crate::error::{Error, Result};
use crate::store::read_file;

/// The longest file.
const LONGEST: u64 = 16 << 20;
/// The most lines.
const LINES: usize = 10_000;
/// The most columns.
const COLUMNS: usize = 64;

/// The arm of models that were trained without a teacher.
pub const ALONE: &str = "teacher";

/// A run's numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    /// How the student began and learnt.
    pub arm: String,
    /// The student's size.
    pub student: f64,
    /// Its teacher's.
    pub teacher: Option<f64>,
    /// The run's seed.
    pub seed: u64,
    /// The student's tokens.
    pub tokens: Option<f64>,
    /// Its teacher's.
    pub teacher_tokens: Option<f64>,
    /// The student's size without embeddings.
    pub student_body: Option<f64>,
    /// Its teacher's.
    pub teacher_body: Option<f64>,
    /// The teacher's loss.
    pub teacher_loss: Option<f64>,
    /// The student's loss.
    pub loss: f64,
    /// Forward KL from the teacher.
    pub kl: Option<f64>,
    /// The student's loss before training.
    pub initial_loss: Option<f64>,
}

/// A file of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Points {
    /// Its rows.
    pub rows: Vec<Measured>,
    /// Columns that were passed over.
    pub passed_over: Vec<String>,
}

const NAMES: [&str; 14] = [
    "arm",
    "student",
    "teacher",
    "seed",
    "tokens",
    "teacher_tokens",
    "student_body",
    "teacher_body",
    "teacher_loss",
    "loss",
    "perplexity",
    "kl",
    "initial_loss",
    "initial_perplexity",
];

/// Columns that a grid writes beside them, for people.
const BESIDE: [&str; 3] = ["student_params", "updates", "run"];

/// What a cell may hold.
#[derive(Clone, Copy)]
enum Kind {
    /// Parameters or tokens: above zero, also as `120M`.
    Size,
    /// From zero on.
    Gap,
    /// Above zero.
    Loss,
    /// Above one; its logarithm is taken.
    Perplexity,
}

impl Points {
    /// Reads a file.
    pub fn read(file: &Path) -> Result<Self> {
        let bytes = read_file(file, LONGEST)?.ok_or_else(|| Error::user("no such file").file(file))?;
        let text = String::from_utf8(bytes).map_err(|_| Error::data("not UTF-8").file(file))?;
        Self::parse(&text).map_err(|e| e.or_file(file))
    }

    /// Reads a text.
    ///
    /// ```
    /// let points = retort::law::Points::parse("student,teacher,perplexity\n1M,2.5M,12.5\n")?;
    /// assert_eq!(points.rows[0].teacher, Some(2.5e6));
    /// # Ok::<(), retort::error::Error>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self> {
        let mut lines = records(text.strip_prefix('\u{feff}').unwrap_or(text))?.into_iter();
        let (_, head) = lines.next().ok_or_else(|| Error::data("no line").expected("names of columns"))?;
        let head: Vec<String> = head.iter().map(|name| name.trim().to_lowercase()).collect();
        check_head(&head)?;
        let mut rows = Vec::new();
        for (line, cells) in lines {
            if cells.len() != head.len() {
                let e = Error::data("a line of another length").line(line);
                return Err(e.expected(format!("{} cells", head.len())).found(cells.len()));
            }
            rows.push(Row { head: &head, cells: &cells, line }.read()?);
        }
        if rows.is_empty() {
            return Err(Error::data("no points").expected("a line for each run"));
        }
        let known = |name: &str| NAMES.contains(&name) || BESIDE.contains(&name);
        let passed_over = head.into_iter().filter(|name| !known(name)).collect();
        Ok(Points { rows, passed_over })
    }
}

fn check_head(head: &[String]) -> Result<()> {
    if head.len() > COLUMNS {
        return Err(Error::data("too many columns").line(1).expected(COLUMNS).found(head.len()));
    }
    let has = |name: &str| head.iter().any(|h| h == name);
    for wanted in ["student", "teacher"] {
        if !has(wanted) {
            return Err(Error::data("a column is missing").line(1).field(wanted));
        }
    }
    if !has("loss") && !has("perplexity") {
        return Err(Error::data("a column is missing").line(1).field("loss").expected("loss or perplexity"));
    }
    for name in NAMES {
        if head.iter().filter(|h| *h == name).count() > 1 {
            return Err(Error::data("a column that is there twice").line(1).field(name));
        }
    }
    Ok(())
}

/// A line, by the names of its columns.
struct Row<'a> {
    head: &'a [String],
    cells: &'a [String],
    line: usize,
}

impl Row<'_> {
    fn cell(&self, name: &str) -> &str {
        let at = self.head.iter().position(|h| h == name);
        at.and_then(|at| self.cells.get(at)).map_or("", |cell| cell.trim())
    }

    fn wrong(&self, name: &str, expected: &str) -> Error {
        let e = Error::data("a cell is wrong").line(self.line).field(name);
        e.expected(expected).found(format!("{:?}", self.cell(name)))
    }

    fn number(&self, name: &str, kind: Kind) -> Result<Option<f64>> {
        let text = self.cell(name);
        if text.is_empty() {
            return Ok(None);
        }
        let plain = text.parse::<f64>().ok().filter(|x| x.is_finite());
        let (found, expected) = match kind {
            Kind::Size => {
                let short = || numbers::at_least_one(text).ok().map(|n| n as f64);
                (
                    plain.or_else(short).filter(|x| (1.0..=1e15).contains(x)),
                    "a number from 1 on, such as 1.5M",
                )
            }
            Kind::Gap => (plain.filter(|x| (0.0..=1e3).contains(x)), "a number from 0 to 1000"),
            Kind::Loss => (plain.filter(|x| *x > 0.0 && *x <= 1e3), "a number above 0, to 1000"),
            Kind::Perplexity => (plain.filter(|x| *x > 1.0).map(f64::ln), "a number above 1"),
        };
        found.map(Some).ok_or_else(|| self.wrong(name, expected))
    }

    /// A loss, or the logarithm of a perplexity.
    fn loss(&self, loss: &str, perplexity: &str) -> Result<Option<f64>> {
        match self.number(loss, Kind::Loss)? {
            Some(x) => Ok(Some(x)),
            None => self.number(perplexity, Kind::Perplexity),
        }
    }

    fn read(&self) -> Result<Measured> {
        let arm = match self.cell("arm") {
            "" => "all".to_string(),
            name if name.chars().count() <= 64 && !name.chars().any(char::is_control) => name.to_string(),
            _ => return Err(self.wrong("arm", "a name of at most 64 letters")),
        };
        let teacher = self.number("teacher", Kind::Size)?;
        if teacher.is_none() && arm != ALONE {
            return Err(self.wrong("teacher", "a size; it may be empty where arm is teacher"));
        }
        let seed = match self.cell("seed") {
            "" => 0,
            text => text.parse().map_err(|_| self.wrong("seed", "a whole number"))?,
        };
        Ok(Measured {
            student: self.number("student", Kind::Size)?.ok_or_else(|| self.wrong("student", "a size"))?,
            loss: self.loss("loss", "perplexity")?.ok_or_else(|| self.wrong("loss", "a number"))?,
            tokens: self.number("tokens", Kind::Size)?,
            teacher_tokens: self.number("teacher_tokens", Kind::Size)?,
            student_body: self.number("student_body", Kind::Size)?,
            teacher_body: self.number("teacher_body", Kind::Size)?,
            teacher_loss: self.number("teacher_loss", Kind::Loss)?,
            kl: self.number("kl", Kind::Gap)?,
            initial_loss: self.loss("initial_loss", "initial_perplexity")?,
            arm,
            teacher,
            seed,
        })
    }
}

/// The cells of each line that is not empty, with the line's number. Quotes may hold commas, and quotes twice.
fn records(text: &str) -> Result<Vec<(usize, Vec<String>)>> {
    let mut all = Vec::new();
    for (n, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        if all.len() > LINES {
            return Err(Error::data("too many lines").expected(format!("at most {LINES}")).found("more"));
        }
        let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
        let mut letters = line.chars().peekable();
        while let Some(letter) = letters.next() {
            match letter {
                '"' if quoted && letters.peek() == Some(&'"') => {
                    cell.push('"');
                    letters.next();
                }
                '"' => quoted = !quoted,
                ',' if !quoted => cells.push(std::mem::take(&mut cell)),
                letter => cell.push(letter),
            }
        }
        if quoted {
            return Err(Error::data("a quote is not closed").line(n + 1));
        }
        cells.push(cell);
        all.push((n + 1, cells));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_go_by_their_names() {
        let text = "\u{feff}Loss,arm,\"what, else\",teacher,student,seed\r\n2.5,\"kd\",\"a \"\"b\"\"\",2M,1.5M,7\r\n\r\n3,teacher,,,64k,\r\n";
        let points = Points::parse(text).unwrap();
        let [first, second] = &points.rows[..] else { panic!("{points:?}") };
        assert_eq!((first.loss, first.teacher, first.student, first.seed), (2.5, Some(2e6), 1.5e6, 7));
        assert_eq!((second.arm.as_str(), second.teacher, second.student), (ALONE, None, 64e3));
        assert_eq!(points.passed_over, ["what, else"]);
    }

    #[test]
    fn a_perplexity_is_the_exponential_of_a_loss() {
        let points = Points::parse("student,teacher,perplexity,initial_perplexity\n1,2,20,10\n").unwrap();
        assert_eq!((points.rows[0].loss, points.rows[0].initial_loss), (20f64.ln(), Some(10f64.ln())));
    }

    #[test]
    fn hostile_files_are_one_line() {
        let many = format!("student,teacher,loss\n{}", "1,2,3\n".repeat(LINES + 1));
        let wide = format!("student,teacher,loss{}\n", ",x".repeat(COLUMNS));
        let cases: [(&str, &str); 19] = [
            ("", "names of columns"),
            ("\n\n", "names of columns"),
            ("student,teacher,loss\n", "no points"),
            ("student,loss\n1,2\n", "missing: line 1: teacher"),
            ("student,teacher\n1,2\n", "loss or perplexity"),
            ("student,teacher,loss,loss\n1,2,3,4\n", "twice"),
            ("student,teacher,loss\n1,2\n", "line 2: expected 3 cells, found 2"),
            ("student,teacher,loss\n1,2,3,4\n", "found 4"),
            ("student,teacher,loss\n1,2,NaN\n", "line 2: loss"),
            ("student,teacher,loss\n1,2,inf\n", "line 2: loss"),
            ("student,teacher,loss\n1,2,-1\n", "above 0, to 1000"),
            ("student,teacher,loss\n0,2,1\n", "line 2: student"),
            ("student,teacher,loss\n-5,2,1\n", "line 2: student"),
            ("student,teacher,loss\n1e300,2,1\n", "line 2: student"),
            ("student,teacher,loss\n1,,1\n", "line 2: teacher"),
            ("student,teacher,perplexity\n1,2,0.5\n", "above 1"),
            ("student,teacher,loss\n\"1,2,3\n", "not closed"),
            (&many, "too many lines"),
            (&wide, "too many columns"),
        ];
        for (text, wanted) in cases {
            let said = Points::parse(text).unwrap_err().to_string();
            assert!(said.contains(wanted) && said.lines().count() == 1, "{wanted}: {said}");
        }
        let long = format!("student,teacher,loss,arm\n1,2,3,{}\n", "x".repeat(1000));
        assert!(Points::parse(&long).unwrap_err().to_string().len() < 500);
    }
}
