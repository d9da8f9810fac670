//! How large a batch may be before more of it is wasted: short branches from one state, each with another batch and as
//! many rows, beside the gradient noise scale that the run up to there has measured.
//!
//!     cargo run --release --example critical_batch -- runs/critical-batch
//!
//! The quickstart's small student learns 200 updates of 16 rows; then each branch learns the same 2,048 rows, its
//! learning rate by the square-root rule. Prints a table and writes it to `critical.md`. The critical batch is the
//! largest one whose held-out loss is within 0.02 nats of the smallest one's. A branch begins with a fresh
//! optimizer, all alike. `-- DIR UPDATES ROWS` takes other numbers.

use std::path::Path;

use retort::config::RunConfig;
use retort::error::{Error, Result};
use retort::quickstart::{self, grammar, rows};
use retort::report::run::load;
use retort::store::Folder;
use retort::train::{self, Finished, Options, Silent};
use retort::weights::Dtype;
use tch::{Device, Kind};

/// Rows of an update before the branches, which the learning rate is of.
const REFERENCE: usize = 16;
const LR: f64 = 5e-4;
const BATCHES: [usize; 7] = [4, 8, 16, 32, 64, 128, 256];
/// How much worse than the smallest batch's a loss may be, in nats a token.
const MARGIN: f64 = 0.02;

/// One branch: its batch, its updates, its learning rate, its held-out loss.
struct Branch(usize, usize, f64, f64);

fn main() -> Result<()> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |n: usize, default: usize| match given.get(n) {
            None => Ok(default),
            Some(text) => text.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
                Error::user("not a number from 1 on").found(text).expected("DIR UPDATES ROWS")
            }),
        };
    let (steps, learnt) = (number(1, 200)?, number(2, 2048)?);
    let folder = Folder::create(given.first().map_or("runs/critical-batch", String::as_str))?;
    quickstart::write_models(&folder)?;
    let grammar = grammar::Grammar::built_in()?;
    for (name, count, split) in
        [("train.jsonl", 6000, grammar::Split::Train), ("valid.jsonl", 256, grammar::Split::Valid)]
    {
        let one = (split, rows::Replies::One { mistaken: 0.0 });
        rows::write(&grammar, &folder.path(name)?, count, one, rows::Draw { seed: 1, file: 0 })?;
    }
    let base = folder.root().join("models/base").display().to_string();
    let begun = run(&folder, "start", &base, (steps, REFERENCE), 1)?;
    let metrics = load(&[&begun.run])?.remove(0).metrics;
    let scale = metrics.curve("noise_scale.sequences").and_then(|c| c.points().last().map(|p| p.y));
    let state = begun.run.join("final").display().to_string();
    let mut branches = Vec::new();
    for batch in BATCHES.into_iter().filter(|batch| *batch <= learnt) {
        let (updates, name) = (learnt / batch, format!("batch-{batch}"));
        let done = run(&folder, &name, &state, (updates, batch), 0)?;
        let loss = done
            .best
            .map(|found| found.value)
            .ok_or_else(|| Error::bug("a branch that was not evaluated"))?;
        branches.push(Branch(batch, updates, LR * (batch as f64 / REFERENCE as f64).sqrt(), loss));
    }
    let text = table(&branches, scale);
    println!("{text}");
    folder.write_bytes("critical.md", text.as_bytes())
}

/// A run of so many updates of so many rows from a state.
fn run(
    folder: &Folder,
    name: &str,
    from: &str,
    (steps, batch): (usize, usize),
    noise: usize,
) -> Result<Finished> {
    let file = |name: &str| folder.root().join(name).display().to_string();
    let text = format!(
        "policy = 'sft'\nstudent.model = '{from}'\ndata.train = ['{}']\ndata.valid = ['{}']\neval.prompts = 0\n\
         [train]\nsteps = {steps}\nbatch = {batch}\nlr = {LR}\nschedule = 'constant'\nbest = 'valid-loss'\n\
         eval_every = {steps}\nsave_every = 0\nmeasure_noise = {noise}\n\
         [train.regime]\nkind = 'hoffer'\nreference_batch = {REFERENCE}\n",
        file("train.jsonl"),
        file("valid.jsonl"),
    );
    let config = RunConfig::parse(&text, Path::new("critical.toml"), &[])?;
    let options = Options { device: Device::Cpu, kind: Kind::Float, write: Dtype::F32, resume: true };
    train::run(config, &folder.path(name)?, &options, &mut Silent)
}

fn table(branches: &[Branch], scale: Option<f64>) -> String {
    let mut out =
        String::from("| batch | updates | learning rate | held-out loss |\n|---:|---:|---:|---:|\n");
    for Branch(batch, updates, lr, loss) in branches {
        out += &format!("| {batch} | {updates} | {lr:.2e} | {loss:.4} |\n");
    }
    let least = branches.first().map_or(f64::NAN, |branch| branch.3);
    let good = branches.iter().filter(|branch| branch.3 <= least + MARGIN).map(|branch| branch.0).max();
    let scale = match scale.filter(|x| x.is_finite()) {
        Some(scale) => format!("{scale:.0} rows"),
        None => "not yet known".into(),
    };
    let good = good.map_or("none".into(), |batch| format!("{batch} rows"));
    out + &format!(
        "\nCritical batch by branching: {good}. Gradient noise scale before the branches: {scale}.\n"
    )
}
