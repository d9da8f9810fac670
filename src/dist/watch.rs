//! Who is to blame. Every rank leaves a sign of life at the store: a beat that its own thread counts, how many
//! exchanges it has begun, and how much it has worked. A rank whose beat stands still is gone; one that beats and
//! neither works nor comes to an exchange hangs. What ends one rank is left there for the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Cause, Error, Result};
use crate::native::group::Store;
use crate::signal;

/// What ended a rank.
const FAULT: &str = "fault";
/// A signal that came to one of them.
const SIGNAL: &str = "signal";

/// How a rank ended before its time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fault {
    /// Which rank.
    pub rank: usize,
    /// What it said, or what the others found.
    what: String,
    /// The signal that stopped it, or 0.
    signal: u8,
}

impl Fault {
    /// A rank that was found to be gone.
    pub fn found(rank: usize, what: String) -> Fault {
        Fault { rank, what, signal: 0 }
    }

    /// A rank that ends with an error.
    pub fn of(rank: usize, error: &Error) -> Fault {
        let signal = match error.cause() {
            Cause::Stopped(number) => number,
            _ => 0,
        };
        let first = error.to_string().lines().next().unwrap_or_default().to_string();
        Fault { rank, what: format!("has ended: {first}"), signal }
    }

    /// As the others end with it.
    pub fn error(&self) -> Error {
        if self.signal > 0 {
            return Error::new(Cause::Stopped(self.signal), "stopped by a signal");
        }
        let e = Error::new(Cause::Io, format!("rank {} {}", self.rank, self.what));
        e.advice("start all of them again with --resume: the run goes on from its last checkpoint")
    }

    /// Leaves it at the store; what was left there first stands.
    pub fn leave(self, store: &Store) -> Fault {
        let bytes = serde_json::to_vec(&self).unwrap_or_default();
        let stands = store.set_first(FAULT, &bytes).ok();
        stands.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or(self)
    }

    /// What was left there.
    pub fn look(store: &Store) -> Result<Option<Fault>> {
        Ok(store.find(FAULT)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }
}

/// What a rank's sign of life says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sign {
    /// Beats of its own thread.
    pub beat: u64,
    /// Exchanges begun.
    pub exchanges: u64,
    /// Safe places passed, and tenths of a second of processor time.
    pub worked: u64,
}

impl Sign {
    fn key(rank: usize) -> String {
        format!("sign/{rank}")
    }

    fn leave(self, store: &Store, rank: usize) -> Result<()> {
        store.set(&Self::key(rank), format!("{} {} {}", self.beat, self.exchanges, self.worked).as_bytes())
    }

    /// The sign of a rank.
    pub fn of(store: &Store, rank: usize) -> Result<Sign> {
        let bytes = store.find(&Self::key(rank))?.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut numbers = text.split(' ').map(|n| n.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Ok(Sign { beat: next(), exchanges: next(), worked: next() })
    }
}

/// The thread that gives signs of life.
#[derive(Debug)]
pub struct Pulse {
    stop: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
}

impl Pulse {
    /// Begins it; `exchanges` counts those of this rank.
    pub fn begin(store: Store, rank: usize, pause: Duration, exchanges: Arc<AtomicU64>) -> Result<Pulse> {
        let (stop, stopped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let pulse = Pulse { stop: stop.clone(), stopped: stopped.clone() };
        let beat = move || {
            let mut told = false;
            for beat in 1u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let exchanges = exchanges.load(Ordering::Relaxed);
                let worked = signal::passed() + processor_time();
                // A store that does not answer is noticed where something is exchanged.
                let _ = Sign { beat, exchanges, worked }.leave(&store, rank);
                let _ = tell_signals(&store, &mut told);
                std::thread::sleep(pause);
            }
            stopped.store(true, Ordering::Relaxed);
        };
        let named = std::thread::Builder::new().name("retort-pulse".into());
        named.spawn(beat).map_err(|e| Error::io("cannot start a thread", "retort-pulse", &e))?;
        Ok(pulse)
    }
}

impl Drop for Pulse {
    /// Waits a moment for its last call: at the process's end nothing should be in libtorch.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        while !self.stopped.load(Ordering::Relaxed) && begun.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The processor time of this process in tenths of a second: what computes for long between two safe places does not
/// hang, and the thread that beats needs next to nothing.
fn processor_time() -> u64 {
    // SAFETY: all zeros is a valid time, and the pointer is to a local.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time);
        time
    };
    time.tv_sec as u64 * 10 + time.tv_nsec as u64 / 100_000_000
}

/// A signal that came here goes to the store, and one from there is taken for our own: all of them stop long work,
/// and agree at the next exchange.
fn tell_signals(store: &Store, told: &mut bool) -> Result<()> {
    match signal::pending() {
        Some(number) if !*told => {
            *told = true;
            store.set(SIGNAL, &[number])
        }
        Some(_) => Ok(()),
        None => {
            if let Some(&number) = store.find(SIGNAL)?.as_deref().and_then(<[u8]>::first) {
                *told = true;
                signal::take_for_our_own(number);
            }
            Ok(())
        }
    }
}

/// What was seen of the others while an exchange did not end.
#[derive(Debug)]
pub struct Lookout {
    begun: Instant,
    seen: Vec<(Sign, Instant)>,
}

impl Lookout {
    /// Nothing yet.
    pub fn new() -> Lookout {
        Lookout { begun: Instant::now(), seen: Vec::new() }
    }

    /// Looks at all others; the first that is gone or hangs, or that the network keeps from us. `own` is our rank and
    /// how many exchanges we have begun.
    pub fn look(
        &mut self,
        store: &Store,
        size: usize,
        own: (usize, u64),
        timeout: Duration,
    ) -> Result<Option<Fault>> {
        // Signs are looked at late, as most waits are short, and early enough to be done within the time.
        if self.begun.elapsed() < timeout / 5 {
            return Ok(None);
        }
        let (limit, now) = (timeout.mul_f64(0.7), Instant::now());
        let seconds = timeout.as_secs_f64();
        self.seen.resize(size, (Sign::default(), now));
        let mut behind = false;
        for rank in (0..size).filter(|&rank| rank != own.0) {
            let sign = Sign::of(store, rank)?;
            let (last, since) = &mut self.seen[rank];
            let moves = if sign.exchanges < own.1 {
                behind = true;
                sign.beat != last.beat && (sign.exchanges, sign.worked) != (last.exchanges, last.worked)
            } else {
                sign.beat != last.beat
            };
            if moves {
                (*last, *since) = (sign, now);
            } else if now.duration_since(*since) > limit {
                let beats = sign.beat != last.beat;
                let what = if beats { "hangs: it beats, but does not move" } else { "is gone" };
                return Ok(Some(Fault::found(rank, format!("{what} (dist.timeout: {seconds} s)"))));
            }
        }
        if !behind && self.begun.elapsed() > timeout {
            let what = format!("is there, as all are, and hears nothing of an exchange for {seconds} s");
            return Ok(Some(Fault::found(own.0, what)));
        }
        Ok(None)
    }
}

/// Pauses after which a rank without a beat is gone for sure.
const ROUNDS: usize = 12;

/// Which rank is gone, after an exchange broke: one whose beat stands still while the others' go on.
pub fn gone(store: &Store, size: usize, own: usize, pause: Duration) -> Result<Option<Fault>> {
    let beats = || -> Result<Vec<u64>> { (0..size).map(|rank| Ok(Sign::of(store, rank)?.beat)).collect() };
    let first = beats()?;
    for round in 1..=ROUNDS {
        std::thread::sleep(pause);
        if let Some(fault) = Fault::look(store)? {
            return Ok(Some(fault));
        }
        let still = |(rank, (now, then)): (usize, (&u64, &u64))| (now == then && rank != own).then_some(rank);
        let still: Vec<usize> = beats()?.iter().zip(&first).enumerate().filter_map(still).collect();
        // A few pauses without a beat are no chance; on a busy machine more than one rank may have missed some.
        if let Some(&rank) = still.first().filter(|_| round == ROUNDS || (round >= 5 && still.len() == 1)) {
            let what = "is gone: its connection broke and it gives no sign of life";
            return Ok(Some(Fault::found(rank, what.into())));
        }
    }
    Ok(None)
}
