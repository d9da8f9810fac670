//! The distillation-scaling law (Busbridge et al., 2025), evaluated in log space:
//!
//! ```text
//! L_S = L_T + L_T^-c0 (1 + (L_T / (Lt_S d1))^(1/f1))^(-c1 f1) (A'/N^a' + B'/D^b')^g'
//! Lt_S = E + (A/N^a + B/D^b)^g
//! ```
//!
//! N are parameters without embeddings, D the student's tokens; losses are nats a token.

use serde::Deserialize;

/// A model's parameters without embeddings, and the tokens it is trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Size {
    /// Parameters without embeddings.
    pub n: f64,
    /// Tokens.
    pub d: f64,
}

/// `coefficient / x^exponent`, as the pair of both.
type Power = [f64; 2];

/// The loss of a model trained without a teacher.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Supervised {
    /// What no model gets below.
    pub e: f64,
    /// A and its exponent, of the parameters.
    pub a: Power,
    /// B and its exponent, of the tokens.
    pub b: Power,
    /// The exponent of their sum.
    pub g: f64,
}

/// What a teacher changes of it.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distilled {
    /// A' and its exponent, of the parameters.
    pub a: Power,
    /// B' and its exponent, of the tokens.
    pub b: Power,
    /// The exponent of their sum.
    pub g: f64,
    /// The exponent of the teacher's loss.
    pub c0: f64,
    /// How steeply a teacher that is too good harms.
    pub c1: f64,
    /// How suddenly that begins.
    pub f1: f64,
    /// Where it begins: the teacher's loss over the student's own.
    pub d1: f64,
}

/// `log(exp(x) + exp(y))`.
fn log_add(x: f64, y: f64) -> f64 {
    let (most, least) = if x > y { (x, y) } else { (y, x) };
    if most == f64::NEG_INFINITY { most } else { most + (least - most).exp().ln_1p() }
}

/// `log(A/N^a + B/D^b)`; a coefficient of 0 leaves its part out.
fn log_sum(a: Power, b: Power, Size { n, d }: Size) -> f64 {
    log_add(a[0].ln() - a[1] * n.ln(), b[0].ln() - b[1] * d.ln())
}

impl Supervised {
    /// The loss after so much training.
    pub fn loss(&self, size: Size) -> f64 {
        self.e + (self.g * log_sum(self.a, self.b, size)).exp()
    }

    /// The smallest model that reaches this loss, its tokens as a function of its parameters; none where no model
    /// of at most `most` parameters does.
    pub fn parameters(&self, loss: f64, tokens: impl Fn(f64) -> f64, most: f64) -> Option<f64> {
        let reaches = |log: f64| self.loss(Size { n: log.exp(), d: tokens(log.exp()) }) <= loss;
        let (mut low, mut high) = (0.0, most.ln());
        if !reaches(high) {
            return None;
        }
        for _ in 0..100 {
            let middle = 0.5 * (low + high);
            if reaches(middle) { high = middle } else { low = middle }
        }
        Some(high.exp())
    }
}

impl Distilled {
    /// A student's loss, by its teacher's loss and by its own without a teacher.
    pub fn loss(&self, student: Size, teacher: f64, alone: f64) -> f64 {
        let Distilled { a, b, g, c0, c1, f1, d1 } = *self;
        let ratio = (teacher.ln() - (alone * d1).ln()) / f1;
        let gap = -c0 * teacher.ln() - c1 * f1 * log_add(0.0, ratio) + g * log_sum(a, b, student);
        teacher + gap.exp()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Published;
    use super::*;

    /// The law as it is printed, in plain powers.
    fn printed(n: f64, d: f64, t: f64) -> f64 {
        let alone = 1.220 + (3355.0 / n.powf(0.408) + 18186.0 / d.powf(0.431)).powf(0.452);
        let bend = (1.0 + (t / (alone * 1.315)).powf(1.0 / 0.090)).powf(-522.6 * 0.090);
        t + t.powf(-2.549) * bend * (2243.0 / n.powf(0.321) + 24181.0 / d.powf(0.637)).powf(0.764)
    }

    #[test]
    fn the_law_equals_its_print() {
        let law = Published::read().unwrap().scaling;
        for (n, d) in [(124e6, 10e9), (1e9, 20e9), (7e9, 512e9), (143e6, 1e9)] {
            for teacher in [1.93, 2.1, 2.5, 3.5] {
                let size = Size { n, d };
                let found = law.distilled.loss(size, teacher, law.supervised.loss(size));
                let wanted = printed(n, d, teacher);
                assert!((found - wanted).abs() < 1e-9 * wanted, "{found} {wanted}");
            }
        }
    }

    /// In plain powers the bend underflows long before this.
    #[test]
    fn what_has_no_power_has_a_logarithm() {
        let law = Published::read().unwrap().scaling;
        let student = Size { n: 1e3, d: 1e3 };
        let found = law.distilled.loss(student, 1e4, law.supervised.loss(student));
        assert!(found.is_finite() && found >= 1e4);
        let none = Supervised { b: [0.0, 1.0], ..law.supervised };
        assert!((none.loss(student) - (1.22 + (3355.0 / 1e3f64.powf(0.408)).powf(0.452))).abs() < 1e-9);
    }

    #[test]
    fn parameters_are_the_loss_backwards() {
        let law = Published::read().unwrap().scaling.supervised;
        let loss = law.loss(Size { n: 3e9, d: 60e9 });
        let found = law.parameters(loss, |n| 20.0 * n, 1e13).unwrap();
        assert!((found / 3e9 - 1.0).abs() < 1e-9, "{found}");
        assert_eq!(law.parameters(1.3, |_| 1e9, 1e13), None, "a billion tokens reach it with no model");
    }
}
