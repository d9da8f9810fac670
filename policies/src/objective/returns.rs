//! From what a rollout recorded to an advantage for each of its tokens. Plain numbers in float64, one
//! slice a row with exactly the row's tokens in it: there is no padding that could leak in, and no
//! tensor that a gradient could flow through.
//!
//! ```text
//! r[t] = clip((lp[t] - lq_old[t]) / s, -c, c)
//! A[t] = sum_{u >= t+b} gamma^(u-t-b) r[u]      divided by n = T - t - b where lengths are normalised
//! A    = (A - mean) / sqrt(var + 1e-8)          where it is whitened, over the rows of the update
//! ```

/// Keeps a whitened advantage finite where all are equal.
const WHITEN_EPS: f64 = 1e-8;

/// How a token is rewarded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reward {
    /// s: the log-ratio is divided by it.
    pub scale: f64,
    /// c: the reward stays within -c and c.
    pub clip: Option<f64>,
}

/// `r = clip((lp - lq_old) / s, -c, c)`, token by token.
pub fn rewards(log_p: &[f64], log_q_old: &[f64], how: Reward) -> Vec<f64> {
    let one = |(p, q): (&f64, &f64)| {
        let r = (p - q) / how.scale;
        // Not f64::clamp, which panics on a clip that is not a number.
        how.clip.map_or(r, |c| r.min(c).max(-c))
    };
    log_p.iter().zip(log_q_old).map(one).collect()
}

/// How rewards add up to a return.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Return {
    /// b: 0 where a token's own reward counts, 1 where the return starts at the next one.
    pub start: usize,
    /// The discount. Its power counts from where the return starts, not from the row's beginning.
    pub gamma: f64,
    /// Divide by the number of rewards summed.
    pub length_norm: bool,
}

/// The reward-to-go of each token of one row; 0 where no reward is left (b = 1, last token).
pub fn returns(rewards: &[f64], how: Return) -> Vec<f64> {
    let total = rewards.len();
    let mut to_go = vec![0.0; total + how.start + 1];
    // From the end: G[t] = r[t] + gamma G[t+1], so that no power of gamma is ever formed.
    for t in (0..total).rev() {
        to_go[t] = rewards[t] + how.gamma * to_go[t + 1];
    }
    let one = |t: usize| {
        let left = total.saturating_sub(t + how.start);
        if left == 0 {
            0.0
        } else if how.length_norm {
            to_go[t + how.start] / left as f64
        } else {
            to_go[t + how.start]
        }
    };
    (0..total).map(one).collect()
}

/// Mean and population variance of the cells of an update, as sums that add up over ranks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    /// The mean.
    pub mean: f64,
    /// The population variance.
    pub variance: f64,
}

impl Moments {
    /// The moments of `rows` and, where `cells` is given, of as many zeros as fill each row up to that
    /// number. `total` adds numbers up over all ranks; it is called twice by every rank (first for the
    /// mean, then for the variance around it), also by one without rows.
    pub fn of<E>(
        rows: &[Vec<f64>],
        cells: Option<usize>,
        mut total: impl FnMut(&mut [f64]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let values = || rows.iter().flatten();
        let held = values().count();
        let count = cells.map_or(held, |c| c.max(rows.iter().map(Vec::len).max().unwrap_or(0)) * rows.len());
        let mut first = [count as f64, values().sum::<f64>()];
        total(&mut first)?;
        let all = first[0].max(1.0);
        let mean = first[1] / all;
        let zeros = (count - held) as f64;
        let mut second = [values().map(|a| (a - mean).powi(2)).sum::<f64>() + zeros * mean * mean];
        total(&mut second)?;
        Ok(Moments { mean, variance: second[0] / all })
    }

    /// `(a - mean) / sqrt(var + 1e-8)` in place.
    pub fn whiten(&self, rows: &mut [Vec<f64>]) {
        let root = (self.variance + WHITEN_EPS).sqrt();
        for a in rows.iter_mut().flatten() {
            *a = (*a - self.mean) / root;
        }
    }
}
