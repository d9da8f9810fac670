//! tokenizer.json files and chat templates made to break their reader: each is an error of data (or
//! works), in bounded time and memory, and nothing panics.

#![expect(clippy::unwrap_used, reason = "a test says so by panicking")]

use std::time::{Duration, Instant};

use retort::error::Cause;
use retort::text::template::Chat;
use retort::text::{Message, Tokenizer};
use serde_json::{Value, json};

fn good() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 4, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {"<unk>": 0, "a": 1, "b": 2, "ab": 3}, "merges": [["a", "b"]]},
    })
}

fn with(path: &str, value: Value) -> Vec<u8> {
    let mut json = good();
    *json.pointer_mut(path).unwrap() = value;
    json.to_string().into_bytes()
}

fn unigram(vocab: Value, unk: Value) -> Vec<u8> {
    with("/model", json!({"type": "Unigram", "unk_id": unk, "vocab": vocab, "byte_fallback": false}))
}

/// A use of a tokenizer that loaded: whatever it is, it must not panic, nor take long.
fn exercise(tokenizer: &Tokenizer) {
    for text in ["", "ab ab b", "\u{0}\u{ffff} \u{1f600} e\u{301}", &"a b ".repeat(2000)] {
        if let Ok(ids) = tokenizer.encode(text, true) {
            let _ = tokenizer.decode(&ids, false);
        }
    }
    let _ = tokenizer.decode(&[0, 1, 7, u32::MAX], true);
}

fn refused() -> Vec<(&'static str, Vec<u8>)> {
    let text = good().to_string();
    let nested = |depth: usize| {
        let mut normalizer = json!({"type": "Lowercase"});
        for _ in 0..depth {
            normalizer = json!({"type": "Sequence", "normalizers": [normalizer]});
        }
        with("/normalizer", normalizer)
    };
    let replace = |times: usize| {
        let one = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        with("/normalizer", json!({"type": "Sequence", "normalizers": vec![one; times]}))
    };
    let piece = |id: &str| json!([{"SpecialToken": {"id": id, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
    let post = |ids: Value| {
        json!({"type": "TemplateProcessing", "single": piece("X"), "pair": piece("X"),
            "special_tokens": {"X": {"id": "X", "ids": ids, "tokens": ["X"]}}})
    };
    vec![
        ("empty", Vec::new()),
        ("truncated", text.as_bytes()[..text.len() / 2].to_vec()),
        ("not UTF-8", b"{\"model\": \"\xff\"}".to_vec()),
        ("a list", b"[]".to_vec()),
        ("null", b"null".to_vec()),
        ("no model", b"{\"version\": \"1.0\"}".to_vec()),
        ("model null", with("/model", Value::Null)),
        ("model a number", with("/model", json!(7))),
        ("model type unknown", with("/model/type", json!("GPT"))),
        ("model type a number", with("/model/type", json!(1))),
        ("version unknown", with("/version", json!("9.9"))),
        ("vocab null", with("/model/vocab", Value::Null)),
        ("vocab a list", with("/model/vocab", json!(["a"]))),
        ("vocab empty", with("/model/vocab", json!({}))),
        ("id negative", with("/model/vocab/a", json!(-1))),
        ("id huge", with("/model/vocab/a", json!(4_000_000_000u64))),
        ("id beyond u64", text.replace("\"a\":1", "\"a\":99999999999999999999999").into_bytes()),
        ("id a fraction", with("/model/vocab/a", json!(1.5))),
        ("id a string", with("/model/vocab/a", json!("1"))),
        ("id twice", with("/model/vocab/a", json!(2))),
        ("id far beyond", with("/model/vocab/a", json!(10_000_000))),
        ("token twice", text.replace("\"a\":1", "\"a\":1,\"a\":5").into_bytes()),
        ("merge unknown", with("/model/merges", json!([["a", "zz"]]))),
        ("merge result unknown", with("/model/merges", json!([["b", "a"]]))),
        ("merge of three", with("/model/merges", json!(["a b c"]))),
        ("merges a string", with("/model/merges", json!("a b"))),
        ("merges of numbers", with("/model/merges", json!([[1, 2]]))),
        ("dropout 2", with("/model/dropout", json!(2.0))),
        ("dropout a list", with("/model/dropout", json!([1]))),
        ("prefix huge", with("/model/continuing_subword_prefix", json!("x".repeat(1 << 20)))),
        ("padding of the wrong type", with("/padding", json!(7))),
        ("added without content", with("/added_tokens/0", json!({"id": 4}))),
        ("added empty", with("/added_tokens/0/content", json!(""))),
        ("added id huge", with("/added_tokens/0/id", json!(4_000_000_000u64))),
        ("added a number", with("/added_tokens", json!(3))),
        ("added a list of numbers", with("/added_tokens", json!([1, 2]))),
        ("normalizer unknown", with("/normalizer", json!({"type": "Nope"}))),
        ("normalizer a list", with("/normalizer", json!([]))),
        ("nested deep", nested(40)),
        ("nested deeper than a stack", {
            let (open, close) = ("{\"type\":\"Sequence\",\"normalizers\":[", "]}");
            text.replace(
                "\"normalizer\":null",
                &format!("\"normalizer\":{}{}", open.repeat(100_000), close.repeat(100_000)),
            )
            .into_bytes()
        }),
        ("doubling", replace(40)),
        ("prepend huge", with("/normalizer", json!({"type": "Prepend", "prepend": "x".repeat(1 << 20)}))),
        (
            "charsmap garbage",
            with("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"})),
        ),
        (
            "charsmap not base64",
            with("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "!!!"})),
        ),
        (
            "charsmap a lie",
            with("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="})),
        ),
        (
            "regex broken",
            with(
                "/pre_tokenizer",
                json!({"type": "Split", "pattern": {"Regex": "(["}, "behavior": "Isolated", "invert": false}),
            ),
        ),
        (
            "regex huge",
            with(
                "/pre_tokenizer",
                json!({"type": "Split", "pattern": {"Regex": "a|".repeat(1 << 20)}, "behavior": "Isolated", "invert": false}),
            ),
        ),
        ("pieces of no length", with("/pre_tokenizer", json!({"type": "FixedLength", "length": 0}))),
        ("special id unknown", with("/post_processor", post(json!([900])))),
        ("special id huge", with("/post_processor", post(json!([4_000_000_000u64])))),
        (
            "special token undefined",
            with(
                "/post_processor",
                json!({"type": "TemplateProcessing", "single": piece("X"), "pair": piece("X"), "special_tokens": {}}),
            ),
        ),
        ("post-processor a string", with("/post_processor", json!("x"))),
        ("unigram empty", unigram(json!([]), Value::Null)),
        ("unigram unk beyond", unigram(json!([["a", -1.0]]), json!(5))),
        ("unigram unk negative", unigram(json!([["a", -1.0]]), json!(-1))),
        ("unigram no pairs", unigram(json!(["a", "b"]), json!(0))),
        ("unigram token twice", unigram(json!([["a", -1.0], ["a", -2.0]]), json!(0))),
        (
            "unigram score infinite",
            b"{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"a\",1e999]]}}".to_vec(),
        ),
    ]
}

#[test]
fn hostile_tokenizers_are_refused() {
    let mut passed = Vec::new();
    for (name, bytes) in refused() {
        let start = Instant::now();
        match Tokenizer::from_bytes(&bytes) {
            Ok(tokenizer) => {
                exercise(&tokenizer);
                passed.push(name);
            }
            Err(e) => {
                assert_eq!(e.cause(), Cause::Data, "{name}: {e}");
                assert!(e.to_string().lines().count() <= 2 && e.to_string().len() < 1500, "{name}: {e}");
            }
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{name}: {:?}", start.elapsed());
    }
    assert!(passed.is_empty(), "these were taken: {passed:?}");
}

#[test]
fn odd_tokenizers_load_and_do_no_harm() {
    let huge = json!({"strategy": {"Fixed": 200_000_000}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"});
    let truncation = json!({"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 0});
    for (name, bytes) in [
        ("good", good().to_string().into_bytes()),
        ("padding huge", with("/padding", huge)),
        ("truncation to nothing", with("/truncation", truncation)),
        ("dropout", with("/model/dropout", json!(0.9))),
        ("an id with a hole", with("/model/vocab/ab", json!(900))),
        (
            "slow regex",
            with(
                "/pre_tokenizer",
                json!({"type": "Split", "pattern": {"Regex": "(a*)*c"}, "behavior": "Isolated", "invert": false}),
            ),
        ),
        (
            "repeats of repeats",
            with(
                "/pre_tokenizer",
                json!({"type": "Split", "pattern": {"Regex": "((a{900}){900}){900}"}, "behavior": "Isolated", "invert": false}),
            ),
        ),
        ("no unknown", with("/model/unk_token", json!("nope"))),
        ("unigram without unk", unigram(json!([["a", -1.0], ["b", -1e308]]), Value::Null)),
    ] {
        let start = Instant::now();
        match Tokenizer::from_bytes(&bytes) {
            Ok(tokenizer) => {
                exercise(&tokenizer);
                let first = tokenizer.encode("ab ab", true).ok();
                assert!((0..5).all(|_| tokenizer.encode("ab ab", true).ok() == first), "{name}");
                assert!(first.is_none_or(|ids| ids.len() < 10), "{name}");
            }
            Err(e) => assert_eq!(e.cause(), Cause::Data, "{name}: {e}"),
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{name}: {:?}", start.elapsed());
    }
    let padded = Tokenizer::from_bytes(&with("/model/vocab/ab", json!(900))).unwrap();
    assert_eq!(padded.vocab_size(), 901);
    assert_eq!(padded.id_to_token(500), None);
}

/// The most memory this process has had, in MiB.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or_default().to_string();
    line.split_whitespace().nth(1).and_then(|n| n.parse::<usize>().ok()).unwrap_or(0) / 1024
}

#[test]
fn hostile_templates_are_refused_in_bounded_time_and_memory() {
    let doubling =
        "{% set x = 'aaaaaaaaaaaaaaaa' %}".to_string() + &"{% set x = x ~ x %}".repeat(60) + "{{ x }}";
    let plus = "{% set x = 'aaaaaaaaaaaaaaaa' %}".to_string() + &"{% set x = x + x %}".repeat(60) + "{{ x }}";
    let lists = "{% set x = [1, 2] %}".to_string() + &"{% set x = x + x %}".repeat(60) + "{{ x | length }}";
    let nest = "{% set x = [1, 2] %}".to_string() + &"{% set x = [x, x] %}".repeat(90);
    let replaces = "{{ 'a'".to_string() + &" | replace('a', 'aaaaaaaaaaaaaaaaaaaa')".repeat(20) + " }}";
    let methods = "{{ 'a'".to_string() + &".replace('a', 'aaaaaaaaaaaaaaaaaaaa')".repeat(20) + " }}";
    let sums = "{{ ".to_string() + &["('x' * 90000000)"; 200].join(" ~ ") + " }}";
    let deep = "{{ ".to_string() + &"(".repeat(50_000) + "1" + &")".repeat(50_000) + " }}";
    let lots = "{% for i in range(99999) %}".repeat(4) + "x" + &"{% endfor %}".repeat(4);
    let raw = format!(
        "{{% set s %}}{}{}{}{{% endset %}}",
        "{% for i in range(99999) %}".repeat(2),
        "word ".repeat(20_000),
        "{% endfor %}".repeat(2)
    );
    let cases: Vec<(&str, String)> = vec![
        ("times", "{{ 'x' * 10**9 }}".into()),
        ("times the other way", "{{ 1000000000 * 'xx' }}".into()),
        ("a list times", "{{ ([1] * 10**9) | length }}".into()),
        ("doubling", doubling),
        ("doubling by plus", plus),
        ("doubling in a namespace", "{% set ns = namespace(s='aaaa') %}{% for i in range(90) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}".into()),
        ("doubling lists", lists),
        ("a nest of lists as JSON", nest.clone() + "{{ x | tojson }}"),
        ("a nest of lists as text", nest + "{{ x }}"),
        ("replaces", replaces),
        ("replaces by method", methods),
        ("sums of large texts", sums),
        ("joins", "{{ range(99999) | join('x' * 100000) }}".into()),
        ("range", "{% for i in range(10**9) %}x{% endfor %}".into()),
        ("range listed", "{{ range(10**12) | list | length }}".into()),
        ("loops in loops", lots),
        ("raw text in loops", raw),
        ("text out without end", "{% for i in range(99999) %}{{ 'x' * 10000 }}{% endfor %}".into()),
        ("a macro that calls itself", "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('a') }}".into()),
        ("a macro that doubles", "{% macro f(n, s) %}{% if n %}{{ f(n - 1, s ~ s) }}{% else %}{{ s }}{% endif %}{% endmacro %}{{ f(60, 'aa') }}".into()),
        ("captures that double", "{% set ns = namespace(s='aaaa') %}{% for i in range(90) %}{% set t %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = t %}{% endfor %}{{ ns.s }}".into()),
        ("brackets", deep),
        ("format", "{{ '%999999999d' | format(1) }}".into()),
        ("format by method", "{{ '{:>999999999}'.format(1) }}".into()),
        ("indent", "{{ 'x' | indent(999999999) }}".into()),
        ("indent of JSON", "{{ [1] | tojson(indent=999999999) }}".into()),
        ("a namespace in itself", "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}".into()),
        ("namespaces in each other", "{% set a = namespace() %}{% set b = namespace(x=a) %}{% set a.x = b %}{{ a == b }}".into()),
        ("a nest compared", "{% set x = [1, 2] %}{% set y = [1, 2] %}".to_string() + &"{% set x = [x, x] %}{% set y = [y, y] %}".repeat(60) + "{{ x == y }}"),
        ("power", "{{ 9 ** 9 ** 9 ** 9 }}".into()),
        ("a large power", "{{ 10 ** 400 }}".into()),
        ("include", "{% include '/etc/passwd' %}".into()),
        ("import", "{% import 'x' as y %}{{ y.z }}".into()),
        ("no end", "{% for m in messages %}".into()),
        ("no such filter", "{{ messages | nope }}".into()),
        ("no such method", "{{ messages[0].content.nope() }}".into()),
        ("an attribute of nothing", "{{ nothing.at.all }}".into()),
        ("too large", "x".repeat(2 << 20)),
        ("raises", "{{ raise_exception('a\nb\u{1b}[2J') }}".into()),
        ("batch", "{{ [1] | batch(10**9, 'x') | list }}".into()),
        ("unique of many", "{% for i in range(99999) %}{{ range(99999) | unique | list | length }}{% endfor %}".into()),
        ("sort of many", "{% for i in range(99999) %}{{ range(99999) | sort | first }}{% endfor %}".into()),
        ("splits", "{% for i in range(99999) %}{{ ('a ' * 100000).split() | length }}{% endfor %}".into()),
        ("searches", "{% set x = 'a' * 1000000 %}{% for i in range(99999) %}{% if 'b' in x %}{% endif %}{% for j in range(9) %}{{ x.find('b') }}{% endfor %}{% endfor %}".into()),
    ];
    let before = peak();
    for (name, source) in cases {
        let start = Instant::now();
        let made =
            Chat::with_tokens(&source, []).and_then(|chat| chat.render(&[Message::new("user", "hi")], true));
        assert!(made.is_err(), "{name}: {made:?}");
        let e = made.unwrap_err();
        assert_eq!(e.cause(), Cause::Data, "{name}: {e}");
        assert_eq!(e.to_string().lines().count(), 1, "{name}: {e}");
        assert!(start.elapsed() < Duration::from_secs(15), "{name}: {:?}", start.elapsed());
        assert!(peak() < before + 1500, "{name}: {} MiB", peak());
    }
}
