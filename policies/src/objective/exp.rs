//! The exponential of loops of our own.

/// e^x for x <= 0, to 2 units in the last place; 0 below -87, NaN for NaN. (libm's is exact, and takes
/// one number at a time.)
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// Adding it rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts, so that r is exact.
    let r = (x - n * LN2[0]) - n * LN2[1];
    // The Taylor series to r^7, whose rest is below 1e-9.
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    let power = f32::from_bits((shifted.to_bits().wrapping_add(127)) << 23);
    let value = p * power;
    if x < -87.0 { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_exact_to_two_units() {
        for i in 0..200_000 {
            let x = -87.0 * i as f32 / 200_000.0;
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) - want).abs() <= 2.4e-7 * want, "{x}");
        }
        assert_eq!((exp(0.0), exp(-88.0), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert!(exp(f32::NAN).is_nan());
    }
}
