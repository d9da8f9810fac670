//! A small language of requests and answers, read from `task.toml`: it writes prompts and replies, and tells
//! whether a reply is one that it could have written.
//!
//! A family of requests has arguments (rows of tables), wordings and a reply in parts. Which arguments and
//! wordings are held out is a function of themselves, so that no file has to say it.

use std::collections::BTreeMap;
use std::fmt::Write;

use rand::RngExt;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::seed::{Generator, Stream, draw};

/// One in so many choices of arguments is held out.
const HELD_OUT: u64 = 8;

/// How much rarer each further alternative of a part is: the n-th has weight n^-FALL.
const FALL: f64 = 0.7;

/// What a row is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Learnt: the usual wordings, and arguments that are not held out.
    Train,
    /// Chosen by: the usual wordings about held-out arguments.
    Valid,
    /// Measured by: held-out wordings about held-out arguments.
    Test,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// As it is asked.
    pub prompt: String,
    family: usize,
    /// A row of the argument's table, by argument.
    rows: Vec<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Family {
    name: String,
    arguments: BTreeMap<String, String>,
    wordings: Vec<String>,
    held_out: Vec<String>,
    reply: Vec<Vec<String>>,
}

/// All that can be asked and answered.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grammar {
    tables: BTreeMap<String, Table>,
    families: Vec<Family>,
}

impl Grammar {
    /// The quickstart's.
    ///
    /// ```
    /// # fn main() -> retort::error::Result<()> {
    /// use retort::quickstart::grammar::{Grammar, Split};
    /// use retort::seed::{Stream, generator};
    /// let (grammar, mut draws) = (Grammar::built_in()?, generator(1, Stream::Task, 0, 0));
    /// let request = grammar.request(Split::Train, &mut draws)?;
    /// let reply = grammar.reply(&request, &mut draws)?;
    /// assert!(grammar.is_valid(&request, &reply)?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn built_in() -> Result<Self> {
        Self::read(include_str!("task.toml"))
    }

    /// The grammar that this text writes down.
    pub fn read(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| Error::data("not a grammar").found(e.message()))
    }

    /// The families' names.
    pub fn families(&self) -> impl Iterator<Item = &str> {
        self.families.iter().map(|f| f.name.as_str())
    }

    /// The name of a request's family.
    pub fn family(&self, request: &Request) -> &str {
        &self.families[request.family].name
    }

    /// A request of any family.
    pub fn request(&self, split: Split, draws: &mut Generator) -> Result<Request> {
        let family = draws.random_range(0..self.families.len());
        let of = &self.families[family];
        let rows = loop {
            let rows = self.arguments(of, draws)?;
            if is_held_out(family, &rows) == (split != Split::Train) {
                break rows;
            }
        };
        let wordings = if split == Split::Test { &of.held_out } else { &of.wordings };
        let wording = &wordings[draws.random_range(0..wordings.len())];
        let prompt = self.write(of, &rows, wording)?;
        Ok(Request { prompt, family, rows })
    }

    /// An answer to it.
    pub fn reply(&self, request: &Request, draws: &mut Generator) -> Result<String> {
        let family = &self.families[request.family];
        let mut reply = String::new();
        for part in &family.reply {
            reply.push_str(&self.write(family, &request.rows, &part[alternative(part.len(), draws)])?);
        }
        Ok(reply)
    }

    /// An answer to a request that differs in one argument.
    pub fn mistaken_reply(&self, request: &Request, draws: &mut Generator) -> Result<String> {
        let family = &self.families[request.family];
        let changed = draws.random_range(0..request.rows.len());
        let mut other = request.clone();
        while other.rows == request.rows {
            other.rows[changed] = self.arguments(family, draws)?[changed];
        }
        self.reply(&other, draws)
    }

    /// Whether the grammar could have given this answer.
    pub fn is_valid(&self, request: &Request, reply: &str) -> Result<bool> {
        let family = &self.families[request.family];
        // How many bytes of the reply the parts so far can have written.
        let mut ends = vec![0];
        for part in &family.reply {
            let mut further = Vec::new();
            for alternative in part {
                let written = self.write(family, &request.rows, alternative)?;
                further.extend(
                    ends.iter()
                        .filter(|end| reply[**end..].starts_with(&written))
                        .map(|end| end + written.len()),
                );
            }
            further.sort_unstable();
            further.dedup();
            ends = further;
        }
        Ok(ends.contains(&reply.len()))
    }

    /// Rows for the arguments, no row of a table twice.
    fn arguments(&self, family: &Family, draws: &mut Generator) -> Result<Vec<usize>> {
        let mut rows: Vec<(&str, usize)> = Vec::new();
        for name in family.arguments.values() {
            let table = self.table(name)?;
            let row = loop {
                let row = draws.random_range(0..table.rows.len());
                if !rows.contains(&(name, row)) {
                    break row;
                }
            };
            rows.push((name, row));
        }
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    fn table(&self, name: &str) -> Result<&Table> {
        self.tables.get(name).ok_or_else(|| Error::data("no such table in the grammar").found(name))
    }

    /// A template with its places filled, and those in what filled them.
    fn write(&self, family: &Family, rows: &[usize], template: &str) -> Result<String> {
        let mut text = String::with_capacity(template.len());
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            let (place, after) =
                after.split_once('}').ok_or_else(|| Error::data("a place without an end").found(template))?;
            text.push_str(before);
            let (capital, place) = place.strip_prefix('^').map_or((false, place), |p| (true, p));
            let filled = self.write(family, rows, self.value(family, rows, place)?)?;
            let first = filled.chars().next().filter(|_| capital);
            let _ = match first {
                Some(first) => write!(text, "{}{}", first.to_uppercase(), &filled[first.len_utf8()..]),
                None => write!(text, "{filled}"),
            };
            rest = after;
        }
        text.push_str(rest);
        Ok(text)
    }

    /// What `name` or `name.column` stands for.
    fn value(&self, family: &Family, rows: &[usize], place: &str) -> Result<&str> {
        let (name, column) = place.split_once('.').map_or((place, None), |(n, c)| (n, Some(c)));
        let found = family.arguments.iter().zip(rows).find(|((own, _), _)| *own == name);
        let nothing = || Error::data("nothing to write in a place of the grammar").found(place);
        let ((_, table), row) = found.ok_or_else(nothing)?;
        let table = self.table(table)?;
        let at = match column {
            Some(column) => table.columns.iter().position(|c| c == column).ok_or_else(nothing)?,
            None => 0,
        };
        table.rows[*row].get(at).map(String::as_str).ok_or_else(nothing)
    }
}

/// Whether nothing may be learnt about these arguments.
fn is_held_out(family: usize, rows: &[usize]) -> bool {
    let key = rows.iter().fold(family as u64, |key, row| key * 101 + *row as u64);
    draw(0, Stream::Task, u64::MAX, key).is_multiple_of(HELD_OUT)
}

/// One of so many, the first the commonest.
fn alternative(count: usize, draws: &mut Generator) -> usize {
    let weight = |n: usize| ((n + 1) as f64).powf(-FALL);
    let mut left = draws.random::<f64>() * (0..count).map(weight).sum::<f64>();
    for n in 0..count {
        left -= weight(n);
        if left < 0.0 {
            return n;
        }
    }
    count - 1
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::seed::generator;

    #[test]
    fn replies_are_told_from_mistakes() {
        let grammar = Grammar::built_in().unwrap();
        let mut draws = generator(1, Stream::Task, 0, 0);
        let (mut valid, mut mistaken) = (0, 0);
        for _ in 0..2000 {
            let request = grammar.request(Split::Test, &mut draws).unwrap();
            let reply = grammar.reply(&request, &mut draws).unwrap();
            assert!(!reply.contains(['{', '}']) && !request.prompt.contains(['{', '}']), "{reply}");
            valid += usize::from(grammar.is_valid(&request, &reply).unwrap());
            assert!(!grammar.is_valid(&request, &format!("{reply} ")).unwrap());
            assert!(!grammar.is_valid(&request, &reply[1..]).unwrap());
            let other = grammar.mistaken_reply(&request, &mut draws).unwrap();
            mistaken += usize::from(!grammar.is_valid(&request, &other).unwrap());
        }
        assert_eq!(valid, 2000);
        // Some answers do not speak of every argument: a fox and a wolf can both be hungry.
        assert!(mistaken > 1700, "{mistaken}");
    }

    #[test]
    fn what_is_held_out_is_never_learnt() {
        let grammar = Grammar::built_in().unwrap();
        let seen = |split, run| -> HashSet<(usize, Vec<usize>, String)> {
            let mut draws = generator(run, Stream::Task, 0, 0);
            (0..3000)
                .map(|_| grammar.request(split, &mut draws).unwrap())
                .map(|r| (r.family, r.rows, r.prompt))
                .collect()
        };
        let arguments = |set: &HashSet<(usize, Vec<usize>, String)>| -> HashSet<(usize, Vec<usize>)> {
            set.iter().map(|(f, rows, _)| (*f, rows.clone())).collect()
        };
        let (train, valid, test) = (seen(Split::Train, 1), seen(Split::Valid, 2), seen(Split::Test, 3));
        assert!(arguments(&train).is_disjoint(&arguments(&test)));
        assert!(arguments(&train).is_disjoint(&arguments(&valid)));
        // The wordings of the test are its own: no prompt of it is one of validation.
        assert!(valid.is_disjoint(&test) && !arguments(&valid).is_disjoint(&arguments(&test)));
    }

    #[test]
    fn broken_grammars_are_errors() {
        let text = "[tables.a]\ncolumns = ['x']\nrows = [['1'], ['2']]\n[[families]]\nname = 'f'\n\
                    arguments = { y = 'a' }\nwordings = ['W']\nheld_out = ['W']\nreply = [['R']]\n";
        let ask = |text: &str| {
            let grammar = Grammar::read(text)?;
            grammar.request(Split::Train, &mut generator(1, Stream::Task, 0, 0))
        };
        assert!(ask(text).is_ok());
        assert!(ask(&text.replace("['W']", "['{z}']")).is_err());
        assert!(ask(&text.replace("['W']", "['{y.z}']")).is_err());
        assert!(ask(&text.replace("['W']", "['{y']")).is_err());
        assert!(ask(&text.replace("y = 'a'", "y = 'b'")).is_err());
        assert!(ask(&text.replace("name", "nam")).is_err());
    }
}
