//! From padded rows to packed tokens, by lengths alone.
//!
//! A row's scored tokens lie one behind the other, or in a few stretches, so where those start and how many
//! they are says all; no id is looked at, so pad and EOS may be one id.

use tch::{Device, Tensor};

use crate::error::{Error, Result};

/// Where the scored positions of each row lie in a padded batch `[rows, width]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    width: usize,
    spans: Vec<Vec<(usize, usize)>>,
}

impl Rows {
    /// Rows of a batch of this width, each with the position of its first scored state (the one that
    /// predicts its first scored token: the prompt's last) and the number of them.
    pub fn new(width: usize, spans: Vec<(usize, usize)>) -> Result<Self> {
        Self::of_stretches(width, spans.into_iter().map(|span| vec![span]).collect())
    }

    /// The same for rows of several stretches each, in their order.
    pub fn of_stretches(width: usize, spans: Vec<Vec<(usize, usize)>>) -> Result<Self> {
        for &(start, count) in spans.iter().flatten() {
            if start.checked_add(count).is_none_or(|end| end > width) {
                return Err(Error::handed("a row", format!("at most {width}"), format!("{start} + {count}")));
            }
        }
        Ok(Rows { width, spans })
    }

    /// How many tokens each row has.
    pub fn lengths(&self) -> Vec<usize> {
        self.spans.iter().map(|stretches| stretches.iter().map(|(_, count)| count).sum()).collect()
    }

    /// Picks the scored positions of `padded` (`[rows, width]` or `[rows, width, channels]`), rows in
    /// order. A gradient flows back to them, and to no other.
    pub fn pack(&self, padded: &Tensor) -> Result<Tensor> {
        let size = padded.size();
        let (rows, width) = (self.spans.len() as i64, self.width as i64);
        if size.len() < 2 || size[0] != rows || size[1] != width {
            return Err(Error::handed(
                "a padded batch",
                format!("[{rows}, {width}, ..]"),
                format!("{size:?}"),
            ));
        }
        let places: Vec<i64> = self
            .spans
            .iter()
            .enumerate()
            .flat_map(|(row, stretches)| stretches.iter().map(move |stretch| (row, stretch)))
            .flat_map(|(row, &(start, count))| {
                (start..start + count).map(move |t| (row * self.width + t) as i64)
            })
            .collect();
        let places_n = Tensor::f_from_slice(&places)?.f_to(padded.device())?;
        Ok(padded.f_flatten(0, 1)?.f_index_select(0, &places_n)?)
    }
}

/// Marks the first `first` tokens of each row: those at which `min_new_tokens` bars EOS.
pub fn first_of_rows(lengths: &[usize], first: usize, device: Device) -> Result<Tensor> {
    let marks: Vec<bool> = lengths.iter().flat_map(|n| (0..*n).map(move |t| t < first)).collect();
    Ok(Tensor::f_from_slice(&marks)?.f_to(device)?)
}
