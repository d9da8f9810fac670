//! The last and the best evaluation of each run, with intervals, and the curves of all of them.

use super::catalogue::{Entry, entries, entry, is_end};
use super::curves::of_group;
use crate::report::page::{Cell, Section, Table};
use crate::report::run::{Evaluation, Run};

/// One row: whose it is, which it is, what was found.
struct Row<'a> {
    run: &'a Run,
    which: &'static str,
    /// What it is best by.
    by: Option<&'static str>,
    found: &'a Evaluation,
}

pub(super) fn section(runs: &[Run]) -> Section {
    let section = Section::new("Evaluations");
    let rows: Vec<Row<'_>> = runs.iter().flat_map(rows).collect();
    if rows.is_empty() {
        return section;
    }
    let columns = columns(&rows);
    let heads = columns.iter().map(|(_, title)| title.clone());
    let mut table = Table::new(["run".to_string(), "evaluation".to_string()].into_iter().chain(heads));
    for row in &rows {
        let cells = columns.iter().map(|(key, _)| cell(key, row, &rows));
        let by = row.by.map_or(String::new(), |by| format!(", by {by}"));
        let which = Cell::text(row.which).note(format!("update {}{by}", row.found.step));
        let names = [Cell::text(&row.run.name), which];
        table = table.row(names.into_iter().chain(cells));
    }
    let mut text = String::from("Below a number stands its 95 % interval, where there is one.");
    if rows.len() > 1 {
        text += " The best of a column stands out.";
    }
    of_group(section.paragraph(text).table(table), runs, "evaluation")
}

fn rows(run: &Run) -> Vec<Row<'_>> {
    let Some(last) = &run.metrics.last else { return Vec::new() };
    let mut rows = Vec::new();
    if let Some((best, by)) = &run.metrics.best {
        let by = Some(if *by == "rouge_l" { "Rouge-L" } else { "cross-entropy" });
        let which = if best.step == last.step { "best and last" } else { "best" };
        rows.push(Row { run, which, by, found: best });
        if best.step == last.step {
            return rows;
        }
    }
    rows.push(Row { run, which: "last", by: None, found: last });
    rows
}

/// The numbers of the rows, those that are listed first and in the list's order.
fn columns(rows: &[Row<'_>]) -> Vec<(String, String)> {
    let mut keys: Vec<String> = Vec::new();
    let has = |key: &str| rows.iter().any(|row| row.found.values.iter().any(|(name, _)| name == key));
    let listed = entries().filter_map(|entry| entry.key.strip_prefix("eval.").map(String::from));
    let found = rows.iter().flat_map(|row| row.found.values.iter().map(|(key, _)| key.clone()));
    for key in listed.chain(found) {
        if has(&key) && !is_end(&key, has) && !keys.contains(&key) {
            keys.push(key);
        }
    }
    let title = |key: &String| listing(key).map_or(key.replace('_', " "), |entry| entry.title.to_string());
    keys.into_iter().map(|key| (key.clone(), title(&key))).collect()
}

fn listing(key: &str) -> Option<Entry> {
    entry(&format!("eval.{key}"))
}

fn cell(key: &str, row: &Row<'_>, rows: &[Row<'_>]) -> Cell {
    let Some(x) = row.found.get(key) else { return Cell::none() };
    let decimals = decimals(x);
    let mut cell = Cell::number(x, decimals);
    let ends = (row.found.get(&format!("{key}_low")), row.found.get(&format!("{key}_high")));
    if let (Some(low), Some(high)) = ends {
        cell = cell.between(low, high, decimals);
    }
    let beaten = |more: bool| {
        let others = rows.iter().filter_map(|row| row.found.get(key));
        others.into_iter().any(|y| if more { y > x } else { y < x })
    };
    match listing(key).and_then(|entry| entry.more) {
        Some(more) if rows.len() > 1 && !beaten(more) => cell.strong(),
        _ => cell,
    }
}

/// Four digits or so, and none behind the point of a count.
fn decimals(x: f64) -> usize {
    match x.abs() {
        x if x.fract() == 0.0 && x >= 1.0 => 0,
        1000.0.. => 1,
        10.0.. => 2,
        _ => 4,
    }
}
