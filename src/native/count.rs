//! How many of libtorch's operations a piece of work takes: a measure of speed that does not depend on
//! the machine's mood.

use std::ffi::c_int;

use super::check;
use crate::error::Result;

unsafe extern "C" {
    fn retort_count_start(handle: *mut u64) -> c_int;
    fn retort_count_stop(handle: u64, n: *mut u64) -> c_int;
}

/// Does the work, and counts the operations that this thread asks of libtorch meanwhile, views and
/// those inside others too.
pub fn operations<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    let (mut handle, mut n) = (0, 0);
    // SAFETY: a number to write.
    check(unsafe { retort_count_start(&mut handle) })?;
    let done = work();
    // SAFETY: the handle from above, and a number to write.
    check(unsafe { retort_count_stop(handle, &mut n) })?;
    Ok((done?, n))
}
