//! A grid: teachers of growing size, each trained once; students of each size under each teacher that is larger, in
//! every arm and with every seed; one CSV file of what they came to.
//!
//! Every teacher and every cell is a run directory like any other (`teachers/NAME`, `cells/SIZE-NAME-ARM-SEED`). What
//! is finished is not done again, what was stopped goes on, and `results.csv` is written anew as each cell ends.

mod cells;
mod corpus;
mod plan;
mod results;
mod tokenizer;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::{Value, json};
use tch::{Device, Kind};

use super::initial;
use super::points::{ALONE, Measured};
use super::{Fits, Points, Sizes, fit, page};
use crate::checkpoint::ModelFiles;
use crate::config::RunConfig;
use crate::config::grid::{Arm, GridConfig, Whose};
use crate::error::{Error, Result};
use crate::model::read_design;
use crate::quickstart::for_each;
use crate::store::{Folder, Staged, read_file, remove_folder, write_file};
use crate::train::{self, News, Options, Watch};
use crate::weights::Dtype;
use crate::weights::save::write_json;
use cells::{Cell, Cells, Cut, Sketch};
use corpus::Split;
pub use plan::{GridPlan, Planned, plan};
use results::{Line, Outcome, outcome};
use tokenizer::Shared;

/// Where a grid goes, and on what it runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder that everything goes to.
    pub out: PathBuf,
    /// Where to compute.
    pub device: Device,
    /// In what.
    pub kind: Kind,
    /// Runs that are trained at a time.
    pub at_once: usize,
}

/// Hears how a grid goes; from several threads.
pub trait Hears: Sync {
    /// A part begins: its name and what it is for.
    fn begins(&self, part: &str, what: &str);
    /// A run has done so many updates.
    fn progress(&self, run: &str, done: u64, total: u64);
    /// A slow piece of a run's work before its updates.
    fn preparing(&self, run: &str, what: &'static str, done: usize, total: usize);
    /// A run has ended with this loss.
    fn ended(&self, run: &str, loss: f64);
}

/// What came of it.
#[derive(Debug)]
pub struct Found {
    /// The CSV file.
    pub results: PathBuf,
    /// The page.
    pub report: PathBuf,
    /// What the file holds.
    pub points: Points,
    /// What was fitted to it.
    pub fits: Fits,
    /// Runs of this process, teachers in.
    pub done: usize,
    /// Students and teachers without a cell.
    pub left_out: Vec<(usize, String)>,
}

/// Does everything; in a folder where it was stopped it goes on.
pub fn run(config: &GridConfig, settings: &Settings, hears: &dyn Hears) -> Result<Found> {
    let out = take(config, &settings.out)?;
    let _lock = out.lock()?;
    let shared = Shared::of(config, out.root())?;
    let cells = Cells::of(config, shared.rows, shared.eos)?;
    hears.begins("corpus", "documents apart: the teachers', the students', and what is held out");
    let split = Split::write(&config.data, out.root())?;
    settle(&out, vec![("text".into(), split.digests()?)])?;
    let grid = Grid { config, settings, cells: &cells, split: &split, hears };
    hears.begins("teachers", &format!("{} of them, each trained once", cells.teachers.len()));
    // The largest takes longest, so it is begun first.
    let order: Vec<usize> = (0..cells.teachers.len()).rev().collect();
    let mut taught = for_each(&order, settings.at_once, |at| grid.teacher(&cells.teachers[*at], &shared))?;
    taught.reverse();
    hears.begins("cuts", &format!("{} students, cut out of their teachers", cells.cuts.len()));
    let bodies = for_each(&cells.cuts, settings.at_once, |cut| grid.cut(cut))?;
    hears.begins("cells", &format!("{} of them", cells.cells.len()));
    let table = Table::new(&settings.out, &cells, &taught)?;
    let order: Vec<usize> = (0..cells.cells.len()).rev().collect();
    let done = for_each(&order, settings.at_once, |at| {
        let cell = &cells.cells[*at];
        let (ended, trained) = grid.cell(cell)?;
        let cut = &cells.cuts[cell.cut];
        table.add(*at, grid.line(cell, (cut, bodies[cell.cut]), &taught[cut.teacher].0, &ended))?;
        Ok(usize::from(trained))
    })?;
    let points = Points::read(&table.file)?;
    let fits = fit(&points, 1)?;
    let report = settings.out.join("report.html");
    let html = page(&points, &fits).html();
    write_file(&report, |w| Ok(w.write_all(html.as_bytes())?))?;
    let done = done.iter().sum::<usize>() + taught.iter().filter(|(_, trained)| *trained).count();
    Ok(Found { results: table.file, report, points, fits, done, left_out: cells.left_out.clone() })
}

/// The name of what a grid's folder depends on.
const FACTS: &str = "grid.json";

/// The folder: a new one, or that of the same grid.
fn take(config: &GridConfig, path: &Path) -> Result<Folder> {
    let empty = std::fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
    if !empty && !path.join(FACTS).exists() {
        return Err(Error::user("the folder holds something else")
            .file(path)
            .expected("an empty folder, or that of a grid"));
    }
    let folder = Folder::create(path)?;
    settle(&folder, config.facts())?;
    Ok(folder)
}

/// Writes down what cells depend on; what stands there already must be the same.
fn settle(folder: &Folder, facts: Vec<(String, Value)>) -> Result<()> {
    let file = folder.path(FACTS)?;
    let mut all = match read_file(&file, 1 << 20)?.map(|bytes| serde_json::from_slice(&bytes)) {
        None => serde_json::Map::new(),
        Some(Ok(Value::Object(before))) => before,
        Some(_) => return Err(Error::data("not the facts of a grid").file(&file)),
    };
    if let Some((name, _)) = facts.iter().find(|(name, value)| all.get(name).is_some_and(|b| b != value)) {
        return Err(Error::user("the grid was begun with another setting")
            .file(&file)
            .field(name)
            .advice("set it as it was to go on, or begin a new grid with another --out"));
    }
    all.extend(facts);
    write_json(folder, FACTS, &Value::Object(all))
}

/// A grid at work.
struct Grid<'a> {
    config: &'a GridConfig,
    settings: &'a Settings,
    cells: &'a Cells,
    split: &'a Split,
    hears: &'a dyn Hears,
}

impl Grid<'_> {
    fn path(&self, room: &str, name: &str) -> PathBuf {
        self.settings.out.join(room).join(name)
    }

    /// Trains a teacher, unless it was; answers whether that was now.
    fn teacher(&self, sketch: &Sketch, shared: &Shared) -> Result<(Outcome, bool)> {
        let shape = self.path("shapes", &sketch.name);
        if !shape.join("config.json").exists() {
            let staged = Staged::create(&shape)?;
            write_json(staged.folder(), "config.json", &Value::Object(sketch.config.clone()))?;
            let files = ModelFiles::read(&staged.folder().path("config.json")?, &shared.folder)?;
            files.write(staged.folder(), Dtype::F32)?;
            staged.commit()?;
        }
        let mut own = vec![
            format!("seed={}", self.config.seeds[0]),
            format!("student.model.config={}", quoted(&shape.join("config.json"))),
            "kd.ratio=0.0".into(),
        ];
        own.extend(sketch.lr.map(|lr| format!("train.lr={lr}")));
        self.train(&format!("teachers/{}", sketch.name), (Whose::Teacher, &self.split.teachers), &own)
    }

    /// Cuts a student out of its teacher, unless it was; answers its sizes.
    fn cut(&self, cut: &Cut) -> Result<Sizes> {
        let folder = self.path("students", &cut.name);
        if !folder.join("config.json").exists() {
            initial::cut(initial::Order {
                teacher: &self.teacher_of(cut),
                text: &self.split.students,
                parameters: cut.student as i64,
                place: (self.settings.device, self.settings.kind),
                seed: self.config.seeds[0],
                out: &folder,
            })?;
        }
        Ok(Sizes::of_design(read_design(&folder)?.as_ref()))
    }

    fn teacher_of(&self, cut: &Cut) -> PathBuf {
        self.path("teachers", &self.cells.teachers[cut.teacher].name).join("final")
    }

    /// Trains a cell, unless it was; answers whether that was now.
    fn cell(&self, cell: &Cell) -> Result<(Outcome, bool)> {
        let cut = &self.cells.cuts[cell.cut];
        let start = self.path("students", &cut.name);
        let mut own = vec![
            format!("seed={}", cell.seed),
            format!("teacher.model={}", quoted(&self.teacher_of(cut))),
            match cell.arm {
                // The same shape, with weights of its own.
                Arm::RandomKd => format!("student.model.config={}", quoted(&start.join("config.json"))),
                Arm::Pruned | Arm::PrunedKd => format!("student.model={}", quoted(&start)),
            },
        ];
        if cell.arm == Arm::Pruned {
            // The teacher is not learnt from, and still measured against.
            own.push("kd.ratio=0.0".into());
        }
        self.train(&format!("cells/{}", cell.name), (Whose::Student, &self.split.students), &own)
    }

    /// Trains a run to its end, unless it is there.
    fn train(&self, name: &str, (whose, text): (Whose, &Path), own: &[String]) -> Result<(Outcome, bool)> {
        let data = &self.config.data;
        let mut set = vec![
            format!("data.corpus=[{}]", quoted(text)),
            format!("data.valid=[{}]", quoted(&self.split.held_out)),
            format!("data.sequence={}", data.sequence),
            format!("data.max_response={}", data.sequence),
            // Text has no prompts; what is said of them would be a warning.
            "data.max_prompt=1".into(),
        ];
        set.extend(own.iter().cloned());
        let config = self.config.run(whose, &set)?;
        let run = self.settings.out.join(name);
        let trained = !finished(&config, &run)?;
        if trained {
            let (device, kind) = (self.settings.device, self.settings.kind);
            let options = Options { device, kind, write: Dtype::F32, resume: true };
            train::run(config, &run, &options, &mut Named { name, hears: self.hears })?;
            // What it read is made anew from the split if it is ever wanted again.
            remove_folder(&run.join("cache"))?;
        }
        let outcome = outcome(&run)?;
        if trained {
            self.hears.ended(name, outcome.loss);
        }
        Ok((outcome, trained))
    }

    /// What a cell came to.
    fn line(&self, cell: &Cell, (cut, sizes): (&Cut, Sizes), teacher: &Outcome, ended: &Outcome) -> Line {
        let of = &self.cells.teachers[cut.teacher];
        let measured = Measured {
            arm: cell.arm.name().into(),
            student: cut.student as f64,
            teacher: Some(of.sizes.all),
            seed: cell.seed,
            tokens: Some(ended.tokens),
            teacher_tokens: Some(teacher.tokens),
            student_body: Some(sizes.body),
            teacher_body: Some(of.sizes.body),
            teacher_loss: Some(teacher.loss),
            loss: ended.loss,
            kl: ended.kl,
            initial_loss: ended.initial,
        };
        Line { measured, parameters: sizes, updates: ended.updates, run: format!("cells/{}", cell.name) }
    }
}

/// A path as a text of TOML.
fn quoted(path: &Path) -> String {
    json!(path.display().to_string()).to_string()
}

/// Whether a run is done, as this config has it.
fn finished(config: &RunConfig, run: &Path) -> Result<bool> {
    let file = run.join("config.toml");
    if !run.join("final/config.json").exists() || !file.exists() {
        return Ok(false);
    }
    let before = RunConfig::load(&file, &[])?;
    if let Some(key) = config.differs(&before)? {
        return Err(Error::user("the cell was trained with another setting")
            .file(&file)
            .field(key)
            .advice("set it as it was to go on, or begin a new grid with another --out"));
    }
    Ok(before.settings.train.length == config.settings.train.length)
}

/// The CSV file, as cells end in any order.
struct Table {
    file: PathBuf,
    teachers: Vec<Line>,
    cells: Mutex<Vec<Option<Line>>>,
}

impl Table {
    fn new(out: &Path, cells: &Cells, taught: &[(Outcome, bool)]) -> Result<Self> {
        let line = |(sketch, (ended, _)): (&Sketch, &(Outcome, bool))| Line {
            measured: Measured {
                arm: ALONE.into(),
                student: sketch.sizes.all,
                tokens: Some(ended.tokens),
                student_body: Some(sketch.sizes.body),
                loss: ended.loss,
                initial_loss: ended.initial,
                ..Measured::default()
            },
            parameters: sketch.sizes,
            updates: ended.updates,
            run: format!("teachers/{}", sketch.name),
        };
        let teachers: Vec<Line> = cells.teachers.iter().zip(taught).map(line).collect();
        let table = Table {
            file: out.join("results.csv"),
            teachers,
            cells: Mutex::new(cells.cells.iter().map(|_| None).collect()),
        };
        results::write(&table.file, &table.teachers)?;
        Ok(table)
    }

    /// Takes a cell's line, and writes all that there are in the order of the cells.
    fn add(&self, at: usize, line: Line) -> Result<()> {
        let mut cells = self.cells.lock().map_err(|_| Error::bug("a cell's thread died"))?;
        cells[at] = Some(line);
        let all: Vec<Line> = self.teachers.iter().chain(cells.iter().flatten()).cloned().collect();
        results::write(&self.file, &all)
    }
}

/// Passes on what a run says, with its name.
struct Named<'a> {
    name: &'a str,
    hears: &'a dyn Hears,
}

impl Watch for Named<'_> {
    fn update(&mut self, news: News<'_>) {
        self.hears.progress(self.name, news.step, news.steps);
    }

    fn evaluated(&mut self, _: u64, _: &[(&'static str, f64)]) {}

    fn preparing(&mut self, what: &'static str, done: usize, total: usize) {
        self.hears.preparing(self.name, what, done, total);
    }
}
