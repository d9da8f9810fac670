//! Our own loops on libtorch's own threads: a second pool beside OpenMP's, whose threads spin between
//! loops, would fight them for the cores.

use std::ffi::{c_uint, c_void};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::error::{Error, Result};

/// GNU OpenMP's entry: runs the function on this many threads of its team, the caller's among them.
type Team = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

/// The OpenMP that libtorch has loaded; none where it is another than GNU's.
fn team() -> Option<Team> {
    static TEAM: OnceLock<Option<Team>> = OnceLock::new();
    *TEAM.get_or_init(|| {
        // SAFETY: a NUL-terminated name, looked up among the libraries that are loaded; the type is the
        // one that GCC's own calls of this function have.
        unsafe {
            let found = libc::dlsym(libc::RTLD_DEFAULT, c"GOMP_parallel".as_ptr());
            (!found.is_null()).then(|| std::mem::transmute::<*mut c_void, Team>(found))
        }
    })
}

struct Job<'a> {
    body: &'a (dyn Fn(Range<usize>) + Sync),
    n: usize,
    grain: usize,
    next: AtomicUsize,
    failed: AtomicBool,
}

/// Runs `body` on parts of `0..n` of at most `grain` each, on as many threads as libtorch uses. Which
/// thread takes which part is not fixed, so a part's result must not depend on it.
pub fn for_each(n: usize, grain: usize, body: &(dyn Fn(Range<usize>) + Sync)) -> Result<()> {
    extern "C" fn work(job: *mut c_void) {
        // SAFETY: the job below, which outlives the team's work.
        let job = unsafe { &*job.cast::<Job<'_>>() };
        // Unwinding must not cross into OpenMP.
        let done = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let start = job.next.fetch_add(job.grain, Ordering::Relaxed);
                if start >= job.n {
                    break;
                }
                (job.body)(start..(start + job.grain).min(job.n));
            }
        }));
        if done.is_err() {
            job.failed.store(true, Ordering::Relaxed);
        }
    }
    let grain = grain.max(1);
    let job = Job { body, n, grain, next: AtomicUsize::new(0), failed: AtomicBool::new(false) };
    let threads = (tch::get_num_threads().max(1) as usize).min(n.div_ceil(grain));
    let raw = std::ptr::from_ref(&job).cast_mut().cast::<c_void>();
    match team().filter(|_| threads > 1) {
        // SAFETY: `work` reads the job by shared reference alone, and the call returns when all are done.
        Some(team) => unsafe { team(work, raw, threads as c_uint, 0) },
        None => work(raw),
    }
    if job.failed.load(Ordering::Relaxed) { Err(Error::bug("a parallel loop panicked")) } else { Ok(()) }
}
