//! `retort gap` against float64 numbers written from the definitions (`tests/golden/make_gap.py`), what must
//! hold of any two models, and what it refuses.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::fixture;
use crate::{bad, documents, good, numbers, retort, text};

const KEYS: [&str; 8] =
    ["forward_kl", "reverse_kl", "jsd", "tvd", "nll_teacher", "nll_student", "top1", "tokens"];

/// Float32 models beside float64 ones.
const NEAR: f64 = 2e-5;

/// Every file of rows of the teacher, and the template that it is read by.
const ROWS: [(&str, &str); 4] = [("", "auto"), ("_ids", "auto"), ("_prompt", "plain"), ("_chat", "chat")];

fn teacher() -> PathBuf {
    fixture("score/llama")
}

fn student(name: &str) -> PathBuf {
    fixture("gap").join(name)
}

fn rows(name: &str) -> PathBuf {
    fixture(&format!("score/llama/rows{name}.jsonl"))
}

fn arguments<'a>(teacher: &'a Path, student: &'a Path, rows: &'a Path) -> Vec<&'a str> {
    vec!["gap", "--teacher", text(teacher), "--student", text(student), "--input", text(rows)]
}

fn gap(teacher: &Path, student: &Path, rows: &Path, more: &[&str]) -> Vec<Value> {
    let common = ["--json", "--quiet", "--dtype", "f32"];
    documents(&good(&[&arguments(teacher, student, rows)[..], &common, more].concat()))
}

/// A line with the keys of the contract and no other, in their order, as numbers; none without tokens.
fn means(line: &Value) -> Option<Vec<f64>> {
    let object = line.as_object().unwrap();
    assert_eq!(object.keys().collect::<Vec<_>>(), KEYS);
    if line["tokens"] == 0 {
        assert!(KEYS[..7].iter().all(|key| line[key].is_null()), "{line}");
        return None;
    }
    Some(KEYS.iter().map(|key| line[key].as_f64().unwrap()).collect())
}

fn agree(a: &Value, b: &Value, within: f64, what: &str) {
    let (x, y) = (means(a), means(b));
    let same = match (&x, &y) {
        (Some(x), Some(y)) => x.iter().zip(y).all(|(x, y)| (x - y).abs() <= within),
        (x, y) => x == y,
    };
    assert!(same, "{what}: {a} and {b}");
}

/// A file of these rows.
fn written(dir: &tempfile::TempDir, rows: &[Value]) -> PathBuf {
    let path = dir.path().join("rows.jsonl");
    std::fs::write(&path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    path
}

/// A copy of a model folder with another JSON in one of its files.
fn changed(from: &Path, file: &str, change: impl Fn(&mut Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = dir.path().join(file);
    let mut json = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(&path, json.to_string()).unwrap();
    dir
}

/// Another architecture and padding of the vocabulary, and a student that is all but the teacher: the
/// smaller its divergence, the nearer the numbers must be.
#[test]
fn gaps_equal_those_of_float64() {
    let mut tokens = 0;
    for name in ["far", "near"] {
        for (suffix, template) in ROWS {
            let expected = student(name).join(format!("expected{suffix}.jsonl"));
            let expected = documents(&std::fs::read_to_string(expected).unwrap());
            let got = gap(&teacher(), &student(name), &rows(suffix), &["--template", template]);
            assert_eq!(got.len(), expected.len(), "{name}{suffix}");
            for (n, (got, expected)) in got.iter().zip(&expected).enumerate() {
                let what = format!("{name}{suffix} line {}", n + 1);
                agree(got, expected, NEAR, &what);
                tokens += got["tokens"].as_u64().unwrap();
                let near = |key: &str, of: f64| match (got[key].as_f64(), expected[key].as_f64()) {
                    (Some(a), Some(b)) => assert!((a - b).abs() <= of * b.abs(), "{what}: {key}: {a}, {b}"),
                    (a, b) => assert_eq!(a, b, "{what}: {key}"),
                };
                // Of a divergence of 0.01 the bound above would let 2 in a thousand pass.
                ["forward_kl", "reverse_kl", "jsd"].iter().for_each(|key| near(key, 2e-4));
            }
        }
    }
    assert!(tokens > 1500, "{tokens}");
}

#[test]
fn a_model_has_no_gap_to_itself() {
    for name in ["far", "near"] {
        for line in gap(&student(name), &student(name), &rows("_chat"), &[]) {
            let x = means(&line).unwrap();
            assert!(x[..4].iter().all(|x| x.abs() <= 1e-12), "{line}");
            assert_eq!((x[4], x[6]), (x[5], 1.0), "{line}");
        }
    }
}

/// KL(a || b) is the reverse of (b, a), and what is symmetric stays.
#[test]
fn swapped_models_swap_both_kls() {
    for name in ["far", "near"] {
        let one = gap(&teacher(), &student(name), &rows("_prompt"), &["--template", "plain"]);
        let other = gap(&student(name), &teacher(), &rows("_prompt"), &["--template", "plain"]);
        for (a, b) in one.iter().zip(&other) {
            let mut b = b.clone();
            for (x, y) in [("forward_kl", "reverse_kl"), ("nll_teacher", "nll_student")] {
                (b[x], b[y]) = (b[y].clone(), b[x].clone());
            }
            agree(a, &b, 1e-7, name);
        }
    }
}

/// The last line's means are over tokens, not over rows.
#[test]
fn the_last_line_is_of_all_tokens() {
    let lines = gap(&teacher(), &student("far"), &rows(""), &[]);
    let (all, each) = lines.split_last().unwrap();
    let (mut sums, mut tokens) = ([0.0; 7], 0.0);
    for (line, count) in each.iter().filter_map(|line| Some((means(line)?, line["tokens"].as_f64()?))) {
        sums.iter_mut().zip(&line).for_each(|(sum, x)| *sum += count * x);
        tokens += count;
    }
    let all = means(all).unwrap();
    assert_eq!(all[7], tokens);
    assert!(all.iter().zip(sums).all(|(x, sum)| (x - sum / tokens).abs() < 1e-6), "{all:?}");
    let by_rows = each.iter().filter_map(means).map(|x| x[4]).collect::<Vec<_>>();
    let mean = by_rows.iter().sum::<f64>() / by_rows.len() as f64;
    assert!((all[4] - mean).abs() > 1e-3, "the mean over rows would not show");
}

/// The rows' own tokens have the log-probabilities that `score` gives them, where no output is cut off.
#[test]
fn nll_is_what_score_says() {
    let (model, rows) = (fixture("score/llama2"), fixture("score/llama2/rows.jsonl"));
    let scores = documents(&good(&[
        "score",
        "--model",
        text(&model),
        "--input",
        text(&rows),
        "--json",
        "--dtype",
        "f32",
    ]));
    for (line, score) in gap(&model, &model, &rows, &[]).iter().zip(&scores) {
        let logs = numbers(&score["logprobs"]);
        let Some(x) = means(line) else { continue };
        let mean = -logs.iter().sum::<f64>() / (logs.len() - 1) as f64;
        assert_eq!(x[7], (logs.len() - 1) as f64);
        assert!((x[5] - mean).abs() < NEAR && (x[4] - mean).abs() < NEAR, "{line}: {mean}");
    }
}

#[test]
fn rows_do_not_change_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut given = documents(&std::fs::read_to_string(rows("_prompt")).unwrap());
    let plain = ["--template", "plain"];
    let together = gap(&teacher(), &student("near"), &rows("_prompt"), &plain);
    for (row, line) in given.iter().zip(&together) {
        let alone = gap(&teacher(), &student("near"), &written(&dir, std::slice::from_ref(row)), &plain);
        agree(&alone[0], line, 1e-5, "alone");
        assert_eq!(alone[0], alone[1], "of one row the last line is the row's");
    }
    given.reverse();
    let backwards = gap(&teacher(), &student("near"), &written(&dir, &given), &plain);
    together[..6].iter().zip(backwards[..6].iter().rev()).for_each(|(a, b)| agree(a, b, 1e-5, "reversed"));
}

/// The EOS behind an empty response is its one token; a prompt alone has none to compare.
#[test]
fn tokens_are_those_of_the_response() {
    let dir = tempfile::tempdir().unwrap();
    let of = |row: Value| {
        let kept = json!({"ids": [5, 6], "prompt_len": 1});
        let rows = if row.get("ids").is_some() { vec![row, kept] } else { vec![row] };
        gap(&teacher(), &student("far"), &written(&dir, &rows), &["--template", "plain"])[0]["tokens"].clone()
    };
    assert_eq!(of(json!({"prompt": "Say nothing.", "response": ""})), 1);
    assert_eq!(of(json!({"ids": [5, 6, 7, 2]})), 3, "nothing predicts the first");
    assert_eq!(of(json!({"ids": [5, 6, 7, 2], "prompt_len": 0})), 3);
    assert_eq!(of(json!({"ids": [5, 6, 7, 2], "prompt_len": 1})), 3);
    assert_eq!(of(json!({"ids": [5, 6, 7, 2], "prompt_len": 3})), 1);
    assert_eq!(of(json!({"ids": [5, 6, 7, 2], "prompt_len": 4})), 0);
    assert_eq!(of(json!({"ids": [5]})), 0);
}

#[test]
fn a_table_for_people_and_a_file_for_programs() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other, input) = (teacher(), student("near"), rows("_chat"));
    let table = good(&arguments(&one, &other, &input));
    let lines: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..3], ["row", "tokens", "forward_kl"]);
    assert_eq!(lines.len(), 6);
    assert!(lines.iter().all(|l| l.len() == 9), "{table}");
    assert_eq!((lines[5][0], lines[5][1]), ("all", "30"));
    let out = dir.path().join("gap.jsonl");
    let silent = good(&[&arguments(&one, &other, &input)[..], &["--output", text(&out)]].concat());
    assert!(silent.is_empty(), "stdout has an answer too");
    let shown = good(&[&arguments(&one, &other, &input)[..], &["--json"]].concat());
    let (got, expected) = (documents(&std::fs::read_to_string(&out).unwrap()), documents(&shown));
    assert_eq!(got, expected);
}

/// trl#2215: one family, its vocabulary padded in two ways. Both are cut, and it says so.
#[test]
fn other_padding_of_the_vocabulary_is_said() {
    let said = |student: &Path| retort(&arguments(&teacher(), student, &rows("_chat"))).err;
    let err = said(&student("far"));
    assert!(err.contains("325 outputs") && err.contains("352") && err.contains("tokenizer's 320"), "{err}");
    assert_eq!(said(&student("near")), "", "both are padded alike");
}

/// trl#4562: tokenizers that differ, scored in silence.
#[test]
fn tokenizers_that_differ_are_refused() {
    let (one, input) = (teacher(), rows("_chat"));
    bad(&arguments(&one, &fixture("score/gpt2"), &input), 3, "the tokenizers differ");
    let swapped = changed(&student("near"), "tokenizer.json", |t| {
        let vocab = t["model"]["vocab"].as_object_mut().unwrap();
        let keys: Vec<String> = vocab
            .iter()
            .filter(|(_, id)| [40, 41].contains(&id.as_i64().unwrap()))
            .map(|(k, _)| k.clone())
            .collect();
        (vocab[&keys[0]], vocab[&keys[1]]) = (vocab[&keys[1]].clone(), vocab[&keys[0]].clone());
    });
    let err = bad(&arguments(&one, swapped.path(), &input), 3, "the tokenizers differ");
    assert!(err.contains("id 40: expected"), "{err}");
    let eos = changed(&student("near"), "tokenizer_config.json", |t| t["eos_token"] = json!("<|im_start|>"));
    bad(&arguments(&one, eos.path(), &input), 3, "eos_token: expected");
}

#[test]
fn rows_that_one_of_the_models_cannot_take_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (teacher(), student("far"));
    let long = |n: usize| json!({"ids": vec![5; n]});
    let fits = written(&dir, &[long(2), long(160)]);
    assert_eq!(gap(&one, &other, &fits, &[])[1]["tokens"], 159);
    let input = written(&dir, &[long(2), long(161)]);
    let says = "longer than the student's context: ";
    let err = bad(&arguments(&one, &other, &input), 3, says);
    assert!(err.contains("rows.jsonl:2: expected at most 160 tokens, found 161"), "{err}");
    bad(&arguments(&other, &one, &input), 3, "longer than the teacher's context: ");
    // An id that the teacher's padding has a row for, and no token.
    let input = written(&dir, &[long(2), json!({"ids": [1, 330]})]);
    let err = bad(&arguments(&one, &student("near"), &input), 3, "not a token that both models can say");
    assert!(err.contains("rows.jsonl:2: token 2: expected an id below 320, found 330"), "{err}");
    let input = written(&dir, &[long(2), long(161), json!({"ids": [1, 330]}), long(3)]);
    let skipped = gap(&one, &other, &input, &["--skip-invalid"]);
    assert_eq!(skipped.iter().map(|l| l["tokens"].as_i64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    let rejects = std::fs::read_to_string(dir.path().join("rows.jsonl.rejects.jsonl")).unwrap();
    assert_eq!(rejects.lines().count(), 2);
    for row in [json!({"prompt": "a"}), json!({"text": ""}), json!({"ids": [5], "prompt_len": 1})] {
        bad(&arguments(&one, &other, &written(&dir, &[row])), 3, "nothing to compare on");
    }
    bad(&arguments(&one, &other, &written(&dir, &[])), 3, "no row");
}

#[test]
fn mistakes_in_the_arguments_are_the_users() {
    let (one, input) = (teacher(), rows(""));
    let none = Path::new("/nowhere/at/all");
    bad(&["gap", "--teacher", text(&one), "--input", text(&input)], 2, "--student");
    bad(&["gap", "--student", text(&one), "--input", text(&input)], 2, "--teacher");
    bad(&["gap", "--teacher", "/nowhere", "--student", "/nowhere"], 2, "no rows given");
    bad(&arguments(none, &one, &input), 2, "no such model folder");
    bad(&arguments(&one, none, &input), 2, "no such model folder");
    bad(&arguments(&one, &one, Path::new("/nowhere.jsonl")), 2, "no such file");
    let empty = tempfile::tempdir().unwrap();
    bad(&arguments(&one, empty.path(), &input), 3, "config.json");
}

/// Finite weights whose numbers overflow on the way: no answer, and no NaN in one.
#[test]
fn numbers_that_overflow_are_an_error() {
    let huge = changed(&student("far"), "config.json", |_| {});
    let path = huge.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    // The largest floats there are, in every tensor.
    for number in bytes[8 + header..].chunks_mut(4) {
        number.copy_from_slice(&f32::MAX.to_le_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
    let (one, input) = (teacher(), rows("_chat"));
    let quiet = [&arguments(&one, huge.path(), &input)[..], &["--quiet"]].concat();
    let err = bad(&quiet, 5, "a mean is not finite");
    assert!(err.contains("rows_chat.jsonl:1: forward_kl"), "{err}");
}
