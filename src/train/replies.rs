//! The teacher's replies to every prompt, one each, sampled once and kept with a fingerprint of all that
//! they depend on. They keep the ids they were sampled with; one that was cut has no EOS.

use std::path::Path;

use super::Watch;
use super::gather::sampling;
use super::setup::Material;
use crate::config::RunConfig;
use crate::data::TokenFile;
use crate::data::tokens::Writer;
use crate::decode::{Reply, Request, sample};
use crate::error::{Error, Result};
use crate::store::hash::{self, Hasher};
use crate::weights::WeightFiles;

/// Prompts that are decoded together.
const TOGETHER: usize = 64;

/// Prompts to be answered, and what the answers depend on.
pub struct Asked<'a> {
    /// Seed and settings.
    pub config: &'a RunConfig,
    /// The teacher, and the ids that end a reply.
    pub material: &'a Material,
    /// The prompts.
    pub prompts: &'a TokenFile,
    /// What they were made from.
    pub fingerprint: String,
}

/// The replies behind their prompts, from the file at `cache` where they were made of the same.
pub fn of_teacher(asked: &Asked<'_>, cache: &Path, watch: &mut dyn Watch) -> Result<TokenFile> {
    let teacher = asked
        .material
        .teacher
        .as_ref()
        .ok_or_else(|| Error::bug("replies of a teacher that is not there"))?;
    let (kind, device) = teacher.computes();
    let longest = asked.material.limits(asked.config).response;
    let settings = sampling(&asked.config.settings, asked.material, longest);
    let fingerprint = {
        let mut hasher = Hasher::default();
        hasher.part(asked.fingerprint.as_bytes());
        hasher.part(model_identity(teacher.folder())?.as_bytes());
        hasher.part(format!("{settings:?} {:?} {:?}", kind, device).as_bytes());
        hasher.hex()
    };
    if let Some(file) = TokenFile::open(cache, &fingerprint)? {
        tracing::info!("the teacher's {} replies were sampled before", file.rows());
        return Ok(file);
    }
    let prompts: Vec<Vec<u32>> = (0..asked.prompts.rows())
        .map(|row| asked.prompts.part(row, 0, asked.prompts.prompt_len(row)).collect())
        .collect();
    let requests: Vec<Request<'_>> =
        prompts.iter().zip(0..).map(|(prompt, row)| Request { prompt, row, sample: 0 }).collect();
    let mut replies: Vec<Option<Vec<u32>>> = vec![None; prompts.len()];
    let mut done = 0;
    sample(teacher.body()?, &requests, &settings, TOGETHER, &mut |n: usize, reply: Reply| {
        replies[n] = Some(reply.ids);
        done += 1;
        watch.preparing("the teacher's replies", done, requests.len());
        Ok(())
    })?;
    let mut writer = Writer::create(cache)?;
    for (row, (prompt, reply)) in prompts.iter().zip(replies).enumerate() {
        let reply = reply.ok_or_else(|| Error::bug("a prompt without a reply"))?;
        let ids: Vec<u32> = prompt.iter().copied().chain(reply).collect();
        writer.add(&ids, prompt.len(), asked.prompts.origin(row))?;
    }
    writer.finish(&fingerprint)?;
    TokenFile::open(cache, &fingerprint)?
        .ok_or_else(|| Error::bug("a file of tokens cannot be read again").file(cache))
}

/// What a model is: the bytes of its config and its weights.
pub(super) fn model_identity(folder: &Path) -> Result<String> {
    let mut hasher = Hasher::default();
    hasher.part(hash::of_long_file(&folder.join("config.json"))?.1.as_bytes());
    for file in WeightFiles::open(folder)?.files() {
        hasher.part(hash::of_long_file(file.path())?.1.as_bytes());
    }
    Ok(hasher.hex())
}
