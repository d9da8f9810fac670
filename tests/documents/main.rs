//! The documents say what is so: every command of README.md and docs/ is run, every link leads somewhere, and
//! the reference of the config is what the code says of itself.

#![expect(clippy::disallowed_methods, reason = "tests make their own files")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its case fails")]
#![expect(clippy::panic, reason = "a test says so by panicking")]

mod page;
mod reference;
mod run;
mod workplace;

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// README.md and every page below docs/, by its name from the root.
fn pages() -> Vec<String> {
    let mut found = vec!["README.md".to_string()];
    let mut waiting = vec![root().join("docs")];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_string());
            }
        }
    }
    found.sort();
    found
}

fn text_of(page: &str) -> String {
    std::fs::read_to_string(root().join(page)).unwrap()
}

#[test]
fn links_lead_somewhere() {
    let mut checked = 0;
    for page in pages() {
        let text = text_of(&page);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let from = root().join(&page);
            let path = from.parent().unwrap_or(Path::new("")).join(target);
            assert!(path.exists(), "{page} links to {link}, which is not there");
            checked += 1;
        }
    }
    assert!(checked >= 10, "only {checked} links");
}
