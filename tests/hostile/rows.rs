//! Files of rows.

use super::folder::Folder;
use super::{Case, Run};

const FILE: &str = "rows.jsonl";

fn case(name: &str, says: &str, change: impl Fn(&Folder) + 'static) -> Case {
    Case::new(format!("rows: {name}"), Run::Score, says, change)
}

/// A file of these bytes; the error must also name the line, unless it is 0.
fn rows(name: &str, line: usize, says: &str, bytes: impl AsRef<[u8]> + 'static) -> Case {
    Case { line, ..case(name, says, move |f| f.write(FILE, &bytes)) }
}

pub fn cases() -> Vec<Case> {
    [the_file(), the_lines(), the_schemas(), the_ids(), the_lengths()].into_iter().flatten().collect()
}

fn the_file() -> Vec<Case> {
    vec![
        rows("an empty file", 0, "no row", ""),
        rows("blank lines alone", 0, "no row", "\n \n\t\n\r\n"),
        rows("UTF-16", 1, "offset 0", b"\xff\xfe{\0\"\0t\0"),
        case("no file", "no such file", |f| f.remove(FILE)).code(2),
        case("a folder", "a folder where", |f| {
            f.remove(FILE);
            std::fs::create_dir(f.at(FILE)).unwrap();
        })
        .code(2),
        case("a device that never ends", "a line is too long", |f| f.link(FILE, "/dev/zero")),
        rows("one JSON list instead of lines", 1, "not a row", "[{\"text\": \"a\"}]\n"),
        rows("one indented JSON document", 1, "not valid JSON", "{\n  \"text\": \"a\"\n}\n"),
    ]
}

fn the_lines() -> Vec<Case> {
    vec![
        rows("bad JSON in line 3", 3, "not valid JSON", "{\"text\": \"a\"}\n\n{\"text\": \"b\"\n"),
        rows("not UTF-8 in line 2", 2, "offset 10", b"{\"text\": \"a\"}\n{\"text\": \"\xc3\x28\"}\n"),
        rows("half a surrogate pair", 1, "not valid JSON", "{\"text\": \"\\ud83d\"}\n"),
        rows("a literal NaN", 1, "not valid JSON", "{\"text\": NaN}\n"),
        rows("a key that occurs twice", 1, "not valid JSON", "{\"text\": \"a\", \"text\": \"b\"}\n"),
        rows("two documents in a line", 1, "not valid JSON", "{\"text\": \"a\"} {\"text\": \"b\"}\n"),
        rows("nested a million deep", 1, "nested too deep", format!("{{\"text\": {}", "[".repeat(1_000_000))),
        rows("a row that is null", 2, "not a row", "{\"text\": \"a\"}\nnull\n"),
        rows(
            "20 million values",
            1,
            "too many values",
            format!("{{\"ids\": [{}0]}}\n", "0,".repeat(20_000_000)),
        ),
        rows("a line of 70 MiB", 1, "a line is too long", "x".repeat(70 << 20)),
    ]
}

fn the_schemas() -> Vec<Case> {
    vec![
        rows("mixed schemas", 2, "prompt: expected {text}", "{\"text\": \"a\"}\n{\"prompt\": \"b\"}\n"),
        rows("unknown keys only", 1, "expected one of ids", "{\"question\": \"a\"}\n"),
        rows("an ambiguous row", 1, "text: expected the keys", "{\"prompt\": \"a\", \"text\": \"b\"}\n"),
        rows(
            "two words for an answer",
            1,
            "response: expected output or response",
            "{\"instruction\": \"a\", \"output\": \"b\", \"response\": \"c\"}\n",
        ),
        rows("a text that is a number", 1, "text: expected a string", "{\"text\": 5}\n"),
        rows("no answer", 1, "output: expected a string", "{\"instruction\": \"a\"}\n"),
        rows(
            "another word for an answer",
            1,
            "output: expected response",
            "{\"prompt\": \"a\", \"output\": \"b\"}\n",
        ),
        rows(
            "an empty list of answers",
            1,
            "response: expected at least one",
            "{\"prompt\": \"a\", \"response\": []}\n",
        ),
        rows("no message", 1, "messages: expected at least one", "{\"messages\": []}\n"),
        rows("a message of no content", 1, "messages[0].content", "{\"messages\": [{\"role\": \"user\"}]}\n"),
        rows(
            "a speaker from elsewhere",
            1,
            "conversations[0].from",
            "{\"conversations\": [{\"from\": \"alien\", \"value\": \"x\"}]}\n",
        ),
        rows(
            "an answer that is no choice",
            1,
            "answer",
            "{\"prompt\": \"a\", \"choices\": [\"x\"], \"answer\": 1}\n",
        ),
        rows(
            "a conversation that the template breaks on",
            1,
            "refuses a conversation",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"\", \"x\": 1}]}\n",
        )
        .with(|f| f.write("chat_template.jinja", "{{ raise_exception('no') }}")),
    ]
}

fn the_ids() -> Vec<Case> {
    let ids = |name: &str, says: &str, row: &'static str| rows(name, 1, says, row);
    vec![
        ids("an id below zero", "ids[1]: expected a token id, found -1", "{\"ids\": [1, -1]}"),
        ids("an id that is a fraction", "ids[0]: expected a token id, found 1.5", "{\"ids\": [1.5]}"),
        ids("an id of 2^32", "ids[0]", "{\"ids\": [4294967296]}"),
        ids("an id beyond the vocabulary", "ids[1]: expected an id below", "{\"ids\": [1, 352]}"),
        ids("the largest id", "found 4294967295", "{\"ids\": [4294967295]}"),
        ids("no id", "ids: expected at least one", "{\"ids\": []}"),
        ids("a prompt longer than the row", "prompt_len", "{\"ids\": [1], \"prompt_len\": 2}"),
        rows("a text with a token that the model has no row for", 1, "no row for", "{\"text\": \"so <39>\"}")
            .with(|f| {
                f.edit("tokenizer.json", |t| {
                    for n in 0..40 {
                        let mut token = t["added_tokens"][2].clone();
                        (token["id"], token["content"]) = ((320 + n).into(), format!("<{n}>").into());
                        t["added_tokens"].as_array_mut().unwrap().push(token);
                    }
                });
            }),
    ]
}

/// Forty good prompts and this row.
fn prompts(last: &str) -> String {
    "{\"ids\": [1, 2]}\n".repeat(40) + last
}

fn the_lengths() -> Vec<Case> {
    const LONGER: &str = "longer than the model's context";
    vec![
        case("a row longer than the context", "rows.jsonl:2: expected at most 512 tokens, found 513", |f| {
            f.write(FILE, format!("{{\"ids\": [1]}}\n{{\"ids\": [{}1]}}\n", "1,".repeat(512)));
        }),
        case("a text of 2 MiB", LONGER, |f| {
            f.write(FILE, format!("{{\"text\": \"{}\"}}", "a b ".repeat(1 << 19)))
        }),
        case("a word of 2 MiB", LONGER, |f| {
            f.write(FILE, format!("{{\"text\": \"{}\"}}", "a".repeat(2 << 20)))
        }),
        case("a text of 60 MiB", "a text is too long", |f| {
            f.write(
                FILE,
                format!("{{\"text\": \"{}\"}}", "a word and ".repeat(60 << 20).split_at(60 << 20).0),
            );
        }),
        case("10 million ids", LONGER, |f| {
            f.write(FILE, format!("{{\"ids\": [{}0]}}\n", "0,".repeat(10_000_000)))
        }),
        // Behind the first batch, and none of its replies is out.
        Case {
            run: Run::Reply,
            ..rows(
                "a prompt of no tokens",
                41,
                "a prompt has no tokens",
                prompts("{\"ids\": [1], \"prompt_len\": 0}"),
            )
        },
        Case {
            run: Run::Reply,
            ..rows(
                "a prompt of the context's length",
                41,
                "leaves no room",
                prompts(&format!("{{\"ids\": [{}1]}}", "1,".repeat(511))),
            )
        },
        Case::new("rows: a prompt as long as the context", Run::Generate, "leaves no room", |f| {
            f.set("max_position_embeddings", 2.into());
        }),
    ]
}

impl Case {
    /// With this change too.
    fn with(self, also: fn(&Folder)) -> Case {
        let change = self.change;
        let both = move |f: &Folder| {
            change(f);
            also(f);
        };
        Case { change: Box::new(both), ..self }
    }
}
