//! Where is the best teacher of a student? First what the distillation-scaling law says without any training, then a
//! grid that is trained and fitted.
//!
//!     cargo run --release --example capacity_gap -- demo
//!     scripts/law-corpus
//!     cargo run --release --example capacity_gap -- small runs/capacity-gap
//!     cargo run --release --example capacity_gap -- large runs/capacity-gap-gpu
//!
//! `demo` takes an instant. `small` is configs/research/capacity-gap.toml: 28 minutes on two cores; `large` is
//! configs/research/capacity-gap-gpu.toml, for a GPU. `KEY=VALUE` behind them is laid over the config. A grid that was
//! stopped goes on where it was.

use std::path::Path;

use retort::config::grid::GridConfig;
use retort::error::{Error, Result};
use retort::law::grid::{self, Hears, Settings};
use retort::law::{Measured, Published, Size, Sizes, cells, mean, short, words};
use retort::native::cuda;
use tch::{Device, Kind};

/// Students of the demonstration, without embeddings, and the tokens of all of them.
const STUDENTS: [f64; 4] = [30e6, 60e6, 120e6, 240e6];
const TOKENS: f64 = 5e9;

fn main() -> Result<()> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let out = |name: &str| given.get(1).cloned().unwrap_or_else(|| format!("runs/{name}"));
    let set = given.get(2..).unwrap_or_default();
    match given.first().map(String::as_str) {
        None | Some("demo") => demonstrate(),
        Some("small") => measure("configs/research/capacity-gap.toml", &out("capacity-gap"), set),
        Some("large") => measure("configs/research/capacity-gap-gpu.toml", &out("capacity-gap-gpu"), set),
        Some(other) => Err(Error::user("no such part").expected("demo, small or large").found(other)),
    }
}

/// Prints students' losses over their teachers' sizes: down, and up again.
fn demonstrate() -> Result<()> {
    let law = Published::read()?.scaling;
    println!("A student's loss by the distillation-scaling law, {} tokens; * is the least.\n", short(TOKENS));
    println!("{:>22}  {}", "teacher, its loss", STUDENTS.map(|n| format!("{:>8}", short(n))).join(""));
    let teachers: Vec<f64> = (0..=14).map(|n| 50e6 * 2f64.powi(n)).collect();
    let loss = |teacher: f64| law.supervised.loss(Size { n: teacher, d: law.tokens_a_parameter * teacher });
    let students = STUDENTS.map(|n| {
        let student = Size { n, d: TOKENS };
        let alone = law.supervised.loss(student);
        teachers.iter().map(|t| law.distilled.loss(student, loss(*t), alone)).collect::<Vec<f64>>()
    });
    for (at, teacher) in teachers.iter().enumerate() {
        let cells = students.each_ref().map(|losses| {
            let least = losses.iter().all(|other| losses[at] <= *other);
            format!("{:>7.3}{}", losses[at], if least { "*" } else { " " })
        });
        println!("{:>14} {:>7.3}  {}", short(*teacher), loss(*teacher), cells.join(""));
    }
    println!(
        "\nTeachers above {} were never measured. By size alone the answers are:",
        short(law.most_parameters)
    );
    let by_size = Published::read()?.capacity_gap;
    for n in STUDENTS {
        let all = Sizes::from_body(n).all;
        println!("  {} parameters in all: a teacher of {}", short(all), short(by_size.teacher(all).0));
    }
    Ok(())
}

/// Trains a grid and prints what came of it.
fn measure(config: &str, out: &str, set: &[String]) -> Result<()> {
    let config = GridConfig::load(Path::new(config), set)?;
    let gpu = cuda::load().is_ok() && tch::Cuda::device_count() > 0;
    let at_once = tch::get_num_threads().max(1) as usize;
    tch::set_num_threads(1);
    let settings = Settings {
        out: out.into(),
        device: if gpu { Device::Cuda(0) } else { Device::Cpu },
        kind: if gpu { Kind::BFloat16 } else { Kind::Float },
        at_once: if gpu { 1 } else { at_once },
    };
    let found = grid::run(&config, &settings, &Lines)?;
    println!(
        "\n| student | teacher | arm | runs | loss | before training | forward KL |\n|---|---:|---|---:|---:|---:|---:|"
    );
    for cell in cells(&found.points) {
        let number =
            |of: fn(&Measured) -> Option<f64>| mean(&cell, of).map_or("-".into(), |x| format!("{x:.4}"));
        println!(
            "| {} | {} | {} | {} | {} | {} | {} |",
            short(cell[0].student),
            cell[0].teacher.map_or("-".into(), short),
            cell[0].arm,
            cell.len(),
            number(|row| Some(row.loss)),
            number(|row| row.initial_loss),
            number(|row| row.kl)
        );
    }
    println!();
    for curve in &found.fits.curves {
        println!("{} {}: {}", short(curve.student), curve.arm, words(&curve.verdict));
    }
    println!("\n{}\n{}", found.results.display(), found.report.display());
    Ok(())
}

/// Says what ends.
struct Lines;

impl Hears for Lines {
    fn begins(&self, part: &str, what: &str) {
        println!("{part}: {what}");
    }

    fn progress(&self, _: &str, _: u64, _: u64) {}

    fn preparing(&self, _: &str, _: &'static str, _: usize, _: usize) {}

    fn ended(&self, run: &str, loss: f64) {
        println!("  {run}: {loss:.4}");
    }
}
