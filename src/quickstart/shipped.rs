//! The two models that come with the program: files of a Hugging Face folder, made by
//! `examples/quickstart_models.rs`.

use crate::error::Result;
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
