//! Text <-> tokens: the tokenizer behind a fence, chat templates, the token audit. Layer 1: uses `error`.
//!
//! Everything read here may come from a stranger's model folder. JSON is bounded before it is built
//! ([`json`]), the tokenizers crate runs behind [`fence`], a chat template within a budget of steps
//! and bytes ([`jinja`]).

pub mod audit;
pub mod fence;
pub mod jinja;
pub mod json;
pub mod template;
pub mod tokenizer;

mod check;
mod folder;

pub use audit::{Audit, eos_ids, turn_end};
pub use template::{Message, Template, TemplateChoice};
pub use tokenizer::Tokenizer;
