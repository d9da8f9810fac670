//! A rank's ties to the others: the store, the group, and the rule that no exchange is waited for without end.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use super::Bytes;
use super::devices::Devices;
use super::launch::Launch;
use super::watch::{Fault, Lookout, Pulse, gone};
use crate::error::{Cause, Error, Result};
use crate::native::group::{Exchange, Exchanged, Group, Store};
use crate::signal;

/// To come at first, ranks have so many times the time-out: machines do not start at once.
const TO_COME: u32 = 5;

/// How long the rank that keeps the store waits for the others to leave.
const TO_LEAVE: Duration = Duration::from_secs(5);

/// The ties.
#[derive(Debug)]
pub struct Link {
    pub(super) rank: usize,
    pub(super) size: usize,
    serves: bool,
    kept: bool,
    pub(super) timeout: Duration,
    pub(super) pause: Duration,
    pub(super) store: Store,
    group: ManuallyDrop<Group>,
    /// The way for tensors on GPUs, where there is one.
    devices: Option<Devices>,
    pulse: Option<Pulse>,
    exchanges: Arc<AtomicU64>,
    /// Microseconds.
    spent: AtomicU64,
    /// By kind of exchange.
    bytes: [AtomicU64; 5],
    broken: AtomicBool,
}

/// An exchange that was begun, and its number.
#[derive(Debug)]
pub struct Pending {
    exchange: Exchange,
    number: u64,
}

impl Link {
    /// Meets the others.
    pub fn join(launch: &Launch, timeout: Duration) -> Result<Link> {
        let (rank, size, most) = (launch.rank, launch.size, timeout * TO_COME);
        let pause = (timeout / 20).clamp(Duration::from_millis(20), Duration::from_secs(1));
        let store = Store::open(&launch.host, launch.port, launch.serves, &launch.prefix, most)
            .map_err(|e| nobody(launch, most, &e))?;
        meet(&store, rank, size, most)?;
        let exchanges = Arc::new(AtomicU64::new(0));
        let pulse = Pulse::begin(store.again()?, rank, pause, exchanges.clone())?;
        let group = Group::join(&store, rank, size, most)?;
        Ok(Link {
            rank,
            size,
            serves: launch.serves,
            kept: launch.kept,
            timeout,
            pause,
            store,
            group: ManuallyDrop::new(group),
            devices: None,
            pulse: Some(pulse),
            exchanges,
            spent: AtomicU64::new(0),
            bytes: Default::default(),
            broken: AtomicBool::new(false),
        })
    }

    /// Agrees with the others on the way that tensors on this device take.
    pub fn with_device(mut self, device: Device) -> Result<Link> {
        self.devices = Devices::join(&self, device)?;
        Ok(self)
    }

    /// The GPU whose tensors are exchanged where they are.
    pub fn device(&self) -> Option<Device> {
        self.devices.as_ref().map(Devices::device)
    }

    /// Whether a tensor can be exchanged where it is.
    pub fn takes(&self, tensor: &Tensor) -> bool {
        let on_gpu = || self.devices.as_ref().is_some_and(|devices| devices.takes(tensor));
        tensor.is_contiguous() && (tensor.device() == Device::Cpu || on_gpu())
    }

    /// A tensor as it can be exchanged: on a GPU where there is a way for it, else in the processors' memory.
    pub fn near(&self, tensor: &Tensor) -> Result<Tensor> {
        debug_assert!(tensor.kind() != Kind::Bool);
        let whole = tensor.f_detach()?.f_contiguous()?;
        if self.takes(&whole) { Ok(whole) } else { Ok(whole.f_to_device(Device::Cpu)?) }
    }

    /// The group that a tensor is exchanged in.
    fn group_for(&self, tensor: Option<&Tensor>) -> Result<&Group> {
        match (&self.devices, tensor) {
            (Some(devices), Some(tensor)) if devices.takes(tensor) => devices.ready(),
            _ => Ok(&self.group),
        }
    }

    /// How many exchanges have begun.
    pub(super) fn begun(&self) -> u64 {
        self.exchanges.load(Ordering::Relaxed)
    }

    /// Time spent in exchanges.
    pub fn spent(&self) -> Duration {
        Duration::from_micros(self.spent.load(Ordering::Relaxed))
    }

    /// Bytes that went into exchanges.
    pub fn bytes(&self) -> Bytes {
        let of = |what: Exchanged| self.bytes[what as usize].load(Ordering::Relaxed);
        Bytes {
            summed: of(Exchanged::Sum),
            scattered: of(Exchanged::PartOfSum),
            gathered: of(Exchanged::All),
            given: of(Exchanged::OfOne),
        }
    }

    /// One exchange, from its beginning to its end.
    pub fn exchange(
        &self,
        what: Exchanged,
        input: Option<&Tensor>,
        out: Option<&Tensor>,
        root: usize,
    ) -> Result<()> {
        let pending = self.begin(what, input, out, root)?;
        self.end(pending)
    }

    /// Begins an exchange.
    pub fn begin(
        &self,
        what: Exchanged,
        input: Option<&Tensor>,
        out: Option<&Tensor>,
        root: usize,
    ) -> Result<Pending> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(Error::bug("an exchange after one that broke"));
        }
        let begun = Instant::now();
        signal::pass();
        let group = self.group_for(input)?;
        let number = 1 + self.exchanges.fetch_add(1, Ordering::Relaxed);
        let larger = if what == Exchanged::All { out } else { input };
        let bytes = larger.map_or(0, |t| t.numel() * t.kind().elt_size_in_bytes());
        self.bytes[what as usize].fetch_add(bytes as u64, Ordering::Relaxed);
        let exchange = group.begin(what, input, out, root).map_err(|e| self.breaks(self.blame(e)));
        self.spent.fetch_add(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
        Ok(Pending { exchange: exchange?, number })
    }

    /// Waits until an exchange is over.
    pub fn end(&self, pending: Pending) -> Result<()> {
        if self.broken.load(Ordering::Relaxed) {
            std::mem::forget(pending);
            return Err(Error::bug("an exchange beside one that broke"));
        }
        let begun = Instant::now();
        let done = self.to_its_end(pending).map_err(|e| self.breaks(e));
        self.spent.fetch_add(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
        done
    }

    fn breaks(&self, e: Error) -> Error {
        self.broken.store(true, Ordering::Relaxed);
        e
    }

    fn to_its_end(&self, Pending { exchange, number }: Pending) -> Result<()> {
        let mut lookout = Lookout::new();
        loop {
            match exchange.wait(self.pause) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(e) => return Err(self.blame(e)),
            }
            let fault = match Fault::look(&self.store) {
                Ok(Some(fault)) => Some(fault),
                Ok(None) => lookout
                    .look(&self.store, self.size, (self.rank, number), self.timeout)
                    .map_err(|e| self.without_store(&e))?,
                Err(e) => return Err(self.without_store(&e)),
            };
            if let Some(fault) = fault {
                // It may still end, far behind us: what it writes to must stay.
                std::mem::forget(exchange);
                return Err(fault.leave(&self.store).error());
            }
        }
    }

    /// Finds out which rank an exchange broke for.
    fn blame(&self, broke: Error) -> Error {
        match gone(&self.store, self.size, self.rank, self.pause) {
            Ok(Some(fault)) => fault.leave(&self.store).error(),
            Ok(None) => broke,
            Err(e) => self.without_store(&e),
        }
    }

    fn without_store(&self, e: &Error) -> Error {
        tracing::debug!("the store does not answer: {e}");
        let who = if self.kept { "the launcher is gone: it" } else { "rank 0 is gone: it" };
        let e = Error::new(Cause::Io, format!("{who} kept the store at which the processes meet"));
        e.advice("start all of them again with --resume: the run goes on from its last checkpoint")
    }

    /// The next of the pieces of work that whoever is free takes, from 0 on: `deal` tells one dealing from another.
    pub fn take(&self, deal: u64) -> Result<usize> {
        let taken = self.store.count(&format!("deal/{deal}")).map_err(|e| self.without_store(&e))?;
        Ok(taken.saturating_sub(1) as usize)
    }

    /// Leaves for the others how this rank ends.
    pub fn ends(&self, how: &Error) {
        if !self.broken.swap(true, Ordering::Relaxed) {
            Fault::of(self.rank, how).leave(&self.store);
        }
    }

    /// Says that this rank needs the store no longer; who keeps it waits for the others.
    fn depart(&self) {
        let left = |rank: usize| format!("left/{rank}");
        if self.store.set(&left(self.rank), b"1").is_err() || !self.serves {
            return;
        }
        let dead = Fault::look(&self.store).ok().flatten().map(|fault| fault.rank);
        let begun = Instant::now();
        for rank in (0..self.size).filter(|rank| Some(*rank) != dead) {
            while begun.elapsed() < TO_LEAVE
                && self.store.find(&left(rank)).is_ok_and(|found| found.is_none())
            {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        match self.devices.take() {
            Some(devices) if self.broken.load(Ordering::Relaxed) => devices.abandon(),
            whole => drop(whole),
        }
        if !self.broken.load(Ordering::Relaxed) {
            // SAFETY: nobody uses it behind this. A group that broke is not left: it would wait for what never comes.
            unsafe { ManuallyDrop::drop(&mut self.group) }
        }
        self.pulse = None;
        self.depart();
    }
}

/// Waits until all ranks have come to the store.
fn meet(store: &Store, rank: usize, size: usize, most: Duration) -> Result<()> {
    let key = |rank: usize| format!("here/{rank}");
    store.set(&key(rank), b"1")?;
    let begun = Instant::now();
    for other in 0..size {
        while store.find(&key(other))?.is_none() {
            signal::check()?;
            if let Some(fault) = Fault::look(store)? {
                return Err(fault.error());
            }
            if begun.elapsed() > most {
                let e = Error::new(Cause::Io, format!("rank {other} has not come"));
                return Err(e.expected(format!("all {size} within {} s", most.as_secs_f64())));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

/// There is no store where it should be.
fn nobody(launch: &Launch, most: Duration, e: &Error) -> Error {
    tracing::debug!("{e}");
    let place = format!("{}:{}", launch.host, launch.port);
    let what = if launch.serves { "cannot open a port for the other processes" } else { "nobody answers" };
    let e = Error::new(Cause::Io, what).field(place);
    e.expected(format!("the processes of the run to meet there within {} s", most.as_secs_f64()))
}
