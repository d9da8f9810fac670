//! The whole way: a teacher's folder and a text in, a student's folder out, whole or not at all.

use std::path::{Path, PathBuf};

use tch::{Device, Kind};

use super::card::Done;
use super::cut::{Kept, Student, write};
use super::importance::{Importance, Masks, Scores, Watches, largest, random};
use super::layers::{self, Rule};
use super::sample::{Amount, Sample};
use super::shape::{Layers, Sizes, Wish, sizes};
use super::vocabulary::{self, Bpe};
use crate::data::Example;
use crate::error::{Error, Result};
use crate::model::score::{check_finite, log_probabilities};
use crate::model::{CausalLm, LoadOptions, read_design};
use crate::signal;
use crate::store::{Staged, refuse_occupied};
use crate::text::{TemplateChoice, Tokenizer, eos_ids};
use crate::weights::{Dtype, ModelFiles, Residence};

/// All that is asked for.
#[derive(Debug, Clone)]
pub struct Job {
    /// The teacher's folder.
    pub model: PathBuf,
    /// What it is called.
    pub name: String,
    /// The text that importance is measured on.
    pub input: PathBuf,
    /// The folder to write.
    pub out: PathBuf,
    /// The student's sizes.
    pub wish: Wish,
    /// How importance is measured.
    pub importance: Importance,
    /// How layers are chosen where a number of them is asked for.
    pub rule: Rule,
    /// How much text is taken.
    pub amount: Amount,
    /// Sequences whose gradient is one.
    pub batch: usize,
    /// How rows become text.
    pub template: TemplateChoice,
    /// What is computed in.
    pub kind: Kind,
    /// Where.
    pub device: Device,
    /// What is written.
    pub dtype: Dtype,
}

/// Is told what is being done, how many steps of it are done, and of how many.
pub type Watch<'w> = dyn FnMut(&'static str, usize, usize) + 'w;

/// Does it.
pub fn prune(job: &Job, watch: &mut Watch<'_>) -> Result<Done> {
    refuse_occupied(&job.out)?;
    if job.wish == Wish::default() {
        return Err(Error::user("nothing to cut")
            .expected("one or more of --layers, --hidden, --heads, --ffn, --params, --vocab"));
    }
    let design = read_design(&job.model)?;
    let files = ModelFiles::read(&job.model.join("config.json"), &job.model)?;
    let tokenizer = Tokenizer::load(&job.model)?;
    let eos = eos_ids(&job.model, &tokenizer)?;
    let shape = design.shape();
    if job.amount.sequence as i64 > shape.context {
        return Err(Error::user("longer than the model's context")
            .field("--sequence")
            .expected(format!("at most {}", shape.context))
            .found(job.amount.sequence));
    }
    let wanted = sizes(design.as_ref(), files.config(), &job.wish, tokenizer.vocab_size() as i64)?;
    let bpe = job.wish.vocabulary.map(|_| Bpe::read(&files)).transpose()?;
    watch("reading the text", 0, 1);
    let sample = Sample::read(&job.input, &tokenizer, &eos, &job.template, job.amount)?;
    check_ids(&sample, shape.vocabulary, &job.input)?;
    let (files, tokens) = match &bpe {
        None => (files, (0..shape.vocabulary).collect()),
        Some(bpe) => {
            let named = vocabulary::named(&files, tokenizer.vocab_size());
            let room = (shape.vocabulary as usize, wanted.vocabulary as usize);
            let kept = bpe.choose(&tokenizer, &sample.used, &named, room)?;
            let files = vocabulary::cut_files(&files, bpe, &kept)?;
            (files, kept.into_iter().map(i64::from).collect())
        }
    };
    let measured = Measured::of(job, &wanted, &sample, watch)?;
    let kept = measured.kept(&wanted, tokens);
    let (params, after) = cut(job, &kept, files, (&tokenizer, &sample), watch)?;
    // The same text: of rows that a cut vocabulary makes too long, as much as the student is asked too.
    let before = Cost::of(&measured.costs, &after.lengths);
    let vocabulary = kept.tokens.len() as i64;
    let by_number = matches!(job.wish.layers, Some(Layers::Count(_)));
    let done = Done {
        teacher: job.name.clone(),
        input: job.input.display().to_string(),
        importance: if measured.scores.is_some() { job.importance.name() } else { "not needed" },
        samples: (sample.sequences.len(), job.amount.sequence),
        layer_rule: (by_number && wanted.layers < shape.layers).then(|| job.rule.name()),
        layer_scores: measured.layer_scores,
        layers: kept.layers.clone(),
        sizes: [Sizes::of(shape), Sizes { vocabulary, ..wanted }],
        params: [design.specs().iter().map(|spec| spec.numel()).sum(), params],
        perplexity: [before.perplexity(), after.cost.perplexity()],
        bits_per_byte: after.bytes.map(|bytes| [before.bits(bytes), after.cost.bits(bytes)]),
        tokens: [before.tokens, after.cost.tokens],
        held_out: sample.held != sample.sequences,
    };
    after.staged.folder().write_bytes("README.md", done.card().as_bytes())?;
    after.staged.commit()?;
    Ok(done)
}

/// Every token must have a row: a tokenizer of another model may say more.
fn check_ids(sample: &Sample, rows: i64, input: &Path) -> Result<()> {
    let all = sample.sequences.iter().chain(&sample.held).flat_map(|row| &row.ids);
    match all.into_iter().find(|id| i64::from(**id) >= rows) {
        None => Ok(()),
        Some(id) => Err(Error::data("a token that the model has no row for")
            .file(input)
            .expected(format!("an id below {rows}"))
            .found(id)
            .advice("is the tokenizer of another model?")),
    }
}

fn load(job: &Job, folder: &Path, check_finite: bool) -> Result<CausalLm> {
    CausalLm::load(folder, options(job, check_finite))
}

fn options(job: &Job, check_finite: bool) -> LoadOptions {
    LoadOptions { kind: job.kind, device: job.device, residence: Residence::Mapped, check_finite }
}

/// What was measured of the teacher.
struct Measured {
    costs: Vec<Vec<f64>>,
    layers: Vec<usize>,
    layer_scores: Option<Vec<f64>>,
    scores: Option<Scores>,
    all: Kept,
}

impl Measured {
    fn of(job: &Job, wanted: &Sizes, sample: &Sample, watch: &mut Watch<'_>) -> Result<Self> {
        let model = load(job, &job.model, true)?;
        let costs = costs(&model, &sample.held, "perplexity of the teacher", watch)?;
        let steps = layers::steps(&model, job.rule, &sample.sequences);
        let (layers, layer_scores) = {
            let mut done = counted("measuring layers", steps, watch);
            let wish = job.wish.layers.as_ref();
            layers::choose(&model, wish, job.rule, &sample.sequences, &mut done)?
        };
        let all = Kept::all(model.shape());
        let full = Sizes::of(model.shape());
        let needed = (wanted.hidden, wanted.heads, wanted.ffn) != (full.hidden, full.heads, full.ffn);
        drop(model);
        let scores = needed.then(|| scores(job, sample, watch)).transpose()?;
        Ok(Measured { costs, layers, layer_scores, scores, all })
    }

    /// The choice: the largest scores, in each layer as many.
    fn kept(&self, wanted: &Sizes, tokens: Vec<i64>) -> Kept {
        let Kept { hidden, groups, neurons, .. } = &self.all;
        let of = |all: &[Vec<i64>], scores: Option<&Vec<Vec<f64>>>, keep: i64| -> Vec<Vec<i64>> {
            let layer = |&layer: &usize| match scores {
                Some(scores) => largest(&scores[layer], keep as usize),
                None => all[layer].clone(),
            };
            self.layers.iter().map(layer).collect()
        };
        let scores = self.scores.as_ref();
        Kept {
            hidden: scores.map_or(hidden.clone(), |s| largest(&s.hidden, wanted.hidden as usize)),
            groups: of(groups, scores.map(|s| &s.groups), wanted.kv_heads),
            neurons: of(neurons, scores.map(|s| &s.neurons), wanted.ffn),
            layers: self.layers.clone(),
            tokens,
        }
    }
}

/// The scores by which heads, neurons and channels are chosen.
fn scores(job: &Job, sample: &Sample, watch: &mut Watch<'_>) -> Result<Scores> {
    let mut done = counted("measuring importance", sample.sequences.len(), watch);
    match job.importance {
        Importance::Random => Ok(random(read_design(&job.model)?.shape(), job.amount.seed)),
        Importance::Gradient => {
            let mut masks = None;
            let model = CausalLm::load_with(&job.model, options(job, false), |design, params| {
                masks = Some(Masks::attach(design, params, job.device)?);
                Ok(())
            })?;
            let masks = masks.ok_or_else(|| Error::bug("a model was made without its masks"))?;
            masks.score(&model, &sample.sequences, job.batch, &mut done)
        }
        Importance::Activation => {
            let mut watches = None;
            let model = CausalLm::load_with(&job.model, options(job, false), |design, params| {
                watches = Some(Watches::attach(design, params));
                Ok(())
            })?;
            let watches = watches.ok_or_else(|| Error::bug("a model was made without its watches"))?;
            watches.score(&model, &sample.sequences, &mut done)
        }
    }
}

/// A student written, and what held-out text costs it.
struct After {
    staged: Staged,
    cost: Cost,
    /// How many of the teacher's tokens of each held-out row that text has.
    lengths: Vec<usize>,
    /// Bytes of the text, where its tokens are others than before.
    bytes: Option<usize>,
}

fn cut(
    job: &Job,
    kept: &Kept,
    files: ModelFiles,
    (old, sample): (&Tokenizer, &Sample),
    watch: &mut Watch<'_>,
) -> Result<(i64, After)> {
    watch("writing the student", 0, 1);
    let kind = job.dtype.kind();
    let from = LoadOptions { kind, device: Device::Cpu, residence: Residence::Mapped, check_finite: false };
    let teacher = CausalLm::load(&job.model, from)?;
    let student = Student::of(&teacher, files.config(), kept)?;
    let params = student.parameters();
    let staged = Staged::create(&job.out)?;
    write(staged.folder(), &student, files, job.dtype)?;
    drop(student);
    let model = load(job, staged.folder().root(), true)?;
    let again = match job.wish.vocabulary {
        None => Again {
            lengths: sample.held.iter().map(Example::targets).collect(),
            rows: sample.held.clone(),
            bytes: None,
        },
        Some(_) => {
            let new = Tokenizer::load(staged.folder().root())?;
            let tokens: Vec<u32> = kept.tokens.iter().map(|&id| id as u32).collect();
            vocabulary::check(&new, old, &tokens)?;
            Again::of(&sample.held, old, &new, model.shape().context as usize)?
        }
    };
    let costs = costs(&model, &again.rows, "perplexity of the student", watch)?;
    let all: Vec<usize> = costs.iter().map(Vec::len).collect();
    let cost = Cost::of(&costs, &all);
    Ok((params, After { staged, cost, lengths: again.lengths, bytes: again.bytes }))
}

/// Held-out text in the student's tokens.
struct Again {
    rows: Vec<Example>,
    /// How many of the old tokens that count each row has.
    lengths: Vec<usize>,
    /// Bytes of what counts, where the tokens are others.
    bytes: Option<usize>,
}

impl Again {
    /// Of a row that has more tokens now than the context has room for, as much from its beginning as fits.
    fn of(rows: &[Example], old: &Tokenizer, new: &Tokenizer, context: usize) -> Result<Self> {
        let mut again = Again { rows: Vec::new(), lengths: Vec::new(), bytes: None };
        let mut bytes = 0;
        for row in rows {
            let (given, learnt) = row.ids.split_at(row.from.min(row.ids.len()));
            let given = new.encode(&old.decode(given, false)?, false)?;
            let mut length = learnt.len();
            let (text, more) = loop {
                let text = old.decode(&learnt[..length], false)?;
                let more = new.encode(&text, false)?;
                if length == 0 || given.len() + more.len() <= context {
                    break (text, more);
                }
                length -= 1;
            };
            if more.is_empty() || given.len() + more.len() > context {
                again.lengths.push(0);
                continue;
            }
            bytes += text.len();
            again.lengths.push(length);
            let from = given.len().max(1);
            again.rows.push(Example { ids: [given, more].concat(), from, ..Example::default() });
        }
        again.bytes = Some(bytes);
        Ok(again)
    }
}

/// What text costs a model.
#[derive(Debug, Clone, Copy)]
struct Cost {
    nats: f64,
    tokens: usize,
}

impl Cost {
    /// Of the first tokens of each row, as many as `lengths` say.
    fn of(costs: &[Vec<f64>], lengths: &[usize]) -> Self {
        let all = || costs.iter().zip(lengths).flat_map(|(row, &length)| row.iter().take(length));
        Cost { nats: all().sum(), tokens: all().count() }
    }

    fn perplexity(self) -> f64 {
        (self.nats / self.tokens.max(1) as f64).exp()
    }

    fn bits(self, bytes: usize) -> f64 {
        self.nats / std::f64::consts::LN_2 / bytes.max(1) as f64
    }
}

/// Minus log p of each token that counts, row by row.
fn costs(
    model: &CausalLm,
    rows: &[Example],
    what: &'static str,
    watch: &mut Watch<'_>,
) -> Result<Vec<Vec<f64>>> {
    let ids: Vec<&[u32]> = rows.iter().map(|row| row.ids.as_slice()).collect();
    let mut done = counted(what, rows.len(), watch);
    let scores = log_probabilities(model, &ids, &mut |n| {
        done(n);
        signal::check()
    })?;
    let cost = |(row, scores): (&Example, &Vec<f32>)| {
        let own = scores.get(row.from.max(1) - 1..).unwrap_or_default();
        check_finite(own, row.from)?;
        Ok(own.iter().map(|x| -f64::from(*x)).collect())
    };
    rows.iter().zip(&scores).map(cost).collect()
}

/// Counts steps for who watches.
fn counted<'a>(what: &'static str, total: usize, watch: &'a mut Watch<'_>) -> impl FnMut(usize) + 'a {
    let mut at = 0;
    move |n| {
        at += n;
        watch(what, at, total);
    }
}
