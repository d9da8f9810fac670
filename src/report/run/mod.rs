//! What a run directory tells: its config, metrics.jsonl with every curve kept short, the last replies of
//! samples.jsonl. Nothing is written and no lock is taken, so a run at work can be read.

mod distances;
mod lines;
mod metrics;
mod samples;
mod settings;

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
pub use distances::Distances;
pub use metrics::{Curve, Evaluation, Metrics, Stages};
pub use samples::{Reply, Samples, Teacher};
pub use settings::Told;

/// A run, as far as it has come.
#[derive(Debug)]
pub struct Run {
    /// What it is called beside the others: the end of its path.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its config, where it stands.
    pub config: Option<Told>,
    /// Its numbers.
    pub metrics: Metrics,
    /// Its last replies.
    pub samples: Samples,
}

/// Reads runs, each under a name of its own.
pub fn load<P: AsRef<Path>>(paths: &[P]) -> Result<Vec<Run>> {
    let paths: Vec<&Path> = paths.iter().map(AsRef::as_ref).collect();
    paths.iter().zip(names(&paths)).map(|(path, name)| open(path, name)).collect()
}

fn open(path: &Path, name: String) -> Result<Run> {
    let file = |name: &str| path.join(name);
    if !path.is_dir() {
        let e = if path.exists() { Error::user("not a run directory") } else { Error::user("no such run") };
        return Err(e.file(path).expected("the folder that distill wrote (--out)"));
    }
    if !["config.toml", "metrics.jsonl"].iter().any(|name| file(name).exists()) {
        return Err(Error::user("not a run directory")
            .file(path)
            .expected("config.toml or metrics.jsonl in it")
            .advice("a run directory is what distill wrote with --out"));
    }
    let config = Told::read(&file("config.toml"))?;
    let metrics = Metrics::read(&file("metrics.jsonl"), config.as_ref().and_then(|c| c.best))?;
    let samples = Samples::read(&file("samples.jsonl"))?;
    Ok(Run { name, path: path.to_path_buf(), config, metrics, samples })
}

/// The ends of paths, as long as it takes to tell them apart; the same path twice gets a number.
fn names(paths: &[&Path]) -> Vec<String> {
    let whole = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let parts: Vec<Vec<String>> = paths
        .iter()
        .map(|path| whole(path).iter().map(|part| part.to_string_lossy().into_owned()).collect())
        .collect();
    let end = |parts: &[String], n: usize| parts[parts.len().saturating_sub(n)..].join("/");
    let longest = parts.iter().map(Vec::len).max().unwrap_or(0);
    let mut names: Vec<String> = Vec::new();
    for (at, own) in parts.iter().enumerate() {
        let alone = |n: &usize| {
            let others = parts.iter().enumerate().filter(|(other, parts)| *other != at && *parts != own);
            others.into_iter().all(|(_, parts)| end(parts, *n) != end(own, *n))
        };
        let name = end(own, (1..=longest).find(alone).unwrap_or(longest));
        let again = parts[..at].iter().filter(|parts| *parts == own).count();
        names.push(if again == 0 { name } else { format!("{name} ({})", again + 1) });
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_short_as_they_can_be() {
        let of = |paths: &[&str]| names(&paths.iter().map(Path::new).collect::<Vec<_>>());
        assert_eq!(of(&["/no/runs/sft", "/no/runs/kd/"]), ["sft", "kd"]);
        assert_eq!(of(&["/no/a/sft", "/no/b/sft", "/no/b/kd"]), ["a/sft", "b/sft", "kd"]);
        assert_eq!(of(&["/no/a", "/no/a"]), ["a", "a (2)"]);
    }
}
