//! The quickstart's page: the table, replies side by side, and what `report` shows of the runs.

use super::measure::HeldOut;
use super::{Found, Model};
use crate::error::Result;
use crate::eval::bootstrap::Estimate;
use crate::report::page::{Cell, Page, Sample, Section, Table, Whose};
use crate::report::{Teacher, of_runs, run};
use crate::store::write_file;

/// Prompts whose replies are shown.
const SHOWN: usize = 12;

/// Writes it to the report's path.
pub(super) fn write(found: &Found, held: &HeldOut, runs: &[std::path::PathBuf]) -> Result<()> {
    let page = Page::new("Quickstart")
        .lead("One student, one teacher, four ways to distil.")
        .section(results(found))
        .section(replies(found, held))
        .followed_by(of_runs(&run::load(runs)?, &Teacher::default()));
    write_file(&found.report, |out| Ok(out.write_all(page.html().as_bytes())?))
}

fn results(found: &Found) -> Section {
    let heading = [
        "model",
        "parameters",
        "Rouge-L",
        "valid, %",
        "valid greedy, %",
        "reverse KL",
        "exposure, %",
        "distinct-4",
        "time, s",
    ];
    let mut table = Table::new(heading);
    for model in &found.models {
        table = table.row(cells(model));
    }
    let mut ahead = Table::new(["MiniLLM minus", "Rouge-L", "p"]);
    for (name, pair) in &found.ahead {
        let Estimate { mean, low, high, .. } = pair.difference;
        ahead = ahead.row([
            Cell::text(*name),
            Cell::number(mean, 2).between(low, high, 2),
            Cell::number(pair.p, 4),
        ]);
    }
    Section::new("What came of it")
        .paragraph(
            "Every student began as the same small model and had as many updates. All are measured on prompts whose \
             wordings and arguments none of them has seen: one reply a prompt, sampled at temperature 1, intervals of \
             95 %. A reply is valid if it answers the request word for word as the task's grammar allows; greedy is the \
             most probable reply instead of a sampled one. Reverse KL: nats a token by which a student's own replies \
             are unlike its teacher's. Exposure: how much worse it does behind its own words than behind the \
             teacher's. Distinct-4: how varied the replies are; a student that has become too sure of itself shows here.",
        )
        .table(table)
        .paragraph("The same prompts, reply against reply:")
        .table(ahead)
}

fn cells(model: &Model) -> Vec<Cell> {
    let m = &model.measured;
    let number = |e: Estimate, digits| Cell::number(e.mean, digits).between(e.low, e.high, digits);
    let student = model.trained.is_some();
    let of_student = |e: Estimate, digits| if student { number(e, digits) } else { Cell::none() };
    vec![
        Cell::text(model.name.as_str()),
        Cell::number(m.parameters as f64, 0),
        number(m.rouge_l, 1),
        number(m.valid.scaled(100.0), 1),
        number(m.valid_greedy.scaled(100.0), 1),
        of_student(m.reverse_kl, 3),
        of_student(m.exposure, 0),
        m.distinct_4.map_or_else(Cell::none, |e| number(e, 3)),
        model.trained.map_or_else(Cell::none, |(_, time)| Cell::number(time.as_secs_f64(), 0)),
    ]
}

fn replies(found: &Found, held: &HeldOut) -> Section {
    let mut section = Section::new("Replies to new prompts");
    for (row, (request, references)) in held.requests.iter().zip(&held.references).take(SHOWN).enumerate() {
        let gold = references.first().map_or("", String::as_str);
        let mut sample = Sample::new(request.prompt.as_str()).reply(Whose::Gold, "a reference", "", gold);
        for model in &found.models {
            let whose = if model.trained.is_some() { Whose::Student } else { Whose::Teacher };
            let note = format!("Rouge-L {:.0}", model.measured.rows[row]);
            sample = sample.reply(whose, model.name.as_str(), note, model.measured.replies[row].as_str());
        }
        section = section.sample(sample);
    }
    section
}
