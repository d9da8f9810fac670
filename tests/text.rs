//! Text and data against transformers' own answers (tests/golden/*.py makes them), and against files
//! made to break them.

#![expect(clippy::disallowed_methods, reason = "tests make their own files")]
#![expect(clippy::unwrap_used, reason = "a test says so by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use retort::data::{Encoder, Row, Schema};
use retort::error::Cause;
use retort::text::template::Chat;
use retort::text::{Audit, Message, Template, TemplateChoice, Tokenizer, eos_ids};
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn golden(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

fn messages(list: &Value) -> Vec<Message> {
    let message = |m: &Value| {
        let text = |key: &str| m[key].as_str().unwrap().to_string();
        let mut message = Message::new(text("role"), text("content"));
        let others = m.as_object().unwrap().iter().filter(|(k, _)| *k != "role" && *k != "content");
        message.extra = others.map(|(k, v)| (k.clone(), v.clone())).collect();
        message
    };
    list.as_array().unwrap().iter().map(message).collect()
}

#[test]
fn templates_render_byte_for_byte_as_transformers_does() {
    let golden = golden("templates/golden.json");
    let tokens: Vec<(&str, &str)> = golden["tokens"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str().unwrap()))
        .collect();
    let mut wrong = Vec::new();
    for case in golden["cases"].as_array().unwrap() {
        let (name, talk) = (case["template"].as_str().unwrap(), case["conversation"].as_str().unwrap());
        let source = std::fs::read_to_string(fixture(&format!("templates/{name}.jinja"))).unwrap();
        let chat = Chat::with_tokens(&source, tokens.clone()).unwrap();
        let made = chat.render(&messages(&golden["conversations"][talk]), case["generation"] == true);
        match (&case["text"], made) {
            (Value::String(want), Ok(mut text)) => {
                if let (true, Some(at)) = (name == "headers", text.find("Today: ")) {
                    text.replace_range(at + 7..at + 18, "DATE");
                }
                if text != *want {
                    wrong.push(format!(
                        "{name} {talk} {}\n want {want:?}\n  got {text:?}",
                        case["generation"]
                    ));
                }
            }
            (Value::Null, Err(e)) => {
                let said = case["error"].as_str().unwrap();
                assert!(e.cause() == Cause::Data && e.to_string().contains(said), "{e}");
            }
            (want, got) => wrong.push(format!("{name} {talk}: want {want}, got {got:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong[..wrong.len().min(12)].join("\n"));
}

#[test]
fn tokenizers_give_transformers_ids() {
    let golden = golden("tokenizers/golden.json");
    let mut wrong = Vec::new();
    for (name, want) in golden.as_object().unwrap() {
        let tokenizer = Tokenizer::load(&fixture(&format!("tokenizers/{name}"))).unwrap();
        let size = (tokenizer.vocab_size() as u64, want["size"].as_u64().unwrap());
        if size.0 != size.1 {
            wrong.push(format!("{name}: size {size:?}"));
        }
        for (key, id) in [("eos", tokenizer.eos()), ("bos", tokenizer.bos()), ("pad", tokenizer.pad())] {
            if want[key].as_u64() != id.map(u64::from) {
                wrong.push(format!("{name}: {key} {id:?} for {}", want[key]));
            }
        }
        for (key, token) in want["named"].as_object().unwrap() {
            if tokenizer.named().get(key).map(String::as_str) != token.as_str() {
                wrong.push(format!("{name}: {key} {:?} for {token}", tokenizer.named().get(key)));
            }
        }
        let list = |v: &Value| -> Vec<u32> {
            v.as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as u32).collect()
        };
        for case in want["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let ids = list(&case["ids"]);
            let got = tokenizer.encode(text, true).unwrap();
            if got != ids || tokenizer.encode(text, false).unwrap() != list(&case["plain"]) {
                wrong.push(format!("{name}: {text:?}\n want {ids:?}\n  got {got:?}"));
            }
            for (key, skip) in [("decoded", false), ("skipped", true)] {
                let got = tokenizer.decode(&ids, skip).unwrap();
                if got != case[key].as_str().unwrap() {
                    wrong.push(format!("{name}: {key} {:?} for {}", got, case[key]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong[..wrong.len().min(12)].join("\n"));
}

fn load(name: &str) -> Tokenizer {
    Tokenizer::load(&fixture(&format!("tokenizers/{name}"))).unwrap()
}

fn row(value: Value) -> Row {
    let object = value.as_object().unwrap();
    Schema::of(object).unwrap().row(object).unwrap()
}

#[test]
fn a_plain_row_is_prompt_then_response_then_eos() {
    let tokenizer = load("llama3");
    let eos = tokenizer.eos();
    let encoder = Encoder::new(&tokenizer, Template::Plain, eos);
    let encoded = encoder.encode(&row(json!({"prompt": "A retort", "response": " is a vessel."}))).unwrap();
    let prompt = tokenizer.encode("A retort", true).unwrap();
    assert_eq!(prompt[0], tokenizer.bos().unwrap());
    assert_eq!(encoded.prompt(), prompt);
    let mut response = tokenizer.encode(" is a vessel.", false).unwrap();
    response.extend(eos);
    assert_eq!(encoded.response(), response);
    let empty = encoder.encode(&row(json!({"prompt": "x", "response": ""}))).unwrap();
    assert_eq!(empty.response(), [eos.unwrap()]);
    let several = row(json!({"instruction": "i", "output": ["first", "second"]}));
    let plain = encoder.encode(&several).unwrap();
    assert_eq!(plain.response()[..plain.response().len() - 1], tokenizer.encode("first", false).unwrap());
    let text = encoder.encode(&row(json!({"text": "A retort"}))).unwrap();
    assert_eq!((text.ids, text.prompt_len), (prompt.clone(), 0));
    assert_eq!(encoder.encode(&row(json!({"prompt": "A retort"}))).unwrap().response(), &[] as &[u32]);
    let ids = row(json!({"ids": [5, 6, 7], "prompt_len": 2}));
    assert_eq!(encoder.encode(&ids).unwrap().response(), [7]);
    assert_eq!(encoder.prompt(&ids).unwrap(), [5, 6]);
    assert_eq!(encoder.prompt(&row(json!({"ids": [5, 6]}))).unwrap(), [5, 6]);
    let outside = encoder.encode(&row(json!({"ids": [5, 343]}))).unwrap_err();
    assert!(outside.cause() == Cause::Data && outside.to_string().contains("ids[1]"), "{outside}");
    let alpaca = Encoder::new(&tokenizer, Template::Alpaca, eos);
    assert!(alpaca.prompt_text(&several).unwrap().ends_with("### Instruction:\ni\n\n### Response:"));
}

#[test]
fn a_chat_row_writes_its_own_special_tokens() {
    let tokenizer = load("llama3");
    let source = std::fs::read_to_string(fixture("templates/inst.jinja")).unwrap();
    let chat = Chat::new(&source, &tokenizer).unwrap();
    let encoder = Encoder::new(&tokenizer, Template::Chat(Arc::new(chat)), tokenizer.eos());
    let talk = json!({"messages": [
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "So long"},
    ]});
    let encoded = encoder.encode(&row(talk)).unwrap();
    let text = "<|bos|>[INST] Hi [/INST] Hello<|end|>[INST] Bye [/INST]";
    assert_eq!(encoded.prompt(), tokenizer.encode(text, false).unwrap());
    assert_eq!(encoded.prompt()[..2].iter().filter(|id| **id == 0).count(), 1, "one BOS");
    assert_eq!(tokenizer.decode(encoded.response(), false).unwrap(), "So long<|end|>");
    let open = json!({"conversations": [{"from": "human", "value": "Hi"}]});
    assert_eq!(encoder.encode(&row(open)).unwrap().response(), &[] as &[u32]);
    let same = json!({"instruction": "Do", "input": "this", "output": "x"});
    assert_eq!(encoder.prompt_text(&row(same)).unwrap(), "<|bos|>[INST] Do\nthis [/INST]");
}

#[test]
fn auto_takes_the_chat_template_then_alpaca_then_plain() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture("tokenizers/digits").join(name), dir.path().join(name)).unwrap();
    }
    let auto = |rows| {
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        Template::resolve(&TemplateChoice::Auto, &tokenizer, rows).map(|t| t.name()).unwrap()
    };
    assert_eq!((auto(true), auto(false)), ("alpaca", "plain"));
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    let none = Template::resolve(&TemplateChoice::Chat, &tokenizer, true).unwrap_err();
    assert_eq!(none.cause(), Cause::User);
    std::fs::write(
        dir.path().join("tokenizer_config.json"),
        r#"{"chat_template": [{"name": "default", "template": "a"}]}"#,
    )
    .unwrap();
    assert_eq!(auto(false), "chat");
    std::fs::write(dir.path().join("chat_template.jinja"), "b").unwrap();
    assert_eq!(Tokenizer::load(dir.path()).unwrap().chat_template(), Some("b"));
}

#[test]
fn tokenizers_agree_or_name_the_first_id() {
    let gpt2 = load("gpt2");
    assert_eq!(gpt2.agree(&load("gpt2")).unwrap(), None);
    let e = gpt2.agree(&load("llama3")).unwrap_err();
    assert!(e.to_string().contains("id 0") && e.to_string().contains("<|bos|>"), "{e}");
    let warning = load("digits").agree(&load("bare")).unwrap();
    assert!(warning.is_some_and(|w| w.contains("other rules")));
    assert!(gpt2.agree(&load("qwen2")).unwrap_err().to_string().contains("id 340"));
}

#[test]
fn the_audit_finds_what_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture("tokenizers/llama3").join(name), dir.path().join(name)).unwrap();
    }
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    let write = |name: &str, value: Value| std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    let codes = || -> Vec<&'static str> {
        Audit::of(dir.path(), &tokenizer).unwrap().findings.iter().map(|f| f.code).collect()
    };
    assert_eq!(eos_ids(dir.path(), &tokenizer).unwrap(), [1]);
    write("config.json", json!({"vocab_size": 400, "eos_token_id": 7, "bos_token_id": 0}));
    assert_eq!(eos_ids(dir.path(), &tokenizer).unwrap(), [7]);
    assert_eq!(codes(), ["differs", "padded"]);
    write("generation_config.json", json!({"eos_token_id": [1, 5]}));
    assert_eq!(eos_ids(dir.path(), &tokenizer).unwrap(), [1, 5]);
    write("generation_config.json", json!({"eos_token_id": [1, 400]}));
    assert_eq!(eos_ids(dir.path(), &tokenizer).unwrap(), [1], "no row of the model: passed over");
    assert!(codes().contains(&"eos-outside"));
    write("generation_config.json", json!({"eos_token_id": 50_256}));
    assert_eq!(eos_ids(dir.path(), &tokenizer).unwrap(), [7], "the next file's word");
    write("generation_config.json", json!({"eos_token_id": "</s>"}));
    assert_eq!(eos_ids(dir.path(), &tokenizer).unwrap_err().cause(), Cause::Data);
    assert_eq!(codes()[0], "eos");
    write("generation_config.json", json!({}));
    write("config.json", json!({"vocab_size": 340, "eos_token_id": null}));
    assert_eq!(codes(), ["ids-outside"]);
    let audit = serde_json::to_value(Audit::of(dir.path(), &tokenizer).unwrap()).unwrap();
    assert_eq!((&audit["findings"][0]["level"], &audit["tokenizer_size"]), (&json!("error"), &json!(343)));
}

#[test]
fn a_part_of_the_folder_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let e = Tokenizer::load(dir.path()).unwrap_err();
    assert!(e.cause() == Cause::Data && e.to_string().contains("tokenizer.json"), "{e}");
    std::fs::copy(fixture("tokenizers/gpt2/vocab.json"), dir.path().join("vocab.json")).unwrap();
    let e = Tokenizer::load(dir.path()).unwrap_err();
    assert!(e.cause() == Cause::Data && e.to_string().contains("merges.txt"), "{e}");
    assert_eq!(Tokenizer::load(&dir.path().join("nowhere")).unwrap_err().cause(), Cause::User);
}
