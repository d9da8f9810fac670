//! What exists on a GPU alone: loading libtorch_cuda.so, memory figures, captured graphs.
//!
//! The linker drops libtorch_cuda.so from a binary that does not name it, so it is loaded here, at
//! start, where a driver and the library are; then the shim's CUDA half, which this binary carries
//! inside. Everything else answers an error that says why there is no GPU.

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::OnceLock;

use super::nccl;
use crate::error::{Error, Result};

/// The CUDA half, compiled by build.rs; empty where CUDA's headers were not found.
static HALF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libretort_cuda.so"));

/// The CUDA half as this binary carries it, for whoever wants to look at it; empty where CUDA's headers were not found.
pub fn half() -> &'static [u8] {
    HALF
}

/// The entry points of the CUDA half.
pub(super) struct Entries {
    error: unsafe extern "C" fn() -> *const c_char,
    memory: unsafe extern "C" fn(c_int, *mut i64) -> c_int,
    capability: unsafe extern "C" fn(c_int, *mut i64) -> c_int,
    reset_peak: unsafe extern "C" fn(c_int) -> c_int,
    empty_cache: unsafe extern "C" fn() -> c_int,
    synchronize: unsafe extern "C" fn(c_int) -> c_int,
    graph_begin: unsafe extern "C" fn(c_int, *mut *mut c_void) -> c_int,
    graph_end: unsafe extern "C" fn(*mut c_void) -> c_int,
    graph_replay: unsafe extern "C" fn(*mut c_void) -> c_int,
    graph_free: unsafe extern "C" fn(*mut c_void),
    /// Those of NCCL, which may not have compiled.
    pub(super) nccl: Result<nccl::Entries, String>,
}

static ENTRIES: OnceLock<Result<Entries, String>> = OnceLock::new();

/// Loads CUDA where it is, once; the answer says why not where it is not. Call it before the first
/// tensor is made.
pub fn load() -> Result<(), String> {
    ENTRIES.get_or_init(load_once).as_ref().map(|_| ()).map_err(Clone::clone)
}

fn load_once() -> Result<Entries, String> {
    // The driver's library is on every machine with a working GPU and on no other.
    open("libcuda.so.1", libc::RTLD_LAZY).map_err(|_| "this machine has no NVIDIA driver".to_string())?;
    let cuda = torch_folder().map(|dir| dir.join("libtorch_cuda.so")).filter(|path| path.exists());
    let cuda =
        cuda.ok_or("this libtorch is built for the CPU (no libtorch_cuda.so beside libtorch_cpu.so)")?;
    open(cuda.as_os_str(), libc::RTLD_NOW | libc::RTLD_GLOBAL)?;
    if HALF.is_empty() {
        return Err("retort was built without CUDA's headers".into());
    }
    let handle = open_bytes(HALF)?;
    // SAFETY: the names and types are those of cuda.cpp, compiled with this binary.
    unsafe {
        Ok(Entries {
            error: entry(handle, c"retort_cuda_error")?,
            memory: entry(handle, c"retort_cuda_memory")?,
            capability: entry(handle, c"retort_cuda_capability")?,
            reset_peak: entry(handle, c"retort_cuda_reset_peak")?,
            empty_cache: entry(handle, c"retort_cuda_empty_cache")?,
            synchronize: entry(handle, c"retort_cuda_synchronize")?,
            graph_begin: entry(handle, c"retort_cuda_graph_begin")?,
            graph_end: entry(handle, c"retort_cuda_graph_end")?,
            graph_replay: entry(handle, c"retort_cuda_graph_replay")?,
            graph_free: entry(handle, c"retort_cuda_graph_free")?,
            nccl: nccl::Entries::of(handle),
        })
    }
}

/// The folder that libtorch was loaded from.
pub(super) fn torch_folder() -> Option<PathBuf> {
    // SAFETY: dladdr fills the struct, or answers 0; the name it gives lives as long as the library.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        let inside = super::retort_torch_address();
        if libc::dladdr(inside, &mut info) == 0 || info.dli_fname.is_null() {
            return None;
        }
        let name = OsStr::from_bytes(CStr::from_ptr(info.dli_fname).to_bytes());
        PathBuf::from(name).parent().map(PathBuf::from)
    }
}

fn open(name: impl AsRef<OsStr>, how: c_int) -> Result<*mut c_void, String> {
    let name = CString::new(name.as_ref().as_bytes()).map_err(|e| e.to_string())?;
    // SAFETY: a NUL-terminated name; the library stays loaded for good.
    let handle = unsafe { libc::dlopen(name.as_ptr(), how) };
    if handle.is_null() { Err(dl_error()) } else { Ok(handle) }
}

/// Loads a library from memory, through a file that has no name.
fn open_bytes(bytes: &[u8]) -> Result<*mut c_void, String> {
    use std::io::Write;
    // SAFETY: a new descriptor, owned from here.
    let fd = unsafe { libc::memfd_create(c"libretort_cuda".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error().to_string());
    }
    // SAFETY: just made, nobody else has it.
    let mut file = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.write_all(bytes).map_err(|e| e.to_string())?;
    open(format!("/proc/self/fd/{}", file.as_raw_fd()), libc::RTLD_NOW | libc::RTLD_LOCAL)
}

/// An entry point of a loaded library, as the function pointer `F`.
///
/// # Safety
/// `F` must be the type that the library gives the name.
pub(super) unsafe fn entry<F: Copy>(handle: *mut c_void, name: &CStr) -> Result<F, String> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: a loaded library and a NUL-terminated name.
    let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
    // SAFETY: as large as a pointer, and not null.
    if found.is_null() {
        Err(dl_error())
    } else {
        Ok(unsafe { std::mem::transmute_copy::<*mut c_void, F>(&found) })
    }
}

fn dl_error() -> String {
    // SAFETY: dlerror answers a string of this thread, or null.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "the dynamic linker gave no reason".into();
    }
    // SAFETY: not null, NUL-terminated.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

pub(super) fn entries() -> Result<&'static Entries> {
    ENTRIES
        .get_or_init(load_once)
        .as_ref()
        .map_err(|why| Error::user("no GPU to use").found(why.clone()).advice("use --device cpu"))
}

fn check(e: &Entries, code: c_int) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: the CUDA half keeps a NUL-terminated string for this thread.
    let text = unsafe { CStr::from_ptr((e.error)()) }.to_string_lossy().into_owned();
    Err(tch::TchError::Torch(text).into())
}

/// What a GPU's memory holds, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// In tensors now.
    pub allocated: i64,
    /// In tensors at most, since the start or [`reset_peak`].
    pub allocated_peak: i64,
    /// Held by libtorch's allocator now.
    pub reserved: i64,
    /// Held by libtorch's allocator at most.
    pub reserved_peak: i64,
    /// Free on the device.
    pub free: i64,
    /// All the device has.
    pub total: i64,
}

/// The memory figures of a GPU.
pub fn memory(device: usize) -> Result<Memory> {
    let e = entries()?;
    let mut out = [0i64; 6];
    // SAFETY: room for six numbers.
    check(e, unsafe { (e.memory)(device as c_int, out.as_mut_ptr()) })?;
    let [allocated, allocated_peak, reserved, reserved_peak, free, total] = out;
    Ok(Memory { allocated, allocated_peak, reserved, reserved_peak, free, total })
}

/// The compute capability of a GPU, as 10 * major + minor: 80 is an A100.
pub fn capability(device: usize) -> Result<i64> {
    let e = entries()?;
    let mut out = 0;
    // SAFETY: room for one number.
    check(e, unsafe { (e.capability)(device as c_int, &mut out) })?;
    Ok(out)
}

/// Whether the machine has a driver for NVIDIA GPUs.
pub fn has_driver() -> bool {
    open("libcuda.so.1", libc::RTLD_LAZY).is_ok()
}

/// Starts the peaks of [`memory`] anew.
pub fn reset_peak(device: usize) -> Result<()> {
    let e = entries()?;
    // SAFETY: a plain call.
    check(e, unsafe { (e.reset_peak)(device as c_int) })
}

/// Gives memory that no tensor uses back to the device.
pub fn empty_cache() -> Result<()> {
    let e = entries()?;
    // SAFETY: a plain call.
    check(e, unsafe { (e.empty_cache)() })
}

/// Waits until the device has done all that it was given.
pub fn synchronize(device: usize) -> Result<()> {
    let e = entries()?;
    // SAFETY: a plain call.
    check(e, unsafe { (e.synchronize)(device as c_int) })
}

/// A sequence of kernels that was recorded once and is launched as one.
#[derive(Debug)]
pub struct Graph {
    raw: *mut c_void,
}

// SAFETY: a captured graph has no tie to the thread that made it.
unsafe impl Send for Graph {}

impl Graph {
    /// Records what `work` launches on this device. `work` must allocate what it reads and writes
    /// beforehand, and must not wait for the device. Run it once before, so that its libraries have
    /// made their workspaces.
    pub fn capture(device: usize, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let e = entries()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the pointer is set where the call succeeds.
        check(e, unsafe { (e.graph_begin)(device as c_int, &mut raw) })?;
        let graph = Graph { raw };
        let done = catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|_| Err(Error::bug("a captured step panicked")));
        // The capture has to end also where the work failed, or the device stays unusable.
        // SAFETY: a graph that is being captured.
        let ended = check(e, unsafe { (e.graph_end)(graph.raw) });
        done.and(ended)?;
        Ok(graph)
    }

    /// Launches what was recorded.
    pub fn replay(&self) -> Result<()> {
        let e = entries()?;
        // SAFETY: a captured graph.
        check(e, unsafe { (e.graph_replay)(self.raw) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Ok(e) = entries() {
            // SAFETY: made by `graph_begin`, freed once.
            unsafe { (e.graph_free)(self.raw) };
        }
    }
}
