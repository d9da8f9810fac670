//! Where an update's rows come from: the data set, packed text, or what the teacher replied.

use std::path::PathBuf;

use retort_policies::{Moment, Policy, Source};

use super::Watch;
use super::replies::{self, Asked};
use super::setup::Material;
use crate::checkpoint::RunDir;
use crate::config::{Keep, RunConfig};
use crate::data::{Corpus, Example, Need, Order, Packed, Preparation, Sampler, TokenFile};
use crate::error::{Error, Result};
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
    },
}

/// Refuses a policy that asks for rows which nothing here makes.
pub fn supported(policy: &dyn Policy) -> Result<()> {
    let source = policy.source(Moment { step: 0, steps: 1, replay_full: false });
    match source {
        Source::Gold | Source::Corpus | Source::Teacher if !policy.plan().rollout => Ok(()),
        _ => Err(Error::user("a policy that samples from the student is not there yet")
            .field("policy")
            .expected("sft, kd, seqkd or minima")
            .found(policy.name())),
    }
}

/// The template that the config names.
pub fn template(config: &RunConfig) -> Result<TemplateChoice> {
    config.settings.data.template.parse().map_err(|e| config.blame("data.template", e))
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
            return Self::packed(config, material, dir);
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
            need: if source == Source::Teacher { Need::Prompts } else { Need::Responses },
            rejects: settings.data.skip_invalid.then_some(dir.path()),
        };
        let mut file = preparation.run(&cache(dir, "train")?)?;
        let counts = file.counts();
        if counts.shortened > 0 {
            tracing::warn!(
                "{} of {} prompts were longer than data.max_prompt: their instructions are shortened",
                counts.shortened,
                counts.rows
            );
        }
        if counts.cut > 0 {
            tracing::warn!(
                "{} of {} responses were longer than data.max_response: they are cut, and get no EOS",
                counts.cut,
                counts.rows
            );
        }
        if source == Source::Teacher {
            let asked = Asked { config, material, prompts: &file, fingerprint: preparation.fingerprint()? };
            file = replies::of_teacher(&asked, &cache(dir, "replies")?, watch)?;
        }
        let sampler = Sampler::new(settings.seed, file.rows(), batch);
        Ok(Feed::Rows { file, sampler, names: settings.data.train.clone() })
    }

    fn packed(config: &RunConfig, material: &Material, dir: &RunDir) -> Result<Self> {
        let (data, train) = (&config.settings.data, &config.settings.train);
        check_sequence(config, material.context)?;
        let corpus = Corpus { files: &data.corpus, tokenizer: &material.tokenizer, eos: material.end() };
        let documents = corpus.run(&cache(dir, "corpus")?)?;
        let packed = Packed::new(documents, data.sequence, corpus.bos(), config.settings.seed);
        let batch = train.batch.min(packed.rows());
        let fixed = config.settings.cache.keep != Keep::None;
        let again = fixed.then(|| Order::new(config.settings.seed, packed.rows()));
        Ok(Feed::Packed { packed, batch, taken: 0, again })
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
            Feed::Rows { file, .. } => (0..file.rows()).map(|row| file.length(row)).max().unwrap_or(0),
            Feed::Packed { packed, .. } => packed.width(),
        }
    }

    /// The next update's rows.
    pub fn next_batch(&mut self) -> Batch {
        match self {
            Feed::Rows { file, sampler, .. } => {
                let rows = sampler.next_batch();
                let examples = rows.iter().map(|&row| file.example(row)).collect();
                Batch { examples, numbers: rows.into_iter().map(|row| row as u64).collect() }
            }
            Feed::Packed { packed, batch, taken, again } => {
                let number = |n| match again {
                    // The documents of the first epoch are shuffled already.
                    Some(order) if n >= order.rows() as u64 => order.at(n) as u64,
                    _ => n,
                };
                let numbers: Vec<u64> = (*taken..*taken + *batch as u64).map(number).collect();
                *taken += *batch as u64;
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
    pub fn names(&self, batch: &Batch) -> Vec<String> {
        let name = |&n: &u64| match self {
            Feed::Rows { file, names, .. } => {
                let origin = file.origin(n as usize);
                let path = names.get(origin.file as usize).map(|p| p.display().to_string());
                format!("{}:{}", path.unwrap_or_default(), origin.line)
            }
            Feed::Packed { .. } => format!("packed row {n}"),
        };
        batch.numbers.iter().map(name).collect()
    }
}
