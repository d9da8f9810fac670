//! README.md of a trained model: what it was made from, and how good it is.

use super::Found;
use crate::checkpoint::State;
use crate::config::{Origin, RunConfig};

/// The card of `best` or `final`.
pub fn text(config: &RunConfig, state: &State, best: Option<Found>, name: &str) -> String {
    let settings = &config.settings;
    let student = match &settings.student.model {
        Origin::Folder(name) => name.clone(),
        Origin::Config(file) => format!("random weights in the shape of {}", file.display()),
    };
    let files = |all: &[std::path::PathBuf]| {
        let names: Vec<String> = all.iter().map(|p| format!("`{}`", plain(&p.to_string_lossy()))).collect();
        names.join(", ")
    };
    let mut rows = vec![
        ("Student", plain(&student)),
        ("Teacher", settings.teacher.as_deref().map_or("none".into(), plain)),
        ("Policy", config.entry.name.into()),
        ("Rows", files(&settings.data.train)),
        ("Text", files(&settings.data.corpus)),
        ("Updates", format!("{}, {} tokens", state.step, state.tokens)),
        ("Seed", settings.seed.to_string()),
    ];
    if let Some(lora) = &settings.student.lora {
        let text =
            format!("rank {}, alpha {}, on {}; merged", lora.rank, lora.alpha, lora.targets.join(", "));
        rows.push(("LoRA", plain(&text)));
    }
    if let Some(Found { name, value, step }) = best {
        rows.push(match name {
            "rouge_l" => ("Best Rouge-L", format!("{value:.2} on held-out prompts, after update {step}")),
            _ => ("Lowest validation loss", format!("{value:.4} nats a token, after update {step}")),
        });
    }
    let mut card = format!("---\nlibrary_name: transformers\ntags:\n- distillation\n---\n\n# {name}\n\n");
    card += concat!(
        "Made by retort ",
        env!("CARGO_PKG_VERSION"),
        ". The run's `config.toml` has every setting.\n\n"
    );
    for (what, value) in rows.into_iter().filter(|(_, value)| !value.is_empty()) {
        card += &format!("- {what}: {value}\n");
    }
    card
}

/// A name, fit to stand in one line of Markdown.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || "`<>[]|*#".contains(c) { ' ' } else { c }).collect()
}
