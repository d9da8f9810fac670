//! The text that importance is measured on: documents drawn evenly out of a file of any size, in an order that the
//! seed decides, behind each other and cut into sequences; and others, held out, for perplexity. Of rows with a prompt
//! each is a sequence by itself, and what counts is its response: a model that was taught to answer need not know
//! what is asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::data::corpus::is_rows;
use crate::data::{Corpus, Encoder, Example, Reader, Schema};
use crate::error::{Error, Result};
use crate::seed::{Stream, draw};
use crate::signal;
use crate::text::{Template, TemplateChoice, Tokenizer, turn_end};

/// How much is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    /// Sequences that importance is measured on.
    pub samples: usize,
    /// Sequences that perplexity is measured on.
    pub held: usize,
    /// Tokens of a sequence.
    pub sequence: usize,
    /// Decides which.
    pub seed: u64,
}

/// What was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Sequences that importance is measured on.
    pub sequences: Vec<Example>,
    /// Sequences that perplexity is measured on; the same where the text is too short for two.
    pub held: Vec<Example>,
    /// How often each token stands in the whole file.
    pub used: Vec<u64>,
    /// Documents in the whole file.
    pub documents: usize,
}

impl Sample {
    /// Reads a file: text, or rows of any schema.
    pub fn read(
        file: &Path,
        tokenizer: &Tokenizer,
        eos: &[u32],
        choice: &TemplateChoice,
        amount: Amount,
    ) -> Result<Self> {
        let mut drawn = Drawn::new(amount, tokenizer.vocab_size());
        let end = turn_end(eos, tokenizer);
        let files = [PathBuf::from(file)];
        let corpus = Corpus { files: &files, tokenizer, eos: end };
        if is_rows(file) && !of_text(file)? {
            drawn.by_rows = true;
            rows(file, tokenizer, end, choice, &mut |ids, prompt| drawn.take(ids, prompt))?;
        } else {
            corpus.each(&mut |ids, _| drawn.take(ids, 0))?;
        }
        let cut = drawn.cut(corpus.bos()).ok_or_else(|| {
            let e = Error::data("too little text to measure on").file(file);
            e.expected("two tokens or more").found("fewer")
        })?;
        Ok(Sample { used: drawn.used, documents: drawn.count as usize, ..cut })
    }
}

/// Whether a file of rows has `{"text"}` rows.
fn of_text(file: &Path) -> Result<bool> {
    let mut reader = Reader::open(file)?;
    let first = reader.next().transpose()?;
    Ok(first.is_some() && reader.schema() == Some(Schema::Text))
}

fn rows(
    file: &Path,
    tokenizer: &Tokenizer,
    end: Option<u32>,
    choice: &TemplateChoice,
    take: &mut dyn FnMut(&[u32], usize) -> Result<()>,
) -> Result<()> {
    let mut reader = Reader::open(file)?;
    let mut encoder: Option<Encoder<'_>> = None;
    while let Some(row) = reader.next() {
        let (line, row) = row?;
        signal::check()?;
        let instruction = reader.schema().is_some_and(|schema| schema.has_instruction());
        let encoder = match &mut encoder {
            Some(encoder) => encoder,
            none => {
                let template = Template::resolve(choice, tokenizer, instruction)?;
                none.insert(Encoder::new(tokenizer, template, end))
            }
        };
        let encoded = encoder.encode(&row).map_err(|e| e.at_row(file, line))?;
        take(&encoded.ids, encoded.prompt_len)?;
    }
    Ok(())
}

/// Documents that are held while a file goes by: those with the smallest draws, as many as have the tokens that are
/// needed, or as many rows. That is an even choice of documents, whose number nobody has to know before.
struct Drawn {
    amount: Amount,
    /// Whether each is a sequence by itself.
    by_rows: bool,
    used: Vec<u64>,
    count: u64,
    /// Tokens, or rows, that are held.
    size: usize,
    held: BTreeMap<(u64, u64), Example>,
}

impl Drawn {
    fn new(amount: Amount, tokens: usize) -> Self {
        Drawn { amount, by_rows: false, used: vec![0; tokens], count: 0, size: 0, held: BTreeMap::new() }
    }

    fn need(&self) -> usize {
        let sequences = self.amount.samples.saturating_add(self.amount.held);
        if self.by_rows { sequences } else { sequences.saturating_mul(self.amount.sequence) }
    }

    fn size_of(&self, example: &Example) -> usize {
        if self.by_rows { 1 } else { example.ids.len() }
    }

    fn take(&mut self, ids: &[u32], prompt: usize) -> Result<()> {
        for &id in ids {
            if let Some(used) = self.used.get_mut(id as usize) {
                *used += 1;
            }
        }
        let key = (draw(self.amount.seed, Stream::Shuffle, 0, self.count), self.count);
        self.count += 1;
        let (need, late) = (self.need(), self.held.last_key_value().is_some_and(|(last, _)| key > *last));
        if late && self.size >= need {
            return Ok(());
        }
        // Of a document longer than all that is needed the beginning is enough.
        let most = if self.by_rows { self.amount.sequence } else { need };
        let ids = ids[..ids.len().min(most)].to_vec();
        // Of a prompt without a response all is learnt.
        let from = if prompt < ids.len() { prompt.max(1) } else { 1 };
        let example = Example { ids, from, ..Example::default() };
        if example.ids.is_empty() || (self.by_rows && example.targets() == 0) {
            return Ok(());
        }
        self.size += self.size_of(&example);
        self.held.insert(key, example);
        while let Some((last, example)) = self.held.last_key_value() {
            let (last, size) = (*last, self.size_of(example));
            if self.size - size < need {
                break;
            }
            self.size -= size;
            self.held.remove(&last);
        }
        Ok(())
    }

    /// The documents behind each other, cut into sequences, each behind a BOS where there is one.
    fn packed(&self, bos: Option<u32>) -> Vec<Example> {
        let all: Vec<u32> = self.held.values().flat_map(|example| &example.ids).copied().collect();
        let own = self.amount.sequence.saturating_sub(usize::from(bos.is_some())).max(1);
        let row = |ids: &[u32]| -> Example {
            let begun = ids.first() == bos.as_ref();
            let ids = bos.filter(|_| !begun).into_iter().chain(ids.iter().copied()).collect();
            Example { ids, from: 1, ..Example::default() }
        };
        let mut rows: Vec<Example> = all.chunks_exact(own).map(row).collect();
        if rows.is_empty() {
            rows.push(row(&all));
        }
        rows.retain(|row| row.targets() > 0);
        rows
    }

    /// What importance is measured on, and what is held out.
    fn cut(&self, bos: Option<u32>) -> Option<Sample> {
        let Amount { samples, held, .. } = self.amount;
        let mut rows = if self.by_rows { self.held.values().cloned().collect() } else { self.packed(bos) };
        let held = match rows.len() {
            0 => return None,
            1 => rows.clone(),
            n if n >= samples + held => rows.split_off(n - held.max(1)),
            n => rows.split_off(n - (n / 8).clamp(1, held.max(1))),
        };
        rows.truncate(samples.max(1));
        Some(Sample { sequences: rows, held, used: Vec::new(), documents: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(amount: Amount, seed: u64, documents: u32, by_rows: bool) -> Drawn {
        let mut drawn = Drawn { by_rows, ..Drawn::new(Amount { seed, ..amount }, 1000) };
        (0..documents).for_each(|n| drawn.take(&[n; 10], 4).unwrap());
        drawn
    }

    const FEW: Amount = Amount { samples: 8, held: 2, sequence: 10, seed: 0 };

    /// Every document is as likely as any other, and no more are held than are needed.
    #[test]
    fn documents_are_drawn_evenly() {
        for by_rows in [false, true] {
            let mut chosen = vec![0; 50];
            for seed in 0..400 {
                let drawn = drawn(FEW, seed, 50, by_rows);
                assert_eq!((drawn.held.len(), drawn.size), (10, if by_rows { 10 } else { 100 }));
                drawn.held.values().for_each(|row| chosen[row.ids[0] as usize] += 1);
            }
            // Of 400 draws a fifth, give or take four and a half standard deviations of 8.
            assert!(chosen.iter().all(|n| (44..=116).contains(n)), "{chosen:?}");
            assert_eq!(drawn(FEW, 1, 50, by_rows).used[..50], [10; 50], "all of the file is counted");
            assert_eq!(drawn(FEW, 3, 50, by_rows).held, drawn(FEW, 3, 50, by_rows).held);
        }
    }

    #[test]
    fn sequences_are_held_out_and_begin_with_bos() {
        let amount = Amount { samples: 6, held: 2, sequence: 11, seed: 1 };
        let sample = drawn(amount, 1, 50, false).cut(Some(999)).unwrap();
        assert_eq!((sample.sequences.len(), sample.held.len()), (6, 2));
        let all = || sample.sequences.iter().chain(&sample.held);
        assert!(all().all(|row| row.ids.len() == 11 && row.ids[0] == 999 && row.targets() == 10));
        assert!(sample.held.iter().all(|row| !sample.sequences.contains(row)));
        let short = drawn(amount, 1, 1, false).cut(None).unwrap();
        assert_eq!((short.sequences.len(), short.sequences == short.held), (1, true));
        assert!(drawn(amount, 1, 0, false).cut(None).is_none());
    }

    #[test]
    fn a_row_is_a_sequence_whose_response_counts() {
        let amount = Amount { samples: 6, held: 2, sequence: 8, seed: 1 };
        let sample = drawn(amount, 1, 50, true).cut(Some(999)).unwrap();
        assert_eq!((sample.sequences.len(), sample.held.len()), (6, 2));
        let all = || sample.sequences.iter().chain(&sample.held);
        assert!(all().all(|row| row.ids.len() == 8 && row.from == 4 && row.targets() == 4));
    }
}
