//! What is kept of a teacher: the same updates with it, tokens that teach nearly as much, and no cache of
//! another teacher, tokenizer or data.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::golden::folder_with_tokenizer;
use crate::learning::{Lesson, chain, student};
use crate::support::{command, finish, fixture};
use crate::{Case, tensors};

/// Six rows, a teacher, held-out rows: small, and all that a cache is of.
struct Desk {
    case: Case,
    teacher: String,
    valid: String,
}

const SHORT: [&str; 4] = ["train.batch=2", "train.lr=1e-2", "train.eval_every=3", "train.schedule=constant"];

impl Desk {
    fn new(policy: &str) -> Desk {
        let rows = fixture("score/llama/rows_prompt.jsonl");
        let case = Case::new(policy, &rows);
        folder_with_tokenizer("updates/teacher", &case.path("teacher"));
        let teacher = format!("teacher.model={:?}", case.text("teacher"));
        let valid = format!("data.valid=[{:?}]", rows.display().to_string());
        Desk { case, teacher, valid }
    }

    fn settings<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&[self.teacher.as_str(), self.valid.as_str()], &SHORT[..], more].concat()
    }

    fn good(&self, out: &str, more: &[&str]) {
        self.case.good(out, &self.settings(more), &[]);
    }
}

/// How far the weights of two runs are apart, relative to the norm of all of them.
fn apart(case: &Case, one: &str, other: &str) -> f64 {
    let read = |out: &str| tensors(&case.path(out).join("final/model.safetensors"));
    let (a, b) = (read(one), read(other));
    let (mut gap, mut all) = (0.0, 0.0);
    for (name, t) in &a {
        gap += (t - &b[name]).square().sum(tch::Kind::Double).double_value(&[]);
        all += t.square().sum(tch::Kind::Double).double_value(&[]);
    }
    (gap / all).sqrt()
}

/// An epoch with kept states is bit for bit one without, held-out divergences too. Later epochs group their rows
/// in other ways, and there a product may round otherwise.
#[test]
fn kept_states_change_no_update() {
    let text = "A retort is a vessel.\n\nIt has a long neck,\nbent down.\n\nNothing more.\n";
    for (policy, more) in [
        ("kd", &["kd.divergence=jsd"][..]),
        ("seqkd", &["kd.ratio=0.5", "data.max_response=8"]),
        ("minima", &["data.sequence=8"]),
    ] {
        let desk = Desk::new(policy);
        std::fs::write(desk.case.path("text.txt"), text).unwrap();
        let corpus = format!("data.corpus={:?}", desk.case.text("text.txt"));
        let with = |more: &[&'static str], last: &'static str| {
            let all: Vec<&str> = more.iter().copied().chain([last]).collect();
            all
        };
        let run = |out: &str, settings: &[&str]| {
            desk.good(out, &[&[corpus.as_str()], settings].concat());
        };
        let epoch = with(more, "train.epochs=1");
        run("plain", &epoch);
        run("kept", &[&epoch[..], &["teacher.cache=states"]].concat());
        assert_eq!(desk.case.metrics("plain"), desk.case.metrics("kept"), "{policy}");
        let same = desk.case.bytes("plain", "final/model.safetensors");
        assert!(same == desk.case.bytes("kept", "final/model.safetensors"), "{policy}");
        if policy == "minima" {
            // Without a cache every epoch packs its text anew; with one it is packed once.
            continue;
        }
        let long = with(more, "train.epochs=4");
        run("plain-long", &long);
        run("kept-long", &[&long[..], &["teacher.cache=states"]].concat());
        let by = apart(&desk.case, "plain-long", "kept-long");
        eprintln!("{policy}: four epochs with kept states end {by:.1e} from those without");
        assert!(by < 1e-6, "{policy}: {by}");
        assert!(apart(&desk.case, "plain", "plain-long") > 1e-3, "an update would not show");
    }
}

/// Twelve tokens a position in place of a teacher: on held-out rows the student ends as near to the teacher, give
/// or take what the draws of few rows leave, and far nearer than without one.
#[test]
fn drawn_tokens_teach_nearly_as_much() {
    let Lesson { teacher, few, valid, .. } = &Lesson::new();
    let far = |policy: &str, set: &[&str]| {
        let case = Case::new(policy, few);
        let student = student(&case, "student", 32, 1);
        let more =
            ["train.steps=120", "train.batch=20", "train.lr=1e-2", "train.eval_every=120", "kd.ratio=1"];
        let given = [student.as_str(), teacher.as_str(), valid.as_str()];
        case.good("run", &[&given[..], &more, set].concat(), &[]);
        let metrics = case.metrics("run");
        metrics.last().unwrap()["eval"]["forward_kl"].as_f64().unwrap()
    };
    let (sft, kd) = (far("sft", &[]), far("kd", &[]));
    let states = far("kd", &["teacher.cache=states"]);
    let tokens = far("kd", &["teacher.cache=tokens"]);
    eprintln!(
        "forward KL on held-out rows: sft {sft:.3}, kd {kd:.4}, states {states:.4}, 12 tokens {tokens:.4}"
    );
    assert!((states / kd - 1.0).abs() < 1e-2, "kd {kd}, states {states}");
    assert!(tokens < 1.25 * kd && tokens < 0.7 * sft, "sft {sft}, kd {kd}, tokens {tokens}");
}

/// The inode of a file: it changes when the file is made anew.
fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap())
}

#[test]
fn a_cache_of_another_teacher_or_data_is_not_used() {
    let desk = Desk::new("kd");
    folder_with_tokenizer("score/llama", &desk.case.path("other"));
    let other = format!("teacher.model={:?}", desk.case.text("other"));
    for keep in ["states", "tokens"] {
        let cache = format!("teacher.cache={keep}");
        let shared = format!("teacher.cache_dir={:?}", desk.case.text(&format!("shared-{keep}")));
        let run = |out: &str, more: &[&str]| {
            let all = [&["train.steps=2", cache.as_str(), shared.as_str()], more].concat();
            desk.case.run(&format!("{keep}-{out}"), &desk.settings(&all), &[])
        };
        assert_eq!(run("first", &[]).code, 0);
        let file = desk.case.path(&format!("shared-{keep}/teacher.{keep}"));
        let made = inode(&file);
        let again = run("again", &["train.lr=1e-3"]);
        assert!(again.code == 0 && again.err.contains("was kept before"), "{}", again.err);
        assert_eq!(made, inode(&file), "the same file");
        for (name, set, says) in [
            ("teacher", other.as_str(), "another teacher"),
            ("limits", "data.max_response=3", "other rows"),
            ("template", "data.template=alpaca", "other rows"),
        ] {
            let answer = run(name, &[set]);
            assert_eq!(answer.code, 2, "{keep}, {name}: {}", answer.err);
            let told: Vec<&str> = answer.err.lines().filter(|l| l.starts_with("retort: ")).collect();
            assert!(told.len() == 1 && told[0].contains(says), "{keep}, {name}: {}", answer.err);
            assert_eq!(made, inode(&file), "{keep}, {name}: the file is left as it is");
        }
        // In the run's own directory what does not fit is made anew, and half a file is none.
        let own = format!("own-{keep}");
        desk.good(&own, &["train.steps=2", &cache]);
        let place = desk.case.path(&own).join(format!("cache/teacher.{keep}"));
        let (made, bytes) = (inode(&place), std::fs::read(&place).unwrap());
        std::fs::write(&place, &bytes[..bytes.len() - 1]).unwrap();
        desk.case.good(&own, &desk.settings(&["train.steps=3", &cache]), &["--resume"]);
        assert!(
            inode(&place) != made && bytes == std::fs::read(&place).unwrap(),
            "{keep}: made again, the same"
        );
    }
    // Drawn from another seed, or more of them, they are others.
    let shared = format!("teacher.cache_dir={:?}", desk.case.text("shared-tokens"));
    for set in ["seed=9", "teacher.draws=5"] {
        let all = ["train.steps=2", "teacher.cache=tokens", &shared, set];
        let answer = desk.case.run(set, &desk.settings(&all), &[]);
        assert!(answer.code == 2 && answer.err.contains("kept in another way"), "{}", answer.err);
    }
}

#[test]
fn a_cache_that_is_of_no_use_is_refused() {
    let desk = Desk::new("kd");
    for (settings, says) in [
        (&["teacher.cache=tokens", "kd.divergence=reverse-kl"][..], "the forward KL at temperature 1 alone"),
        (&["teacher.cache=tokens", "kd.temperature=2"], "the forward KL at temperature 1 alone"),
        (&["teacher.cache=states", "policy=sft"], "asks its teacher nothing"),
        (&["teacher.cache=states", "policy=seqkd"], "asks its teacher nothing"),
        (&["teacher.cache=states", "policy=gkd"], "new at every update"),
        (&["teacher.cache=states", "policy=minillm"], "new at every update"),
        (
            &["teacher.cache=states", "policy=minima", "data.corpus=text.txt", "data.document_attention=own"],
            "data.document_attention = \"own\"",
        ),
        (&["teacher.cache=logits"], "expected none, states, tokens"),
        (&["teacher.cache=tokens", "teacher.draws=0"], "from 1 on"),
    ] {
        let answer = desk.case.run("run", &desk.settings(&[&["train.steps=1"], settings].concat()), &[]);
        assert_eq!(answer.code, 2, "{settings:?}: {}", answer.err);
        let told = answer.err.lines().find(|l| l.starts_with("retort: ")).unwrap();
        assert!(told.contains(says) && told.contains("teacher."), "{settings:?}: {told}");
    }
}

/// Killed at the steps of what is written before the first update, and gone on: the same bits.
#[test]
fn killed_while_a_cache_is_made() {
    let desk = Desk::new("kd");
    // Four steps a file: tokens of both sets of rows, then what the teacher says of them.
    for (keep, steps) in [
        ("teacher.cache=states", &[9, 10, 11, 12, 13, 14, 15, 16][..]),
        ("teacher.cache=tokens", &[10, 11, 14, 15]),
    ] {
        let settings = desk.settings(&["train.steps=2", keep]);
        let whole = format!("whole-{keep}");
        desk.case.good(&whole, &settings, &[]);
        let mut killed_at_cache = 0;
        for at in steps {
            let out = format!("{keep}-{at}");
            let mut killed = command(&desk.case.arguments(&out, &settings, &[]));
            killed.env("RETORT_FAULT", at.to_string());
            assert_eq!(finish(killed, Duration::from_secs(100)).code, 137, "{out}");
            let folder = desk.case.path(&out).join("cache");
            let names = |folder: &Path| -> Vec<String> {
                let entries = std::fs::read_dir(folder).unwrap();
                entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
            };
            killed_at_cache += usize::from(names(&folder).iter().any(|n| n.starts_with(".teacher")));
            desk.case.good(&out, &settings, &["--resume"]);
            assert!(!names(&folder).iter().any(|n| n.contains("partial")), "{out}");
            assert_eq!(desk.case.metrics(&whole), desk.case.metrics(&out), "{out}");
            let name = "final/model.safetensors";
            assert!(desk.case.bytes(&whole, name) == desk.case.bytes(&out, name), "{out}");
        }
        assert_eq!(
            killed_at_cache, 4,
            "{keep}: half a file of two, before it is synced and before it is named"
        );
    }
}

/// Once its cache stands a teacher is not loaded: a run holds less by most of its weights. What was predicted of
/// both runs, and of the file, is what they take.
#[test]
fn a_teacher_that_is_kept_is_not_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let rows = dir.path().join("rows.jsonl");
    std::fs::write(&rows, chain(1, 16, 60)).unwrap();
    let schooling = Case::new("sft", &rows);
    let large = student(&schooling, "teacher", 768, 6);
    schooling.good("run", &[large.as_str(), "train.steps=1", "train.batch=1"], &[]);
    let weights = std::fs::metadata(schooling.path("run/final/model.safetensors")).unwrap().len() as f64;
    let teacher = format!("teacher.model={:?}", schooling.text("run/final"));
    let case = Case::new("kd", &rows);
    let student = student(&case, "student", 64, 2);
    let settings = [student.as_str(), &teacher, "train.steps=4", "train.batch=16", "train.micro_batch=4"];
    let plain = case.good("plain", &settings, &[]).peak as f64;
    for keep in ["states", "tokens"] {
        let cache = format!("teacher.cache={keep}");
        let shared = format!("teacher.cache_dir={:?}", case.text(keep));
        let settings = [&settings[..], &[cache.as_str(), shared.as_str()]].concat();
        let told = case.good("plan", &settings, &["--dry-run"]).out;
        let plan: Value = serde_json::from_str(told.trim()).unwrap();
        let making = case.good(&format!("{keep}-first"), &settings, &[]).peak as f64;
        let kept = case.good(&format!("{keep}-again"), &settings, &[]).peak as f64;
        let file = std::fs::metadata(case.path(keep).join(format!("teacher.{keep}"))).unwrap().len() as f64;
        let (disk, memory) = (plan["cache"]["disk"].as_f64().unwrap(), plan["memory"].as_f64().unwrap());
        let mib = |x: f64| x as u64 >> 20;
        eprintln!(
            "{keep}: without a cache {} MiB, making it {} (predicted {}), with it {}; teacher {}; file {} KiB (predicted {})",
            mib(plain),
            mib(making),
            mib(memory),
            mib(kept),
            mib(weights),
            file as u64 >> 10,
            disk as u64 >> 10
        );
        assert!(kept < plain - 0.7 * weights, "{keep}: {plain} without, {kept} with");
        assert!((memory / making - 1.0).abs() < 0.25, "{keep}: predicted {memory}, held {making}");
        assert!((disk / file - 1.0).abs() < 0.05, "{keep}: predicted {disk}, is {file}");
    }
}
