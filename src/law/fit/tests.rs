//! Planted laws come back from noisy points, as often within their intervals as these say.

use rand_distr::{Distribution, Normal};

use super::*;
use crate::law::{Published, Size, page};
use crate::seed::{Stream, generator};

/// Teachers of a grid, in parameters.
const TEACHERS: [f64; 6] = [2e6, 4e6, 8e6, 16e6, 32e6, 64e6];

/// A grid whose best teacher is `slope S + intercept`, with noise of this size on the losses.
fn grid(students: &[f64], best: impl Fn(f64) -> f64, noise: f64, seed: u64) -> Points {
    let normal = Normal::new(0.0, noise).unwrap();
    let mut random = generator(seed, Stream::Noise, 0, 0);
    let mut rows = Vec::new();
    for &student in students {
        for &teacher in &TEACHERS {
            for run in 0..3 {
                let far = (teacher / best(student)).ln();
                let loss = 3.0 - 0.1 * (student / 1e6).ln() + 0.05 * far * far + normal.sample(&mut random);
                let teacher = Some(teacher);
                rows.push(Measured {
                    arm: "kd".into(),
                    student,
                    teacher,
                    seed: run,
                    loss,
                    ..Measured::default()
                });
            }
        }
    }
    Points { rows, passed_over: Vec::new() }
}

/// The share of many grids whose intervals hold what was planted: vertices, slope, intercept.
#[test]
fn planted_lines_lie_within_their_intervals() {
    let (mut vertices, mut slopes, mut intercepts, mut of, grids) = (0, 0, 0, 0, 60);
    let students = [2e6, 4e6, 6e6, 8e6];
    let best = |s: f64| 2.5 * s - 1e6;
    let within = |x: f64, [low, high]: [f64; 2]| usize::from(low <= x && x <= high);
    for seed in 0..grids {
        let fits = fit(&grid(&students, best, 0.02, seed as u64), 1).unwrap();
        for curve in &fits.curves {
            let Verdict::Inside { teacher, interval, .. } = curve.verdict else { panic!("{curve:?}") };
            assert!(interval[0] < teacher && teacher < interval[1]);
            vertices += within(best(curve.student), interval);
            of += 1;
        }
        let [(_, line)] = &fits.lines[..] else { panic!("{:?}", fits.lines) };
        assert!(line.students == 4 && line.r2.unwrap() > 0.8, "{line:?}");
        slopes += within(2.5, line.slope_interval);
        intercepts += within(-1e6, line.intercept_interval);
    }
    eprintln!(
        "held: {vertices} of {of} vertices, {slopes} and {intercepts} of {grids} slopes and intercepts"
    );
    // 95 % of 240 are 228 with a spread of 3.4, of 60 they are 57 with 1.7: four spreads below, and not all.
    assert!((214..=239).contains(&vertices) && of == 240, "{vertices} of {of} vertices");
    assert!(slopes >= 50 && intercepts >= 50, "{slopes} slopes, {intercepts} intercepts of {grids}");
}

#[test]
fn no_optimum_is_an_answer() {
    let verdict = |best: f64, noise: f64, seed: u64| {
        let fits = fit(&grid(&[3e6], |_| best, noise, seed), 1).unwrap();
        assert!(fits.lines.is_empty());
        fits.curves[0].verdict.clone()
    };
    // Far outside of the range losses only fall, or only rise.
    assert_eq!(verdict(1e10, 0.02, 1), Verdict::Falling);
    assert_eq!(verdict(1e4, 0.02, 2), Verdict::Rising);
    // In noise alone nothing is found, but for the one time in twenty that an interval allows.
    let flat = |seed: u64| {
        let mut points = grid(&[3e6], |_| 1e7, 0.02, seed);
        let normal = Normal::new(3.0, 0.02).unwrap();
        let mut random = generator(seed, Stream::Noise, 1, 0);
        points.rows.iter_mut().for_each(|row| row.loss = normal.sample(&mut random));
        fit(&points, 1).unwrap().curves[0].verdict.clone()
    };
    let found = (0..40).filter(|seed| matches!(flat(*seed), Verdict::Inside { .. })).count();
    assert!(found <= 6, "{found} of 40 flat grids have an optimum");
    let few = Points { rows: grid(&[3e6], |_| 1e7, 0.0, 0).rows[..4].to_vec(), passed_over: Vec::new() };
    assert_eq!(fit(&few, 1).unwrap().curves[0].verdict, Verdict::TooFew);
}

#[test]
fn sizes_without_an_optimum_are_not_in_the_line() {
    // The third student's best teacher lies beyond the range.
    let fits = fit(&grid(&[2e6, 4e6, 400e6], |s| 3.0 * s, 0.01, 7), 1).unwrap();
    assert_eq!(fits.curves[2].verdict, Verdict::Falling);
    let line = &fits.lines[0].1;
    assert!(line.students == 2 && line.r2.is_none() && (line.slope - 3.0).abs() < 0.5, "{line:?}");
}

/// Models alone and students of the published law, with noise on log L.
fn published(noise: f64, seed: u64) -> (Points, Vec<f64>) {
    let law = Published::read().unwrap().scaling;
    let normal = Normal::new(0.0, noise).unwrap();
    let mut random = generator(seed, Stream::Noise, 2, 0);
    let (mut rows, mut truth) = (Vec::new(), Vec::new());
    let mut noisy = |x: f64| x * normal.sample(&mut random).exp();
    for n in [150e6, 400e6, 1e9, 3e9, 8e9] {
        for d in [4e9, 16e9, 64e9, 256e9] {
            let loss = noisy(law.supervised.loss(Size { n, d }));
            let arm = ALONE.to_string();
            rows.push(Measured { arm, student: n, tokens: Some(d), loss, ..Measured::default() });
        }
    }
    for n in [150e6, 400e6, 1e9, 3e9] {
        for d in [4e9, 16e9, 64e9] {
            for teacher_loss in [1.95, 2.05, 2.2, 2.4, 2.7, 3.0] {
                let size = Size { n, d };
                let clean = law.distilled.loss(size, teacher_loss, law.supervised.loss(size));
                truth.push(clean);
                rows.push(Measured {
                    arm: "kd".into(),
                    student: n,
                    teacher: Some(1e9),
                    tokens: Some(d),
                    teacher_loss: Some(teacher_loss),
                    loss: noisy(clean),
                    ..Measured::default()
                });
            }
        }
    }
    (Points { rows, passed_over: Vec::new() }, truth)
}

#[test]
fn planted_scaling_laws_lie_within_their_intervals() {
    let (points, truth) = published(0.003, 0);
    let forms = fit(&points, 0).unwrap().forms;
    assert!(forms.missing.is_empty(), "{:?}", forms.missing);
    let (alone, [form]) = (forms.alone.unwrap(), &forms.arms[..]) else { panic!("arms") };
    assert!(alone.models == 20 && alone.r2.unwrap() > 0.99, "{alone:?}");
    assert!(form.runs == truth.len() && form.r2.unwrap() > 0.99, "{form:?}");
    let (mut inside, of) = (0, truth.len());
    for ((predicted, [low, high]), truth) in form.predicted.iter().zip(&truth) {
        assert!((predicted / truth - 1.0).abs() < 0.01, "{predicted} {truth}");
        inside += usize::from(low <= truth && truth <= high);
    }
    eprintln!("held: {inside} of {of} predictions");
    // Predictions of one fit err together, so the share wanders more than that of independent ones would.
    assert!(inside * 100 >= 80 * of, "{inside} of {of} within their intervals");
}

/// A page draws both laws: a curve over the points of each student, and what the scaling law's form says of each.
#[test]
fn both_laws_are_drawn_over_their_points() {
    let (points, _) = published(0.003, 0);
    let fits = fit(&points, 0).unwrap();
    let html = page(&points, &fits).html();
    assert_eq!(html.matches("<svg").count(), fits.curves.len() + fits.lines.len() + fits.forms.arms.len());
    assert!(fits.forms.arms.len() == 1 && html.contains("s loss, kd"), "{html}");
    let planted = grid(&[2e6, 4e6, 6e6], |s| 3.0 * s, 0.01, 7);
    let fits = fit(&planted, 0).unwrap();
    let html = page(&planted, &fits).html();
    assert!(fits.lines.len() == 1 && html.contains("Best teacher, kd"), "{html}");
    assert_eq!(html.matches("<svg").count(), 3 + 1);
}

#[test]
fn what_cannot_be_fitted_is_said() {
    let (points, _) = published(0.003, 1);
    let only = |arm: &str| Points {
        rows: points.rows.iter().filter(|row| row.arm == arm).cloned().collect(),
        passed_over: Vec::new(),
    };
    let forms = fit(&only("kd"), 1).unwrap().forms;
    assert!(forms.alone.is_none() && forms.missing[0].contains("trained alone"), "{forms:?}");
    // One number of tokens: the form without B has a law all the same.
    let mut one = points.clone();
    one.rows.retain(|row| row.tokens == Some(16e9));
    let forms = fit(&one, 1).unwrap().forms;
    assert_eq!((forms.alone.unwrap().law.b[0], forms.arms[0].law.b[0]), (0.0, 0.0));
    assert!(forms.arms[0].r2.unwrap() > 0.99, "{:?}", forms.arms);
    let mut blind = points;
    blind.rows.iter_mut().for_each(|row| row.teacher_loss = None);
    let forms = fit(&blind, 1).unwrap().forms;
    assert!(forms.arms.is_empty() && forms.missing[0].starts_with("kd: 72 runs"), "{:?}", forms.missing);
}
