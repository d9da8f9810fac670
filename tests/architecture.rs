//! The house's rules, held: rooms import downwards only, files and functions stay short, and the
//! README's tables name tests that exist.

#![expect(clippy::unwrap_used, reason = "a test says so by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The rooms in order: each uses only those before it.
const ROOMS: [&str; 21] = [
    "error",
    "seed",
    "signal",
    "store",
    "native",
    "config",
    "weights",
    "text",
    "data",
    "dist",
    "optim",
    "model",
    "decode",
    "prune",
    "rollout",
    "checkpoint",
    "eval",
    "report",
    "train",
    "quickstart",
    "law",
];

/// The program's own room, above all.
const TOP: &str = "cli";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below a folder with this ending.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_path_buf()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<PathBuf> {
    let folders =
        ["src", "policies/src", "policies/tests", "policies/benches", "tests", "benches", "examples"];
    let mut all: Vec<PathBuf> = folders
        .iter()
        .map(|f| root().join(f))
        .filter(|f| f.exists())
        .flat_map(|f| files(&f, ".rs"))
        .collect();
    all.push(root().join("build.rs"));
    all
}

/// The room a source file belongs to: `src/weights/gguf/file.rs` is in `weights`.
fn room_of(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_string()
}

/// The rooms that a text names with `crate::room`.
fn named_rooms(text: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for line in text.lines() {
        let code = line.split("//").next().unwrap_or_default();
        for (at, _) in code.match_indices("crate::") {
            let name: String =
                code[at + 7..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            rooms.insert(name);
        }
    }
    rooms
}

#[test]
fn rooms_use_only_rooms_before_them() {
    let order =
        |room: &str| if room == TOP { Some(ROOMS.len()) } else { ROOMS.iter().position(|r| *r == room) };
    for path in files(&root().join("src"), ".rs") {
        let room = room_of(&path);
        if ["lib", "main"].contains(&room.as_str()) {
            continue;
        }
        let own = order(&room).unwrap_or_else(|| panic!("{} is in no known room", path.display()));
        for used in named_rooms(&std::fs::read_to_string(&path).unwrap()) {
            let Some(other) = order(&used) else { panic!("{} names crate::{used}, no room", path.display()) };
            assert!(other <= own, "{} is in {room} and uses {used}, which comes later", path.display());
        }
    }
}

#[test]
fn lib_lists_the_rooms_in_their_order() {
    let text = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let listed: Vec<&str> =
        text.lines().filter_map(|l| l.strip_prefix("pub mod ")).map(|l| l.trim_end_matches(';')).collect();
    let mut rooms: Vec<&str> = ROOMS.to_vec();
    rooms.push(TOP);
    assert_eq!(listed, rooms);
}

#[test]
fn policies_know_no_engine() {
    for path in files(&root().join("policies"), ".rs") {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("retort::"), "{}", path.display());
    }
    assert!(!std::fs::read_to_string(root().join("policies/Cargo.toml")).unwrap().contains("path ="));
}

#[test]
fn files_stay_under_400_lines() {
    for path in sources() {
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines < 400, "{} has {lines} lines", path.display());
    }
}

/// Functions are told by their indentation, which rustfmt keeps. A test's table of cases may be long.
#[test]
fn functions_stay_under_60_lines() {
    for path in sources().iter().filter(|p| !p.components().any(|c| c.as_os_str() == "tests")) {
        let text = std::fs::read_to_string(path).unwrap();
        let mut open: Option<(usize, usize, String)> = None;
        for (n, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let code = line.trim_start();
            let begins = code.starts_with("fn ") || code.contains(" fn ") && code.starts_with("pub");
            match &open {
                None if begins && !code.ends_with(';') && !code.ends_with('}') => {
                    open = Some((n, indent, code.to_string()));
                }
                Some((start, at, name)) if indent == *at && code == "}" => {
                    assert!(
                        n - start < 60,
                        "{}:{}: {name} has {} lines",
                        path.display(),
                        start + 1,
                        n - start + 1
                    );
                    open = None;
                }
                // A declaration over several lines ends here, and has no body.
                Some((_, at, _)) if indent == *at && code.ends_with(';') && code.starts_with([')', '-']) => {
                    open = None;
                }
                _ => {}
            }
        }
    }
}

#[test]
fn every_source_file_says_what_it_is() {
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{} does not begin with //!", path.display());
    }
}

/// `file::name` in the README's table stands for a test: file is a program of `tests/`
/// or `lib`, name is a function, behind its module where the file is made of cases.
#[test]
fn tables_name_tests_that_exist() {
    let all: String = sources().iter().map(|p| std::fs::read_to_string(p).unwrap()).collect();
    let mut checked = 0;
    let page = "README.md";
    let text = std::fs::read_to_string(root().join(page)).unwrap();
    for quoted in text.lines().filter(|l| l.starts_with('|')).flat_map(|l| l.split('`').skip(1).step_by(2)) {
        let parts: Vec<&str> = quoted.split("::").collect();
        let [program, rest @ ..] = parts.as_slice() else { continue };
        let exists = ["lib", "policies"].contains(program)
            || root().join(format!("tests/{program}.rs")).exists()
            || root().join(format!("tests/{program}/main.rs")).exists();
        if rest.is_empty() || !exists {
            continue;
        }
        for name in rest {
            let known = [
                format!("fn {name}("),
                format!("mod {name} "),
                format!("mod {name};"),
                format!("{name}: \""),
            ];
            assert!(
                known.iter().any(|k| all.contains(k.as_str())),
                "{page} names the test {quoted}, and there is no {name}"
            );
        }
        checked += 1;
    }
    assert!(checked > 20, "only {checked} tests are named");
}

#[test]
fn fixtures_stay_small() {
    let mut total = 0;
    for path in files(&root().join("tests/fixtures"), "") {
        let size = std::fs::metadata(&path).unwrap().len();
        assert!(size < 1 << 20, "{} has {size} bytes", path.display());
        total += size;
    }
    assert!(total < 10 << 20, "the fixtures have {total} bytes");
}
