//! Rows -> token ids.
//!
//! The prompt is made into text by the template and tokenised, the response is tokenised apart without
//! special tokens, then EOS is put behind it. So the boundary between the two is always a token's, and
//! a reply that is sampled after the prompt has the ids that were trained on.

use rayon::prelude::*;

use super::rows::{Row, last_reply};
use crate::error::{Error, Result};
use crate::text::template::{Chat, alpaca};
use crate::text::{Message, Template, Tokenizer};

/// A row as tokens: the first `prompt_len` are the prompt, the rest are what is learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// All tokens.
    pub ids: Vec<u32>,
    /// How many of them are the prompt.
    pub prompt_len: usize,
}

impl Encoded {
    /// The prompt.
    pub fn prompt(&self) -> &[u32] {
        &self.ids[..self.prompt_len.min(self.ids.len())]
    }

    /// What comes after it.
    pub fn response(&self) -> &[u32] {
        &self.ids[self.prompt_len.min(self.ids.len())..]
    }
}

/// Makes tokens of rows.
#[derive(Debug, Clone)]
pub struct Encoder<'t> {
    tokenizer: &'t Tokenizer,
    template: Template,
    eos: Option<u32>,
    limit: usize,
}

impl<'t> Encoder<'t> {
    /// An encoder with this template; `eos` goes behind every response ([`crate::text::turn_end`]).
    pub fn new(tokenizer: &'t Tokenizer, template: Template, eos: Option<u32>) -> Self {
        Encoder { tokenizer, template, eos, limit: tokenizer.vocab_size() }
    }

    /// With another bound on the ids of `ids` rows than the tokenizer's size.
    pub fn with_limit(self, limit: usize) -> Self {
        Encoder { limit, ..self }
    }

    /// The whole row: prompt, response and EOS. A row without a response is its prompt alone; a `text`
    /// row is all response, nothing added; an `ids` row is what it says, all of it response unless it
    /// has a `prompt_len`.
    pub fn encode(&self, row: &Row) -> Result<Encoded> {
        let response = match row {
            Row::Text(text) => return Ok(Encoded { ids: self.tokenizer.encode(text, true)?, prompt_len: 0 }),
            Row::Ids { ids, prompt_len } => {
                self.check(ids)?;
                return Ok(Encoded { ids: ids.clone(), prompt_len: prompt_len.unwrap_or(0) });
            }
            row => row.references().first().copied(),
        };
        let mut ids = self.prompt(row)?;
        let prompt_len = ids.len();
        if let Some(response) = response {
            ids.extend(self.tokenizer.encode(response, false)?);
            ids.extend(self.eos);
        }
        Ok(Encoded { ids, prompt_len })
    }

    /// A response as tokens, without EOS; none where the row has none.
    pub(super) fn response(&self, row: &Row) -> Result<Option<Vec<u32>>> {
        let response = row.references().first().map(|text| self.tokenizer.encode(text, false));
        response.transpose()
    }

    /// The chat template, where one is in force.
    pub(super) fn chat(&self) -> Option<&Chat> {
        match &self.template {
            Template::Chat(chat) => Some(chat),
            _ => None,
        }
    }

    pub(super) fn tokenizer(&self) -> &Tokenizer {
        self.tokenizer
    }

    /// What goes behind every response.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Many rows, on all threads, in their order.
    pub fn encode_all(&self, rows: &[Row]) -> Result<Vec<Encoded>> {
        rows.par_iter().map(|row| self.encode(row)).collect()
    }

    /// What a reply is generated after: the prompt alone; of a `text` row the text, of an `ids` row its
    /// first `prompt_len`, or all.
    pub fn prompt(&self, row: &Row) -> Result<Vec<u32>> {
        if let Row::Ids { ids, prompt_len } = row {
            self.check(ids)?;
            return Ok(ids[..prompt_len.unwrap_or(ids.len()).min(ids.len())].to_vec());
        }
        // A chat template writes its own special tokens, as in transformers' apply_chat_template.
        let templated = matches!(self.template, Template::Chat(_)) && !matches!(row, Row::Text(_));
        self.tokenizer.encode(&self.prompt_text(row)?, !templated)
    }

    /// The prompt as text; empty for an `ids` row.
    pub fn prompt_text(&self, row: &Row) -> Result<String> {
        if let Row::Text(text) = row {
            return Ok(text.clone());
        }
        match &self.template {
            Template::Chat(chat) => chat.render(&turns(row), true),
            Template::Alpaca => {
                let (instruction, input) = instruction(row);
                Ok(alpaca(&instruction, &input))
            }
            Template::Plain => {
                let (instruction, input) = instruction(row);
                Ok(if input.is_empty() { instruction } else { format!("{instruction}\n{input}") })
            }
        }
    }

    fn check(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().position(|id| *id as usize >= self.limit) {
            None => Ok(()),
            Some(at) => Err(Error::data("not a token of this model")
                .field(format!("ids[{at}]"))
                .expected(format!("an id below {}", self.limit))
                .found(ids[at])),
        }
    }
}

impl Row {
    /// What is asked, as a person would read it, without a template: None of rows that ask nothing.
    ///
    /// ```
    /// use retort::data::Row;
    /// let row = Row::Instruction { instruction: "Add.".into(), input: "1 and 2".into(), responses: vec![] };
    /// assert_eq!(row.question().as_deref(), Some("Add.\n1 and 2"));
    /// ```
    pub fn question(&self) -> Option<String> {
        match self {
            Row::Text(_) | Row::Ids { .. } => None,
            Row::Chat(messages) => match before_reply(messages) {
                [only] => Some(only.content.clone()),
                all => {
                    let turns: Vec<String> =
                        all.iter().map(|m| format!("{}: {}", m.role, m.content)).collect();
                    Some(turns.join("\n\n"))
                }
            },
            other => {
                let (instruction, input) = instruction(other);
                Some(if input.is_empty() { instruction } else { format!("{instruction}\n{input}") })
            }
        }
    }
}

/// The turns before the reply.
fn turns(row: &Row) -> Vec<Message> {
    match row {
        Row::Chat(messages) => before_reply(messages).to_vec(),
        other => {
            let (instruction, input) = instruction(other);
            let text = if input.is_empty() { instruction } else { format!("{instruction}\n{input}") };
            vec![Message::new("user", text)]
        }
    }
}

fn before_reply(messages: &[Message]) -> &[Message] {
    &messages[..messages.len() - usize::from(last_reply(messages).is_some())]
}

/// What is asked and what it is about. Without a chat template a conversation is its contents, a blank
/// line between.
fn instruction(row: &Row) -> (String, String) {
    match row {
        Row::Prompt { prompt, .. } | Row::Choices { prompt, .. } => (prompt.clone(), String::new()),
        Row::Instruction { instruction, input, .. } => (instruction.clone(), input.clone()),
        Row::Chat(messages) => {
            let contents: Vec<&str> = before_reply(messages).iter().map(|m| m.content.as_str()).collect();
            (contents.join("\n\n"), String::new())
        }
        Row::Text(text) => (text.clone(), String::new()),
        Row::Ids { .. } => Default::default(),
    }
}
