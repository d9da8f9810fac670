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
    let heads = || ["setting".to_string()].into_iter().chain(told.iter().map(|(run, _)| run.name.clone()));
    let differ = keys
        .iter()
        .map(|key| (*key, values(key)))
        .filter(|(_, values)| values.iter().collect::<BTreeSet<_>>().len() > 1);
    // What a policy of its own has, or a run with a teacher, is no choice between two values.
    let (shared, own): (Vec<_>, Vec<_>) = differ.partition(|(_, values)| values.iter().all(Option::is_some));
    let table = |lines: Vec<(&str, Vec<Option<String>>)>| {
        lines.into_iter().fold(Table::new(heads()), |table, (key, values)| {
            let cells = values.into_iter().map(|value| Cell::text(value.as_deref().unwrap_or("\u{2013}")));
            table.row([Cell::text(key)].into_iter().chain(cells))
        })
    };
    let section = match (shared.is_empty(), own.is_empty()) {
        (true, true) => return section.paragraph("The runs have the same settings."),
        (true, false) => section.paragraph("What all runs have they have in common."),
        _ => section.table(table(shared)),
    };
    if own.is_empty() {
        return section;
    }
    section.folded(Section::new("Settings that some of the runs do not have").table(table(own)))
}
