//! What a config promises: its defaults, its errors with their lines, and that it can be written and read.

use super::*;

const SMALL: &str = r#"
policy = "sft"
[student]
model = "models/student"
[data]
train = ["rows.jsonl"]
[train]
steps = 10
"#;

fn load(text: &str, set: &[&str]) -> Result<RunConfig> {
    let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
    RunConfig::parse(text, Path::new("run.toml"), &set)
}

#[test]
fn what_is_not_said_has_its_default() {
    let config = load(SMALL, &[]).unwrap();
    let s = &config.settings;
    assert_eq!((s.seed, s.train.batch, s.train.lr, s.train.clip), (1, 64, 5e-6, 1.0));
    assert_eq!(
        (s.train.schedule, s.train.warmup, s.train.min_lr),
        (Schedule::Cosine, Warmup::Updates(0), 0.0)
    );
    assert_eq!((s.train.betas, s.train.eps, s.train.weight_decay), ([0.9, 0.95], 1e-8, 0.0));
    assert_eq!((s.train.eval_every, s.train.save_every, s.train.keep), (100, 500, 3));
    assert_eq!((s.train.best, s.train.micro_batch), (Best::RougeL, MicroBatch::Auto));
    assert_eq!((s.data.max_prompt, s.data.max_response, s.data.sequence), (256, 256, 1024));
    assert_eq!((s.data.template.as_str(), s.sampling.temperature, s.sampling.top_p), ("auto", 1.0, 1.0));
}

/// Replies are sampled where something is decided by them, or where they are asked for.
#[test]
fn prompts_are_replied_to_where_rouge_l_decides() {
    let prompts = |set: &[&str]| load(SMALL, set).unwrap().settings.eval.prompts;
    assert_eq!(prompts(&[]), 256);
    assert_eq!(prompts(&["train.best=valid-loss"]), 0);
    assert_eq!(prompts(&["train.best=valid-loss", "eval.prompts=30"]), 30);
    assert_eq!(prompts(&["eval.prompts=0"]), 0);
    assert_eq!(prompts(&["policy=minima", "teacher.model=t", "data.corpus=c"]), 0);
    let e = load(SMALL, &["eval.prompt=3"]).unwrap_err().to_string();
    assert!(e.contains("did you mean eval.prompts?"), "{e}");
}

#[test]
fn mistakes_in_a_regime_name_their_line() {
    for (text, says) in [
        (format!("{SMALL}[train.regime]\n"), "train.regime.kind: expected hoffer or sde"),
        (
            format!("{SMALL}[train.regime]\nkind = \"sde\"\n"),
            "train.regime.reference_batch: expected the batch that the other settings are of",
        ),
        (
            format!("{SMALL}[train.regime]\nkind = \"lamb\"\nreference_batch = 8\n"),
            "run.toml:10: train.regime.kind: expected hoffer, sde, found \"lamb\"",
        ),
        (
            format!("{SMALL}[train.regime]\nkind = \"sde\"\nreference_batch = 4\n"),
            "train.betas: expected numbers above 0.9375 for a batch 16 times as large, found 0.9",
        ),
        (
            format!(
                "{SMALL}[train.regime]\nkind = \"sde\"\nreference_batch = 32\nnoise = \"multiplicative\"\n"
            ),
            "run.toml:12: train.regime.noise: expected none",
        ),
        (
            format!(
                "{SMALL}[train.regime]\nkind = \"hoffer\"\nreference_batch = 128\nnoise = \"multiplicative\"\n"
            ),
            "run.toml:11: train.regime.reference_batch: expected at most train.batch, 64",
        ),
        (
            SMALL.replace(
                "[train]\n",
                "[train]\nclip = 0\nregime = { kind = \"hoffer\", reference_batch = 8 }\n",
            ),
            "run.toml:8: train.clip: expected a number above 0",
        ),
    ] {
        let e = load(&text, &[]).unwrap_err();
        assert!(e.to_string().contains(says), "{says}: {e}");
        assert_eq!(e.cause().exit_code(), 2, "{e}");
    }
}

#[test]
fn mistakes_name_their_line() {
    let with =
        |table: &str, line: &str| SMALL.replace(&format!("[{table}]\n"), &format!("[{table}]\n{line}\n"));
    for (text, says) in [
        (SMALL.replace("sft", "stf"), "run.toml:2: policy: expected sft, kd"),
        (SMALL.replace("steps", "stpes"), "train.steps: expected steps or epochs"),
        (with("train", "lerning_rate = 1"), "run.toml:8: train.lerning_rate: an unknown setting"),
        (with("train", "epoch = 3"), "did you mean train.epochs?"),
        (with("train", "epochs = 3"), "expected steps or epochs"),
        (with("train", "lr = -1"), "run.toml:8: train.lr: expected a number above 0, found -1"),
        (with("train", "lr = nan"), "train.lr: expected a number above 0"),
        (with("train", "schedule = \"exp\""), "expected constant, linear, cosine, wsd, found \"exp\""),
        (with("train", "betas = [0.9]"), "train.betas: expected two numbers"),
        (with("train", "batch = 0"), "train.batch: expected a whole number from 1 on, found 0"),
        (with("train", "micro_batch = \"big\""), "train.micro_batch: expected \"auto\""),
        (with("train", "min_lr = 1.0"), "train.min_lr: expected at most lr"),
        (with("data", "learn = \"all\""), "run.toml:6: data.learn: expected replies, last, found \"all\""),
        (
            format!("{SMALL}[student.lora]\nrank = 0\n"),
            "run.toml:10: student.lora.rank: expected a whole number from 1",
        ),
        (
            format!("{SMALL}[student.lora]\nalpha = 0\n"),
            "run.toml:10: student.lora.alpha: expected a number above 0",
        ),
        (
            format!("{SMALL}[student.lora]\ntargets = []\n"),
            "run.toml:10: student.lora.targets: expected attention, mlp",
        ),
        (format!("{SMALL}[student.lora]\nrnak = 4\n"), "did you mean student.lora.rank?"),
        (
            SMALL.replace("\"models/student\"", "{ config = \"c.json\" }\nlora = { rank = 2 }"),
            "run.toml:5: student.lora: expected a student.model with weights",
        ),
        (
            with("data", "document_attention = true"),
            "run.toml:6: data.document_attention: expected packed, own",
        ),
        (with("data", "max_promt = 3"), "did you mean data.max_prompt?"),
        (format!("{SMALL}[studnet]\nmodel = \"x\"\n"), "did you mean student?"),
        (format!("{SMALL}[kd]\nratio = 2\n"), "run.toml:10: kd.ratio: expected 0 to 1, found 2"),
        (format!("{SMALL}[kd]\nratoi = 1\n"), "run.toml:10: kd.ratoi: expected one of divergence"),
        (SMALL.replace("\"sft\"", "\"kd\""), "teacher.model: expected a model folder: kd has a teacher"),
        (SMALL.replace("[\"rows.jsonl\"]", "3"), "data.train: expected a text or a list of texts, found 3"),
        (SMALL.replace("train = [\"rows.jsonl\"]", ""), "data.train: expected files of rows"),
        (SMALL.replace("\"sft\"", "\"sft"), "not valid TOML: run.toml:2"),
        (SMALL.replace("policy = \"sft\"", ""), "policy: expected sft"),
    ] {
        let e = load(&text, &[]).unwrap_err();
        assert!(e.to_string().contains(says), "{says}: {e}");
        assert_eq!(e.cause().exit_code(), 2, "{e}");
    }
}

#[test]
fn set_goes_over_the_file() {
    let config = load(SMALL, &["train.lr=1e-3", "seed=7", "train.steps=10k", "data.train=a.jsonl"]).unwrap();
    let s = &config.settings;
    assert_eq!((s.train.lr, s.seed, s.train.length), (1e-3, 7, Length::Steps(10_000)));
    assert_eq!(s.data.train, [Path::new("a.jsonl")]);
    let config = load(SMALL, &["policy=kd", "kd.divergence=jsd", "teacher.model=t"]).unwrap();
    assert_eq!(config.policy().unwrap().settings()["divergence"], "jsd");
    for (set, says) in [
        ("train.lr", "key=value"),
        ("train..lr=1", "key=value"),
        ("train.lr=fast", "--set train.lr: expected a number above 0, found \"fast\""),
        ("train.lrr=1", "--set train.lrr: an unknown setting"),
        ("seed.x=1", "--set seed.x"),
    ] {
        let text = format!("seed = 3\n{SMALL}");
        let e = load(&text, &[set]).unwrap_err().to_string();
        assert!(e.contains(says), "{says}: {e}");
    }
}

#[test]
fn another_policys_table_is_checked_and_not_used() {
    let config = load(&format!("{SMALL}[minillm]\npreset = \"lmops\"\n"), &[]).unwrap();
    assert_eq!(config.unused, ["minillm"]);
    assert!(config.table.is_empty());
    assert!(load(&format!("{SMALL}[minillm]\nalhpa = 1\n"), &[]).is_err());
}

#[test]
fn as_run_is_read_again_and_says_the_same() {
    let lora = load(SMALL, &["student.lora.rank=4", "student.lora.targets=[\"q_proj\"]"]).unwrap();
    let made = Lora { rank: 4, alpha: 8.0, targets: vec!["q_proj".into()] };
    assert_eq!(lora.settings.student.lora, Some(made));
    assert_eq!(lora.settings, load(&lora.as_run(&[]).unwrap(), &[]).unwrap().settings);
    let share = load(SMALL, &["train.warmup=10%"]).unwrap().settings.train.warmup;
    assert_eq!(share.updates(250), 25);
    for policy in ["sft", "kd", "seqkd", "minillm", "minima", "gkd", "distillm", "onpolicy"] {
        let set = [
            &format!("policy={policy}"),
            "teacher.model=t",
            "data.corpus=[\"a \\\"b\\\".txt\"]",
            "train.warmup=3%",
        ];
        let config = load(SMALL, &set).unwrap();
        let text = config.as_run(&[("version", "1.2.3".into())]).unwrap();
        let again = load(&text, &[]).unwrap_or_else(|e| panic!("{policy}: {e}\n{text}"));
        assert_eq!(config.settings, again.settings, "{policy}");
        assert_eq!(config.policy().unwrap().settings(), again.policy().unwrap().settings(), "{policy}");
        assert_eq!(again.as_run(&[("version", "1.2.3".into())]).unwrap(), text);
        assert_eq!(config.differs(&again).unwrap(), None);
    }
}

#[test]
fn a_resumed_run_may_be_longer_and_not_another() {
    let config = load(SMALL, &[]).unwrap();
    let with = |set: &str| config.differs(&load(SMALL, &[set]).unwrap()).unwrap();
    assert_eq!(with("train.steps=20"), None);
    assert_eq!(with("train.lr=1").as_deref(), Some("train.lr"));
    assert_eq!(with("teacher.model=t").as_deref(), Some("teacher.model"));
}

#[test]
fn places_are_lines() {
    let config = load(SMALL, &["train.lr=1"]).unwrap();
    assert!(config.blame("data.train", Error::user("x")).to_string().contains("data.train (run.toml:6)"));
    assert!(config.blame("train.lr", Error::user("x")).to_string().contains("--set train.lr"));
}
