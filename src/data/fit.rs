//! Rows that are longer than a run allows.
//!
//! A prompt that is too long loses the end of its longest text (the instruction, its input, what a user
//! said), so that what the template writes, its end above all, stays whole. A response that is too
//! long is cut, and then no EOS stands behind it: the student would learn to stop in the middle. A row
//! of `ids` is used as it is. Both are counted.

use std::ops::Range;

use super::encode::{Encoded, Encoder};
use super::rows::Row;
use crate::error::{Error, Result};

/// The longest parts of a row, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of a prompt, template in.
    pub prompt: usize,
    /// Of a response, EOS in.
    pub response: usize,
}

impl Limits {
    /// These limits, lowered until both parts fit a model's context together: the response keeps at most
    /// half of it, the prompt the rest.
    pub fn within(self, context: usize) -> Self {
        let prompt = self.prompt.min(context.saturating_sub(self.response.min(context / 2)));
        Limits { prompt, response: self.response.min(context - prompt) }
    }
}

/// A row within the limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fitted {
    /// Its tokens.
    pub tokens: Encoded,
    /// Whether the prompt was shortened.
    pub shortened: bool,
    /// Whether the response was cut.
    pub cut: bool,
    /// What is given behind the prompt, between the replies of a conversation.
    pub given: Vec<Range<usize>>,
    /// Replies that were left out at the end of a conversation.
    pub left_out: usize,
    /// Whether only the last of several replies is learnt.
    pub last_alone: bool,
}

impl Fitted {
    /// A row that is a prompt and what is learnt behind it.
    pub fn plain(tokens: Encoded, shortened: bool, cut: bool) -> Self {
        Fitted { tokens, shortened, cut, given: Vec::new(), left_out: 0, last_alone: false }
    }
}

impl Encoder<'_> {
    /// The whole row within the limits; of a row without a response the prompt alone.
    pub fn fit(&self, row: &Row, limits: Limits) -> Result<Fitted> {
        match row {
            Row::Ids { .. } => Ok(Fitted::plain(self.encode(row)?, false, false)),
            Row::Text(_) => {
                let mut tokens = self.encode(row)?;
                let cut = tokens.ids.len() > limits.response;
                tokens.ids.truncate(limits.response);
                Ok(Fitted::plain(tokens, false, cut))
            }
            row => {
                let (mut ids, shortened) = self.fit_prompt(row, limits.prompt)?;
                let (prompt_len, mut cut) = (ids.len(), false);
                if let Some(mut response) = self.response(row)? {
                    cut = response.len() + usize::from(self.eos().is_some()) > limits.response;
                    response.truncate(limits.response);
                    ids.extend(response);
                    ids.extend(self.eos().filter(|_| !cut));
                }
                Ok(Fitted::plain(Encoded { ids, prompt_len }, shortened, cut))
            }
        }
    }

    /// The prompt within so many tokens, and whether it had to be shortened for it. Of a `text` row the
    /// text's beginning; of an `ids` row what it says.
    pub fn fit_prompt(&self, row: &Row, most: usize) -> Result<(Vec<u32>, bool)> {
        let ids = self.prompt(row)?;
        if ids.len() <= most || matches!(row, Row::Ids { .. }) {
            return Ok((ids, false));
        }
        let mut row = row.clone();
        loop {
            let Some((which, length)) = longest(&mut row) else {
                return Err(Error::data("a prompt is too long without its instruction")
                    .expected(format!("at most {most} tokens (data.max_prompt)"))
                    .found(self.prompt(&row)?.len()));
            };
            let (mut low, mut high) = (0, length);
            let mut best = self.with(&row, which, 0, most)?;
            // The more of the text is kept, the longer is the prompt; what is kept is known to fit.
            while best.is_some() && high - low > 1 {
                let middle = low + (high - low) / 2;
                match self.with(&row, which, middle, most)? {
                    Some(ids) => (low, best) = (middle, Some(ids)),
                    None => high = middle,
                }
            }
            match best {
                Some(ids) => return Ok((ids, true)),
                None => keep(&mut row, which, 0),
            }
        }
    }

    /// The prompt with so many characters of one text, where it fits.
    fn with(&self, row: &Row, which: usize, characters: usize, most: usize) -> Result<Option<Vec<u32>>> {
        let mut row = row.clone();
        keep(&mut row, which, characters);
        let ids = self.prompt(&row)?;
        Ok((ids.len() <= most).then_some(ids))
    }
}

/// The texts of a prompt that may be shortened.
fn texts(row: &mut Row) -> Vec<&mut String> {
    match row {
        Row::Prompt { prompt, .. } | Row::Choices { prompt, .. } => vec![prompt],
        Row::Instruction { instruction, input, .. } => vec![instruction, input],
        Row::Chat(messages) => {
            let replied = usize::from(messages.last().is_some_and(|m| m.role == "assistant"));
            let asked = messages.len() - replied;
            messages[..asked].iter_mut().filter(|m| m.role != "system").map(|m| &mut m.content).collect()
        }
        Row::Text(text) => vec![text],
        Row::Ids { .. } => Vec::new(),
    }
}

/// The longest of them, and how many characters it has; none where all are empty.
fn longest(row: &mut Row) -> Option<(usize, usize)> {
    let lengths = texts(row).into_iter().map(|t| t.chars().count()).enumerate();
    lengths.max_by_key(|&(at, n)| (n, std::cmp::Reverse(at))).filter(|&(_, n)| n > 0)
}

/// Cuts one of them.
fn keep(row: &mut Row, which: usize, characters: usize) {
    if let Some(text) = texts(row).into_iter().nth(which) {
        let end = text.char_indices().nth(characters).map_or(text.len(), |(at, _)| at);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_fit_a_context_together() {
        let of = |prompt, response, context| {
            let l = Limits { prompt, response }.within(context);
            (l.prompt, l.response)
        };
        assert_eq!(of(256, 256, 1024), (256, 256));
        assert_eq!(of(256, 256, 512), (256, 256));
        assert_eq!(of(256, 256, 400), (200, 200));
        assert_eq!(of(256, 100, 300), (200, 100));
        assert_eq!(of(50, 256, 100), (50, 50));
        assert_eq!(of(20, 256, 100), (20, 80));
    }

    #[test]
    fn the_longest_text_is_cut_first() {
        let mut row = Row::Instruction {
            instruction: "\u{e9}tude".into(),
            input: "longer than".into(),
            responses: vec![],
        };
        assert_eq!(longest(&mut row), Some((1, 11)));
        keep(&mut row, 1, 3);
        assert_eq!(longest(&mut row), Some((0, 5)));
        keep(&mut row, 0, 1);
        assert_eq!(
            row,
            Row::Instruction { instruction: "\u{e9}".into(), input: "lon".into(), responses: vec![] }
        );
    }
}
