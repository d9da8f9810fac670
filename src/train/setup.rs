//! What a run is made from: the models, the tokenizer that both share, the files that go beside the weights.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use retort_policies::Policy;
use tch::{Device, Kind};

use super::adapters::{self, Adapted};
use super::feed::Feed;
use super::lent;
use super::machine::{Cutting, Replies, Shares, Sizes, share_of_memory};
use super::regime::Scaled;
use super::split::Split;
use super::teacher::Teacher;
use crate::checkpoint::{Checkpoint, ModelFiles, RunDir};
use crate::config::{Keep, Origin, RunConfig};
use crate::data::Limits;
use crate::dist::World;
use crate::error::{Error, Result};
use crate::model::config::Shape;
use crate::model::{CausalLm, Design, LoadOptions, read_config, read_design};
use crate::text::{Tokenizer, eos_ids, turn_end};
use crate::weights::{Dtype, Residence, WeightFiles, locate};

/// What the command line says of a run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Where to compute.
    pub device: Device,
    /// In what.
    pub kind: Kind,
    /// The type that the result is written in.
    pub write: Dtype,
    /// Whether a run that is there goes on.
    pub resume: bool,
}

impl Options {
    /// The facts that `config.toml` in the run directory carries.
    pub(super) fn facts(&self, scaled: &Scaled) -> Vec<(&'static str, String)> {
        let mut facts = vec![
            ("version", env!("CARGO_PKG_VERSION").into()),
            ("commit", env!("RETORT_COMMIT").into()),
            ("libtorch", crate::native::torch_version()),
            ("device", device_name(self.device)),
            ("dtype", kind_name(self.kind).into()),
            ("threads", tch::get_num_threads().to_string()),
        ];
        if let Some(text) = scaled.says() {
            facts.extend([("regime", text), ("updates", scaled.steps.to_string())]);
        }
        facts
    }
}

/// A device as `--device` has it.
fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(n) => format!("cuda:{n}"),
        Device::Cpu => "cpu".into(),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// A float type as `--dtype` has it.
fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::BFloat16 => "bf16",
        Kind::Half => "f16",
        _ => "f32",
    }
}

/// That a run directory's own config is of the same run, where it goes on.
pub fn same_run(config: &RunConfig, dir: &RunDir, goes_on: bool) -> Result<()> {
    let file = dir.path().join("config.toml");
    if !goes_on || !file.exists() {
        return Ok(());
    }
    let before = RunConfig::load(&file, &[])?;
    match config.differs(&before)? {
        None => Ok(()),
        Some(key) => Err(Error::user("the run was begun with another setting")
            .file(&file)
            .field(key)
            .advice("set it as it was to go on, or begin a new run with another --out")),
    }
}

/// All that a run is made from.
#[derive(Debug)]
pub struct Material {
    /// The model that learns.
    pub student: CausalLm,
    /// The model that teaches.
    pub teacher: Option<Teacher>,
    /// The student's tokenizer.
    pub tokenizer: Tokenizer,
    /// The ids that end a reply.
    pub eos: Vec<u32>,
    /// The tokens that both models have: ids below this.
    pub vocabulary: usize,
    /// The shorter of the models' contexts.
    pub context: usize,
    /// What is written beside the student's weights.
    pub files: ModelFiles,
    /// The adapters that learn in the student's place.
    pub(super) adapted: Option<Adapted>,
    /// The processes that train it together.
    pub(super) world: Rc<World>,
    /// What each of them holds.
    pub(super) split: Option<Split>,
}

impl Material {
    /// Loads it; a student that was saved is taken from `saved`.
    pub fn load(config: &RunConfig, options: &Options, saved: Option<&Checkpoint>) -> Result<Self> {
        super::trainable(options.kind, options.device)?;
        let teacher = config.settings.teacher.as_deref().map(locate::model_folder);
        let teacher = teacher.transpose().map_err(|e| config.blame("teacher.model", e))?;
        let place = Place::of(config, teacher.as_deref())?;
        let tokenizer = Tokenizer::load(&place.tokenizer)?;
        if let Some(folder) = &teacher
            && let Some(warning) = tokenizer.agree(&Tokenizer::load(folder)?)?
        {
            tracing::warn!("{warning}");
        }
        let eos = eos_ids(&place.tokenizer, &tokenizer)?;
        let teacher = teacher.map(|folder| Teacher::of(folder, options)).transpose()?;
        let (student, adapted) = match (saved, &config.settings.student.model) {
            _ if config.settings.student.lora.is_some() => {
                adapters::load(config, &place.folder, options, saved)?
            }
            (Some(saved), _) => (load(&saved.path, options, Residence::Trained)?, None),
            (None, Origin::Config(file)) => {
                let (kind, device) = (options.kind, options.device);
                (CausalLm::random(read_config(file)?, config.settings.seed, kind, device)?, None)
            }
            (None, Origin::Folder(_)) => (load(&place.folder, options, Residence::Trained)?, None),
        };
        let shapes = || std::iter::once(student.shape()).chain(teacher.iter().map(Teacher::shape));
        let rows = shapes().map(|s| s.vocabulary as usize).min().unwrap_or(0);
        let context = shapes().map(|s| s.context as usize).min().unwrap_or(0);
        for shape in shapes() {
            if shape.vocabulary as usize > tokenizer.vocab_size() {
                tracing::info!(
                    "{} has {} rows for {} tokens: the rest is cut off in every loss",
                    shape.model_type,
                    shape.vocabulary,
                    tokenizer.vocab_size()
                );
            }
        }
        let files = ModelFiles::read(&place.config, &place.tokenizer)?;
        let vocabulary = tokenizer.vocab_size().min(rows);
        let world = Rc::new(World::alone());
        let split = None;
        Ok(Material { student, teacher, eos, vocabulary, context, files, tokenizer, adapted, world, split })
    }

    /// What goes behind a response.
    pub fn end(&self) -> Option<u32> {
        turn_end(&self.eos, &self.tokenizer)
    }

    /// Loads the teacher now where every update asks it.
    pub fn bring_teacher(&self, config: &RunConfig, policy: &dyn Policy) -> Result<()> {
        let plan = policy.plan();
        let asked = config.settings.cache.keep == Keep::None && (plan.teacher || plan.corpus_teacher);
        self.teacher.as_ref().filter(|_| asked).map_or(Ok(()), |teacher| teacher.body().map(|_| ()))
    }

    /// The whole teacher, where there is one.
    pub fn teacher_model(&self) -> Result<Option<&CausalLm>> {
        self.teacher.as_ref().map(Teacher::body).transpose()
    }

    /// The longest parts of a row, within what both models can read.
    pub fn limits(&self, config: &RunConfig) -> Limits {
        limits(config, self.context)
    }

    /// How updates are cut on this machine.
    pub fn cutting(&self, config: &RunConfig, feed: &Feed, policy: &dyn Policy) -> Cutting {
        let student = &self.student;
        let kind = student.kind();
        let numbers =
            |model: &CausalLm| model.params().compute().iter().map(|t| t.numel() as u64).sum::<u64>();
        let teacher = self.teacher.as_ref().filter(|_| config.asks_teacher(policy));
        let ranks = self.world.size();
        let sizes = Sizes {
            student: student.shape().clone(),
            parameters: numbers(student),
            teacher: teacher
                .map(|t| (t.shape().clone(), t.held(config, ranks) * kind.elt_size_in_bytes() as u64)),
            shares: Shares::of(config, ranks),
            keep: config.settings.cache.keep,
            kind,
            device: student.device(),
            vocabulary: self.vocabulary as u64,
            longest: feed.longest(),
            // What is sampled is not cut: its memory is free again before the next update.
            replies: Replies::NONE,
            adapters: self
                .adapted
                .as_ref()
                .map(|a| a.learnt().compute().iter().map(|t| t.numel() as u64).sum()),
        };
        let total = share_of_memory(sizes.device, self.world.local_size());
        sizes.cutting(&config.settings.train, total)
    }
}

/// The longest parts of a row, within a context.
fn limits(config: &RunConfig, context: usize) -> Limits {
    let data = &config.settings.data;
    let wanted = Limits { prompt: data.max_prompt, response: data.max_response };
    let limits = wanted.within(context);
    if limits != wanted {
        tracing::warn!(
            "the context of {context} tokens leaves {} for prompts and {} for responses",
            limits.prompt,
            limits.response
        );
    }
    limits
}

fn load(folder: &Path, options: &Options, residence: Residence) -> Result<CausalLm> {
    let options = LoadOptions { kind: options.kind, device: options.device, residence, check_finite: true };
    CausalLm::load(folder, options)
}

/// What a run would be made from, checked without room for any of it.
#[derive(Debug)]
pub struct Parts {
    /// The student.
    pub shape: Shape,
    /// Its parameters.
    pub parameters: u64,
    /// Those of its adapters.
    pub adapters: Option<u64>,
    /// The teacher.
    pub teacher: Option<Counted>,
    /// The student's tokenizer, where there is one.
    pub tokenizer: Option<Tokenizer>,
    eos: Vec<u32>,
    /// The tokens that both models have.
    pub vocabulary: usize,
    /// The shorter context.
    pub context: usize,
    /// What is not there yet.
    pub missing: Vec<String>,
    /// Whether a folder has no weights yet: a plan for another day, or another machine.
    pub bare: bool,
}

/// A model that was looked at.
#[derive(Debug)]
pub struct Counted {
    /// Its sizes.
    pub shape: Shape,
    /// Its parameters.
    pub parameters: u64,
    /// Those of them that are in blocks.
    pub in_blocks: u64,
    /// Whether its folder has no weights, and what is known of it is its config.json.
    bare: bool,
}

impl Counted {
    /// How many of its parameters each of so many processes holds.
    pub fn held(&self, config: &RunConfig, ranks: usize) -> u64 {
        lent::held_of(config, (self.parameters, self.in_blocks), self.shape.layers, ranks)
    }
}

impl Parts {
    /// Checks everything: folders, every weight that is there, tokenizers, vocabularies.
    pub fn check(config: &RunConfig) -> Result<Self> {
        let folder = config.settings.teacher.as_deref().map(locate::model_folder);
        let folder = folder.transpose().map_err(|e| config.blame("teacher.model", e))?;
        let (mut missing, mut adapters) = (Vec::new(), None);
        let (student, place) = match (&config.settings.student.model, Place::of(config, folder.as_deref())) {
            (Origin::Folder(_), place) => {
                let place = place?;
                adapters = adapters::parameters(config, &place.folder)?;
                (counted(&place.folder)?, Some(place.tokenizer))
            }
            (Origin::Config(file), place) => {
                missing.push("the student's weights: they would be random".to_string());
                let place = place.ok().map(|p| p.tokenizer);
                if place.is_none() {
                    missing.push(format!("a tokenizer beside {}, or a teacher's", file.display()));
                }
                let design = read_config(file)?;
                let (parameters, in_blocks) = parameters(design.as_ref());
                (Counted { shape: design.shape().clone(), parameters, in_blocks, bare: false }, place)
            }
        };
        let tokenizer = place.as_deref().map(Tokenizer::load).transpose()?;
        let teacher = folder.as_deref().map(counted).transpose()?;
        let bare = |model: &Counted, whose: &str| model.bare.then(|| format!("the {whose}'s weights"));
        let weights = [bare(&student, "student"), teacher.as_ref().and_then(|t| bare(t, "teacher"))];
        missing.extend(weights.into_iter().flatten());
        if let (Some(own), Some(folder)) = (&tokenizer, &folder)
            && let Some(warning) = own.agree(&Tokenizer::load(folder)?)?
        {
            tracing::warn!("{warning}");
        }
        let eos = match (&place, &tokenizer) {
            (Some(folder), Some(tokenizer)) => eos_ids(folder, tokenizer)?,
            _ => Vec::new(),
        };
        let shapes = || std::iter::once(&student.shape).chain(teacher.iter().map(|t| &t.shape));
        let rows = shapes().map(|s| s.vocabulary as usize).min().unwrap_or(0);
        let context = shapes().map(|s| s.context as usize).min().unwrap_or(0);
        let vocabulary = tokenizer.as_ref().map_or(rows, |t| t.vocab_size().min(rows));
        let bare = student.bare || teacher.as_ref().is_some_and(|t| t.bare);
        let Counted { shape, parameters, .. } = student;
        Ok(Parts { shape, parameters, adapters, teacher, tokenizer, eos, vocabulary, context, missing, bare })
    }

    /// What goes behind a response.
    pub fn end(&self) -> Option<u32> {
        self.tokenizer.as_ref().and_then(|t| turn_end(&self.eos, t))
    }

    /// The longest parts of a row.
    pub fn limits(&self, config: &RunConfig) -> Limits {
        limits(config, self.context)
    }
}

/// Looks at every weight of a folder, or at its config.json alone where it has none yet.
fn counted(folder: &Path) -> Result<Counted> {
    let design = read_design(folder)?;
    let shape = design.shape().clone();
    if WeightFiles::are_missing(folder) {
        let (parameters, in_blocks) = parameters(design.as_ref());
        return Ok(Counted { parameters, in_blocks, shape, bare: true });
    }
    let files = WeightFiles::open(folder)?;
    let plan = files.plan(&design.naming(), design.specs(), shape.tied)?;
    plan.check_finite()?;
    let (_, in_blocks) = parameters(design.as_ref());
    Ok(Counted { parameters: plan.parameters() as u64, in_blocks, shape, bare: false })
}

/// The numbers of a model that a config.json describes, and those of them that are in blocks.
fn parameters(design: &dyn Design) -> (u64, u64) {
    let specs = design.specs();
    let (inside, outside) = lent::counted(specs.iter().map(|s| (s.name.as_str(), s.numel() as u64)));
    (inside + outside, inside)
}

/// Where a student's parts are.
struct Place {
    folder: PathBuf,
    config: PathBuf,
    tokenizer: PathBuf,
}

impl Place {
    fn of(config: &RunConfig, teacher: Option<&Path>) -> Result<Self> {
        match &config.settings.student.model {
            Origin::Folder(name) => {
                let folder = locate::model_folder(name).map_err(|e| config.blame("student.model", e))?;
                Ok(Place { config: folder.join("config.json"), tokenizer: folder.clone(), folder })
            }
            Origin::Config(file) => {
                let beside = file.parent().filter(|p| !p.as_os_str().is_empty());
                let folder = beside.unwrap_or(Path::new(".")).to_path_buf();
                let own = ["tokenizer.json", "vocab.json"].iter().any(|name| folder.join(name).exists());
                let tokenizer = match (own, teacher) {
                    (true, _) => folder.clone(),
                    (false, Some(teacher)) => teacher.to_path_buf(),
                    (false, None) => {
                        let e = Error::user("a student without a tokenizer").file(file);
                        return Err(
                            e.advice("put a tokenizer.json beside its config.json, or name a teacher")
                        );
                    }
                };
                Ok(Place { config: file.clone(), tokenizer, folder })
            }
        }
    }
}
