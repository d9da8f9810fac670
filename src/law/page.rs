//! What a grid came to, as a page: the losses over teachers' sizes with their fits, the line of the best teachers, what
//! the scaling law's form predicts.

use super::advise::short;
use super::fit::{Curve, Fits, Form, Line, Verdict};
use super::points::{ALONE, Measured, Points};
use crate::report::draw::{Axis, Chart, Drawing, Point, Series};
use crate::report::page::{Cell, Page, Section, Table};

/// Points of a drawn curve.
const POINTS: usize = 80;

/// The page.
pub fn page(points: &Points, fits: &Fits) -> Page {
    let runs = points.rows.iter().filter(|row| row.arm != ALONE).count();
    let mut page = Page::new("The law of capacity gap")
        .lead(format!("{runs} students, each under one of several teachers: where is the best?"))
        .section(vertices(fits));
    if !fits.lines.is_empty() {
        page = page.section(lines(fits));
    }
    page.section(forms(points, fits)).section(rows(points))
}

/// The words for a verdict.
pub fn words(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Inside { teacher, interval: [low, high], .. } => {
            format!("{} ({} to {})", short(*teacher), short(*low), short(*high))
        }
        Verdict::Falling => "no optimum inside the range: the largest teacher is the best".into(),
        Verdict::Rising => "no optimum inside the range: the smallest teacher is the best".into(),
        Verdict::Unclear(Some(at)) => format!("not clear: the vertex {} may as well lie outside", short(*at)),
        Verdict::Unclear(None) => "not clear: no optimum, and no direction".into(),
        Verdict::TooFew => "too few points: three teachers and five runs are needed".into(),
    }
}

fn vertices(fits: &Fits) -> Section {
    let mut section = Section::new("The best teacher of each student").paragraph(
        "Loss on held-out text over the teacher's size, all parameters counted. The curve is a quadratic in the size's \
         logarithm; its vertex is the best teacher if its 95 % interval lies inside the range of teachers.",
    );
    let mut table = Table::new(["student", "arm", "runs", "best teacher", "over the student", "loss there"]);
    for curve in &fits.curves {
        section = section.figure(&drawing(curve), words(&curve.verdict));
        let (times, loss) = match curve.verdict {
            Verdict::Inside { teacher, loss, .. } => {
                (Cell::number(teacher / curve.student, 2), Cell::number(loss, 4))
            }
            _ => (Cell::none(), Cell::none()),
        };
        table = table.row([
            Cell::text(name(curve)),
            Cell::text(curve.arm.as_str()),
            Cell::figure(curve.points.len().to_string()),
            Cell::text(words(&curve.verdict)),
            times,
            loss,
        ]);
    }
    section.table(table)
}

/// A student size, with its tokens where they are told.
fn name(curve: &Curve) -> String {
    let tokens = curve.tokens.map_or(String::new(), |d| format!(" on {} tokens", short(d)));
    short(curve.student) + &tokens
}

fn drawing(curve: &Curve) -> Drawing {
    let title = format!("{}, {}", name(curve), curve.arm);
    let mut chart = Chart::new(title, Axis::log("teacher (M parameters)"), Axis::new("loss (nats a token)"))
        .with(Series::marks("measured", curve.points.iter().map(|(t, loss)| (t / 1e6, *loss))));
    let sizes = || curve.points.iter().map(|(t, _)| t.ln());
    let (low, high) = (sizes().fold(f64::INFINITY, f64::min), sizes().fold(f64::NEG_INFINITY, f64::max));
    if let Some(quadratic) = &curve.quadratic {
        let at = |n: usize| (low + (high - low) * n as f64 / (POINTS - 1) as f64).exp();
        chart = chart.with(Series::curve("fitted", (0..POINTS).map(at).map(|t| (t / 1e6, quadratic.at(t)))));
    }
    if let Verdict::Inside { teacher, loss, .. } = curve.verdict {
        chart = chart.with(Series::marks("vertex", [(teacher / 1e6, loss)]));
    }
    chart.draw()
}

fn lines(fits: &Fits) -> Section {
    let mut section = Section::new("The best teacher over the student's size").paragraph(
        "T* = a S + b through the students that have an optimum, in millions of parameters; intervals of 95 %. The law \
         as it was published, T* = 2.498 S - 11.5, was measured on teachers from 70M to 2.8B.",
    );
    let mut table = Table::new(["arm", "students", "a", "b (M)", "R²"]);
    for (arm, line) in &fits.lines {
        section = section.figure(&line_drawing(fits, arm, line), "");
        let [[low, high], [least, most]] = [line.slope_interval, line.intercept_interval];
        table = table.row([
            Cell::text(arm.as_str()),
            Cell::figure(line.students.to_string()),
            Cell::number(line.slope, 3).between(low, high, 3),
            Cell::number(line.intercept / 1e6, 3).between(least / 1e6, most / 1e6, 3),
            line.r2.map_or_else(Cell::none, |r2| Cell::number(r2, 3)),
        ]);
    }
    section.table(table)
}

fn line_drawing(fits: &Fits, arm: &str, line: &Line) -> Drawing {
    let best = fits.curves.iter().filter(|curve| curve.arm == arm).filter_map(|curve| match curve.verdict {
        Verdict::Inside { teacher, interval: [low, high], .. } => {
            Some(Point { x: curve.student / 1e6, y: teacher / 1e6, low: low / 1e6, high: high / 1e6 })
        }
        _ => None,
    });
    let best: Vec<Point> = best.collect();
    let ends = [best.first(), best.last()].into_iter().flatten();
    let fitted: Vec<(f64, f64)> = ends.map(|p| (p.x, line.slope * p.x + line.intercept / 1e6)).collect();
    Chart::new(
        format!("Best teacher, {arm}"),
        Axis::new("student (M parameters)"),
        Axis::new("teacher (M parameters)"),
    )
    .with(Series::marks("vertex", best))
    .with(Series::curve("fitted", fitted))
    .draw()
}

fn forms(points: &Points, fits: &Fits) -> Section {
    let mut section = Section::new("By the teacher's loss").paragraph(
        "The distillation-scaling law's form, fitted to these points: it says a student's loss by its size, its tokens and \
         its teacher's loss, whatever the teacher's size. Many constants give the same predictions, so the intervals are \
         of the predictions.",
    );
    for why in &fits.forms.missing {
        section = section.paragraph(format!("Not fitted: {why}."));
    }
    if let Some(alone) = &fits.forms.alone {
        let r2 = alone.r2.map_or(String::new(), |r2| format!(", R² {r2:.4} of log L"));
        section = section.paragraph(format!("Models trained alone: {}{r2}.", alone.models));
    }
    let mut table = Table::new(["arm", "runs", "Huber loss a run", "R² of log L"]);
    for form in &fits.forms.arms {
        section = section.figure(&form_drawing(points, form), "");
        table = table.row([
            Cell::text(form.arm.as_str()),
            Cell::figure(form.runs.to_string()),
            Cell::figure(format!("{:.2e}", form.cost)),
            form.r2.map_or_else(Cell::none, |r2| Cell::number(r2, 4)),
        ]);
    }
    if table.is_empty() { section } else { section.table(table) }
}

/// Measured and predicted losses over the teacher's loss, a curve a student size.
fn form_drawing(points: &Points, form: &Form) -> Drawing {
    let mut runs: Vec<(f64, f64, f64, [f64; 2], f64)> = points
        .rows
        .iter()
        .filter(|row| row.arm == form.arm && row.tokens.is_some())
        .filter_map(|row| Some((row.student, row.teacher_loss?, row.loss)))
        .zip(&form.predicted)
        .map(|((student, teacher, loss), (predicted, interval))| {
            (student, teacher, *predicted, *interval, loss)
        })
        .collect();
    runs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut chart = Chart::new(
        format!("By the teacher's loss, {}", form.arm),
        Axis::new("teacher's loss (nats a token)"),
        Axis::new("student's loss (nats a token)"),
    );
    for (style, one) in runs.chunk_by(|a, b| a.0 == b.0).enumerate() {
        let name = short(one[0].0);
        let measured = one.iter().map(|run| (run.1, run.4));
        chart = chart.with(Series::marks(name.clone(), measured).styled(style));
        let mut fitted: Vec<Point> =
            one.iter().map(|run| Point { x: run.1, y: run.2, low: run.3[0], high: run.3[1] }).collect();
        fitted.dedup_by(|a, b| a.x == b.x);
        chart = chart.with(Series::curve(format!("{name} fitted"), fitted).styled(style));
    }
    chart.draw()
}

/// Every cell of the grid, runs of the same cell averaged.
fn rows(points: &Points) -> Section {
    let mut table = Table::new([
        "student",
        "teacher",
        "arm",
        "runs",
        "loss",
        "perplexity",
        "before training",
        "forward KL",
        "teacher's loss",
    ]);
    for cell in cells(points) {
        let mean = |of: fn(&Measured) -> Option<f64>| mean(&cell, of);
        let number = |x: Option<f64>, digits| x.map_or_else(Cell::none, |x| Cell::number(x, digits));
        let (first, loss) = (cell[0], mean(|row| Some(row.loss)));
        table = table.row([
            Cell::text(short(first.student)),
            first.teacher.map_or_else(Cell::none, |t| Cell::figure(short(t))),
            Cell::text(first.arm.as_str()),
            Cell::figure(cell.len().to_string()),
            number(loss, 4),
            number(loss.map(f64::exp), 2),
            number(mean(|row| row.initial_loss.map(f64::exp)), 1),
            number(mean(|row| row.kl), 4),
            number(mean(|row| row.teacher_loss), 4),
        ]);
    }
    Section::new("Every cell").table(table)
}

/// The mean of a number over a cell's runs, as far as they have it.
pub fn mean(cell: &[&Measured], of: impl Fn(&Measured) -> Option<f64>) -> Option<f64> {
    let all: Vec<f64> = cell.iter().filter_map(|row| of(row)).collect();
    (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
}

/// Runs that differ in their seeds alone, together.
pub fn cells(points: &Points) -> Vec<Vec<&Measured>> {
    let mut all: Vec<Vec<&Measured>> = Vec::new();
    for row in &points.rows {
        let same = |cell: &&mut Vec<&Measured>| {
            let first = cell[0];
            (first.arm.as_str(), first.student, first.teacher, first.tokens)
                == (row.arm.as_str(), row.student, row.teacher, row.tokens)
        };
        match all.iter_mut().find(same) {
            Some(cell) => cell.push(row),
            None => all.push(vec![row]),
        }
    }
    all
}
