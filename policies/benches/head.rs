//! The fused head beside plain autograd: time and peak memory of a loss and all its gradients, from
//! hidden states and head weights. Each side runs in a process of its own, in turn, so that its peak is
//! its own; `benches/README.md` says how to read such a page.
//!
//!     cargo bench -p retort-policies --bench head > benches/results/head.md
//!
//! Options, behind `--`: `--rounds N`, `--threads N`, `--tokens A,B,C`, `--loss minillm|kd`, `--dtype f32|bf16`,
//! `--quick` (tiny sizes: does it still run?), and `--sweep` (chunk sizes beside each other in place of the table).

#![expect(clippy::unwrap_used, reason = "a bench stops where something is wrong")]

use std::process::Command;
use std::time::Instant;

use retort_policies::objective::divergence::Divergence;
use retort_policies::objective::head::{Chunks, HeadGrads, Want, fused_in};
use retort_policies::objective::input::{Head, Input, Side};
use retort_policies::objective::term::{Loss, Surrogate, Term};
use tch::{Device, Kind, Tensor};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let after = |flag: &str| words.iter().position(|w| w == flag).and_then(|i| words.get(i + 1).cloned());
    if let Some(job) = after("--child") {
        return child(&job.split(' ').collect::<Vec<_>>());
    }
    // `cargo bench` passes `--bench`; without it this is `cargo test`.
    let quick = words.iter().any(|w| w == "--quick") || !words.iter().any(|w| w == "--bench");
    let number = |flag, unless: i64| after(flag).map_or(unless, |n| n.parse().unwrap());
    let size = if quick { (500, 16) } else { (49152, 576) };
    let tokens = after("--tokens").unwrap_or(if quick { "40".into() } else { "512,2048,8192".into() });
    let bench = Bench {
        losses: after("--loss").map_or(vec!["minillm".into(), "kd".into()], |loss| vec![loss]),
        dtypes: after("--dtype").map_or(vec!["f32".into(), "bf16".into()], |dtype| vec![dtype]),
        tokens: tokens.split(',').map(|n| n.parse().unwrap()).collect(),
        rounds: number("--rounds", if quick { 1 } else { 3 }),
        threads: number("--threads", 1),
        vocabulary: size.0,
        hidden: size.1,
    };
    if words.iter().any(|w| w == "--sweep") { bench.sweep() } else { bench.table(&words) }
}

struct Bench {
    losses: Vec<String>,
    dtypes: Vec<String>,
    tokens: Vec<i64>,
    rounds: i64,
    threads: i64,
    vocabulary: i64,
    hidden: i64,
}

/// What a child measured.
#[derive(Debug, Clone, Copy)]
struct Measured {
    seconds: f64,
    /// Seconds of processor time, the kernel's in: a busy neighbour moves it less than the wall's.
    work: f64,
    /// The process at its peak, in bytes, and what of it came on top of its inputs.
    peak: f64,
    above: f64,
    loss: f64,
    /// The norms of the gradients at hidden states and weight.
    norms: (f64, f64),
}

impl Bench {
    fn ask(&self, side: &str, loss: &str, dtype: &str, tokens: i64, chunks: Chunks) -> Measured {
        let (v, d, threads) = (self.vocabulary, self.hidden, self.threads);
        let job =
            format!("{side} {loss} {tokens} {v} {d} {threads} {} {} {dtype}", chunks.tokens, chunks.block);
        let output = Command::new(std::env::current_exe().unwrap()).args(["--child", &job]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{job}: {}", String::from_utf8_lossy(&output.stderr));
        let numbers: Vec<f64> = said.split_whitespace().map(|n| n.parse().unwrap()).collect();
        let [seconds, work, peak, above, loss, hidden, weight]: [f64; 7] = numbers.try_into().unwrap();
        Measured { seconds, work, peak, above, loss, norms: (hidden, weight) }
    }

    fn table(&self, words: &[String]) {
        let chunks = Chunks::of(Device::Cpu, self.vocabulary);
        let given: Vec<&str> = words.iter().map(String::as_str).filter(|w| *w != "--bench").collect();
        println!("* machine: {}, {} thread(s)", cpu(), self.threads);
        println!("* date: {}", said("date", &["-u", "+%Y-%m-%d"]));
        println!("* commit: {}", commit());
        println!("* sizes: vocabulary {}, hidden {} (both models)", self.vocabulary, self.hidden);
        println!("* chunks: {} tokens, softmax in blocks of {}", chunks.tokens, chunks.block);
        println!("* rounds: {}, plain and fused in turn, a process each, first pass not timed", self.rounds);
        println!("* command: `cargo bench -p retort-policies --bench head -- {}`\n", given.join(" "));
        println!(
            "| dtype, loss, tokens | plain | fused | plain/fused, median | spread | processor time, plain/fused | spread | plain, peak | fused, peak | plain, above its inputs | fused, above | fused/plain, peak | above |"
        );
        println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
        for dtype in &self.dtypes {
            for loss in &self.losses {
                self.tokens.iter().for_each(|tokens| self.row(loss, dtype, *tokens, chunks));
            }
        }
    }

    fn row(&self, loss: &str, dtype: &str, tokens: i64, chunks: Chunks) {
        let ask = |side| self.ask(side, loss, dtype, tokens, chunks);
        let sides: Vec<(Measured, Measured)> =
            (0..self.rounds).map(|_| (ask("plain"), ask("fused"))).collect();
        // The plain side rounds logits and what comes back to them to bfloat16.
        let most = if dtype == "bf16" { 2e-2 } else { 1e-4 };
        for (plain, fused) in &sides {
            let near = |a: f64, b: f64| (a - b).abs() <= most * b.abs();
            assert!(near(fused.loss, plain.loss), "{fused:?} {plain:?}");
            assert!(
                near(fused.norms.0, plain.norms.0) && near(fused.norms.1, plain.norms.1),
                "{fused:?} {plain:?}"
            );
        }
        let of = |pick: fn(&(Measured, Measured)) -> f64| sides.iter().map(pick).collect::<Vec<f64>>();
        let ratio = |ratios: &[f64]| {
            // Processor time is counted in hundredths: what takes less has no ratio.
            if !ratios.iter().all(|r| r.is_finite() && *r > 0.0) {
                return "- | -".to_string();
            }
            let (low, high) =
                (ratios.iter().copied().fold(f64::MAX, f64::min), ratios.iter().copied().fold(0.0, f64::max));
            format!("{:.2} | {low:.2} to {high:.2}", median(ratios))
        };
        let mib = |bytes: Vec<f64>| format!("{:.0} MiB", median(&bytes) / f64::from(1 << 20));
        println!(
            "| {dtype}, {loss}, {tokens} | {:.2} s | {:.2} s | {} | {} | {} | {} | {} | {} | {:.3} | {:.3} |",
            median(&of(|(p, _)| p.seconds)),
            median(&of(|(_, f)| f.seconds)),
            ratio(&of(|(p, f)| p.seconds / f.seconds)),
            ratio(&of(|(p, f)| p.work / f.work)),
            mib(of(|(p, _)| p.peak)),
            mib(of(|(_, f)| f.peak)),
            mib(of(|(p, _)| p.above)),
            mib(of(|(_, f)| f.above)),
            median(&of(|(p, f)| f.peak / p.peak)),
            median(&of(|(p, f)| f.above / p.above)),
        );
    }

    /// Chunk sizes beside each other, in turn, the least processor time of the rounds.
    fn sweep(&self) {
        let by = |tokens: i64, block: i64| Chunks { tokens, block };
        let whole = [32, 64, 128, 256, 512].map(|tokens| by(tokens, 2));
        let all = [&whole[..], &[1, 4, 10, 32, 256].map(|block| by(256, block))].concat();
        for tokens in &self.tokens {
            let mut best = vec![f64::MAX; all.len()];
            for _ in 0..self.rounds {
                for (best, chunks) in best.iter_mut().zip(&all) {
                    *best =
                        best.min(self.ask("fused", &self.losses[0], &self.dtypes[0], *tokens, *chunks).work);
                }
            }
            for (seconds, Chunks { tokens: chunk, block }) in best.iter().zip(&all) {
                println!("{tokens} tokens, chunk {chunk}, block {block}: {seconds:.3} s");
            }
        }
    }
}

/// The work of one side. What it is measured on is made without big temporaries.
struct Work {
    hidden_nd: Tensor,
    teacher_nd: Tensor,
    weight_vd: Tensor,
    teacher_vd: Tensor,
    targets_n: Tensor,
    advantage_n: Tensor,
    log_old_n: Tensor,
    omega_n: Tensor,
    minillm: bool,
}

fn child(job: &[&str]) {
    let number = |i: usize| job[i].parse::<i64>().unwrap();
    let (n, v, d) = (number(2), number(3), number(4));
    tch::set_num_threads(number(5) as i32);
    let kind = if job[8] == "bf16" { Kind::BFloat16 } else { Kind::Float };
    let work = Work {
        hidden_nd: waves(&[n, d], 0.37, 1.0).to_kind(kind),
        teacher_nd: waves(&[n, d], 0.73, 1.0).to_kind(kind),
        weight_vd: waves(&[v, d], 0.51, 0.1).to_kind(kind),
        teacher_vd: waves(&[v, d], 0.91, 0.1).to_kind(kind),
        targets_n: (Tensor::arange(n, (Kind::Int64, Device::Cpu)) * 7919).remainder(v),
        advantage_n: waves(&[n], 1.3, 1.0),
        log_old_n: waves(&[n], 1.7, 0.3) - 11.0,
        omega_n: waves(&[n], 2.3, 0.2) + 1.0,
        minillm: job[1] == "minillm",
    };
    let chunks = Chunks { tokens: number(6), block: number(7) };
    let inputs = status("VmRSS");
    let once = || if job[0] == "plain" { work.plain() } else { work.fused(chunks) };
    // The first pass fills the allocator's pools and reads libtorch's code from the disk.
    drop(once());
    let (start, before) = (Instant::now(), processor());
    let (loss, hidden, weight) = once();
    let (seconds, work) = (start.elapsed().as_secs_f64(), processor() - before);
    let peak = status("VmHWM");
    let norm = |t: &Tensor| t.to_kind(Kind::Float).norm().double_value(&[]);
    println!("{seconds} {work} {peak} {} {loss} {} {}", peak - inputs, norm(&hidden), norm(&weight));
}

impl Work {
    /// As it is written without a fused head: whole logits, autograd, the softmax in float32. The teacher's
    /// side carries no graph.
    fn plain(&self) -> (f64, Tensor, Tensor) {
        let hidden_nd = self.hidden_nd.detach().set_requires_grad(true);
        let weight_vd = self.weight_vd.detach().set_requires_grad(true);
        let lp_nv = {
            let _off = tch::no_grad_guard();
            self.teacher_nd.matmul(&self.teacher_vd.transpose(0, 1)).log_softmax(-1, Kind::Float)
        };
        let lq_nv = hidden_nd.matmul(&weight_vd.transpose(0, 1)).log_softmax(-1, Kind::Float);
        let lq_n = lq_nv.gather(-1, &self.targets_n.unsqueeze(-1), false).squeeze_dim(-1);
        let loss = if self.minillm {
            let kl_n = (lq_nv.exp() * (&lq_nv - &lp_nv)).sum_dim_intlist(-1i64, false, None::<Kind>);
            let rho_n = (&lq_n - &self.log_old_n).exp() * &self.omega_n;
            let pg_n = (-&self.advantage_n * &rho_n).maximum(&(-&self.advantage_n * rho_n.clamp(0.8, 1.2)));
            (pg_n + kl_n * &self.omega_n).sum(None::<Kind>)
        } else {
            let kl_n = (lp_nv.exp() * (&lp_nv - &lq_nv)).sum_dim_intlist(-1i64, false, None::<Kind>);
            (kl_n * 0.5 - lq_n * 0.5).sum(None::<Kind>)
        };
        loss.backward();
        (loss.double_value(&[]), hidden_nd.grad(), weight_vd.grad())
    }

    fn fused(&self, chunks: Chunks) -> (f64, Tensor, Tensor) {
        let head = |weight_vd| Head { weight_vd, bias_v: None, softcap: None };
        let input = Input {
            student: Side::Hidden { hidden_nd: &self.hidden_nd, head: head(&self.weight_vd) },
            teacher: Some(Side::Hidden { hidden_nd: &self.teacher_nd, head: head(&self.teacher_vd) }),
            targets_n: &self.targets_n,
            vocabulary: self.weight_vd.size()[0],
            barred: None,
            teacher_temperature: 1.0,
        };
        let terms = if self.minillm {
            let own = |t: &Tensor| t.shallow_clone();
            let surrogate = Surrogate {
                advantage_n: own(&self.advantage_n),
                log_old_n: own(&self.log_old_n),
                weight_n: own(&self.omega_n),
                clip: Some(0.2),
            };
            let kl = Term::new("reverse-kl", Loss::Divergence(Divergence::ReverseKl), 1.0);
            vec![
                Term::new("pg", Loss::Surrogate(surrogate), 1.0),
                Term { each_n: Some(own(&self.omega_n)), ..kl },
            ]
        } else {
            vec![
                Term::new("ce", Loss::CrossEntropy, 0.5),
                Term::new("forward-kl", Loss::Divergence(Divergence::ForwardKl), 0.5),
            ]
        };
        let mut grads = HeadGrads::zeros(&head(&self.weight_vd)).unwrap();
        let made = fused_in(&input, &terms, Want::Head(&mut grads), chunks).unwrap();
        (made.loss.double_value(&[]), made.grad.unwrap(), grads.weight_vd)
    }
}

/// Numbers that repeat nowhere, made in place.
fn waves(size: &[i64], step: f64, scale: f64) -> Tensor {
    let mut x = Tensor::arange(size.iter().product::<i64>(), (Kind::Float, Device::Cpu));
    let _ = x.remainder_(1_000_003.0);
    let _ = x.g_mul_scalar_(step);
    let _ = x.sin_();
    let _ = x.g_mul_scalar_(scale);
    x.view(size)
}

/// Processor time of this process so far, in seconds: user and system of /proc/self/stat, in hundredths.
fn processor() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind_name = text.rsplit(')').next().unwrap_or_default();
    let ticks = behind_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

/// A line of /proc/self/status, in bytes.
fn status(key: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with(key)).unwrap_or_default();
    let kib: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(f64::NAN);
    kib * 1024.0
}

fn median(x: &[f64]) -> f64 {
    let mut x = x.to_vec();
    x.sort_by(f64::total_cmp);
    let n = x.len();
    if n % 2 == 1 { x[n / 2] } else { (x[n / 2 - 1] + x[n / 2]) / 2.0 }
}

fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of =
        |key: &str| Some(text.lines().find(|l| l.starts_with(key))?.split_once(':')?.1.trim().to_string());
    let flags = of("flags").unwrap_or_default();
    let best = ["avx512_bf16", "avx512f", "avx2"].into_iter().find(|f| flags.split(' ').any(|g| g == *f));
    let (family, model) = (of("cpu family").unwrap_or_default(), of("model\t").unwrap_or_default());
    let name = of("model name").unwrap_or_else(|| std::env::consts::ARCH.to_string());
    format!("{name} (family {family}, model {model}; {})", best.unwrap_or("no AVX2"))
}

fn commit() -> String {
    let changed = said("git", &["status", "--porcelain", "--", "."]);
    let commit = said("git", &["rev-parse", "--short=10", "HEAD"]);
    if changed.is_empty() { commit } else { format!("{commit} with changes") }
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string()).unwrap_or_default()
}
