//! Every command of README.md and docs/ is run: in the order of its page, in one folder a page, on tiny models.
//! Training runs are cut short by settings; nothing else of a command is changed.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;

use retort::config::{Length, RunConfig};

use crate::page::{Step, steps};
use crate::workplace::{finished_run, furnish, provide_runs};
use crate::{pages, root, text_of};

/// Programs that a page may call.
const KNOWN: [&str; 7] = ["retort", "cat", "cp", "grep", "head", "ls", "tail"];

/// Why the stages of a real pair are not run.
const DEEP: &str = "needs the real model and hours; prune::minichat_goes_on_where_it_was_and_ends_in_a_model_to_chat_with has a tiny one";

/// Commands that are not run, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("make quickstart", "builds a binary, and runs `retort quickstart`"),
    ("make hello", "fetches a real model"),
    ("make test", "is what runs this"),
    (
        "cargo run --release --example methods -- runs/methods",
        "trains for an hour; quickstart::methods_are_compared trains for one update a run",
    ),
    (
        "cargo run --release --example kl_directions -- runs/kl-directions",
        "trains seven students; quickstart::directions_are_compared trains them for four updates",
    ),
    (
        "torchrun --no-python --nproc-per-node 2 retort distill configs/kd.toml --out runs/kd-torchrun --resume",
        "needs Python's torch; training::torchrun_launches_it",
    ),
    ("sbatch job.sh", "needs a cluster; lib::slurms_variables_are_read"),
    ("kubectl apply -f job.yaml", "needs a cluster; its variables are torchrun's"),
    (
        "retort prune --model MODEL --input text.txt --params 100M --out STUDENT",
        "needs a model of real size; docs/how-to/prune.md has commands for any",
    ),
    (
        "cargo run --release --example generalization_gap -- data/fashion-mnist runs/generalization-gap",
        "trains fifteen networks on images that a script fetches; quickstart::the_gap_is_measured_and_goes_on has few of its own",
    ),
    (
        "cargo run --release --example critical_batch -- runs/critical-batch",
        "builds again what quickstart::branches_are_compared runs",
    ),
    (
        "retort eval --model runs/minichat/sft/final --teacher .assets/smollm2/SmolLM2-135M-Instruct \
         --input data/minichat/valid.jsonl --template chat --metrics rouge_l,perplexity,eos_rate,distinct_4 --seeds 10 \
         --max-new-tokens 64",
        "needs the real model and hours; evaluation::command runs each metric",
    ),
    (
        "cargo run --release --example processes -- target/release/retort runs/minichat-deep/student \
         .assets/smollm2/SmolLM2-135M-Instruct data/minichat/train.jsonl runs/processes 4",
        "needs the real model; quickstart::what_processes_cost_is_predicted runs it on a tiny one",
    ),
    (
        "cargo run --release --example processes -- scaling",
        "builds an example; quickstart::what_processes_cost_is_predicted runs it",
    ),
    (
        "retort prune --model .assets/smollm2/SmolLM2-135M-Instruct --input data/minichat/text.txt \
         --importance activation --samples 12 --held-out 8 --layers 15 --ffn 1024 --out \
         runs/minichat-deep/student --dtype f32 --threads 1",
        DEEP,
    ),
    (
        "retort distill configs/minichat/minima.toml --out runs/minichat-deep/minima --resume --nproc 2 --dtype \
         f32 --threads 1 --set student.model=runs/minichat-deep/student --set train.steps=500 --set \
         train.lr=1e-3 --set train.warmup=20 --set train.save_every=50",
        DEEP,
    ),
    (
        "retort distill configs/minichat/sft.toml --out runs/minichat-deep/sft --resume --dtype f32 --threads \
         1 --set student.model=runs/minichat-deep/minima/final --set train.epochs=0.5",
        DEEP,
    ),
    (
        "retort distill configs/minichat/minillm.toml --out runs/minichat-deep/minillm --resume --dtype f32 \
         --threads 1 --set student.model=runs/minichat-deep/sft/final --set train.steps=48 --set \
         train.lr=2e-5 --set train.save_every=12",
        DEEP,
    ),
    (
        "retort distill configs/minichat/kd.toml --out runs/minichat-deep/kd --resume --dtype f32 --threads 1 \
         --set student.model=runs/minichat-deep/minima/final --set train.epochs=0.5",
        DEEP,
    ),
    ("scripts/minichat-data", "fetches text and rows"),
    (
        "cargo run --release --example minichat",
        "trains for half an hour; prune::minichat_goes_on_where_it_was_and_ends_in_a_model_to_chat_with has a tiny teacher",
    ),
    (
        "cargo run --release --example minichat -- TEACHER --layers 15 --ffn 1024 --set train.batch=4",
        "wants a teacher of real size; the same test names a cut and a setting",
    ),
    (
        "retort chat --model runs/minichat/minillm/final",
        "talks to what the example made, as the same test does",
    ),
    ("make build", "builds what this tests"),
    ("scripts/law-corpus", "fetches text"),
    ("scripts/fashion-mnist data/fashion-mnist", "fetches images"),
    (
        "python tests/golden/check_pruned.py target/release/retort",
        "needs Python with transformers; training and prune tests have golden folders of it",
    ),
    (
        "RETORT_TEST_KILLS=20 cargo test --test training -- --nocapture kills::",
        "builds this again; the suite has fewer kills of a rank",
    ),
    (
        "RETORT_TEST_KILLS=50 RETORT_TEST_EVERY=1 cargo test --test training killed",
        "kills for twenty minutes; the suite kills ten times",
    ),
    (
        "retort law run configs/research/capacity-gap.toml --out runs/capacity-gap",
        "trains for half an hour; tests/law.rs trains a grid in seconds",
    ),
    ("cargo run --release --example capacity_gap -- demo", "builds an example; tests/law.rs runs it"),
    ("retort import model.gguf --out MODEL", "needs a GGUF model of real size; lib::gguf imports small ones"),
];

/// What cuts the quickstart short.
const QUICKSTART: &str = " --prompts 50 --held-out 8 --set train.steps=2 --set train.eval_every=2 --set train.batch=8 --set eval.prompts=4";

/// The page's own row in the README's table names the test that runs its commands.
fn has_its_own_test(page: &str) -> bool {
    text_of("README.md").lines().any(|line| line.starts_with(&format!("| {page} |")))
}

/// What cuts a training run short: few updates, short rows and replies, where the command does not say itself.
fn shorter(place: &Path, command: &str) -> String {
    let mut words = command.split_whitespace();
    match (words.next(), words.next()) {
        (Some("retort"), Some("quickstart")) => return QUICKSTART.into(),
        (Some("retort"), Some("distill")) => {}
        _ => return String::new(),
    }
    let mut settings = vec!["data.max_response=8", "data.sequence=32", "eval.prompts=4"];
    let config = words.next().and_then(|file| {
        // Paths in it are relative to the page's folder; only its length and policy are asked for.
        RunConfig::load(&place.join(file), &[]).ok()
    });
    if let Some(config) = config {
        settings.push(match config.settings.train.length {
            Length::Steps(_) => "train.steps=2",
            Length::Epochs(_) => "train.epochs=0.5",
        });
        if config.entry.name == "minillm" {
            settings.push("minillm.rollouts=8");
        }
    }
    if command.contains("minillm.measure_variance=") {
        settings.push("minillm.measure_variance=2");
    }
    let said = |setting: &&str| {
        let length = ["train.steps=", "train.epochs=", "minillm.measure_variance="];
        let key = &setting[..=setting.find('=').unwrap()];
        !length.contains(&key) && command.contains(&format!("--set {key}"))
    };
    settings.iter().filter(|setting| !said(setting)).map(|setting| format!(" --set {setting}")).collect()
}

fn run(place: &Path, command: &str) -> Output {
    let binary = Path::new(env!("CARGO_BIN_EXE_retort")).parent().unwrap().display().to_string();
    let path = format!("{binary}:{}", std::env::var("PATH").unwrap());
    let line = format!("set -e -o pipefail; {command}{}", shorter(place, command));
    Command::new("timeout")
        .args(["600", "bash", "-c", &line])
        .current_dir(place)
        .stdin(File::open(place.join("said")).unwrap())
        .env("PATH", path)
        .env("OMP_NUM_THREADS", "1")
        .env_remove("RETORT_LOG")
        .output()
        .unwrap()
}

/// Does what a page says, and answers how many commands ran and what went wrong.
fn follow(page: &str, finished: &Path, not_run: &Mutex<BTreeSet<&'static str>>) -> (usize, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    furnish(folder.path());
    let (mut ran, mut wrong) = (0, Vec::new());
    let steps = steps(&text_of(page)).unwrap_or_else(|e| panic!("{page}: {e}"));
    for step in steps {
        let (line, command) = match step {
            Step::Save(name, text) => {
                std::fs::write(folder.path().join(name), text).unwrap();
                continue;
            }
            Step::Run(line, command) => (line, command),
        };
        if let Some((known, _)) = NOT_RUN.iter().find(|(known, _)| *known == command) {
            not_run.lock().unwrap().insert(known);
            continue;
        }
        let program = command.split_whitespace().next().unwrap_or_default();
        if !KNOWN.contains(&program) {
            wrong.push(format!("{page}:{line}: {command}\n  is no command that this test knows"));
            continue;
        }
        provide_runs(folder.path(), &command, finished);
        let output = run(folder.path(), &command);
        ran += 1;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            wrong.push(format!("{page}:{line}: {command}\n  {}: {said}", output.status));
        }
    }
    (ran, wrong)
}

#[test]
fn every_command_of_the_documents_runs() {
    let folder = tempfile::tempdir().unwrap();
    let finished = finished_run(folder.path());
    let pages: Vec<String> = pages().into_iter().filter(|page| !has_its_own_test(page)).collect();
    let (waiting, not_run) = (Mutex::new(pages.iter()), Mutex::new(BTreeSet::new()));
    let (total, wrong) = (Mutex::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, |n| n.get().min(8)) {
            scope.spawn(|| {
                loop {
                    let Some(page) = waiting.lock().unwrap().next() else { return };
                    let (ran, mut found) = follow(page, &finished, &not_run);
                    *total.lock().unwrap() += ran;
                    wrong.lock().unwrap().append(&mut found);
                }
            });
        }
    });
    let (wrong, total) = (wrong.into_inner().unwrap(), total.into_inner().unwrap());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(total >= 40, "only {total} commands ran");
    let used = not_run.into_inner().unwrap();
    for (command, why) in NOT_RUN {
        assert!(used.contains(command), "no page has {command} any more, which is excused because it {why}");
    }
}

#[test]
fn a_command_that_fails_or_is_unknown_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    furnish(folder.path());
    assert!(!run(folder.path(), "retort inspect NOWHERE").status.success());
    assert!(!run(folder.path(), "retort inspect NOWHERE | cat").status.success());
    assert!(!run(folder.path(), "retort distill run.toml --set train.momentum=1").status.success());
    assert!(run(folder.path(), "retort inspect run.toml").status.success());
    assert!(!KNOWN.contains(&"rm") && root().join("configs").exists());
}
