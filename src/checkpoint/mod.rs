//! What a run's state is, and how it is saved so that no moment of a crash can spoil it. Layer 4: uses
//! `store`, `weights`, `optim`, `model`.
//!
//! `checkpoints/step-N/` is a model folder (the float32 masters, with config and tokenizer) with
//! `optimizer.safetensors` (both moments by parameter name; where processes hold parts of them, a file of each), `adapters.safetensors` where LoRA learns (the model's
//! weights are then merged ones), and `state.json` (counters, the sampler's place, the policy's own state, how long
//! metrics.jsonl is), and the replies at hand where the run samples. It is written under a hidden name; then
//! `manifest.json` with sizes and digests is written in it; then it takes its name. What was saved last
//! and verifies is what a run resumes from.

pub mod manifest;

mod folder;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::Tensor;

use crate::error::{Error, Result};
use crate::optim::Optimizer;
use crate::optim::noise::Moving;
use crate::store::{Folder, Lock, Staged, read_file, remove_folder, remove_leftovers};
use crate::weights::Dtype;
pub use crate::weights::ModelFiles;
use crate::weights::save::write_tensors_to;
use manifest::Manifest;

/// The longest state.json that is read.
const LONGEST: u64 = 1 << 30;
const STATE: &str = "state.json";
const OPTIMIZER: &str = "optimizer";
const TENSORS: &str = ".safetensors";
const ADAPTERS: &str = "adapters.safetensors";

const ROLLOUTS: &str = "rollouts.json";
const ROLLOUT_STATES: &str = "rollouts.safetensors";

/// The replies that a run has at hand.
#[derive(Debug)]
pub struct Rollouts {
    /// Tokens and numbers.
    pub json: Vec<u8>,
    /// The teacher's states, in the type that they were computed in.
    pub states: Vec<(String, Tensor)>,
    /// The type that they are written in.
    pub dtype: Dtype,
}

/// What a run is beside its weights and moments.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Updates so far, skipped ones in.
    pub step: u64,
    /// Updates that the optimizer did.
    pub updates: u64,
    /// Updates that were skipped.
    pub skipped: u64,
    /// Updates that were skipped in a row, up to now.
    pub skipped_in_a_row: u64,
    /// Rows taken from the sampler.
    pub taken: u64,
    /// Rows taken from the corpus beside them.
    pub corpus_taken: u64,
    /// Tokens learnt so far.
    pub tokens: u64,
    /// The length of metrics.jsonl.
    pub metrics: u64,
    /// The length of samples.jsonl.
    pub samples: u64,
    /// The length of TensorBoard's event file.
    pub events: u64,
    /// The update after which an evaluation was written last.
    pub evaluated: Option<u64>,
    /// The update after which the gradient's variance was measured last.
    pub measured: Option<u64>,
    /// The bits of the norm of the weights that the run began with, where distances from them are measured.
    pub start: Option<u64>,
    /// Moving averages of the gradient noise scale's terms.
    pub noise: Moving,
    /// The best evaluation so far, and the update it came after.
    pub best: Option<(f64, u64)>,
    /// What the policy itself has to keep.
    pub policy: Value,
    /// The digest of the weights that adapters stand on, where there are adapters.
    pub base: Option<String>,
}

/// A run directory, held by this process alone; or one that another process of the same run holds.
#[derive(Debug)]
pub struct RunDir {
    folder: Folder,
    _lock: Option<Lock>,
}

impl RunDir {
    /// Takes a run directory, which is made where it is not there. What killed processes left half done in
    /// it goes away.
    pub fn take(path: &Path) -> Result<Self> {
        let folder = Folder::create(path)?;
        let lock = folder.lock()?;
        let run = RunDir { folder, _lock: Some(lock) };
        remove_leftovers(run.path())?;
        remove_leftovers(&run.checkpoints())?;
        remove_leftovers(&run.path().join("cache"))?;
        Ok(run)
    }

    /// A run directory that another process of the run has taken: to read in it.
    pub fn beside(path: &Path) -> Result<Self> {
        Ok(RunDir { folder: Folder::create(path)?, _lock: None })
    }

    /// The checkpoint behind so many updates, which must verify.
    pub fn at(&self, step: u64) -> Result<Checkpoint> {
        Checkpoint::open(&self.step_folder(step))
    }

    /// Whether a path holds a run, finished or not.
    pub fn is_run(path: &Path) -> bool {
        ["config.toml", "metrics.jsonl", "checkpoints"].iter().any(|name| path.join(name).exists())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.root()
    }

    /// The folder, to be written through.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Where its checkpoints are.
    pub fn checkpoints(&self) -> PathBuf {
        self.path().join("checkpoints")
    }

    fn step_folder(&self, step: u64) -> PathBuf {
        self.checkpoints().join(format!("step-{step}"))
    }

    /// Saves a checkpoint: `weights` are the masters by name, adapters merged into them; those by themselves are in
    /// `adapters`, of which there may be none. `moments` writes the optimizer's, see [`write_moments`].
    pub fn save(
        &self,
        state: &State,
        files: &ModelFiles,
        weights: &[(String, Tensor)],
        adapters: &[(String, Tensor)],
        moments: impl FnOnce(&Folder) -> Result<()>,
        rollouts: Option<&Rollouts>,
    ) -> Result<()> {
        let target = self.step_folder(state.step);
        // One that stands there did not verify, or it would have been resumed from.
        remove_folder(&target)?;
        Folder::create(self.checkpoints())?;
        let staged = Staged::create(&target)?;
        let folder = staged.folder();
        files.write(folder, Dtype::F32)?;
        write_tensors_to(folder, "model.safetensors", weights, Dtype::F32)?;
        if !adapters.is_empty() {
            write_tensors_to(folder, ADAPTERS, adapters, Dtype::F32)?;
        }
        moments(folder)?;
        if let Some(rollouts) = rollouts {
            folder.write_bytes(ROLLOUTS, &rollouts.json)?;
            write_tensors_to(folder, ROLLOUT_STATES, &rollouts.states, rollouts.dtype)?;
        }
        let json = serde_json::to_vec(state).map_err(|e| Error::bug("JSON cannot be written").found(e))?;
        folder.write_bytes(STATE, &json)?;
        Manifest::of(folder.root(), state.step)?.write(folder)?;
        staged.commit()
    }

    /// The steps at which something was saved, the newest first.
    pub fn steps(&self) -> Result<Vec<u64>> {
        Ok(saved(self.path())?.into_iter().map(|(step, _)| step).collect())
    }

    /// The newest checkpoint that verifies.
    pub fn newest(&self) -> Result<Option<Checkpoint>> {
        for step in self.steps()? {
            let path = self.step_folder(step);
            match Checkpoint::open(&path) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(e) if e.cause() == crate::error::Cause::Data => {
                    let why = e.to_string().replace('\n', ";");
                    tracing::warn!("a checkpoint is passed over: {why}");
                }
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// Keeps the newest `keep` checkpoints.
    pub fn keep(&self, keep: usize) -> Result<()> {
        self.steps()?.into_iter().skip(keep).try_for_each(|step| remove_folder(&self.step_folder(step)))
    }

    /// Writes a model folder of this name (`best`, `final`), in the place of the one that stands there.
    pub fn write_model(
        &self,
        name: &str,
        files: &ModelFiles,
        weights: &[(String, Tensor)],
        dtype: Dtype,
        card: &str,
    ) -> Result<PathBuf> {
        let target = self.folder.path(name)?;
        let staged = Staged::replacing(&target)?;
        files.write(staged.folder(), dtype)?;
        crate::weights::save::write_tensors(staged.folder(), weights, dtype)?;
        staged.folder().write_bytes("README.md", card.as_bytes())?;
        staged.replace()?;
        Ok(target)
    }
}

/// Writes the moments that a process holds into a checkpoint's folder: `part` is its number and how many there are, where
/// each holds some of them.
pub fn write_moments(folder: &Folder, optimizer: &Optimizer, part: Option<(usize, usize)>) -> Result<()> {
    let name = match part {
        None => format!("{OPTIMIZER}{TENSORS}"),
        Some((rank, size)) => format!("{OPTIMIZER}-{:05}-of-{size:05}{TENSORS}", rank + 1),
    };
    write_tensors_to(folder, &name, &optimizer.state(), Dtype::F32)
}

/// The steps at which a run saved something, the newest first, and where; whether it verifies is not looked at.
pub fn saved(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let folder = run.join("checkpoints");
    let fail = |e: std::io::Error| Error::io("cannot read the folder", &folder, &e);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(fail(e)),
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let step = name.strip_prefix("step-").and_then(|n| n.parse::<u64>().ok());
        all.extend(step.map(|step| (step, entry.path())));
    }
    all.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    Ok(all)
}

/// A checkpoint that verifies.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where it is: a model folder.
    pub path: PathBuf,
    /// What it says of the run.
    pub state: State,
}

impl Checkpoint {
    /// Opens a checkpoint and verifies every byte of it.
    pub fn open(path: &Path) -> Result<Self> {
        Manifest::read(path)?.verify(path)?;
        let file = path.join(STATE);
        let bytes = read_file(&file, LONGEST)?
            .ok_or_else(|| Error::data("a file of the checkpoint is missing").file(&file))?;
        let state =
            serde_json::from_slice(&bytes).map_err(|e| Error::data("not a state").file(&file).found(e))?;
        Ok(Checkpoint { path: path.to_path_buf(), state })
    }

    /// The replies that the run had at hand, where it had some.
    pub fn rollouts(&self) -> Result<Option<Rollouts>> {
        let Some(json) = read_file(&self.path.join(ROLLOUTS), LONGEST)? else { return Ok(None) };
        let states = folder::read_tensors(&self.path.join(ROLLOUT_STATES))?;
        Ok(Some(Rollouts { json, states, dtype: Dtype::F32 }))
    }

    /// The adapters of a run that has some.
    pub fn adapters(&self) -> Result<Vec<(String, Tensor)>> {
        folder::read_tensors(&self.path.join(ADAPTERS))
    }

    /// Gives the optimizer its moments back: all, or of a part what it needs, however many processes wrote them.
    pub fn restore(&self, optimizer: &mut Optimizer) -> Result<()> {
        let mut saved = Vec::new();
        let files = Manifest::read(&self.path)?.files;
        for name in files.keys().filter(|name| name.starts_with(OPTIMIZER) && name.ends_with(TENSORS)) {
            saved.extend(folder::read_tensors(&self.path.join(name))?);
        }
        let file = self.path.join(OPTIMIZER).with_extension("safetensors");
        optimizer.restore(&saved, self.state.updates).map_err(|e| e.or_file(&file))
    }
}
