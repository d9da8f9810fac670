//! The three products of a head, each in the type that the machine multiplies well: logits from states, and
//! the derivative taken back to the states and to the weight.
//!
//! bfloat16 on a processor that cannot multiply it takes libtorch ten times as long as float32. On processors the
//! weight is widened, some rows of it at a time, and the products are float32's: nearer to the truth too,
//! as neither logits nor the derivative are rounded to bfloat16.

use tch::{Device, Kind, Tensor};

use crate::error::Result;

/// Numbers of a weight that are widened together: 16 MiB of float32.
const WIDENED: i64 = 1 << 22;

/// Words whose logits are computed by one product on the CPU. Of the whole vocabulary at once, libtorch's
/// product took a fifth longer at 128 rows (benches/results/head.md).
const WORDS: i64 = 1024;

/// Whether products with this tensor are better computed in float32: on any processor. With AVX-512 and no bfloat16 of its own
/// libtorch's products of bfloat16 were off by more than the numbers' rounding; where a processor multiplies it in
/// hardware they have not been measured.
pub fn widened(x: &Tensor) -> bool {
    x.kind() == Kind::BFloat16 && x.device() == Device::Cpu
}

/// `hidden weight^T` into `into_cv`.
pub(crate) fn logits(hidden_cd: &Tensor, weight_vd: &Tensor, into_cv: &mut Tensor) -> Result<()> {
    if widened(weight_vd) || weight_vd.device() == Device::Cpu && hidden_cd.kind() == into_cv.kind() {
        let hidden_cd = hidden_cd.f_to_kind(into_cv.kind())?;
        return tiles(weight_vd, WORDS, into_cv.kind(), |from, tile_td| {
            let out_ct = into_cv.f_narrow(1, from, tile_td.size()[0])?;
            let _product = hidden_cd.f_mm_out(&out_ct, &tile_td.f_transpose(0, 1)?)?;
            Ok(())
        });
    }
    let turned_dv = weight_vd.f_transpose(0, 1)?;
    if hidden_cd.kind() == into_cv.kind() {
        let _product = hidden_cd.f_mm_out(into_cv, &turned_dv)?;
    } else {
        into_cv.f_copy_(&hidden_cd.f_mm(&turned_dv)?)?;
    }
    Ok(())
}

/// `slope weight` into `into_cd`.
pub(crate) fn to_hidden(slope_cv: &Tensor, weight_vd: &Tensor, into_cd: &mut Tensor) -> Result<()> {
    if !widened(weight_vd) {
        let product_cd = slope_cv.f_to_kind(weight_vd.kind())?.f_mm(weight_vd)?;
        return Ok(into_cd.f_copy_(&product_cd)?);
    }
    let mut sum_cd = Tensor::f_zeros(into_cd.size(), (slope_cv.kind(), slope_cv.device()))?;
    let rows = (WIDENED / weight_vd.size()[1].max(1)).max(1);
    tiles(weight_vd, rows, Kind::Float, |from, tile_td| {
        let _sum = sum_cd.f_addmm_(&slope_cv.f_narrow(1, from, tile_td.size()[0])?, tile_td)?;
        Ok(())
    })?;
    Ok(into_cd.f_copy_(&sum_cd)?)
}

/// `slope^T hidden`, added to `into_vd`.
pub(crate) fn to_weight(slope_cv: &Tensor, hidden_cd: &Tensor, into_vd: &mut Tensor) -> Result<()> {
    let kind = if widened(hidden_cd) { slope_cv.kind() } else { hidden_cd.kind() };
    let (hidden_cd, slope_cv) = (hidden_cd.f_to_kind(kind)?, slope_cv.f_to_kind(kind)?);
    let turned_vc = slope_cv.f_transpose(0, 1)?;
    if into_vd.kind() == kind {
        let _sum = into_vd.f_addmm_(&turned_vc, &hidden_cd)?;
    } else {
        let _sum = into_vd.f_add_(&turned_vc.f_mm(&hidden_cd)?)?;
    }
    Ok(())
}

/// Hands the weight over in this type, some rows at a time.
fn tiles(
    weight_vd: &Tensor,
    rows: i64,
    kind: Kind,
    mut take: impl FnMut(i64, &Tensor) -> Result<()>,
) -> Result<()> {
    let words = weight_vd.size()[0];
    for from in (0..words).step_by(rows as usize) {
        let tile_td = weight_vd.f_narrow(0, from, rows.min(words - from))?.f_to_kind(kind)?;
        take(from, &tile_td)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(shape: [i64; 2], step: f64) -> Tensor {
        let x = Tensor::arange(shape[0] * shape[1], (Kind::Float, Device::Cpu)) * step;
        x.sin().view(shape)
    }

    /// Three tiles and a rest, where tiles are: each product is that of the numbers that bfloat16 holds.
    #[test]
    fn products_are_those_of_the_numbers_there() {
        let (c, v, d) = (3, 13_000, 1000);
        let thin = |t: Tensor| t.to_kind(Kind::BFloat16);
        let (hidden, weight, slope) =
            (thin(numbers([c, d], 0.37)), thin(numbers([v, d], 0.51)), numbers([c, v], 0.7));
        let double = |t: &Tensor| t.to_kind(Kind::Double);
        let near = |what: &str, got: &Tensor, exact: &Tensor, most: f64| {
            let off = (double(got) - exact).abs().max().double_value(&[]);
            assert!(off <= most * exact.abs().max().double_value(&[]), "{what}: {off}");
        };
        // One rounding of bfloat16 (2^-9), and of what goes into a product where it is not widened.
        let own = if widened(&weight) { 1e-5 } else { 1e-2 };
        let mut z = Tensor::zeros([c, v], (Kind::Float, Device::Cpu));
        logits(&hidden, &weight, &mut z).unwrap();
        near("logits", &z, &double(&hidden).mm(&double(&weight).transpose(0, 1)), own);
        let mut back = Tensor::zeros([c, d], (Kind::BFloat16, Device::Cpu));
        to_hidden(&slope, &weight, &mut back).unwrap();
        near("states", &back, &double(&slope).mm(&double(&weight)), own.max(4e-3));
        let mut sum = Tensor::ones([v, d], (Kind::Float, Device::Cpu));
        to_weight(&slope, &hidden, &mut sum).unwrap();
        near("weight", &(sum - 1.0), &double(&slope).transpose(0, 1).mm(&double(&hidden)), own);
    }
}
