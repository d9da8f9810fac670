//! A judge asked over the network of this machine: what it is sent, how its answers count, and what becomes of
//! endpoints that are slow, busy, broken or hostile. The tests' build has the feature `judge`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::command::text;
use crate::support::{Answer, command, finish};

const KEY: &str = "sk-of-nobody-1234567890";

/// What the endpoint does with a request.
pub enum Does {
    Says(&'static str),
    Answers(u16, &'static str, String),
    Hangs,
}

/// An endpoint, and what it was sent.
pub struct Endpoint {
    pub url: String,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Endpoint {
    /// Serves each request by its number, from 0, and by what it asks.
    pub fn new(does: impl Fn(usize, &str) -> Does + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (does, log) = (Arc::new(does), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (does, log) = (Arc::clone(&does), Arc::clone(&log));
                std::thread::spawn(move || serve(stream.unwrap(), &*does, &log));
            }
        });
        Endpoint { url, seen }
    }

    pub fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

/// A request a connection. One that is no HTTP (TLS, say) is hung up on.
fn serve(stream: TcpStream, does: &dyn Fn(usize, &str) -> Does, log: &Mutex<Vec<(String, Value)>>) {
    let mut first = [0];
    if stream.peek(&mut first).is_err() || first != *b"P" {
        return;
    }
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    loop {
        let mut line = String::new();
        match reader.read_line(&mut line) {
            Ok(n) if n > 0 => head += &line,
            _ => return,
        }
        if line == "\r\n" {
            break;
        }
    }
    let length =
        head.to_lowercase().split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse();
    let mut body = vec![0; length.unwrap()];
    reader.read_exact(&mut body).unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let asks = body["messages"][0]["content"].as_str().unwrap().to_string();
    let number = {
        let mut log = log.lock().unwrap();
        log.push((head, body));
        log.len() - 1
    };
    let (status, headers, body) = match does(number, &asks) {
        Does::Says(text) => (200, "", json!({"choices": [{"message": {"content": text}}]}).to_string()),
        Does::Answers(status, headers, body) => (status, headers, body),
        Does::Hangs => return std::thread::sleep(Duration::from_secs(20)),
    };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} -\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n");
    let mut stream = stream;
    // A client that has seen enough hangs up.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

/// Three questions with references, and a reply to each.
struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, lines: [Value; 3]| {
            std::fs::write(dir.path().join(name), lines.map(|l| format!("{l}\n")).concat()).unwrap();
        };
        let row =
            |n: u32| json!({"instruction": format!("Ask {n}"), "input": "it", "output": format!("gold {n}")});
        write("rows.jsonl", [1, 2, 3].map(row));
        write("replies.jsonl", [1, 2, 3].map(|n| json!({"response": format!("mine {n}")})));
        Case { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn answers(&self) -> String {
        std::fs::read_to_string(self.path("answers.jsonl")).unwrap_or_default()
    }

    fn judge(&self, url: &str, more: &[&str]) -> Answer {
        let [rows, replies, answers] =
            ["rows", "replies", "answers"].map(|n| self.path(&format!("{n}.jsonl")));
        let files =
            ["--input", text(&rows), "--responses", text(&replies), "--judge-answers", text(&answers)];
        let judge = ["eval", "--json", "--metrics", "judge", "--judge-url", url];
        let model = if more.contains(&"--judge-model") { &[][..] } else { &["--judge-model", "m-1"] };
        let mut command = command(&[&judge[..], &files, model, more].concat());
        command.env("RETORT_JUDGE_KEY", KEY);
        for name in ["http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        let answer = finish(command, Duration::from_secs(60));
        assert!(!answer.out.contains(KEY) && !answer.err.contains(KEY), "{}{}", answer.out, answer.err);
        assert!(!self.answers().contains(KEY), "the key is in the file");
        answer
    }

    fn good(&self, url: &str, more: &[&str]) -> (Value, String) {
        let answer = self.judge(url, more);
        assert_eq!(answer.code, 0, "{}", answer.err);
        (serde_json::from_str::<Value>(&answer.out).unwrap()["judge"].clone(), answer.err)
    }

    fn bad(&self, url: &str, more: &[&str], code: i32, says: &str) {
        let answer = self.judge(url, more);
        assert_eq!(answer.code, code, "{says}: {}", answer.err);
        let lines: Vec<&str> = answer.err.lines().collect();
        assert!(lines[0].starts_with("retort: ") && lines[0].contains(says), "{says}: {}", answer.err);
        assert!(lines.len() <= 2 && answer.out.is_empty(), "{}{}", answer.err, answer.out);
    }
}

fn mine_is_first(asks: &str) -> bool {
    asks.find("mine").unwrap() < asks.find("gold").unwrap()
}

/// By hand: each reply gets 8 in the first place and 5 in the second, each reference 9 in the first and 4 in the
/// second: 3 (8 + 5) over 3 (4 + 9). The same command again asks nothing.
#[test]
fn both_orders_are_asked_and_answers_are_kept() {
    let case = Case::new();
    let endpoint = Endpoint::new(|_, asks| Does::Says(if mine_is_first(asks) { "8 4\nso" } else { "9, 5" }));
    let (found, _) = case.good(&endpoint.url, &[]);
    assert_eq!(found["mean"], 100.0);
    assert_eq!((&found["n"], &found["asked"], &found["unreadable"]), (&json!(3), &json!(6), &json!(0)));
    {
        let seen = endpoint.seen.lock().unwrap();
        assert_eq!(seen.iter().filter(|(_, body)| mine_is_first(&body.to_string())).count(), 3);
        for (head, body) in seen.iter() {
            assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{head}");
            assert!(head.to_lowercase().contains(&format!("authorization: bearer {KEY}")), "{head}");
            let asks = body["messages"][0]["content"].as_str().unwrap();
            assert!(body["model"] == "m-1" && asks.contains("Ask ") && asks.contains("\nit\n"), "{body}");
        }
    }
    let kept = case.answers();
    assert_eq!(kept.lines().count(), 6);
    let (again, _) = case.good(&endpoint.url, &[]);
    assert_eq!((&again["mean"], &again["asked"], &again["kept"]), (&json!(100.0), &json!(0), &json!(6)));
    assert_eq!((endpoint.requests(), case.answers()), (6, kept.clone()));
    // A line that was cut, and one that is gone, are asked anew; another judge is asked all.
    let cut = kept.trim_end().rsplit_once('\n').unwrap().0;
    std::fs::write(case.path("answers.jsonl"), &cut[..cut.len() - 9]).unwrap();
    let (found, _) = case.good(&endpoint.url, &["--judge-at-once", "1"]);
    assert_eq!((&found["mean"], &found["asked"]), (&json!(100.0), &json!(2)));
    assert_eq!(case.good(&endpoint.url, &["--judge-model", "m-2"]).0["asked"], 6);
}

/// What is no two scores is counted and left out, with the answer in the other order.
#[test]
fn answers_that_cannot_be_read_are_counted() {
    let case = Case::new();
    let endpoint = Endpoint::new(|_, asks| match mine_is_first(asks) {
        true if asks.contains("mine 2") => Does::Says("Both are fine."),
        true => Does::Says("6 8"),
        false => Does::Says("8 6"),
    });
    let (found, err) = case.good(&endpoint.url, &[]);
    assert_eq!((&found["mean"], &found["n"], &found["unreadable"]), (&json!(75.0), &json!(2), &json!(1)));
    assert!(err.contains("1 of the judge's 6 answers"), "{err}");
    let nothing = Endpoint::new(|_, _| Does::Says(""));
    let other = Case::new();
    let answer = other.judge(&nothing.url, &[]);
    assert!(answer.code == 3 && answer.err.contains("there is nothing to measure: judge"), "{}", answer.err);
}

/// The first requests meet a server that is busy, broken or asleep; each is asked again.
#[test]
fn passing_failures_are_asked_again() {
    let case = Case::new();
    let endpoint = Endpoint::new(|number, _| match number {
        0 => Does::Answers(429, "retry-after: 0\r\n", "slow down".into()),
        1 => Does::Answers(503, "", String::new()),
        3 => Does::Hangs,
        _ => Does::Says("5 5"),
    });
    let (found, _) = case.good(&endpoint.url, &["--judge-at-once", "1", "--judge-timeout", "1"]);
    assert_eq!((&found["mean"], &found["asked"]), (&json!(100.0), &json!(6)));
    // On a machine with other work a good answer may come too late, and is asked for again too.
    assert!(endpoint.requests() >= 9, "{}", endpoint.requests());
}

#[test]
fn lasting_failures_are_one_line() {
    let serving = |status, headers, body: &'static str| {
        Endpoint::new(move |_, _| Does::Answers(status, headers, body.to_string()))
    };
    let case = Case::new();
    let one = ["--judge-at-once", "1", "--judge-retries", "1"];
    // Two answers come, then none: they are kept.
    let broken =
        Endpoint::new(|n, _| if n < 2 { Does::Says("5 5") } else { Does::Answers(500, "", "".into()) });
    case.bad(&broken.url, &one, 4, "expected an answer, found status 500, tries: 2");
    assert_eq!((broken.requests(), case.answers().lines().count()), (4, 2));
    let asleep = Endpoint::new(|_, _| Does::Hangs);
    let hurried = ["--judge-timeout", "1", "--judge-retries", "0"];
    case.bad(&asleep.url, &hurried, 4, "found none in 1 s, tries: 1");
    // A server that repeats the key does not get it onto the terminal.
    let echo = r#"{"error": {"message": "no such key: sk-of-nobody-1234567890"}}"#;
    case.bad(&serving(401, "", echo).url, &one, 2, "status 401: no such key: ***");
    let elsewhere = Endpoint::new(|_, _| Does::Says("5 5"));
    let place: &'static str = format!("location: {}/chat/completions\r\n", elsewhere.url).leak();
    case.bad(&serving(307, place, "").url, &one, 2, "status 307");
    assert_eq!(elsewhere.requests(), 0, "the key went elsewhere");
    case.bad(&serving(200, "", "<html>").url, &one, 3, "no chat completion");
    case.bad(&serving(200, "", "{\"choices\": []}").url, &one, 3, "expected choices[0].message.content");
    let large = Endpoint::new(|_, _| Does::Answers(200, "", " ".repeat(2 << 20)));
    case.bad(&large.url, &one, 4, "expected an answer of at most 1048576 bytes");
    // TLS is spoken, and the other side does not.
    let secure = elsewhere.url.replace("http:", "https:");
    case.bad(&secure, &["--judge-retries", "0"], 4, "the judge cannot be asked");
    assert_eq!(elsewhere.requests(), 0);
    for url in ["ftp://host/v1", "localhost:8000", "http://", "http://me:secret@host/v1"] {
        case.bad(url, &[], 2, "--judge-url");
    }
}

#[test]
fn a_judge_needs_an_address_a_name_and_a_file() {
    let case = Case::new();
    let (rows, replies) = (case.path("rows.jsonl"), case.path("replies.jsonl"));
    let arguments = ["eval", "--input", text(&rows), "--responses", text(&replies), "--metrics", "judge"];
    let mut given = arguments.to_vec();
    for (flag, value) in
        [("--judge-url", "http://h/v1"), ("--judge-model", "m"), ("--judge-answers", "a.jsonl")]
    {
        let answer = finish(command(&given), Duration::from_secs(60));
        assert!(
            answer.code == 2 && answer.err.contains(&format!("judge: expected {flag}")),
            "{}",
            answer.err
        );
        given.extend([flag, value]);
    }
    assert!(!Path::new("a.jsonl").exists());
}
