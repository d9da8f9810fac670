//! Stacked bars, one below the other: what a whole is made of, for several wholes on one scale.

use super::canvas::{Anchor, COLOURS, Canvas, SIZE, fit, width};
use super::chart::across;
use super::scale::Scale;
use super::{Axis, Drawing, NARROW};

const SPACE: f64 = 6.0;
const LINE: f64 = 16.0;
const THICK: f64 = 18.0;

/// Bars of parts. Each bar's name stands above it, so that it may be long.
///
/// ```
/// use retort::report::draw::{Axis, Bars};
/// let drawing = Bars::new("Time", Axis::new("seconds"), ["sample", "train"])
///     .bar("sft", [0.0, 40.0])
///     .bar("minillm", [31.0, 55.0])
///     .draw();
/// assert_eq!(drawing.inline().matches("<rect class=\"part").count(), 3 + 2, "parts and the legend");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    title: String,
    axis: Axis,
    parts: Vec<String>,
    bars: Vec<(String, Vec<f64>)>,
    width: f64,
}

impl Bars {
    /// None yet; the axis is a linear one, from 0 on.
    pub fn new<P: Into<String>>(
        title: impl Into<String>,
        axis: Axis,
        parts: impl IntoIterator<Item = P>,
    ) -> Self {
        let parts = parts.into_iter().map(Into::into).collect();
        Bars { title: title.into(), axis, parts, bars: Vec::new(), width: NARROW }
    }

    /// With one more bar: a value a part, in their order. What is not positive is not drawn.
    pub fn bar(mut self, name: impl Into<String>, values: impl IntoIterator<Item = f64>) -> Self {
        let good = |x: f64| if x.is_finite() && x > 0.0 { x } else { 0.0 };
        self.bars.push((name.into(), values.into_iter().map(good).collect()));
        self
    }

    /// With another width in pixels of its natural size.
    pub fn sized(mut self, width: u32) -> Self {
        self.width = f64::from(width.clamp(240, 4000));
        self
    }

    /// Draws them.
    pub fn draw(&self) -> Drawing {
        let (whole, mut canvas) = (self.width, Canvas::default());
        canvas.text("title", (SPACE, LINE), Anchor::Start, whole - 2.0 * SPACE, &self.title);
        let mut y = self.legend(&mut canvas, LINE + SPACE);
        let most = self.bars.iter().map(|(_, parts)| parts.iter().sum()).fold(0.0, f64::max);
        let (left, right) = (SPACE, whole - 2.0 * SPACE);
        let scale = Scale::from_zero(most * 1.02);
        let place = |x: f64| left + scale.at(x).unwrap_or(0.0) * (right - left);
        let top = y;
        let mut bars = Canvas::default();
        for (name, parts) in &self.bars {
            bars.text("name", (left, y + 13.0), Anchor::Start, right - left, name);
            let mut from = 0.0;
            for (n, &value) in parts.iter().enumerate().filter(|(_, value)| **value > 0.0) {
                let (a, b) = (place(from), place(from + value));
                let says = format!("{name}, {}: {value:.3}", self.parts.get(n).map_or("", String::as_str));
                bars.rect(&part(n), [a, y + LINE + 1.0, (b - a).max(0.2), THICK], &says);
                from += value;
            }
            y += LINE + THICK + 8.0;
        }
        canvas.line("axis", [left, top, left, y]);
        canvas.line("axis", [left, y, right, y]);
        across(&mut canvas, scale, (left, right), y, whole);
        let height = y + 2.0 * LINE + 4.0;
        canvas.text("muted", (whole - SPACE, height - 5.0), Anchor::End, whole, &self.axis.title);
        canvas.append(bars);
        Drawing { svg: canvas.svg(&self.title, whole, height), width: whole }
    }

    fn legend(&self, canvas: &mut Canvas, top: f64) -> f64 {
        let (mut x, mut y) = (SPACE, top + 12.0);
        for (n, name) in self.parts.iter().enumerate() {
            let room = self.width - 2.0 * SPACE - 16.0;
            let wide = 16.0 + width(&fit(name, SIZE, room), SIZE);
            if x > SPACE && x + wide > self.width - SPACE {
                (x, y) = (SPACE, y + LINE);
            }
            canvas.rect(&part(n), [x, y - 10.0, 12.0, 12.0], name);
            canvas.text("name", (x + 16.0, y), Anchor::Start, room, name);
            x += wide + 14.0;
        }
        y + 8.0
    }
}

/// Parts are told apart by colour, and every second round of colours by being paler.
fn part(n: usize) -> String {
    format!("part s{}{}", n % COLOURS, if n / COLOURS % 2 == 1 { " pale" } else { "" })
}
