//! config.toml of a run: what it is, every setting, and which of them are not at their defaults.

use std::path::Path;

use serde_json::Value;

use crate::config::{Best, Length, Origin, RunConfig};
use crate::error::Result;

/// What a run's config tells.
#[derive(Debug)]
pub struct Told {
    /// The policy's name.
    pub policy: String,
    /// The student: where its weights come from.
    pub student: String,
    /// The teacher's folder.
    pub teacher: Option<String>,
    /// Updates in all, where the config says so.
    pub steps: Option<u64>,
    /// Times through the data, where the config says so.
    pub epochs: Option<f64>,
    /// What the best evaluation is best at.
    pub best: Option<Best>,
    /// Every setting and every fact of the run, by its full name, as TOML.
    pub settings: Vec<(String, String)>,
    /// The names of those that are not what they would be if nobody had set them; None where that cannot be told.
    pub set: Option<Vec<String>>,
}

impl Told {
    /// Reads it, where it is there.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let config = RunConfig::load(path, &[])?;
        let s = &config.settings;
        let listed = config.listed()?;
        let mut settings: Vec<(String, String)> =
            listed.iter().map(|l| (l.key.clone(), l.text.clone())).collect();
        let set = defaults(&settings).map(|defaults| {
            let own = settings.iter().filter(|line| !defaults.contains(line));
            own.map(|(key, _)| key.clone()).collect()
        });
        settings.extend(config.facts().into_iter().map(|(key, value)| (format!("run.{key}"), value)));
        let (steps, epochs) = match (config.updates(), s.train.length) {
            (Some(n), _) | (None, Length::Steps(n)) => (Some(n), None),
            (None, Length::Epochs(n)) => (None, Some(n)),
        };
        Ok(Some(Told {
            policy: config.entry.name.to_string(),
            student: match &s.student.model {
                Origin::Folder(name) => name.clone(),
                Origin::Config(file) => format!("random weights in the shape of {}", file.display()),
            },
            teacher: s.teacher.clone(),
            steps,
            epochs,
            best: Some(s.train.best),
            settings,
            set,
        }))
    }

    /// A setting as TOML.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.settings.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// The settings of a config that says no more than it must to be of this policy, with this preset.
fn defaults(settings: &[(String, String)]) -> Option<Vec<(String, String)>> {
    let must = |key: &str| {
        let named = [
            "policy",
            "student.model",
            "teacher.model",
            "data.train",
            "data.corpus",
            "train.steps",
            "train.epochs",
        ];
        named.contains(&key) || key.ends_with(".preset")
    };
    let lines = settings.iter().filter(|(key, value)| must(key) && value != "[]");
    let text: String = lines.map(|(key, value)| format!("{key} = {value}\n")).collect();
    let config = RunConfig::parse(&text, Path::new("defaults"), &[]).ok()?;
    let listed = config.listed().ok()?;
    // What every run must say is as much its own as what it chose to say.
    let theirs = listed.into_iter().filter(|l| !must(&l.key) || l.value == Value::Array(Vec::new()));
    Some(theirs.map(|l| (l.key, l.text)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_somebody_set_are_told_from_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        assert!(Told::read(&path).unwrap().is_none());
        for (policy, more) in [("sft", ""), ("minillm", "teacher.model = \"t\"\nminillm.alpha = 0.5\n")] {
            let text = format!(
                "policy = {policy:?}\nstudent.model = \"s\"\ndata.train = [\"rows.jsonl\"]\n{more}\
                 [train]\nsteps = 5\nlr = 0.25\nbatch = 64\n"
            );
            let as_run = RunConfig::parse(&text, Path::new("run.toml"), &[]).unwrap();
            let device = [("device", "Cpu".to_string())];
            std::fs::write(&path, as_run.as_run(&device).unwrap()).unwrap();
            let told = Told::read(&path).unwrap().unwrap();
            assert_eq!(
                (told.policy.as_str(), told.steps, told.get("run.device")),
                (policy, Some(5), Some("Cpu"))
            );
            assert_eq!(told.get("train.eps"), Some("1e-8"), "defaults are written out");
            let set = told.set.unwrap();
            for key in ["policy", "student.model", "data.train", "train.steps", "train.lr"] {
                assert!(set.iter().any(|k| k == key), "{policy}: {key} of {set:?}");
            }
            assert_eq!(set.iter().any(|k| k == "minillm.alpha"), policy == "minillm");
            assert!(
                !set.iter().any(|k| k == "train.batch" || k == "train.eps" || k == "data.valid"),
                "{set:?}"
            );
        }
    }
}
