//! What a run leaves on the disk: checkpoints and models. Rank 0 writes them; where masters and moments are dealt out the
//! others have a hand in it.

use tch::Tensor;

use super::{Loop, card, together};
use crate::error::Result;
use crate::store::Folder;
use crate::weights::Dtype;

impl Loop {
    /// Saves a checkpoint, where it is time to and none stands.
    pub(super) fn save(&mut self, now: bool) -> Result<()> {
        let (step, train) = (self.state.step, &self.config.settings.train);
        let due = step > 0 && (now || (train.save_every > 0 && step % train.save_every == 0));
        if !due || self.saved_at == Some(step) {
            return Ok(());
        }
        self.saved_at = Some(step);
        let weights = self.weights()?;
        let material = &self.material;
        let Some(weights) = weights else { return together::save_part(&self.dir, material, &self.optimizer) };
        self.journal.sync()?;
        self.journal.mark(&mut self.state);
        (self.state.taken, self.state.corpus_taken) = self.gather.taken();
        self.state.updates = self.optimizer.updates();
        self.state.policy = self.updater.policy().state();
        let rollouts = self.gather.save(step)?;
        self.state.base = self.material.base();
        let moments = |folder: &Folder| together::save_moments(folder, material, &self.optimizer);
        self.dir.save(
            &self.state,
            &material.files,
            &weights,
            &material.adapters(),
            moments,
            rollouts.as_ref(),
        )?;
        self.dir.keep(train.keep)
    }

    pub(super) fn write_model(&self, name: &str, dtype: Dtype) -> Result<()> {
        let Some(weights) = self.weights()? else { return Ok(()) };
        let card = card::text(&self.config, &self.state, self.best(), name);
        self.dir.write_model(name, &self.material.files, &weights, dtype, &card)?;
        Ok(())
    }

    /// The weights at rank 0, which writes them; the others have a hand in them where the masters are dealt out.
    fn weights(&self) -> Result<Option<Vec<(String, Tensor)>>> {
        let first = self.material.world.is_first();
        let weights = (first || self.material.in_parts()).then(|| self.material.weights()).transpose()?;
        Ok(weights.filter(|_| first))
    }
}
