//! What the numbers of metrics.jsonl are called on a page, in which group they stand and in which unit they are.
//! One that is not listed is shown all the same, under its own name.

/// The list: a line a number, in the order of the page.
const LINES: &str = include_str!("curves.txt");

/// A number's place on a page.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Entry {
    pub key: &'static str,
    pub group: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    /// Whether more of it is better, where one can say.
    pub more: Option<bool>,
}

/// All of them.
pub(super) fn entries() -> impl Iterator<Item = Entry> {
    LINES.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut parts = line.split('|').map(str::trim);
        let [key, group, title, unit] = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
        let more = match parts.next() {
            Some("+") => Some(true),
            Some("-") => Some(false),
            _ => None,
        };
        Some(Entry { key, group, title, unit, more })
    })
}

/// The entry of a key.
pub(super) fn entry(key: &str) -> Option<Entry> {
    entries().find(|entry| entry.key == key)
}

/// Whether a number is an end of another one's interval, and is drawn with it.
pub(super) fn is_end(key: &str, is_there: impl Fn(&str) -> bool) -> bool {
    ["_low", "_high"].iter().any(|end| key.strip_suffix(end).is_some_and(&is_there))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_whole_and_there_once() {
        let all: Vec<Entry> = entries().collect();
        assert_eq!(all.len(), LINES.lines().filter(|l| !l.starts_with('#')).count());
        let keys: std::collections::BTreeSet<&str> = all.iter().map(|e| e.key).collect();
        assert_eq!(keys.len(), all.len());
        let groups = ["evaluation", "training", "replies", "optimiser", "counts", "time"];
        assert!(all.iter().all(|e| groups.contains(&e.group) && !e.title.is_empty() && !e.unit.is_empty()));
        assert_eq!(entry("eval.rouge_l").and_then(|e| e.more), Some(true));
    }
}
