//! The arguments of `retort prune`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::config::numbers::{at_least_one, at_least_zero};
use crate::error::{Error, Result};
use crate::prune::{Importance, Layers, Rule};
use crate::text::TemplateChoice;

/// `retort prune`.
#[derive(Debug, Args)]
#[command(long_about = "A smaller model cut out of a larger one, as the start of a student.

What matters least goes: groups of heads that share keys and values, neurons, channels of the hidden state,
layers, tokens. Nothing is trained: distil the result (policy = \"minima\"). The folder, which transformers
loads, has a card that says what was cut and the perplexity before and after; it appears whole or not at all.

With --json, one object: teacher, out, params, perplexity, sizes (each before and after), layers, ...")]
pub struct Prune {
    /// The model to cut: a folder, or org/name in the Hugging Face cache
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    /// Text, or rows of any schema, that importance is measured on; a part of it is held out for perplexity
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// The folder to write, which must not be there yet
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Layers to keep: how many, or which (0,1,4; of one 4,), numbered from 0
    #[arg(long, value_name = "N|a,b,c", value_parser = layers)]
    pub layers: Option<Layers>,
    /// Channels of the hidden state to keep
    #[arg(long, value_name = "N", value_parser = at_least_zero)]
    pub hidden: Option<usize>,
    /// Heads to keep, in whole groups that share keys and values
    #[arg(long, value_name = "N", value_parser = at_least_zero)]
    pub heads: Option<usize>,
    /// Neurons of each feed-forward net to keep
    #[arg(long, value_name = "N", value_parser = at_least_zero)]
    pub ffn: Option<usize>,
    /// A shape of about so many parameters: what is not given keeps an even share, and the depth is kept
    #[arg(long, value_name = "100M", value_parser = at_least_one)]
    pub params: Option<usize>,
    /// Tokens to keep: those that the text uses most, special ones, bytes, and what they are merged of
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub vocab: Option<usize>,
    /// How importance is measured
    #[arg(long, default_value = "gradient", value_enum)]
    pub importance: ImportanceChoice,
    /// How layers are chosen where a number is given (damage, with activations similarity, unless told)
    #[arg(long, value_enum)]
    pub layers_by: Option<RuleChoice>,
    /// Sequences that importance is measured on
    #[arg(long, default_value = "64", value_name = "N", value_parser = at_least_one)]
    pub samples: usize,
    /// Sequences that perplexity is measured on
    #[arg(long, default_value = "16", value_name = "N", value_parser = at_least_one)]
    pub held_out: usize,
    /// Tokens of a sequence (512, or the model's context, unless told)
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub sequence: Option<usize>,
    /// Sequences whose mean gradient is one measurement
    #[arg(long, default_value = "8", value_name = "N", value_parser = at_least_one)]
    pub batch: usize,
    /// Decides which documents are drawn
    #[arg(long, default_value = "0", value_name = "N")]
    pub seed: u64,
    /// How rows become text: auto, chat, alpaca, plain, or the path of a .jinja file
    #[arg(long, default_value = "auto", value_name = "TEMPLATE")]
    pub template: TemplateChoice,
}

/// --importance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ImportanceChoice {
    /// gradients of factors of one (MiniMA)
    Gradient,
    /// the size of activations (Minitron)
    Activation,
    /// drawn, to compare with
    Random,
}

/// --layers-by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RuleChoice {
    /// those go without which the loss rises least, each left out alone
    Damage,
    /// those go whose output is most like their input (Minitron)
    Similarity,
    /// as many of the first as of the last go (MiniMA)
    Ends,
}

impl Prune {
    /// How importance is measured.
    pub(in crate::cli) fn importance(&self) -> Importance {
        match self.importance {
            ImportanceChoice::Gradient => Importance::Gradient,
            ImportanceChoice::Activation => Importance::Activation,
            ImportanceChoice::Random => Importance::Random,
        }
    }

    /// How layers are chosen.
    pub(in crate::cli) fn rule(&self) -> Rule {
        match (self.layers_by, self.importance) {
            (Some(RuleChoice::Damage), _) => Rule::Damage,
            (Some(RuleChoice::Similarity), _) => Rule::Similarity,
            (Some(RuleChoice::Ends), _) => Rule::Ends,
            (None, ImportanceChoice::Activation) => Rule::Similarity,
            (None, _) => Rule::Damage,
        }
    }
}

/// A number of layers, or their numbers.
fn layers(text: &str) -> Result<Layers> {
    let bad = || Error::user("not layers").expected("how many (8), or which (0,1,4; of one 4,)");
    if !text.contains(',') {
        return text.parse().map(Layers::Count).map_err(|_| bad());
    }
    // "5," is layer 5 alone, where "5" is five of them.
    let numbers = text.strip_suffix(',').unwrap_or(text);
    let list: std::result::Result<Vec<usize>, _> = numbers.split(',').map(|n| n.trim().parse()).collect();
    list.map(Layers::List).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_makes_a_list() {
        assert_eq!(layers("8").unwrap(), Layers::Count(8));
        assert_eq!(layers("0, 1,4").unwrap(), Layers::List(vec![0, 1, 4]));
        assert_eq!(layers("4,").unwrap(), Layers::List(vec![4]));
        for wrong in ["", ",", "a", "1,,2", "1,2,,", "-1"] {
            assert!(layers(wrong).is_err(), "{wrong}");
        }
    }
}
