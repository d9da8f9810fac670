//! A teacher becomes a student: importance, the choice of what stays, the cut. Layer 3: uses `model`, `data`, `text`,
//! `weights`.
//!
//! What is cut: whole groups of heads that share keys and values, neurons of the feed-forward nets, channels of the
//! hidden state (the same in all layers), layers, tokens. Head sizes stay, and nothing is rescaled.
//!
//! Importance is MiniMA's ("Towards the law of capacity gap in distilling language models", Zhang et al., 2023): the
//! gradient of the language-modelling loss by factors of one, or Minitron's ("Compact language models via pruning and
//! knowledge distillation", Muralidharan et al., 2024): the size of activations. See docs/method.md, section 3.

pub mod card;
pub mod cut;
pub mod importance;
pub mod layers;
pub mod run;
pub mod sample;
pub mod shape;
pub mod vocabulary;

pub use cut::{Kept, Student, config_of, write};
pub use importance::{Importance, Scores};
pub use layers::Rule;
pub use run::{Job, prune};
pub use sample::Sample;
pub use shape::{Layers, Sizes, Wish};
