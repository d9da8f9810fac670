//! Runs the real binary and measures it: what it answered, how long it took, how much memory it held.

#![expect(clippy::disallowed_methods, reason = "tests make their own files")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its case fails")]

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// No command of these tests may hold more memory than this at its peak.
pub const MOST_MEMORY: u64 = 2 << 30;
/// What the system gives a child that asks for memory without end: it must not take the machine with it.
const LIMIT: u64 = 8 << 30;

/// What a run of the binary gave.
#[derive(Debug)]
pub struct Answer {
    /// The exit code, or 128 and the signal's number; 137 after the limit.
    pub code: i32,
    /// stdout.
    pub out: String,
    /// stderr.
    pub err: String,
    /// The most memory it held, in bytes.
    pub peak: u64,
    /// How long it took.
    pub time: Duration,
}

/// A path below `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The binary with these arguments, on one thread so that tests can run side by side.
pub fn command<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_retort"));
    command.args(arguments).stdin(Stdio::null()).env("OMP_NUM_THREADS", "1").env_remove("RETORT_LOG");
    command
}

/// Runs it to its end, or kills it after `limit`.
pub fn finish(mut command: Command, limit: Duration) -> Answer {
    let files = tempfile::tempdir().unwrap();
    let place = |name: &str| files.path().join(name);
    command.stdout(File::create(place("out")).unwrap()).stderr(File::create(place("err")).unwrap());
    // SAFETY: setrlimit is safe between fork and exec, and its argument lives on the stack.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: LIMIT, rlim_max: LIMIT };
            libc::setrlimit(libc::RLIMIT_DATA, &limit);
            Ok(())
        })
    };
    let started = Instant::now();
    #[expect(clippy::zombie_processes, reason = "`wait` reaps it, and reads what it used")]
    let child = command.spawn().unwrap();
    let (code, peak) = wait(child.id() as i32, started + limit);
    let read = |name: &str| String::from_utf8_lossy(&std::fs::read(place(name)).unwrap()).into_owned();
    Answer { code, out: read("out"), err: read("err"), peak, time: started.elapsed() }
}

/// Waits for a child, and answers its exit code and the most memory it held; kills it at `end`.
fn wait(pid: i32, end: Instant) -> (i32, u64) {
    let mut killed = false;
    loop {
        let mut status = 0;
        // SAFETY: all zeros is a valid rusage, and both pointers are to locals.
        let (done, usage) = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            (libc::wait4(pid, &mut status, libc::WNOHANG, &mut usage), usage)
        };
        if done == pid {
            let code = if libc::WIFEXITED(status) {
                libc::WEXITSTATUS(status)
            } else {
                128 + libc::WTERMSIG(status)
            };
            return (code, usage.ru_maxrss as u64 * 1024);
        }
        if Instant::now() > end && !killed {
            // SAFETY: the child has not been waited for, so the number is still its own.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            killed = true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
