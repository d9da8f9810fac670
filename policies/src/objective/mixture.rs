//! Mixtures of two models' probabilities, in logarithms.
//!
//! The mixed law is `m = alpha p + (1-alpha) q`. A draw from it is a draw from p with probability alpha and
//! from q otherwise, one coin a row and token; the probability that a token had is still the mixed one.

use tch::Tensor;

use crate::error::Result;

/// `log m = log(alpha p + (1-alpha) q)` of two log-probabilities, -inf where both are. At alpha = 0 it is
/// `log q` to the bit, so that the importance weight `q/m` is exactly 1.
pub fn log_mixed(log_p: &Tensor, log_q: &Tensor, alpha: f64) -> Result<Tensor> {
    if alpha <= 0.0 {
        return Ok(log_q.shallow_clone());
    }
    if alpha >= 1.0 {
        return Ok(log_p.shallow_clone());
    }
    Ok(log_p.f_add_scalar(alpha.ln())?.f_logaddexp(&log_q.f_add_scalar((1.0 - alpha).ln())?)?)
}

/// The importance weight of each token, `w = q_old / m`, at most `1/(1-alpha)`.
pub fn step_weights(log_q_old: &[f64], log_mixed: &[f64]) -> Vec<f64> {
    log_q_old.iter().zip(log_mixed).map(|(q, m)| (q - m).exp()).collect()
}

/// Their products over each prefix, `W_u = prod_{s<=u} w_s`, the unbiased weights.
pub fn prefix_weights(log_q_old: &[f64], log_mixed: &[f64]) -> Vec<f64> {
    let mut log_product = 0.0;
    let differences = log_q_old.iter().zip(log_mixed);
    differences
        .map(|(q, m)| {
            log_product += q - m;
            log_product.exp()
        })
        .collect()
}
