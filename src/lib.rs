//! Retort distils a large language model into a small one. The modules stand in layer order: each
//! uses only those listed before it (`tests/architecture.rs` holds them to it).

// Layer 0
pub mod error;
pub mod seed;
pub mod store;
// Layer 1
pub mod data;
pub mod text;
pub mod weights;
