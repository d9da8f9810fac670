//! Where the time went: a bar a run, and the same as numbers.

use crate::report::draw::{Axis, Bars};
use crate::report::page::{Cell, Section, Table};
use crate::report::run::Run;

/// Stages by the names that people have for them; others keep their own.
const NAMES: [(&str, &str); 4] =
    [("sample", "sampling"), ("score", "scoring"), ("data", "reading"), ("train", "learning")];

pub(super) fn section(runs: &[Run]) -> Section {
    let section = Section::new("Time");
    let timed: Vec<&Run> = runs.iter().filter(|run| run.metrics.stages.total > 0.0).collect();
    if timed.is_empty() {
        return section;
    }
    let stages = stages(&timed);
    let names = || {
        let own =
            stages.iter().map(|s| NAMES.iter().find(|(n, _)| n == s).map_or(s.as_str(), |(_, name)| name));
        own.chain(["evaluation", "the rest"])
    };
    let longest = timed.iter().map(|run| run.metrics.stages.total).fold(0.0, f64::max);
    let (unit, name) = unit(longest);
    let of = |run: &Run| {
        let s = &run.metrics.stages;
        let part = |name: &String| s.parts.iter().find(|(n, _)| n == name).map_or(0.0, |(_, x)| *x);
        let own = stages.iter().map(part).chain([s.evaluation, s.rest()]);
        own.map(|x| x / unit).collect::<Vec<f64>>()
    };
    let bars = timed
        .iter()
        .fold(Bars::new("Time by stage", Axis::new(name), names()), |bars, run| bars.bar(&run.name, of(run)));
    let heads = ["run".to_string(), name.to_string()].into_iter().chain(names().map(String::from));
    let mut table = Table::new(heads.chain(["tokens learnt a second".to_string()]));
    for run in &timed {
        let total = run.metrics.stages.total;
        let parts = of(run).into_iter().map(|x| if x > 0.0 { Cell::number(x, 2) } else { Cell::none() });
        let rate = Cell::figure(super::count(run.metrics.tokens / total));
        let head = [Cell::text(&run.name), Cell::number(total / unit, 2).strong()];
        table = table.row(head.into_iter().chain(parts).chain([rate]));
    }
    let says = "From the first update to the last evaluation. The rest is what no stage counts: models being written, \
                the gradient's variance being measured.";
    section.paragraph(says).figure(&bars.draw(), "").table(table)
}

/// The stages of all runs, those that are known first.
fn stages(runs: &[&Run]) -> Vec<String> {
    let found: Vec<&String> =
        runs.iter().flat_map(|run| run.metrics.stages.parts.iter().map(|(name, _)| name)).collect();
    let mut all: Vec<String> = Vec::new();
    let known = NAMES.iter().map(|(name, _)| (*name).to_string()).filter(|name| found.contains(&name));
    for name in known.chain(found.iter().map(|name| (*name).clone())) {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// The unit in which so many seconds read well.
fn unit(seconds: f64) -> (f64, &'static str) {
    match seconds {
        10_800.0.. => (3600.0, "hours"),
        180.0.. => (60.0, "minutes"),
        _ => (1.0, "seconds"),
    }
}
