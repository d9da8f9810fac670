//! `--dry-run`: everything checked that a run would stumble over, and what it would take, with nothing
//! written.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use retort_policies::{Collection, Moment, Source};
use tch::{Device, Kind, Tensor};

use super::feed;
use super::keep::states_width;
use super::machine::{Replies, Shares, Sizes, share_of_memory};
use super::regime;
use super::sampled;
use super::setup::{Options, Parts};
use super::teacher::tokens_width;
use super::together::{holds_a_run, refuse};
use crate::checkpoint::RunDir;
use crate::config::{Keep, RunConfig};
use crate::data::{Corpus, Counts, Need, Preparation};
use crate::error::{Error, Result};
use crate::model::config::Shape;
use crate::optim::regime::Recipe;

/// The widest product that a processor's speed is measured with.
const WIDEST_CPU: i64 = 2048;

/// What a run would be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The run directory.
    pub out: PathBuf,
    /// Processes that train together.
    pub processes: usize,
    /// Parameters of the student.
    pub parameters: u64,
    /// Parameters of its adapters, which learn in its place.
    pub adapters: Option<u64>,
    /// Parameters of the teacher.
    pub teacher_parameters: Option<u64>,
    /// What becomes of the rows; none where there is no tokenizer.
    pub rows: Option<Counts>,
    /// What becomes of the held-out rows.
    pub valid: Option<Counts>,
    /// Updates.
    pub steps: Option<u64>,
    /// What the regime of a large batch makes of the settings, and the same in a line.
    pub regime: Option<(Recipe, String)>,
    /// Tokens that go through together, and whether blocks are computed twice.
    pub at_once: Option<(usize, bool)>,
    /// The most memory it would hold, in bytes: each of its processes.
    pub memory: Option<u64>,
    /// The memory of the device, or a process's share of it.
    pub total_memory: Option<u64>,
    /// How long it would take.
    pub time: Option<Duration>,
    /// What would be kept of the teacher.
    pub cache: Option<CacheSize>,
    /// What would be written, below the run directory.
    pub writes: Vec<String>,
    /// What is not there yet.
    pub missing: Vec<String>,
}

impl Plan {
    /// What is known of it before the rows are counted.
    fn of(config: &RunConfig, parts: &Parts, out: &Path, processes: usize) -> Plan {
        Plan {
            out: out.to_path_buf(),
            processes,
            parameters: parts.parameters,
            adapters: parts.adapters,
            teacher_parameters: parts.teacher.as_ref().map(|t| t.parameters),
            rows: None,
            valid: None,
            steps: None,
            regime: None,
            at_once: None,
            memory: None,
            total_memory: None,
            time: None,
            cache: None,
            writes: writes(config),
            missing: parts.missing.clone(),
        }
    }
}

/// How large what is kept of a teacher would be, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheSize {
    /// On the disk.
    pub disk: u64,
    /// In memory: its head, and the records of a batch.
    pub memory: u64,
}

/// The rows of a run, counted.
struct Rows {
    count: usize,
    longest: usize,
    /// Tokens that are learnt in an epoch.
    learnt: usize,
}

/// Checks a run and says what it would take.
pub fn plan(config: RunConfig, out: &Path, options: &Options) -> Result<Plan> {
    plan_of(config, out, options, (1, 1))
}

/// The same of a run of so many processes, and so many of them on a machine.
pub fn plan_of(
    config: RunConfig,
    out: &Path,
    options: &Options,
    (processes, local): (usize, usize),
) -> Result<Plan> {
    super::trainable(options.kind, options.device)?;
    refuse(&config, processes)?;
    if RunDir::is_run(out) && !options.resume {
        return Err(holds_a_run(out));
    }
    let parts = Parts::check(&config)?;
    let mut plan = Plan::of(&config, &parts, out, processes);
    plan.total_memory = share_of_memory(options.device, local);
    let Some(Rows { count: rows, longest, learnt }) = rows(&config, &parts, &mut plan)? else {
        return Ok(plan);
    };
    let train = &config.settings.train;
    let batch = train.batch.min(rows);
    let scaled = regime::scaled(&config, &config.policy()?.plan(), rows, batch)?;
    let steps = scaled.steps;
    plan.regime = scaled.recipe.zip(scaled.says());
    let size = options.kind.elt_size_in_bytes() as u64;
    let asks = config.asks_teacher(config.policy()?.as_ref());
    let asked = parts.teacher.as_ref().filter(|_| asks);
    let sizes = Sizes {
        student: parts.shape.clone(),
        parameters: parts.parameters,
        teacher: asked.map(|t| (t.shape.clone(), t.held(&config, processes) * size)),
        shares: Shares::of(&config, processes),
        keep: config.settings.cache.keep,
        kind: options.kind,
        device: options.device,
        vocabulary: parts.vocabulary as u64,
        longest,
        replies: replies(&config, &parts, batch, processes)?,
        adapters: parts.adapters,
    };
    let cutting = sizes.cutting(train, plan.total_memory);
    let tokens = sizes.at_once(cutting.cut, batch.div_ceil(processes));
    let memory = sizes.peak(tokens, cutting.recompute);
    match fits(memory, plan.total_memory) {
        // Without weights nothing can begin here, and this need not be the machine where it will.
        Err(_) if parts.bare => plan.missing.push("memory: it takes more than this machine has".into()),
        fitting => fitting?,
    }
    plan.steps = Some(steps);
    plan.at_once = Some((tokens, cutting.recompute));
    plan.memory = Some(memory);
    let per_epoch = plan.rows.map_or(0, |c| c.tokens) as f64;
    let per_update = per_epoch * batch as f64 / rows.max(1) as f64;
    plan.cache = cache_size(&config, &sizes, learnt, plan.valid, tokens);
    let (student, teacher) = work_of_token(&parts, cutting.recompute);
    // A teacher that is kept is asked once.
    let asked = if plan.cache.is_some() { per_epoch } else { steps as f64 * per_update };
    let work = steps as f64 * per_update * student + asked * teacher;
    let speed = speed((parts.shape.hidden, parts.shape.ffn), options)?;
    plan.time = Some(Duration::from_secs_f64(work / processes as f64 / speed));
    Ok(plan)
}

/// Refuses a run that would hold more than there is.
fn fits(memory: u64, total: Option<u64>) -> Result<()> {
    let Some(total) = total.filter(|total| memory > *total) else { return Ok(()) };
    Err(Error::user("the run does not fit the memory")
        .expected(format!("at most {} MiB", total >> 20))
        .found(format!("about {} MiB", memory >> 20))
        .advice("try a smaller train.micro_batch, train.recompute = true, --dtype bf16, or shorter rows"))
}

/// What the teacher's cache would take.
fn cache_size(
    config: &RunConfig,
    sizes: &Sizes,
    learnt: usize,
    valid: Option<Counts>,
    tokens: usize,
) -> Option<CacheSize> {
    let (shape, _) = sizes.teacher.as_ref()?;
    let states = states_width(shape.head_input, sizes.kind);
    let width = match config.settings.cache.keep {
        Keep::None => return None,
        Keep::States => states,
        Keep::Tokens => tokens_width(config.settings.cache.draws),
    };
    let held = valid.map_or(0, |counts| counts.learnt * states);
    Some(CacheSize { disk: (learnt * width + held) as u64, memory: sizes.kept(shape, tokens) })
}

/// The rows an epoch has and the longest of them, counted into the plan; none without a tokenizer.
fn rows(config: &RunConfig, parts: &Parts, plan: &mut Plan) -> Result<Option<Rows>> {
    let Some(tokenizer) = &parts.tokenizer else { return Ok(None) };
    let data = &config.settings.data;
    let policy = config.policy()?;
    let source = policy.source(Moment { step: 0, steps: 1, replay_full: false });
    let template = feed::template(config)?;
    let limits = parts.limits(config);
    let rejects = data.skip_invalid.then_some(Path::new("/dev/null"));
    let (answered, asked) = sampled::apart(&data.valid)?;
    let preparation = |files, need| Preparation {
        files,
        tokenizer,
        template: &template,
        eos: parts.end(),
        limits,
        context: parts.context,
        vocabulary: parts.vocabulary,
        need,
        learn: data.learn,
        rejects,
    };
    if !data.valid.is_empty() {
        let counted = preparation(&answered, Need::Responses).count()?.0;
        plan.valid = Some(counted.and(preparation(&asked, Need::Prompts).count()?.0));
    }
    if source == Source::Corpus {
        feed::check_sequence(config, parts.context)?;
        let corpus = Corpus { files: &data.corpus, tokenizer, eos: parts.end() };
        let (counts, _) = corpus.count()?;
        plan.rows = Some(counts);
        let longest = data.sequence + usize::from(corpus.bos().is_some());
        let count = counts.tokens.div_ceil(data.sequence);
        return Ok(Some(Rows { count, longest, learnt: count * (longest - 1) }));
    }
    let (mut counts, mut longest) = preparation(&data.train, feed::need(&source)).count()?;
    if source == Source::Teacher || feed::samples(&source) {
        // Replies are counted as long as they may get.
        longest += limits.response;
        counts.tokens += counts.rows * limits.response;
        counts.learnt = counts.rows * limits.response;
    }
    plan.rows = Some(counts);
    Ok(Some(Rows { count: counts.rows, longest, learnt: counts.learnt }))
}

/// Replies that are sampled, in evaluations and to learn from.
fn replies(config: &RunConfig, parts: &Parts, batch: usize, processes: usize) -> Result<Replies> {
    let settings = &config.settings;
    let evaluated = !settings.data.valid.is_empty() && settings.train.eval_every > 0;
    let mut together =
        if evaluated { settings.eval.prompts.div_ceil(processes).min(sampled::TOGETHER) } else { 0 };
    let policy = config.policy()?;
    let (plan, source) = (policy.plan(), policy.source(Moment { step: 0, steps: 1, replay_full: false }));
    let rows = match plan.collection {
        Collection::Rows(rows) => rows,
        Collection::Batch => batch,
    };
    if feed::samples(&source) {
        together = together.max(rows.div_ceil(processes).min(crate::rollout::TOGETHER_CPU));
    }
    Ok(Replies {
        together: together as u64,
        limits: parts.limits(config),
        mixed: matches!(source, Source::Mixed { .. }),
        kept: if plan.rollout && plan.teacher { rows as u64 } else { 0 },
    })
}

fn writes(config: &RunConfig) -> Vec<String> {
    let mut all =
        vec!["config.toml", "metrics.jsonl", "cache/", "checkpoints/step-N/", "final/", "report.html"];
    if !config.settings.data.valid.is_empty() && config.settings.train.eval_every > 0 {
        all.push("best/");
        if config.settings.eval.prompts > 0 {
            all.push("samples.jsonl");
        }
    }
    all.into_iter().map(String::from).collect()
}

/// Floating-point operations of a token, of the student and of the teacher: two a parameter and pass; forward,
/// backward by states and by weights, once more where blocks are computed twice; the teacher forward alone.
fn work_of_token(parts: &Parts, recompute: bool) -> (f64, f64) {
    let more = if recompute { 1.0 } else { 0.0 };
    let own = products(&parts.shape, parts.parameters);
    let student = match parts.adapters {
        // What does not learn is not multiplied with by its gradient.
        Some(adapters) => 2.0 * ((2.0 + more) * own + (3.0 + more) * adapters as f64),
        None => 2.0 * (3.0 + more) * own,
    };
    (student, parts.teacher.as_ref().map_or(0.0, |t| 2.0 * products(&t.shape, t.parameters)))
}

/// Parameters that a token is multiplied with: an embedding that is only looked up is not.
fn products(shape: &Shape, parameters: u64) -> f64 {
    let looked_up = if shape.tied { 0 } else { shape.vocabulary * shape.hidden };
    parameters as f64 - looked_up as f64
}

/// Operations a second, measured on one product of these two widths, and half of it taken: what is not a
/// product is guessed to take as long again. `training::the_time_is_predicted_beside_the_truth` prints what was
/// predicted and what it took; nothing holds the one to the other.
pub fn speed((d, f): (i64, i64), options: &Options) -> Result<f64> {
    let rows = 256;
    // A processor multiplies wider matrices no faster, and those of a large model take seconds to fill.
    let widest = if options.device == Device::Cpu { WIDEST_CPU } else { i64::MAX };
    let (d, f) = (d.min(widest), f.min(widest));
    let of = |a: i64, b: i64| Tensor::f_full([a, b], 0.01, (options.kind, options.device));
    let (x, w) = (of(rows, d)?, of(f, d)?);
    let product = || -> Result<()> {
        let y = x.f_matmul(&w.f_transpose(0, 1)?)?;
        if options.device != Device::Cpu {
            let _waits = y.f_sum(None::<Kind>)?.f_double_value(&[])?;
        }
        Ok(())
    };
    product()?;
    let (begun, mut done) = (Instant::now(), 0.0);
    while begun.elapsed() < Duration::from_millis(100) {
        product()?;
        done += 2.0 * (rows * d * f) as f64;
    }
    Ok(0.5 * done / begun.elapsed().as_secs_f64())
}
