//! Numbers to places: linear and logarithmic axes, and ticks that people would choose.

/// An axis's range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    log: bool,
    /// Logarithms on a logarithmic axis.
    low: f64,
    high: f64,
    /// No tick stands between whole numbers.
    whole: bool,
}

/// A labelled place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    /// From 0 at the low end to 1 at the high one.
    pub at: f64,
    pub label: String,
}

impl Scale {
    /// The range of these numbers, with a share of it to spare at both ends; None where there is none.
    pub fn over(values: impl Iterator<Item = f64>, log: bool, spare: f64) -> Option<Self> {
        let (mut low, mut high, mut whole) = (f64::INFINITY, f64::NEG_INFINITY, true);
        for x in values.filter(|x| x.is_finite() && (!log || *x > 0.0)) {
            whole &= x.fract() == 0.0;
            let x = if log { x.log10() } else { x };
            (low, high) = (low.min(x), high.max(x));
        }
        if low > high {
            return None;
        }
        // A single number stands in the middle of a range of its own size.
        let least = if log { 1e-6 } else { low.abs().max(high.abs()) * 1e-6 };
        let around = match (log, high - low <= least) {
            (_, false) => (high - low) * spare,
            (true, true) => 0.3,
            (false, true) if high == 0.0 => 1.0,
            (false, true) => high.abs() * 0.1,
        };
        let (bottom, top) = (low - around, high + around);
        // What cannot be negative is not drawn as if it could.
        let bottom = if !log && low >= 0.0 { bottom.max(0.0) } else { bottom };
        (bottom.is_finite() && top.is_finite() && top - bottom > 0.0).then_some(Scale {
            log,
            low: bottom,
            high: top,
            whole,
        })
    }

    /// From nothing to somewhat more than this.
    pub fn from_zero(most: f64) -> Self {
        let high = if most.is_finite() && most > 0.0 { most } else { 1.0 };
        Scale { log: false, low: 0.0, high, whole: false }
    }

    /// The place of a number; None for one that has none.
    pub fn at(&self, x: f64) -> Option<f64> {
        let x = if self.log { (x > 0.0).then(|| x.log10())? } else { x };
        let place = (x - self.low) / (self.high - self.low);
        place.is_finite().then_some(place)
    }

    /// About as many ticks as this.
    pub fn ticks(&self, about: usize) -> Vec<Tick> {
        let decades = self.high - self.low;
        if self.log && decades >= 0.8 {
            return self.decades(about);
        }
        let (low, high) =
            if self.log { (10f64.powf(self.low), 10f64.powf(self.high)) } else { (self.low, self.high) };
        // Rather some more than so few that nobody can read between them.
        let step = nice((high - low) / (1.5 * about.max(1) as f64));
        let step = if self.whole { step.max(1.0) } else { step };
        let first = (low / step - 1e-9).ceil() as i64;
        let values: Vec<f64> =
            (0..64).map(|n| (first + n) as f64 * step).take_while(|x| *x <= high + step * 1e-9).collect();
        let labels = labels(&values, step);
        values.iter().zip(labels).filter_map(|(x, label)| Some(Tick { at: self.at(*x)?, label })).collect()
    }

    fn decades(&self, about: usize) -> Vec<Tick> {
        let (from, to) = (self.low.floor() as i32, self.high.ceil() as i32);
        let every = ((to - from) as usize).div_ceil(about.max(1)).max(1);
        let factors: &[f64] = if self.high - self.low < 1.8 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let inside = |tick: &Tick| (-1e-9..=1.0 + 1e-9).contains(&tick.at);
        (from..=to)
            .filter(|n| n.rem_euclid(every as i32) == 0)
            .flat_map(|n| factors.iter().map(move |f| f * 10f64.powi(n)))
            .filter_map(|x| Some(Tick { at: self.at(x)?, label: alone(x) }))
            .filter(inside)
            .collect()
    }
}

/// The step of 1, 2 or 5 times a power of ten that is not below this.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let found = [1.0, 2.0, 5.0].into_iter().find(|f| f * power >= step * (1.0 - 1e-9));
    found.unwrap_or(10.0) * power
}

/// Decimals that tell numbers apart which are this far from each other.
fn decimals(step: f64) -> usize {
    (-(step.log10() + 1e-9).floor()).clamp(0.0, 12.0) as usize
}

/// All labels of an axis, in one form.
fn labels(values: &[f64], step: f64) -> Vec<String> {
    let most = values.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    let (unit, suffix) = match most {
        1e12.. => power(most),
        1e9.. => (1e9, "B".into()),
        1e6.. => (1e6, "M".into()),
        1e4.. => (1e3, "k".into()),
        0.01.. => (1.0, String::new()),
        _ if most > 0.0 => power(most),
        _ => (1.0, String::new()),
    };
    let decimals = decimals(step / unit);
    let label = |x: &f64| match format!("{:.decimals$}", x / unit) {
        zero if zero.trim_start_matches('-').chars().all(|c| c == '0' || c == '.') => "0".into(),
        text => text + &suffix,
    };
    values.iter().map(label).collect()
}

fn power(most: f64) -> (f64, String) {
    let n = most.log10().floor() as i32;
    (10f64.powi(n), format!("e{n}"))
}

/// A label that stands by itself.
fn alone(x: f64) -> String {
    match x {
        1e12.. => format!("{x:.0e}"),
        1e9.. => format!("{:.0}B", x / 1e9),
        1e6.. => format!("{:.0}M", x / 1e6),
        1e4.. => format!("{:.0}k", x / 1e3),
        0.9.. => format!("{x:.0}"),
        0.00095.. => format!("{x:.*}", decimals(x)),
        _ => format!("{x:.0e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(low: f64, high: f64, log: bool) -> Vec<String> {
        let scale = Scale::over([low, high].into_iter(), log, 0.0).unwrap();
        scale.ticks(5).into_iter().map(|t| t.label).collect()
    }

    #[test]
    fn ticks_are_those_that_people_choose() {
        assert_eq!(ticks(0.0, 10.0, false), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(ticks(1.0, 3.0, false), ["1", "2", "3"], "whole numbers");
        assert_eq!(ticks(2.25, 2.75, false), ["2.3", "2.4", "2.5", "2.6", "2.7"]);
        assert_eq!(ticks(0.0, 5e-6, false), ["0", "1e-6", "2e-6", "3e-6", "4e-6", "5e-6"]);
        assert_eq!(ticks(0.0, 1e6, false), ["0", "0.2M", "0.4M", "0.6M", "0.8M", "1.0M"]);
        assert_eq!(ticks(-0.5, 0.5, false), ["-0.4", "-0.2", "0", "0.2", "0.4"]);
        assert_eq!(ticks(1e-5, 1.0, true), ["1e-5", "1e-4", "0.001", "0.01", "0.1", "1"]);
        assert_eq!(ticks(1e6, 3e7, true), ["1M", "2M", "5M", "10M", "20M"]);
        assert_eq!(ticks(10.0, 14.5, true), ["10", "11", "12", "13", "14"]);
    }

    #[test]
    fn ranges_of_one_number_of_none_and_of_giants() {
        let one = |x: f64, log| Scale::over([x].into_iter(), log, 0.05).map(|s| s.at(x).unwrap());
        for (x, log) in [(5.0, false), (5e-6, false), (-2.0, false), (3.0, true)] {
            assert!((one(x, log).unwrap() - 0.5).abs() < 1e-9, "{x}");
        }
        assert_eq!(one(0.0, false), Some(0.0), "nothing is below nothing");
        assert_eq!(one(-1.0, true), None);
        assert_eq!(one(f64::NAN, false), None);
        assert_eq!(Scale::over([f64::MAX, f64::MIN].into_iter(), false, 0.05), None);
        assert_eq!(Scale::from_zero(f64::NAN).at(0.5), Some(0.5));
        assert_eq!(Scale::over([1.0, 10.0].into_iter(), true, 0.0).unwrap().at(0.0), None);
    }

    /// No range is so small or so far from zero that ticks go on without end or stand outside.
    #[test]
    fn ticks_are_few_and_inside() {
        for n in -30..30 {
            for (from, span) in [(0.0, 1.0), (1.0, 1e-5), (-3.0, 7.3), (1.0, 1e4)] {
                let (low, high) = (from * 10f64.powi(n), (from + span) * 10f64.powi(n));
                for log in [false, true] {
                    let Some(scale) = Scale::over([low, high].into_iter(), log, 0.04) else { continue };
                    let ticks = scale.ticks(5);
                    assert!(ticks.len() < 12, "{low} to {high}: {ticks:?}");
                    assert!(ticks.iter().all(|t| (-1e-6..=1.000_001).contains(&t.at)), "{ticks:?}");
                    let labels: std::collections::BTreeSet<&str> =
                        ticks.iter().map(|t| t.label.as_str()).collect();
                    assert_eq!(labels.len(), ticks.len(), "{ticks:?}");
                }
            }
        }
    }
}
