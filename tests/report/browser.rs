//! What headless Chromium makes of a report: nothing sticks out at phone width or on a desktop, light or dark, no
//! text of a drawing lies on another, nothing is fetched. Skipped, loudly, where there is no Chromium.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Runs, retort, text};

/// Chromium: what `CHROME` names, or the first of its names that is on the path.
fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("CHROME").map(PathBuf::from);
    let on_path = || {
        let folders = std::env::var_os("PATH")?;
        let names = ["chromium", "chromium-browser", "google-chrome"];
        std::env::split_paths(&folders).flat_map(|f| names.map(|n| f.join(n))).find(|p| p.is_file())
    };
    let found = named.filter(|p| p.is_file()).or_else(on_path);
    if found.is_none() {
        eprintln!(
            "SKIPPED: no chromium, chromium-browser or google-chrome on PATH, none named by CHROME: no browser looked at the report"
        );
    }
    found
}

/// Measures the page in the frame, with all that is closed opened, and writes what it found into the document.
const MEASURE: &str = r#"
const frame = document.getElementById('page'), inner = frame.contentDocument, view = frame.contentWindow;
inner.querySelectorAll('details').forEach(d => d.open = true);
const overlaps = [], outside = [], small = [];
let texts = 0;
for (const svg of inner.querySelectorAll('svg')) {
  const own = svg.getBoundingClientRect();
  const boxes = [...svg.querySelectorAll('text')].map(t => ({box: t.getBoundingClientRect(), text: t.firstChild.textContent}));
  texts += boxes.length;
  boxes.forEach((a, n) => {
    if (a.box.left < own.left - 1 || a.box.right > own.right + 1 || a.box.top < own.top - 1 || a.box.bottom > own.bottom + 1) outside.push(a.text);
    if (a.box.height < 9) small.push(a.text);
    for (const b of boxes.slice(n + 1)) {
      const across = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
      const down = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
      if (across > 0.5 && down > 0.5) overlaps.push(a.text + ' | ' + b.text);
    }
  });
}
inner.querySelectorAll('th, td, h1, h3, p').forEach(c => { if (c.scrollWidth > c.clientWidth + 1) outside.push(c.textContent.slice(0, 80)); });
const root = inner.documentElement;
document.body.textContent = JSON.stringify({
  width: view.innerWidth, overflow: root.scrollWidth - root.clientWidth,
  dark: view.matchMedia('(prefers-color-scheme: dark)').matches, paper: view.getComputedStyle(inner.body).backgroundColor,
  fetched: view.performance.getEntriesByType('resource').length, scripts: inner.scripts.length,
  images: inner.images.length, charts: inner.querySelectorAll('svg').length, texts, overlaps, outside, small});
"#;

/// Shows a page in a frame of this width (windows have a least width of their own), and measures it.
fn measured(chromium: &Path, html: &str, width: u32, dark: bool) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let held = html.replace('&', "&amp;").replace('"', "&quot;");
    let scheme = if dark { "dark" } else { "light" };
    let page = format!(
        "<!doctype html><html style=\"color-scheme:{scheme}\"><meta charset=\"utf-8\"><body>\
         <iframe id=\"page\" style=\"width:{width}px;height:900px;border:0\" srcdoc=\"{held}\"></iframe>\
         <script>addEventListener('load', () => {{{MEASURE}}})</script></body></html>"
    );
    let file = dir.path().join("page.html");
    std::fs::write(&file, page).unwrap();
    let profile = format!("--user-data-dir={}", text(&dir.path().join("profile")));
    let scheme = format!("--blink-settings=preferredColorScheme={}", if dark { 0 } else { 1 });
    let address = format!("file://{}", text(&file));
    let flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"];
    let answer = Command::new(chromium)
        .args(flags)
        .args([&profile, &scheme, "--window-size=1400,1000", "--dump-dom", &address])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&answer.stdout).into_owned();
    let body = out.split("<body>").nth(1).and_then(|rest| rest.split("</body>").next()).unwrap_or_default();
    let unescaped = body.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    let found = serde_json::from_str(unescaped.trim());
    assert!(found.is_ok(), "no measure but {out:.2000} {}", String::from_utf8_lossy(&answer.stderr));
    found.unwrap()
}

#[test]
fn a_browser_shows_it_whole() {
    let Some(chromium) = chromium() else { return };
    let runs = Runs::new();
    let out = runs.path("out.html");
    let all = runs.all();
    let mut arguments = vec!["report", "--out", text(&out)];
    arguments.extend(all.iter().map(|p| text(p)));
    assert_eq!(retort(&arguments).code, 0);
    let html = std::fs::read_to_string(&out).unwrap();
    let mut papers = Vec::new();
    for (width, dark) in [(360, false), (360, true), (1280, false), (1280, true)] {
        let found = measured(&chromium, &html, width, dark);
        let what = format!("{width} px, dark {dark}: {found}");
        assert_eq!(
            (found["width"].as_u64(), found["dark"].as_bool()),
            (Some(width.into()), Some(dark)),
            "{what}"
        );
        assert!(found["overflow"].as_i64().unwrap() <= 0, "{what}");
        for none in ["overlaps", "outside", "small"] {
            assert_eq!(found[none].as_array().map(Vec::len), Some(0), "{none} at {what}");
        }
        for none in ["fetched", "scripts", "images"] {
            assert_eq!(found[none], 0, "{none} at {what}");
        }
        assert!(found["charts"].as_u64().unwrap() > 20 && found["texts"].as_u64().unwrap() > 200, "{what}");
        papers.push(found["paper"].as_str().unwrap().to_string());
    }
    assert!(papers[0] != papers[1] && papers[0] == papers[2], "light and dark: {papers:?}");
}

/// The instrument sees what it is there to see.
#[test]
fn the_measure_notices_what_is_wrong() {
    let Some(chromium) = chromium() else { return };
    let page = "<!doctype html><body><div style=\"width:900px\">wide</div>\
                <svg width=\"100\" height=\"40\"><text x=\"0\" y=\"20\">one</text><text x=\"9\" y=\"24\">two</text>\
                <text x=\"95\" y=\"20\">three</text></svg><table style=\"table-layout:fixed;width:50px\"><tr><td style=\"white-space:nowrap\">a cell of many words</table><img src=\"data:image/gif;base64,R0lGOD\">\
                <details><svg width=\"60\" height=\"40\"><text x=\"1\" y=\"20\" font-size=\"4\">four</text></svg></details>";
    let found = measured(&chromium, page, 360, false);
    assert!(found["overflow"].as_i64().unwrap() > 400, "{found}");
    assert_eq!(found["overlaps"], serde_json::json!(["one | two"]), "{found}");
    assert_eq!(
        (&found["outside"], &found["small"]),
        (&serde_json::json!(["three", "a cell of many words"]), &serde_json::json!(["four"]))
    );
    assert_eq!(found["images"], 1);
}
