//! The law of capacity gap: which teacher a student of a given size learns most from. Layer 6: uses all below.
//!
//! `advise` answers by two published laws. One counts sizes: students cut out of their teachers do best under one
//! about 2.5 times their size (MiniMA). The other counts losses: what matters of a teacher is its cross-entropy
//! (distillation scaling laws). Both are evaluated as printed, with a word wherever a question lies outside of what
//! they were fitted to.

pub mod grid;

mod advise;
mod curves;
mod fit;
mod initial;
mod page;
mod points;
mod published;
mod scaling;
mod sizes;

pub use advise::{Advice, ByLoss, BySize, Ground, Optimum, Question, Taught, advise, optimum, short};
pub use curves::curves;
pub use fit::{Alone, Curve, Fits, Form, Forms, Line, Quadratic, Verdict, fit};
pub use page::{cells, mean, page, words};
pub use points::{ALONE, Measured, Points};
pub use published::{CapacityGap, Published, Scaling};
pub use scaling::{Distilled, Size, Supervised};
pub use sizes::Sizes;
