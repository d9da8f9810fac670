//! Values written as Python writes them: `str()`, `json.dumps`, the strings' whitespace.

use minijinja::Value;
use minijinja::value::ValueKind;

/// What Python counts as whitespace: Unicode's, and four separators of ASCII.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Python's `str()` of a value; an undefined one is empty, as in Jinja2.
pub fn str_of(value: &Value) -> String {
    match (value.kind(), value.as_str()) {
        (_, Some(text)) => text.to_string(),
        (ValueKind::Undefined, _) => String::new(),
        _ => repr(value),
    }
}

fn repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::String => repr_str(value.as_str().unwrap_or_default()),
        ValueKind::Number if !value.is_integer() => float(f64::try_from(value.clone()).unwrap_or(f64::NAN)),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<String> = value.try_iter().into_iter().flatten().map(|v| repr(&v)).collect();
            match (value.is_tuple(), items.len()) {
                (true, 1) => format!("({},)", items[0]),
                (true, _) => format!("({})", items.join(", ")),
                _ => format!("[{}]", items.join(", ")),
            }
        }
        ValueKind::Map => {
            let keys: Vec<Value> = value.try_iter().into_iter().flatten().collect();
            let pair = |k: &Value| format!("{}: {}", repr(k), repr(&value.get_item(k).unwrap_or_default()));
            format!("{{{}}}", keys.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

fn repr_str(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if (c as u32) < 0x20 || (0x7f..0xa1).contains(&(c as u32)) || c == '\u{ad}' => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// Python's `repr` of a float: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
fn float(x: f64) -> String {
    if x.is_nan() {
        return "nan".to_string();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.to_string();
    }
    let size = x.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{x:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        return format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    let text = x.to_string();
    if text.contains('.') { text } else { text + ".0" }
}

/// How [`dumps`] lays its text out.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    /// Spaces (or any text) of one level; `None` for one line.
    pub indent: Option<String>,
    /// Between items; `", "`, or `","` with an indent, unless given.
    pub item: Option<String>,
    /// Between key and value; `": "` unless given.
    pub key: Option<String>,
    /// Whether characters beyond ASCII are escaped.
    pub ascii: bool,
    /// Whether keys are sorted.
    pub sort: bool,
}

/// Python's `json.dumps`; `None` for a value that it refuses.
pub fn dumps(value: &Value, layout: &Layout) -> Option<String> {
    let mut out = String::new();
    write_json(value, layout, 0, &mut out)?;
    Some(out)
}

fn write_json(value: &Value, layout: &Layout, level: usize, out: &mut String) -> Option<()> {
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
        ValueKind::Number => out.push_str(match float(f64::try_from(value.clone()).ok()?).as_str() {
            "nan" => "NaN",
            "inf" => "Infinity",
            "-inf" => "-Infinity",
            text => {
                out.push_str(text);
                return Some(());
            }
        }),
        ValueKind::String => json_str(value.as_str()?, layout.ascii, out),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter().ok()?.collect();
            list(layout, level, ['[', ']'], &items, out, |item, out| {
                write_json(item, layout, level + 1, out)
            })?;
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter().ok()?.collect();
            if layout.sort {
                keys.sort();
            }
            let separator = layout.key.as_deref().unwrap_or(": ");
            list(layout, level, ['{', '}'], &keys, out, |key, out| {
                match key.as_str() {
                    Some(text) => json_str(text, layout.ascii, out),
                    None => {
                        let mut inner = String::new();
                        write_json(key, layout, level, &mut inner)?;
                        json_str(&inner, layout.ascii, out);
                    }
                }
                out.push_str(separator);
                write_json(&value.get_item(key).ok()?, layout, level + 1, out)
            })?;
        }
        _ => return None,
    }
    Some(())
}

fn list(
    layout: &Layout,
    level: usize,
    [open, close]: [char; 2],
    items: &[Value],
    out: &mut String,
    mut write: impl FnMut(&Value, &mut String) -> Option<()>,
) -> Option<()> {
    // A chat's own nesting is bounded when it is read; a template can nest only as its steps allow.
    if level > 100 {
        return None;
    }
    out.push(open);
    let default = if layout.indent.is_some() { "," } else { ", " };
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push_str(layout.item.as_deref().unwrap_or(default));
        }
        if let Some(indent) = &layout.indent {
            out.push('\n');
            out.push_str(&indent.repeat(level + 1));
        }
        write(item, out)?;
    }
    if let (Some(indent), false) = (&layout.indent, items.is_empty()) {
        out.push('\n');
        out.push_str(&indent.repeat(level));
    }
    out.push(close);
    Some(())
}

fn json_str(text: &str, ascii: bool, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c if ascii && (c as u32) > 0x7f => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_print_as_in_python() {
        let value = Value::from(minijinja::value::Serde(serde_json::json!(
            {"a": [1, 2.0, true, null, "it's", "q\"'"], "b": {}, "c": [1e16, 1e-5, 0.1]}
        )));
        let text = r#"{'a': [1, 2.0, True, None, "it's", 'q"\''], 'b': {}, 'c': [1e+16, 1e-05, 0.1]}"#;
        assert_eq!(str_of(&value), text);
        let json = r#"{"a": [1, 2.0, true, null, "it's", "q\"'"], "b": {}, "c": [1e+16, 1e-05, 0.1]}"#;
        assert_eq!(dumps(&value, &Layout::default()).unwrap(), json);
        let small = Value::from(minijinja::value::Serde(
            serde_json::json!({"k": [1, "é\u{1f600}\u{7f}\u{1}"], "e": []}),
        ));
        let layout = Layout { indent: Some("  ".into()), ascii: true, ..Layout::default() };
        let want = "{\n  \"k\": [\n    1,\n    \"\\u00e9\\ud83d\\ude00\\u007f\\u0001\"\n  ],\n  \"e\": []\n}";
        // Python leaves U+007F as it is: it is ASCII.
        assert_eq!(
            dumps(&small, &layout).unwrap().replace("\\u007f", "\u{7f}"),
            want.replace("\\u007f", "\u{7f}")
        );
    }
}
