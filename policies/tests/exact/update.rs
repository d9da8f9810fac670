//! A whole update in small: rows with what was recorded when they were sampled, taken through a policy
//! as the trainer does it, in any cut.

use ndarray::Array2;
use retort_policies::objective::head::Want;
use retort_policies::objective::input::Side;
use retort_policies::{Part, Policy, Rollout, Signals, Update, View};
use tch::{Kind, Tensor};

use crate::reference::log_softmax;
use crate::support::{Numbers, array, tensor};

/// One row: its tokens, and the logits at each of them of the student now, the student that sampled, and
/// the teacher.
#[derive(Clone)]
pub struct Row {
    pub tokens: Vec<i64>,
    pub q: Array2<f64>,
    pub old: Array2<f64>,
    pub p: Array2<f64>,
}

impl Row {
    pub fn random(r: &mut Numbers, length: usize, v: usize) -> Row {
        let old = r.matrix(length, v, 1.0);
        Row {
            tokens: (0..length).map(|_| r.below(v) as i64).collect(),
            q: &old + &r.matrix(length, v, 0.3),
            p: &old + &r.matrix(length, v, 1.0),
            old,
        }
    }

    /// The log-probability of each token under some logits.
    pub fn logs(&self, z: &Array2<f64>) -> Vec<f64> {
        self.tokens.iter().zip(z.rows()).map(|(y, z)| log_softmax(z)[*y as usize]).collect()
    }

    pub fn rollout(&self, alpha: f64) -> Rollout {
        let (log_q_old, log_p) = (self.logs(&self.old), self.logs(&self.p));
        let mixed = |(q, p): (&f64, &f64)| (alpha * p.exp() + (1.0 - alpha) * q.exp()).ln();
        let log_m =
            if alpha == 0.0 { log_q_old.clone() } else { log_q_old.iter().zip(&log_p).map(mixed).collect() };
        Rollout { log_q_old, log_p, log_m }
    }
}

/// What a policy makes of an update: sums, not divided, and the derivative at each row's logits.
pub struct Summed {
    pub loss: f64,
    pub terms: Vec<(&'static str, f64)>,
    pub tokens: usize,
    pub grads: Vec<Array2<f64>>,
}

/// Prepares the rows' numbers, all together.
pub fn prepared(policy: &dyn Policy, rollouts: &[Rollout], longest: usize) -> Vec<Signals> {
    policy.prepare(rollouts, Update { longest, total: &mut |_| Ok(()) }).unwrap()
}

/// Scores prepared rows in micro-batches of these many rows.
pub fn score(
    policy: &dyn Policy,
    part: Part,
    rows: &[Row],
    signals: &[Signals],
    cuts: &[usize],
    kind: Kind,
) -> Summed {
    assert_eq!(cuts.iter().sum::<usize>(), rows.len());
    let mut all = Summed { loss: 0.0, terms: Vec::new(), tokens: 0, grads: Vec::new() };
    let mut from = 0;
    for &count in cuts {
        let (batch, own) = (&rows[from..from + count], signals.get(from..from + count).unwrap_or_default());
        from += count;
        let lengths: Vec<usize> = batch.iter().map(|row| row.tokens.len()).collect();
        let targets: Vec<i64> = batch.iter().flat_map(|row| row.tokens.clone()).collect();
        let stack = |pick: fn(&Row) -> &Array2<f64>| {
            let views: Vec<_> = batch.iter().map(|row| pick(row).view()).collect();
            tensor(&ndarray::concatenate(ndarray::Axis(0), &views).unwrap(), kind)
        };
        let (q, p) = (stack(|row| &row.q), stack(|row| &row.p));
        let view = View {
            part,
            student: Side::Logits(&q),
            teacher: Some(Side::Logits(&p)),
            targets_n: &Tensor::from_slice(&targets),
            lengths: &lengths,
            signals: own,
            vocabulary: q.size()[1],
            scale_n: None,
            barred: None,
            want: Want::Hidden,
        };
        let made = policy.score(view).unwrap();
        all.loss += made.loss().unwrap();
        all.tokens += made.tokens;
        for (k, (name, sum)) in made.terms().unwrap().into_iter().enumerate() {
            if all.terms.len() == k {
                all.terms.push((name, 0.0));
            }
            all.terms[k].1 += sum;
        }
        let grad = array(&made.grad.unwrap());
        let mut at = 0;
        for length in lengths {
            all.grads.push(grad.slice(ndarray::s![at..at + length, ..]).to_owned());
            at += length;
        }
    }
    all
}

/// A policy from a table written as JSON.
pub fn policy(name: &str, table: serde_json::Value) -> Box<dyn Policy> {
    (retort_policies::named(name).unwrap().build)(table.as_object().unwrap()).unwrap()
}
