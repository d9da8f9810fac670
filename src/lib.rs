//! Retort distils a large language model into a small one. The modules stand in layer order: each
//! uses only those listed before it (`tests/architecture.rs` holds them to it).

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests make their own files and numbers"))]

// Layer 0
pub mod error;

pub mod seed;

pub mod signal;

pub mod store;

pub mod native;

pub mod config;

// Layer 1
pub mod weights;

pub mod text;

pub mod data;

pub mod dist;

pub mod optim;

// Layer 2
pub mod model;

// Layer 3
pub mod decode;

pub mod prune;

// Layer 4
pub mod rollout;

pub mod checkpoint;

pub mod eval;

pub mod report;

// Layer 5
pub mod train;

// Layer 6
pub mod quickstart;

pub mod law;

// Layer 7
pub mod cli;
