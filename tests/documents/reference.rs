//! docs/reference/config.md is what the code says of its settings: which there are, what each takes, its default,
//! and the line that `src/config/keys.toml` has for it.
//!
//! What a setting takes is asked for by setting it to what it cannot be, and reading what the error expects.

use std::collections::BTreeSet;
use std::fmt::Write;

use retort::config::{RunConfig, SetBy, about, described};
use retort::text::TemplateChoice;
use retort_policies::{Entry, Error, POLICIES, Table};

use crate::{root, text_of};

const PAGE: &str = "docs/reference/config.md";

/// Tables that every policy reads.
const COMMON: [&str; 9] =
    ["student", "student.lora", "teacher", "data", "train", "train.regime", "sampling", "eval", "dist"];

/// Defaults that no config can list: what must be given, and what is not there unless it is.
const BARE: [(&str, &str); 8] = [
    ("policy", "must be given"),
    ("student.model", "must be given"),
    ("teacher.model", "none; must be given where the policy asks a teacher"),
    ("teacher.cache_dir", "`cache/` in the run directory"),
    ("train.steps", "this or `epochs` must be given"),
    ("train.epochs", "this or `steps` must be given"),
    ("train.regime.kind", "must be given"),
    ("train.regime.reference_batch", "must be given"),
];

/// A config of this policy that says as little as it can; everything that depends on a table's presence is there.
fn least(policy: &str, length: &str, more: &[&str]) -> Result<RunConfig, String> {
    let rows = if policy == "minima" { "corpus" } else { "train" };
    let text = format!(
        "policy = \"{policy}\"\n[student]\nmodel = \"m\"\n[student.lora]\n[teacher]\nmodel = \"t\"\n\
         cache_dir = \"c\"\n[data]\n{rows} = \"r\"\n[train]\n{length} = 1\n\
         [train.regime]\nkind = \"sde\"\nreference_batch = 64\n"
    );
    let set: Vec<String> = more.iter().map(|s| s.to_string()).collect();
    RunConfig::parse(&text, "x.toml".as_ref(), &set).map_err(|e| e.to_string())
}

/// Settings and their defaults; none where it has none.
type Defaults = Vec<(String, Option<String>)>;

/// Every setting of a policy's config, in their order.
fn listed(policy: &str, more: &[&str]) -> Defaults {
    let mut all = Vec::new();
    for length in ["steps", "epochs"] {
        for setting in least(policy, length, more).unwrap().listed().unwrap() {
            let default = (setting.from == SetBy::Nobody).then_some(setting.text);
            if !all.iter().any(|(key, _)| *key == setting.key) {
                all.push((setting.key, default));
            }
        }
    }
    all
}

/// The table of a key, and its name in it.
fn apart(key: &str) -> (&str, &str) {
    key.rsplit_once('.').unwrap_or(("", key))
}

/// What the error expects where a setting has this value; none where it takes it.
fn refused(policy: &str, key: &str, value: &str) -> Option<String> {
    let lr = if key == "train.lr" { "seed=1" } else { "train.lr=1e9" };
    let error = least(policy, "steps", &[lr, &format!("{key}={value}")]).err()?;
    let rest = error.lines().next()?.split_once(&format!("{key}: expected "))?.1;
    Some(rest.rsplit_once(", found ").map_or(rest, |(expected, _)| expected).to_string())
}

/// What a setting takes, in the words of its errors.
fn takes(policy: &str, key: &str) -> String {
    if key == "data.template" {
        let error = "??".parse::<TemplateChoice>().unwrap_err().to_string();
        return error.split("expected ").last().unwrap().split(", found").next().unwrap().to_string();
    }
    if key == "train.epochs" {
        return "a number above 0".into();
    }
    let mut said: Vec<String> = Vec::new();
    for value in ["\"?\"", "-1", "0", "1", "100000"] {
        let Some(expected) = refused(policy, key, value) else { continue };
        if !said.contains(&expected) {
            said.push(expected);
        }
        // What is no number has said all that it takes.
        if !said[0].contains("number") || said[0].contains("folder") {
            break;
        }
    }
    assert!(!said.is_empty(), "{key} takes everything");
    // "a number; a number over 0" says one thing twice.
    if said.iter().skip(1).any(|more| more.starts_with(said[0].as_str())) {
        said.remove(0);
    }
    said.join("; ").replace("one of `", "`")
}

/// The rows of a table whose settings these policies read; a default that differs between them names them.
fn table(page: &mut String, name: &str, policies: &[&str]) {
    let _ = writeln!(page, "| setting | what it does | takes | default |\n|---|---|---|---|");
    let all: Vec<(&str, Defaults)> = policies.iter().map(|p| (*p, listed(p, &[]))).collect();
    let mut keys: Vec<&str> = described().filter(|key| apart(key).0 == name).collect();
    for (key, _) in &all[0].1 {
        if apart(key).0 == name && !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    for key in keys {
        let of = |settings: &[(String, Option<String>)]| {
            settings.iter().find(|(k, _)| k == key).and_then(|(_, default)| default.clone())
        };
        let found: Vec<(&str, String)> =
            all.iter().filter_map(|(policy, settings)| Some((*policy, of(settings)?))).collect();
        let taken = takes(policies[0], key);
        row(page, key, &taken, &[default(key, &found)]);
    }
}

/// A default, and the policies that have another.
fn default(key: &str, found: &[(&str, String)]) -> String {
    let bare = BARE.iter().find(|(name, _)| *name == key);
    let Some((_, first)) = found.first() else {
        return bare.unwrap_or_else(|| panic!("{key} has no default")).1.to_string();
    };
    assert!(bare.is_none(), "{key} has a default, {first}");
    let mut text = format!("`{first}`");
    for (policy, other) in found.iter().filter(|(_, other)| other != first) {
        let _ = write!(text, "; {policy} `{other}`");
    }
    text
}

fn row(page: &mut String, key: &str, takes: &str, defaults: &[String]) {
    let line = about(key).unwrap_or_else(|| panic!("src/config/keys.toml has no line for {key}"));
    let cells = format!("`{}` | {line} | {takes}", apart(key).1).replace("||", "\\|\\|");
    let _ = writeln!(page, "| {cells} | {} |", defaults.join(" | "));
}

/// `[minillm]`: the three presets side by side.
fn presets(page: &mut String) {
    let names = ["paper", "lmops", "exact"];
    let of = |name: &str| listed("minillm", &[&format!("minillm.preset={name}")]);
    let all = names.map(of);
    let _ = writeln!(
        page,
        "| setting | what it does | takes | `paper` | `lmops` | `exact` |\n|---|---|---|---|---|---|"
    );
    for (key, _) in all[0].iter().filter(|(key, _)| apart(key).0 == "minillm") {
        let value = |settings: &Defaults| {
            let (_, value) = settings.iter().find(|(k, _)| k == key).unwrap();
            value.as_ref().map_or("itself".into(), |value| format!("`{value}`"))
        };
        row(page, key, &takes("minillm", key), &all.each_ref().map(value));
    }
}

const INTRODUCTION: &str = "\
# Every setting of a config

<!-- Made from the code by RETORT_WRITE=1 cargo test --test documents reference. Do not edit: edit
src/config/keys.toml and the settings themselves. -->

A config is a TOML file. A setting that is not there has the default below; a key that no setting is called is an
error that suggests what was meant. `--set train.lr=1e-4` on the command line overrides the file, and takes any
key by its full name. Paths are relative to the working directory. Whole numbers may be written `\"64k\"` or `\"1.5M\"`.
`retort inspect run.toml` lists what a file comes to; with `-v` it says what each setting does.

\"Takes\" is what the program says when a value is wrong. The run directory's own `config.toml` has every default
written out, and a table `[run]` of facts (version, device, type, threads) that is read and not used.
";

/// The page as it should be.
fn page() -> String {
    let mut page = INTRODUCTION.to_string();
    let _ = writeln!(page, "\n## The top\n");
    let rows = ["sft", "kd", "seqkd", "minillm", "minima", "gkd", "distillm", "onpolicy"];
    table(&mut page, "", &rows);
    for name in COMMON {
        let _ = writeln!(page, "\n## [{name}]\n");
        table(&mut page, name, &rows);
    }
    let mut done = BTreeSet::new();
    for entry in POLICIES.iter().filter(|entry| done.insert(entry.table)) {
        let readers: Vec<&str> = POLICIES.iter().filter(|e| e.table == entry.table).map(|e| e.name).collect();
        let _ = writeln!(page, "\n## [{}]\n", entry.table);
        if readers.len() > 1 {
            let _ = writeln!(page, "Read by {}.\n", readers.join(", "));
        }
        let settings = listed(entry.name, &[]);
        match entry.name {
            "minillm" => presets(&mut page),
            _ if settings.iter().all(|(key, _)| apart(key).0 != entry.table) => {
                let _ = writeln!(page, "It has no settings.");
            }
            _ => table(&mut page, entry.table, &readers),
        }
    }
    page
}

#[test]
fn the_reference_of_the_config_is_what_the_code_says() {
    let now = page();
    if std::env::var_os("RETORT_WRITE").is_some() {
        std::fs::write(root().join(PAGE), &now).unwrap();
    }
    let there = if root().join(PAGE).exists() { text_of(PAGE) } else { String::new() };
    let differs = now.lines().zip(there.lines()).find(|(a, b)| a != b);
    assert!(
        now == there,
        "{PAGE} is not what the code says ({differs:?}): RETORT_WRITE=1 cargo test --test documents reference \
         writes it anew"
    );
}

/// The keys that the code reads in a table, as its errors list them.
fn known(table: &str) -> BTreeSet<String> {
    let key = if table.is_empty() { "zzzzzz".to_string() } else { format!("{table}.zzzzzz") };
    let error = least("sft", "steps", &[&format!("{key}=1")]).unwrap_err();
    let list = error.split_once("known here: ").unwrap().1;
    list.split(", ").map(str::to_string).collect()
}

/// A grid's config has its settings in a page of its own: all that the code reads are there.
#[test]
fn every_setting_of_a_grid_is_told() {
    let page = text_of("docs/how-to/capacity-gap.md");
    let config = root().join("configs/research/capacity-gap.toml");
    let mut told = 0;
    for table in ["", "teachers.82k.", "data."] {
        let wrong = [format!("{table}zzzzzz=1")];
        let error = retort::config::grid::GridConfig::load(&config, &wrong).unwrap_err().to_string();
        let list = error.split_once("known here: ").unwrap_or_else(|| panic!("{error}")).1;
        for key in list.lines().next().unwrap().split(", ") {
            let name = table.replace("82k", "NAME");
            let names = [
                format!("| `{name}{key}`"),
                format!("`{key}`"),
                format!("[{key}.teacher]"),
                format!("[{key}]"),
            ];
            let whole = key == "teachers" || key == "data";
            assert!(whole || names.iter().any(|name| page.contains(name)), "{table}{key} is not told");
            told += 1;
        }
    }
    assert!(told >= 7 + 5 + 6, "{told}");
}

/// The same of a policy's own table.
fn known_to(entry: &Entry) -> BTreeSet<String> {
    let table = Table::from_iter([("zzzzzz".to_string(), 1.into())]);
    let Err(Error::Setting { expected, .. }) = (entry.build)(&table) else {
        panic!("{} takes everything", entry.name)
    };
    if expected == "no settings" {
        return BTreeSet::new();
    }
    expected.trim_start_matches("one of ").split(", ").map(str::to_string).collect()
}

/// Both ways: no key without a line, no line without a key. What the code reads counts, not what it lists.
#[test]
fn every_setting_has_its_line_and_every_line_its_setting() {
    let mut keys = BTreeSet::new();
    for table in known("") {
        let own = match POLICIES.iter().find(|entry| entry.table == table) {
            Some(entry) => known_to(entry),
            None if COMMON.contains(&table.as_str()) => known(&table),
            // Facts of a run, which nothing reads.
            None if table == "run" => continue,
            None => {
                keys.insert(table);
                continue;
            }
        };
        keys.extend(own.iter().map(|key| format!("{table}.{key}")));
    }
    for inner in ["student.lora", "train.regime"] {
        assert!(keys.remove(inner), "[{inner}] is read");
        keys.extend(known(inner).iter().map(|key| format!("{inner}.{key}")));
    }
    assert!(keys.len() > 60, "{}", keys.len());
    for key in &keys {
        assert!(
            about(key).is_some_and(|line| line.ends_with('.')),
            "src/config/keys.toml has no line for {key}"
        );
    }
    for line in described() {
        assert!(keys.contains(line), "src/config/keys.toml has a line for {line}, which nothing reads");
    }
}
