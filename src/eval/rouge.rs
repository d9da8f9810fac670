//! Rouge-L as the Python package rouge_score 0.1.2 has it with its stemmer: lower case, runs of anything but
//! a to z and 0 to 9 part words (accents and other scripts vanish), words of more than three letters are
//! stemmed, F = 2PR / (P + R) of the longest common subsequence.

use std::collections::HashMap;

use super::stem::stem;

/// The words of a text, as they are compared.
///
/// ```
/// assert_eq!(retort::eval::rouge::words("The caf\u{e9}'s skies."), ["the", "caf", "s", "sky"]);
/// ```
pub fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let parts = lower.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit()));
    let stemmed = parts.map(|word| if word.len() > 3 { stem(word) } else { word.to_string() });
    stemmed.filter(|word| !word.is_empty()).collect()
}

/// Rouge-L of a reply and one reference, from 0 to 1; 0 where either has no word.
///
/// ```
/// use retort::eval::rouge::rouge_l;
/// assert_eq!(rouge_l("a retort is a vessel", "a vessel"), 4.0 / 7.0);
/// ```
pub fn rouge_l(reference: &str, reply: &str) -> f64 {
    of_words(&words(reference), &words(reply))
}

/// The best over several references; none where there is no reference.
pub fn best<S: AsRef<str>>(references: &[S], reply: &str) -> Option<f64> {
    let reply = words(reply);
    references.iter().map(|r| of_words(&words(r.as_ref()), &reply)).reduce(f64::max)
}

fn of_words(reference: &[String], reply: &[String]) -> f64 {
    if reference.is_empty() || reply.is_empty() {
        return 0.0;
    }
    let common = longest_common_subsequence(reference, reply) as f64;
    let (precision, recall) = (common / reply.len() as f64, common / reference.len() as f64);
    if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 }
}

/// The length of the longest sequence that both have in this order.
///
/// Crochemore and others' bits: bit i of the state is 0 where the subsequence grows at word i of `a`. Sixty-four
/// words of `a` go through one addition, and nothing is kept but the state and where each word stands.
fn longest_common_subsequence(a: &[String], b: &[String]) -> usize {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, word) in a.iter().enumerate() {
        places.entry(word).or_default().push(at);
    }
    let mut state = vec![u64::MAX; a.len().div_ceil(64)];
    let mut here = vec![0u64; state.len()];
    for word in b {
        let Some(places) = places.get(word.as_str()) else { continue };
        places.iter().for_each(|at| here[at / 64] |= 1 << (at % 64));
        let mut carry = false;
        for (state, here) in state.iter_mut().zip(&mut here) {
            let matched = *state & *here;
            let (sum, over) = state.overflowing_add(matched);
            let (sum, again) = sum.overflowing_add(u64::from(carry));
            carry = over || again;
            *state = sum | (*state & !*here);
            *here = 0;
        }
    }
    let bits = |at: usize| state[at / 64] >> (at % 64) & 1;
    (0..a.len()).filter(|&at| bits(at) == 0).count()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// rouge_score's own answers, references and a reply a line (`tests/golden/make_rouge.py`).
    #[test]
    fn scores_equal_rouge_scores() {
        let golden = include_str!("../../tests/fixtures/rouge/pairs.jsonl");
        let mut seen = 0;
        for line in golden.lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            let references: Vec<&str> =
                case["references"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
            let reply = case["reply"].as_str().unwrap();
            let (ours, theirs) = (best(&references, reply).unwrap(), case["rouge_l"].as_f64().unwrap());
            assert!((ours - theirs).abs() < 1e-12, "{ours}, not {theirs}: {line}");
            let [first, ..] = references[..] else { panic!("{line}") };
            let alone = case["first"].as_f64().unwrap();
            assert!((rouge_l(first, reply) - alone).abs() < 1e-12, "not {alone}: {line}");
            seen += 1;
        }
        assert!(seen >= 500, "{seen}");
        assert_eq!(best::<&str>(&[], "reply"), None);
    }

    /// The table of the definition, beside the bits; lengths around and beyond 64.
    #[test]
    fn bits_equal_the_table() {
        let table = |a: &[String], b: &[String]| {
            let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
            for i in 1..=a.len() {
                for j in 1..=b.len() {
                    let same = rows[i - 1][j - 1] + usize::from(a[i - 1] == b[j - 1]);
                    rows[i][j] = same.max(rows[i - 1][j]).max(rows[i][j - 1]);
                }
            }
            rows[a.len()][b.len()]
        };
        let text = |seed: u64, length: u64, kinds: u64| -> Vec<String> {
            let draw = |n| crate::seed::draw(seed, crate::seed::Stream::Bootstrap, length, n) % kinds;
            (0..length).map(|n| draw(n).to_string()).collect()
        };
        for (n, (a, b)) in
            [(1, 1), (63, 70), (64, 64), (65, 3), (128, 129), (200, 517)].into_iter().enumerate()
        {
            for kinds in [1, 2, 7, 40] {
                let (a, b) = (text(n as u64, a, kinds), text(n as u64 + 100, b, kinds));
                assert_eq!(
                    longest_common_subsequence(&a, &b),
                    table(&a, &b),
                    "{} {} {kinds}",
                    a.len(),
                    b.len()
                );
            }
        }
    }
}
