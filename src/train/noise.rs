//! The gradient noise scale while a run goes on: at a measured update the rows are cut in their own order, which is
//! random, into micro-batches of equal size, and the gradient of each is looked at before it is added to the others.
//! It costs room for a second gradient meanwhile; the update itself changes in its rounding alone.

use tch::Tensor;

use super::setup::Material;
use super::update::{PartRows, Sums, Updater};
use crate::data::sampler::Cut;
use crate::error::Result;
use crate::native;
use crate::optim::noise::Estimate;

/// The rows of each micro-batch: as many as divide the update's into two parts or more and go through together.
pub fn equal_rows(rows: usize, longest: usize, cut: Cut) -> Option<usize> {
    let together = match cut {
        Cut::Rows(rows) => rows,
        Cut::Tokens(tokens) => tokens / longest.max(1),
    };
    let most = together.clamp(1, (rows / 2).max(1));
    (1..=most).rev().find(|n| rows.is_multiple_of(*n)).filter(|n| *n < rows)
}

impl Updater {
    /// What [`Updater`] does of a part of an update, with the norms of its micro-batches.
    pub(super) fn measured(
        &mut self,
        material: &Material,
        part: &PartRows<'_>,
        each: usize,
    ) -> Result<(Sums, Option<Estimate>)> {
        let own: Vec<Tensor> = self.sums().iter().map(|t| Ok(t.f_zeros_like()?)).collect::<Result<_>>()?;
        let whole = self.replace_sums(own);
        let mut sums = Sums::default();
        let (mut squares, mut parts) = (0.0, 0.0);
        let all: Vec<usize> = (0..part.rows.len()).collect();
        for group in all.chunks(each) {
            native::zero_all(self.sums())?;
            self.groups(material, part, &[group.to_vec()], &mut sums)?;
            native::add_all(&whole, self.sums(), 1.0)?;
            squares += square(self.sums())?;
            parts += 1.0;
        }
        self.replace_sums(whole);
        // All are divided by what the whole update counted: the mean over a part is as many times as large.
        let small = (squares / parts * parts * parts, each);
        Ok((sums, Estimate::of(small, (square(self.sums())?, part.rows.len()))))
    }
}

fn square(tensors: &[Tensor]) -> Result<f64> {
    Ok(native::global_norm(tensors)?.f_double_value(&[])?.powi(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_equal_and_go_through_together() {
        assert_eq!(equal_rows(64, 100, Cut::Rows(16)), Some(16));
        assert_eq!(equal_rows(64, 100, Cut::Rows(64)), Some(32), "two parts at least");
        assert_eq!(equal_rows(64, 100, Cut::Rows(12)), Some(8));
        assert_eq!(equal_rows(60, 100, Cut::Tokens(1250)), Some(12));
        assert_eq!(equal_rows(7, 100, Cut::Tokens(50)), Some(1));
        assert_eq!(equal_rows(1, 100, Cut::Rows(8)), None);
        assert_eq!(equal_rows(0, 0, Cut::Rows(8)), None);
    }
}
