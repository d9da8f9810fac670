//! A chart: title, legend, what is on the y axis, the plot, what is on the x axis, from top to bottom.

use super::canvas::{Anchor, Canvas, SIZE, fit, number, stroke, width};
use super::scale::{Scale, Tick};
use super::{Chart, Drawing, Look, Point, Series};

/// Points that get marks though a line joins them.
const FEW: usize = 24;
/// Between a border and what is inside.
const SPACE: f64 = 6.0;
/// From one line of text to the next.
const LINE: f64 = 16.0;
/// The sample of a line in a legend.
const SWATCH: f64 = 24.0;

/// Where the plot is.
#[derive(Clone, Copy)]
struct Plot {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: Scale,
    y: Scale,
}

impl Plot {
    fn place(&self, x: f64, y: f64) -> Option<(f64, f64)> {
        Some((self.across(self.x.at(x)?), self.up(self.y.at(y)?)))
    }

    fn across(&self, share: f64) -> f64 {
        self.left + share * (self.right - self.left)
    }

    fn up(&self, share: f64) -> f64 {
        self.bottom - share * (self.bottom - self.top)
    }
}

pub(super) fn draw(chart: &Chart) -> Drawing {
    let mut canvas = Canvas::default();
    let whole = chart.width;
    canvas.text("title", (SPACE, LINE), Anchor::Start, whole - 2.0 * SPACE, &chart.title);
    let names: Vec<(usize, &str, Look)> =
        styles(chart).map(|(style, series)| (style, series.name.as_str(), series.look)).collect();
    let names = if names.len() > 1 || chart.named { &names[..] } else { &[] };
    let after = legend(&mut canvas, names, LINE + SPACE, whole);
    let top = after + LINE + SPACE;
    let bottom = top + chart.height;
    let height = bottom + 2.0 * LINE + 4.0;
    canvas.text("muted", (SPACE, after + 12.0), Anchor::Start, whole - 2.0 * SPACE, &chart.y.title);
    canvas.text("muted", (whole - SPACE, height - 5.0), Anchor::End, whole - 2.0 * SPACE, &chart.x.title);
    match scales(chart) {
        Some((x, y)) => {
            let ticks = y.ticks((chart.height / 32.0) as usize);
            let widest = ticks.iter().map(|t| width(&t.label, SIZE)).fold(0.0, f64::max);
            let plot = Plot { left: widest + 2.0 * SPACE, right: whole - 2.0 * SPACE, top, bottom, x, y };
            frame(&mut canvas, &plot, &ticks, whole);
            let all: Vec<(usize, &Series)> = styles(chart).collect();
            all.iter().for_each(|(style, series)| bands(&mut canvas, &plot, *style, series));
            all.iter().for_each(|(style, series)| points(&mut canvas, &plot, *style, series));
        }
        None => {
            canvas.line("axis", [SPACE, bottom, whole - SPACE, bottom]);
            let middle = (whole / 2.0, (top + bottom) / 2.0);
            canvas.text("muted", middle, Anchor::Middle, whole - 2.0 * SPACE, "no numbers");
        }
    }
    Drawing { svg: canvas.svg(&chart.title, whole, height), width: whole }
}

fn styles(chart: &Chart) -> impl Iterator<Item = (usize, &Series)> {
    chart.series.iter().enumerate().map(|(n, series)| (series.style.unwrap_or(n), series))
}

fn scales(chart: &Chart) -> Option<(Scale, Scale)> {
    let shown = || {
        let inside = |p: &&Point| (!chart.x.log || p.x > 0.0) && p.x.is_finite() && p.y.is_finite();
        chart.series.iter().flat_map(move |s| s.points.iter().filter(inside))
    };
    let x = Scale::over(shown().map(|p| p.x), chart.x.log, 0.02)?;
    let ends = |p: &Point| if p.has_interval() { [p.y, p.low, p.high] } else { [p.y; 3] };
    let y = Scale::over(shown().flat_map(ends), chart.y.log, 0.05)?;
    Some((x, y))
}

/// The names of the series, in as many lines as they need; answers where the next thing may begin.
fn legend(canvas: &mut Canvas, names: &[(usize, &str, Look)], top: f64, whole: f64) -> f64 {
    if names.is_empty() {
        return top;
    }
    let (mut x, mut y) = (SPACE, top + 12.0);
    for (style, name, look) in names {
        let room = whole - 2.0 * SPACE - SWATCH - 4.0;
        let shown = fit(name, SIZE, room);
        let wide = SWATCH + 4.0 + width(&shown, SIZE);
        if x > SPACE && x + wide > whole - SPACE {
            (x, y) = (SPACE, y + LINE);
        }
        let middle = y - 4.0;
        if *look != Look::Marks {
            let thin = if *look == Look::Curve { " thin" } else { "" };
            canvas.line(&format!("line{thin} {}", stroke(*style)), [x, middle, x + SWATCH, middle]);
        }
        if *look != Look::Curve {
            canvas.mark(*style, x + SWATCH / 2.0, middle);
        }
        canvas.text("name", (x + SWATCH + 4.0, y), Anchor::Start, room, name);
        x += wide + 14.0;
    }
    y + 6.0
}

/// Axes, ticks, lines to read values by.
fn frame(canvas: &mut Canvas, plot: &Plot, ticks: &[Tick], whole: f64) {
    let mut free = f64::INFINITY;
    for tick in ticks {
        let y = plot.up(tick.at);
        canvas.line("grid", [plot.left, y, plot.right, y]);
        // On a logarithmic axis ticks may be near each other.
        if y + LINE * 0.4 < free {
            canvas.text("tick", (plot.left - SPACE, y + 4.0), Anchor::End, plot.left, &tick.label);
            free = y - LINE * 0.5;
        }
    }
    canvas.line("axis", [plot.left, plot.bottom, plot.right, plot.bottom]);
    across(canvas, plot.x, (plot.left, plot.right), plot.bottom, whole);
}

/// The ticks of a horizontal axis at this height, as many as do not touch.
pub(super) fn across(canvas: &mut Canvas, scale: Scale, (left, right): (f64, f64), y: f64, whole: f64) {
    let mut free = 0.0;
    for tick in scale.ticks(((right - left) / 64.0) as usize) {
        let x = left + tick.at * (right - left);
        let half = width(&tick.label, SIZE) / 2.0;
        let middle = x.clamp(half, (whole - half).max(half));
        canvas.line("axis", [x, y, x, y + 4.0]);
        if middle - half >= free {
            canvas.text("tick", (middle, y + LINE), Anchor::Middle, whole, &tick.label);
            free = middle + half + SPACE;
        }
    }
}

/// Intervals of a line.
fn bands(canvas: &mut Canvas, plot: &Plot, style: usize, series: &Series) {
    if series.look == Look::Marks {
        return;
    }
    for run in series.points.split(|p| !p.y.is_finite()) {
        let edge =
            |p: &Point, y: f64| plot.place(p.x, y).map(|(x, y)| format!("{} {}", number(x), number(y)));
        let there = |p: &&Point| p.has_interval();
        let upper: Vec<String> = run.iter().filter(there).filter_map(|p| edge(p, p.high)).collect();
        let lower: Vec<String> = run.iter().rev().filter(there).filter_map(|p| edge(p, p.low)).collect();
        if upper.len() > 1 && lower.len() > 1 {
            let class = format!("band s{}", style % super::canvas::COLOURS);
            canvas.path(&class, &format!("M{}L{}Z", upper.join("L"), lower.join("L")));
        }
    }
}

/// Lines, marks and error bars of a series.
fn points(canvas: &mut Canvas, plot: &Plot, style: usize, series: &Series) {
    let places: Vec<(&Point, Option<(f64, f64)>)> =
        series.points.iter().map(|p| (p, plot.place(p.x, p.y).filter(|_| p.y.is_finite()))).collect();
    if series.look != Look::Marks {
        let thin = if series.look == Look::Curve { " thin" } else { "" };
        let class = format!("line{thin} {}", stroke(style));
        for run in places.split(|(_, place)| place.is_none()).filter(|run| run.len() > 1) {
            let way: Vec<String> = run
                .iter()
                .filter_map(|(_, place)| place.map(|(x, y)| format!("{} {}", number(x), number(y))))
                .collect();
            canvas.path(&class, &format!("M{}", way.join("L")));
        }
    }
    let few = places.len() <= FEW;
    for (n, (point, place)) in places.iter().enumerate() {
        let Some((x, y)) = *place else { continue };
        let gap = |at: Option<usize>| at.and_then(|at| places.get(at)).is_none_or(|(_, p)| p.is_none());
        let alone = gap(n.checked_sub(1)) && gap(Some(n + 1));
        let bar = point.has_interval() && (series.look == Look::Marks || alone);
        if bar && let (Some(low), Some(high)) = (plot.y.at(point.low), plot.y.at(point.high)) {
            let class = format!("bar s{}", style % super::canvas::COLOURS);
            let (low, high) = (plot.up(low), plot.up(high));
            canvas.line(&class, [x, low, x, high]);
            [low, high].into_iter().for_each(|y| canvas.line(&class, [x - 3.0, y, x + 3.0, y]));
        }
        let marked = match series.look {
            Look::Line => few || alone,
            Look::Marks => true,
            Look::Curve => false,
        };
        if marked {
            canvas.mark(style, x, y);
        }
    }
}
