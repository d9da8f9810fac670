//! A run of several processes: what rank 0 does for all, and what each does for itself. In a world of one every function
//! here does what it would do without a world.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use retort_policies::Policy;
use tch::{Device, Kind, Tensor};

use super::evaluate::Evaluation;
use super::feed::Feed;
use super::keep;
use super::machine::Cutting;
use super::setup::{self, Material, Options};
use super::watch::Watch;
use crate::checkpoint::{Checkpoint, RunDir, write_moments};
use crate::config::RunConfig;
use crate::data::sampler::Cut;
use crate::data::{Example, by_length};
use crate::decode::Sampling;
use crate::dist::{Dealing, World, deal};
use crate::error::{Cause, Error, Result};
use crate::eval::replies::{Answer, answers_of};
use crate::model::CausalLm;
use crate::native;
use crate::optim::Optimizer;
use crate::rollout::{Collected, Collector, Experience, Kept, Prompt, STATES, restore, tensors};
use crate::store::Folder;
use crate::text::Tokenizer;

/// Takes the run directory and finds what the run goes on from: rank 0 does, and the others go on from the same.
pub fn take(
    world: &World,
    config: &RunConfig,
    out: &Path,
    options: &Options,
) -> Result<(RunDir, Option<Checkpoint>)> {
    refuse(config, world.size())?;
    let settings = config.as_run(&[])?;
    if !world.is_first() {
        let heard = world.gather_bytes(settings.as_bytes())?;
        if heard.first().is_none_or(|first| *first != settings.as_bytes()) {
            return Err(Error::user("rank 0 was started with other settings").file(&config.file));
        }
        let step = world.gather_numbers(&[])?.into_iter().flatten().next();
        let dir = RunDir::beside(out)?;
        let saved = step.map(|step| dir.at(step as u64)).transpose()?;
        return Ok((dir, saved));
    }
    if RunDir::is_run(out) && !options.resume {
        return Err(holds_a_run(out));
    }
    let dir = RunDir::take(out)?;
    let saved = if options.resume { dir.newest()? } else { None };
    setup::same_run(config, &dir, saved.is_some())?;
    world.gather_bytes(settings.as_bytes())?;
    let step: Vec<f64> = saved.iter().map(|saved| saved.state.step as f64).collect();
    world.gather_numbers(&step)?;
    Ok((dir, saved))
}

/// That a run stands where another was to begin.
pub fn holds_a_run(out: &Path) -> Error {
    Error::user("the folder holds a run")
        .file(out)
        .advice("--resume goes on with it; another --out begins a new one")
}

/// What a run reads and how it is cut.
pub struct Prepared {
    /// The rows.
    pub feed: Feed,
    /// The text beside them.
    pub corpus: Option<Feed>,
    /// The held-out rows.
    pub evaluation: Evaluation,
    /// How updates are cut on this machine.
    pub cutting: Cutting,
}

/// Prepares rows and what is kept of the teacher: rank 0 makes the files, the others read them.
pub fn prepare(
    config: &RunConfig,
    material: &mut Material,
    dir: &RunDir,
    policy: &dyn Policy,
    watch: &mut dyn Watch,
) -> Result<Prepared> {
    let world = material.world.clone();
    world.first(|| {
        let mut feed = Feed::prepare(config, material, dir, policy, watch)?;
        let corpus = Feed::beside(config, material, dir, policy)?;
        let evaluation = Evaluation::prepare(config, material, dir)?;
        let cutting = material.cutting(config, &feed, policy);
        let keeping = keep::Keeping { config, dir, cut: feed.cut(cutting.cut), policy };
        keep::keep(&keeping, material, &mut feed, &evaluation, watch)?;
        Ok(Prepared { feed, corpus, evaluation, cutting })
    })
}

/// How updates are cut on every rank: as the one with least memory cuts them, so that all make the same micro-batches.
pub fn agreed(world: &World, own: Cutting) -> Result<Cutting> {
    let Cut::Tokens(tokens) = own.cut else {
        return Ok(Cutting { recompute: any(world, own.recompute)?, ..own });
    };
    let all = world.gather_numbers(&[tokens as f64])?;
    let least = all.into_iter().flatten().fold(tokens as f64, f64::min);
    Ok(Cutting { cut: Cut::Tokens(least as usize), recompute: any(world, own.recompute)? })
}

/// Whether it is so at any rank.
fn any(world: &World, own: bool) -> Result<bool> {
    Ok(world.sum(&[f64::from(u8::from(own))])?.iter().any(|&sum| sum > 0.0))
}

/// Replies to these prompts, each sampled by one rank, known to all of them in the prompts' order. How long a reply will
/// be is not known: a rank that is done early takes more.
pub fn collect(
    material: &Material,
    collector: &Collector<'_>,
    prompts: &[Prompt],
    done: &mut dyn FnMut(usize),
) -> Result<Collected> {
    let world = &material.world;
    if world.size() == 1 {
        return collector.collect(prompts, done);
    }
    let work: Vec<usize> = prompts.iter().map(|p| p.ids.len() + collector.sampling.max_new_tokens).collect();
    let (mut own, mut made) = (Vec::new(), Vec::new());
    let (mut sampling, mut scoring) = (Duration::ZERO, Duration::ZERO);
    let worked = world.work(&Dealing::of(&work, world.size()), &mut |pieces| {
        let before = own.len();
        let part: Vec<Prompt> = pieces.iter().map(|&n| prompts[n].clone()).collect();
        let collected = collector.collect(&part, &mut |n| done(before + n))?;
        own.extend_from_slice(pieces);
        made.extend(collected.experiences);
        sampling += collected.sampling;
        scoring += collected.scoring;
        Ok(())
    });
    tracing::debug!("{} of {} replies were sampled here", own.len(), prompts.len());
    if !is_fault(&worked) {
        material.rest()?;
    }
    world.agree(worked)?;
    let mut all: Vec<Option<Experience>> = prompts.iter().map(|_| None).collect();
    for (n, experience) in exchange(world, &own, &made, collector.student.device())? {
        *all.get_mut(n).ok_or_else(|| Error::bug("a reply to no prompt"))? = Some(experience);
    }
    let experiences: Option<Vec<Experience>> = all.into_iter().collect();
    let experiences = experiences.ok_or_else(|| Error::bug("a prompt that no rank replied to"))?;
    Ok(Collected { experiences, sampling, scoring })
}

/// Whether a rank ends by an error of its own, of which the others hear by another way than the next exchange.
pub fn is_fault<T>(done: &Result<T>) -> bool {
    done.as_ref().is_err_and(|e| !matches!(e.cause(), Cause::Stopped(_)))
}

/// The experiences of every rank, and the numbers of their prompts.
fn exchange(
    world: &World,
    numbers: &[usize],
    own: &[Experience],
    device: Device,
) -> Result<Vec<(usize, Experience)>> {
    let json = serde_json::to_vec(&(numbers, Kept::of(own)))
        .map_err(|e| Error::bug("JSON cannot be written").found(e))?;
    let kept = world.gather_bytes(&json)?;
    let states = gather_states(world, &tensors(own)?)?;
    let mut all = Vec::new();
    for (json, states) in kept.into_iter().zip(states) {
        let (numbers, kept): (Vec<usize>, Kept) = serde_json::from_slice(&json)
            .map_err(|e| Error::bug("a rank's replies cannot be read").found(e))?;
        all.extend(numbers.into_iter().zip(restore(kept, &states, device)?));
    }
    Ok(all)
}

/// The states of every rank's replies, to the bit.
fn gather_states(world: &World, own: &[(String, Tensor)]) -> Result<Vec<Vec<(String, Tensor)>>> {
    let bfloat = |t: &Tensor| f64::from(u8::from(t.kind() == Kind::BFloat16));
    let facts = own.first().map(|(_, t)| vec![t.size()[0] as f64, t.size()[1] as f64, bfloat(t)]);
    let facts = world.gather_numbers(&facts.unwrap_or_default())?;
    let size = |facts: &[f64]| match facts {
        [rows, width, bfloat] => (rows * width) as usize * if *bfloat > 0.0 { 2 } else { 4 },
        _ => 0,
    };
    let most = facts.iter().map(|f| size(f)).max().unwrap_or(0);
    if most == 0 {
        return Ok(facts.iter().map(|_| Vec::new()).collect());
    }
    let padded = Tensor::f_zeros([most as i64], (Kind::Uint8, Device::Cpu))?;
    if let Some((_, t)) = own.first() {
        let bytes = t.f_to_device(Device::Cpu)?.f_contiguous()?.f_view([-1])?.f_view_dtype(Kind::Uint8)?;
        native::copy_all(&[padded.f_narrow(0, 0, bytes.numel() as i64)?], &[bytes])?;
    }
    let all = world.all_gather(&padded)?;
    let of = |(facts, bytes): (&Vec<f64>, Tensor)| {
        let [_, width, bfloat] = facts[..] else { return Ok(Vec::new()) };
        let kind = if bfloat > 0.0 { Kind::BFloat16 } else { Kind::Float };
        let own = bytes.f_narrow(0, 0, size(facts) as i64)?.f_detach_copy()?.f_view_dtype(kind)?;
        Ok(vec![(STATES.to_string(), own.f_view([-1, width as i64])?)])
    };
    facts.iter().zip(all).map(of).collect()
}

/// Replies to held-out prompts, each by one rank, known to all of them.
pub fn answers(
    world: &World,
    model: (&CausalLm, &Tokenizer),
    prompts: &[&[u32]],
    settings: &Sampling,
    together: usize,
) -> Result<Vec<Answer>> {
    let work: Vec<usize> = prompts.iter().map(|p| p.len() + settings.max_new_tokens).collect();
    let shares = deal(&work, world.size());
    let own: Vec<(u64, &[u32])> = shares[world.rank()].iter().map(|&n| (n as u64, prompts[n])).collect();
    let made = answers_of(model, &own, settings, together, &mut || ());
    if world.size() == 1 {
        return made;
    }
    // Numbers that overflow at one rank are so for all: there is no mean without its rows.
    let made = match made {
        Err(e) if e.cause() == Cause::Numeric => Ok(Err(e)),
        Err(e) => Err(e),
        Ok(made) => Ok(Ok(made)),
    };
    let made = world.agree(made)?;
    let plain = |a: &Answer| (a.text.clone(), a.ids.clone(), a.ended);
    let bytes = match &made {
        Ok(made) => serde_json::to_vec(&made.iter().map(plain).collect::<Vec<_>>())
            .map_err(|e| Error::bug("JSON cannot be written").found(e))?,
        Err(_) => Vec::new(),
    };
    let heard = world.gather_bytes(&bytes)?;
    made?;
    let mut all: Vec<Option<Answer>> = prompts.iter().map(|_| None).collect();
    for (share, bytes) in shares.iter().zip(heard) {
        if bytes.is_empty() {
            return Err(Error::numeric("not finite").field("the replies of another rank"));
        }
        let found: Vec<(String, Vec<u32>, bool)> = serde_json::from_slice(&bytes)
            .map_err(|e| Error::bug("a rank's replies cannot be read").found(e))?;
        for (&n, (text, ids, ended)) in share.iter().zip(found) {
            all[n] = Some(Answer { text, ids, ended });
        }
    }
    all.into_iter().map(|a| a.ok_or_else(|| Error::bug("a prompt that no rank replied to"))).collect()
}

/// Writes the moments of a checkpoint that rank 0 makes, each rank its own where they are dealt out.
pub fn save_moments(folder: &Folder, material: &Material, optimizer: &Optimizer) -> Result<()> {
    if !material.in_parts() {
        return write_moments(folder, optimizer, None);
    }
    let world = &material.world;
    // Its name: where the run directory is, each rank says itself.
    let name = folder.root().file_name().ok_or_else(|| Error::bug("a folder without a name"))?;
    world.gather_bytes(name.as_bytes())?;
    write_moments(folder, optimizer, Some((world.rank(), world.size())))?;
    // Rank 0 names the folder when all have written.
    world.barrier()
}

/// The same of another rank.
pub fn save_part(dir: &RunDir, material: &Material, optimizer: &Optimizer) -> Result<()> {
    if !material.in_parts() {
        return Ok(());
    }
    let world = &material.world;
    let heard = world.gather_bytes(&[])?;
    let name = heard.first().ok_or_else(|| Error::bug("a checkpoint without a folder"))?;
    let folder = Folder::at(dir.checkpoints().join(OsStr::from_bytes(name)));
    write_moments(&folder, optimizer, Some((world.rank(), world.size())))?;
    world.barrier()
}

/// What of an update's rows a rank goes through.
pub struct Dealt {
    /// Its own rows.
    pub own: Vec<usize>,
    /// Micro-batches of the rank that has most.
    pub passes: usize,
}

/// Which rows of an update are this rank's own.
pub fn dealt<'e>(rows: impl Iterator<Item = &'e Example>, world: &World, cut: Cut) -> Dealt {
    let lengths: Vec<usize> = rows.map(|example| example.ids.len()).collect();
    if world.size() == 1 {
        return Dealt { own: (0..lengths.len()).collect(), passes: 0 };
    }
    let mut shares = deal(&lengths, world.size());
    let passes =
        |share: &Vec<usize>| by_length(&share.iter().map(|&n| lengths[n]).collect::<Vec<_>>(), cut).len();
    let passes = shares.iter().map(passes).max().unwrap_or(0);
    Dealt { own: shares.swap_remove(world.rank()), passes }
}

/// A loss and its terms: over this rank's rows, and from it over all of the update's.
type Means = (f64, Vec<(&'static str, f64)>);

/// The means over an update's rows, from what each rank's rows add to them. A rank without rows knows no terms;
/// rank 0, which writes them down, always has rows.
pub fn means(world: &World, (loss, mut terms): Means) -> Result<Means> {
    let own: Vec<f64> = std::iter::once(loss).chain(terms.iter().map(|(_, value)| *value)).collect();
    let of_all = world.sum(&own)?;
    terms.iter_mut().zip(of_all.iter().skip(1)).for_each(|((_, value), sum)| *value = *sum);
    Ok((of_all.first().copied().unwrap_or(0.0), terms))
}

/// Refuses what so many processes cannot do together. The gradient noise scale is of micro-batches of equal size, and
/// rows are dealt out by their lengths.
pub fn refuse(config: &RunConfig, processes: usize) -> Result<()> {
    super::split::refuse(config, processes)?;
    if processes == 1 || config.settings.train.measure_noise == 0 {
        return Ok(());
    }
    let e = Error::user("the gradient noise scale is measured in one process alone").file(&config.file);
    let e = e.field("train.measure_noise").expected("one process").found(format!("a world of {processes}"));
    Err(e.advice("set it to 0, or leave the other processes out"))
}

/// That all ranks have come to the same gradient, so that their weights stay the same.
pub fn alike(world: &World, norm: f64) -> Result<()> {
    if world.size() == 1 {
        return Ok(());
    }
    let norms = world.all_gather(&Tensor::f_from_slice(&[norm])?)?;
    let norms = norms.iter().map(|t| Ok(t.f_double_value(&[0])?)).collect::<Result<Vec<f64>>>()?;
    let differs =
        |other: f64| other.is_finite() != norm.is_finite() || (other - norm).abs() > 1e-4 * norm.abs();
    match norms.iter().position(|&other| differs(other)) {
        None => Ok(()),
        Some(rank) => Err(Error::bug("the ranks have come apart: their gradients differ")
            .field(format!("rank {rank}"))
            .expected(norm)
            .found(norms[rank])),
    }
}
