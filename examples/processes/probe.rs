//! How many bytes a second processes of this machine send each other: this program, started as several ranks that sum a
//! large tensor.

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use retort::dist::{Launch, World, children};
use retort::native::group::Store;
use tch::{Device, Kind, Tensor};

/// Set in a process that is a rank.
const AS_RANK: &str = "RETORT_PROBE";
/// Numbers of the tensor.
const NUMBERS: i64 = 4 << 20;
const ROUNDS: u32 = 5;
const LIMIT: Duration = Duration::from_secs(60);

/// Whether this process is one of the ranks.
pub fn is_rank() -> bool {
    std::env::var_os(AS_RANK).is_some()
}

/// What a rank does: rank 0 says how long a sum takes.
pub fn as_rank() -> ExitCode {
    match sum() {
        Ok(Some(seconds)) => println!("{seconds}"),
        Ok(None) => {}
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn sum() -> retort::error::Result<Option<f64>> {
    let Some(launch) = Launch::from_environment()? else { return Ok(None) };
    let world = World::join(&launch, LIMIT)?;
    let tensor = Tensor::zeros([NUMBERS], (Kind::Float, Device::Cpu));
    let mut begun = Instant::now();
    for round in 0..=ROUNDS {
        if round == 1 {
            begun = Instant::now();
        }
        world.end_of(world.begin_sum(&tensor)?)?;
    }
    let seconds = begun.elapsed().as_secs_f64() / f64::from(ROUNDS);
    world.barrier()?;
    Ok(world.is_first().then_some(seconds))
}

/// The bytes a second that each of so many processes sends.
pub fn bytes_a_second(processes: usize) -> Result<f64, String> {
    let fail = |e: &dyn std::fmt::Display| format!("the probe: {e}");
    let store = Store::open("127.0.0.1", 0, true, "probe", LIMIT).map_err(|e| fail(&e))?;
    let program = std::env::current_exe().map_err(|e| fail(&e))?;
    let start = |rank| {
        let mut command = Command::new(&program);
        command.env(AS_RANK, "1").env("OMP_NUM_THREADS", "1").env("GLOO_SOCKET_IFNAME", "lo");
        command.envs(children(rank, processes, store.port())).stdout(Stdio::piped()).spawn()
    };
    let ranks: Result<Vec<_>, _> = (0..processes).map(start).collect();
    let mut seconds = None;
    for rank in ranks.map_err(|e| fail(&e))? {
        let answer = rank.wait_with_output().map_err(|e| fail(&e))?;
        let said = String::from_utf8_lossy(&answer.stdout).trim().parse::<f64>().ok();
        seconds = seconds.or(said);
    }
    let seconds = seconds.ok_or("the probe: no rank said how long it took")?;
    let ranks = processes as f64;
    Ok(2.0 * (ranks - 1.0) / ranks * 4.0 * NUMBERS as f64 / seconds)
}
