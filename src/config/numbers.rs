//! Numbers as people write them: 120M, 10B, 64k.

use crate::error::{Error, Result};

/// The largest number that is taken.
const MOST: f64 = 1e15;

/// A whole number from 1 on, with k, M, B or T behind it for thousands to trillions.
pub fn at_least_one(text: &str) -> Result<usize> {
    at_least(1, text)
}

/// The same from 0 on.
pub fn at_least_zero(text: &str) -> Result<usize> {
    at_least(0, text)
}

fn at_least(least: u8, text: &str) -> Result<usize> {
    let bad = || {
        let expected = format!("a whole number from {least} on, such as 64, 64k or 1.5M");
        Error::user("not a number").expected(expected)
    };
    let (digits, factor) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1e3),
        Some((at, 'm' | 'M')) => (&text[..at], 1e6),
        Some((at, 'b' | 'B' | 'g' | 'G')) => (&text[..at], 1e9),
        Some((at, 't' | 'T')) => (&text[..at], 1e12),
        _ => (text, 1.0),
    };
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let value = digits.parse::<f64>().ok().filter(|_| plain).ok_or_else(bad)? * factor;
    if !(f64::from(least)..=MOST).contains(&value) || value.fract() != 0.0 {
        return Err(bad());
    }
    Ok(value as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_numbers_in_many_ways() {
        for (text, value) in [("7", 7), ("64k", 64_000), ("1.5M", 1_500_000), ("10B", 10_000_000_000)] {
            assert_eq!(at_least_one(text).unwrap(), value);
        }
        for text in ["", "0", "-1", "k", "1e3", "1.5", "inf", "nan", "1kk", "64 k", "9999999T"] {
            assert!(at_least_one(text).is_err(), "{text}");
        }
        assert_eq!(at_least_zero("0").unwrap(), 0);
        assert!(at_least_zero("-1").is_err());
    }
}
