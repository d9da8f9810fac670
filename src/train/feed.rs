//! Where an update's rows come from: the data set, packed text, or what the teacher replied.

use std::path::PathBuf;

use retort_policies::{Moment, Policy, Source};

use super::Watch;
use super::replies::{self, Asked};
use super::setup::Material;
use crate::checkpoint::RunDir;
use crate::config::{DocumentAttention, Keep, RunConfig};
use crate::data::sampler::Cut;
use crate::data::{Corpus, Counts, Example, Need, Order, Packed, Preparation, Sampler, TokenFile};
use crate::error::{Error, Result};
use crate::rollout::Prompt;
use crate::text::TemplateChoice;

/// The rows of an update.
#[derive(Debug)]
pub struct Batch {
    /// As tokens.
    pub examples: Vec<Example>,
    /// Their numbers among all rows.
    pub numbers: Vec<u64>,
}

/// All rows, and how far the run is through them.
#[derive(Debug)]
pub enum Feed {
    /// Rows of files, or replies to their prompts.
    Rows {
        /// Their tokens.
        file: TokenFile,
        /// Their order.
        sampler: Sampler,
        /// The files' names.
        names: Vec<PathBuf>,
        /// The longest reply that may be sampled to a prompt.
        reply: usize,
    },
    /// Rows cut out of text.
    Packed {
        /// The text.
        packed: Packed,
        /// Rows an update.
        batch: usize,
        /// Rows taken so far.
        taken: u64,
        /// The order of later epochs, where rows are cut once because what a teacher says of them is kept.
        again: Option<Order>,
        /// Whether documents go through the models each by itself.
        apart: bool,
    },
}

/// The template that the config names.
pub fn template(config: &RunConfig) -> Result<TemplateChoice> {
    config.settings.data.template.parse().map_err(|e| config.blame("data.template", e))
}

/// What rows must have for a source.
pub fn need(source: &Source) -> Need {
    let gold = |source: &Source| !matches!(source, Source::Teacher | Source::Student | Source::Mixed { .. });
    let any = match source {
        Source::Share(shares) => {
            shares.iter().any(|(share, s)| *share > 0.0 && gold(s) && *s != Source::Replay)
        }
        source => gold(source),
    };
    if any { Need::Responses } else { Need::Prompts }
}

/// Whether replies are sampled while the run goes on, ever.
pub fn samples(source: &Source) -> bool {
    match source {
        Source::Student | Source::Mixed { .. } => true,
        // Shares grow: one that is 0 now is there all the same.
        Source::Share(shares) => shares.iter().any(|(_, s)| samples(s)),
        _ => false,
    }
}

/// Refuses packed rows that no model could read.
pub fn check_sequence(config: &RunConfig, context: usize) -> Result<()> {
    let sequence = config.settings.data.sequence;
    if sequence <= context {
        return Ok(());
    }
    let e = Error::user("packed rows are longer than the models' context");
    Err(config.blame("data.sequence", e.expected(format!("at most {context}")).found(sequence)))
}

/// Says what had to be changed in the rows.
fn tell(counts: Counts) {
    let Counts { rows, shortened, cut, left_out, last_alone, .. } = counts;
    for (n, what) in [
        (shortened, "prompts were longer than data.max_prompt: their instructions are shortened"),
        (cut, "responses were longer than data.max_response: they are cut, and get no EOS"),
        (
            last_alone,
            "conversations have replies that the template does not tell apart: their last is learnt",
        ),
    ] {
        if n > 0 {
            tracing::warn!("{n} of {rows} {what}");
        }
    }
    if left_out > 0 {
        tracing::warn!(
            "{left_out} replies are left out: conversations keep data.max_prompt + data.max_response tokens"
        );
    }
}

/// A file of the run's cache.
pub fn cache(dir: &RunDir, name: &str) -> Result<PathBuf> {
    let folder = crate::store::Folder::create(dir.path().join("cache"))?;
    folder.path(&format!("{name}.tokens"))
}

impl Feed {
    /// Reads what the policy trains on.
    pub fn prepare(
        config: &RunConfig,
        material: &Material,
        dir: &RunDir,
        policy: &dyn Policy,
        watch: &mut dyn Watch,
    ) -> Result<Self> {
        let settings = &config.settings;
        let batch = settings.train.batch;
        let source = policy.source(Moment { step: 0, steps: 1, replay_full: false });
        if source == Source::Corpus {
            return Self::packed(config, material, dir, settings.cache.keep != Keep::None);
        }
        let template = template(config)?;
        let preparation = Preparation {
            files: &settings.data.train,
            tokenizer: &material.tokenizer,
            template: &template,
            eos: material.end(),
            limits: material.limits(config),
            context: material.context,
            vocabulary: material.vocabulary,
            need: need(&source),
            learn: settings.data.learn,
            rejects: settings.data.skip_invalid.then_some(dir.path()),
        };
        let mut file = preparation.run(&cache(dir, "train")?)?;
        tell(file.counts());
        if source == Source::Teacher {
            let asked = Asked { config, material, prompts: &file, fingerprint: preparation.fingerprint()? };
            file = replies::of_teacher(&asked, &cache(dir, "replies")?, watch)?;
        }
        let sampler = Sampler::new(settings.seed, file.rows(), batch);
        let reply = if samples(&source) { preparation.limits.response } else { 0 };
        Ok(Feed::Rows { file, sampler, names: settings.data.train.clone(), reply })
    }

    /// The text that goes beside the rows, where there is some.
    pub fn beside(
        config: &RunConfig,
        material: &Material,
        dir: &RunDir,
        policy: &dyn Policy,
    ) -> Result<Option<Self>> {
        if !policy.plan().corpus {
            return Ok(None);
        }
        if config.settings.data.corpus.is_empty() {
            tracing::warn!("without data.corpus the corpus term of {} is off", policy.name());
            return Ok(None);
        }
        Self::packed(config, material, dir, false).map(Some)
    }

    /// Packed text; `fixed` where its rows are cut once, for all epochs.
    fn packed(config: &RunConfig, material: &Material, dir: &RunDir, fixed: bool) -> Result<Self> {
        let (data, train) = (&config.settings.data, &config.settings.train);
        check_sequence(config, material.context)?;
        let corpus = Corpus { files: &data.corpus, tokenizer: &material.tokenizer, eos: material.end() };
        let documents = corpus.run(&cache(dir, "corpus")?)?;
        let packed = Packed::new(documents, data.sequence, corpus.bos(), config.settings.seed);
        let batch = train.batch.min(packed.rows());
        let again = fixed.then(|| Order::new(config.settings.seed, packed.rows()));
        let apart = data.document_attention == DocumentAttention::Own;
        Ok(Feed::Packed { packed, batch, taken: 0, again, apart })
    }

    /// Rows an epoch.
    pub fn rows(&self) -> usize {
        match self {
            Feed::Rows { file, .. } => file.rows(),
            Feed::Packed { packed, .. } => packed.rows(),
        }
    }

    /// Rows an update.
    pub fn batch(&self) -> usize {
        match self {
            Feed::Rows { sampler, .. } => sampler.batch(),
            Feed::Packed { batch, .. } => *batch,
        }
    }

    /// Tokens of the longest row.
    pub fn longest(&self) -> usize {
        match self {
            Feed::Rows { file, reply, .. } => {
                let sampled = |row| if *reply > 0 { file.prompt_len(row) + reply } else { 0 };
                (0..file.rows()).map(|row| file.length(row).max(sampled(row))).max().unwrap_or(0)
            }
            Feed::Packed { packed, .. } => packed.width(),
        }
    }

    /// How updates are cut: documents that go by themselves are as many together as have the tokens of the rows
    /// that were asked for.
    pub fn cut(&self, cut: Cut) -> Cut {
        match (self, cut) {
            (Feed::Packed { packed, apart: true, .. }, Cut::Rows(rows)) => Cut::Tokens(rows * packed.width()),
            _ => cut,
        }
    }

    /// The next update's rows; of packed text whose documents go by themselves, those.
    pub fn next_batch(&mut self) -> Batch {
        match self {
            Feed::Rows { file, sampler, .. } => {
                let rows = sampler.next_batch();
                let examples = rows.iter().map(|&row| file.example(row)).collect();
                Batch { examples, numbers: rows.into_iter().map(|row| row as u64).collect() }
            }
            Feed::Packed { packed, batch, taken, again, apart } => {
                let number = |n| match again {
                    // The documents of the first epoch are shuffled already.
                    Some(order) if n >= order.rows() as u64 => order.at(n) as u64,
                    _ => n,
                };
                let numbers: Vec<u64> = (*taken..*taken + *batch as u64).map(number).collect();
                *taken += *batch as u64;
                if *apart {
                    let pieces = |n| packed.pieces(n).into_iter().map(move |piece| (piece, n));
                    let (examples, numbers) = numbers.into_iter().flat_map(pieces).unzip();
                    return Batch { examples, numbers };
                }
                Batch { examples: numbers.iter().map(|&n| packed.row(n)).collect(), numbers }
            }
        }
    }

    /// What its rows depend on.
    pub fn identity(&self) -> String {
        match self {
            Feed::Rows { file, .. } => file.fingerprint().to_string(),
            Feed::Packed { packed, .. } => packed.identity(),
        }
    }

    /// A row's prompt.
    pub fn prompt(&self, row: usize) -> Vec<u32> {
        match self {
            Feed::Rows { file, .. } => file.part(row, 0, file.prompt_len(row)).collect(),
            Feed::Packed { .. } => Vec::new(),
        }
    }

    /// The next prompts, whose replies are the `turns`-th and those behind it.
    pub fn next_prompts(&mut self, count: usize, turns: &mut u64) -> Vec<Prompt> {
        let rows = match self {
            Feed::Rows { sampler, .. } => sampler.take(count),
            Feed::Packed { .. } => Vec::new(),
        };
        let prompt = |row: usize| {
            let turn = *turns;
            *turns += 1;
            Prompt { row: row as u64, turn, ids: self.prompt(row) }
        };
        rows.into_iter().map(prompt).collect()
    }

    /// Rows taken so far.
    pub fn taken(&self) -> u64 {
        match self {
            Feed::Rows { sampler, .. } => sampler.taken(),
            Feed::Packed { taken, .. } => *taken,
        }
    }

    /// Goes on behind so many rows.
    pub fn seek(&mut self, rows: u64) {
        match self {
            Feed::Rows { sampler, .. } => sampler.seek(rows),
            Feed::Packed { taken, .. } => *taken = rows,
        }
    }

    /// How often the run has been through the rows, fractions in.
    pub fn epoch(&self) -> f64 {
        self.taken() as f64 / self.rows().max(1) as f64
    }

    /// What a log calls these rows: file and line, or the number of a packed row.
    pub fn names(&self, numbers: &[u64]) -> Vec<String> {
        let name = |&n: &u64| match self {
            Feed::Rows { file, names, .. } => {
                let origin = file.origin(n as usize);
                let path = names.get(origin.file as usize).map(|p| p.display().to_string());
                format!("{}:{}", path.unwrap_or_default(), origin.line)
            }
            Feed::Packed { .. } => format!("packed row {n}"),
        };
        numbers.iter().map(name).collect()
    }
}
