//! Curves of any length in bounded room: points come one by one, and when there are too many, neighbours become
//! one, which keeps their mean, their least and their greatest. A peak of one update in a million stays visible.

use super::Point;

/// Points that are kept at most.
pub const MOST: usize = 100;

/// A curve that stays short.
///
/// ```
/// use retort::report::draw::Thinner;
/// let mut curve = Thinner::default();
/// (0..1000).for_each(|n| curve.add(f64::from(n), if n == 500 { 9.0 } else { 1.0 }));
/// let points = curve.points();
/// assert!(points.len() <= 100 && curve.each() == 16);
/// assert!(points.iter().any(|p| p.high == 9.0) && points.iter().all(|p| p.low == 1.0));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Thinner {
    /// The places are kept in pairs, so this is a power of two; 0 before the first point.
    each: u64,
    buckets: Vec<Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    points: u64,
    x: f64,
    finite: u64,
    y: f64,
    low: f64,
    high: f64,
}

impl Thinner {
    /// Adds a point behind the last one. One whose y is not finite is a gap.
    pub fn add(&mut self, x: f64, y: f64) {
        self.each = self.each.max(1);
        let (finite, low, high) =
            if y.is_finite() { (1, y, y) } else { (0, f64::INFINITY, f64::NEG_INFINITY) };
        let new = Bucket { points: 1, x, finite, y: if finite == 1 { y } else { 0.0 }, low, high };
        if let Some(last) = self.buckets.last_mut().filter(|last| last.points < self.each) {
            *last = last.with(&new);
            return;
        }
        if self.buckets.len() == MOST {
            let pairs = self.buckets.chunks(2);
            self.buckets = pairs.map(|p| p[1..].iter().fold(p[0], |a, b| a.with(b))).collect();
            self.each *= 2;
        }
        self.buckets.push(new);
    }

    /// How many points one stands for.
    pub fn each(&self) -> u64 {
        self.each.max(1)
    }

    /// The means, each with the least and the greatest.
    pub fn points(&self) -> Vec<Point> {
        let point = |b: &Bucket| match b.finite {
            0 => Point::from((b.x, f64::NAN)),
            n => Point { x: b.x, y: b.y / n as f64, low: b.low, high: b.high },
        };
        self.buckets.iter().map(point).collect()
    }
}

impl Bucket {
    fn with(&self, next: &Bucket) -> Bucket {
        let points = self.points + next.points;
        Bucket {
            points,
            x: self.x + (next.x - self.x) * next.points as f64 / points as f64,
            finite: self.finite + next.finite,
            y: self.y + next.y,
            low: self.low.min(next.low),
            high: self.high.max(next.high),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Few points stay as they are; of a million few are left, and no peak, no mean and no end is lost.
    #[test]
    fn a_million_points_are_few_and_lose_no_peak() {
        let mut curve = Thinner::default();
        (0..100).for_each(|n| curve.add(f64::from(n), f64::from(n) * 0.5));
        assert!(
            curve
                .points()
                .iter()
                .zip(0..)
                .all(|(p, n)| *p == Point::from((f64::from(n), f64::from(n) * 0.5)))
        );
        let mut curve = Thinner::default();
        for n in 0..1_000_000u32 {
            let y = match n {
                777_777 => 1e3,
                333_333 => -1e3,
                n if n % 10 == 0 => f64::NAN,
                _ => 2.0,
            };
            curve.add(f64::from(n), y);
        }
        let points = curve.points();
        assert!((MOST / 2..=MOST).contains(&points.len()), "{}", points.len());
        let (low, high) = points.iter().fold((0f64, 0f64), |(l, h), p| (l.min(p.low), h.max(p.high)));
        assert_eq!((low, high), (-1e3, 1e3));
        assert_eq!(points[0].y, 2.0);
        assert!(points.is_sorted_by(|a, b| a.x < b.x));
        // The last one may stand for fewer than the others.
        assert!(points[0].x < 16_384.0 && points[points.len() - 1].x > 980_000.0);
        let mut gaps = Thinner::default();
        (0..10).for_each(|n| gaps.add(f64::from(n), f64::NAN));
        assert!(gaps.points().iter().all(|p| p.y.is_nan()));
    }
}
