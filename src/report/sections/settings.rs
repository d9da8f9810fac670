//! The settings in which runs differ; of one run those that somebody set.

use std::collections::BTreeSet;

use crate::report::page::{Cell, Section, Table};
use crate::report::run::{Run, Told};

pub(super) fn section(runs: &[Run]) -> Section {
    let told: Vec<(&Run, &Told)> = runs.iter().filter_map(|run| Some((run, run.config.as_ref()?))).collect();
    match told.as_slice() {
        [] => Section::new("Settings"),
        [(_, told)] => of_one(told),
        several => of_several(several),
    }
}

fn of_one(told: &Told) -> Section {
    let own = |key: &str| told.set.as_ref().is_none_or(|set| set.iter().any(|name| name == key));
    let row = |table: Table, (key, value): &(String, String)| table.row([Cell::text(key), Cell::text(value)]);
    let table = |lines: Vec<&(String, String)>| lines.into_iter().fold(Table::new(["setting", "value"]), row);
    let (shown, others): (Vec<_>, Vec<_>) =
        told.settings.iter().partition(|(key, _)| own(key) || key.starts_with("run."));
    let section = Section::new("Settings").table(table(shown));
    if others.is_empty() { section } else { section.folded(Section::new("Defaults").table(table(others))) }
}

fn of_several(told: &[(&Run, &Told)]) -> Section {
    let mut keys: Vec<&str> = Vec::new();
    for (key, _) in told.iter().flat_map(|(_, told)| &told.settings) {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let values = |key: &str| told.iter().map(|(_, told)| told.get(key).map(String::from)).collect::<Vec<_>>();
    let section = Section::new("Settings that differ");
    let heads = ["setting".to_string()].into_iter().chain(told.iter().map(|(run, _)| run.name.clone()));
    let mut table = Table::new(heads);
    for key in &keys {
        let values = values(key);
        if values.iter().collect::<BTreeSet<_>>().len() > 1 {
            let cell = |value: Option<String>| value.map_or_else(|| Cell::text("\u{2013}"), Cell::text);
            table = table.row([Cell::text(*key)].into_iter().chain(values.into_iter().map(cell)));
        }
    }
    if table.is_empty() {
        return section.paragraph("The runs have the same settings.");
    }
    section.paragraph(format!("Of {} settings.", keys.len())).table(table)
}
