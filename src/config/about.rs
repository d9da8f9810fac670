//! What each setting does, in one line each: the lines of `keys.toml`.

use std::path::Path;
use std::sync::LazyLock;

use super::raw::{Document, Raw, Table};

/// Setting -> its line, in the order of the file.
static LINES: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
    let mut lines = Vec::new();
    // A test reads every line of it, so that it is there and whole.
    if let Ok(document) = Document::parse(include_str!("keys.toml"), Path::new("keys.toml")) {
        gather(&document.table, "", &mut lines);
    }
    lines
});

fn gather(table: &Table, above: &str, lines: &mut Vec<(String, String)>) {
    for (key, node) in table {
        let key = format!("{above}{key}");
        match &node.raw {
            Raw::Text(line) => lines.push((key, line.clone())),
            Raw::Table(inner) => gather(inner, &format!("{key}."), lines),
            _ => {}
        }
    }
}

/// What a setting does, in one line of Markdown.
///
/// ```
/// use retort::config::about;
/// assert_eq!(about("train.lr"), Some("The highest learning rate."));
/// // Tables that share [kd]'s loss share its lines.
/// assert_eq!(about("gkd.ratio"), about("kd.ratio"));
/// assert_eq!(about("train.momentum"), None);
/// ```
pub fn about(key: &str) -> Option<&'static str> {
    let own = |key: &str| LINES.iter().find(|(name, _)| name == key).map(|(_, line)| line.as_str());
    let shared = || {
        let key = key.strip_prefix("gkd.").or_else(|| key.strip_prefix("distillm."))?;
        own(&format!("kd.{key}"))
    };
    own(key).or_else(shared)
}

/// Every setting that has a line of its own.
pub fn described() -> impl Iterator<Item = &'static str> {
    LINES.iter().map(|(key, _)| key.as_str())
}
