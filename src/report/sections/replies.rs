//! Replies of the runs' last evaluations side by side, below what the data has and what the teacher said.

use crate::report::page::{Sample, Section, Whose};
use crate::report::run::{Run, Teacher};

/// Prompts that are shown, and characters of a text.
const PROMPTS: usize = 12;
const LONGEST: usize = 1500;

pub(super) fn section(runs: &[Run], teacher: &Teacher) -> Section {
    let mut section = Section::new("Replies");
    let mut prompts: Vec<&str> = Vec::new();
    for reply in runs.iter().flat_map(|run| &run.samples.replies) {
        if !prompts.contains(&reply.prompt.as_str()) {
            prompts.push(&reply.prompt);
        }
    }
    if prompts.is_empty() {
        return section;
    }
    section = section.paragraph(intro(runs));
    if !teacher.is_empty() {
        let found = prompts.iter().filter(|prompt| teacher.to(prompt).is_some()).count();
        section =
            section.paragraph(format!("The teacher has a reply to {found} of {} prompts.", prompts.len()));
    }
    if prompts.len() > PROMPTS {
        let left = prompts.len() - PROMPTS;
        section = section.paragraph(format!("{PROMPTS} prompts are shown, {left} are left out."));
    }
    prompts
        .iter()
        .take(PROMPTS)
        .fold(section, |section, prompt| section.sample(sample(prompt, runs, teacher)))
}

/// When the replies were sampled.
fn intro(runs: &[Run]) -> String {
    let when: Vec<String> = runs
        .iter()
        .filter(|run| !run.samples.replies.is_empty())
        .map(|run| format!("{} after update {}", run.name, run.samples.step))
        .collect();
    format!("To held-out prompts, at the last evaluation: {}.", when.join(", "))
}

fn sample(prompt: &str, runs: &[Run], teacher: &Teacher) -> Sample {
    let mut sample = Sample::new(cut(prompt));
    let gold = runs.iter().find_map(|run| run.samples.to(prompt).filter(|r| !r.references.is_empty()));
    for (n, reference) in gold.into_iter().flat_map(|reply| &reply.references).enumerate().take(4) {
        let note = if n == 0 { String::new() } else { format!("another, {}", n + 1) };
        sample = sample.reply(Whose::Gold, "reference", note, cut(reference));
    }
    if let Some(reply) = teacher.to(prompt) {
        sample =
            sample.reply(Whose::Teacher, "teacher", note(reply.rouge_l, reply.cut), cut(&reply.response));
    }
    for run in runs {
        if let Some(reply) = run.samples.to(prompt) {
            sample =
                sample.reply(Whose::Student, &run.name, note(reply.rouge_l, reply.cut), cut(&reply.response));
        }
    }
    sample
}

fn note(rouge_l: Option<f64>, is_cut: bool) -> String {
    let score = rouge_l.map(|x| format!("Rouge-L {x:.1}"));
    let parts: Vec<String> = score.into_iter().chain(is_cut.then(|| "cut at its longest".into())).collect();
    parts.join(", ")
}

/// A text, or its beginning and how much is missing.
fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        None => text.to_string(),
        Some((at, _)) => format!("{}… ({} more characters)", &text[..at], text[at..].chars().count()),
    }
}
