//! `--nproc N`: N copies of this program on this machine. The parent keeps the store that they meet at, hands signals
//! on, and ends with their exit code. And what a copy, or a process that torchrun or Slurm started, says of itself.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::args::{Arguments, Command as Subcommand};
use crate::dist::{Keeper, Launch, children};
use crate::error::{Error, Result};
use crate::signal;

/// Behind the first that fails the others have so many time-outs to end by themselves.
const GRACE: f64 = 1.0;

/// The rank of this process, where it is not the one that talks to the user.
static RANK: OnceLock<usize> = OnceLock::new();

/// Whether this process only trains beside another that talks; what it logs carries its rank.
pub(super) fn rank_of_many() -> Option<usize> {
    RANK.get().copied()
}

/// Reads from the environment whether it does.
pub(super) fn note_rank(arguments: &Arguments) {
    let Subcommand::Distill(distill) = &arguments.command else { return };
    let launch = if distill.nproc.is_some() { None } else { Launch::from_environment().ok().flatten() };
    if let Some(launch) = launch.filter(|launch| launch.rank > 0) {
        let _ = RANK.set(launch.rank);
        signal::quietly();
    }
}

/// Runs this program's own command line in so many copies; does not come back unless they cannot be started.
pub(super) fn run(size: usize, timeout: f64, threads: Option<u16>) -> Result<()> {
    if Launch::from_environment()?.is_some() {
        let e = Error::user("--nproc under a launcher").expected("one of them");
        return Err(e.advice("torchrun and srun start the processes themselves: leave --nproc out"));
    }
    signal::quietly();
    let keeper = Keeper::open()?;
    let port = keeper.port();
    let mut copies = Copies { keeper, running: Vec::new(), ended: Vec::new() };
    for rank in 0..size {
        copies.running.push((rank, start(rank, size, port, threads)?));
    }
    let code = copies.wait(Duration::from_secs_f64(GRACE * timeout))?;
    drop(copies);
    std::process::exit(i32::from(code))
}

/// Starts one copy with our arguments. It dies with us, and hears of signals through us alone.
fn start(rank: usize, size: usize, port: u16, threads: Option<u16>) -> Result<Child> {
    let program = std::env::current_exe().map_err(|e| Error::io("cannot find this program", "retort", &e))?;
    let mut command = Command::new(&program);
    command.args(without_nproc(std::env::args_os().skip(1)));
    command.envs(children(rank, size, port)).process_group(0);
    if threads.is_none() && std::env::var_os("OMP_NUM_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        command.env("OMP_NUM_THREADS", (cores / size).max(1).to_string());
    }
    if std::env::var_os("GLOO_SOCKET_IFNAME").is_none() && cfg!(target_os = "linux") {
        command.env("GLOO_SOCKET_IFNAME", "lo");
    }
    if rank > 0 {
        command.stdin(Stdio::null()).stdout(Stdio::null());
    }
    #[cfg(target_os = "linux")]
    // SAFETY: prctl is safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        })
    };
    command.spawn().map_err(|e| Error::io("cannot start a process", &program, &e))
}

/// The arguments but `--nproc N`.
fn without_nproc(all: impl Iterator<Item = std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let (mut kept, mut value_follows) = (Vec::new(), false);
    for argument in all {
        if std::mem::take(&mut value_follows) {
            continue;
        }
        match argument.to_str() {
            Some("--nproc") => value_follows = true,
            Some(text) if text.starts_with("--nproc=") => {}
            _ => kept.push(argument),
        }
    }
    kept
}

/// The copies: those that run, and how the others have ended.
struct Copies {
    keeper: Keeper,
    running: Vec<(usize, Child)>,
    ended: Vec<(usize, ExitStatus)>,
}

impl Copies {
    /// Waits for all of them; the exit code of the whole.
    fn wait(&mut self, grace: Duration) -> Result<u8> {
        let (mut told, mut failed) = (false, None);
        while !self.running.is_empty() {
            if let Some(number) = signal::pending().filter(|_| !told) {
                told = true;
                self.tell(i32::from(number));
            }
            self.reap()?;
            if self.ended.iter().any(|(_, status)| !status.success()) {
                let since = *failed.get_or_insert_with(Instant::now);
                if since.elapsed() > grace {
                    self.tell(libc::SIGKILL);
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.ended.sort_by_key(|(rank, _)| *rank);
        Ok(code(&self.ended))
    }

    fn reap(&mut self) -> Result<()> {
        let mut still = Vec::new();
        for (rank, mut child) in self.running.drain(..) {
            match child.try_wait().map_err(|e| Error::io("cannot wait for a process", "retort", &e))? {
                Some(status) => {
                    // One that stopped for a signal has agreed on it with the others, who may still be saving.
                    if status.code().is_none_or(|code| (1..128).contains(&code)) {
                        self.keeper.has_ended(rank, &how(status));
                    }
                    self.ended.push((rank, status));
                }
                None => still.push((rank, child)),
            }
        }
        self.running = still;
        Ok(())
    }

    fn tell(&self, number: i32) {
        for (_, child) in &self.running {
            // SAFETY: a child that has not been waited for, so that the number is still its own.
            unsafe { libc::kill(child.id() as i32, number) };
        }
    }
}

/// How a copy ended, in words.
fn how(status: ExitStatus) -> String {
    match status.signal() {
        Some(number) => format!("it was killed by signal {number}"),
        None => format!("it left with exit code {}", status.code().unwrap_or_default()),
    }
}

/// The code of the first rank that says itself what went wrong, else of the first that was killed.
fn code(ended: &[(usize, ExitStatus)]) -> u8 {
    let said = ended.iter().find_map(|(_, status)| status.code().filter(|code| *code != 0));
    let killed = ended.iter().find_map(|(_, status)| status.signal().map(|number| 128 + number));
    said.or(killed).unwrap_or(0) as u8
}

/// Writes whole lines to stderr, each behind the rank of this process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tagged;

impl std::io::Write for Tagged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut stderr = std::io::stderr().lock();
        if let Some(rank) = rank_of_many() {
            write!(stderr, "[rank {rank}] ")?;
        }
        stderr.write_all(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_have_all_arguments_but_their_number() {
        let of = |text: &str| {
            let kept = without_nproc(text.split(' ').map(Into::into));
            kept.iter().map(|a| a.to_str().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of("distill a.toml --nproc 2 --resume"), "distill a.toml --resume");
        assert_eq!(of("distill --nproc=2 a.toml"), "distill a.toml");
        assert_eq!(of("distill a.toml --out nproc"), "distill a.toml --out nproc");
    }

    /// A rank that was killed has nothing to say; the others end with what they found.
    #[test]
    fn the_code_is_of_a_rank_that_says_something() {
        let of = |raw: &[i32]| {
            let status: Vec<_> = raw.iter().map(|&raw| ExitStatus::from_raw(raw)).enumerate().collect();
            code(&status)
        };
        assert_eq!(of(&[0, 0]), 0);
        assert_eq!(of(&[libc::SIGKILL, 4 << 8]), 4);
        assert_eq!(of(&[0, libc::SIGKILL]), 137);
        assert_eq!(of(&[143 << 8, 143 << 8]), 143);
    }
}
