//! Every method on the quickstart's task, over seeds, each with its own best learning rate; and MiniLLM without
//! each of its tricks.
//!
//!     cargo run --release --example methods -- runs/methods
//!
//! prints two tables and writes them to `methods.md`, everything measured to `methods.json`. All start from one
//! SFT state a seed and have as many updates. The learning rate of each is the best of half, one and two
//! times a first guess by the Rouge-L on validation rows, over the first two seeds, and of further doublings or
//! halvings where it lies at an end; intervals are of the mean over the seeds (Student's t).
//! `-- DIR SEEDS PROMPTS HELD_OUT KEY=VALUE...` takes other numbers than 5 seeds, 1,500 prompts to learn from and 512 held
//! out, and settings for all runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use retort::error::{Error, Result};
use retort::quickstart::{ARMS, Arm, Bench, Hears, Measured, START, Settings};
use retort::store::Folder;
use retort::train::Finished;
use tch::{Device, Kind};

/// Learning rates to begin with, as powers of two of the method's first one.
const GRID: [i32; 3] = [-1, 0, 1];

/// The farthest of them.
const FARTHEST: i32 = 5;

/// Seeds that the learning rates are chosen by.
const TUNED: usize = 2;

/// Student's t, 97.5 %, by degrees of freedom from 1.
const T: [f64; 9] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];

/// What is left out of MiniLLM, and how a config says it.
const WITHOUT: [(&str, &str); 3] = [
    ("no single step", "minillm.single_step=false"),
    ("no mixing", "minillm.alpha=0.0"),
    ("no length norm", "minillm.length_norm=false"),
];

/// A method: its name, and its run at a learning rate.
struct Method {
    name: &'static str,
    arm: Arm,
    lr: f64,
}

impl Method {
    fn at(&self, factor: f64) -> Arm {
        let lr = self.lr * factor;
        let name = format!("{}-{lr}", self.name.replace(' ', "-"));
        self.arm.varied(name, [format!("train.lr={lr}")])
    }
}

fn methods() -> Result<Vec<Method>> {
    let of = |name: &str| {
        ARMS.iter().find(|arm| arm.name == name).cloned().ok_or_else(|| Error::bug("no such run").found(name))
    };
    let mut all = Vec::new();
    for (name, lr) in [("sft", 5e-4), ("kd", 1e-3), ("seqkd", 1e-3), ("minillm", 1e-3)] {
        all.push(Method { name, arm: of(name)?, lr });
    }
    for (name, setting) in WITHOUT {
        all.push(Method { name, arm: of("minillm")?.varied(name.into(), [setting.to_string()]), lr: 1e-3 });
    }
    Ok(all)
}

/// What one run came to on the held-out rows: Rouge-L, valid, valid greedy, reverse KL, exposure, distinct-4.
const COLUMNS: [(&str, usize); 6] = [
    ("Rouge-L", 1),
    ("valid, %", 1),
    ("valid greedy, %", 1),
    ("reverse KL", 3),
    ("exposure, %", 1),
    ("distinct-4", 3),
];

fn numbers(m: &Measured) -> [f64; 6] {
    [
        m.rouge_l.mean,
        100.0 * m.valid.mean,
        100.0 * m.valid_greedy.mean,
        m.reverse_kl.mean,
        m.exposure.mean,
        m.distinct_4.map_or(f64::NAN, |d| d.mean),
    ]
}

fn main() -> Result<()> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let out = given.first().map_or("runs/methods", String::as_str);
    let counts: Vec<usize> = given.iter().skip(1).map_while(|n| n.parse().ok()).collect();
    let count = |at: usize, usual: usize| counts.get(at).copied().unwrap_or(usual);
    let seeds = count(0, 5);
    let at_once = tch::get_num_threads().max(1) as usize;
    tch::set_num_threads(1);
    let bench = |seed: usize| {
        Bench::prepare(Settings {
            out: Path::new(out).join(format!("seed-{seed}")),
            seed: seed as u64,
            prompts: count(1, 1500),
            held_out: count(2, 512),
            set: given.iter().skip(1 + counts.len()).cloned().collect(),
            device: Device::Cpu,
            kind: Kind::Float,
            at_once,
        })
    };
    let benches: Vec<Bench> = (1..=seeds).map(bench).collect::<Result<_>>()?;
    let starts: Vec<Finished> =
        benches.iter().map(|bench| Ok(bench.train(&[START], &Lines)?.remove(0))).collect::<Result<_>>()?;
    let methods = methods()?;
    let chosen = choose(&benches, &methods)?;
    let mut found: Vec<Vec<[f64; 6]>> = vec![Vec::new(); methods.len() + 1];
    for (bench, start) in benches.iter().zip(&starts) {
        let arms: Vec<Arm> = methods.iter().zip(&chosen).map(|(m, factor)| m.at(*factor)).collect();
        let finished = bench.train(&arms, &Lines)?;
        let mut paths: Vec<PathBuf> = vec![bench.teacher()];
        paths.extend(arms.iter().zip(&finished).map(|run| bench.state(run, start)));
        let measured = bench.measure(&paths)?;
        found.iter_mut().zip(&measured).for_each(|(all, m)| all.push(numbers(m)));
    }
    let names: Vec<String> = std::iter::once("teacher".to_string())
        .chain(methods.iter().zip(&chosen).map(|(m, factor)| format!("{} (lr {})", m.name, m.lr * factor)))
        .collect();
    let text = tables(&names, &found, seeds);
    println!("{text}");
    let folder = Folder::create(out)?;
    folder.write_bytes("methods.md", text.as_bytes())?;
    let all = serde_json::json!({"names": names, "columns": COLUMNS.map(|(name, _)| name), "values": found});
    folder.write_bytes("methods.json", format!("{all}\n").as_bytes())
}

/// What validation says of one method at the learning rates tried, by their power of two.
type Tried = BTreeMap<i32, f64>;

/// The learning rate of each method that is best on the validation rows, over the first seeds: where it is the
/// last one tried on its side, the next one is tried too.
fn choose(benches: &[Bench], methods: &[Method]) -> Result<Vec<f64>> {
    let tuned = &benches[..TUNED.min(benches.len())];
    let mut tried: Vec<Tried> = vec![Tried::new(); methods.len()];
    loop {
        let open: Vec<(usize, i32)> = tried
            .iter()
            .enumerate()
            .flat_map(|(n, tried)| next(tried).into_iter().map(move |at| (n, at)))
            .collect();
        if open.is_empty() {
            break;
        }
        let arms: Vec<Arm> = open.iter().map(|(n, at)| methods[*n].at(2f64.powi(*at))).collect();
        for bench in tuned {
            for ((n, at), run) in open.iter().zip(bench.train(&arms, &Lines)?) {
                let found = run.best.map_or(f64::NEG_INFINITY, |best| best.value);
                *tried[*n].entry(*at).or_default() += found / tuned.len() as f64;
            }
        }
    }
    println!("Rouge-L on validation rows, mean of {} seeds:", tuned.len());
    for (method, tried) in methods.iter().zip(&tried) {
        let cells = tried.iter().map(|(at, mean)| format!("{}: {mean:.2}", method.lr * 2f64.powi(*at)));
        println!("  {:<16} {}", method.name, cells.collect::<Vec<_>>().join("  "));
    }
    Ok(tried.iter().map(|tried| 2f64.powi(best(tried))).collect())
}

/// What is still to be tried of a method.
fn next(tried: &Tried) -> Vec<i32> {
    let (Some(first), Some(last)) = (tried.keys().next(), tried.keys().next_back()) else {
        return GRID.to_vec();
    };
    match best(tried) {
        at if at == *first && at > -FARTHEST => vec![at - 1],
        at if at == *last && at < FARTHEST => vec![at + 1],
        _ => Vec::new(),
    }
}

/// The power of two that did best; of equals the one nearest to the first guess.
fn best(tried: &Tried) -> i32 {
    let order = |a: &(&i32, &f64), b: &(&i32, &f64)| a.1.total_cmp(b.1).then(b.0.abs().cmp(&a.0.abs()));
    tried.iter().max_by(order).map_or(0, |(at, _)| *at)
}

/// The means with their intervals, and how far each method is from MiniLLM, seed by seed.
fn tables(names: &[String], found: &[Vec<[f64; 6]>], seeds: usize) -> String {
    let head = |first: &str| {
        let columns: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
        format!("| {first} | {} |\n|---|{}\n", columns.join(" | "), "---:|".repeat(columns.len()))
    };
    let line = |name: &str, rows: &[[f64; 6]]| {
        let cells = COLUMNS.iter().enumerate().map(|(column, (_, digits))| {
            let (mean, half) = around(&rows.iter().map(|row| row[column]).collect::<Vec<_>>());
            format!("{mean:.digits$} ± {half:.digits$}")
        });
        format!("| {name} | {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let mut text = format!("{seeds} seeds, mean and 95 % interval over them:\n\n{}", head("method"));
    names.iter().zip(found).for_each(|(name, rows)| text += &line(name, rows));
    let own = names.iter().position(|name| name.starts_with("minillm")).unwrap_or(0);
    text += &format!("\nMiniLLM minus the method, seed by seed:\n\n{}", head("method"));
    for (n, (name, rows)) in names.iter().zip(found).enumerate() {
        if n != own {
            let pairs = found[own].iter().zip(rows);
            let apart: Vec<[f64; 6]> = pairs.map(|(a, b)| std::array::from_fn(|c| a[c] - b[c])).collect();
            text += &line(name, &apart);
        }
    }
    text
}

/// The mean, and half the width of its 95 % interval.
fn around(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0);
    let t = values.len().checked_sub(2).map_or(f64::NAN, |at| T.get(at).copied().unwrap_or(1.96));
    (mean, t * (variance / n).sqrt())
}

/// Says when a run has been looked at.
struct Lines;

impl Hears for Lines {
    fn begins(&self, _: &str, _: &str) {}
    fn progress(&self, _: &str, _: u64, _: u64) {}
    fn preparing(&self, _: &str, _: &'static str, _: usize, _: usize) {}

    fn evaluated(&self, run: &str, step: u64, rouge_l: f64) {
        eprintln!("{run}: Rouge-L {rouge_l:.2} after update {step}");
    }
}
