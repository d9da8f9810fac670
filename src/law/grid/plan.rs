//! What a grid would take: its cells, and a guess of the time of each.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::Length;
use crate::config::grid::{Arm, GridConfig, Whose};
use crate::error::{Error, Result};
use crate::law::grid::cells::Cells;
use crate::law::grid::{Settings, tokenizer};
use crate::law::initial;
use crate::train::{Options, speed};
use crate::weights::Dtype;

/// A run that would be.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Its folder's name.
    pub name: String,
    /// The teacher's name; none of a teacher's own run.
    pub teacher: Option<String>,
    /// Parameters in all.
    pub parameters: f64,
    /// Tokens, where updates are counted and not epochs.
    pub tokens: Option<f64>,
    /// On one of the threads that share the work.
    pub time: Option<Duration>,
}

/// All of it.
#[derive(Debug, Clone)]
pub struct GridPlan {
    /// Where it would go.
    pub out: PathBuf,
    /// Teachers, then cells.
    pub runs: Vec<Planned>,
    /// Students and teachers without a cell.
    pub left_out: Vec<(usize, String)>,
    /// All of the time, by as many runs at a time as the settings say.
    pub time: Option<Duration>,
}

/// Checks a config and plans; nothing is written and no text is read.
pub fn plan(config: &GridConfig, settings: &Settings) -> Result<GridPlan> {
    let vocabulary = tokenizer::rows(config)?;
    if let Some(file) = config.data.corpus.iter().find(|file| !file.is_file()) {
        return Err(Error::user("no such file").file(file).field("data.corpus").expected("a file of text"));
    }
    let cells = Cells::of(config, vocabulary, None)?;
    let options = Options { device: settings.device, kind: settings.kind, write: Dtype::F32, resume: true };
    let tokens = |whose| -> Result<Option<f64>> {
        let own = ["student.model=m", "data.corpus=c", "teacher.model=t"].map(String::from);
        let train = config.run(whose, &own)?.settings.train;
        Ok(match train.length {
            Length::Steps(steps) => Some(steps as f64 * train.batch as f64 * config.data.sequence as f64),
            Length::Epochs(_) => None,
        })
    };
    let (teachers, students) = (tokens(Whose::Teacher)?, tokens(Whose::Student)?);
    let (mut runs, mut rates) = (Vec::new(), Vec::new());
    for teacher in &cells.teachers {
        let rate = speed((teacher.shape.hidden, teacher.shape.ffn), &options)?;
        rates.push(rate);
        runs.push(Planned {
            name: format!("teachers/{}", teacher.name),
            teacher: None,
            parameters: teacher.sizes.all,
            tokens: teachers,
            time: teachers.map(|d| Duration::from_secs_f64(6.0 * teacher.sizes.all * d / rate)),
        });
    }
    for (at, cut) in cells.cuts.iter().enumerate() {
        let teacher = &cells.teachers[cut.teacher];
        let parameters = initial::parameters(&teacher.config, &cut.kept)? as f64;
        let rate = speed((cut.kept.hidden, cut.kept.ffn), &options)?;
        for cell in cells.cells.iter().filter(|cell| cell.cut == at) {
            let asked = if cell.arm == Arm::Pruned { 0.0 } else { 2.0 * teacher.sizes.all };
            let second = 6.0 * parameters / rate + asked / rates[cut.teacher];
            runs.push(Planned {
                name: format!("cells/{}", cell.name),
                teacher: Some(teacher.name.clone()),
                parameters,
                tokens: students,
                time: students.map(|d| Duration::from_secs_f64(second * d)),
            });
        }
    }
    let all: Option<Duration> = runs.iter().map(|run| run.time).sum();
    let time = all.map(|all| all / settings.at_once.max(1) as u32);
    Ok(GridPlan { out: settings.out.clone(), runs, left_out: cells.left_out, time })
}
