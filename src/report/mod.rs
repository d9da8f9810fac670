//! What a run shows of itself to people and to other programs: pages that open offline (`page`), charts (`draw`),
//! what runs wrote (`run`), the report over several of them (`sections`), TensorBoard's event file. Layer 4: uses
//! `store`, `config`, `optim`.
//!
//! ```
//! # let dir = tempfile::tempdir().unwrap();
//! # let run = dir.path().join("sft");
//! # std::fs::create_dir(&run).unwrap();
//! # std::fs::write(run.join("metrics.jsonl"), "{\"step\":1,\"loss\":2.5}\n").unwrap();
//! use retort::report::{Teacher, of_runs, run::load};
//! let page = of_runs(&load(&[run])?, &Teacher::default());
//! assert!(page.html().contains("Loss"));
//! # Ok::<(), retort::error::Error>(())
//! ```

pub mod draw;
pub mod page;
pub mod run;
pub mod tensorboard;

mod escape;
mod sections;

use crate::error::Result;
use crate::store::Folder;
pub use escape::escape;
pub use run::Teacher;
pub use sections::of_runs;
pub use tensorboard::Events;

/// The report's name in a run directory.
pub const NAME: &str = "report.html";

/// Leaves a report of a run in its directory. A run is no worse for a report that could not be drawn, so that is
/// a warning.
pub fn leave(run: &Folder) {
    let write = || -> Result<()> {
        let page = of_runs(&run::load(&[run.root()])?, &Teacher::default());
        run.write_bytes(NAME, page.html().as_bytes())
    };
    if let Err(e) = write() {
        tracing::warn!("no {NAME} was written: {}", e.to_string().replace('\n', ";"));
    }
}
