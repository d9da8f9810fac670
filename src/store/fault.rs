//! Places at which a test may end the process, as a power cut would: without a word, half way through a
//! write. `RETORT_FAULT=n` ends it at the n-th step of this room, `n@r` where its launcher says that it is rank r;
//! unset, nothing is counted.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A step of a protocol is about to be taken. `_what` is for whoever reads the code.
pub(super) fn step(_what: &str) {
    static AT: OnceLock<Option<u64>> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let at = AT.get_or_init(|| {
        let wanted = std::env::var("RETORT_FAULT").ok()?;
        let Some((at, rank)) = wanted.split_once('@') else { return wanted.parse().ok() };
        at.parse().ok().filter(|_| std::env::var("RANK").is_ok_and(|own| own == rank))
    });
    if let Some(at) = at
        && COUNT.fetch_add(1, Ordering::Relaxed) + 1 == *at
    {
        // SAFETY: ends this process alone, which is what was asked for.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}
