//! The report over runs: what they are, how good they got, curves on shared axes, replies side by side, the
//! settings in which they differ, where the time went.

mod catalogue;
mod curves;
mod diffusion;
mod evaluations;
mod replies;
mod settings;
mod time;

use super::page::{Cell, Page, Section, Table};
use super::run::{Run, Teacher};

/// The page.
pub fn of_runs(runs: &[Run], teacher: &Teacher) -> Page {
    let title = match runs {
        [run] => format!("Run {}", run.name),
        runs => format!("{} runs", runs.len()),
    };
    let sections = [overview(runs), evaluations::section(runs)]
        .into_iter()
        .chain(curves::sections(runs))
        .chain([
            diffusion::section(runs),
            replies::section(runs, teacher),
            settings::section(runs),
            time::section(runs),
        ])
        .chain(curves::rest(runs));
    let page = Page::new(title).lead(format!("Made by retort {}.", env!("CARGO_PKG_VERSION")));
    sections.filter(|section| !section.is_empty()).fold(page, Page::section)
}

/// What each run is and how far it came.
fn overview(runs: &[Run]) -> Section {
    let mut table =
        Table::new(["run", "policy", "student", "teacher", "updates", "tokens learnt", "skipped"]);
    for run in runs {
        let told = run.config.as_ref();
        let text = |text: Option<&str>| Cell::text(text.unwrap_or("\u{2013}"));
        let of = match told.map(|c| (c.steps, c.epochs)) {
            Some((Some(steps), _)) => Some(format!("of {}", count(steps as f64))),
            Some((_, Some(epochs))) => Some(format!("{epochs} epochs")),
            _ => None,
        };
        let updates = Cell::figure(count(run.metrics.updates as f64));
        table = table.row([
            Cell::text(&run.name).note(run.path.display().to_string()),
            text(told.map(|c| c.policy.as_str())),
            text(told.map(|c| c.student.as_str())),
            text(told.and_then(|c| c.teacher.as_deref())),
            of.into_iter().fold(updates, Cell::note),
            Cell::figure(count(run.metrics.tokens)),
            Cell::figure(count(run.metrics.skipped as f64)),
        ]);
    }
    let mut section = Section::new(if runs.len() == 1 { "The run" } else { "The runs" }).table(table);
    for run in runs {
        let name = &run.name;
        if run.config.is_none() {
            section = section.paragraph(format!("{name} has no config.toml: its settings are not known."));
        }
        if run.metrics.updates == 0 {
            section = section.paragraph(format!("{name} has done no update yet."));
        }
        if run.metrics.left_out > 0 {
            section = section
                .paragraph(format!("{name} has too many numbers: {} were left out.", run.metrics.left_out));
        }
    }
    section
}

/// A count as people write it: 1.2M.
fn count(x: f64) -> String {
    match x {
        1e9.. => format!("{:.2}B", x / 1e9),
        1e6.. => format!("{:.1}M", x / 1e6),
        1e4.. => format!("{:.1}k", x / 1e3),
        _ => format!("{x:.0}"),
    }
}

#[cfg(test)]
mod tests;
