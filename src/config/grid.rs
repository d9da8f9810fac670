//! The config of a grid: teachers, students cut out of them or begun anew, and how both are trained. Its tables
//! `[train.teacher]` and `[train.student]` take what `[train]` takes in a run's config, `[kd]` what it takes there;
//! from them every cell's own [`RunConfig`] is made.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::RunConfig;
use super::raw::{Document, Node, Raw, Table, find};
use super::section::{Section, as_number};
use crate::error::{Error, Result};

/// How a student begins and learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arm {
    /// Cut out of its teacher, learns from text and teacher.
    PrunedKd,
    /// Random weights, learns from text and teacher.
    RandomKd,
    /// Cut out of its teacher, learns from text alone.
    Pruned,
}

impl Arm {
    /// The names.
    pub const NAMES: [(&'static str, Arm); 3] =
        [("pruned-kd", Arm::PrunedKd), ("random-kd", Arm::RandomKd), ("pruned", Arm::Pruned)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, arm)| *arm == self).map_or("", |(name, _)| name)
    }
}

/// A teacher's shape: llama, its head tied to its embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Teacher {
    /// As it is called; its folder is called so too.
    pub name: String,
    /// Channels.
    pub hidden: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads, which divide the channels.
    pub heads: usize,
    /// Channels inside the feed-forward net.
    pub ffn: usize,
    /// Its own learning rate; none for that of `[train.teacher]`. Wide models want lower ones.
    pub lr: Option<f64>,
}

/// `[data]`
#[derive(Debug, Clone, PartialEq)]
pub struct GridData {
    /// Text, as a run's `data.corpus` has it.
    pub corpus: Vec<PathBuf>,
    /// The folder of the tokenizer; none for the quickstart's.
    pub tokenizer: Option<String>,
    /// Tokens of a packed row. Default 128.
    pub sequence: usize,
    /// Shares of the documents: the teachers', the students', what is held out. Default 0.45, 0.45, 0.1.
    pub split: [f64; 3],
    /// Bytes of text at most in the teachers' and in the students' share. Default 64M.
    pub most: usize,
    /// Pieces of held-out text that losses are measured on. Default 200.
    pub held_out: usize,
}

/// A grid's config, checked.
#[derive(Debug, Clone)]
pub struct GridConfig {
    /// The file it came from.
    pub file: PathBuf,
    /// A student is trained once a seed; the first is the teachers'. Default 1.
    pub seeds: Vec<u64>,
    /// Default all three.
    pub arms: Vec<Arm>,
    /// Students' sizes, all parameters counted.
    pub students: Vec<usize>,
    /// From the smallest to the largest.
    pub teachers: Vec<Teacher>,
    /// What is learnt from.
    pub data: GridData,
    document: Document,
}

/// Whose run it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// A teacher's.
    Teacher,
    /// A student's.
    Student,
}

impl GridConfig {
    /// Reads a file, with `key=value` settings laid over it.
    pub fn load(file: &Path, set: &[String]) -> Result<Self> {
        let mut document = Document::open(file)?;
        set.iter().try_for_each(|assignment| document.set(assignment))?;
        read(document)
    }

    /// The config of one cell: `own` are settings of a run that are this cell's alone.
    pub fn run(&self, whose: Whose, own: &[String]) -> Result<RunConfig> {
        let train = find(&self.document.table, "train").map(|node| &node.raw);
        let name = if whose == Whose::Teacher { "teacher" } else { "student" };
        let table = match train {
            Some(Raw::Table(table)) => find(table, name).cloned(),
            _ => None,
        };
        let mut run = Document { file: self.file.clone(), table: Table::new() };
        // What a cell's end needs is said before what the file says; a cell is measured as it begins and as it ends.
        for usual in ["policy=minima", "train.best=valid-loss", "train.save_every=0", "train.keep=1"] {
            run.set(usual)?;
        }
        for (key, node) in table.iter().flat_map(inner) {
            put(&mut run.table, key, node);
        }
        if whose == Whose::Student
            && let Some(kd) = find(&self.document.table, "kd")
        {
            run.table.push(("kd".into(), kd.clone()));
        }
        own.iter().try_for_each(|assignment| run.set(assignment))?;
        RunConfig::checked(run, &[])
    }

    /// What cells that stand in a folder depend on, by name; what may grow is left out.
    pub fn facts(&self) -> Vec<(String, Value)> {
        let GridData { corpus, tokenizer, sequence, split, most, held_out } = &self.data;
        let data = json!([corpus, tokenizer, sequence, split, most, held_out]);
        let train = match find(&self.document.table, "train").map(|node| &node.raw) {
            Some(Raw::Table(table)) => find(table, "teacher").map_or(Value::Null, Node::to_json),
            _ => Value::Null,
        };
        let mut facts = vec![("data".into(), data), ("train.teacher".into(), train)];
        facts.push(("seeds".into(), self.seeds[0].into()));
        for Teacher { name, hidden, layers, heads, ffn, lr } in &self.teachers {
            let shape = [hidden, layers, heads, ffn].map(|n| json!(n)).into_iter();
            facts.push((format!("teachers.{name}"), shape.chain(lr.map(|lr| json!(lr))).collect()));
        }
        facts
    }
}

fn inner(node: &Node) -> &[(String, Node)] {
    match &node.raw {
        Raw::Table(table) => table,
        _ => &[],
    }
}

/// Puts a setting into `[train]`, over what stands there.
fn put(top: &mut Table, key: &str, node: &Node) {
    let Some((_, Node { raw: Raw::Table(train), .. })) = top.iter_mut().find(|(name, _)| name == "train")
    else {
        return;
    };
    train.retain(|(name, _)| name != key);
    train.push((key.to_string(), node.clone()));
}

fn read(document: Document) -> Result<GridConfig> {
    let (file, top) = (document.file.clone(), document.table.clone());
    let mut root = Section::of(&file, &top, "")?;
    for table in ["teachers", "data", "train", "kd"] {
        root.node(table);
    }
    let seeds =
        numbers(&mut root, "seeds")?.map_or(vec![1], |all| all.into_iter().map(|n| n as u64).collect());
    let students = numbers(&mut root, "students")?;
    let students = students.ok_or_else(|| {
        Error::user("a setting is missing")
            .file(&file)
            .field("students")
            .expected("sizes such as [\"48k\", \"96k\"]")
    })?;
    let names: Vec<&str> = Arm::NAMES.iter().map(|(name, _)| *name).collect();
    let mut arms = Vec::new();
    for name in root.texts("arms")? {
        let arm = Arm::NAMES.iter().find(|(known, _)| *known == name);
        arms.push(arm.ok_or_else(|| root.wrong("arms", names.join(", ")).found(&name))?.1);
    }
    if arms.is_empty() {
        arms = Arm::NAMES.map(|(_, arm)| arm).to_vec();
    }
    for (name, n, most) in [("seeds", seeds.len(), 1000), ("students", students.len(), 1000)] {
        if n > most {
            return Err(root.wrong(name, format!("at most {most}")));
        }
    }
    root.finish()?;
    let mut train = Section::of(&file, &top, "train")?;
    for (key, full) in [("teacher", "train.teacher"), ("student", "train.student")] {
        if !train.inside(key, full)?.is_there() {
            return Err(Error::user("a table is missing")
                .file(&file)
                .field(full)
                .expected("what [train] takes"));
        }
    }
    train.finish()?;
    let teachers = teachers(&file, &top)?;
    let data = data(&file, &top)?;
    let config = GridConfig { file, seeds, arms, students, teachers, data, document };
    // Both kinds of cells are read once, so that a mistake in their tables is told before anything is trained.
    let own = ["student.model=m", "data.corpus=c", "teacher.model=t"].map(String::from);
    config.run(Whose::Teacher, &own)?;
    config.run(Whose::Student, &own)?;
    Ok(config)
}

/// A list of whole numbers from 1 on, none of them twice; one number is a list of one.
fn numbers(section: &mut Section<'_>, key: &'static str) -> Result<Option<Vec<usize>>> {
    let one = |node: &Node| match &node.raw {
        Raw::Int(n) => usize::try_from(*n).ok().filter(|n| *n > 0),
        Raw::Text(text) => super::numbers::at_least_one(text).ok(),
        _ => None,
    };
    let Some(node) = section.node(key) else { return Ok(None) };
    let all: Option<Vec<usize>> = match &node.raw {
        Raw::List(list) => list.iter().map(one).collect(),
        _ => one(node).map(|n| vec![n]),
    };
    let apart = |all: &Vec<usize>| (1..all.len()).all(|n| !all[..n].contains(&all[n]));
    match all.filter(|all| !all.is_empty() && apart(all)) {
        Some(all) => Ok(Some(all)),
        None => {
            Err(section
                .wrong(key, "whole numbers from 1 on, each once, such as [1, 2, 3] or [\"48k\", \"96k\"]"))
        }
    }
}

fn teachers(file: &Path, top: &Table) -> Result<Vec<Teacher>> {
    let mut all = Vec::new();
    let node = find(top, "teachers");
    for (name, _) in node.map(inner).unwrap_or_default() {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 40 || name.starts_with('.') || !name.chars().all(plain) {
            let e =
                Error::user("a name that no folder should have").file(file).field(format!("teachers.{name}"));
            return Err(e.expected("letters, digits, - and _"));
        }
        let mut table = Section::of(file, top, "teachers")?;
        let full = format!("teachers.{name}");
        let mut section = table.inside(name, &full)?;
        let mut size = |key: &'static str, most: usize| -> Result<usize> {
            let expected = || format!("a whole number from 1 to {most}");
            let n = section.count(key, 1)?.filter(|n| *n <= most);
            n.ok_or_else(|| section.wrong(key, expected()))
        };
        let (hidden, layers) = (size("hidden", 1 << 16)?, size("layers", 512)?);
        let (heads, ffn) = (size("heads", 1 << 10)?, size("ffn", 1 << 18)?);
        if hidden % heads != 0 || (hidden / heads) % 2 != 0 {
            return Err(
                section.wrong("heads", format!("a divisor of hidden = {hidden} that leaves an even number"))
            );
        }
        let lr = section.number("lr", f64::NAN, "a number above 0", |x| x > 0.0)?;
        section.finish()?;
        let lr = (!lr.is_nan()).then_some(lr);
        all.push(Teacher { name: name.clone(), hidden, layers, heads, ffn, lr });
    }
    if all.is_empty() {
        let e = Error::user("a table is missing").file(file).field("teachers");
        return Err(e.expected("a table [teachers.NAME] for each, with hidden, layers, heads, ffn"));
    }
    all.sort_by_key(|t| t.layers * t.hidden * (4 * t.hidden + 3 * t.ffn));
    Ok(all)
}

fn data(file: &Path, top: &Table) -> Result<GridData> {
    let mut section = Section::of(file, top, "data")?;
    let corpus: Vec<PathBuf> = section.texts("corpus")?.into_iter().map(PathBuf::from).collect();
    if corpus.is_empty() {
        return Err(section.wrong("corpus", "files of text"));
    }
    let split = match section.node("split").map(|node| &node.raw) {
        None => [0.45, 0.45, 0.1],
        Some(Raw::List(list)) => {
            let shares: Vec<f64> =
                list.iter().filter_map(as_number).filter(|x| *x > 0.0 && *x < 1.0).collect();
            <[f64; 3]>::try_from(shares)
                .ok()
                .filter(|shares| shares.iter().sum::<f64>() <= 1.0 + 1e-9 && list.len() == 3)
                .ok_or_else(|| section.wrong("split", SPLIT))?
        }
        Some(_) => return Err(section.wrong("split", SPLIT)),
    };
    let data = GridData {
        corpus,
        tokenizer: section.text("tokenizer")?,
        sequence: section.count("sequence", 2)?.unwrap_or(128),
        split,
        most: section.count("most", 1)?.unwrap_or(64 << 20),
        held_out: section.count("held_out", 1)?.unwrap_or(200),
    };
    section.finish()?;
    Ok(data)
}

const SPLIT: &str = "three shares above 0 that sum to 1 at most: teachers', students', held out";

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "\
students = [\"48k\", 96000]
seeds = [1, 2]
[teachers.b]
hidden = 64
layers = 2
heads = 4
ffn = 128
[teachers.a]
hidden = 32
layers = 2
heads = 4
ffn = 64
[data]
corpus = \"text.txt\"
[train.teacher]
steps = 20
lr = 1e-3
[train.student]
steps = 10
[kd]
ratio = 0.9
";

    fn load(text: &str, set: &[&str]) -> Result<GridConfig> {
        let mut document = Document::parse(text, Path::new("grid.toml"))?;
        set.iter().try_for_each(|s| document.set(s))?;
        read(document)
    }

    #[test]
    fn cells_have_configs_of_their_own() {
        let grid = load(SMALL, &["train.student.lr=2e-3"]).unwrap();
        assert_eq!((grid.students.as_slice(), grid.seeds.as_slice()), (&[48_000, 96_000][..], &[1, 2][..]));
        assert_eq!(grid.teachers.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(grid.arms.len(), 3);
        let own = ["student.model=m", "teacher.model=t", "data.corpus=c", "seed=7"].map(String::from);
        let run = grid.run(Whose::Student, &own).unwrap();
        assert_eq!((run.settings.seed, run.settings.train.lr, run.settings.train.save_every), (7, 2e-3, 0));
        assert_eq!(run.table.get("ratio"), Some(&Value::from(0.9)));
        let run = grid.run(Whose::Teacher, &own).unwrap();
        assert!(run.settings.train.lr == 1e-3 && run.table.is_empty());
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let cases: [(&str, &[&str], &str); 13] = [
            ("", &[], "students"),
            (SMALL, &["student=1"], "did you mean students?"),
            (SMALL, &["arms=[\"prune\"]"], "pruned-kd, random-kd, pruned, found prune"),
            (SMALL, &["seeds=[1, 1]"], "each once"),
            (SMALL, &["seeds=[]"], "each once"),
            (SMALL, &["students=[\"x\"]"], "students"),
            (SMALL, &["teachers.a.heads=5"], "a divisor of hidden = 32"),
            (SMALL, &["teachers.a.width=5"], "teachers.a.width"),
            (SMALL, &["teachers.a.lr=0"], "teachers.a.lr"),
            (SMALL, &["data.split=[0.5, 0.5, 0.5]"], "data.split"),
            (SMALL, &["data.corpu=x"], "did you mean data.corpus?"),
            (SMALL, &["train.student.momentum=1"], "train.momentum"),
            (SMALL, &["kd.ratio=2"], "kd.ratio"),
        ];
        for (text, set, wanted) in cases {
            let said = load(text, set).unwrap_err().to_string();
            assert!(said.contains(wanted), "{wanted}: {said}");
        }
        let said = load(&SMALL.replace("lr = 1e-3", "lr = 0"), &[]).unwrap_err().to_string();
        assert!(said.starts_with("a setting is wrong: grid.toml:17: train.lr"), "{said}");
    }
}
