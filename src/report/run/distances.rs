//! The distances of a run's weights from where they began, as metrics.jsonl has them.

use serde_json::{Map, Value};

/// Distances that are kept; ten million updates have 112.
const MOST: usize = 256;

/// Blocks that are told apart.
const BLOCKS: usize = 200;

/// What was measured, in the order of the updates.
#[derive(Debug, Default)]
pub struct Distances {
    /// The update, whether its learning rate was at its height behind the warm-up, a distance a block.
    all: Vec<(u64, bool, Vec<f64>)>,
    blocks: Vec<String>,
}

impl Distances {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The blocks, the whole first.
    pub fn blocks(&self) -> impl Iterator<Item = &str> {
        self.blocks.iter().map(String::as_str)
    }

    /// A block's distances.
    pub fn of<'a>(&'a self, block: &str) -> impl Iterator<Item = (u64, f64)> + 'a {
        let at = self.blocks.iter().position(|name| name == block);
        self.all.iter().filter_map(move |(step, _, far)| Some((*step, *far.get(at?)?)))
    }

    /// The first and the last update of those at the constant rate.
    pub fn constant(&self) -> Option<(u64, u64)> {
        let steps = || self.all.iter().filter(|(_, constant, _)| *constant).map(|(step, _, _)| *step);
        Some((steps().min()?, steps().max()?))
    }

    pub(super) fn add(&mut self, step: u64, line: &Map<String, Value>) {
        let Some(found) = line.get("distance").and_then(Value::as_object) else { return };
        if self.all.len() == MOST {
            return;
        }
        if self.blocks.is_empty() {
            self.blocks = found.keys().take(BLOCKS).cloned().collect();
        }
        let far = self.blocks.iter().map(|name| found.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN));
        let constant = line.get("constant_rate") == Some(&Value::Bool(true));
        self.all.push((step, constant, far.collect()));
    }
}
