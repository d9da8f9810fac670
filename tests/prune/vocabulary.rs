//! A vocabulary cut to what a text uses.

use std::path::{Path, PathBuf};

use retort::text::{Tokenizer, eos_ids};
use retort::weights::ModelFiles;
use serde_json::Value;

use crate::command::{corpus, good};
use crate::support::fixture;

/// The folder with fewer tokens, and how many it was to have.
fn cut(dir: &Path, tokens: usize) -> (PathBuf, Value) {
    let (input, out) = (dir.join("text.txt"), dir.join(format!("cut-{tokens}")));
    std::fs::write(&input, corpus(200)).unwrap();
    let model = fixture("score/llama");
    let more = ["--vocab", &tokens.to_string(), "--sequence", "64", "--dtype", "f32"];
    let done = good(model.to_str().unwrap(), &input, &out, &more);
    (out, done)
}

#[test]
fn texts_of_kept_tokens_are_cut_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let (out, done) = cut(dir.path(), 300);
    let model = fixture("score/llama");
    let (old, new) = (Tokenizer::load(&model).unwrap(), Tokenizer::load(&out).unwrap());
    assert_eq!((new.vocab_size(), old.vocab_size()), (300, 320));
    assert_eq!(done["sizes"][1]["vocabulary"], 300);
    let spell = |tokenizer: &Tokenizer, text: &str| -> Vec<String> {
        let ids = tokenizer.encode(text, true).unwrap();
        ids.into_iter().map(|id| tokenizer.id_to_token(id).unwrap().to_string()).collect()
    };
    let known = |text: &str| spell(&old, text).iter().all(|token| new.token_to_id(token).is_some());
    let text = corpus(200);
    let alike: Vec<&str> = text.lines().filter(|line| !line.is_empty() && known(line)).collect();
    assert!(alike.len() > 20, "of {} lines", alike.len());
    for line in alike {
        assert_eq!(spell(&new, line), spell(&old, line), "{line}");
    }
    // Any text can still be said, and comes back.
    for odd in ["Zürich 12\n\tno such word: qqq", "日本語 🙂", "<|im_end|>"] {
        assert_eq!(new.decode(&new.encode(odd, false).unwrap(), false).unwrap(), odd);
    }
}

#[test]
fn ids_that_files_name_follow_and_rows_are_those_of_their_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let (out, done) = cut(dir.path(), 290);
    let model = fixture("score/llama");
    let (old, new) = (Tokenizer::load(&model).unwrap(), Tokenizer::load(&out).unwrap());
    let words = |folder: &Path, tokenizer: &Tokenizer| -> Vec<String> {
        let ids = eos_ids(folder, tokenizer).unwrap();
        ids.into_iter().map(|id| tokenizer.id_to_token(id).unwrap().to_string()).collect()
    };
    assert_eq!(words(&out, &new), words(&model, &old));
    let files = ModelFiles::read(&out.join("config.json"), &out).unwrap();
    assert_eq!(files.config()["vocab_size"], 290);
    for name in ["vocab.json", "merges.txt", "added_tokens.json"] {
        assert!(!out.join(name).exists(), "{name} would say the old");
    }
    let rows = |folder: &Path| {
        let options = retort::model::LoadOptions::default();
        retort::model::CausalLm::load(folder, options)
            .unwrap()
            .params()
            .get("model.embed_tokens.weight")
            .unwrap()
    };
    let (theirs, ours) = (rows(&model), rows(&out));
    for id in 0..new.vocab_size() as u32 {
        let token = new.id_to_token(id).unwrap();
        let was = old.token_to_id(token).unwrap();
        assert_eq!(ours.get(i64::from(id)), theirs.get(i64::from(was)), "{token}");
    }
    // A text of kept tokens has nearly the bits that it had: softmax over fewer tokens can only cost it less.
    let bits: Vec<f64> = serde_json::from_value(done["bits_per_byte"].clone()).unwrap();
    assert!(bits.iter().all(|b| b.is_finite() && *b > 0.0), "{bits:?}");
}

/// Text that has more tokens than the context in the smaller vocabulary is compared as far as it fits, before and after.
#[test]
fn bits_are_of_the_same_text_where_it_no_longer_fits() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("text.txt");
    std::fs::write(&input, corpus(1200)).unwrap();
    let model = fixture("score/llama");
    let bits = |sequence: &str, tokens: &str| -> (Vec<f64>, Vec<u64>) {
        let out = dir.path().join(format!("{sequence}-{tokens}"));
        let more = ["--vocab", tokens, "--sequence", sequence, "--held-out", "4", "--dtype", "f32"];
        let done = good(model.to_str().unwrap(), &input, &out, &more);
        let list = |name: &str| done[name].clone();
        (
            serde_json::from_value(list("bits_per_byte")).unwrap(),
            serde_json::from_value(list("tokens")).unwrap(),
        )
    };
    let (whole, tokens) = bits("512", "320");
    assert_eq!(tokens, [4 * 511; 2], "nothing is cut");
    // The 32 rows that no token has are gone, and with them what the softmax gave to them.
    assert!(whole[1] < whole[0] && whole[1] > 0.95 * whole[0], "{whole:?}");
    let (cut, tokens) = bits("512", "275");
    assert!(tokens[0] < 4 * 511 && tokens[1] <= 4 * 511 && tokens[0] < tokens[1], "{tokens:?}");
    let (short, _) = bits("256", "275");
    let ratio = (cut[1] / cut[0]) / (short[1] / short[0]);
    assert!((ratio - 1.0).abs() < 0.1, "{cut:?}, of rows that fit {short:?}");
}
