//! Tokenizers, the files beside them, and chat templates.

use serde_json::{Value, json};

use super::folder::Folder;
use super::{Case, Run};

const FILE: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";

fn case(name: &str, says: &str, change: impl Fn(&Folder) + 'static) -> Case {
    Case::new(format!("text: {name}"), Run::Inspect, says, change)
}

/// Changes tokenizer.json.
fn edit(name: &str, says: &str, change: impl Fn(&mut Value) + 'static) -> Case {
    case(&format!("tokenizer: {name}"), says, move |f| f.edit(FILE, &change))
}

fn set(name: &str, says: &str, at: &'static str, value: Value) -> Case {
    edit(name, says, move |t| *t.pointer_mut(at).unwrap() = value.clone())
}

pub fn cases() -> Vec<Case> {
    [files(), vocabularies(), parts(), beside(), ends(), templates(), legacy()]
        .into_iter()
        .flatten()
        .collect()
}

fn files() -> Vec<Case> {
    let text = |name: &str, says: &str, text: Vec<u8>| case(name, says, move |f| f.write(FILE, &text));
    vec![
        case("no tokenizer", "tokenizer.json, or vocab.json with merges.txt", |f| f.remove(FILE)),
        case("a tokenizer cut in the middle", "not valid JSON", |f| f.cut(FILE, 5000)),
        case("a pipe for a tokenizer", "not a file", |f| f.pipe(FILE)),
        case("a device for a tokenizer", "not a file", |f| f.link(FILE, "/dev/zero")),
        text("an empty tokenizer", "not valid JSON", vec![]),
        text("a tokenizer of nothing", "model", b"{}".into()),
        text("a tokenizer nested a million deep", "nested too deep", b"[".repeat(1_000_000)),
        text("a tokenizer that is not UTF-8", "offset 2", b"{\"\xff\": 1}".into()),
        text(
            "a tokenizer of 30 million values",
            "too many values",
            b"[0,".to_vec().into_iter().chain(b"0,".repeat(30_000_000)).collect(),
        ),
        case("a key that occurs twice", "occurs twice", |f| f.replace(FILE, "{", "{\"model\": {},")),
    ]
}

fn vocabularies() -> Vec<Case> {
    vec![
        set("a model of no type that is known", "BPE, WordPiece", "/model/type", json!("Oracle")),
        set("a vocabulary that is a list", "model.vocab", "/model/vocab", json!([])),
        set("an id below zero", "-1 for the token", "/model/vocab/!", json!(-1)),
        set("an id of two billion", "2000000000 for the token", "/model/vocab/!", json!(2_000_000_000)),
        set("an id that is there twice", "every id once", "/model/vocab/!", json!(5)),
        set(
            "merges of unknown tokens",
            "not a tokenizer that can be used",
            "/model/merges",
            json!(["qqq zzz"]),
        ),
        set("merges that are no pairs", "pairs of tokens", "/model/merges", json!(["a b c"])),
        set("a token of a megabyte", "tokens of at most", "/model/vocab", json!({"x".repeat(1 << 20): 0})),
        set("an added token far away", "added_tokens[1]", "/added_tokens/1/id", json!(4_000_000_000u64)),
        set(
            "a Unigram whose unknown id is outside",
            "model.unk_id",
            "/model",
            json!({
                "type": "Unigram", "unk_id": 7, "vocab": [["a", 0.0]],
            }),
        ),
    ]
}

fn parts() -> Vec<Case> {
    let normalizer = |name: &str, says: &str, value: Value| set(name, says, "/normalizer", value);
    let replace = |content: usize| json!({"type": "Replace", "pattern": {"String": "e"}, "content": "e".repeat(content)});
    vec![
        normalizer("a normalizer that nobody knows", "not a tokenizer", json!({"type": "Shred"})),
        normalizer(
            "a bomb of replacements",
            "thousands of times",
            json!({
                "type": "Sequence", "normalizers": [replace(500), replace(500), replace(500), replace(500)],
            }),
        ),
        normalizer(
            "a regex that is none",
            "not a tokenizer",
            json!({
                "type": "Replace", "pattern": {"Regex": "("}, "content": "x",
            }),
        ),
        set(
            "a piece of length 0",
            "a length of at least 1",
            "/pre_tokenizer",
            json!({"type": "FixedLength", "length": 0}),
        ),
        set(
            "a pre-tokenizer of a broken regex",
            "not a tokenizer",
            "/pre_tokenizer",
            json!({
                "type": "Split", "pattern": {"Regex": "[z-a]"}, "behavior": "Isolated", "invert": false,
            }),
        ),
        set(
            "a template of unknown tokens",
            "not a tokenizer that can be used",
            "/post_processor",
            json!({
                "type": "TemplateProcessing", "pair": [],
                "single": [{"SpecialToken": {"id": "<x>", "type_id": 0}}], "special_tokens": {},
            }),
        ),
    ]
}

fn beside() -> Vec<Case> {
    let config =
        |name: &str, says: &str, change: fn(&mut Value)| case(name, says, move |f| f.edit(CONFIG, change));
    vec![
        case("a tokenizer_config.json that is a list", "expected an object", |f| f.write(CONFIG, "[]")),
        case("a tokenizer_config.json cut short", "not valid JSON", |f| f.cut(CONFIG, 50)),
        case("a pipe for a tokenizer_config.json", "not a file", |f| f.pipe(CONFIG)),
        config("a template that is a number", "not a chat template", |c| c["chat_template"] = json!(5)),
        config("added tokens of no number", "added_tokens_decoder", |c| {
            c["added_tokens_decoder"] = json!({"x": {"content": "y"}});
        }),
        case("a template that is not UTF-8", "not UTF-8", |f| f.write("chat_template.jinja", b"\xff")),
        case("a template of 2 MiB", "too large", |f| f.write("chat_template.jinja", vec![b' '; 2 << 20])),
    ]
    .into_iter()
    .map(|c| if c.name.contains("a template that is a number") { without_jinja(c) } else { c })
    .collect()
}

/// The template of tokenizer_config.json counts only without a chat_template.jinja.
fn without_jinja(case: Case) -> Case {
    let change = case.change;
    let both = move |f: &Folder| {
        f.remove("chat_template.jinja");
        change(f);
    };
    Case { change: Box::new(both), ..case }
}

/// Where replies end.
fn ends() -> Vec<Case> {
    const FILE: &str = "generation_config.json";
    let end = |name: &str, says: &str, text: &'static str| {
        Case::new(format!("text: {name}"), Run::Generate, says, move |f| f.write(FILE, text))
    };
    vec![
        end("a generation_config.json of garbage", "not valid JSON", "garbage"),
        end("a generation_config.json that is a list", "expected an object", "[]"),
        end("an end that is a fraction", "a whole number", "{\"eos_token_id\": 1.5}"),
        end("an end that is a text", "eos_token_id", "{\"eos_token_id\": \"</s>\"}"),
        end("an end that is said twice", "occurs twice", "{\"eos_token_id\": 2, \"eos_token_id\": 3}"),
        Case::new("text: a pipe for a generation_config.json", Run::Generate, "not a file", |f| f.pipe(FILE)),
    ]
}

fn templates() -> Vec<Case> {
    let jinja = |name: &str, says: &str, text: &str| {
        let text = text.to_string();
        Case::new(format!("template: {name}"), Run::Generate, says, move |f| {
            f.write("chat_template.jinja", &text);
        })
    };
    const BROKEN: &str = "cannot be used";
    const REFUSES: &str = "refuses a conversation";
    let deep = "{% if 1 %}".repeat(50_000);
    vec![
        jinja("an open tag", BROKEN, "{% for m in messages %}"),
        jinja("a filter that nobody knows", "explode", "{{ messages | explode }}"),
        jinja("an include", REFUSES, "{% include '/etc/passwd' %}"),
        jinja("tags nested 50000 deep", BROKEN, &deep),
        jinja("brackets nested 100000 deep", BROKEN, &format!("{{{{ {}1 }}}}", "(".repeat(100_000))),
        jinja("lists nested 100000 deep", BROKEN, &format!("{{{{ {} }}}}", "[".repeat(100_000))),
        jinja(
            "a sum of 50000 numbers",
            "a tag of more than",
            &format!("{{{{ nope(1{}) }}}}", " + 1".repeat(50_000)),
        ),
        jinja("half a megabyte", "more than the", &"x".repeat(500_000)),
        jinja(
            "an endless loop",
            REFUSES,
            "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
        ),
        jinja("a range of 10^18", REFUSES, "{% for a in range(10**18) %}x{% endfor %}"),
        jinja("a text times a billion", REFUSES, "{{ 'a' * 1000000000 }}"),
        jinja(
            "a text doubled fifty times",
            REFUSES,
            "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(50) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        ),
        jinja(
            "a list doubled fifty times",
            REFUSES,
            "{% set ns = namespace(s=[1]) %}{% for i in range(50) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s | length }}",
        ),
        jinja(
            "a list in itself, as JSON",
            REFUSES,
            "{% set ns = namespace(s=[1]) %}{% for i in range(90) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson }}",
        ),
        jinja(
            "a replacement of nothing by much",
            REFUSES,
            "{% set s = 'a' * 100000 %}{{ s.replace('', s) }}",
        ),
        jinja("a macro that calls itself", REFUSES, "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
        jinja("a division by zero", REFUSES, "{{ 1 // 0 }}"),
        jinja("an exception of its own", "only one turn", "{{ raise_exception('only one turn') }}"),
        jinja("a prompt of nothing", "no tokens", ""),
    ]
}

/// vocab.json with merges.txt.
fn legacy() -> Vec<Case> {
    let gpt2 = |name: &str, says: &str, change: fn(&Folder)| {
        case(&format!("legacy: {name}"), says, change).of("score/gpt2")
    };
    vec![
        gpt2("no merges.txt", "merges.txt", |f| f.remove("merges.txt")),
        gpt2("no vocab.json", "a part of the model folder is missing", |f| f.remove("vocab.json")),
        gpt2("a vocab.json that is a list", "model.vocab", |f| f.write("vocab.json", "[]")),
        gpt2("a vocab.json with an id twice", "every id once", |f| {
            f.write("vocab.json", "{\"a\": 0, \"b\": 0}")
        }),
        gpt2("a merge of three", "merges.txt:2", |f| f.write("merges.txt", "#version: 0.2\na b c\n")),
        gpt2("merges that are not UTF-8", "not UTF-8", |f| f.write("merges.txt", b"\xff \xfe\n")),
        gpt2("merges of unknown tokens", "not a tokenizer", |f| f.write("merges.txt", "qqq zzz\n")),
        gpt2("a device for merges", "not a file", |f| f.link("merges.txt", "/dev/zero")),
    ]
}
