//! Parameters in all, and without embeddings: the laws count them differently.
//!
//! Of a model folder both are exact. Of a bare number the other is that of a usual shape: 12 d^2 parameters a layer,
//! d / 64 layers, one table of 50,257 rows for embedding and head. GPT-2 of 124M is that shape to the last percent.

use crate::error::{Error, Result};
use crate::model::{Design, read_design};
use crate::weights::{Spec, locate};

/// Rows of the table of a usual shape.
const VOCABULARY: f64 = 50_257.0;
/// Channels a layer of a usual shape.
const ASPECT: f64 = 64.0;

/// A model's parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
    /// All of them.
    pub all: f64,
    /// Those of blocks and norms.
    pub body: f64,
    /// Whether both are counted, and none guessed from the other.
    pub exact: bool,
}

impl Sizes {
    /// Of a usual shape of so many parameters in all.
    ///
    /// ```
    /// let gpt2 = retort::law::Sizes::from_all(124.4e6);
    /// assert!((gpt2.body / 85e6 - 1.0).abs() < 0.02, "{gpt2:?}");
    /// ```
    pub fn from_all(all: f64) -> Self {
        let width = width(|d| body(d) + VOCABULARY * d, all);
        Sizes { all, body: body(width), exact: false }
    }

    /// Of a usual shape of so many parameters without embeddings.
    pub fn from_body(inner: f64) -> Self {
        Sizes { all: inner + VOCABULARY * width(body, inner), body: inner, exact: false }
    }

    /// Of a config.json.
    pub fn of_design(design: &dyn Design) -> Self {
        let all: i64 = design.specs().iter().map(Spec::numel).sum();
        Sizes { all: all as f64, body: design.shape().without_embeddings(all) as f64, exact: true }
    }

    /// What a person says: a number such as `120M`, or a model folder.
    pub fn said(text: &str) -> Result<Self> {
        if let Ok(all) = crate::config::numbers::at_least_one(text) {
            return Ok(Self::from_all(all as f64));
        }
        let neither = || {
            Error::user("neither a size nor a model")
                .field("--student")
                .expected("a number of parameters such as 120M, or a model folder")
                .found(text)
        };
        let folder = locate::model_folder(text).map_err(|_| neither())?;
        Ok(Self::of_design(read_design(&folder)?.as_ref()))
    }
}

fn body(width: f64) -> f64 {
    12.0 * width * width * width / ASPECT
}

/// The width at which a rising function of it has this value.
fn width(of: impl Fn(f64) -> f64, value: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1e7);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if of(middle) < value { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_way_is_the_other_back() {
        for all in [1e6, 30e6, 124e6, 7e9] {
            let found = Sizes::from_body(Sizes::from_all(all).body);
            assert!((found.all / all - 1.0).abs() < 1e-9, "{all} {found:?}");
        }
    }

    #[test]
    fn what_is_neither_is_told() {
        let e = Sizes::said("120X").unwrap_err();
        assert_eq!(e.cause().exit_code(), 2);
        assert!(e.to_string().contains("--student"), "{e}");
    }
}
