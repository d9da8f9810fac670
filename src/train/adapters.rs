//! A student that learns by adapters: its weights stay as they were read, over the mapped file where that is
//! possible, and what is written is the sum of both.

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use super::replies::model_identity;
use super::setup::{Material, Options};
use crate::checkpoint::Checkpoint;
use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::model::{CausalLm, LoadOptions, read_design};
use crate::weights::{Lora, Params, Residence, WeightFiles, lora};

/// The adapters of a run, and what they stand on.
#[derive(Debug)]
pub struct Adapted {
    lora: Lora,
    folder: PathBuf,
    /// The digest of the folder's weights.
    base: String,
}

impl Adapted {
    /// What learns.
    pub fn learnt(&self) -> &Params {
        self.lora.learnt()
    }

    /// The folder's weights in float32, whatever the run computes in, with the changes added.
    pub(super) fn merged(&self, student: &CausalLm) -> Result<Vec<(String, Tensor)>> {
        if student.kind() == Kind::Float {
            return self.lora.merged(student.params());
        }
        let (design, files) = (read_design(&self.folder)?, WeightFiles::open(&self.folder)?);
        let plan = files.plan(&design.naming(), design.specs(), design.shape().tied)?;
        self.lora.merged(&Params::from_plan(&plan, Kind::Float, Device::Cpu, Residence::Mapped)?)
    }
}

/// The student of this folder with the adapters that the config asks for, fresh or as they were saved.
pub fn load(
    config: &RunConfig,
    folder: &Path,
    options: &Options,
    saved: Option<&Checkpoint>,
) -> Result<(CausalLm, Option<Adapted>)> {
    let Some(wanted) = &config.settings.student.lora else {
        return Err(Error::bug("adapters that nobody asked for"));
    };
    let base = model_identity(folder)?;
    if saved.is_some_and(|saved| saved.state.base.as_ref() != Some(&base)) {
        let e = Error::user("the student's weights are not those that the run began with").file(folder);
        return Err(e.advice("adapters go on from the weights that they were made for"));
    }
    let (rank, alpha) = (wanted.rank as i64, wanted.alpha);
    let (kind, device) = (options.kind, options.device);
    let loading = LoadOptions { kind, device, residence: Residence::Mapped, check_finite: true };
    let mut made = None;
    let student = CausalLm::load_with(folder, loading, |design, params| {
        let on = (kind, device);
        let lora = Lora::new(&design.specs(), &wanted.targets, (rank, alpha), config.settings.seed, on)
            .map_err(|e| blamed(config, e))?;
        if let Some(saved) = saved {
            lora.restore(&saved.adapters()?)?;
        }
        lora.attach(params);
        made = Some(lora);
        Ok(())
    })?;
    let lora = made.ok_or_else(|| Error::bug("a model was made without its adapters"))?;
    Ok((student, Some(Adapted { lora, folder: folder.to_path_buf(), base })))
}

/// How many numbers learn in the student's place; none without adapters.
pub fn parameters(config: &RunConfig, folder: &Path) -> Result<Option<u64>> {
    let Some(wanted) = &config.settings.student.lora else { return Ok(None) };
    let specs = read_design(folder)?.specs();
    let count = lora::parameters(&specs, &wanted.targets, wanted.rank as i64);
    count.map(Some).map_err(|e| blamed(config, e))
}

fn blamed(config: &RunConfig, e: Error) -> Error {
    config.blame("student.lora.targets", e)
}

impl Material {
    /// What learns: the student's own parameters, or its adapters.
    pub fn learnt(&self) -> &Params {
        self.adapted.as_ref().map_or(self.student.params(), Adapted::learnt)
    }

    /// The adapters by name; none of a run without.
    pub fn adapters(&self) -> Vec<(String, Tensor)> {
        self.adapted.as_ref().map_or(Vec::new(), |adapted| adapted.lora.state())
    }

    /// What a run with adapters stands on.
    pub fn base(&self) -> Option<String> {
        self.adapted.as_ref().map(|adapted| adapted.base.clone())
    }
}
