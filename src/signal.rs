//! Ctrl-C and SIGTERM: the first asks long work to stop at its next safe place, the second ends the
//! process. Layer 0: uses `error`.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use crate::error::{Cause, Error, Result};

/// The signal that came, or 0.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// How often work has passed a safe place.
static PASSED: AtomicU64 = AtomicU64::new(0);

/// What a signal does: 0 asks work to stop and says so, 1 ends the program at once, 2 ends a reply or work and says
/// nothing.
static PURPOSE: AtomicI32 = AtomicI32::new(0);

/// Takes SIGINT and SIGTERM over; once, at start.
pub fn install() {
    extern "C" fn on_signal(number: libc::c_int) {
        let purpose = PURPOSE.load(Ordering::Relaxed);
        let first = SIGNAL.swap(number, Ordering::Relaxed) == 0 && purpose != 1;
        const WORD: &[u8] = b"retort: stopping at the next safe place; once more ends it at once\n";
        // SAFETY: a handler may write and may end the process.
        unsafe {
            if !first {
                libc::_exit(128 + number);
            }
            if purpose == 0 {
                libc::write(libc::STDERR_FILENO, WORD.as_ptr().cast(), WORD.len());
            }
        }
    }
    for number in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only touches an atomic and may end the process.
        unsafe { libc::signal(number, on_signal as *const () as libc::sighandler_t) };
    }
}

/// In a conversation: whether the program waits for the user, who may end it there without loss, or
/// replies, which a signal stops.
pub fn at_prompt(waits: bool) {
    PURPOSE.store(if waits { 1 } else { 2 }, Ordering::Relaxed);
}

/// A signal is heard as always, and nothing is said of it: somebody else says it.
pub fn quietly() {
    PURPOSE.store(2, Ordering::Relaxed);
}

/// The signal that came, where one did.
pub fn pending() -> Option<u8> {
    match SIGNAL.load(Ordering::Relaxed) {
        0 => None,
        number => Some(number as u8),
    }
}

/// A signal that came to another process of the run is one here.
pub fn take_for_our_own(number: u8) {
    let _ = SIGNAL.compare_exchange(0, i32::from(number), Ordering::Relaxed, Ordering::Relaxed);
}

/// Notes that work goes on: where somebody waits for this process, that it does not hang.
pub fn pass() {
    PASSED.fetch_add(1, Ordering::Relaxed);
}

/// How often [`pass`] or [`check`] was called.
pub fn passed() -> u64 {
    PASSED.load(Ordering::Relaxed)
}

/// In a conversation: whether Ctrl-C came since the last call. SIGTERM is an error that ends the program.
pub fn take_interrupt() -> Result<bool> {
    match SIGNAL.swap(0, Ordering::Relaxed) {
        0 => Ok(false),
        libc::SIGINT => Ok(true),
        number => Err(Error::new(Cause::Stopped(number as u8), "stopped by a signal")),
    }
}

/// An error if a signal came: long work calls it between its steps and lets the error pass through,
/// so that everything half done is taken back.
pub fn check() -> Result<()> {
    pass();
    match SIGNAL.load(Ordering::Relaxed) {
        0 => Ok(()),
        number => Err(Error::new(Cause::Stopped(number as u8), "stopped by a signal")),
    }
}
