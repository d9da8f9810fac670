//! What a teacher says of fixed rows, made once and kept for all epochs.
//!
//! The rows go through the teacher in the micro-batches in which the run's first epoch takes them, so that a
//! first epoch that reads its states from the file computes on the same bits as one that asks the teacher.
//! Later epochs group the rows in other ways, in which a product may round otherwise.

use std::path::PathBuf;

use retort_policies::Policy;
use retort_policies::objective::draws;
use retort_policies::objective::input::Side;
use tch::{Device, Kind, Tensor};

use super::Watch;
use super::batch::Micro;
use super::evaluate::Evaluation;
use super::feed::Feed;
use super::kept::{Found, Identity, Kept, Writer};
use super::replies::model_identity;
use super::setup::Material;
use super::teacher::{Record, Teacher, state_bytes, token_bytes, tokens_width};
use super::update::states;
use crate::checkpoint::RunDir;
use crate::config::{Keep, RunConfig};
use crate::data::sampler::Cut;
use crate::data::{Example, by_length};
use crate::error::{Error, Result};
use crate::seed::{Stream, uniform};
use crate::signal;
use crate::store::{Folder, remove_leftovers};

/// All that the keeping needs of a run.
pub struct Keeping<'a> {
    /// Its settings.
    pub config: &'a RunConfig,
    /// Where it is.
    pub dir: &'a RunDir,
    /// How its updates are cut.
    pub cut: Cut,
    /// What is trained on.
    pub policy: &'a dyn Policy,
}

/// One file: which rows, what of them.
struct Job<'a> {
    what: &'static str,
    path: PathBuf,
    identity: Identity,
    width: usize,
    /// Tokens to be drawn; none where states are kept.
    draws: Option<usize>,
    seed: u64,
    vocabulary: i64,
    teacher: &'a Teacher,
    rows: usize,
}

/// Keeps what the config asks for, and lets the teacher's body go. Nothing where it asks for nothing.
pub fn keep(
    run: &Keeping<'_>,
    material: &mut Material,
    feed: &mut Feed,
    evaluation: &Evaluation,
    watch: &mut dyn Watch,
) -> Result<()> {
    let cache = &run.config.settings.cache;
    if cache.keep == Keep::None || !run.policy.plan().teacher {
        return Ok(());
    }
    let Some(teacher) = &material.teacher else { return Ok(()) };
    let own = run.dir.path().join("cache");
    let folder = Folder::create(cache.folder.clone().unwrap_or(own))?;
    let weights = model_identity(teacher.folder())?;
    let draws = (cache.keep == Keep::Tokens).then_some(cache.draws);
    let job = |what, name: &str, rows: (usize, String), draws| -> Result<Job<'_>> {
        let (identity, width) = identity(run.config, material, teacher, (&weights, rows.1), draws);
        let (path, vocabulary) = (folder.path(name)?, material.vocabulary as i64);
        let seed = run.config.settings.seed;
        Ok(Job { what, path, identity, width, draws, seed, vocabulary, teacher, rows: rows.0 })
    };
    let name = format!("teacher.{}", cache.keep.name());
    let rows = job("what the teacher says", &name, (feed.rows(), feed.identity()), draws)?;
    let trained = rows.run(run, &folder, &mut |job, writer| job.trained(writer, feed, run.cut, watch))?;
    let held = match evaluation.rows() {
        Some(file) => {
            let of = (file.rows(), file.fingerprint().to_string());
            let rows = job("what the teacher says of held-out rows", "teacher-held.states", of, None)?;
            Some(rows.run(run, &folder, &mut |job, writer| job.held(writer, evaluation, run.cut, watch))?)
        }
        None => None,
    };
    match &mut material.teacher {
        Some(teacher) => teacher.rely_on(Some(trained), held),
        None => Ok(()),
    }
}

/// What a file depends on, and the bytes of a record.
fn identity(
    config: &RunConfig,
    material: &Material,
    teacher: &Teacher,
    (weights, rows): (&str, String),
    draws: Option<usize>,
) -> (Identity, usize) {
    let (kind, device) = teacher.computes();
    let place = if device == Device::Cpu { "cpu" } else { "gpu" };
    let (how, width) = match draws {
        None => (format!("states, {kind:?}, {place}"), states_width(teacher.shape().head_input, kind)),
        Some(draws) => (
            format!(
                "{draws} tokens of {}, {kind:?}, {place}, seed {}",
                material.vocabulary, config.settings.seed
            ),
            tokens_width(draws),
        ),
    };
    (Identity { teacher: weights.to_string(), rows, how }, width)
}

/// Bytes of the record of a position whose states are kept.
pub fn states_width(channels: i64, kind: Kind) -> usize {
    channels.max(0) as usize * kind.elt_size_in_bytes()
}

type Fill<'f> = dyn FnMut(&Job<'_>, &mut Writer) -> Result<()> + 'f;

impl Job<'_> {
    /// The file, made where it is not there.
    fn run(&self, run: &Keeping<'_>, folder: &Folder, fill: &mut Fill<'_>) -> Result<Record> {
        if let Some(kept) = self.look(run)? {
            tracing::info!("{} was kept before: {}", self.what, self.path.display());
            return Ok(Record::of(kept, self.draws));
        }
        // A run holds its own directory; a folder that runs share is held while something is made in it.
        let shared = run.config.settings.cache.folder.is_some();
        let _lock = if shared { Some(folder.lock()?) } else { None };
        if shared {
            remove_leftovers(folder.root())?;
        }
        let mut writer = Writer::create(&self.path, self.rows, self.width)?;
        fill(self, &mut writer)?;
        writer.finish(&self.identity)?;
        let made =
            self.look(run)?.ok_or_else(|| Error::bug("a cache cannot be read again").file(&self.path))?;
        Ok(Record::of(made, self.draws))
    }

    /// The file where it is there and of this; another one in a folder that the user named is refused.
    fn look(&self, run: &Keeping<'_>) -> Result<Option<Kept>> {
        match Kept::open(&self.path, &self.identity, self.width)? {
            Found::Whole(kept) => Ok(Some(kept)),
            Found::Other(what) if run.config.settings.cache.folder.is_some() => {
                let e = Error::user("a teacher's cache is not of this run").file(&self.path);
                let e = e.expected("the same teacher, rows and settings").found(what);
                let e = e.advice("name another teacher.cache_dir, or remove the file");
                Err(run.config.blame("teacher.cache_dir", e))
            }
            Found::Other(what) => {
                tracing::info!("{} is made anew: what is there is of {what}", self.what);
                Ok(None)
            }
            Found::Nothing => Ok(None),
        }
    }

    /// Goes through the first epoch as the run will.
    fn trained(&self, writer: &mut Writer, feed: &mut Feed, cut: Cut, watch: &mut dyn Watch) -> Result<()> {
        feed.seek(0);
        for done in 1..=self.rows.div_ceil(feed.batch().max(1)) {
            let batch = feed.next_batch();
            let lengths: Vec<usize> = batch.examples.iter().map(|e| e.ids.len()).collect();
            for group in by_length(&lengths, cut) {
                signal::check()?;
                let examples: Vec<&Example> = group.iter().map(|&at| &batch.examples[at]).collect();
                let numbers: Vec<u64> = group.iter().map(|&at| batch.numbers[at]).collect();
                self.ask(writer, &Micro::of(&examples, self.teacher.computes().1)?, &numbers)?;
            }
            watch.preparing(self.what, (done * feed.batch()).min(self.rows), self.rows);
        }
        feed.seek(0);
        Ok(())
    }

    /// Goes through the held-out rows as an evaluation does.
    fn held(
        &self,
        writer: &mut Writer,
        evaluation: &Evaluation,
        cut: Cut,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        let mut done = 0;
        evaluation.each(self.teacher.computes().1, cut, &mut |micro, numbers| {
            done += numbers.len();
            watch.preparing(self.what, done, self.rows);
            self.ask(writer, micro, numbers)
        })
    }

    /// Asks the teacher, and writes of the rows what is not yet written: the last batch of an epoch may begin
    /// the next one.
    fn ask(&self, writer: &mut Writer, micro: &Micro, numbers: &[u64]) -> Result<()> {
        let model = self.teacher.body()?;
        let states_nd = states(model, micro)?;
        let bytes = match self.draws {
            None => state_bytes(&states_nd)?,
            Some(draws) => {
                let side = Side::Hidden { hidden_nd: &states_nd, head: self.teacher.head()? };
                let points_nk = points(self.seed, draws, &micro.lengths, numbers)?;
                let points_nk = points_nk.f_to_device(states_nd.device())?;
                let (ids_nk, log_n) = draws::draw(&side, self.vocabulary, &points_nk)?;
                let ids = Vec::<i64>::try_from(ids_nk.f_to_device(Device::Cpu)?.f_view([-1])?)?;
                let logs = log_n.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?;
                token_bytes(&ids, &Vec::<f32>::try_from(logs)?, draws)
            }
        };
        let mut at = 0;
        for (&row, &length) in numbers.iter().zip(&micro.lengths) {
            let end = at + length * self.width;
            if !writer.has(row as usize) {
                writer.add(row as usize, &bytes[at..end])?;
            }
            at = end;
        }
        Ok(())
    }
}

/// Where tokens are drawn: of K points of a position the k-th is even in [k/K, (k+1)/K), and depends on the
/// row's number and the position in it alone.
fn points(seed: u64, draws: usize, lengths: &[usize], numbers: &[u64]) -> Result<Tensor> {
    let mut points = Vec::with_capacity(lengths.iter().sum::<usize>() * draws);
    for (&length, &row) in lengths.iter().zip(numbers) {
        for at in 0..(length * draws) as u64 {
            let k = at % draws as u64;
            points.push((k as f64 + uniform(seed, Stream::Draws, row, at)) / draws as f64);
        }
    }
    Ok(Tensor::f_from_slice(&points)?.f_view([-1, draws as i64])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A position's points do not depend on what stands beside it, and each is even in its own part.
    #[test]
    fn points_are_of_their_row_and_place() {
        let of = |lengths: &[usize], numbers: &[u64]| -> Vec<f64> {
            points(7, 4, lengths, numbers).unwrap().flatten(0, 1).try_into().unwrap()
        };
        let together = of(&[2, 3], &[5, 9]);
        assert_eq!(together, [of(&[2], &[5]), of(&[3], &[9])].concat());
        assert_eq!(together[..4], of(&[1], &[5]), "a shorter row begins alike");
        assert_ne!(of(&[2], &[5]), of(&[2], &[6]));
        let many = of(&[5000], &[1]);
        for k in 0..4 {
            let part: Vec<f64> = many.iter().skip(k).step_by(4).map(|x| 4.0 * x - k as f64).collect();
            assert!(part.iter().all(|x| (0.0..1.0).contains(x)));
            let mean = part.iter().sum::<f64>() / 5000.0;
            let square = part.iter().map(|x| x * x).sum::<f64>() / 5000.0;
            // Three standard errors of an even law's first two moments.
            assert!((mean - 0.5).abs() < 0.0123 && (square - 1.0 / 3.0).abs() < 0.0127, "{mean}, {square}");
        }
    }
}
