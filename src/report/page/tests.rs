//! What pages are made of, whatever they are given.

use super::*;

/// Whatever a text holds, the page has the same elements as with a harmless one.
#[test]
fn hostile_text_adds_no_element() {
    let build = |text: &str| {
        let table = Table::new([text]).row([Cell::text(text).note(text), Cell::figure(text).strong()]);
        let sample = Sample::new(text).reply(Whose::Gold, text, text, text);
        let drawing = crate::report::draw::tests_with(text);
        Page::new(text)
            .lead(text)
            .section(Section::new(text).paragraph(text).table(table).sample(sample))
            .section(Section::new(text).folded(Section::new(text).figure(&drawing, text)))
            .html()
    };
    let tags = |html: &str| {
        html.split('<')
            .skip(1)
            .map(|t| t.split(['>', ' ']).next().unwrap_or_default().to_string())
            .collect::<Vec<_>>()
    };
    let plain = build("x");
    for hostile in [
        "<script>alert(1)</script>",
        "</style><img src=x onerror=alert(1)>",
        "\"><svg onload='alert(1)'>",
        "</pre></title>-->]]>&lt;",
        "{{x}} \u{202e}\u{0}\u{7f}",
    ] {
        let html = build(hostile);
        assert_eq!(tags(&html), tags(&plain), "{hostile}");
        assert!(!html.contains("onerror=alert(1)>") && !html.contains('\0'), "{hostile}");
        let quotes = |text: &str| text.matches(['"', '\'']).count();
        assert_eq!(quotes(&html), quotes(&plain), "{hostile}");
    }
}

#[test]
fn a_page_fetches_nothing() {
    let html = Page::new("x").section(Section::new("a")).section(Section::new("b")).html();
    for bad in ["src=", "url(", "@import", "<link", "<script", "http:", "https:"] {
        assert!(!html.contains(bad), "{bad}");
    }
    assert!(html.contains("default-src 'none'"));
}
