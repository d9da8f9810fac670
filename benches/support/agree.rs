//! Do both sides compute the same? Compared once a row, on some columns of the logits and on the most
//! likely token of each position.

use serde_json::Value;
use tch::{Kind, Tensor};

use super::folders::Float;

/// How near two sets of logits are.
#[derive(Debug, Clone, Copy)]
pub struct Agreement {
    /// The norm of the difference over the norm.
    pub distance: f64,
    /// Share of positions with the same most likely token.
    pub same: f64,
}

impl Agreement {
    /// Of our logits [b, t, v] and a peer's answer.
    pub fn of(logits_btv: &Tensor, answer: &Value) -> Self {
        let theirs = |name: &str| {
            let list = answer[name].as_array().unwrap();
            Tensor::from_slice(&list.iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>())
        };
        let every = answer["every"].as_i64().unwrap();
        let ours = logits_btv.slice(-1, None, None, every).to_kind(Kind::Double).flatten(0, -1);
        let probes = theirs("probes");
        let same =
            logits_btv.argmax(-1, false).to_kind(Kind::Double).flatten(0, -1).eq_tensor(&theirs("argmax"));
        Agreement {
            distance: ((&ours - &probes).norm() / probes.norm()).double_value(&[]),
            same: same.to_kind(Kind::Double).mean(Kind::Double).double_value(&[]),
        }
    }

    /// The worse of both.
    pub fn worse(self, other: Self) -> Self {
        Agreement { distance: self.distance.max(other.distance), same: self.same.min(other.same) }
    }

    /// Stops the bench where the sides do different work. bfloat16 keeps eight bits, so that tokens
    /// which are almost equally likely change places.
    pub fn demand(self, name: &str, float: Float) {
        let (distance, same) = if float.kind() == Kind::Float { (1e-4, 0.99) } else { (0.05, 0.0) };
        let near = self.distance <= distance && self.same >= same;
        assert!(near, "{name}: the sides disagree: {self:?}");
    }
}
