//! The tokens of a Jinja tag, as [`super::rewrite`] reads them.

/// The most words and signs of one tag.
const LONGEST_TAG: usize = 16_384;

/// The tokens up to the tag's end, and where that is (at its `-` or `+`, where it has one).
pub(super) fn tokens<'t>(text: &'t str, start: usize, close: &str) -> Result<(Vec<&'t str>, usize), String> {
    let (mut tokens, mut at, mut open) = (Vec::new(), start, 0usize);
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        let rest = &text[at..];
        let first = rest.chars().next().ok_or("a tag without an end")?;
        let ends = rest.starts_with(close) || (matches!(first, '-' | '+') && rest[1..].starts_with(close));
        if ends && open == 0 {
            return Ok((tokens, at));
        }
        let length = match first {
            '"' | '\'' => string_length(rest, first)?,
            'a'..='z' | 'A'..='Z' | '_' => run(rest, |c| c.is_ascii_alphanumeric() || c == '_'),
            '0'..='9' => number_length(rest, tokens.last() == Some(&".")),
            _ => operator_length(rest).ok_or_else(|| format!("a character that is no Jinja: {first:?}"))?,
        };
        let token = &rest[..length];
        if tokens.len() == LONGEST_TAG {
            return Err(format!("a tag of more than {LONGEST_TAG} words and signs"));
        }
        match token {
            "(" | "[" | "{" => open += 1,
            ")" | "]" | "}" => open = open.saturating_sub(1),
            _ => {}
        }
        tokens.push(token);
        at += length;
    }
}

fn run(text: &str, keep: impl Fn(char) -> bool) -> usize {
    text.find(|c| !keep(c)).unwrap_or(text.len())
}

fn string_length(text: &str, quote: char) -> Result<usize, String> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Ok(at + 1),
            _ => {}
        }
    }
    Err("a string without an end".to_string())
}

fn number_length(text: &str, index: bool) -> usize {
    let mut length = run(text, |c| c.is_ascii_alphanumeric() || c == '_');
    let fraction = text[length..].strip_prefix('.').filter(|r| r.starts_with(|c: char| c.is_ascii_digit()));
    if let (Some(fraction), false) = (fraction, index) {
        length += 1 + run(fraction, |c| c.is_ascii_alphanumeric() || c == '_');
    }
    if text[..length].ends_with(['e', 'E']) && text[length..].starts_with(['+', '-']) {
        length += 1 + run(&text[length + 1..], |c| c.is_ascii_digit());
    }
    length
}

fn operator_length(text: &str) -> Option<usize> {
    let two = ["**", "//", "==", "!=", "<=", ">="];
    if two.iter().any(|op| text.starts_with(op)) {
        return Some(2);
    }
    text.starts_with([
        '+', '-', '*', '/', '%', '~', '<', '>', '=', '.', ',', ':', '|', '(', ')', '[', ']', '{', '}',
    ])
    .then_some(1)
}
