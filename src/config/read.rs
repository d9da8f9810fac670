//! From raw values to checked settings.

use std::path::{Path, PathBuf};

use retort_policies::{self as policies, Entry, POLICIES, Policy};

use super::RunConfig;
use super::raw::{Document, Node, Raw, Table, find, json_table};
use super::section::{Section, as_number, located};
use super::settings::{
    Best, Data, Dist, DocumentAttention, Eval, Learn, Length, Lora, MicroBatch, Origin, Sampling, Schedule,
    Settings, Student, Train, Warmup,
};
use crate::error::{Error, Result};

/// Facts of a run that `config.toml` in a run directory carries; they are read and not used.
pub(super) const RUN: &str = "run";

/// Checks a whole config.
pub(super) fn read(document: Document) -> Result<RunConfig> {
    let (file, top) = (document.file.as_path(), &document.table);
    let mut root = Section::of(file, top, "")?;
    for table in ["student", "teacher", "data", "train", "sampling", "eval", "dist", RUN] {
        root.node(table);
    }
    for entry in POLICIES {
        root.node(entry.table);
    }
    let name = root.text("policy")?.ok_or_else(|| missing(file, "policy", &names()))?;
    let entry = POLICIES.iter().find(|e| e.name == name).ok_or_else(|| root.wrong("policy", names()))?;
    let seed = root.count("seed", 0)?.unwrap_or(1) as u64;
    root.finish()?;
    let (table, unused) = policy_tables(&document, entry)?;
    let student = student(file, top)?;
    let (teacher, cache) = super::teacher::read(file, top)?;
    let data = data(file, top)?;
    let train = train(file, top)?;
    let packs = source(build(&document, entry, &table)?.as_ref()) == policies::Source::Corpus;
    let settings = Settings {
        seed,
        student,
        teacher,
        cache,
        data,
        eval: eval(file, top, train.best == Best::RougeL && !packs)?,
        train,
        sampling: sampling(file, top)?,
        dist: dist(file, top)?,
    };
    let config = RunConfig { file: file.to_path_buf(), settings, entry, table, unused, document };
    fitting(&config)?;
    Ok(config)
}

fn names() -> String {
    POLICIES.map(|e| e.name).join(", ")
}

pub(super) fn missing(file: &Path, key: &str, expected: &str) -> Error {
    Error::user("a setting is missing").file(file).field(key).expected(expected)
}

/// The table of the policy in force, and the names of the others' that are there; all are checked.
fn policy_tables(document: &Document, entry: &'static Entry) -> Result<(policies::Table, Vec<String>)> {
    let (mut own, mut unused, mut seen) = (policies::Table::new(), Vec::new(), Vec::new());
    for other in POLICIES.iter() {
        if seen.contains(&other.table) {
            continue;
        }
        seen.push(other.table);
        let section = Section::of(&document.file, &document.table, other.table)?;
        let Some(Node { raw: Raw::Table(table), .. }) = find(&document.table, other.table) else { continue };
        debug_assert!(section.is_there());
        let table = json_table(table);
        if other.table == entry.table {
            own = table;
        } else {
            build(document, other, &table)?;
            unused.push(other.table.to_string());
        }
    }
    build(document, entry, &own)?;
    Ok((own, unused))
}

/// Builds a policy; what is wrong with its table is told with its place.
pub(super) fn build(document: &Document, entry: &Entry, table: &policies::Table) -> Result<Box<dyn Policy>> {
    (entry.build)(table).map_err(|e| match e {
        policies::Error::Setting { key, expected, found } => {
            let place = match find(&document.table, entry.table).map(|node| &node.raw) {
                Some(Raw::Table(table)) => find(table, &key).map(|node| node.place),
                _ => None,
            };
            let full = format!("{}.{key}", entry.table);
            located(&document.file, &full, place).expected(expected).found(found)
        }
        other => other.into(),
    })
}

fn student(file: &Path, top: &Table) -> Result<Student> {
    let mut section = Section::of(file, top, "student")?;
    let wanted = "a model folder, or { config = \"config.json\" } for random weights";
    let model = match section.node("model") {
        None => return Err(missing(file, "student.model", wanted)),
        Some(Node { raw: Raw::Text(text), .. }) if !text.is_empty() => Origin::Folder(text.clone()),
        Some(Node { raw: Raw::Table(_), .. }) => {
            let mut inner = section.inside("model", "student.model")?;
            let config =
                inner.text("config")?.ok_or_else(|| missing(file, "student.model.config", "a path"))?;
            inner.finish()?;
            Origin::Config(config.into())
        }
        Some(_) => return Err(section.wrong("model", wanted)),
    };
    let lora = section.inside("lora", "student.lora")?;
    let lora = if lora.is_there() { Some(lora_of(lora)?) } else { None };
    section.finish()?;
    Ok(Student { model, lora })
}

fn lora_of(mut section: Section<'_>) -> Result<Lora> {
    let rank = section.count("rank", 1)?.unwrap_or(8);
    let alpha = section.number("alpha", 2.0 * rank as f64, "a number above 0", |x| x > 0.0)?;
    let mut targets = section.texts("targets")?;
    if targets.is_empty() {
        if section.node("targets").is_some() {
            return Err(section.wrong("targets", "attention, mlp or names of projections"));
        }
        targets = ["attention", "mlp"].map(String::from).to_vec();
    }
    section.finish()?;
    Ok(Lora { rank, alpha, targets })
}

fn data(file: &Path, top: &Table) -> Result<Data> {
    let mut section = Section::of(file, top, "data")?;
    let mut paths =
        |key| -> Result<Vec<PathBuf>> { Ok(section.texts(key)?.into_iter().map(PathBuf::from).collect()) };
    let (train, valid, corpus) = (paths("train")?, paths("valid")?, paths("corpus")?);
    let data = Data {
        train,
        valid,
        corpus,
        template: section.text("template")?.unwrap_or("auto".into()),
        max_prompt: section.count("max_prompt", 1)?.unwrap_or(256),
        max_response: section.count("max_response", 1)?.unwrap_or(256),
        learn: section.choice("learn", &Learn::NAMES, Learn::Replies)?,
        sequence: section.count("sequence", 2)?.unwrap_or(1024),
        document_attention: section.choice(
            "document_attention",
            &DocumentAttention::NAMES,
            DocumentAttention::Packed,
        )?,
        skip_invalid: section.flag("skip_invalid", false)?,
    };
    section.finish()?;
    Ok(data)
}

fn train(file: &Path, top: &Table) -> Result<Train> {
    let mut section = Section::of(file, top, "train")?;
    let from_zero = "a number from 0 on";
    let train = Train {
        length: length(file, &mut section)?,
        batch: section.count("batch", 1)?.unwrap_or(64),
        micro_batch: micro_batch(&mut section)?,
        recompute: match section.node("recompute").map(|n| &n.raw) {
            None => None,
            Some(Raw::Text(text)) if text == "auto" => None,
            Some(Raw::Flag(flag)) => Some(*flag),
            Some(_) => return Err(section.wrong("recompute", "\"auto\", true or false")),
        },
        lr: section.number("lr", 5e-6, "a number above 0", |x| x > 0.0)?,
        schedule: section.choice("schedule", &Schedule::NAMES, Schedule::Cosine)?,
        warmup: warmup(&mut section)?,
        min_lr: section.number("min_lr", 0.0, from_zero, |x| x >= 0.0)?,
        decay: section.number("decay", 0.1, "a share from 0 to 1", |x| (0.0..=1.0).contains(&x))?,
        betas: betas(&mut section)?,
        eps: section.number("eps", 1e-8, "a number above 0", |x| x > 0.0)?,
        weight_decay: section.number("weight_decay", 0.0, from_zero, |x| x >= 0.0)?,
        decay_all: section.flag("decay_all", false)?,
        clip: section.number("clip", 1.0, from_zero, |x| x >= 0.0)?,
        eval_every: section.count("eval_every", 0)?.unwrap_or(100) as u64,
        save_every: section.count("save_every", 0)?.unwrap_or(500) as u64,
        keep: section.count("keep", 1)?.unwrap_or(3),
        best: section.choice("best", &Best::NAMES, Best::RougeL)?,
        max_skipped: section.count("max_skipped", 1)?.unwrap_or(10) as u64,
        measure_distance: section.flag("measure_distance", false)?,
        measure_noise: section.count("measure_noise", 0)?.unwrap_or(0) as u64,
        regime: super::regime::read(&mut section)?,
    };
    if train.min_lr > train.lr {
        return Err(section.wrong("min_lr", format!("at most lr, {}", train.lr)));
    }
    section.finish()?;
    Ok(train)
}

fn length<'a>(file: &Path, section: &mut Section<'a>) -> Result<Length> {
    let steps = section.count("steps", 1)?;
    let epochs = match section.node("epochs") {
        None => None,
        Some(node) => match as_number(node).filter(|x| x.is_finite() && *x > 0.0) {
            Some(x) => Some(x),
            None => return Err(section.wrong("epochs", "a number above 0")),
        },
    };
    match (steps, epochs) {
        (Some(steps), None) => Ok(Length::Steps(steps as u64)),
        (None, Some(epochs)) => Ok(Length::Epochs(epochs)),
        (None, None) => Err(missing(file, "train.steps", "steps or epochs")),
        (Some(_), Some(_)) => Err(section.wrong("epochs", "steps or epochs").advice("leave one of them out")),
    }
}

fn micro_batch(section: &mut Section<'_>) -> Result<MicroBatch> {
    match section.node("micro_batch").map(|n| &n.raw) {
        None => Ok(MicroBatch::Auto),
        Some(Raw::Text(text)) if text == "auto" => Ok(MicroBatch::Auto),
        Some(Raw::Int(n)) if *n > 0 => Ok(MicroBatch::Rows(*n as usize)),
        Some(_) => Err(section.wrong("micro_batch", "\"auto\" or a whole number from 1 on")),
    }
}

fn warmup(section: &mut Section<'_>) -> Result<Warmup> {
    if let Some(Node { raw: Raw::Text(text), .. }) = section.node("warmup")
        && let Some(percent) = text.strip_suffix('%')
    {
        let share = percent.trim().parse::<f64>().ok().filter(|p| (0.0..=100.0).contains(p));
        let share = share.ok_or_else(|| section.wrong("warmup", "updates, or a share such as \"10%\""))?;
        return Ok(Warmup::Share(share / 100.0));
    }
    Ok(Warmup::Updates(section.count("warmup", 0)?.unwrap_or(0) as u64))
}

fn betas(section: &mut Section<'_>) -> Result<[f64; 2]> {
    let Some(node) = section.node("betas") else { return Ok([0.9, 0.95]) };
    let found: Option<Vec<f64>> = match &node.raw {
        Raw::List(list) => list.iter().map(as_number).collect(),
        _ => None,
    };
    match found.as_deref() {
        Some([a, b]) if [a, b].iter().all(|x| (0.0..1.0).contains(*x)) => Ok([*a, *b]),
        _ => Err(section.wrong("betas", "two numbers from 0 to less than 1")),
    }
}

fn sampling(file: &Path, top: &Table) -> Result<Sampling> {
    let mut section = Section::of(file, top, "sampling")?;
    let sampling = Sampling {
        temperature: section.number("temperature", 1.0, "a number above 0", |x| x > 0.0)?,
        top_k: section.count("top_k", 0)?.unwrap_or(0),
        top_p: section.number("top_p", 1.0, "a share above 0, at most 1", |x| x > 0.0 && x <= 1.0)?,
        min_new_tokens: section.count("min_new_tokens", 0)?.unwrap_or(0),
    };
    section.finish()?;
    Ok(sampling)
}

/// `[eval]`; `replies` says whether the student replies to prompts unless told.
fn eval(file: &Path, top: &Table, replies: bool) -> Result<Eval> {
    let mut section = Section::of(file, top, "eval")?;
    let unless_told = if replies { Eval::PROMPTS } else { 0 };
    let prompts = section.count("prompts", 0)?.unwrap_or(unless_told);
    section.finish()?;
    Ok(Eval { prompts })
}

fn dist(file: &Path, top: &Table) -> Result<Dist> {
    let mut section = Section::of(file, top, "dist")?;
    let wanted = "a number of seconds from 0.1 to 86400";
    let timeout = section.number("timeout", 60.0, wanted, |x| (0.1..=86_400.0).contains(&x))?;
    let zero = section.count("zero", 0)?.unwrap_or(0);
    if zero > 2 {
        return Err(section.wrong("zero", "0, 1 or 2").found(zero));
    }
    let bucket = section
        .number("bucket", 16.0, "a number of MiB from 0.0001 to 1024", |x| (0.0001..=1024.0).contains(&x))?;
    let shard_teacher = section.flag("shard_teacher", false)?;
    section.finish()?;
    Ok(Dist { timeout, zero, bucket, shard_teacher })
}

/// Where the rows of a policy's first update come from.
fn source(policy: &dyn Policy) -> policies::Source {
    policy.source(policies::Moment { step: 0, steps: 1, replay_full: false })
}

impl RunConfig {
    /// Whether a teacher is asked anything in a run of this policy: for its updates, or by held-out rows, which are shown to
    /// whatever teacher there is. One that nobody asks is not loaded.
    pub fn asks_teacher(&self, policy: &dyn Policy) -> bool {
        needs_teacher(policy) || !self.settings.data.valid.is_empty()
    }
}

/// Whether updates, or the rows they are made of, need a teacher.
fn needs_teacher(policy: &dyn Policy) -> bool {
    let plan = policy.plan();
    plan.teacher || plan.rollout || plan.corpus_teacher || needs_replies(&source(policy))
}

/// What settings of different tables must be to each other.
fn fitting(config: &RunConfig) -> Result<()> {
    let (settings, file) = (&config.settings, config.file.as_path());
    let plan = config.policy()?.plan();
    let source = source(config.policy()?.as_ref());
    let name = config.entry.name;
    if source == policies::Source::Corpus {
        if settings.data.corpus.is_empty() {
            return Err(missing(file, "data.corpus", &format!("files of text, which {name} packs")));
        }
    } else if settings.data.train.is_empty() {
        return Err(missing(file, "data.train", &format!("files of rows, which {name} trains on")));
    }
    if needs_teacher(config.policy()?.as_ref()) && settings.teacher.is_none() {
        return Err(missing(file, "teacher.model", &format!("a model folder: {name} has a teacher")));
    }
    super::teacher::check(config, &plan, &source)?;
    super::regime::check(config)?;
    if settings.student.lora.is_some() && matches!(settings.student.model, Origin::Config(_)) {
        return Err(located(file, "student.lora", config.place("student.lora"))
            .expected("a student.model with weights, which adapters leave as they are")
            .found("random weights"));
    }
    let s = &settings.sampling;
    if plan.unfiltered {
        for (key, off) in
            [("temperature", s.temperature != 1.0), ("top_k", s.top_k > 0), ("top_p", s.top_p < 1.0)]
        {
            if off {
                let full = format!("sampling.{key}");
                return Err(located(file, &full, config.place(&full))
                    .expected(format!("the default: {name} needs samples of the whole distribution"))
                    .found("another"));
            }
        }
    }
    if s.min_new_tokens > settings.data.max_response {
        let full = "sampling.min_new_tokens";
        return Err(located(file, full, config.place(full))
            .expected(format!("at most data.max_response, {}", settings.data.max_response))
            .found(s.min_new_tokens));
    }
    Ok(())
}

/// Whether a teacher's own replies may be asked for.
fn needs_replies(source: &policies::Source) -> bool {
    match source {
        policies::Source::Teacher | policies::Source::Mixed { .. } => true,
        policies::Source::Share(shares) => shares.iter().any(|(share, s)| *share > 0.0 && needs_replies(s)),
        _ => false,
    }
}
