//! SentencePiece BPE (scores, no merges) -> BPE with merges, as transformers' Llama converter does.

use serde_json::{Value, json};

use super::tokenizer::Vocabulary;
use crate::error::Result;

/// The longest piece in bytes that is cut at every place; SentencePiece's own default is 16 characters.
const LONGEST: usize = 512;
const SCORES: &str = "tokenizer.ggml.scores";

/// The normalizer, decoder and model.
pub(super) fn tokenizer(v: &Vocabulary, unk: Option<&str>) -> Result<Value> {
    let gguf = v.gguf;
    let key = "tokenizer.ggml.remove_extra_whitespaces";
    if gguf.flag(key)?.unwrap_or(false) {
        return Err(gguf.bad("a normalization that is not imported", key));
    }
    let scores = gguf.reals(SCORES)?.ok_or_else(|| gguf.missing(SCORES))?;
    let expected = gguf.texts("tokenizer.ggml.tokens")?.map_or(0, |t| t.len());
    if scores.len() != expected {
        let e = gguf.bad("as many scores as tokens are needed", SCORES);
        return Err(e.expected(expected).found(scores.len()));
    }
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let mut normalizers = vec![space];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if gguf.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true) {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(json!({
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": unk,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": v.vocab_json(),
            "merges": merges(v, &scores)?,
        },
    }))
}

/// Two pieces that make a third, and what decides their place.
struct Merge<'a> {
    left: &'a str,
    right: &'a str,
    score: f64,
    /// Lengths in characters.
    lengths: (usize, usize),
}

/// Every way to cut a piece into two pieces: the best score first, then the longest left part, then
/// the longest right one; ties in the order of the ids (`generate_merges` in transformers).
fn merges(v: &Vocabulary, scores: &[f64]) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for (&piece, &score) in v.tokens.iter().zip(scores) {
        if piece.len() > LONGEST {
            let found = format!("{} bytes", piece.len());
            return Err(v.gguf.bad("a piece is too long", "tokenizer.ggml.tokens").found(found));
        }
        let total = piece.chars().count();
        let mut cuts = Vec::new();
        for (n, (at, _)) in piece.char_indices().enumerate().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(&l), Some(&r)) = (v.ids.get(left), v.ids.get(right)) {
                cuts.push(((l, r), Merge { left, right, score, lengths: (n, total - n) }));
            }
        }
        cuts.sort_by_key(|&(ids, _)| ids);
        all.extend(cuts.into_iter().map(|(_, merge)| merge));
    }
    // Stable, as Python's sort is, also backwards.
    all.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.lengths.cmp(&a.lengths)));
    Ok(all.into_iter().map(|m| json!([m.left, m.right])).collect())
}
