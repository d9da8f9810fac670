//! Training held to torch: the optimizer's steps and whole updates against golden numbers; what a run
//! writes; runs that are stopped, killed and resumed.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its case fails")]

mod configs;
