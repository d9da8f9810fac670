//! A tokenizer of as many words as a model has rows, and rows of ids, beside the model.

use std::path::Path;

use retort::store::Folder;
use serde_json::{Map, Value, json};

/// Writes tokenizer.json and rows.jsonl: so many rows of so many tokens, and how many of these are the prompt.
pub fn prepare(folder: &Path, quick: bool, (rows, tokens, prompt): (usize, usize, usize)) {
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let size = config["vocab_size"].as_u64().unwrap();
    let vocab: Map<String, Value> = (0..size).map(|id| (format!("t{id}"), id.into())).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "t0"},
    });
    let folder = Folder::create(folder).unwrap();
    folder.write_bytes("tokenizer.json", tokenizer.to_string().as_bytes()).unwrap();
    let most = if quick { 16 } else { size };
    let row = |r: usize| {
        let ids: Vec<u64> = (0..tokens).map(|t| ((r * 7919 + t * 104_729 + 17) as u64) % most).collect();
        format!("{}\n", json!({"ids": ids, "prompt_len": prompt}))
    };
    folder.write_bytes("rows.jsonl", (0..rows).map(row).collect::<String>().as_bytes()).unwrap();
}
