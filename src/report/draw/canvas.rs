//! The elements of a drawing, and how wide text is. Browsers choose the font, so widths are guessed from the
//! widest that they commonly choose (DejaVu Sans): what fits by this guess fits.

use std::fmt::Write;

use crate::report::escape;

/// A text's size in units of the drawing, as the style sheet has it.
pub(super) const SIZE: f64 = 11.0;

/// Where a text stands against its place.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// Elements, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Canvas {
    out: String,
}

impl Canvas {
    /// A straight line.
    pub fn line(&mut self, class: &str, [x1, y1, x2, y2]: [f64; 4]) {
        let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(number);
        self.element(&format!("<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>"));
    }

    /// A path of this data.
    pub fn path(&mut self, class: &str, data: &str) {
        self.element(&format!("<path class=\"{class}\" d=\"{data}\"/>"));
    }

    /// A rectangle, with what is said where it is pointed at.
    pub fn rect(&mut self, class: &str, [x, y, width, height]: [f64; 4], says: &str) {
        let [x, y, width, height] = [x, y, width, height].map(number);
        let says = escape(says);
        self.element(&format!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"><title>{says}</title></rect>"
        ));
    }

    /// A text whose baseline is at a place, cut to fit a width; the whole is said where it is pointed at.
    pub fn text(&mut self, class: &str, (x, y): (f64, f64), anchor: Anchor, room: f64, text: &str) {
        let cut = fit(text, size(class), room);
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let whole = if cut == text { String::new() } else { format!("<title>{}</title>", escape(text)) };
        let (x, y, cut) = (number(x), number(y), escape(&cut));
        self.element(&format!(
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{cut}{whole}</text>"
        ));
    }

    /// A mark of the shape of this style.
    pub fn mark(&mut self, style: usize, x: f64, y: f64) {
        let class = format!("mark s{}", style % COLOURS);
        let r = 2.8;
        let point = |dx: f64, dy: f64| format!("{} {}", number(x + dx * r), number(y + dy * r));
        let corners: &[(f64, f64)] = match style % SHAPES {
            0 => {
                let (x, y) = (number(x), number(y));
                return self.element(&format!("<circle class=\"{class}\" cx=\"{x}\" cy=\"{y}\" r=\"{r}\"/>"));
            }
            1 => &[(-0.95, -0.95), (0.95, -0.95), (0.95, 0.95), (-0.95, 0.95)],
            2 => &[(0.0, -1.25), (1.2, 0.95), (-1.2, 0.95)],
            3 => &[(0.0, -1.35), (1.35, 0.0), (0.0, 1.35), (-1.35, 0.0)],
            _ => &[(0.0, 1.25), (1.2, -0.95), (-1.2, -0.95)],
        };
        let corners: Vec<String> = corners.iter().map(|&(dx, dy)| point(dx, dy)).collect();
        self.path(&class, &format!("M{}Z", corners.join("L")));
    }

    /// What another one has, over what is here.
    pub fn append(&mut self, other: Canvas) {
        self.out.push_str(&other.out);
    }

    fn element(&mut self, text: &str) {
        self.out.push_str(text);
        self.out.push('\n');
    }

    /// The whole drawing.
    pub fn svg(self, title: &str, width: f64, height: f64) -> String {
        let (title, body) = (escape(title), self.out);
        let (width, height) = (number(width), number(height));
        format!(
            "<svg class=\"chart\" role=\"img\" aria-label=\"{title}\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\">\n{body}</svg>\n"
        )
    }
}

/// Colours, shapes of marks, and patterns of lines that there are.
pub(super) const COLOURS: usize = 7;
const SHAPES: usize = 5;
const DASHES: usize = 5;

/// The classes of a line of this style: no two of the first 35 are the same.
pub(super) fn stroke(style: usize) -> String {
    format!("s{} d{}", style % COLOURS, (style + style / COLOURS) % DASHES)
}

/// A coordinate in a tenth of a unit.
pub(super) fn number(x: f64) -> String {
    let mut text = String::new();
    let _ = write!(text, "{:.1}", if x.is_finite() { x } else { 0.0 });
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" { "0".into() } else { text.to_string() }
}

fn size(class: &str) -> f64 {
    if class == "title" { SIZE + 2.0 } else { SIZE }
}

/// A guess at a text's width.
pub(super) fn width(text: &str, size: f64) -> f64 {
    let of = |c: char| match c {
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | ' ' | '(' | ')' | '[' | ']' => 0.40,
        'f' | 't' | 'r' | '-' | '/' => 0.44,
        'm' | 'w' | 'M' | 'W' | '@' | '%' | '…' | '+' | '=' | '~' => 1.0,
        c if c.is_ascii_digit() => 0.64,
        c if c.is_ascii_uppercase() => 0.77,
        c if c.is_ascii() => 0.64,
        c if (c as u32) < 0x1100 => 0.8,
        _ => 1.15,
    };
    text.chars().map(of).sum::<f64>() * size
}

/// The text, or as much of its beginning as fits, with an ellipsis.
pub(super) fn fit(text: &str, size: f64, room: f64) -> String {
    if width(text, size) <= room {
        return text.to_string();
    }
    let (mut out, mut used) = (String::new(), width("…", size));
    for c in text.chars() {
        used += width(c.encode_utf8(&mut [0; 4]), size);
        if used > room {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}
