//! Files of rows of the task: requests with replies to learn, without replies to sample for, and held-out
//! ones with several references to measure by.

use std::path::Path;

use rand::RngExt;
use serde_json::{Value, json};

use super::grammar::{Grammar, Request, Split};
use crate::error::Result;
use crate::seed::{Generator, Stream, generator};
use crate::store::write_file;

/// Tries to find another reference of a held-out row before it has fewer.
const TRIES: usize = 60;

/// Where rows are drawn: the run's seed, and a number of the file's own.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// The run's seed.
    pub seed: u64,
    /// Files with another number share no draw.
    pub file: u64,
}

impl Draw {
    fn row(self, row: usize) -> Generator {
        generator(self.seed, Stream::Task, self.file, row as u64)
    }
}

/// What a row has beside its prompt.
#[derive(Debug, Clone, Copy)]
pub enum Replies {
    /// Nothing.
    None,
    /// One reply; in this share of the rows it has an argument wrong.
    One {
        /// From 0 to 1.
        mistaken: f64,
    },
    /// Up to so many replies that differ.
    Several(usize),
}

/// Writes so many rows to a file of JSON lines, and answers their requests.
pub fn write(
    grammar: &Grammar,
    path: &Path,
    count: usize,
    (split, replies): (Split, Replies),
    draw: Draw,
) -> Result<Vec<Request>> {
    let mut requests = Vec::with_capacity(count);
    let mut lines = String::new();
    for row in 0..count {
        let mut draws = draw.row(row);
        let request = grammar.request(split, &mut draws)?;
        let line = match replies.of(grammar, &request, &mut draws)? {
            None => json!({"prompt": request.prompt}),
            Some(response) => json!({"prompt": request.prompt, "response": response}),
        };
        lines += &format!("{line}\n");
        requests.push(request);
    }
    write_file(path, |out| Ok(out.write_all(lines.as_bytes())?))?;
    Ok(requests)
}

impl Replies {
    fn of(self, grammar: &Grammar, request: &Request, draws: &mut Generator) -> Result<Option<Value>> {
        Ok(match self {
            Replies::None => None,
            Replies::One { mistaken } if draws.random_bool(mistaken) => {
                Some(grammar.mistaken_reply(request, draws)?.into())
            }
            Replies::One { .. } => Some(grammar.reply(request, draws)?.into()),
            Replies::Several(most) => {
                let mut all: Vec<Value> = Vec::new();
                for _ in 0..TRIES {
                    let reply = grammar.reply(request, draws)?.into();
                    if all.len() < most && !all.contains(&reply) {
                        all.push(reply);
                    }
                }
                Some(all.into())
            }
        })
    }
}
