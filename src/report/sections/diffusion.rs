//! How far the weights have come from where they began, on a logarithmic axis, with the law fitted to it.

use crate::optim::diffusion::Fit;
use crate::report::draw::{Axis, Chart, Series};
use crate::report::page::{Cell, Section, Table};
use crate::report::run::Run;

/// What the distance of all weights together is called.
const WHOLE: &str = "whole";

pub(super) fn section(runs: &[Run]) -> Section {
    let section = Section::new("Distance from the start");
    let measured: Vec<(usize, &Run)> =
        runs.iter().enumerate().filter(|(_, run)| !run.metrics.distances.is_empty()).collect();
    if measured.is_empty() {
        return section;
    }
    let axes = || (Axis::log("update, logarithmic"), Axis::new("norm of the difference"));
    let (x, y) = axes();
    let mut chart = Chart::new("Distance of all weights", x, y).named();
    let mut table = Table::new([
        "run",
        "block",
        "slope on ln t",
        "R²",
        "power",
        "R² of the power law",
        "distances fitted",
    ]);
    for &(n, run) in &measured {
        chart = chart.with(Series::marks(&run.name, floats(run.metrics.distances.of(WHOLE))).styled(n));
        if let Some((fit, from, to)) = fitted(run, WHOLE) {
            let curve = even(from, to).map(|t| (t, fit.at(t)));
            chart = chart.with(Series::curve(format!("{}: a + b ln t", run.name), curve).styled(n));
        }
        for block in run.metrics.distances.blocks() {
            let cells = match fitted(run, block) {
                Some((fit, _, _)) => [
                    Cell::figure(format!("{:.4}", fit.slope)),
                    Cell::number(fit.r2, 4),
                    Cell::number(fit.power, 3),
                    Cell::number(fit.power_r2, 4),
                    Cell::figure(fit.points.to_string()),
                ],
                None => [(); 5].map(|()| Cell::none()),
            };
            let head = [Cell::text(&run.name), Cell::text(block.replace('_', " "))];
            table = table.row(head.into_iter().chain(cells));
        }
    }
    let text = "Weights that wander at a constant rate come as far as the logarithm of the updates says. Fitted are the \
                distances at the full learning rate after the warm-up, from update 10 on; where there are fewer than four \
                there is no fit. The power law has as many parameters and is fitted to the same distances.";
    let mut section = section.paragraph(text).figure(&chart.draw(), "").table(table);
    for (_, run) in measured {
        let (x, y) = axes();
        let blocks = run.metrics.distances.blocks().filter(|block| *block != WHOLE);
        let chart = blocks.fold(Chart::new("Distance of each block", x, y).named(), |chart, block| {
            chart.with(Series::line(block.replace('_', " "), floats(run.metrics.distances.of(block))))
        });
        section = section.folded(Section::new(format!("Blocks of {}", run.name)).figure(&chart.draw(), ""));
    }
    section
}

fn floats(points: impl Iterator<Item = (u64, f64)>) -> impl Iterator<Item = (f64, f64)> {
    points.map(|(t, y)| (t as f64, y))
}

/// The fit to a block's distances at the constant rate, and the first and last of them.
fn fitted(run: &Run, block: &str) -> Option<(Fit, f64, f64)> {
    let all = &run.metrics.distances;
    let (from, to) = all.constant()?;
    let fit = Fit::of(&all.of(block).collect::<Vec<_>>(), from, to)?;
    Some((fit, from.max(crate::optim::diffusion::FIRST) as f64, to as f64))
}

/// Places that are even on a logarithmic axis.
fn even(from: f64, to: f64) -> impl Iterator<Item = f64> {
    (0..=20).map(move |n| from * (to / from).powf(f64::from(n) / 20.0))
}
