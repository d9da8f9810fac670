//! From a real teacher to a small chat model, in four stages: a student is cut out of its teacher (`retort prune`),
//! gets its language back on text (minima), learns instructions (sft), and learns from its own replies (minillm).
//!
//!     make hello                          # the teacher: SmolLM2-135M-Instruct, imported
//!     scripts/minichat-data               # text and instruction rows
//!     cargo run --release --example minichat
//!     retort chat --model runs/minichat/minillm/final
//!
//! Each stage is a command of the program, printed before it runs, and leaves a normal folder below `runs/minichat`.
//! Stopped, the example goes on where it was. For another teacher change `teacher.model` in minima.toml and minillm.toml
//! of `configs/minichat`, and name it here: `--example minichat -- TEACHER`. Behind it another cut can stand, as
//! `--layers 15 --ffn 1024`; what comes then goes to every `distill`, as `--dtype f32` or `--set train.batch=4`.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// Where the stages are.
const RUNS: &str = "runs/minichat";
const TEACHER: &str = ".assets/smollm2/SmolLM2-135M-Instruct";
const TEXT: &str = "data/minichat/text.txt";
/// Neurons that each feed-forward net keeps, of 1,536: 100M parameters of 135M. Of the cuts of this size that were
/// tried, neurons alone, chosen by activations, hurt least by far (docs/results.md).
const NEURONS: &str = "864";
/// What the choice is made on: sequences of 512 tokens. More make it steadier and take longer.
const SAMPLES: &str = "12";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let teacher = arguments.next_if(|word| !word.starts_with('-')).unwrap_or_else(|| TEACHER.into());
    let mut cut: Vec<String> = Vec::new();
    while let Some(flag) = arguments.next_if(|word| word == "--ffn" || word == "--layers") {
        cut.push(flag);
        cut.extend(arguments.next());
    }
    if cut.is_empty() {
        cut.extend(["--ffn", NEURONS].map(String::from));
    }
    let more: Vec<String> = arguments.collect();
    let student = format!("{RUNS}/student");
    let mut stages: Vec<Vec<String>> = Vec::new();
    if !Path::new(&student).join("config.json").exists() {
        let mut words = vec!["prune", "--model", &teacher, "--input", TEXT, "--importance", "activation"];
        words.extend(cut.iter().map(String::as_str));
        words.extend(["--samples", SAMPLES, "--out", &student]);
        stages.push(words.into_iter().map(String::from).collect());
    }
    for stage in ["minima", "sft", "minillm"] {
        let (config, out) = (format!("configs/minichat/{stage}.toml"), format!("{RUNS}/{stage}"));
        let words = ["distill", &config, "--out", &out, "--resume"].map(String::from);
        stages.push(words.into_iter().chain(more.iter().cloned()).collect());
    }
    for words in stages {
        println!("retort {}", words.join(" "));
        let program = std::iter::once("retort".to_string());
        let done = retort::cli::main(program.chain(words).map(OsString::from));
        if done != ExitCode::SUCCESS {
            return done;
        }
    }
    println!("retort chat --model {RUNS}/minillm/final");
    ExitCode::SUCCESS
}
