//! Porter's stemmer as NLTK 3 has it in its NLTK_EXTENSIONS mode, which rouge_score takes: neither the
//! algorithm of 1980 (dying -> die, skies -> sky, flies -> fli but dies -> die) nor Porter2. Words are of
//! the letters a to z and digits; a digit counts as a consonant.

/// Words that the rules get wrong, and their stems.
const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// An ending, and what stands in its place.
type Rule = (&'static str, &'static str);

/// Step 2, in NLTK's order: the first ending that fits decides, whether or not its condition holds.
const STEP_2: [Rule; 21] = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
];

const STEP_3: [Rule; 7] = [
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
];

const STEP_4: [&str; 19] = [
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism",
    "ate", "iti", "ous", "ive", "ize",
];

/// The stem of a word of lower-case letters and digits.
///
/// ```
/// use retort::eval::stem::stem;
/// assert_eq!((stem("conditional").as_str(), stem("dying").as_str()), ("condit", "die"));
/// ```
pub fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(irregular, _)| *irregular == word) {
        return stem.to_string();
    }
    if word.len() <= 2 {
        return word.to_string();
    }
    let mut word = plural(word);
    word = past(word);
    if let Some(stem) = word.strip_suffix('y')
        && stem.len() > 1
        && ends_in_consonant(stem)
    {
        word = format!("{stem}i");
    }
    word = double_endings(word);
    if let Some((stem, new)) = first(&word, &STEP_3)
        && measure(stem) > 0
    {
        word = format!("{stem}{new}");
    }
    word = single_endings(word);
    word = last_e(word);
    if word.ends_with("ll") && measure(&word[..word.len() - 1]) > 1 {
        word.pop();
    }
    word
}

/// Whether each letter is a consonant: no vowel, and no y behind a consonant.
fn consonants(word: &str) -> Vec<bool> {
    let mut flags: Vec<bool> = Vec::with_capacity(word.len());
    for letter in word.bytes() {
        flags.push(match letter {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => flags.last().is_none_or(|before| !before),
            _ => true,
        });
    }
    flags
}

fn ends_in_consonant(word: &str) -> bool {
    consonants(word).last() == Some(&true)
}

/// Porter's m: how often a consonant follows a vowel.
fn measure(word: &str) -> usize {
    consonants(word).windows(2).filter(|pair| matches!(pair, [false, true])).count()
}

fn contains_vowel(word: &str) -> bool {
    consonants(word).contains(&false)
}

fn ends_double_consonant(word: &str) -> bool {
    matches!(word.as_bytes(), [.., a, b] if a == b) && ends_in_consonant(word)
}

/// Consonant, vowel, consonant other than w, x, y; or a word of vowel and consonant.
fn ends_cvc(word: &str) -> bool {
    match consonants(word)[..] {
        [false, true] => true,
        [.., true, false, true] => !word.ends_with(['w', 'x', 'y']),
        _ => false,
    }
}

/// The first rule whose ending fits, as the word without that ending, and what comes in its place.
fn first<'w>(word: &'w str, rules: &[Rule]) -> Option<(&'w str, &'static str)> {
    rules.iter().find_map(|(ending, new)| Some((word.strip_suffix(ending)?, *new)))
}

/// Step 1a.
fn plural(word: &str) -> String {
    if word.len() == 4
        && let Some(stem) = word.strip_suffix("ies")
    {
        return format!("{stem}ie");
    }
    match first(word, &[("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")]) {
        Some((stem, new)) => format!("{stem}{new}"),
        None => word.to_string(),
    }
}

/// Step 1b.
fn past(word: String) -> String {
    if let Some(stem) = word.strip_suffix("ied") {
        return format!("{stem}{}", if word.len() == 4 { "ie" } else { "i" });
    }
    if let Some(stem) = word.strip_suffix("eed") {
        return if measure(stem) > 0 { format!("{stem}ee") } else { word };
    }
    let cut = ["ed", "ing"].iter().find_map(|e| word.strip_suffix(e).filter(|stem| contains_vowel(stem)));
    let Some(stem) = cut else { return word };
    if let Some((stem, new)) = first(stem, &[("at", "ate"), ("bl", "ble"), ("iz", "ize")]) {
        return format!("{stem}{new}");
    }
    if ends_double_consonant(stem) {
        let end = if stem.ends_with(['l', 's', 'z']) { stem.len() } else { stem.len() - 1 };
        return stem[..end].to_string();
    }
    let short = measure(stem) == 1 && ends_cvc(stem);
    format!("{stem}{}", if short { "e" } else { "" })
}

/// Step 2.
fn double_endings(word: String) -> String {
    if let Some(stem) = word.strip_suffix("alli")
        && measure(stem) > 0
    {
        return double_endings(format!("{stem}al"));
    }
    if let Some((stem, new)) = first(&word, &STEP_2) {
        return if measure(stem) > 0 { format!("{stem}{new}") } else { word };
    }
    // The l counts with the stem here: geology goes as archaeology does.
    match word.strip_suffix("logi") {
        Some(stem) if measure(&word[..word.len() - 3]) > 0 => format!("{stem}log"),
        _ => word,
    }
}

/// Step 4.
fn single_endings(word: String) -> String {
    let Some((stem, ending)) = STEP_4.iter().find_map(|e| Some((word.strip_suffix(e)?, *e))) else {
        return word;
    };
    let fits = measure(stem) > 1 && (ending != "ion" || stem.ends_with(['s', 't']));
    if fits { stem.to_string() } else { word }
}

/// Step 5a.
fn last_e(word: String) -> String {
    match word.strip_suffix('e') {
        Some(stem) if measure(stem) > 1 || (measure(stem) == 1 && !ends_cvc(stem)) => stem.to_string(),
        _ => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NLTK's own answers, a word and its stem a line (`tests/golden/make_rouge.py`).
    #[test]
    fn stems_equal_nltks() {
        let golden = include_str!("../../tests/fixtures/rouge/stems.txt");
        let mut seen = 0;
        for line in golden.lines() {
            let (word, expected) = line.split_once(' ').unwrap();
            assert_eq!(stem(word), expected, "{word}");
            seen += 1;
        }
        assert!(seen > 2000, "{seen}");
    }
}
