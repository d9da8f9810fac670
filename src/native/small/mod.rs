//! Products, norms, rotations and attention of few rows, on the CPU, without gradients: what a decoding
//! step is made of. libtorch's own are built for many rows; with few, most of their time goes elsewhere.
//!
//! A row's result does not depend on the other rows: every sum runs in the same order whatever the batch,
//! so a sequence decoded alone and in a batch meets the same numbers here. bfloat16 is widened in
//! registers and computed in float32, so it costs half the memory traffic also where the machine cannot
//! multiply it. Each function answers nothing where libtorch is the better choice: where nobody has
//! allowed it, on another device or machine, with many rows (attention: with many queries to the same keys).

use std::cell::Cell;

pub mod number;

#[cfg(target_arch = "x86_64")]
mod attend;
#[cfg(target_arch = "x86_64")]
mod product;
#[cfg(target_arch = "x86_64")]
mod steps;
#[cfg(target_arch = "x86_64")]
pub use steps::{attend, gate, keep, linear, rms_norm, turn};

#[cfg(not(target_arch = "x86_64"))]
mod elsewhere;
#[cfg(not(target_arch = "x86_64"))]
pub use elsewhere::{attend, gate, keep, linear, rms_norm, turn};

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
    static BARRED: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, layers of this thread may compute here.
#[derive(Debug)]
pub struct Allowed(bool);

/// Lets layers of this thread compute here. Only where gradients are off and no pass is computed twice.
pub fn allow() -> Allowed {
    Allowed(ON.with(|on| on.replace(true)))
}

impl Drop for Allowed {
    fn drop(&mut self) {
        ON.with(|on| on.set(self.0));
    }
}

/// While it lives, everything on this thread is libtorch's.
#[derive(Debug)]
pub struct Barred(bool);

/// Leaves everything on this thread to libtorch, whoever allows what: to compare the two.
pub fn bar() -> Barred {
    Barred(BARRED.with(|barred| barred.replace(true)))
}

impl Drop for Barred {
    fn drop(&mut self) {
        BARRED.with(|barred| barred.set(self.0));
    }
}

/// Whether anything may be computed here.
#[cfg(target_arch = "x86_64")]
fn allowed() -> bool {
    ON.with(Cell::get) && !BARRED.with(Cell::get)
}

/// How a weight is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// [out, in].
    OutputFirst,
    /// [in, out].
    InputFirst,
}

/// What the queries of a step look at in a cache of keys and values [rows, kv_heads, room, d].
#[derive(Debug, Clone, Copy)]
pub struct Behind<'a> {
    /// The place of each query in its sequence: [b, t]. It sees the keys up to there.
    pub positions_bt: &'a tch::Tensor,
    /// The row of each sequence; the first ones in order where none.
    pub rows: Option<&'a tch::Tensor>,
    /// Keys that any row has.
    pub most: i64,
    /// How many keys back, its own among them.
    pub window: Option<i64>,
    /// Factor on the scores; 1 / sqrt(d) where none.
    pub scale: Option<f64>,
}
