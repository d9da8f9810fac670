//! Text of strangers made fit for HTML and SVG: whatever it holds, it is shown and never markup.

/// The text with everything escaped that could end it, in an element as in an attribute. Control characters,
/// which HTML has no way to write, become the replacement character.
///
/// ```
/// # use retort::report::escape;
/// assert_eq!(escape("<b title='x'>&\u{0}"), "&lt;b title=&#39;x&#39;&gt;&amp;\u{fffd}");
/// ```
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            // The halves of a broken file, and what no page may hold.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
