//! The text that importance is measured on: documents drawn evenly out of a file of any size, in an order that the
//! seed decides, behind each other and cut into sequences; and others, held out, for perplexity.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::data::corpus::is_rows;
use crate::data::{Corpus, Encoder, Reader, Schema};
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
    pub sequences: Vec<Vec<u32>>,
    /// Sequences that perplexity is measured on; the same where the text is too short for two.
    pub held: Vec<Vec<u32>>,
    /// How often each token stands in the whole file.
    pub used: Vec<u64>,
    /// Documents in the whole file.
    pub documents: usize,
}

impl Sample {
    /// Reads a file: text, or rows of any schema, of which the whole is taken, prompt and response.
    pub fn read(
        file: &Path,
        tokenizer: &Tokenizer,
        eos: &[u32],
        choice: &TemplateChoice,
        amount: Amount,
    ) -> Result<Self> {
        let mut drawn = Drawn {
            need: amount.sequence.saturating_mul(amount.samples.saturating_add(amount.held)),
            seed: amount.seed,
            used: vec![0; tokenizer.vocab_size()],
            ..Drawn::default()
        };
        let end = turn_end(eos, tokenizer);
        let files = [PathBuf::from(file)];
        let corpus = Corpus { files: &files, tokenizer, eos: end };
        if is_rows(file) && !of_text(file)? {
            rows(file, tokenizer, end, choice, &mut |ids| drawn.take(ids))?;
        } else {
            corpus.each(&mut |ids, _| drawn.take(ids))?;
        }
        let cut = drawn.cut(amount, corpus.bos()).ok_or_else(|| {
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
    take: &mut dyn FnMut(&[u32]) -> Result<()>,
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
        take(&encoded.ids)?;
    }
    Ok(())
}

/// Documents that are held while a file goes by: those with the smallest draws, as many as have the tokens that are
/// needed. That is an even choice of documents, whose number nobody has to know before.
#[derive(Default)]
struct Drawn {
    need: usize,
    seed: u64,
    used: Vec<u64>,
    count: u64,
    tokens: usize,
    held: BTreeMap<(u64, u64), Vec<u32>>,
}

impl Drawn {
    fn take(&mut self, ids: &[u32]) -> Result<()> {
        for &id in ids {
            if let Some(used) = self.used.get_mut(id as usize) {
                *used += 1;
            }
        }
        let key = (draw(self.seed, Stream::Shuffle, 0, self.count), self.count);
        self.count += 1;
        let late = self.held.last_key_value().is_some_and(|(last, _)| key > *last);
        if ids.is_empty() || (late && self.tokens >= self.need) {
            return Ok(());
        }
        // Of a document longer than all that is needed the beginning is enough.
        let ids = &ids[..ids.len().min(self.need)];
        self.tokens += ids.len();
        self.held.insert(key, ids.to_vec());
        while let Some(last) = self.held.last_entry() {
            let length = last.get().len();
            if self.tokens - length < self.need {
                break;
            }
            self.tokens -= length;
            last.remove();
        }
        Ok(())
    }

    /// Sequences of the documents behind each other, each behind a BOS where there is one.
    fn cut(&self, amount: Amount, bos: Option<u32>) -> Option<Sample> {
        let all: Vec<u32> = self.held.values().flatten().copied().collect();
        let own = amount.sequence.saturating_sub(usize::from(bos.is_some())).max(1);
        let row = |ids: &[u32]| -> Vec<u32> {
            let begun = ids.first() == bos.as_ref();
            bos.filter(|_| !begun).into_iter().chain(ids.iter().copied()).collect()
        };
        let mut rows: Vec<Vec<u32>> = all.chunks_exact(own).map(row).collect();
        if rows.is_empty() {
            rows.push(row(&all));
        }
        rows.retain(|row| row.len() > 1);
        let held = match rows.len() {
            0 => return None,
            1 => rows.clone(),
            n if n >= amount.samples + amount.held => rows.split_off(n - amount.held.max(1)),
            n => rows.split_off(n - (n / 8).clamp(1, amount.held.max(1))),
        };
        rows.truncate(amount.samples.max(1));
        Some(Sample { sequences: rows, held, used: Vec::new(), documents: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(need: usize, seed: u64, documents: u32) -> Drawn {
        let mut drawn = Drawn { need, seed, used: vec![0; 1000], ..Drawn::default() };
        (0..documents).for_each(|n| drawn.take(&[n; 10]).unwrap());
        drawn
    }

    /// Every document is as likely as any other, and no more are held than are needed.
    #[test]
    fn documents_are_drawn_evenly() {
        let mut chosen = vec![0; 50];
        for seed in 0..400 {
            let drawn = drawn(100, seed, 50);
            assert_eq!((drawn.held.len(), drawn.tokens), (10, 100));
            drawn.held.values().for_each(|ids| chosen[ids[0] as usize] += 1);
        }
        // Of 400 draws a fifth, give or take four and a half standard deviations of 8.
        assert!(chosen.iter().all(|n| (44..=116).contains(n)), "{chosen:?}");
        assert_eq!(drawn(100, 1, 50).used[..50], [10; 50], "all of the file is counted");
        assert_eq!(drawn(100, 3, 50).held, drawn(100, 3, 50).held);
    }

    #[test]
    fn sequences_are_held_out_and_begin_with_bos() {
        let amount = Amount { samples: 6, held: 2, sequence: 11, seed: 1 };
        let sample = drawn(88, 1, 50).cut(amount, Some(999)).unwrap();
        assert_eq!((sample.sequences.len(), sample.held.len()), (6, 2));
        assert!(sample.sequences.iter().chain(&sample.held).all(|row| row.len() == 11 && row[0] == 999));
        assert!(sample.held.iter().all(|row| !sample.sequences.contains(row)));
        let short = drawn(88, 1, 1).cut(amount, None).unwrap();
        assert_eq!((short.sequences.len(), short.sequences == short.held), (1, true));
        assert!(drawn(88, 1, 0).cut(amount, None).is_none());
    }
}
