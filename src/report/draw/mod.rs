//! Charts as SVG, from plain numbers: lines with bands, marks with error bars, fitted curves, stacked bars. They
//! need no script and no font, follow the reader's light or dark, and tell series apart by colour, by dash and
//! by the shape of their marks.
//!
//! ```
//! use retort::report::draw::{Axis, Chart, Point, Series};
//! let quality = [(10.0, 21.0, 20.1, 21.8), (100.0, 24.0, 23.3, 24.9), (1000.0, 25.1, 24.6, 25.7)];
//! let points = quality.map(|(x, y, low, high)| Point { x, y, low, high });
//! let drawing = Chart::new("Quality by size", Axis::log("teacher (M parameters)"), Axis::new("Rouge-L"))
//!     .with(Series::marks("measured", points))
//!     .with(Series::curve("fitted", (0..=40).map(|n| 10f64.powf(1.0 + f64::from(n) / 20.0)).map(|x| (x, 26.0 - 23.0 / x.sqrt()))))
//!     .draw();
//! assert!(drawing.inline().contains("Rouge-L") && drawing.standalone().contains("xmlns="));
//! ```

mod bars;
mod canvas;
mod chart;
mod scale;
mod thin;

pub use bars::Bars;
pub use thin::{MOST, Thinner};

/// What drawings look like, light and dark; a page that has them inline needs it once.
pub const STYLE: &str = include_str!("style.css");

/// One point of a series. Where `low` and `high` differ they are an interval around `y`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Its place.
    pub x: f64,
    /// Its value; one that is not finite is a gap.
    pub y: f64,
    /// The interval's low end.
    pub low: f64,
    /// The interval's high end.
    pub high: f64,
}

impl From<(f64, f64)> for Point {
    fn from((x, y): (f64, f64)) -> Self {
        Point { x, y, low: y, high: y }
    }
}

impl Point {
    fn has_interval(&self) -> bool {
        self.low.is_finite() && self.high.is_finite() && self.low < self.high
    }
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Points joined by a line, intervals as a band; with marks where the points are few.
    Line,
    /// Marks, intervals as error bars.
    Marks,
    /// A thin line, such as a fit: nothing marks its points.
    Curve,
}

/// Points under a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    name: String,
    points: Vec<Point>,
    look: Look,
    style: Option<usize>,
}

impl Series {
    fn of<P: Into<Point>>(name: impl Into<String>, points: impl IntoIterator<Item = P>, look: Look) -> Self {
        Series { name: name.into(), points: points.into_iter().map(Into::into).collect(), look, style: None }
    }

    /// A line, its points in the order in which they are joined.
    pub fn line<P: Into<Point>>(name: impl Into<String>, points: impl IntoIterator<Item = P>) -> Self {
        Self::of(name, points, Look::Line)
    }

    /// Marks.
    pub fn marks<P: Into<Point>>(name: impl Into<String>, points: impl IntoIterator<Item = P>) -> Self {
        Self::of(name, points, Look::Marks)
    }

    /// A curve, such as a fit to marks.
    pub fn curve<P: Into<Point>>(name: impl Into<String>, points: impl IntoIterator<Item = P>) -> Self {
        Self::of(name, points, Look::Curve)
    }

    /// With the colour, dash and mark of this number, where its place among the series would give another:
    /// so that a run looks the same in every chart, or a fit has the colour of what it fits.
    pub fn styled(mut self, style: usize) -> Self {
        self.style = Some(style);
        self
    }

    /// Its values, as far as they are numbers.
    pub fn values(&self) -> impl Iterator<Item = f64> {
        self.points.iter().map(|p| p.y).filter(|y| y.is_finite())
    }

    /// Whether all of them have a logarithm.
    pub fn is_positive(&self) -> bool {
        self.points.iter().all(|p| p.y > 0.0 && p.low > 0.0 || !p.y.is_finite())
    }

    /// Whether there is a number in it.
    pub fn is_empty(&self) -> bool {
        !self.points.iter().any(|p| p.x.is_finite() && p.y.is_finite())
    }
}

/// An axis: what is on it, with the unit, and whether its scale is logarithmic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    title: String,
    log: bool,
}

impl Axis {
    /// A linear one.
    pub fn new(title: impl Into<String>) -> Self {
        Axis { title: title.into(), log: false }
    }

    /// A logarithmic one; what is not positive is not drawn.
    pub fn log(title: impl Into<String>) -> Self {
        Axis { title: title.into(), log: true }
    }
}

/// Several series on shared axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    title: String,
    x: Axis,
    y: Axis,
    series: Vec<Series>,
    width: f64,
    height: f64,
    named: bool,
}

impl Chart {
    /// An empty one, narrow enough for a phone.
    pub fn new(title: impl Into<String>, x: Axis, y: Axis) -> Self {
        Chart { title: title.into(), x, y, series: Vec::new(), width: NARROW, height: 150.0, named: false }
    }

    /// With one more series.
    pub fn with(mut self, series: Series) -> Self {
        self.series.push(series);
        self
    }

    /// With a legend also where there is one series.
    pub fn named(mut self) -> Self {
        self.named = true;
        self
    }

    /// With another width of the whole and another height of the plot, in pixels of its natural size.
    pub fn sized(mut self, width: u32, height: u32) -> Self {
        (self.width, self.height) = (f64::from(width.clamp(240, 4000)), f64::from(height.clamp(60, 4000)));
        self
    }

    /// Draws it.
    pub fn draw(&self) -> Drawing {
        chart::draw(self)
    }
}

/// The width of a drawing that a phone shows in whole.
pub(crate) const NARROW: f64 = 360.0;

/// A drawing.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawing {
    svg: String,
    width: f64,
}

impl Drawing {
    /// To stand in an HTML page that has [`STYLE`].
    pub fn inline(&self) -> &str {
        &self.svg
    }

    /// A file of its own.
    pub fn standalone(&self) -> String {
        let head = "<svg xmlns=\"http://www.w3.org/2000/svg\" ";
        let body = self.svg.strip_prefix("<svg ").unwrap_or(&self.svg);
        let (open, rest) = body.split_once('>').unwrap_or((body, ""));
        format!(
            "{head}{open}>\n<style>\n{STYLE}</style>\n<rect class=\"paper\" width=\"100%\" height=\"100%\"/>{rest}"
        )
    }

    /// Whether a phone would have to shrink it until nobody can read it.
    pub(crate) fn is_wide(&self) -> bool {
        self.width > NARROW
    }
}

#[cfg(test)]
mod tests;

/// A drawing with this text wherever text can be, for tests of other files.
#[cfg(test)]
pub(super) fn tests_with(text: &str) -> Drawing {
    let chart = Chart::new(text, Axis::new(text), Axis::new(text)).with(Series::line(text, [(0.0, 1.0)]));
    let chart = chart.with(Series::marks(text, [(1.0, 1.0)])).draw();
    let bars = Bars::new(text, Axis::new(text), [text]).bar(text, [1.0]).draw();
    Drawing { svg: chart.svg + &bars.svg, width: NARROW }
}
