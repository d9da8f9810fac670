//! NCCL, for exchanges of tensors on GPUs: c10d's group, which libtorch_cuda.so has inside. It is a part of the CUDA
//! half (`nccl.cpp`); where that or NCCL is not to be had, everything here answers an error that says why.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::time::Duration;

use super::cuda::{self, entry};
use super::group::{Group, Raw, Store, milliseconds};
use crate::error::{Cause, Error, Result};

/// How long a group that is left may take to do what is under way, and one that broke to break off.
const TO_LEAVE: Duration = Duration::from_secs(5);

/// The entry points.
pub(super) struct Entries {
    error: unsafe extern "C" fn() -> *const c_char,
    fits: unsafe extern "C" fn(*mut i64, *mut i64) -> c_int,
    device: unsafe extern "C" fn(c_int, *mut u8) -> c_int,
    settle: unsafe extern "C" fn(c_int) -> c_int,
    join: unsafe extern "C" fn(Raw, c_int, c_int, c_int, *mut Raw) -> c_int,
    joined: unsafe extern "C" fn(Raw, i64, *mut Raw) -> c_int,
    forget: unsafe extern "C" fn(Raw),
    leave: unsafe extern "C" fn(Raw, bool, i64),
}

impl Entries {
    /// Those of a loaded CUDA half.
    pub(super) fn of(handle: *mut c_void) -> Result<Entries, String> {
        // SAFETY: the names and types are those of nccl.cpp, compiled with this binary.
        unsafe {
            Ok(Entries {
                error: entry(handle, c"retort_nccl_error")?,
                fits: entry(handle, c"retort_nccl_fits")?,
                device: entry(handle, c"retort_nccl_device")?,
                settle: entry(handle, c"retort_nccl_settle")?,
                join: entry(handle, c"retort_nccl_join")?,
                joined: entry(handle, c"retort_nccl_joined")?,
                forget: entry(handle, c"retort_nccl_forget")?,
                leave: entry(handle, c"retort_nccl_leave")?,
            })
        }
    }

    fn check(&self, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the CUDA half keeps a NUL-terminated string for this thread.
        let text = unsafe { CStr::from_ptr((self.error)()) }.to_string_lossy().into_owned();
        Err(Error::new(Cause::Io, "NCCL cannot be used").found(text))
    }
}

fn entries() -> Result<&'static Entries> {
    let none = |why: &String| Error::new(Cause::Io, "NCCL cannot be used").found(why);
    cuda::entries()?.nccl.as_ref().map_err(none)
}

/// Whether NCCL is here, and is the one that libtorch was built with.
pub fn check() -> Result<()> {
    let e = entries()?;
    let (mut of_torch, mut of_shim) = (0, 0);
    // SAFETY: room for two numbers.
    e.check(unsafe { (e.fits)(&mut of_torch, &mut of_shim) })
}

/// What tells a GPU from every other one in the world.
pub fn name(device: usize) -> Result<[u8; 16]> {
    let e = entries()?;
    let mut name = [0; 16];
    // SAFETY: room for sixteen bytes.
    e.check(unsafe { (e.device)(device as c_int, name.as_mut_ptr()) })?;
    Ok(name)
}

/// Waits until a GPU has done what was launched on it before.
pub fn settle(device: usize) -> Result<()> {
    let e = entries()?;
    // SAFETY: a plain call.
    e.check(unsafe { (e.settle)(device as c_int) })
}

/// A group that is being joined. It goes on by itself, also where nobody waits for it any more.
#[derive(Debug)]
pub struct Joining {
    raw: Raw,
}

impl Joining {
    /// Begins to join those that meet at this store, each with a GPU of its own.
    pub fn begin(store: &Store, rank: usize, size: usize, device: usize) -> Result<Joining> {
        let e = entries()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: an open store, and room for the answer.
        e.check(unsafe { (e.join)(store.raw, rank as c_int, size as c_int, device as c_int, &mut raw) })?;
        Ok(Joining { raw })
    }

    /// The group, where it is joined within so long.
    pub fn wait(&self, most: Duration) -> Result<Option<Group>> {
        let e = entries()?;
        let mut group = std::ptr::null_mut();
        // SAFETY: a join that was begun, and room for the answer.
        e.check(unsafe { (e.joined)(self.raw, milliseconds(most), &mut group) })?;
        Ok((!group.is_null()).then(|| Group::over_nccl(group)))
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        if let Ok(e) = entries() {
            // SAFETY: begun above, freed once; its thread holds what it still needs.
            unsafe { (e.forget)(self.raw) };
        }
    }
}

impl Group {
    /// Joins those that meet at this store over NCCL, each with a GPU of its own. Nobody is waited for longer than
    /// `most`.
    pub fn join_nccl(
        store: &Store,
        rank: usize,
        size: usize,
        device: usize,
        most: Duration,
    ) -> Result<Group> {
        let joined = Joining::begin(store, rank, size, device)?.wait(most)?;
        let late = || Error::new(Cause::Io, "not all processes have come to NCCL").expected("all of them");
        joined.ok_or_else(late)
    }
}

/// Leaves a group, at once where it broke.
pub(super) fn leave(group: Raw, broke: bool) {
    if let Ok(e) = entries() {
        // SAFETY: a group of `joined`, left once.
        unsafe { (e.leave)(group, broke, milliseconds(TO_LEAVE)) };
    }
}
