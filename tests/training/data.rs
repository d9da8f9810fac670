//! Rows and text on their way to tokens, with a real tokenizer: what is shortened, cut, kept and counted.

use std::path::{Path, PathBuf};

use retort::config::Learn;
use retort::data::{Corpus, Limits, Need, Packed, Preparation, TokenFile};
use retort::error::Result;
use retort::text::{TemplateChoice, Tokenizer, eos_ids, turn_end};
use serde_json::json;

use crate::support::fixture;

/// A tokenizer, and a folder for what is made.
struct Desk {
    dir: tempfile::TempDir,
    tokenizer: Tokenizer,
    eos: Option<u32>,
    template: TemplateChoice,
    files: Vec<PathBuf>,
    learn: Learn,
}

impl Desk {
    fn new(template: TemplateChoice, lines: &[serde_json::Value]) -> Desk {
        let dir = tempfile::tempdir().unwrap();
        let folder = fixture("score/llama");
        let tokenizer = Tokenizer::load(&folder).unwrap();
        let eos = turn_end(&eos_ids(&folder, &tokenizer).unwrap(), &tokenizer);
        let desk = Desk {
            tokenizer,
            eos,
            template,
            files: vec![dir.path().join("rows.jsonl")],
            learn: Learn::Replies,
            dir,
        };
        desk.write("rows.jsonl", &lines.iter().map(|l| format!("{l}\n")).collect::<String>());
        desk
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn prepare(&self, prompt: usize, response: usize, rejects: Option<&Path>) -> Result<TokenFile> {
        let preparation = Preparation {
            files: &self.files,
            tokenizer: &self.tokenizer,
            template: &self.template,
            eos: self.eos,
            limits: Limits { prompt, response },
            context: 512,
            vocabulary: 320,
            need: Need::Responses,
            learn: self.learn,
            rejects,
        };
        preparation.run(&self.dir.path().join("rows.tokens"))
    }

    fn ids(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text, false).unwrap()
    }
}

fn instruction(text: &str, input: &str, output: &str) -> serde_json::Value {
    json!({"instruction": text, "input": input, "output": output})
}

#[test]
fn a_long_instruction_is_shortened_and_the_template_stays_whole() {
    let long = "Say what a retort is, and where it stands. ".repeat(20);
    let rows = [
        instruction(&long, "", " A vessel."),
        instruction("Say it.", "", " A vessel."),
        instruction("Sum it up.", &long, " A vessel."),
    ];
    let desk = Desk::new(TemplateChoice::Alpaca, &rows);
    let whole = desk.prepare(4000, 100, None);
    assert!(whole.is_err(), "longer than the context");
    let made = desk.prepare(230, 100, None).unwrap();
    assert_eq!((made.counts().shortened, made.counts().cut), (2, 0));
    let response = desk.ids(" A vessel.");
    for row in 0..3 {
        let example = made.example(row);
        let prompt = &example.ids[..example.from];
        assert!(prompt.len() <= 230, "{}", prompt.len());
        let text = desk.tokenizer.decode(prompt, false).unwrap();
        assert!(text.ends_with("### Response:"), "{text}");
        assert!(text.starts_with("Below is an instruction"), "{text}");
        assert_eq!(example.ids[example.from..example.ids.len() - 1], response);
        assert_eq!(example.ids.last().copied(), desk.eos);
        assert_eq!(text.contains("where it stands."), row != 1);
    }
    // What fits is used: one more character of the text would be too much.
    assert!(made.prompt_len(0) >= 228 && made.prompt_len(2) >= 228);
    let text = desk.tokenizer.decode(&made.example(2).ids, false).unwrap();
    assert!(text.contains("Sum it up."), "the shorter text is whole: {text}");
    let error = desk.prepare(20, 100, None).unwrap_err().to_string();
    assert!(error.contains("rows.jsonl:1") && error.contains("data.max_prompt"), "{error}");
}

#[test]
fn a_cut_response_gets_no_eos() {
    let text = " A vessel with a long neck.";
    let desk = Desk::new(TemplateChoice::Plain, &[json!({"prompt": "What?", "response": text})]);
    let (prompt, response) = (desk.ids("What?"), desk.ids(text));
    let whole = desk.prepare(100, response.len() + 1, None).unwrap();
    assert_eq!(whole.example(0).ids, [&prompt[..], &response, &[desk.eos.unwrap()]].concat());
    assert_eq!((whole.counts().cut, whole.counts().learnt), (0, response.len() + 1));
    let cut = desk.prepare(100, response.len(), None).unwrap();
    assert_eq!(cut.example(0).ids, [&prompt[..], &response].concat());
    assert_eq!(cut.counts().cut, 1);
    let short = desk.prepare(100, 2, None).unwrap();
    assert_eq!(short.example(0).ids, [&prompt[..], &response[..2]].concat());
}

#[test]
fn tokens_are_kept_until_something_they_depend_on_changes() {
    let mut desk = Desk::new(TemplateChoice::Plain, &[json!({"prompt": "a", "response": "b"})]);
    let made = |desk: &Desk, response| {
        let file = desk.prepare(100, response, None).unwrap();
        let meta = std::fs::metadata(desk.dir.path().join("rows.tokens")).unwrap();
        (file.example(0).ids, std::os::unix::fs::MetadataExt::ino(&meta))
    };
    let first = made(&desk, 100);
    assert_eq!(first, made(&desk, 100), "the same file");
    assert_ne!(first.1, made(&desk, 99).1, "another limit");
    let before = made(&desk, 100).1;
    desk.template = TemplateChoice::Alpaca;
    assert_ne!(before, made(&desk, 100).1, "another template");
    let before = made(&desk, 100).1;
    desk.write("rows.jsonl", "{\"prompt\": \"a\", \"response\": \"c\"}\n");
    assert_ne!(before, made(&desk, 100).1, "other rows");
    // A file of tokens that was spoilt is made again.
    let path = desk.dir.path().join("rows.tokens");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    assert_eq!(made(&desk, 100).0, TokenFile::open_any(&path).unwrap().example(0).ids);
}

#[test]
fn bad_rows_stop_or_go_aside() {
    let rows = [
        json!({"prompt": "a", "response": "b"}),
        json!({"prompt": 3, "response": "b"}),
        json!({"prompt": "no response"}),
        json!({"prompt": "a", "response": "c"}),
    ];
    let desk = Desk::new(TemplateChoice::Plain, &rows);
    let error = desk.prepare(100, 100, None).unwrap_err().to_string();
    assert!(error.contains("rows.jsonl:2: prompt"), "{error}");
    let made = desk.prepare(100, 100, Some(desk.dir.path())).unwrap();
    assert_eq!((made.rows(), made.counts().rejected), (2, 2));
    assert_eq!((made.origin(0).line, made.origin(1).line), (1, 4));
    let rejects = std::fs::read_to_string(desk.dir.path().join("rows.jsonl.rejects.jsonl")).unwrap();
    assert_eq!(rejects, format!("{}\n{}\n", rows[1], rows[2]));
}

/// More rows than are in memory together come out in their order.
#[test]
fn many_rows_keep_their_order() {
    let rows: Vec<_> = (0..9000).map(|n| json!({"ids": [n % 320, 1, 2], "prompt_len": 1})).collect();
    let desk = Desk::new(TemplateChoice::Plain, &rows);
    let made = desk.prepare(100, 100, None).unwrap();
    assert_eq!((made.rows(), made.counts().learnt), (9000, 18_000));
    for row in (0..9000).step_by(7) {
        assert_eq!(made.example(row).ids[0] as usize, row % 320);
        assert_eq!(made.origin(row).line as usize, row + 1);
    }
    let desk = Desk::new(TemplateChoice::Plain, &[json!({"ids": [1, 320]})]);
    let error = desk.prepare(100, 100, None).unwrap_err().to_string();
    assert!(error.contains("expected an id below 320, found 320"), "{error}");
}

/// The same documents in lines of JSON and in plain text.
#[test]
fn documents_are_packed_with_their_ends() {
    let desk = Desk::new(TemplateChoice::Plain, &[]);
    let documents = ["A retort is a vessel.", "It has a long neck,\nbent down.", "Nothing more."];
    let lines: String = documents.iter().map(|d| format!("{}\n", json!({"text": d}))).collect();
    let rows = desk.write("text.jsonl", &lines);
    let plain = desk.write("text.txt", &(documents.join("\n\n\n") + "\n<|im_end|>\n\n"));
    let tokens = |path: PathBuf| {
        let files = [path];
        let corpus = Corpus { files: &files, tokenizer: &desk.tokenizer, eos: desk.eos };
        assert_eq!(corpus.bos(), None);
        corpus.run(&desk.dir.path().join("corpus.tokens")).unwrap()
    };
    let expected: Vec<Vec<u32>> =
        documents.iter().map(|d| [desk.ids(d), vec![desk.eos.unwrap()]].concat()).collect();
    for path in [rows, plain] {
        let made = tokens(path);
        let found: Vec<Vec<u32>> = (0..made.rows()).map(|row| made.example(row).ids).collect();
        assert_eq!(found, expected);
        let total = made.counts().tokens;
        let mut packed = Packed::new(made, 8, None, 1);
        let stream: Vec<u32> = (0..packed.rows() as u64).flat_map(|n| packed.row(n).ids).collect();
        let ends = stream[..total].iter().filter(|id| Some(**id) == desk.eos).count();
        assert_eq!(ends, 3, "one for each document");
    }
}
