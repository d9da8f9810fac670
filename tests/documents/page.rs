//! A page's commands and the files that it has its reader save, in their order.
//!
//! A fence ` ```sh ` holds commands, one a line; a backslash at a line's end joins it with the next. In a block that
//! is indented by four spaces, as in the README, the lines of [`INDENTED`]'s programs, of scripts/ and of what begins with
//! a variable are commands. A fence whose first line has a name behind its language (` ```toml sft.toml `) is a file of that name.

/// Programs whose lines in an indented block are commands; the rest of such blocks may be anything.
const INDENTED: [&str; 4] = ["retort", "make", "cargo", "python"];

/// Whether a line of an indented block is a command.
fn is_command(code: &str) -> bool {
    let first = code.split(' ').next().unwrap_or_default();
    let script = first.strip_prefix("scripts/").is_some_and(|name| !name.is_empty());
    INDENTED.contains(&first) && first != code
        || script
        || first.starts_with("RETORT_") && first.contains('=')
}

/// What a page has its reader do.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Save this text under this name.
    Save(String, String),
    /// Run this, which stands on this line.
    Run(usize, String),
}

/// A page's steps. A command outside a fence for commands is an error: nobody would notice that it is not run.
pub fn steps(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((n, line)) = lines.next() {
        if let Some(fence) = line.trim_start().strip_prefix("```") {
            let body: Vec<(usize, &str)> =
                lines.by_ref().take_while(|(_, line)| !line.trim_start().starts_with("```")).collect();
            let mut words = fence.split_whitespace();
            match (words.next(), words.next()) {
                (Some("sh"), _) => steps.extend(commands(&body)),
                (_, Some(name)) => {
                    let text: String = body.iter().map(|(_, line)| format!("{line}\n")).collect();
                    steps.push(Step::Save(name.to_string(), text));
                }
                _ => {
                    if let Some((n, line)) = body.iter().find(|(_, line)| line.starts_with("retort ")) {
                        return Err(format!("line {}: {line}: a command outside a ```sh block", n + 1));
                    }
                }
            }
        } else if let Some(code) = line.strip_prefix("    ")
            && is_command(code)
        {
            steps.extend(commands(&[(n, code)]));
        }
    }
    Ok(steps)
}

fn commands(body: &[(usize, &str)]) -> Vec<Step> {
    let mut found = Vec::new();
    let mut joined: Option<(usize, String)> = None;
    for &(n, line) in body {
        // Comments stand two spaces apart, so that none is found inside quotes.
        let code = line.split("  #").next().unwrap_or_default().trim();
        if code.is_empty() || code.starts_with('#') {
            continue;
        }
        let (from, before) = joined.take().unwrap_or((n + 1, String::new()));
        match code.strip_suffix('\\') {
            Some(code) => joined = Some((from, format!("{before}{} ", code.trim()))),
            None => found.push(Step::Run(from, format!("{before}{code}"))),
        }
    }
    found
}

#[test]
fn pages_are_read_as_they_are_written() {
    let page = "Text with `retort inline`.\n\n```toml a.toml\nx = 1\n```\n\n```sh\n# why\nretort one --a \\\n    --b\n\
                tail -n 1 x  # said\n```\n\n    retort two            # aside\n    src/  a tree\n    scripts/  more of it\n    scripts/three\n    RETORT_X=1 cargo\n\n```text\n> retort says\n```\n";
    let run = |n, text: &str| Step::Run(n, text.into());
    let want = vec![
        Step::Save("a.toml".into(), "x = 1\n".into()),
        run(9, "retort one --a --b"),
        run(11, "tail -n 1 x"),
        run(14, "retort two"),
        run(17, "scripts/three"),
        run(18, "RETORT_X=1 cargo"),
    ];
    assert_eq!(steps(page).unwrap(), want);
    assert!(steps("```\nretort lost\n```\n").unwrap_err().contains("line 2"));
}
