//! Least squares: linear ones in closed form, others by Levenberg and Marquardt's steps under Huber's loss, which
//! few points far off cannot pull away.

/// Solves `a x = b` for a symmetric positive matrix; none where it is not one.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let n = b.len();
    for column in 0..n {
        let pivot = (column..n).max_by(|x, y| a[*x][column].abs().total_cmp(&a[*y][column].abs()))?;
        if a[pivot][column].abs() < 1e-300 || !a[pivot][column].is_finite() {
            return None;
        }
        a.swap(column, pivot);
        b.swap(column, pivot);
        for row in column + 1..n {
            let factor = a[row][column] / a[column][column];
            let (above, below) = a.split_at_mut(row);
            let pairs = below[0][column..].iter_mut().zip(&above[column][column..]);
            pairs.for_each(|(x, from)| *x -= factor * from);
            b[row] -= factor * b[column];
        }
    }
    for row in (0..n).rev() {
        let known: f64 = (row + 1..n).map(|k| a[row][k] * b[k]).sum();
        b[row] = (b[row] - known) / a[row][row];
    }
    b.iter().all(|x| x.is_finite()).then_some(b)
}

/// The coefficients of the linear combination of each row's features that is nearest to `y`.
pub(super) fn linear<const K: usize>(features: &[[f64; K]], y: &[f64]) -> Option<[f64; K]> {
    let mut a = vec![vec![0.0; K]; K];
    let mut b = vec![0.0; K];
    for (row, y) in features.iter().zip(y) {
        for i in 0..K {
            (0..K).for_each(|j| a[i][j] += row[i] * row[j]);
            b[i] += row[i] * y;
        }
    }
    solve(a, b)?.try_into().ok()
}

/// The share of y's variance that a fit explains; none where y does not vary.
pub(super) fn explained(y: &[f64], fitted: &[f64]) -> Option<f64> {
    let mean = y.iter().sum::<f64>() / y.len().max(1) as f64;
    let total: f64 = y.iter().map(|y| (y - mean).powi(2)).sum();
    let left: f64 = y.iter().zip(fitted).map(|(y, f)| (y - f).powi(2)).sum();
    (total > 0.0).then_some(1.0 - left / total)
}

/// Parameters that were looked for.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub at: Vec<f64>,
    /// Huber's loss there, summed over the residuals.
    pub cost: f64,
}

/// Steps at most.
const STEPS: usize = 200;
/// A step that gains less than this share ends the search.
const ENOUGH: f64 = 1e-10;

/// Huber's loss: squares up to `delta`, lines behind.
fn huber(residuals: &[f64], delta: f64) -> f64 {
    let one = |r: &f64| match r.abs() {
        x if x <= delta => 0.5 * x * x,
        x => delta * (x - 0.5 * delta),
    };
    residuals.iter().map(one).sum()
}

/// Looks from `start` for parameters with the least Huber loss of the residuals; they stay within `bounds`. None
/// where even the start has residuals that are not finite.
pub(super) fn descend(
    residuals: &dyn Fn(&[f64]) -> Vec<f64>,
    start: &[f64],
    bounds: &[[f64; 2]],
    delta: f64,
) -> Option<Found> {
    let inside = |x: f64, n: usize| x.clamp(bounds[n][0], bounds[n][1]);
    let mut at: Vec<f64> = start.iter().enumerate().map(|(n, x)| inside(*x, n)).collect();
    let mut left = residuals(&at);
    let mut cost = huber(&left, delta);
    if !cost.is_finite() {
        return None;
    }
    let mut damping = 1e-2;
    for _ in 0..STEPS {
        let slopes = slopes(residuals, &at, &left);
        // Within this damping a step gains; beyond its last value none does.
        let gained = loop {
            let Some(step) = step(&slopes, &left, delta, damping) else { break None };
            let next: Vec<f64> =
                at.iter().zip(&step).enumerate().map(|(n, (x, s))| inside(x + s, n)).collect();
            let new = residuals(&next);
            let better = huber(&new, delta);
            if better < cost {
                let gained = cost - better;
                (at, left, cost) = (next, new, better);
                damping = (damping / 5.0f64).max(1e-9);
                break Some(gained);
            }
            damping *= 4.0;
            if damping > 1e9 {
                break None;
            }
        };
        if gained.is_none_or(|gained| gained < ENOUGH * (cost + 1e-12)) {
            break;
        }
    }
    Some(Found { at, cost })
}

/// The residuals' derivatives, a row a parameter.
fn slopes(residuals: &dyn Fn(&[f64]) -> Vec<f64>, at: &[f64], left: &[f64]) -> Vec<Vec<f64>> {
    let mut place = at.to_vec();
    let mut all = Vec::with_capacity(at.len());
    for n in 0..at.len() {
        let h = 1e-6 * at[n].abs().max(1.0);
        place[n] = at[n] + h;
        let there = residuals(&place);
        place[n] = at[n];
        all.push(
            there.iter().zip(left).map(|(a, b)| if a.is_finite() { (a - b) / h } else { 0.0 }).collect(),
        );
    }
    all
}

/// A damped Gauss-Newton step, residuals beyond `delta` weighted down.
fn step(slopes: &[Vec<f64>], left: &[f64], delta: f64, damping: f64) -> Option<Vec<f64>> {
    let weights: Vec<f64> =
        left.iter().map(|r| if r.abs() <= delta { 1.0 } else { delta / r.abs() }).collect();
    let product =
        |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).zip(&weights).map(|((a, b), w)| w * a * b).sum() };
    let n = slopes.len();
    let mut a = vec![vec![0.0; n]; n];
    for i in 0..n {
        for j in 0..n {
            a[i][j] = product(&slopes[i], &slopes[j]);
        }
        a[i][i] += damping * a[i][i] + 1e-12;
    }
    solve(a, slopes.iter().map(|s| -product(s, left)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_ones_are_exact() {
        let features: Vec<[f64; 3]> = (0..6).map(f64::from).map(|x| [1.0, x, x * x]).collect();
        let y: Vec<f64> = features.iter().map(|[_, x, xx]| 2.0 - 3.0 * x + 0.5 * xx).collect();
        let found = linear(&features, &y).unwrap();
        assert!(found.iter().zip([2.0, -3.0, 0.5]).all(|(a, b)| (a - b).abs() < 1e-9), "{found:?}");
        assert_eq!(
            linear(&[[1.0, 2.0], [1.0, 2.0]], &[1.0, 2.0]).map(|_| ()),
            None,
            "one place has no slope"
        );
    }

    /// A decaying exponential over an asymptote, with a point far off: squares alone would follow it.
    #[test]
    fn a_point_far_off_pulls_little() {
        let x: Vec<f64> = (0..30).map(|n| f64::from(n) * 0.2).collect();
        let of = |p: &[f64], x: f64| p[0] * (-p[1] * x).exp() + p[2];
        let mut y: Vec<f64> = x.iter().map(|x| of(&[2.0, 0.7, 1.0], *x)).collect();
        y[12] += 5.0;
        let residuals = |p: &[f64]| x.iter().zip(&y).map(|(x, y)| of(p, *x) - y).collect::<Vec<_>>();
        let bounds = [[-10.0, 10.0]; 3];
        let found = descend(&residuals, &[1.0, 0.2, 0.0], &bounds, 1e-3).unwrap();
        assert!(found.at.iter().zip([2.0, 0.7, 1.0]).all(|(a, b)| (a - b).abs() < 2e-3), "{found:?}");
        let pulled = descend(&residuals, &[1.0, 0.2, 0.0], &bounds, 1e3).unwrap();
        assert!((pulled.at[2] - 1.0).abs() > 0.02, "{pulled:?}");
        assert!(descend(&|_| vec![f64::NAN], &[1.0], &bounds, 1.0).is_none());
    }
}
