//! What a collection looks like, and when a run should be warned of it.

use serde::{Deserialize, Serialize};

use super::Experience;

/// Some replies in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Replies.
    pub replies: usize,
    /// Tokens of a reply, on average.
    pub length: f64,
    /// The share of replies that ended by themselves.
    pub eos_rate: f64,
    /// The share that was cut.
    pub truncated: f64,
    /// What was noted of their tokens, where something was.
    pub noted: Option<Noted>,
}

/// Means over tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Noted {
    /// `log p - log q_old`, without scale or clip.
    pub reward: f64,
    /// `w (log q_old - log p)`: an estimate of the reverse KL of the student that sampled.
    pub sampled_kl: f64,
    /// The importance weight `w = q_old / m`.
    pub weight: f64,
    /// The largest.
    pub weight_max: f64,
    /// `(sum w)^2 / (N sum w^2)`: the share of the tokens that the weighted mean is worth.
    pub effective: f64,
}

impl Tally {
    /// Of these replies.
    pub fn of(experiences: &[&Experience]) -> Self {
        let n = experiences.len().max(1) as f64;
        let tokens: usize = experiences.iter().map(|e| e.example.targets()).sum();
        let ended = experiences.iter().filter(|e| e.ended).count() as f64;
        Tally {
            replies: experiences.len(),
            length: tokens as f64 / n,
            eos_rate: ended / n,
            truncated: (experiences.len() as f64 - ended) / n,
            noted: Noted::of(experiences),
        }
    }

    /// By the names of metrics.jsonl.
    pub fn values(&self) -> Vec<(&'static str, f64)> {
        let mut values =
            vec![("length", self.length), ("eos_rate", self.eos_rate), ("truncated", self.truncated)];
        if let Some(n) = &self.noted {
            values.extend([
                ("reward", n.reward),
                ("sampled_kl", n.sampled_kl),
                ("weight", n.weight),
                ("weight_max", n.weight_max),
                ("weight_ess", n.effective),
            ]);
        }
        values
    }
}

impl Noted {
    fn of(experiences: &[&Experience]) -> Option<Self> {
        let (mut n, mut reward, mut kl, mut sum, mut squares, mut most) = (0usize, 0.0, 0.0, 0.0, 0.0, 0f64);
        for numbers in experiences.iter().map(|e| &e.numbers) {
            let each = numbers.student.iter().zip(&numbers.teacher).zip(&numbers.drawn);
            for ((&q, &p), &m) in each {
                let (q, p, w) = (f64::from(q), f64::from(p), (f64::from(q) - f64::from(m)).exp());
                n += 1;
                reward += p - q;
                kl += w * (q - p);
                sum += w;
                squares += w * w;
                most = most.max(w);
            }
        }
        let mean = |x: f64| x / n as f64;
        (n > 0).then(|| Noted {
            reward: mean(reward),
            sampled_kl: mean(kl),
            weight: mean(sum),
            weight_max: most,
            effective: sum * sum / (n as f64 * squares),
        })
    }
}

/// Watches the collections of a run, and says once of each thing that goes wrong what to try.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Guards {
    first: Option<Tally>,
    said: [bool; 3],
}

impl Guards {
    /// Hears of a collection; answers what is to be said.
    pub fn hear(&mut self, now: &Tally) -> Vec<String> {
        let first = *self.first.get_or_insert(*now);
        let found = [endless(&first, now), collapsed(now), runaway(&first, now)];
        let fresh = |(said, found): (&mut bool, Option<String>)| {
            let fresh = if *said { None } else { found };
            *said |= fresh.is_some();
            fresh
        };
        self.said.iter_mut().zip(found).filter_map(fresh).collect()
    }
}

/// Nine replies of ten are cut, and it was not so from the beginning.
fn endless(first: &Tally, now: &Tally) -> Option<String> {
    (now.truncated > 0.9 && now.truncated > first.truncated + 0.2).then(|| {
        format!(
            "the student stops ending its replies: {:.0} % are cut, {:.0} % were at first; try a longer \
             data.max_response, a lower train.lr, or start from a student that ends them (sft)",
            100.0 * now.truncated,
            100.0 * first.truncated
        )
    })
}

/// Few tokens carry the weight of all.
fn collapsed(now: &Tally) -> Option<String> {
    let noted = now.noted.filter(|n| n.effective < 0.3)?;
    Some(format!(
        "importance weights have collapsed: {:.0} % of the tokens count; try a smaller minillm.alpha, or \
         where it is 0 samples nearer to the whole distribution (sampling.temperature, top_k, top_p)",
        100.0 * noted.effective
    ))
}

/// The student has gone far from its teacher, or has found what the teacher likes better than its own
/// replies.
fn runaway(first: &Tally, now: &Tally) -> Option<String> {
    let (was, is) = (first.noted?.reward, now.noted?.reward);
    (!is.is_finite() || is < 3.0 * was.min(0.0) - 1.0 || is > was.max(0.0) + 1.0).then(|| {
        format!(
            "the reward runs away: {is:.2} a token, {was:.2} at first; try a lower train.lr, a smaller \
             minillm.reward_clip, or fewer minillm.inner_epochs"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::Numbers;
    use super::*;
    use crate::data::Example;

    fn tally(truncated: f64, effective: f64, reward: f64) -> Tally {
        let noted = Noted { effective, reward, ..Noted::default() };
        Tally { truncated, noted: Some(noted), ..Tally::default() }
    }

    #[test]
    fn numbers_are_as_their_names_say() {
        let row = |student: Vec<f32>, teacher: Vec<f32>, drawn: Vec<f32>, ended| Experience {
            row: 0,
            example: Example { ids: vec![5; 2 + student.len()], from: 2, given: vec![] },
            ended,
            numbers: Numbers { student, teacher, drawn },
            states: None,
        };
        let ln = |x: f32| x.ln();
        let rows = [
            row(vec![ln(0.5), ln(0.25)], vec![ln(0.25), ln(0.25)], vec![ln(0.5), ln(0.5)], true),
            row(vec![ln(0.2)], vec![ln(0.8)], vec![ln(0.1)], false),
        ];
        let tally = Tally::of(&rows.iter().collect::<Vec<_>>());
        assert_eq!((tally.replies, tally.length, tally.eos_rate, tally.truncated), (2, 1.5, 0.5, 0.5));
        let noted = tally.noted.unwrap();
        let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
        let (two, four) = (2f64.ln(), 4f64.ln());
        assert!(near(noted.reward, (-two + 0.0 + four) / 3.0), "{noted:?}");
        assert!(near(noted.sampled_kl, (two + 0.0 - 2.0 * four) / 3.0), "{noted:?}");
        assert!(near(noted.weight, 3.5 / 3.0) && near(noted.weight_max, 2.0), "{noted:?}");
        assert!(near(noted.effective, 3.5 * 3.5 / (3.0 * (1.0 + 0.25 + 4.0))), "{noted:?}");
        let bare = Experience { numbers: Numbers::default(), ..row(vec![0.0], vec![], vec![], true) };
        assert_eq!(Tally::of(&[&bare]).noted, None);
    }

    #[test]
    fn each_warning_comes_once() {
        let mut guards = Guards::default();
        assert!(guards.hear(&tally(0.3, 0.9, -1.0)).is_empty());
        let said = guards.hear(&tally(0.95, 0.9, -1.0));
        assert!(said.len() == 1 && said[0].contains("95 %") && said[0].contains("max_response"), "{said:?}");
        assert!(guards.hear(&tally(0.97, 0.9, -1.0)).is_empty());
        let said = guards.hear(&tally(0.2, 0.1, -9.0));
        assert!(said.len() == 2 && said[0].contains("alpha") && said[1].contains("-9.00"), "{said:?}");
        assert!(guards.hear(&tally(1.0, 0.01, f64::NAN)).is_empty());
        // One that never ended its replies has not stopped to.
        assert!(Guards::default().hear(&tally(1.0, 1.0, 0.0)).is_empty());
    }
}
