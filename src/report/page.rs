//! An HTML page that stands alone: its style is inside, its figures are inline SVG, nothing is fetched and no
//! script runs (the page itself forbids both). Sections of paragraphs, tables, figures and samples; all text is
//! escaped here, so callers hand over text as it is.
//!
//! ```
//! use retort::report::draw::{Axis, Chart, Series};
//! use retort::report::page::{Cell, Page, Section, Table};
//! let drawing = Chart::new("Loss", Axis::new("update"), Axis::new("nats a token"))
//!     .with(Series::line("sft", [(1.0, 3.2), (2.0, 2.9)]))
//!     .draw();
//! let table = Table::new(["model", "Rouge-L"])
//!     .row([Cell::text("sft"), Cell::number(21.53, 2).between(20.9, 22.1, 2)]);
//! let page = Page::new("Two <updates>")
//!     .lead("What came of them.")
//!     .section(Section::new("Loss").paragraph("It falls.").figure(&drawing, "A mean over tokens."))
//!     .section(Section::new("Quality").table(table));
//! let html = page.html();
//! assert!(html.starts_with("<!doctype html>") && html.contains("<h1>Two &lt;updates&gt;</h1>"));
//! assert!(html.contains("20.90 to 22.10"));
//! ```

use super::draw::{Drawing, STYLE};
use super::escape;

/// What pages look like.
const PAGE: &str = include_str!("page.css");

/// Nothing from elsewhere, no script.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// A page.
#[derive(Debug, Clone)]
pub struct Page {
    title: String,
    lead: Vec<String>,
    sections: Vec<Section>,
}

impl Page {
    /// An empty one.
    pub fn new(title: impl Into<String>) -> Self {
        Page { title: title.into(), lead: Vec::new(), sections: Vec::new() }
    }

    /// With a paragraph below the title.
    pub fn lead(mut self, text: impl Into<String>) -> Self {
        self.lead.push(text.into());
        self
    }

    /// With one more section.
    pub fn section(mut self, section: Section) -> Self {
        self.sections.push(section);
        self
    }

    /// With the sections of another page behind its own.
    pub fn followed_by(mut self, other: Page) -> Self {
        self.sections.extend(other.sections);
        self
    }

    /// The headings, in their order.
    pub fn headings(&self) -> impl Iterator<Item = &str> {
        self.sections.iter().map(|s| s.heading.as_str())
    }

    /// The file.
    pub fn html(&self) -> String {
        let title = escape(&self.title);
        let mut out = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n\
             <style>\n{STYLE}{PAGE}</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>\n"
        );
        for text in &self.lead {
            out += &format!("<p class=\"lead\">{}</p>\n", escape(text));
        }
        if self.sections.len() > 1 {
            let link = |(n, heading): (usize, &str)| format!("<a href=\"#s{n}\">{}</a>", escape(heading));
            let links: Vec<String> = self.headings().enumerate().map(link).collect();
            out += &format!("<nav>{}</nav>\n", links.join("\n"));
        }
        out += "</header>\n<main>\n";
        for (n, section) in self.sections.iter().enumerate() {
            out += &format!("<section id=\"s{n}\">\n<h2>{}</h2>\n", escape(&section.heading));
            blocks(&mut out, &section.blocks);
            out += "</section>\n";
        }
        out + "</main>\n</body>\n</html>\n"
    }
}

/// A heading and what stands below it.
#[derive(Debug, Clone)]
pub struct Section {
    heading: String,
    blocks: Vec<Block>,
}

#[derive(Debug, Clone)]
enum Block {
    Paragraph(String),
    Table(Table),
    Figure { svg: String, wide: bool, caption: String },
    Sample(Sample),
    Folded(Section),
}

impl Section {
    /// An empty one.
    pub fn new(heading: impl Into<String>) -> Self {
        Section { heading: heading.into(), blocks: Vec::new() }
    }

    fn add(mut self, block: Block) -> Self {
        self.blocks.push(block);
        self
    }

    /// With a paragraph.
    pub fn paragraph(self, text: impl Into<String>) -> Self {
        self.add(Block::Paragraph(text.into()))
    }

    /// With a table, which scrolls in a box of its own where it is too wide.
    pub fn table(self, table: Table) -> Self {
        self.add(Block::Table(table))
    }

    /// With a drawing; those that follow each other stand side by side. An empty caption is none.
    pub fn figure(self, drawing: &Drawing, caption: impl Into<String>) -> Self {
        let (svg, wide) = (drawing.inline().to_string(), drawing.is_wide());
        self.add(Block::Figure { svg, wide, caption: caption.into() })
    }

    /// With a prompt and replies to it.
    pub fn sample(self, sample: Sample) -> Self {
        self.add(Block::Sample(sample))
    }

    /// With something that is closed until it is wanted; its heading opens it.
    pub fn folded(self, inner: Section) -> Self {
        self.add(Block::Folded(inner))
    }

    /// Whether there is nothing below the heading.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

/// A table. The first column names its rows.
#[derive(Debug, Clone)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// Its columns.
    pub fn new<T: Into<String>>(head: impl IntoIterator<Item = T>) -> Self {
        Table { head: head.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// With one more row.
    pub fn row(mut self, cells: impl IntoIterator<Item = Cell>) -> Self {
        self.rows.push(cells.into_iter().collect());
        self
    }

    /// Whether it has no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn html(&self) -> String {
        // A column of numbers has its heading above the digits.
        let numeric = |n: usize| self.rows.iter().any(|row| row.get(n).is_some_and(|cell| cell.number));
        let class = |number: bool| if number { " class=\"number\"" } else { "" };
        let mut out = String::from("<div class=\"scroll\"><table>\n<thead><tr>");
        for (n, name) in self.head.iter().enumerate() {
            out += &format!("<th scope=\"col\"{}>{}</th>", class(numeric(n)), escape(name));
        }
        out += "</tr></thead>\n<tbody>\n";
        for row in &self.rows {
            out += "<tr>";
            for (n, cell) in row.iter().enumerate() {
                let (tag, scope) = if n == 0 { ("th", " scope=\"row\"") } else { ("td", "") };
                let text = escape(&cell.text);
                let text = if cell.strong { format!("<strong>{text}</strong>") } else { text };
                let note = match &cell.note {
                    Some(note) => format!("<span class=\"note\">{}</span>", escape(note)),
                    None => String::new(),
                };
                out += &format!("<{tag}{scope}{}>{text}{note}</{tag}>", class(cell.number));
            }
            out += "</tr>\n";
        }
        out + "</tbody>\n</table></div>\n"
    }
}

/// A cell of a table.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    text: String,
    note: Option<String>,
    number: bool,
    strong: bool,
}

impl Cell {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Cell { text: text.into(), ..Cell::default() }
    }

    /// A number with so many decimals.
    pub fn number(x: f64, decimals: usize) -> Self {
        Cell { text: format!("{x:.decimals$}"), number: true, ..Cell::default() }
    }

    /// A number that is written already, such as `1.2M`.
    pub fn figure(text: impl Into<String>) -> Self {
        Cell { text: text.into(), number: true, ..Cell::default() }
    }

    /// Nothing, where there is no number.
    pub fn none() -> Self {
        Cell::figure("\u{2013}")
    }

    /// With the ends of its interval below.
    pub fn between(self, low: f64, high: f64, decimals: usize) -> Self {
        self.note(format!("{low:.decimals$} to {high:.decimals$}"))
    }

    /// With a few words below.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// Made to stand out.
    pub fn strong(mut self) -> Self {
        self.strong = true;
        self
    }
}

/// A prompt and replies to it, side by side.
#[derive(Debug, Clone)]
pub struct Sample {
    prompt: String,
    replies: Vec<(Whose, String, String, String)>,
}

/// Who made a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The data.
    Gold,
    /// The teacher.
    Teacher,
    /// A student.
    Student,
}

impl Sample {
    /// A prompt without replies.
    pub fn new(prompt: impl Into<String>) -> Self {
        Sample { prompt: prompt.into(), replies: Vec::new() }
    }

    /// With one more reply: its maker's name, what there is to say of it in a few words, and the reply.
    pub fn reply(
        mut self,
        whose: Whose,
        name: impl Into<String>,
        note: impl Into<String>,
        text: impl Into<String>,
    ) -> Self {
        self.replies.push((whose, name.into(), note.into(), text.into()));
        self
    }

    fn html(&self) -> String {
        let mut out = format!(
            "<article class=\"sample\">\n<pre class=\"prompt\" dir=\"auto\">{}</pre>\n<div class=\"replies\">\n",
            escape(&self.prompt)
        );
        for (whose, name, note, text) in &self.replies {
            let class = match whose {
                Whose::Gold => "gold",
                Whose::Teacher => "teacher",
                Whose::Student => "student",
            };
            let shown = if text.trim().is_empty() {
                "<p class=\"nothing\">nothing</p>".to_string()
            } else {
                format!("<pre dir=\"auto\">{}</pre>", escape(text.trim()))
            };
            out += &format!(
                "<div class=\"reply {class}\"><h3>{}<span class=\"note\">{}</span></h3>{shown}</div>\n",
                escape(name),
                escape(note)
            );
        }
        out + "</div>\n</article>\n"
    }
}

fn blocks(out: &mut String, blocks: &[Block]) {
    let mut at = 0;
    while let Some(block) = blocks.get(at) {
        match block {
            Block::Paragraph(text) => *out += &format!("<p>{}</p>\n", escape(text)),
            Block::Table(table) => *out += &table.html(),
            Block::Sample(sample) => *out += &sample.html(),
            Block::Folded(inner) => {
                *out += &format!("<details>\n<summary>{}</summary>\n", escape(&inner.heading));
                self::blocks(out, &inner.blocks);
                *out += "</details>\n";
            }
            Block::Figure { .. } => {
                let beside = |b: &&Block| matches!(b, Block::Figure { .. });
                let group: Vec<&Block> = blocks[at..].iter().take_while(beside).collect();
                *out += "<div class=\"figures\">\n";
                group.iter().for_each(|figure| self::figure(out, figure));
                *out += "</div>\n";
                at += group.len();
                continue;
            }
        }
        at += 1;
    }
}

fn figure(out: &mut String, block: &Block) {
    let Block::Figure { svg, wide, caption } = block else { return };
    let class = if *wide { " class=\"wide\"" } else { "" };
    *out += &format!("<figure{class}><div class=\"scroll\">{svg}</div>");
    if !caption.is_empty() {
        *out += &format!("<figcaption>{}</figcaption>", escape(caption));
    }
    *out += "</figure>\n";
}

#[cfg(test)]
mod tests;
