//! KL directions side by side: what a student that cannot be its teacher learns from each of them.
//!
//!     cargo run --release --example kl_directions -- runs/kl-directions
//!
//! (a) The classical picture: one Gaussian fitted to a mixture of two. (b) The same on language models: the
//! quickstart's small student and its teacher, one seed, the same rows, as many updates with each objective.
//! Writes `directions.html` (figures and tables), `gaussians.svg` and `directions.json`, and prints the tables.
//! `-- DIR STEPS ROWS` makes it shorter: 200 updates and 200 held-out rows unless told.

mod gaussians;
mod models;

use retort::error::{Error, Result};
use retort::report::page::{Cell, Page, Section, Table};
use retort::store::Folder;

fn main() -> Result<()> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let number = |n: usize, default: usize| match given.get(n) {
        None => Ok(default),
        Some(text) => text
            .parse()
            .ok()
            .filter(|n| *n > 3)
            .ok_or_else(|| Error::user("not a number over 3").found(text).expected("DIR STEPS ROWS")),
    };
    let out = given.first().map_or("runs/kl-directions", String::as_str);
    let (steps, rows) = (number(1, 200)?, number(2, 200)?);
    let folder = Folder::create(out)?;
    tch::set_num_threads(1);

    let fits = gaussians::fits()?;
    println!("(a) one Gaussian fitted to a mixture of two\n\n{}", gaussians::table(&fits));
    let chart = gaussians::chart(&fits);
    folder.write_bytes("gaussians.svg", chart.standalone().as_bytes())?;

    let arms = models::train_all(&folder, steps, rows)?;
    println!("(b) language models, after {steps} updates\n\n{}", models::table(&arms));
    let found = serde_json::json!({"gaussians": fits.iter().map(gaussians::Fit::json).collect::<Vec<_>>(),
        "models": arms.iter().map(models::Arm::json).collect::<Vec<_>>()});
    folder.write_bytes("directions.json", format!("{found:#}\n").as_bytes())?;

    let mut fitted = Table::new(["objective", "mean", "deviation"]);
    for fit in &fits {
        fitted =
            fitted.row([Cell::text(fit.name), Cell::number(fit.mean, 2), Cell::number(fit.deviation, 2)]);
    }
    let classical = Section::new("One Gaussian for two")
        .paragraph(
            "Forward KL pays for every place where the teacher is and the student is not: it covers both modes and \
             fills the gap between them. Reverse KL pays for every place where the student is and the teacher is \
             not: it takes one mode and leaves the other. The rest lie between.",
        )
        .figure(&chart, "")
        .table(fitted);
    let mut language = Section::new("Language models").paragraph(models::EXPLAINED);
    for chart in models::charts(&arms) {
        language = language.figure(&chart, "");
    }
    let page = Page::new("KL directions")
        .lead("What a student that cannot be its teacher learns, by what it is told to make small.")
        .section(classical)
        .section(language.table(models::cells(&arms)));
    folder.write_bytes("directions.html", page.html().as_bytes())?;
    println!("page: {}", folder.path("directions.html")?.display());
    Ok(())
}
