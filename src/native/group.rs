//! Several processes: c10d's store of keys, and exchanges of tensors over Gloo or, on GPUs, NCCL. All are inside
//! libtorch; the shim's `dist.cpp` and `nccl.cpp` reach them. What the exchanges mean, and who is to blame for one that
//! does not end, is for `dist`.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::time::Duration;

use tch::{Kind, Tensor};
use torch_sys::C_tensor;

use super::{nccl, taken};
use crate::error::{Error, Result};

/// Places of C++ values that are handed out and back.
pub(super) type Raw = *mut c_void;

unsafe extern "C" {
    fn retort_dist_error() -> *const c_char;
    fn retort_store_open(
        host: *const c_char,
        port: *mut u16,
        serves: bool,
        prefix: *const c_char,
        timeout_ms: i64,
        out: *mut Raw,
    ) -> c_int;
    fn retort_store_again(store: Raw, out: *mut Raw) -> c_int;
    fn retort_store_set(store: Raw, key: *const c_char, bytes: *const u8, n: usize) -> c_int;
    fn retort_store_set_first(
        store: Raw,
        key: *const c_char,
        bytes: *const u8,
        n: usize,
        out: *mut *mut C_tensor,
    ) -> c_int;
    fn retort_store_has(store: Raw, key: *const c_char, found: *mut bool) -> c_int;
    fn retort_store_get(store: Raw, key: *const c_char, out: *mut *mut C_tensor) -> c_int;
    fn retort_store_add(store: Raw, key: *const c_char, by: i64, now: *mut i64) -> c_int;
    fn retort_store_close(store: Raw);
    fn retort_group_gloo(store: Raw, rank: c_int, size: c_int, timeout_ms: i64, out: *mut Raw) -> c_int;
    fn retort_group_leave(group: Raw);
    fn retort_group_begin(
        group: Raw,
        kind: c_int,
        input: *mut C_tensor,
        out: *mut C_tensor,
        root: c_int,
        begun: *mut Raw,
    ) -> c_int;
    fn retort_exchange_wait(exchange: Raw, milliseconds: i64, over: *mut bool) -> c_int;
    fn retort_exchange_poll(exchange: Raw, milliseconds: i64, over: *mut bool) -> c_int;
    fn retort_exchange_free(exchange: Raw);
}

/// Turns the shim's answer into a result. What libtorch says is of sockets: who is to blame is found out elsewhere.
fn check(code: c_int) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: the shim keeps a NUL-terminated string for this thread.
    let text = unsafe { CStr::from_ptr(retort_dist_error()) }.to_string_lossy().into_owned();
    Err(Error::new(crate::error::Cause::Io, "the processes cannot talk to each other").found(text))
}

fn text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::bug("a key with a NUL in it"))
}

pub(super) fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX).max(1)
}

fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    Ok(Vec::try_from(tensor)?)
}

/// Where processes leave words for each other.
#[derive(Debug)]
pub struct Store {
    pub(super) raw: Raw,
    port: u16,
}

// SAFETY: c10d's stores lock around every call.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Store {
    /// Opens the store at a port of a host, and keeps it in this process where it `serves`; a served port of 0 is one
    /// that is free. Every key stands behind the prefix. No call waits longer than `most`.
    pub fn open(host: &str, port: u16, serves: bool, prefix: &str, most: Duration) -> Result<Store> {
        let (host, prefix, mut port) = (text(host)?, text(prefix)?, port);
        let mut raw = std::ptr::null_mut();
        // SAFETY: NUL-terminated strings, and room for the answers.
        check(unsafe {
            let most = milliseconds(most);
            retort_store_open(host.as_ptr(), &mut port, serves, prefix.as_ptr(), most, &mut raw)
        })?;
        Ok(Store { raw, port })
    }

    /// A second connection, so that one thread need not wait for another's call.
    pub fn again(&self) -> Result<Store> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: an open store.
        check(unsafe { retort_store_again(self.raw, &mut raw) })?;
        Ok(Store { raw, port: self.port })
    }

    /// The port it is at.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Leaves bytes under a key.
    pub fn set(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let key = text(key)?;
        // SAFETY: an open store, and so many bytes.
        check(unsafe { retort_store_set(self.raw, key.as_ptr(), bytes.as_ptr(), bytes.len()) })
    }

    /// Leaves bytes under a key where nobody has; the answer is what stands there now.
    pub fn set_first(&self, key: &str, value: &[u8]) -> Result<Vec<u8>> {
        let key = text(key)?;
        let mut out = std::ptr::null_mut();
        // SAFETY: an open store, and so many bytes.
        check(unsafe {
            retort_store_set_first(self.raw, key.as_ptr(), value.as_ptr(), value.len(), &mut out)
        })?;
        bytes(&taken(out))
    }

    /// Counts one more under a key; how many that are now.
    pub fn count(&self, key: &str) -> Result<u64> {
        let (key, mut now) = (text(key)?, 0);
        // SAFETY: an open store, and room for the answer.
        check(unsafe { retort_store_add(self.raw, key.as_ptr(), 1, &mut now) })?;
        Ok(now as u64)
    }

    /// The bytes under a key, where there are any.
    pub fn find(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let name = text(key)?;
        let mut found = false;
        // SAFETY: an open store.
        check(unsafe { retort_store_has(self.raw, name.as_ptr(), &mut found) })?;
        if !found {
            return Ok(None);
        }
        let mut out = std::ptr::null_mut();
        // SAFETY: an open store.
        check(unsafe { retort_store_get(self.raw, name.as_ptr(), &mut out) })?;
        bytes(&taken(out)).map(Some)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: opened above, closed once.
        unsafe { retort_store_close(self.raw) }
    }
}

/// What an exchange does; the numbers are those of `dist.cpp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchanged {
    /// The sum over all processes, in place.
    Sum = 0,
    /// What each has, one behind the other.
    All = 1,
    /// What one has, for all.
    OfOne = 2,
    /// A part of the sum for each.
    PartOfSum = 3,
    /// Nothing: all were there.
    Nothing = 4,
}

/// The processes that exchange tensors.
#[derive(Debug)]
pub struct Group {
    raw: Raw,
    /// Over NCCL: for tensors on one GPU.
    on_gpu: bool,
}

// SAFETY: c10d's groups may be used from any thread, one at a time.
unsafe impl Send for Group {}

impl Group {
    /// Joins those that meet at this store. Nobody is waited for longer than `most`.
    pub fn join(store: &Store, rank: usize, size: usize, most: Duration) -> Result<Group> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: an open store, and room for the answer.
        check(unsafe {
            retort_group_gloo(store.raw, rank as c_int, size as c_int, milliseconds(most), &mut raw)
        })?;
        Ok(Group { raw, on_gpu: false })
    }

    /// A group that was joined over NCCL.
    pub(super) fn over_nccl(raw: Raw) -> Group {
        Group { raw, on_gpu: true }
    }

    /// Begins an exchange; `root` is whose tensor is given to all.
    pub fn begin(
        &self,
        what: Exchanged,
        input: Option<&Tensor>,
        out: Option<&Tensor>,
        root: usize,
    ) -> Result<Exchange> {
        let pointer = |t: Option<&Tensor>| t.map_or(std::ptr::null_mut(), |t| t.as_ptr().cast_mut());
        let mut raw = std::ptr::null_mut();
        // SAFETY: live tensors, which the exchange holds on to.
        check(unsafe {
            retort_group_begin(self.raw, what as c_int, pointer(input), pointer(out), root as c_int, &mut raw)
        })?;
        Ok(Exchange { raw, on_gpu: self.on_gpu })
    }

    /// Leaves a group in which an exchange broke: nothing that is under way is waited for.
    pub fn abandon(self) {
        if self.on_gpu {
            nccl::leave(self.raw, true);
        }
        // Gloo's would wait: it stays until the process ends.
        std::mem::forget(self);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.on_gpu {
            return nccl::leave(self.raw, false);
        }
        // SAFETY: joined above, left once. It waits for what is under way.
        unsafe { retort_group_leave(self.raw) }
    }
}

/// An exchange under way.
#[derive(Debug)]
pub struct Exchange {
    raw: Raw,
    on_gpu: bool,
}

impl Exchange {
    /// Waits for it for so long; whether it is over.
    pub fn wait(&self, time: Duration) -> Result<bool> {
        let mut over = false;
        let wait = if self.on_gpu { retort_exchange_poll } else { retort_exchange_wait };
        // SAFETY: an exchange that was begun.
        check(unsafe { wait(self.raw, milliseconds(time), &mut over) })?;
        Ok(over)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // SAFETY: begun above, freed once; libtorch's own threads hold what they still need.
        unsafe { retort_exchange_free(self.raw) }
    }
}

/// Bytes as a tensor.
pub fn of_bytes(bytes: &[u8]) -> Result<Tensor> {
    if bytes.is_empty() {
        return Ok(Tensor::f_zeros([0i64], (Kind::Uint8, tch::Device::Cpu))?);
    }
    Ok(Tensor::f_from_slice(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What waits for an exchange on a GPU looks at it now and then; here it looks at one of Gloo's.
    #[test]
    fn an_exchange_can_be_looked_at() {
        let most = Duration::from_secs(20);
        let store = Store::open("127.0.0.1", 0, true, "looked-at", most).unwrap();
        let group = Group::join(&store, 0, 1, most).unwrap();
        let tensor = Tensor::from_slice(&[1f32, 2.0]);
        let mut exchange = group.begin(Exchanged::Sum, Some(&tensor), None, 0).unwrap();
        exchange.on_gpu = true;
        assert!(exchange.wait(most).unwrap());
        assert_eq!(Vec::<f32>::try_from(&tensor).unwrap(), [1.0, 2.0]);
    }
}
