//! Curves of all runs on shared axes, a chart a number, in groups.

use super::catalogue::{entries, entry, is_end};
use crate::report::draw::{Axis, Chart, Drawing, Point, Series};
use crate::report::page::Section;
use crate::report::run::Run;

/// What is measured of each variant of a gradient.
const MOMENTS: [(&str, &str, &str); 3] = [
    ("noise", "Noise of the gradient", "trace of its covariance"),
    ("signal", "Signal of the gradient", "squared norm of its mean"),
    ("cosine", "Direction of the gradient", "cosine with the exact one"),
];

/// The groups that are open. The evaluations' curves stand with their table.
pub(super) fn sections(runs: &[Run]) -> Vec<Section> {
    let groups = [
        ("training", "Loss and its terms"),
        ("replies", "The students' own replies"),
        ("optimiser", "Optimiser"),
    ];
    let mut sections: Vec<Section> =
        groups.into_iter().map(|(group, heading)| of_group(Section::new(heading), runs, group)).collect();
    if let Some(first) = sections.first_mut().filter(|first| !first.is_empty())
        && let Some(text) = thinned(runs)
    {
        *first = of_group(Section::new(groups[0].1).paragraph(text), runs, groups[0].0);
    }
    sections.push(variance(runs));
    sections
}

/// The charts of a group, behind what a section has already.
pub(super) fn of_group(section: Section, runs: &[Run], group: &str) -> Section {
    entries().filter(|entry| entry.group == group).fold(section, |section, entry| {
        match shared(runs, entry.key, entry.title, entry.unit) {
            Some(drawing) => section.figure(&drawing, ""),
            None => section,
        }
    })
}

/// What few readers look for: counts, seconds of each update, and numbers that no list knows.
pub(super) fn rest(runs: &[Run]) -> Option<Section> {
    let groups = [("counts", "Counts of each update"), ("time", "Seconds of each update and evaluation")];
    let mut section = Section::new("More");
    for (group, heading) in groups {
        let inner = of_group(Section::new(heading), runs, group);
        if !inner.is_empty() {
            section = section.folded(inner);
        }
    }
    let unknown =
        unknown(runs).into_iter().fold(Section::new("Other numbers"), |section, key| {
            match shared(runs, key, &key.replace('_', " "), key) {
                Some(drawing) => section.figure(&drawing, ""),
                None => section,
            }
        });
    if !unknown.is_empty() {
        section = section.folded(unknown);
    }
    (!section.is_empty()).then_some(section)
}

/// Numbers that have no place elsewhere.
fn unknown(runs: &[Run]) -> Vec<&str> {
    let mut keys: Vec<&str> = Vec::new();
    for run in runs {
        for key in run.metrics.curves().iter().map(|curve| curve.key.as_str()) {
            let drawn = entry(key).is_some()
                || is_end(key, |whole| run.metrics.curve(whole).is_some())
                || variant(key).is_some();
            if !drawn && !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}

/// One number of all runs that have it.
fn shared(runs: &[Run], key: &str, title: &str, unit: &str) -> Option<Drawing> {
    let series = runs.iter().enumerate().filter_map(|(n, run)| {
        let series = Series::line(&run.name, points(run, key)?).styled(n);
        (!series.is_empty()).then_some(series)
    });
    // A schedule is known by its shape on a linear axis.
    draw(series.collect(), title, unit, key != "lr", runs.len() > 1)
}

/// The chart, whose series are named where there are `several` runs; None where nothing is to be drawn.
fn draw(series: Vec<Series>, title: &str, unit: &str, may_log: bool, several: bool) -> Option<Drawing> {
    if series.is_empty() {
        return None;
    }
    let wide = may_log && series.iter().all(Series::is_positive) && spread(&series) > 300.0;
    let y = if wide { Axis::log(format!("{unit}, logarithmic")) } else { Axis::new(unit) };
    let chart = series.into_iter().fold(Chart::new(title, Axis::new("update"), y), Chart::with);
    Some(if several { chart.named() } else { chart }.draw())
}

/// The greatest value over the least.
fn spread(series: &[Series]) -> f64 {
    let values = || series.iter().flat_map(Series::values);
    values().fold(0.0, f64::max) / values().fold(f64::INFINITY, f64::min)
}

/// A curve, with its interval where it has one: of its own, or for the updates that a point stands for.
fn points(run: &Run, key: &str) -> Option<Vec<Point>> {
    let curve = run.metrics.curve(key)?;
    let mut points = curve.points();
    let end = |end: &str| run.metrics.curve(&format!("{key}{end}"));
    if let (Some(low), Some(high)) = (end("_low"), end("_high")) {
        let (low, high) = (low.points(), high.points());
        if low.len() == points.len() && high.len() == points.len() {
            for ((point, low), high) in points.iter_mut().zip(low).zip(high) {
                (point.low, point.high) = (low.y, high.y);
            }
        }
    }
    Some(points)
}

/// Says which curves are thinned.
fn thinned(runs: &[Run]) -> Option<String> {
    let each = |run: &Run| {
        let n = run.metrics.curve("loss").map_or(1, |curve| curve.each());
        (n > 1).then(|| format!("{n} updates of {}", run.name))
    };
    let of: Vec<String> = runs.iter().filter_map(each).collect();
    (!of.is_empty()).then(|| {
        format!(
            "A point is the mean of {}; the band reaches from the least of them to the greatest.",
            of.join(", of ")
        )
    })
}

/// The variant and the moment of a number of the gradient's variance.
fn variant(key: &str) -> Option<(&str, &str)> {
    let (variant, moment) = key.strip_prefix("variance.")?.rsplit_once('.')?;
    MOMENTS.iter().any(|(name, _, _)| *name == moment).then_some((variant, moment))
}

/// Noise, signal and direction: the variants of all runs in a chart each.
fn variance(runs: &[Run]) -> Section {
    let mut section = Section::new("Variance of the gradient");
    for (moment, title, unit) in MOMENTS {
        let mut series = Vec::new();
        for run in runs {
            let own = run.metrics.curves().iter().filter_map(|c| Some((variant(&c.key)?, c)));
            for ((name, _), curve) in own.filter(|((_, m), _)| *m == moment) {
                let name = name.replace('_', " ");
                let name = if runs.len() > 1 { format!("{}: {name}", run.name) } else { name };
                series.push(Series::line(name, curve.points.points()));
            }
        }
        if let Some(drawing) = draw(series, title, unit, true, runs.len() > 1) {
            section = section.figure(&drawing, "");
        }
    }
    section
}
