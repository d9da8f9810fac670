//! Conversations on their way to tokens: which of them are learnt, against transformers' own marks.

use std::path::PathBuf;

use retort::config::Learn;
use retort::data::{Example, Limits, Need, Preparation, TokenFile};
use retort::error::Result;
use retort::text::{TemplateChoice, Tokenizer, eos_ids, turn_end};
use serde_json::{Value, json};

use crate::support::fixture;

/// A folder with a template and rows, and a tokenizer.
struct Desk {
    dir: tempfile::TempDir,
    folder: PathBuf,
    tokenizer: Tokenizer,
}

impl Desk {
    fn new(model: &str, template: &str, rows: &[Value]) -> Desk {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("template.jinja"), template).unwrap();
        let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
        std::fs::write(dir.path().join("rows.jsonl"), lines).unwrap();
        let folder = fixture(&format!("score/{model}"));
        Desk { tokenizer: Tokenizer::load(&folder).unwrap(), dir, folder }
    }

    fn prepare(&self, learn: Learn, limits: (usize, usize)) -> Result<TokenFile> {
        self.by(TemplateChoice::File(self.dir.path().join("template.jinja")), learn, limits)
    }

    fn by(&self, template: TemplateChoice, learn: Learn, limits: (usize, usize)) -> Result<TokenFile> {
        let preparation = Preparation {
            files: &[self.dir.path().join("rows.jsonl")],
            tokenizer: &self.tokenizer,
            template: &template,
            eos: turn_end(&eos_ids(&self.folder, &self.tokenizer).unwrap(), &self.tokenizer),
            limits: Limits { prompt: limits.0, response: limits.1 },
            context: 512,
            vocabulary: self.tokenizer.vocab_size(),
            need: Need::Responses,
            learn,
            rejects: None,
        };
        preparation.run(&self.dir.path().join("rows.tokens"))
    }

    /// What is learnt of an example, as text; end of turn in.
    fn learnt(&self, example: &Example) -> Vec<String> {
        let text = |stretch| self.tokenizer.decode(&example.ids[stretch], false).unwrap();
        example.learnt().map(text).collect()
    }
}

fn talk(words: &[&str]) -> Value {
    let who = |n: usize| if n.is_multiple_of(2) { "user" } else { "assistant" };
    let said = words.iter().enumerate().map(|(n, text)| json!({"role": who(n), "content": text}));
    json!({"messages": said.collect::<Vec<_>>()})
}

fn chatml() -> String {
    std::fs::read_to_string(fixture("score/llama/chat_template.jinja")).unwrap()
}

const FOUR: [&str; 4] = ["What is it?", "A vessel.", "And?", "An answer."];

/// Templates in the styles of ChatML, Llama 3 and Llama 2: the ids are those of `apply_chat_template` up to the last
/// reply's end, and what is learnt is what its mask marks.
#[test]
fn replies_are_those_that_transformers_marks() {
    let cases: Vec<Value> =
        serde_json::from_slice(&std::fs::read(fixture("talks/golden.json")).unwrap()).unwrap();
    assert_eq!(cases.len(), 15);
    for case in &cases {
        let text = |key: &str| case[key].as_str().unwrap();
        let list = |key: &str| -> Vec<u64> {
            case[key].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect()
        };
        let (ids, mask) = (list("ids"), list("mask"));
        let desk = Desk::new(text("tokenizer"), text("template"), &[json!({"messages": case["messages"]})]);
        let made = desk.prepare(Learn::Replies, (256, 256)).unwrap();
        let (counts, example) = (made.counts(), made.example(0));
        let end = mask.iter().rposition(|&m| m == 1).unwrap() + 1;
        assert_eq!(example.ids.iter().map(|&id| u64::from(id)).collect::<Vec<_>>(), ids[..end], "{case}");
        let learnt: Vec<usize> = example.learnt().flatten().collect();
        let marked: Vec<usize> = (0..mask.len()).filter(|&at| mask[at] == 1).collect();
        assert_eq!(learnt, marked, "{case}");
        assert_eq!((counts.learnt, counts.left_out, counts.last_alone), (marked.len(), 0, 0), "{case}");
    }
}

#[test]
fn each_reply_is_learnt_with_its_end_and_nothing_else() {
    let share = |from: &str, text: &str| json!({"from": from, "value": text});
    let told = [share("human", "Hm?"), share("gpt", "\nSo."), share("human", "Oh."), share("gpt", "Yes.")];
    let unanswered = talk(&[&FOUR[..], &["Well?"]].concat());
    for (row, last) in [
        (talk(&FOUR), vec!["A vessel.<|im_end|>", "An answer.<|im_end|>"]),
        (talk(&FOUR[..2]), vec!["A vessel.<|im_end|>"]),
        // Nobody answers what was said last.
        (unanswered, vec!["A vessel.<|im_end|>", "An answer.<|im_end|>"]),
        // The newline that begins the reply is no part of a token of the prompt.
        (json!({"conversations": told}), vec!["\nSo.<|im_end|>", "Yes.<|im_end|>"]),
    ] {
        let desk = Desk::new("llama", &chatml(), std::slice::from_ref(&row));
        let made = desk.prepare(Learn::Replies, (256, 256)).unwrap();
        assert_eq!(desk.learnt(&made.example(0)), last, "{row}");
    }
    let desk = Desk::new("llama", &chatml(), &[talk(&FOUR)]);
    let (all, only) =
        (desk.prepare(Learn::Replies, (256, 256)).unwrap(), desk.prepare(Learn::Last, (256, 256)).unwrap());
    assert_eq!(desk.learnt(&only.example(0)), ["An answer.<|im_end|>"]);
    assert_eq!(only.example(0).ids, all.example(0).ids, "the same tokens, less of them learnt");
    let desk = Desk::new("llama", &chatml(), &[json!({"messages": [{"role": "user", "content": "Hm?"}]})]);
    let error = desk.prepare(Learn::Replies, (256, 256)).unwrap_err().to_string();
    assert!(error.contains("rows.jsonl:1") && error.contains("a row without a response"), "{error}");
}

/// A template that rewrites what was said before, or ends no turn, or none: the last reply, counted.
#[test]
fn replies_that_a_template_hides_are_counted() {
    let rewriting =
        chatml().replace("message['content'] +", "(message['content'] if loop.last else '...') +");
    let endless = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    for (template, prompt) in [(rewriting.as_str(), "...<|im_end|>"), (endless, "user: And?\n")] {
        let desk = Desk::new("llama", template, &[talk(&FOUR), talk(&FOUR[..2])]);
        let made = desk.prepare(Learn::Replies, (256, 256)).unwrap();
        assert_eq!(made.counts().last_alone, 1, "the other has one reply alone");
        assert_eq!(desk.learnt(&made.example(0)), ["An answer.<|im_end|>"]);
        let text = desk.tokenizer.decode(&made.example(0).ids[..made.example(0).from], false).unwrap();
        assert!(text.contains(prompt), "{text}");
    }
    let desk = Desk::new("llama", "", &[talk(&FOUR)]);
    let made = desk.by(TemplateChoice::Plain, Learn::Replies, (256, 256)).unwrap();
    assert_eq!(made.counts().last_alone, 1);
}

/// What is too long loses its last replies; its first reply alone is cut as any row is.
#[test]
fn a_long_conversation_loses_its_end() {
    let desk = Desk::new("llama", &chatml(), &[talk(&FOUR)]);
    let whole = desk.prepare(Learn::Replies, (256, 256)).unwrap().example(0);
    let ends: Vec<usize> = whole.learnt().map(|stretch| stretch.end).collect();
    for (limits, left_out) in [((ends[1] - 20, 20), 0), ((ends[1] - 21, 20), 1), ((ends[0] - 20, 20), 1)] {
        let made = desk.prepare(Learn::Replies, limits).unwrap();
        assert_eq!(made.counts().left_out, left_out, "{limits:?}");
        assert_eq!(made.example(0).ids, whole.ids[..ends[1 - left_out]], "{limits:?}");
        assert_eq!(made.example(0).learnt().count(), 2 - left_out);
    }
    let made = desk.prepare(Learn::Replies, (256, 3)).unwrap();
    assert_eq!(made.counts().left_out, 0, "both together are within the limits");
    let long = talk(&["Why?", &"because ".repeat(60), "And?", "No."]);
    let desk = Desk::new("llama", &chatml(), &[long]);
    let made = desk.prepare(Learn::Replies, (80, 10)).unwrap();
    let (counts, example) = (made.counts(), made.example(0));
    assert_eq!((counts.left_out, counts.cut, counts.learnt), (1, 1, 10));
    assert!(!desk.learnt(&example)[0].contains("im_end"), "a cut reply has no end");
}
