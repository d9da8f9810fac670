//! What a model's tensors are called: the names transformers writes, and the spellings met in older
//! folders.

/// A tensor that a model needs: its name as transformers writes it, and its shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// The name, base prefix included.
    pub name: String,
    /// The exact shape.
    pub shape: Vec<i64>,
}

impl Spec {
    /// A tensor of this name and shape.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<i64>>) -> Self {
        Spec { name: name.into(), shape: shape.into() }
    }

    /// How many numbers it holds.
    pub fn numel(&self) -> i64 {
        self.shape.iter().product()
    }
}

/// How the names of one architecture vary from folder to folder.
#[derive(Debug, Clone, Copy)]
pub struct Naming {
    /// The base prefix (`transformer.`, `model.`), which some folders leave out.
    pub prefix: &'static str,
    /// The output head (`lm_head.weight`), which stands outside the prefix.
    pub head: &'static str,
    /// The input embedding, which a tied head repeats.
    pub embedding: &'static str,
    /// Endings of buffers that older folders carry and that hold nothing learnt.
    pub buffers: &'static [&'static str],
}

impl Naming {
    /// The name as transformers writes it, or none for a buffer that is passed over.
    pub fn canonical(&self, name: &str) -> Option<String> {
        let bare = name.strip_prefix(self.prefix).unwrap_or(name);
        let buffer =
            |end: &&str| bare.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        if self.buffers.iter().any(buffer) {
            return None;
        }
        if name == "lm_head.weight" {
            // transformers' own attribute, whatever the file usually calls it (GPT-NeoX: embed_out).
            return Some(self.head.to_string());
        }
        let outside = name.starts_with(self.prefix) || self.is_head(name);
        Some(if outside { name.to_string() } else { format!("{}{name}", self.prefix) })
    }

    /// Whether this is the output head, or its bias.
    pub fn is_head(&self, name: &str) -> bool {
        name == self.head || name.strip_suffix(".bias") == self.head.strip_suffix(".weight")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPT2: Naming = Naming {
        prefix: "transformer.",
        head: "lm_head.weight",
        embedding: "transformer.wte.weight",
        buffers: &["attn.bias", "attn.masked_bias"],
    };

    #[test]
    fn names_with_and_without_the_prefix_are_one() {
        for name in ["transformer.h.0.attn.c_attn.bias", "h.0.attn.c_attn.bias"] {
            assert_eq!(GPT2.canonical(name).unwrap(), "transformer.h.0.attn.c_attn.bias");
        }
        assert_eq!(GPT2.canonical("lm_head.weight").unwrap(), "lm_head.weight");
    }

    #[test]
    fn buffers_are_passed_over_and_nothing_like_them() {
        assert_eq!(GPT2.canonical("h.3.attn.bias"), None);
        assert_eq!(GPT2.canonical("transformer.h.3.attn.masked_bias"), None);
        assert!(GPT2.canonical("h.3.xattn.bias").is_some());
        assert!(GPT2.canonical("h.3.attn.c_proj.bias").is_some());
    }
}
