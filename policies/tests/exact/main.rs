//! Every objective against float64 references written a second time with ndarray, from the equations
//! alone; the properties that must hold; the mistakes others made, by name; and for each comparison the
//! mutations that it notices.

#![expect(clippy::unwrap_used, reason = "a test says so by panicking")]

mod cases;
mod divergences;
mod draws;
mod enumeration;
mod fast;
mod fused;
mod head;
mod minillm;
mod policies;
mod reference;
mod regressions;
mod returns;
mod support;
mod update;
