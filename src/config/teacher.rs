//! `[teacher]`: the model that teaches, and what is kept of what it says.

use std::path::{Path, PathBuf};

use retort_policies::{Plan, Source};

use super::raw::{Place, Table};
use super::section::{Section, located};
use super::{DocumentAttention, RunConfig, write};
use crate::error::{Error, Result};

/// What is kept of a teacher, so that later epochs need not ask it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: it is asked at every update.
    None,
    /// Its last hidden states at every learnt token.
    States,
    /// A few tokens drawn from it at every learnt token.
    Tokens,
}

/// How what a teacher says is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// What. Default `none`.
    pub keep: Keep,
    /// Tokens drawn at each learnt token, with `cache = "tokens"`. Default 12.
    pub draws: usize,
    /// Where, for several runs to share; what stands there must be of the same teacher and rows. Default: the
    /// run directory's own `cache/`, where what does not fit is made anew.
    pub folder: Option<PathBuf>,
}

impl Default for Cache {
    fn default() -> Self {
        Cache { keep: Keep::None, draws: 12, folder: None }
    }
}

impl Keep {
    /// The names.
    pub const NAMES: [(&'static str, Keep); 3] =
        [("none", Keep::None), ("states", Keep::States), ("tokens", Keep::Tokens)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, k)| *k == self).map_or("", |(name, _)| name)
    }
}

/// Reads the table.
pub(super) fn read(file: &Path, top: &Table) -> Result<(Option<String>, Cache)> {
    let mut section = Section::of(file, top, "teacher")?;
    let model = section.text("model")?;
    if section.is_there() && model.is_none() {
        let e = Error::user("a setting is missing").file(file).field("teacher.model");
        return Err(e.expected("a model folder"));
    }
    let cache = Cache {
        keep: section.choice("cache", &Keep::NAMES, Keep::None)?,
        draws: section.count("draws", 1)?.unwrap_or(12),
        folder: section.text("cache_dir")?.map(PathBuf::from),
    };
    if cache.draws > 4096 {
        return Err(section.wrong("draws", "at most 4096"));
    }
    section.finish()?;
    Ok((model, cache))
}

/// The table as TOML.
pub(super) fn lines(model: &str, cache: &Cache) -> Vec<(String, String)> {
    let mut lines = vec![
        ("model".to_string(), write::quoted(model)),
        ("cache".to_string(), write::quoted(cache.keep.name())),
        ("draws".to_string(), cache.draws.to_string()),
    ];
    let folder = cache.folder.as_ref().map(|f| write::quoted(&f.to_string_lossy()));
    lines.extend(folder.map(|f| ("cache_dir".to_string(), f)));
    lines
}

/// Refuses a cache that a policy has no use for, or that is not enough for it.
pub(super) fn check(config: &RunConfig, plan: &Plan, source: &Source) -> Result<()> {
    let (keep, name) = (config.settings.cache.keep, config.entry.name);
    let fixed = matches!(source, Source::Gold | Source::Teacher | Source::Corpus) && !plan.rollout;
    let apart =
        *source == Source::Corpus && config.settings.data.document_attention == DocumentAttention::Own;
    let expected = match keep {
        Keep::None => return Ok(()),
        _ if !plan.teacher => format!("\"none\": this {name} asks its teacher nothing at an update"),
        _ if !fixed => format!("\"none\": the rows of {name} are new at every update"),
        _ if apart => {
            "\"none\" with data.document_attention = \"own\": packed rows are kept whole".to_string()
        }
        Keep::Tokens if !plan.draws => {
            "\"states\" or \"none\": drawn tokens serve the forward KL at temperature 1 alone".to_string()
        }
        _ => return Ok(()),
    };
    let place: Option<Place> = config.place("teacher.cache");
    Err(located(&config.file, "teacher.cache", place).expected(expected).found(format!("{:?}", keep.name())))
}
