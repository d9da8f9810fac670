//! The two models that come with the program: files of a Hugging Face folder, made by
//! `examples/quickstart_models.rs`.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::store::Folder;

/// The file names of a folder, with their bytes.
type Files = [(&'static str, &'static [u8])];

/// What both models have alike.
const TOKENIZER: &Files = &[
    ("tokenizer.json", include_bytes!("models/teacher/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("models/teacher/tokenizer_config.json")),
    ("chat_template.jinja", include_bytes!("models/teacher/chat_template.jinja")),
];

const TEACHER: &Files = &[
    ("config.json", include_bytes!("models/teacher/config.json")),
    ("model.safetensors", include_bytes!("models/teacher/model.safetensors")),
    ("README.md", include_bytes!("models/teacher/README.md")),
];

const BASE: &Files = &[
    ("config.json", include_bytes!("models/base/config.json")),
    ("model.safetensors", include_bytes!("models/base/model.safetensors")),
    ("README.md", include_bytes!("models/base/README.md")),
];

/// Writes the tokenizer's files, without a model.
pub fn write_tokenizer(folder: &Folder) -> Result<()> {
    TOKENIZER.iter().try_for_each(|(name, bytes)| folder.write_bytes(name, bytes))
}

/// Rows of an embedding for that tokenizer.
pub fn vocabulary() -> Result<i64> {
    let of = |(_, bytes): &(&str, &[u8])| serde_json::from_slice::<Value>(bytes).ok()?["vocab_size"].as_i64();
    BASE.first()
        .and_then(of)
        .ok_or_else(|| Error::bug("a model that comes with the program has no vocabulary"))
}

/// Writes the teacher's folder.
pub(super) fn teacher(folder: &Folder) -> Result<()> {
    write(folder, TEACHER)
}

/// Writes the folder of the student as it begins.
pub(super) fn base(folder: &Folder) -> Result<()> {
    write(folder, BASE)
}

fn write(folder: &Folder, files: &Files) -> Result<()> {
    files.iter().chain(TOKENIZER).try_for_each(|(name, bytes)| folder.write_bytes(name, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small enough to come with every clone: 12 MB at most.
    #[test]
    fn what_is_shipped_is_small() {
        let all = [TOKENIZER, TEACHER, BASE];
        let bytes: usize = all.iter().flat_map(|files| files.iter()).map(|(_, bytes)| bytes.len()).sum();
        assert!((1_000_000..12_000_000).contains(&bytes), "{bytes}");
    }
}
