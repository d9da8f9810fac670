//! What was done, in numbers, and the README.md that says so.

use serde::Serialize;

use super::shape::Sizes;

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    /// The teacher, as it was named.
    pub teacher: String,
    /// The text.
    pub input: String,
    /// How importance was measured.
    pub importance: &'static str,
    /// Sequences that it was measured on, and the tokens of each.
    pub samples: (usize, usize),
    /// How layers were chosen.
    pub layer_rule: Option<&'static str>,
    /// What that rule measured of each of the teacher's layers.
    pub layer_scores: Option<Vec<f64>>,
    /// The layers that stayed.
    pub layers: Vec<usize>,
    /// Sizes before and after.
    #[serde(skip)]
    pub sizes: [Sizes; 2],
    /// Parameters before and after.
    pub params: [i64; 2],
    /// Perplexity a token on held-out text, before and after.
    pub perplexity: [f64; 2],
    /// Bits a byte of the same text, before and after, which can be compared where the tokens differ.
    pub bits_per_byte: Option<[f64; 2]>,
    /// Tokens of the held-out text that perplexity is a mean over, before and after.
    pub tokens: [usize; 2],
    /// Whether that text is another than the one importance was measured on.
    pub held_out: bool,
}

impl Done {
    /// What changed: name, before, after.
    pub fn rows(&self) -> Vec<[String; 3]> {
        let [old, new] = self.sizes;
        let mut rows = Vec::new();
        let mut row = |what: &str, a: String, b: String| rows.push([what.to_string(), a, b]);
        row("parameters", self.params[0].to_string(), self.params[1].to_string());
        for (what, a, b) in [
            ("layers", old.layers, new.layers),
            ("hidden channels", old.hidden, new.hidden),
            ("heads", old.heads, new.heads),
            ("key/value heads", old.kv_heads, new.kv_heads),
            ("neurons a layer", old.ffn, new.ffn),
            ("vocabulary", old.vocabulary, new.vocabulary),
        ] {
            row(what, a.to_string(), b.to_string());
        }
        let text = |x: f64| if x < 1e5 { format!("{x:.2}") } else { format!("{x:.2e}") };
        row("perplexity", text(self.perplexity[0]), text(self.perplexity[1]));
        if let Some([a, b]) = self.bits_per_byte {
            row("bits a byte", format!("{a:.3}"), format!("{b:.3}"));
        }
        rows
    }

    /// README.md.
    pub fn card(&self) -> String {
        let name = |text: &str| plain(text.rsplit('/').find(|part| !part.is_empty()).unwrap_or(text));
        let mut card = format!(
            "---\nlibrary_name: transformers\ntags:\n- pruning\n---\n\n# {}, pruned\n\n",
            name(&self.teacher)
        );
        card += concat!(
            "Cut out of its teacher by retort ",
            env!("CARGO_PKG_VERSION"),
            ". Nothing was trained: distil it before use.\n\n"
        );
        card += "| | teacher | this model |\n|---|---|---|\n";
        for [what, before, after] in self.rows() {
            card += &format!("| {what} | {before} | {after} |\n");
        }
        let (samples, sequence) = self.samples;
        card += &format!("\n- Teacher: {}\n- Text: {}\n", plain(&self.teacher), name(&self.input));
        card += &format!(
            "- Importance: {}, on {samples} sequences of at most {sequence} tokens\n",
            self.importance
        );
        if let Some(rule) = self.layer_rule {
            card += &format!("- Layers chosen by: {rule}\n");
        }
        let layers: Vec<String> = self.layers.iter().map(usize::to_string).collect();
        card += &format!("- Layers that stayed, by the teacher's numbers: {}\n", layers.join(", "));
        let part = if self.held_out {
            "of the text that importance was not measured on"
        } else {
            "that importance was measured on too: the text is too short for two parts"
        };
        card += &format!("- Perplexity is a token's, over {} tokens {part}\n", self.tokens[0]);
        if self.tokens[0] != self.tokens[1] {
            card += &format!(
                "- The same text has {} tokens in the cut vocabulary: compare bits a byte\n",
                self.tokens[1]
            );
        }
        card
    }
}

/// A name, fit to stand in one line of Markdown.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || "`<>[]|*#".contains(c) { ' ' } else { c }).collect()
}
