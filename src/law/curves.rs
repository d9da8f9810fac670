//! The U without any training: what the distillation-scaling law says of a student's loss over its teacher's size.

use super::advise::{Advice, Question, short, teacher_tokens};
use super::published::{Published, Scaling};
use super::scaling::Size;
use crate::error::Result;
use crate::report::draw::{Axis, Chart, Drawing, Point, Series};
use crate::report::page::{Cell, Page, Section, Table};

/// Points of a curve.
const POINTS: usize = 160;
/// The students shown beside the one that is asked about, without embeddings.
const STUDENTS: [f64; 3] = [50e6, 150e6, 500e6];
/// The smallest and the largest teacher that are drawn, without embeddings.
const TEACHERS: [f64; 2] = [30e6, 300e9];

/// A page with the curves of this student and of a few others.
pub fn curves(question: &Question, advice: &Advice) -> Result<Page> {
    let laws = Published::read()?;
    let law = &laws.scaling;
    let mut students = vec![advice.student.body];
    students.extend(STUDENTS.iter().filter(|n| (**n / advice.student.body).ln().abs() > 0.2));
    students.sort_by(f64::total_cmp);
    let tokens = |n: f64| match n == advice.student.body {
        true => advice.tokens,
        false => law.tokens_a_parameter * n,
    };
    let mut section = Section::new("A student's loss over its teacher's size").paragraph(format!(
        "Nothing was trained for this: it is the law of {}, evaluated. A teacher is as good as its size and tokens make \
         it. While it is worse than what the student can take in, a better one helps; when it is too far ahead, it harms, \
         and the curve turns up again. Right of the last teacher that the law was fitted on ({} parameters) its curve is \
         a guess.",
        law.source,
        short(law.most_parameters)
    ));
    for n in &students {
        let student = Size { n: *n, d: tokens(*n) };
        section = section.figure(&curve(law, student, question.teacher_tokens), "");
    }
    let mut table = Table::new(["student", "tokens", "best teacher's loss", "student's loss", "alone"]);
    for n in &students {
        let student = Size { n: *n, d: tokens(*n) };
        let alone = law.supervised.loss(student);
        let loss = |teacher: f64| law.distilled.loss(student, teacher, alone);
        let best = super::optimum(law.least_loss, loss, law.alike);
        table = table.row([
            Cell::text(short(*n)),
            Cell::figure(short(student.d)),
            Cell::number(best.best, 3).between(best.interval[0], best.interval[1], 3),
            Cell::number(loss(best.best), 3),
            Cell::number(alone, 3),
        ]);
    }
    let section = section.table(table).paragraph(
        "Teachers' losses below each other are those whose students are within 0.01 nat of the best. All parameters are \
         without embeddings.",
    );
    Ok(Page::new("Which teacher?")
        .lead(format!(
            "A student of {} parameters without embeddings on {} tokens, by the distillation-scaling law.",
            short(advice.student.body),
            short(advice.tokens)
        ))
        .section(section))
}

/// One student's curve.
fn curve(law: &Scaling, student: Size, said: Option<f64>) -> Drawing {
    let of = teacher_tokens(law, said);
    let alone = law.supervised.loss(student);
    let [low, high] = TEACHERS.map(f64::ln);
    let at = |n: usize| (low + (high - low) * n as f64 / (POINTS - 1) as f64).exp();
    let taught: Vec<(f64, f64)> = (0..POINTS)
        .map(at)
        .map(|n| (n / 1e6, law.distilled.loss(student, law.supervised.loss(Size { n, d: of(n) }), alone)))
        .collect();
    let least = taught.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((1.0, alone));
    let title = format!("{} on {} tokens", short(student.n), short(student.d));
    let level = [(low.exp() / 1e6, alone), (high.exp() / 1e6, alone)];
    Chart::new(title, Axis::log("teacher (M parameters)"), Axis::new("student's loss (nats a token)"))
        .with(Series::curve("with the teacher", taught))
        .with(Series::curve("without", level))
        .with(Series::marks("least", [Point::from(least)]))
        .draw()
}
