//! What holds, shown by enumerating every reply: a vocabulary of 3 of which one ends, at most 3 tokens, a
//! student and a teacher that are tables of logits. The `exact` preset's expected gradient is that of
//! the sequence KL; how far the others point away from it is measured.

use ndarray::{Array1, Array2};
use retort_policies::{Part, Policy};
use serde_json::json;
use tch::Kind;

use crate::reference::{derivative, kl, log_softmax};
use crate::support::{Numbers, off_by_norm};
use crate::update::{Row, policy, prepared, score};

const V: usize = 3;
const LONGEST: usize = 3;
const EOS: i64 = 0;

/// A reply and the table row that each of its tokens is drawn from.
struct Reply {
    tokens: Vec<i64>,
    nodes: Vec<usize>,
}

/// Every reply, and how many prefixes there are.
fn replies() -> (Vec<Reply>, usize) {
    let (mut done, mut open, mut nodes) = (Vec::new(), vec![(Vec::new(), Vec::new())], 0);
    while let Some((tokens, path)) = open.pop() {
        let node = nodes;
        nodes += 1;
        for y in 0..V as i64 {
            let tokens: Vec<i64> = [&tokens[..], &[y]].concat();
            let path: Vec<usize> = [&path[..], &[node]].concat();
            if y == EOS || tokens.len() == LONGEST {
                done.push(Reply { tokens, nodes: path });
            } else {
                open.push((tokens, path));
            }
        }
    }
    (done, nodes)
}

/// A student and a teacher.
struct Toy {
    q: Array2<f64>,
    p: Array2<f64>,
    replies: Vec<Reply>,
}

impl Toy {
    fn new(seed: u64) -> Toy {
        let (replies, nodes) = replies();
        assert_eq!((replies.len(), nodes), (15, 7));
        let mut r = Numbers::new(seed);
        Toy { q: r.matrix(nodes, V, 1.0), p: r.matrix(nodes, V, 1.0), replies }
    }

    fn log_of(&self, reply: &Reply, z: &Array2<f64>) -> f64 {
        reply.tokens.iter().zip(&reply.nodes).map(|(y, n)| log_softmax(z.row(*n))[*y as usize]).sum()
    }

    fn row(&self, reply: &Reply) -> Row {
        let at =
            |z: &Array2<f64>| Array2::from_shape_fn((reply.nodes.len(), V), |(t, v)| z[[reply.nodes[t], v]]);
        Row { tokens: reply.tokens.clone(), q: at(&self.q), old: at(&self.q), p: at(&self.p) }
    }

    /// The derivative of `KL(q(y) || p(y))` over whole replies, at every logit of the table.
    fn exact(&self) -> Array2<f64> {
        derivative(&self.q, |node, moved| {
            let mut q = self.q.clone();
            q.row_mut(node).assign(&moved);
            let one = |y: &Reply| {
                let (lq, lp) = (self.log_of(y, &q), self.log_of(y, &self.p));
                lq.exp() * (lq - lp)
            };
            self.replies.iter().map(one).sum()
        })
    }

    /// The chance of a reply when it is sampled from the mixture.
    fn chance(&self, reply: &Reply, alpha: f64) -> f64 {
        let log_m: f64 = self.row(reply).rollout(alpha).log_m.iter().sum();
        log_m.exp()
    }

    /// One row's gradient by the policy, at the table's logits.
    fn row_gradient(&self, policy: &dyn Policy, reply: &Reply, alpha: f64) -> Array2<f64> {
        let row = self.row(reply);
        let signals = prepared(policy, &[row.rollout(alpha)], LONGEST);
        let made = score(policy, Part::Main, &[row], &signals, &[1], Kind::Double);
        let mut at_table = Array2::zeros(self.q.dim());
        for (t, node) in reply.nodes.iter().enumerate() {
            let mut into = at_table.row_mut(*node);
            into += &made.grads[0].row(t);
        }
        at_table
    }

    /// The expected gradient.
    fn mean_gradient(&self, policy: &dyn Policy, alpha: f64) -> Array2<f64> {
        let mut sum = Array2::zeros(self.q.dim());
        for reply in &self.replies {
            sum += &(self.row_gradient(policy, reply, alpha) * self.chance(reply, alpha));
        }
        sum
    }

    /// One row's gradient by the reference: `sum_t -A[t] d lq_t + d KL_t`, A fixed or not.
    fn row_reference(&self, reply: &Reply, detached: bool) -> Array2<f64> {
        let row = self.row(reply);
        let (held, lp) = (row.logs(&row.q), row.logs(&row.p));
        let at_row = derivative(&row.q, |at, moved| {
            let mut q = row.q.clone();
            q.row_mut(at).assign(&moved);
            let lq = row.logs(&q);
            let of = if detached { &held } else { &lq };
            let one = |t: usize| {
                let a: f64 = (t + 1..lq.len()).map(|u| lp[u] - of[u]).sum();
                -a * (lq[t] - held[t]).exp() + kl(&log_softmax(q.row(t)), &log_softmax(row.p.row(t)))
            };
            (0..lq.len()).map(one).sum()
        });
        let mut at_table = Array2::zeros(self.q.dim());
        for (t, node) in reply.nodes.iter().enumerate() {
            let mut into = at_table.row_mut(*node);
            into += &at_row.row(t);
        }
        at_table
    }
}

#[test]
fn chances_of_all_replies_sum_to_one() {
    let toy = Toy::new(1);
    for alpha in [0.0, 0.2, 0.7] {
        let sum: f64 = toy.replies.iter().map(|y| toy.chance(y, alpha)).sum();
        assert!((sum - 1.0).abs() < 1e-14);
    }
}

/// N (L_pg + L_1) of the `exact` preset has in expectation the gradient of `KL(q(y|x) || p(y|x))`.
#[test]
fn exact_preset_has_the_gradient_of_the_sequence_kl() {
    let policy = policy("minillm", json!({"preset": "exact"}));
    for seed in 0..20 {
        let toy = Toy::new(seed);
        let by = off_by_norm(&toy.mean_gradient(policy.as_ref(), 0.0), &toy.exact(), 1e-10);
        assert!(by <= 1.0, "toy {seed}: {by} tolerances");
    }
}

/// With a teacher in the mix the prefix products keep it so: over s < t on KL_t, over s <= u on r_u.
#[test]
fn prefix_weights_keep_the_gradient_unbiased() {
    for alpha in [0.2, 0.6] {
        let table =
            json!({"preset": "exact", "alpha": alpha, "weights": "prefix", "weight_single_step": true});
        let policy = policy("minillm", table);
        for seed in 0..10 {
            let toy = Toy::new(seed);
            let by = off_by_norm(&toy.mean_gradient(policy.as_ref(), alpha), &toy.exact(), 1e-10);
            assert!(by <= 1.0, "toy {seed}: {by} tolerances");
        }
    }
}

/// The sampled-token form has, in expectation, the gradient of the single-step term.
#[test]
fn k1_has_the_mean_gradient_of_the_single_step_term() {
    let (k1, toy) = (policy("onpolicy", json!({})), Toy::new(5));
    let mut single = Array2::<f64>::zeros(toy.q.dim());
    for reply in &toy.replies {
        let row = toy.row(reply);
        let slope = derivative(&row.q, |t, z| kl(&log_softmax(z), &log_softmax(row.p.row(t))));
        for (t, node) in reply.nodes.iter().enumerate() {
            let mut into = single.row_mut(*node);
            into += &(&slope.row(t) * toy.chance(reply, 0.0));
        }
    }
    assert!(off_by_norm(&toy.mean_gradient(k1.as_ref(), 0.0), &single, 1e-10) <= 1.0);
}

/// An undetached advantage vanishes in the mean, so the test above cannot see it: the rows can.
#[test]
fn every_row_has_its_own_gradient_and_a_detached_advantage() {
    let (policy, toy) = (policy("minillm", json!({"preset": "exact"})), Toy::new(3));
    let (mut worst, mut mean) = (0.0f64, Array2::zeros(toy.q.dim()));
    for reply in &toy.replies {
        let made = toy.row_gradient(policy.as_ref(), reply, 0.0);
        let by = off_by_norm(&made, &toy.row_reference(reply, true), 1e-10);
        assert!(by <= 1.0, "{:?}: {by} tolerances", reply.tokens);
        let leaky = toy.row_reference(reply, false);
        worst = worst.max(off_by_norm(&made, &leaky, 1e-10));
        mean += &(leaky * toy.chance(reply, 0.0));
    }
    assert!(worst > 100.0, "an undetached advantage is only {worst} tolerances away");
    assert!(off_by_norm(&mean, &toy.exact(), 1e-9) <= 1.0, "and the mean would not have shown it");
}

/// How biased each trick is: the median cosine between its expected gradient and the exact one.
#[test]
fn tricks_are_biased_and_exact_is_not() {
    let arms = [
        ("exact", json!({"preset": "exact"}), 0.0),
        (
            "prefix weights, alpha 0.2",
            json!({"preset": "exact", "alpha": 0.2, "weights": "prefix", "weight_single_step": true}),
            0.2,
        ),
        (
            "step weights, alpha 0.2",
            json!({"preset": "exact", "alpha": 0.2, "weight_single_step": true}),
            0.2,
        ),
        ("length norm", json!({"preset": "exact", "length_norm": true}), 0.0),
        (
            "single step alone",
            json!({"preset": "exact", "gamma": 0.0, "return_from": "current", "reward_scale": 1e12}),
            0.0,
        ),
        ("paper", json!({"preset": "paper"}), 0.2),
    ];
    for (name, table, alpha) in arms {
        let policy = policy("minillm", table);
        let mut cosines: Vec<f64> = (0..41)
            .map(|seed| {
                let toy = Toy::new(1000 + seed);
                cosine(&toy.mean_gradient(policy.as_ref(), alpha), &toy.exact())
            })
            .collect();
        cosines.sort_by(f64::total_cmp);
        let median = cosines[20];
        println!("{name}: {median:.4}");
        if name == "exact" || name.starts_with("prefix") {
            assert!(cosines[0] > 1.0 - 1e-9, "{name}: {cosines:?}");
        } else {
            assert!(median > 0.8 && median < 0.9999, "{name}: {median}");
        }
    }
}

fn cosine(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
    let flat = |x: &Array2<f64>| Array1::from_iter(x.iter().copied());
    let (a, b) = (flat(a), flat(b));
    a.dot(&b) / (a.dot(&a) * b.dot(&b)).sqrt()
}
