//! From a config table to a policy's settings. A table is laid over the defaults (or a preset) key by
//! key, so that what is set wins; what no setting is called is an error that names those there are.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A policy's table: setting -> value.
pub type Table = Map<String, Value>;

/// A number, or `"none"`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a number or \"none\"")]
pub enum Switch {
    /// On, at this value.
    At(f64),
    /// Off.
    Off(Nothing),
}

/// The word `"none"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Nothing {
    /// Itself.
    #[serde(rename = "none")]
    None,
}

impl Switch {
    /// Switched off.
    pub const NONE: Switch = Switch::Off(Nothing::None);

    /// The value, where it is on.
    pub fn get(self) -> Option<f64> {
        match self {
            Switch::At(x) => Some(x),
            Switch::Off(_) => None,
        }
    }
}

/// `table` laid over `base`.
pub fn over<S: Serialize + DeserializeOwned>(base: &S, table: &Table) -> Result<S> {
    let Value::Object(base) = written(base) else {
        return Err(Error::handed("settings", "a table", "something else"));
    };
    if let Some(key) = table.keys().find(|key| !base.contains_key(key.as_str())) {
        let known: Vec<&str> = base.keys().map(String::as_str).collect();
        let known =
            if known.is_empty() { "no settings".into() } else { format!("one of {}", known.join(", ")) };
        return Err(Error::setting(key, &known, "an unknown setting"));
    }
    let with = |keys: &mut dyn Iterator<Item = (&String, &Value)>| {
        let mut all = base.clone();
        keys.for_each(|(k, v)| drop(all.insert(k.clone(), v.clone())));
        serde_json::from_value::<S>(Value::Object(all))
    };
    with(&mut table.iter()).map_err(|e| {
        // Which key it was, serde does not say: the one that fails alone.
        let alone = table.iter().find(|(k, v)| with(&mut std::iter::once((*k, *v))).is_err());
        let (key, found) = alone.map_or(("table", "?".into()), |(k, v)| (k.as_str(), v.to_string()));
        Error::setting(key, &wanted(&e.to_string()), found)
    })
}

/// What serde would have liked, in a user's words.
fn wanted(said: &str) -> String {
    match said.rsplit_once("expected ").map_or(said, |(_, wanted)| wanted) {
        "f64" => "a number".into(),
        "usize" => "a whole number".into(),
        "a boolean" => "true or false".into(),
        other => other.into(),
    }
}

/// Settings as a table. A number that JSON cannot hold becomes null, which no setting is.
pub(crate) fn written<S: Serialize>(settings: &S) -> Value {
    serde_json::to_value(settings).unwrap_or(Value::Null)
}

/// An error unless `holds`.
pub(crate) fn demand(holds: bool, key: &str, expected: &str, found: impl std::fmt::Display) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::setting(key, expected, found)) }
}
