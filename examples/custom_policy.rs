//! A policy of your own: the symmetric (Jeffreys) KL on the data's responses, trained on the quickstart's models.
//!
//!     cargo run --release --example custom_policy -- runs/custom
//!
//! The config names a policy that stands in for it (its table is not read) and says all the rest.

use std::path::Path;

use retort::config::RunConfig;
use retort::error::Result;
use retort::quickstart::{self, grammar, rows};
use retort::store::Folder;
use retort::train::{self, Options, Silent};
use retort::weights::Dtype;
use retort_policies::objective::divergence::Divergence;
use retort_policies::objective::term::{Loss, Term};
use retort_policies::{self as policies, Moment, Plan, Policy, Scored, Source, View};
use tch::{Device, Kind};

/// `L = 1/N sum 1/2 [KL(p || q) + KL(q || p)]`
#[derive(Debug)]
struct Jeffreys;

impl Policy for Jeffreys {
    fn name(&self) -> &'static str {
        "jeffreys"
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::json!({})
    }

    fn plan(&self) -> Plan {
        Plan { teacher: true, ..Plan::default() }
    }

    fn source(&self, _moment: Moment) -> Source {
        Source::Gold
    }

    fn score(&self, view: View<'_>) -> policies::Result<Scored> {
        let half = |name, divergence| Term::new(name, Loss::Divergence(divergence), 0.5);
        view.fused(
            &[half("forward-kl", Divergence::ForwardKl), half("reverse-kl", Divergence::ReverseKl)],
            1.0,
        )
    }
}

fn main() -> Result<()> {
    let out = std::env::args().nth(1).unwrap_or_else(|| "runs/custom".into());
    let folder = Folder::create(&out)?;
    quickstart::write_models(&folder)?;
    let (grammar, file) = (grammar::Grammar::built_in()?, folder.path("train.jsonl")?);
    let learnt = (grammar::Split::Train, rows::Replies::One { mistaken: 0.0 });
    rows::write(&grammar, &file, 400, learnt, rows::Draw { seed: 1, file: 0 })?;
    let text = format!(
        "policy = 'kd'\nstudent.model = '{out}/models/base'\nteacher.model = '{out}/models/teacher'\n\
         data.train = ['{}']\ntrain.steps = 20\ntrain.batch = 32\ntrain.lr = 1e-3\ntrain.eval_every = 0\n",
        file.display()
    );
    let config = RunConfig::parse(&text, Path::new("custom.toml"), &[])?;
    let options = Options { device: Device::Cpu, kind: Kind::Float, write: Dtype::F32, resume: true };
    let done = train::run_policy(config, Box::new(Jeffreys), &folder.path("run")?, &options, &mut Silent)?;
    println!("{} updates; the student is in {}", done.steps, done.run.join("final").display());
    Ok(())
}
