//! What the axes of a model's tensors count, so that a part of the model can be cut out of all of them alike; and what
//! its config.json calls the sizes that change.

/// What an axis counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Tokens.
    Vocabulary,
    /// Channels of the hidden state between blocks.
    Hidden,
    /// Channels of the embedding, which are the hidden state's unless the model projects them.
    Word,
    /// Channels of all query heads.
    Queries,
    /// Channels of all key/value heads.
    Keys,
    /// Queries, keys and values behind each other (GPT-2).
    Fused,
    /// Of each head its queries, keys and values (GPT-NeoX).
    FusedByHead,
    /// The heads' output, as it goes into the projection behind them.
    Attended,
    /// Neurons of the feed-forward net.
    Neurons,
    /// The same, as they go out of the net.
    Activated,
    /// What no cut changes.
    Whole,
}

/// The axes of each tensor, by the end of its name.
pub type Axes = &'static [(&'static str, &'static [Axis])];

/// How an architecture is cut.
#[derive(Debug)]
pub struct Cuts {
    /// What its tensors' axes count.
    pub axes: Axes,
    /// Names of the hidden width, the first of them transformers' own.
    pub hidden: &'static [&'static str],
    /// Names of the number of heads.
    pub heads: &'static [&'static str],
    /// Names of the number of layers.
    pub layers: &'static [&'static str],
    /// Names of the feed-forward net's width.
    pub neurons: &'static [&'static str],
    /// The name of the number of key/value heads, where there may be fewer of them.
    pub kv_heads: Option<&'static str>,
    /// The name of a head's channels; without one they are the hidden width over the heads.
    pub head_dim: Option<&'static str>,
    /// The name of the embedding's width, where it may be another.
    pub word: Option<&'static str>,
}

impl Cuts {
    /// The axes of the tensor of this name.
    pub fn axes(&self, name: &str) -> Option<&'static [Axis]> {
        let ends =
            |end: &str| name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        self.axes.iter().find(|(end, _)| ends(end)).map(|(_, axes)| *axes)
    }
}
