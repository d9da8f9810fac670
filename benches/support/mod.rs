//! What the benches share: the command line, model folders, the peer process, the table.

pub mod agree;
pub mod args;
pub mod folders;
pub mod peak;
pub mod peer;
pub mod table;
pub mod words;
