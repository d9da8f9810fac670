//! A collection in a checkpoint, to the bit: a run that is stopped in the middle of one goes on with it.

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::{Experience, Numbers};
use crate::data::Example;
use crate::error::{Error, Result};

/// What is written of a collection beside the teacher's states.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    rows: Vec<KeptRow>,
}

/// Numbers are written as their bits: JSON need not give a number back as it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct KeptRow {
    row: u64,
    from: usize,
    ended: bool,
    ids: Vec<u32>,
    student: Vec<u32>,
    teacher: Vec<u32>,
    drawn: Vec<u32>,
}

impl Kept {
    /// Of these.
    pub fn of(experiences: &[Experience]) -> Self {
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect();
        let row = |e: &Experience| KeptRow {
            row: e.row,
            from: e.example.from,
            ended: e.ended,
            ids: e.example.ids.clone(),
            student: bits(&e.numbers.student),
            teacher: bits(&e.numbers.teacher),
            drawn: bits(&e.numbers.drawn),
        };
        Kept { rows: experiences.iter().map(row).collect() }
    }
}

/// The name of the teacher's states among the tensors of a collection.
pub const STATES: &str = "states";

/// The teacher's states of all rows, one behind the other; none where none are kept.
pub fn tensors(experiences: &[Experience]) -> Result<Vec<(String, Tensor)>> {
    let all: Vec<&Tensor> = experiences.iter().filter_map(|e| e.states.as_ref()).collect();
    if all.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![(STATES.to_string(), Tensor::f_cat(&all, 0)?)])
}

/// The collection that was kept.
pub fn restore(kept: Kept, tensors: &[(String, Tensor)], device: Device) -> Result<Vec<Experience>> {
    let tokens: usize = kept.rows.iter().map(|r| r.ids.len().saturating_sub(r.from)).sum();
    let states = tensors.iter().find(|(name, _)| name == STATES).map(|(_, t)| t);
    if let Some(found) = states.and_then(|t| t.size().first().copied()).filter(|&n| n != tokens as i64) {
        return Err(Error::data("a collection's states do not fit its rows").expected(tokens).found(found));
    }
    let states = states.map(|t| t.f_to_device(device)).transpose()?;
    let numbers = |bits: Vec<u32>| bits.into_iter().map(f32::from_bits).collect();
    let mut start = 0;
    let mut experiences = Vec::with_capacity(kept.rows.len());
    for row in kept.rows {
        let example = Example { ids: row.ids, from: row.from, given: Vec::new() };
        let n = example.targets() as i64;
        let own = states.as_ref().map(|t| t.f_narrow(0, start, n)?.f_detach_copy()).transpose()?;
        start += n;
        experiences.push(Experience {
            row: row.row,
            example,
            ended: row.ended,
            numbers: Numbers {
                student: numbers(row.student),
                teacher: numbers(row.teacher),
                drawn: numbers(row.drawn),
            },
            states: own,
        });
    }
    Ok(experiences)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_comes_back_to_the_bit() {
        let row = |n: u32, reply: usize| Experience {
            row: u64::from(n) << 40,
            example: Example { ids: (0..3 + reply as u32).map(|i| i * n).collect(), from: 3, given: vec![] },
            ended: n.is_multiple_of(2),
            numbers: Numbers {
                student: (0..reply).map(|i| -0.1 / (i as f32 + n as f32 + 3.0)).collect(),
                teacher: (0..reply).map(|i| -f32::EPSILON * i as f32).collect(),
                drawn: vec![f32::MIN_POSITIVE; reply],
            },
            states: Some(Tensor::from_slice(&vec![n as f32 / 3.0; 4 * reply]).view([reply as i64, 4])),
        };
        let before = vec![row(1, 2), row(2, 5), row(3, 1)];
        let json = serde_json::to_vec(&Kept::of(&before)).unwrap();
        let kept: Kept = serde_json::from_slice(&json).unwrap();
        let held = tensors(&before).unwrap();
        let after = restore(kept.clone(), &held, Device::Cpu).unwrap();
        assert_eq!(after.len(), 3);
        for (a, b) in before.iter().zip(&after) {
            assert_eq!((a.row, &a.example, a.ended, &a.numbers), (b.row, &b.example, b.ended, &b.numbers));
            assert_eq!(a.states.as_ref().unwrap(), b.states.as_ref().unwrap());
        }
        let fewer = vec![(STATES.to_string(), held[0].1.narrow(0, 0, 7))];
        assert!(restore(kept, &fewer, Device::Cpu).is_err());
    }
}
