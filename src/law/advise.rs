//! "My student has N parameters and D tokens: which teacher?" Both laws answer, with what each assumes, where it was
//! measured, and what of the question lies outside of that.

use super::published::{Published, Scaling};
use super::scaling::Size;
use super::sizes::Sizes;
use crate::error::{Error, Result};

/// No model is larger than this where a teacher is looked for.
const MOST: f64 = 1e13;
/// Steps in which teachers' losses are gone through.
const GRID: usize = 4000;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Question {
    /// The student.
    pub student: Sizes,
    /// Its tokens; none for as many a parameter as the law has it.
    pub tokens: Option<f64>,
    /// The teacher's; none for as many a parameter as the law has it.
    pub teacher_tokens: Option<f64>,
}

/// Both laws' answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Advice {
    /// The student.
    pub student: Sizes,
    /// Its tokens.
    pub tokens: f64,
    /// By size.
    pub capacity_gap: BySize,
    /// By loss.
    pub scaling: ByLoss,
}

/// What a law stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ground {
    /// Where it is printed.
    pub source: String,
    /// What it takes for granted.
    pub assumes: String,
    /// What it was fitted to.
    pub measured: String,
    /// What of the question lies outside of that.
    pub warnings: Vec<String>,
}

/// The law of capacity gap's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct BySize {
    /// The teacher's parameters, all counted.
    pub teacher: f64,
    /// Whether the student is smaller than all that were measured.
    pub extrapolated: bool,
    /// What it stands on.
    pub ground: Ground,
}

/// A teacher and what its student comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Taught {
    /// The teacher's loss.
    pub teacher_loss: f64,
    /// The smallest teacher that has it.
    pub teacher: Sizes,
    /// Its tokens.
    pub teacher_tokens: f64,
    /// The student's loss.
    pub student_loss: f64,
}

/// The distillation-scaling law's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ByLoss {
    /// The smallest teacher whose student is as good as any, but for what is called alike.
    pub answer: Taught,
    /// The bare optimum.
    pub best: Taught,
    /// Teachers' losses whose students are alike.
    pub interval: [f64; 2],
    /// The student's loss without a teacher.
    pub alone: f64,
    /// What it stands on.
    pub ground: Ground,
}

/// Answers.
///
/// ```
/// # fn main() -> retort::error::Result<()> {
/// use retort::law::{Question, Sizes, advise};
/// let student = Sizes { all: 163e6, body: 124e6, exact: true };
/// let advice = advise(Question { student, tokens: Some(10e9), teacher_tokens: None })?;
/// assert!((advice.scaling.best.teacher_loss - 1.985).abs() < 1e-3);
/// # Ok(())
/// # }
/// ```
pub fn advise(question: Question) -> Result<Advice> {
    let laws = Published::read()?;
    let tokens = question.tokens.unwrap_or(laws.scaling.tokens_a_parameter * question.student.body);
    Ok(Advice {
        student: question.student,
        tokens,
        capacity_gap: by_size(&laws, question.student),
        scaling: by_loss(&laws.scaling, question, tokens)?,
    })
}

fn by_size(laws: &Published, student: Sizes) -> BySize {
    let law = &laws.capacity_gap;
    let (teacher, extrapolated) = law.teacher(student.all);
    let mut warnings = Vec::new();
    if extrapolated {
        warnings.push(format!(
            "extrapolated: no student below {} was measured, where the line falls under the student itself; the answer \
             is 2.5 times the student",
            short(law.least_student)
        ));
    }
    if teacher > law.largest_teacher {
        let most = short(law.largest_teacher);
        warnings.push(format!("extrapolated: no teacher above {most} was measured"));
    }
    let ground = Ground {
        source: law.source.clone(),
        assumes: law.assumes.clone(),
        measured: law.measured.clone(),
        warnings,
    };
    BySize { teacher, extrapolated, ground }
}

/// A teacher's tokens by its parameters.
pub(super) fn teacher_tokens(law: &Scaling, said: Option<f64>) -> impl Fn(f64) -> f64 {
    let a_parameter = law.tokens_a_parameter;
    move |n| said.unwrap_or(a_parameter * n)
}

fn by_loss(law: &Scaling, question: Question, tokens: f64) -> Result<ByLoss> {
    let student = Size { n: question.student.body, d: tokens };
    let alone = law.supervised.loss(student);
    let of = teacher_tokens(law, question.teacher_tokens);
    let loss = |teacher: f64| law.distilled.loss(student, teacher, alone);
    // A teacher that reads little is never good, however large it is.
    let least = law.least_loss.max(law.supervised.loss(Size { n: MOST, d: of(MOST) }));
    let found = optimum(least, loss, law.alike);
    let taught = |teacher_loss: f64| -> Result<Taught> {
        let n = law
            .supervised
            .parameters(teacher_loss, &of, MOST)
            .ok_or_else(|| Error::bug("a loss that no teacher has").found(teacher_loss))?;
        let (teacher, student_loss) = (Sizes::from_body(n), loss(teacher_loss));
        Ok(Taught { teacher_loss, teacher, teacher_tokens: of(n), student_loss })
    };
    let (best, answer) = (taught(found.best)?, taught(found.interval[1])?);
    let warnings = warnings(law, student, (&best, &answer), alone);
    let ground = Ground {
        source: law.source.clone(),
        assumes: law.assumes.clone(),
        measured: law.measured.clone(),
        warnings,
    };
    Ok(ByLoss { answer, best, interval: found.interval, alone, ground })
}

/// Where a student's loss is least over its teacher's, and how far around it stays alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Optimum {
    /// The teacher's loss.
    pub best: f64,
    /// Teachers' losses that are alike.
    pub interval: [f64; 2],
}

/// Looks from `least` on for the least of `loss` and for all within `alike` of it.
pub fn optimum(least: f64, loss: impl Fn(f64) -> f64, alike: f64) -> Optimum {
    // The student's loss falls until the teacher is near the student's own, and then rises with the teacher's.
    let place = |n: usize| least * (1.0 + 4.0 * n as f64 / GRID as f64);
    let mut at = 0;
    for n in 1..=GRID {
        if loss(place(n)) < loss(place(at)) {
            at = n;
        }
    }
    let (mut low, mut high) = (place(at.saturating_sub(1)), place((at + 1).min(GRID)));
    for _ in 0..100 {
        let (a, b) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
        if loss(a) < loss(b) { high = b } else { low = a }
    }
    let best = if at == 0 && loss(least) <= loss(0.5 * (low + high)) { least } else { 0.5 * (low + high) };
    let limit = loss(best) + alike;
    let edge = |mut inside: f64, mut outside: f64| {
        if loss(outside) <= limit {
            return outside;
        }
        for _ in 0..100 {
            let middle = 0.5 * (inside + outside);
            if loss(middle) <= limit { inside = middle } else { outside = middle }
        }
        inside
    };
    Optimum { best, interval: [edge(best, least), edge(best, place(GRID))] }
}

fn warnings(law: &Scaling, student: Size, (best, answer): (&Taught, &Taught), alone: f64) -> Vec<String> {
    let mut all = Vec::new();
    let (least, most) = (short(law.least_parameters), short(law.most_parameters));
    for (whose, n) in [("student", student.n), ("teacher", answer.teacher.body)] {
        if !(law.least_parameters..=law.most_parameters).contains(&n) {
            all.push(format!(
                "extrapolated: a {whose} of {} parameters without embeddings, fitted on {least} to {most}",
                short(n)
            ));
        }
    }
    for (whose, d) in [("student", student.d), ("teacher", answer.teacher_tokens)] {
        if d > law.most_tokens {
            let most = short(law.most_tokens);
            all.push(format!("extrapolated: {} tokens of the {whose}, fitted on {most} at most", short(d)));
        }
    }
    if best.teacher_loss <= law.least_loss {
        all.push(format!(
            "the optimum is at a teacher's loss of {}, the least that was measured: a better teacher may be better still",
            law.least_loss
        ));
    }
    if answer.teacher.body < student.n {
        all.push("the teacher is smaller than the student, and read more".into());
    }
    if answer.student_loss > alone {
        all.push("on as many tokens the student comes further without a teacher".into());
    }
    all
}

/// A number as people write it: 8.8B.
pub fn short(x: f64) -> String {
    match x {
        ..1e4 => format!("{x:.0}"),
        1e4..1e6 => format!("{:.1}k", x / 1e3),
        1e6..1e9 => format!("{:.1}M", x / 1e6),
        1e9..1e12 => format!("{:.1}B", x / 1e9),
        _ => format!("{:.1}T", x / 1e12),
    }
    .replace(".0k", "k")
    .replace(".0M", "M")
    .replace(".0B", "B")
    .replace(".0T", "T")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(body: f64, tokens: Option<f64>, teacher_tokens: Option<f64>) -> Advice {
        let student = Sizes { all: body, body, exact: true };
        advise(Question { student, tokens, teacher_tokens }).unwrap()
    }

    /// 124M parameters on 10B tokens: the bare optimum is a teacher's loss of 1.985 (8.8B), 2.15 (3.1B) costs
    /// 0.01 nat, and the law of capacity gap says 298M.
    #[test]
    fn the_worked_example() {
        let found = ask(124e6, Some(10e9), None);
        let Taught { teacher_loss, teacher, .. } = found.scaling.best;
        assert!((teacher_loss - 1.985).abs() < 5e-4 && (teacher.body / 8.8e9 - 1.0).abs() < 0.005);
        let answer = found.scaling.answer;
        assert!((answer.teacher_loss - 2.15).abs() < 1e-3, "{answer:?}");
        assert!((answer.teacher.body / 3.14e9 - 1.0).abs() < 0.005, "{answer:?}");
        assert!((answer.student_loss - found.scaling.best.student_loss - 0.01).abs() < 1e-6);
        assert!((found.capacity_gap.teacher / 298e6 - 1.0).abs() < 0.002);
        assert!(found.scaling.interval[0] == 1.93 && found.scaling.interval[1] == answer.teacher_loss);
        let warned = &found.scaling.ground.warnings;
        assert!(warned.len() == 1 && warned[0].contains("student of 124M"), "{warned:?}");
    }

    #[test]
    fn small_students_are_extrapolated() {
        let found = ask(10e6, None, None);
        assert_eq!(found.tokens, 200e6);
        assert!(found.capacity_gap.extrapolated && found.capacity_gap.teacher == 25e6);
        assert!(found.capacity_gap.ground.warnings[0].starts_with("extrapolated"));
        assert!(!ask(28e6, None, None).capacity_gap.extrapolated);
    }

    /// With so little to read no teacher has the loss that would be best; the answer is one that exists.
    #[test]
    fn a_teacher_that_reads_little_is_not_promised_more() {
        let plenty = ask(300e6, Some(6e9), Some(500e9)).scaling;
        let little = ask(300e6, Some(6e9), Some(1e9)).scaling;
        assert!(little.interval[0] > plenty.interval[0] && little.answer.teacher.body < 1.01e13);
        assert_eq!(little.answer.teacher_tokens, 1e9);
        assert!(little.best.student_loss > plenty.best.student_loss);
    }

    #[test]
    fn the_interval_is_all_that_is_alike() {
        for (body, tokens) in [(20e6, None), (143e6, Some(2e9)), (3e9, None), (7e9, Some(512e9))] {
            let found = ask(body, tokens, None).scaling;
            let law = Published::read().unwrap().scaling;
            let size = Size { n: body, d: tokens.unwrap_or(20.0 * body) };
            for n in 0..=3000 {
                let teacher = 1.93 + f64::from(n) * 1e-3;
                let worse = law.distilled.loss(size, teacher, found.alone) - found.best.student_loss;
                assert!(worse > -1e-9, "{teacher} is better by {worse}");
                let inside = found.interval[0] - 1e-9 <= teacher && teacher <= found.interval[1] + 1e-9;
                assert_eq!(inside, worse <= 0.01 + 1e-12, "{body} {teacher} {worse}");
            }
        }
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            (short(8.797e9), short(124e6), short(512e9)),
            ("8.8B".into(), "124M".into(), "512B".into())
        );
        assert_eq!(
            (short(999.0), short(60_125.0), short(2.5e13)),
            ("999".into(), "60.1k".into(), "25T".into())
        );
    }
}
