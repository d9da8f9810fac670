//! What cells came to, out of their run directories, and the CSV file of all of them.

use std::path::Path;

use crate::error::{Error, Result};
use crate::law::Sizes;
use crate::law::points::Measured;
use crate::report::run::load;
use crate::store::write_file;

/// What a finished run measured on the held-out text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Nats a token.
    pub loss: f64,
    /// Before training.
    pub initial: Option<f64>,
    /// Forward KL from the teacher.
    pub kl: Option<f64>,
    /// Tokens learnt.
    pub tokens: f64,
    /// Updates.
    pub updates: u64,
}

/// Reads it.
pub fn outcome(run: &Path) -> Result<Outcome> {
    let runs = load(&[run])?;
    let metrics = runs.first().map(|run| &run.metrics).ok_or_else(|| Error::bug("a run was read as none"))?;
    let last = metrics.last.as_ref().filter(|last| last.step == metrics.updates);
    let loss = last.and_then(|last| last.get("valid_loss")).ok_or_else(|| {
        Error::numeric("a run's last evaluation has no loss")
            .file(run)
            .advice("its updates may have diverged: try a lower train.lr")
    })?;
    let first = metrics.curve("eval.valid_loss").and_then(|curve| curve.points().first().copied());
    Ok(Outcome {
        loss,
        initial: first.filter(|point| point.x == 0.0).map(|point| point.y),
        kl: last.and_then(|last| last.get("forward_kl")),
        tokens: metrics.tokens,
        updates: metrics.updates,
    })
}

/// A line of the CSV file.
#[derive(Debug, Clone)]
pub struct Line {
    /// What the fits read.
    pub measured: Measured,
    /// The student's parameters as they are, where `student` says what was asked for.
    pub parameters: Sizes,
    /// Updates.
    pub updates: u64,
    /// Its run directory, below the grid's.
    pub run: String,
}

const HEAD: &str = "arm,student,teacher,seed,tokens,teacher_tokens,student_params,student_body,teacher_body,\
                    teacher_loss,loss,perplexity,kl,initial_loss,initial_perplexity,updates,run";

/// Writes all of them, in place of what stood there.
pub fn write(path: &Path, lines: &[Line]) -> Result<()> {
    write_file(path, |out| {
        writeln!(out, "{HEAD}")?;
        for line in lines {
            writeln!(out, "{}", row(line))?;
        }
        Ok(())
    })
}

/// No cell needs quotes: names of arms and runs are plain.
fn row(line: &Line) -> String {
    let m = &line.measured;
    let maybe = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
    [
        m.arm.clone(),
        m.student.to_string(),
        maybe(m.teacher),
        m.seed.to_string(),
        maybe(m.tokens),
        maybe(m.teacher_tokens),
        line.parameters.all.to_string(),
        maybe(m.student_body),
        maybe(m.teacher_body),
        maybe(m.teacher_loss),
        m.loss.to_string(),
        m.loss.exp().to_string(),
        maybe(m.kl),
        maybe(m.initial_loss),
        maybe(m.initial_loss.map(f64::exp)),
        line.updates.to_string(),
        line.run.clone(),
    ]
    .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::law::Points;

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("results.csv");
        let measured = Measured {
            arm: "random-kd".into(),
            student: 48e3,
            teacher: Some(123_456.0),
            seed: 3,
            tokens: Some(1.5e6),
            student_body: Some(20_000.0),
            teacher_loss: Some(2.25),
            loss: 2.75,
            kl: Some(0.125),
            initial_loss: Some(7.5),
            ..Measured::default()
        };
        let alone = Measured { arm: crate::law::ALONE.into(), teacher: None, ..measured.clone() };
        let line = |measured: &Measured| Line {
            measured: measured.clone(),
            parameters: Sizes { all: 47_990.0, body: 20_000.0, exact: true },
            updates: 10,
            run: "cells/x".into(),
        };
        write(&file, &[line(&measured), line(&alone)]).unwrap();
        let points = Points::read(&file).unwrap();
        assert_eq!(points.rows, [measured, alone]);
        assert!(points.passed_over.is_empty());
    }
}
