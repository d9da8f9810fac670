//! A chat template is rewritten before minijinja compiles it, for two reasons.
//!
//! *Memory.* minijinja's fuel bounds steps, not bytes: thirty times `s ~ s` is a gigabyte. So `~`, `+`
//! and `*` become calls (`__cat`, `__add`, `__mul`) of functions that keep a budget, and a long raw
//! text is cut by empty outputs, so that no single step writes more than a few hundred bytes of it.
//!
//! *Sameness.* A slice becomes `__slice`, which gives a list as Jinja2 does (minijinja's is lazy and
//! takes no index), and `{% generation %}` becomes `{% with %}`.
//!
//! Only what stands inside tags is touched, so whitespace control stays what it was.

/// The longest raw text that one step may write, near enough.
const PIECE: usize = 256;
/// The longest raw text without a place to cut it.
const LONGEST_UNCUT: usize = 8 << 10;
/// Brackets within each other.
const DEEPEST: usize = 60;
/// The tokens of a tag: a chain of operators is copied at each of them.
const LONGEST_TAG: usize = 16_384;

/// The rewritten template, or what is wrong with it.
///
/// ```
/// let out = retort::text::jinja::rewrite::rewrite("{{ a ~ b[1:] }}").unwrap();
/// assert_eq!(out, "{{ __cat(a , __slice(b, 1, none, none)) }}");
/// ```
pub fn rewrite(source: &str) -> Result<String, String> {
    let mut out = String::with_capacity(source.len() * 2);
    let mut rest = source;
    while let Some(at) = find_open(rest) {
        raw_text(&rest[..at], &mut out)?;
        rest = &rest[at..];
        if rest.starts_with("{#") {
            let end = rest.find("#}").ok_or("a comment without an end")? + 2;
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        let (text, used) = tag(rest)?;
        out.push_str(&text);
        let raw = is_raw(&rest[..used]);
        rest = &rest[used..];
        if raw {
            let end = find_endraw(rest).ok_or("a raw block without an end")?;
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    raw_text(rest, &mut out)?;
    Ok(out)
}

fn find_open(text: &str) -> Option<usize> {
    ["{{", "{%", "{#"].iter().filter_map(|open| text.find(open)).min()
}

fn is_raw(tag: &str) -> bool {
    tag.trim_start_matches("{%").trim_end_matches("%}").trim_matches(['-', '+']).trim() == "raw"
}

fn find_endraw(text: &str) -> Option<usize> {
    text.match_indices("{%")
        .map(|(at, _)| at)
        .find(|at| text[at + 2..].trim_start_matches(['-', '+']).trim_start().starts_with("endraw"))
}

/// Copies a raw text, with an empty output after some letter every few hundred bytes. It goes only
/// between two characters that no whitespace rule and no tag can reach.
fn raw_text(text: &str, out: &mut String) -> Result<(), String> {
    let mut since = 0;
    for c in text.chars() {
        out.push(c);
        since += c.len_utf8();
        if since >= PIECE && c.is_alphanumeric() {
            out.push_str("{{ \"\" }}");
            since = 0;
        }
        if since > LONGEST_UNCUT {
            return Err(format!("more than {LONGEST_UNCUT} bytes without a letter"));
        }
    }
    Ok(())
}

/// One `{{ }}` or `{% %}` at the start of `text`: its rewritten form and its length.
fn tag(text: &str) -> Result<(String, usize), String> {
    let block = text.starts_with("{%");
    let close = if block { "%}" } else { "}}" };
    let marker = text[2..].chars().next().filter(|c| matches!(c, '-' | '+'));
    let start = 2 + marker.map_or(0, char::len_utf8);
    let (tokens, end) = tokens(text, start, close)?;
    let used = end + close.len() + usize::from(!text[end..].starts_with(close));
    let tail = &text[end..used];
    let mut reader = Reader { tokens: &tokens, at: 0, depth: 0 };
    let mut body = String::new();
    if block {
        // The word that opens the tag is never an operand.
        match reader.next() {
            Some("generation") => body.push_str("with"),
            Some("endgeneration") => body.push_str("endwith"),
            Some(word) => body.push_str(word),
            None => return Err("an empty tag".to_string()),
        }
        body.push(' ');
    }
    body.push_str(&reader.sequence(&[])?);
    if let Some(token) = reader.peek() {
        return Err(format!("{token} where it cannot stand"));
    }
    Ok((format!("{}{} {} {tail}", &text[..2], marker.map_or(String::new(), String::from), body.trim()), used))
}

/// The tokens up to the tag's end, and where that is (at its `-` or `+`, where it has one).
fn tokens<'t>(text: &'t str, start: usize, close: &str) -> Result<(Vec<&'t str>, usize), String> {
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

/// Words that stand between operands.
const WORDS: [&str; 9] = ["and", "or", "not", "in", "if", "else", "as", "import", "recursive"];

/// Reads tokens by Jinja's precedence: `+ -` over `~` over `* / // %` over `**` over filters and tests.
struct Reader<'t> {
    tokens: &'t [&'t str],
    at: usize,
    depth: usize,
}

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<&'t str> {
        self.tokens.get(self.at).copied()
    }

    fn next(&mut self) -> Option<&'t str> {
        let token = self.peek()?;
        self.at += 1;
        Some(token)
    }

    fn take(&mut self, token: &str) -> bool {
        let there = self.peek() == Some(token);
        self.at += usize::from(there);
        there
    }

    /// Operands and what stands between them, up to one of these tokens or a closing bracket.
    fn sequence(&mut self, until: &[&str]) -> Result<String, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("brackets nested more than {DEEPEST} deep"));
        }
        let mut out = String::new();
        while let Some(token) = self.peek().filter(|t| !until.contains(t) && !matches!(*t, ")" | "]" | "}")) {
            let between = WORDS.contains(&token)
                || matches!(token, "," | ":" | "=" | "==" | "!=" | "<" | ">" | "<=" | ">=" | "|");
            if between {
                self.at += 1;
                out.push_str(token);
            } else {
                out.push_str(&self.sum()?);
            }
            out.push(' ');
        }
        self.depth -= 1;
        Ok(out.trim_end().to_string())
    }

    fn sum(&mut self) -> Result<String, String> {
        let mut left = self.join()?;
        loop {
            if self.take("+") {
                left = format!("__add({left}, {})", self.join()?);
            } else if self.take("-") {
                left = format!("{left} - {}", self.join()?);
            } else {
                return Ok(left);
            }
        }
    }

    fn join(&mut self) -> Result<String, String> {
        let mut parts = vec![self.product()?];
        while self.take("~") {
            parts.push(self.product()?);
        }
        if parts.len() == 1 { Ok(parts.remove(0)) } else { Ok(format!("__cat({})", parts.join(" , "))) }
    }

    fn product(&mut self) -> Result<String, String> {
        let mut left = self.power()?;
        while let Some(op) = self.peek().filter(|op| matches!(*op, "*" | "/" | "//" | "%")) {
            self.at += 1;
            let right = self.power()?;
            left = if op == "*" { format!("__mul({left}, {right})") } else { format!("{left} {op} {right}") };
        }
        Ok(left)
    }

    fn power(&mut self) -> Result<String, String> {
        let mut left = self.unary()?;
        while self.take("**") {
            left = format!("{left} ** {}", self.unary()?);
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<String, String> {
        let mut signs = String::new();
        while let Some(sign) = self.peek().filter(|t| matches!(*t, "-" | "+")) {
            self.at += 1;
            // A plus before an operand means nothing, and minijinja knows none.
            signs.push_str(if sign == "-" { "-" } else { "" });
        }
        let mut out = signs + &self.postfix()?;
        loop {
            if self.take("|") {
                out.push_str(" | ");
                out.push_str(&self.name_and_arguments()?);
            } else if self.take("is") {
                out.push_str(" is ");
                if self.take("not") {
                    out.push_str("not ");
                }
                out.push_str(&self.name_and_arguments()?);
                if self.peek().is_some_and(starts_operand) {
                    out.push(' ');
                    out.push_str(&self.postfix()?);
                }
            } else {
                return Ok(out);
            }
        }
    }

    /// The name of a filter or test, with its arguments where it has some.
    fn name_and_arguments(&mut self) -> Result<String, String> {
        let mut out = self.next().ok_or("a filter or test without a name")?.to_string();
        if self.take("(") {
            out.push_str(&self.bracketed("(", ")")?);
        }
        Ok(out)
    }

    /// What stands between brackets, the opening one already taken.
    fn bracketed(&mut self, open: &str, close: &str) -> Result<String, String> {
        let inside = self.sequence(&[])?;
        if !self.take(close) {
            return Err(format!("{open} without its {close}"));
        }
        Ok(format!("{open}{inside}{close}"))
    }

    fn postfix(&mut self) -> Result<String, String> {
        let first = self.next().ok_or("an expression without an end")?;
        let mut out = match first {
            "(" => self.bracketed("(", ")")?,
            "[" => self.bracketed("[", "]")?,
            "{" => self.bracketed("{", "}")?,
            _ if starts_operand(first) => first.to_string(),
            _ => return Err(format!("{first} where an operand should stand")),
        };
        // Strings side by side are one string.
        while first.starts_with(['"', '\'']) && self.peek().is_some_and(|t| t.starts_with(['"', '\''])) {
            out = format!("{out} {}", self.next().unwrap_or_default());
        }
        loop {
            if self.take(".") {
                out = format!("{out}.{}", self.next().ok_or("a dot without a name")?);
            } else if self.take("(") {
                out += &self.bracketed("(", ")")?;
            } else if self.take("[") {
                out = self.subscript(out)?;
            } else {
                return Ok(out);
            }
        }
    }

    fn subscript(&mut self, of: String) -> Result<String, String> {
        let mut parts = vec![self.sequence(&[":"])?];
        while self.take(":") {
            parts.push(self.sequence(&[":"])?);
        }
        if !self.take("]") || parts.len() > 3 {
            return Err("[ without its ]".to_string());
        }
        if parts.len() == 1 {
            return Ok(format!("{of}[{}]", parts[0]));
        }
        parts.resize(3, String::new());
        let part = |p: &String| if p.is_empty() { "none".to_string() } else { p.clone() };
        let parts: Vec<String> = parts.iter().map(part).collect();
        Ok(format!("__slice({of}, {})", parts.join(", ")))
    }
}

fn starts_operand(token: &str) -> bool {
    let first = token.chars().next().unwrap_or(' ');
    (first.is_ascii_alphanumeric() || matches!(first, '_' | '"' | '\'' | '(' | '[' | '{'))
        && !WORDS.contains(&token)
        && token != "is"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expr(text: &str) -> String {
        let out = rewrite(&format!("{{{{ {text} }}}}")).unwrap();
        out.trim_start_matches("{{ ").trim_end_matches(" }}").to_string()
    }

    #[test]
    fn precedence_is_jinjas() {
        assert_eq!(expr("a + b ~ c * d"), "__add(a, __cat(b , __mul(c, d)))");
        assert_eq!(expr("a ~ b | trim ~ c.d(e + 1)[0]"), "__cat(a , b | trim , c.d(__add(e, 1))[0])");
        assert_eq!(expr("x if a ~ b == c else -1 - d"), "x if __cat(a , b) == c else -1 - d");
        assert_eq!(
            expr("a is not defined and b not in ['x' ~ y]"),
            "a is not defined and b not in [__cat('x' , y)]"
        );
        assert_eq!(expr("{'a': {'b': 1 + 1}}"), "{'a' : {'b' : __add(1, 1)}}");
        assert_eq!(
            expr("m[1:][-1] ~ s[::-1]"),
            "__cat(__slice(m, 1, none, none)[-1] , __slice(s, none, none, -1))"
        );
        assert_eq!(expr("a is divisibleby 2 ~ b"), "__cat(a is divisibleby 2 , b)");
        assert_eq!(expr(r#"'}}' ~ "%}" ~ 'it\'s'"#), r#"__cat('}}' , "%}" , 'it\'s')"#);
    }

    #[test]
    fn tags_keep_their_marks() {
        let text = "a {%- set x.y = 1 + 2 -%} b {%+ if not x -%}{#- c ~ d #}{% endif +%}{{- e ~ f -}}";
        let want =
            "a {%- set x.y = __add(1, 2) -%} b {%+ if not x -%}{#- c ~ d #}{% endif +%}{{- __cat(e , f) -}}";
        assert_eq!(rewrite(text).unwrap(), want);
        assert_eq!(
            rewrite("{%- generation -%}x{%- endgeneration %}").unwrap(),
            "{%- with -%}x{%- endwith %}"
        );
        assert_eq!(rewrite("{% raw %}{{ a ~ b }}{% endraw %}").unwrap(), "{% raw %}{{ a ~ b }}{% endraw %}");
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in
            ["{{ a", "{% if", "{# a", "{{ 'a }}", "{{ ( }}", "{{ a @ b }}", "{{ a ~ }}", "{{ ) }}", "{% %}"]
        {
            assert!(rewrite(bad).is_err(), "{bad}");
        }
        assert!(rewrite(&format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000))).is_err());
        assert!(rewrite(&format!("x{}", " ".repeat(10_000))).is_err());
        let long = rewrite(&"word ".repeat(1000)).unwrap();
        assert_eq!(long.replace("{{ \"\" }}", ""), "word ".repeat(1000));
    }
}
