//! The distillation-scaling law's form, fitted: first the loss of models trained alone, then what a teacher changes.
//!
//! Both are fits of log L under Huber's loss, from several starts around the published constants; parameters are
//! looked for by their logarithms, so all stay positive. What does not vary in the points cannot be told apart, and
//! is left out of the form: without several numbers of tokens there is no B, without several sizes no exponent of N.
//! Intervals are of what the law predicts, and not of its constants, many of which give the same predictions: the
//! residuals of both fits are drawn again.

use rand::Rng;

use super::least_squares::{descend, explained};
use crate::error::Result;
use crate::eval::bootstrap::interval;
use crate::law::Published;
use crate::law::points::{ALONE, Measured};
use crate::law::scaling::{Distilled, Size, Supervised};
use crate::seed::{Stream, generator, uniform};

/// Where Huber's loss turns into a line, in log L.
const DELTA: f64 = 1e-3;
/// Starts around the published constants.
const STARTS: u64 = 24;
/// Draws of the intervals.
const RESAMPLES: usize = 100;

/// What the loss of models without a teacher says.
#[derive(Debug, Clone, PartialEq)]
pub struct Alone {
    /// The constants.
    pub law: Supervised,
    /// Models it was fitted to.
    pub models: usize,
    /// How much of log L's spread it explains.
    pub r2: Option<f64>,
}

/// What the students of one arm say.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    /// The arm.
    pub arm: String,
    /// The constants.
    pub law: Distilled,
    /// Runs it was fitted to.
    pub runs: usize,
    /// Huber's loss a run.
    pub cost: f64,
    /// How much of log L's spread it explains.
    pub r2: Option<f64>,
    /// What it predicts of each run, with a 95 % interval.
    pub predicted: Vec<(f64, [f64; 2])>,
}

/// Both, or why not.
#[derive(Debug, Clone, PartialEq)]
pub struct Forms {
    /// Models trained alone.
    pub alone: Option<Alone>,
    /// Each arm.
    pub arms: Vec<Form>,
    /// What could not be fitted, and why.
    pub missing: Vec<String>,
}

/// A run as the form sees it.
#[derive(Debug, Clone, Copy)]
struct Run {
    size: Size,
    teacher: f64,
    loss: f64,
}

/// Which constants a fit has to find: what varies in the points.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Varies {
    sizes: bool,
    tokens: bool,
}

impl Varies {
    fn of(runs: &[Run]) -> Self {
        let differ = |of: fn(&Run) -> f64| runs.iter().any(|r| (of(r) / of(&runs[0]) - 1.0).abs() > 0.01);
        Varies { sizes: differ(|r| r.size.n), tokens: differ(|r| r.size.d) }
    }
}

/// A law's constants as the logarithms that are looked for, of those that are.
trait Shape: Copy {
    /// The logarithms.
    fn logs(self, varies: Varies) -> Vec<f64>;
    /// The law with these; what is not looked for is left out of it.
    fn with(self, logs: &[f64], varies: Varies) -> Self;
}

/// `[coefficient, exponent]` of N and of D with the exponent of their sum, as far as they are looked for.
fn sum_logs(a: [f64; 2], b: [f64; 2], g: f64, varies: Varies) -> Vec<f64> {
    match varies {
        Varies { tokens: true, sizes: true } => [a[0], a[1], b[0], b[1], g].map(f64::ln).to_vec(),
        // One term alone: the outer exponent is part of its own two.
        Varies { tokens: false, sizes: true } => vec![g * a[0].ln(), (g * a[1]).ln()],
        Varies { tokens: true, sizes: false } => vec![g * b[0].ln(), (g * b[1]).ln()],
        Varies { .. } => vec![0.0],
    }
}

fn sum_of(logs: &[f64], varies: Varies) -> ([f64; 2], [f64; 2], f64) {
    let none = [0.0, 1.0];
    let pair = |n: usize| [logs[n].exp(), logs[n + 1].exp()];
    match varies {
        Varies { tokens: true, sizes: true } => (pair(0), pair(2), logs[4].exp()),
        Varies { tokens: false, sizes: true } => (pair(0), none, 1.0),
        Varies { tokens: true, sizes: false } => (none, pair(0), 1.0),
        Varies { .. } => ([logs[0].exp(), 0.0], none, 1.0),
    }
}

impl Shape for Supervised {
    fn logs(self, varies: Varies) -> Vec<f64> {
        let Supervised { e, a, b, g } = self;
        [vec![e.ln()], sum_logs(a, b, g, varies)].concat()
    }

    fn with(self, logs: &[f64], varies: Varies) -> Self {
        let (a, b, g) = sum_of(&logs[1..], varies);
        Supervised { e: logs[0].exp(), a, b, g }
    }
}

impl Shape for Distilled {
    fn logs(self, varies: Varies) -> Vec<f64> {
        let Distilled { a, b, g, c0, c1, f1, d1 } = self;
        [[c0, c1, f1, d1].map(f64::ln).to_vec(), sum_logs(a, b, g, varies)].concat()
    }

    fn with(self, logs: &[f64], varies: Varies) -> Self {
        let (a, b, g) = sum_of(&logs[4..], varies);
        let [c0, c1, f1, d1] = std::array::from_fn(|n| logs[n].exp());
        Distilled { a, b, g, c0, c1, f1, d1 }
    }
}

/// Looks for the law nearest to these losses. `predict` is a run's loss by a law.
struct Search<'a, L> {
    from: L,
    runs: &'a [Run],
    varies: Varies,
    predict: &'a dyn Fn(L, usize) -> f64,
    seed: u64,
}

impl<L: Shape> Search<'_, L> {
    fn once(&self, losses: &[f64], start: &[f64]) -> Option<(Vec<f64>, f64)> {
        let bounds: Vec<[f64; 2]> = start.iter().map(|_| [-12.0, 40.0]).collect();
        let residuals = |logs: &[f64]| {
            let law = self.from.with(logs, self.varies);
            (0..losses.len()).map(|n| (self.predict)(law, n).ln() - losses[n].ln()).collect()
        };
        descend(&residuals, start, &bounds, DELTA).map(|found| (found.at, found.cost))
    }

    /// The best of several starts.
    fn best(&self) -> Option<(Vec<f64>, f64)> {
        let middle = self.from.logs(self.varies);
        let losses: Vec<f64> = self.runs.iter().map(|r| r.loss).collect();
        let start = |n: u64| -> Vec<f64> {
            let shift =
                |at: usize| 2.0 * uniform(self.seed, Stream::Bootstrap, (1 << 40) + n, at as u64) - 1.0;
            middle.iter().enumerate().map(|(at, x)| if n == 0 { *x } else { x + 1.5 * shift(at) }).collect()
        };
        let found = (0..STARTS).filter_map(|n| self.once(&losses, &start(n)));
        found.min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Laws of losses that were drawn again: what the best one predicts, with its residuals in other places.
    fn drawn(&self, best: &[f64], place: u64) -> Vec<L> {
        let law = self.from.with(best, self.varies);
        let n = self.runs.len();
        let fitted: Vec<f64> = (0..n).map(|at| (self.predict)(law, at)).collect();
        let free = n.saturating_sub(best.len()).max(1);
        let stretch = (n as f64 / free as f64).sqrt();
        let left: Vec<f64> =
            self.runs.iter().zip(&fitted).map(|(r, f)| stretch * (r.loss.ln() - f.ln())).collect();
        let again = |resample: u64| {
            let mut random = generator(self.seed, Stream::Bootstrap, (2 << 40) + place, resample);
            let mut pick = || ((u128::from(random.next_u64()) * n as u128) >> 64) as usize;
            let losses: Vec<f64> = fitted.iter().map(|f| f * left[pick()].exp()).collect();
            let (at, _) = self.once(&losses, best)?;
            Some(self.from.with(&at, self.varies))
        };
        (0..RESAMPLES as u64).filter_map(again).collect()
    }
}

/// How much of the spread of log L a law explains.
fn r2(runs: &[Run], predicted: impl Fn(usize) -> f64) -> Option<f64> {
    let y: Vec<f64> = runs.iter().map(|r| r.loss.ln()).collect();
    let fitted: Vec<f64> = (0..runs.len()).map(|n| predicted(n).ln()).collect();
    explained(&y, &fitted)
}

/// Fits models alone, and then every arm.
pub(super) fn fit(rows: &[Measured], seed: u64) -> Result<Forms> {
    let from = Published::read()?.scaling;
    let mut forms = Forms { alone: None, arms: Vec::new(), missing: Vec::new() };
    let (runs, _) = of_arm(rows, ALONE);
    let varies = if runs.is_empty() { Varies { sizes: false, tokens: false } } else { Varies::of(&runs) };
    let predict = |law: Supervised, n: usize| law.loss(runs[n].size);
    let search = Search { from: from.supervised, runs: &runs, varies, predict: &predict, seed };
    let wanted = from.supervised.logs(varies).len() + 1;
    let found = (varies.sizes && runs.len() >= wanted).then(|| search.best()).flatten();
    let Some((logs, _)) = found else {
        forms.missing.push(format!(
            "the scaling law needs the losses of at least {wanted} models of several sizes trained alone (arm = {ALONE}); \
             there are {}",
            runs.len()
        ));
        return Ok(forms);
    };
    let law = from.supervised.with(&logs, varies);
    let r2 = r2(&runs, |n| law.loss(runs[n].size));
    forms.alone = Some(Alone { law, models: runs.len(), r2 });
    let alones = search.drawn(&logs, 0);
    let mut arms: Vec<&str> = rows.iter().map(|row| row.arm.as_str()).filter(|arm| *arm != ALONE).collect();
    arms.sort_unstable();
    arms.dedup();
    for (place, arm) in arms.into_iter().enumerate() {
        match arm_of(rows, arm, (law, &alones), from.distilled, (seed, place as u64 + 1)) {
            Ok(form) => forms.arms.push(form),
            Err(why) => forms.missing.push(format!("{arm}: {why}")),
        }
    }
    Ok(forms)
}

/// One arm's law, or why there is none.
fn arm_of(
    rows: &[Measured],
    arm: &str,
    (alone, alones): (Supervised, &[Supervised]),
    from: Distilled,
    (seed, place): (u64, u64),
) -> Result<Form, String> {
    let (runs, without) = of_arm(rows, arm);
    if runs.is_empty() {
        return Err(format!("{without} runs have no teacher_loss or no tokens"));
    }
    let varies = Varies::of(&runs);
    let wanted = from.logs(varies).len() + 2;
    if runs.len() < wanted {
        return Err(format!("{} runs with a teacher's loss, and the law needs {wanted}", runs.len()));
    }
    let of = |law: Distilled, alone: Supervised, n: usize| {
        law.loss(runs[n].size, runs[n].teacher, alone.loss(runs[n].size))
    };
    let predict = |law: Distilled, n: usize| of(law, alone, n);
    let search = Search { from, runs: &runs, varies, predict: &predict, seed };
    let (logs, cost) = search.best().ok_or("no start had numbers that are finite")?;
    let law = from.with(&logs, varies);
    let drawn: Vec<Vec<f64>> = search
        .drawn(&logs, place)
        .into_iter()
        .zip(alones.iter().cycle())
        .map(|(law, alone)| (0..runs.len()).map(|n| of(law, *alone, n)).collect())
        .collect();
    let predicted = (0..runs.len())
        .map(|n| (of(law, alone, n), interval(drawn.iter().map(|one| one[n]).collect())))
        .collect();
    let r2 = r2(&runs, |n| of(law, alone, n));
    Ok(Form { arm: arm.to_string(), law, runs: runs.len(), cost: cost / runs.len() as f64, r2, predicted })
}

/// The runs of an arm that have all that the law asks for, and how many have not.
fn of_arm(rows: &[Measured], arm: &str) -> (Vec<Run>, usize) {
    let of = |row: &Measured| {
        let teacher = if arm == ALONE { Some(1.0) } else { row.teacher_loss };
        let n = row.student_body.unwrap_or(row.student);
        Some(Run { size: Size { n, d: row.tokens? }, teacher: teacher?, loss: row.loss })
    };
    let all: Vec<&Measured> = rows.iter().filter(|row| row.arm == arm).collect();
    let runs: Vec<Run> = all.iter().filter_map(|row| of(row)).collect();
    let without = all.len() - runs.len();
    (runs, without)
}
