//! What a run shows of itself to other programs. Layer 4: uses `store`.

pub mod tensorboard;

pub use tensorboard::Events;
