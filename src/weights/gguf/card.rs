//! The model card of an imported folder.

use super::file::Gguf;
use super::metadata::Hyper;
use super::model;
use crate::error::Result;

/// The longest piece of the file's own text that the card repeats.
const LONGEST: usize = 120;

/// README.md: where the folder comes from.
pub(super) fn readme(gguf: &Gguf, hyper: &Hyper, params: usize, made_by: &str) -> Result<String> {
    let text = |key: &str| -> Result<Option<String>> { Ok(gguf.text(key)?.map(plain)) };
    let file = gguf.path.file_name().map(|n| plain(&n.to_string_lossy())).unwrap_or_default();
    let name = text("general.name")?.unwrap_or_else(|| file.clone());
    let license = text("general.license")?;
    let kinds = model::kinds(gguf).into_iter().map(|(kind, n)| format!("{n} x {kind:?}"));
    // A JSON string is a YAML string: nothing in it can end the front matter.
    let front = license.as_ref().map(|l| format!("license: {}\n", serde_json::Value::from(l.as_str())));
    let mut card =
        format!("---\nlibrary_name: transformers\n{}---\n\n# {name}\n\n", front.unwrap_or_default());
    card += &format!("Imported from the GGUF file `{file}` by {}.\n\n", plain(made_by));
    let mut row = |what: &str, value: String| card += &format!("- {what}: {value}\n");
    row(
        "Architecture",
        format!("{:?}, {} layers of {}", hyper.family, hyper.layers, hyper.hidden).to_lowercase(),
    );
    row("Parameters", params.to_string());
    row("Context", hyper.context.to_string());
    row("Tensors in the file", kinds.collect::<Vec<_>>().join(", "));
    row("Size of the file", format!("{} bytes", gguf.file_len()));
    row("License", license.unwrap_or_else(|| "not stated in the file".into()));
    for (what, key) in [("Organization", "general.organization"), ("Source", "general.source.url")] {
        if let Some(value) = text(key)? {
            row(what, value);
        }
    }
    card += "\nThe weights are those of the quantised file, written out in full: what quantisation lost stays lost.\n";
    Ok(card)
}

/// A file's text, fit to stand in one line of Markdown.
fn plain(text: &str) -> String {
    let kept = text.chars().take(LONGEST);
    kept.map(|c| if c.is_alphanumeric() || " .,:;/()+-_=".contains(c) { c } else { ' ' }).collect()
}
