//! The page over runs that are written here by hand.

use std::path::{Path, PathBuf};

use super::*;
use crate::report::run::load;

struct Runs(tempfile::TempDir);

impl Runs {
    fn new() -> Self {
        Runs(tempfile::tempdir().unwrap())
    }

    fn write(&self, run: &str, file: &str, text: &str) -> PathBuf {
        let folder = self.0.path().join(run);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(file), text).unwrap();
        folder
    }

    fn config(&self, run: &str, policy: &str, lr: &str) {
        let text = format!(
            "policy = {policy:?}\nstudent.model = \"s\"\nteacher.model = \"t\"\ndata.train = [\"r.jsonl\"]\n\
             train.steps = 9\ntrain.lr = {lr}\n"
        );
        self.write(run, "config.toml", &text);
    }
}

fn html(paths: &[&Path]) -> String {
    of_runs(&load(paths).unwrap(), &Teacher::default()).html()
}

/// The part of a page from one heading to the next.
fn part<'a>(html: &'a str, heading: &str) -> &'a str {
    let from = html.find(&format!("<h2>{heading}</h2>")).unwrap_or_else(|| panic!("no {heading}"));
    html[from..].split("</section>").next().unwrap()
}

fn step(n: u32, more: &str) -> String {
    format!("{{\"step\":{n},\"loss\":{},\"lr\":0.1{more}}}\n", 4.0 / f64::from(n))
}

/// Every number that a run writes is in some chart, also one that no list knows.
#[test]
fn every_number_is_drawn_somewhere() {
    let runs = Runs::new();
    let more =
        ",\"reverse_kl\":0.5,\"weight_ess\":0.9,\"strange_thing\":7,\"seconds\":{\"total\":1,\"odd\":0.5}";
    let eval = "{\"step\":2,\"eval\":{\"rouge_l\":20,\"rouge_l_low\":19,\"rouge_l_high\":21,\"new_score\":3,\"tokens\":5},\
                \"seconds\":{\"total\":1}}\n";
    let variance = "{\"step\":2,\"variance\":{\"exact\":{\"noise\":1,\"signal\":2,\"cosine\":1},\"full\":{\"noise\":3}}}\n";
    let a = runs.write("a", "metrics.jsonl", &[&step(1, more), &step(2, more), variance, eval].concat());
    let b = runs.write("b", "metrics.jsonl", &step(1, ""));
    let html = html(&[&a, &b]);
    for (heading, titles) in [
        ("Loss and its terms", &["Loss", "Reverse KL"][..]),
        ("The students&#39; own replies", &["Effective share of tokens"]),
        ("Optimiser", &["Learning rate"]),
        ("Variance of the gradient", &["Noise of the gradient", "Signal of the gradient"]),
        ("Evaluations", &["Rouge-L of replies"]),
        (
            "More",
            &[
                "strange thing",
                "seconds.odd",
                "eval.new score",
                "Tokens evaluated",
                "All, since the last update",
            ],
        ),
    ] {
        let part = part(&html, heading);
        for title in titles {
            assert!(part.contains(&format!("aria-label=\"{title}\"")), "{heading}: no {title}");
        }
    }
    assert!(!html.contains("aria-label=\"eval.rouge l low\""), "ends are drawn with what they are ends of");
    let loss = part(&html, "Loss and its terms").split("</svg>").next().unwrap();
    assert!(loss.contains(">a</text>") && loss.contains(">b</text>"), "both runs on one chart");
    let evaluations = part(&html, "Evaluations");
    assert!(evaluations.contains("19.00 to 21.00") || evaluations.contains("19 to 21"), "{evaluations}");
}

/// Distances are drawn on a logarithmic axis with the law that is fitted to those at the constant rate, and the noise
/// scale among the optimiser's numbers; one that is not yet known is a gap.
#[test]
fn distances_are_drawn_with_their_law() {
    let runs = Runs::new();
    let mut text = String::new();
    for t in (1..=400u32).filter(|t| crate::optim::diffusion::due(u64::from(*t))) {
        // Half as far in the warm-up and when the rate falls: that would spoil the fit.
        let far = (0.5 + 0.25 * f64::from(t).ln()) * if (20..=300).contains(&t) { 1.0 } else { 0.5 };
        text += &step(t, "");
        text += &format!(
            "{{\"step\":{t},\"distance\":{{\"whole\":{far},\"layer_0\":{}}},\"constant_rate\":{}}}\n",
            2.0 * far,
            (20..=300).contains(&t)
        );
        text += &format!(
            "{{\"step\":{t},\"noise_scale\":{{\"signal\":1,\"covariance\":8,\"sequences\":null}}}}\n"
        );
    }
    let html = html(&[&runs.write("a", "metrics.jsonl", &text)]);
    let part = part(&html, "Distance from the start");
    assert!(part.contains("update, logarithmic") && part.contains("a: a + b ln t"), "{part}");
    let row =
        |block: &str| part.split("<tr>").find(|row| row.contains(&format!("<td>{block}</td>"))).unwrap();
    for (block, slope) in [("whole", "0.2500"), ("layer 0", "0.5000")] {
        let numbers = row(block);
        assert!(numbers.contains(&format!(">{slope}<")) && numbers.contains(">1.0000<"), "{numbers}");
    }
    assert!(part.contains("aria-label=\"Distance of each block\""));
    assert!(!html.contains("aria-label=\"distance."), "and not a second time");
    assert!(html.contains("aria-label=\"Noise of one sequence, each estimate\""));
    assert!(!html.contains("aria-label=\"Gradient noise scale\""), "it is not known yet");
}

/// Several runs: the settings that differ and no other; one: those that somebody set.
#[test]
fn settings_that_differ_are_listed() {
    let runs = Runs::new();
    runs.config("a", "kd", "0.1");
    runs.config("b", "kd", "0.2");
    let paths = ["a", "b"].map(|name| runs.0.path().join(name));
    let whole = html(&[&paths[0], &paths[1]]);
    let differ = part(&whole, "Settings that differ");
    assert!(differ.contains(">train.lr</th><td>0.1</td><td>0.2</td>"), "{differ}");
    assert_eq!(differ.matches("scope=\"row\"").count(), 1, "{differ}");
    let same = html(&[&paths[0], &paths[0]]);
    assert!(part(&same, "Settings that differ").contains("the same settings"));
    let one = html(&[&paths[0]]);
    let (own, defaults) = part(&one, "Settings").split_once("<details>").unwrap();
    assert!(own.contains("train.lr") && !own.contains("train.eps"), "{own}");
    assert!(defaults.contains("train.eps") && !defaults.contains("train.lr"));
}

/// Replies to one prompt stand together; what is too much is counted.
#[test]
fn replies_stand_side_by_side() {
    let runs = Runs::new();
    let line = |n: usize, by: &str| {
        format!(
            "{{\"step\":3,\"prompt\":\"p{n}?\",\"response\":\"{by}-{n}\",\"references\":[\"gold-{n}\"],\"rouge_l\":50}}\n"
        )
    };
    let all = |by: &str, n: usize| (0..n).map(|n| line(n, by)).collect::<String>();
    for (run, n) in [("a", 15), ("b", 3)] {
        runs.write(run, "metrics.jsonl", &step(1, ""));
        runs.write(run, "samples.jsonl", &all(run, n));
    }
    let said = runs.0.path().join("teacher.jsonl");
    std::fs::write(&said, "{\"prompt\":\"p1?\",\"response\":\"wise\"}\n").unwrap();
    let paths = ["a", "b"].map(|name| runs.0.path().join(name));
    let html = of_runs(&load(&paths).unwrap(), &Teacher::read(&said).unwrap()).html();
    let part = part(&html, "Replies");
    let cards: Vec<&str> = part.split("<article").skip(1).collect();
    assert_eq!(cards.len(), 12);
    let order = ["p1?", "gold-1", "wise", "a-1", "b-1"].map(|text| cards[1].find(text).unwrap());
    assert!(order.is_sorted(), "{}", cards[1]);
    assert!(!cards[5].contains("b-5"));
    assert!(part.contains("12 prompts are shown, 3 are left out.") && part.contains("to 1 of 15 prompts"));
    runs.write("a", "samples.jsonl", &line(0, &"x".repeat(9000)));
    let long = of_runs(&load(&paths[..1]).unwrap(), &Teacher::default()).html();
    assert!(long.contains("more characters)") && !long.contains(&"x".repeat(2000)));
}

/// A hundred thousand updates make a page of the size of one of a thousand.
#[test]
fn long_runs_make_no_long_page() {
    let runs = Runs::new();
    let size = |n: u32| {
        let text: String = (1..=n).map(|n| step(n, ",\"grad_norm\":1.5,\"tokens\":100")).collect();
        html(&[&runs.write("a", "metrics.jsonl", &text)]).len()
    };
    let (short, long) = (size(1000), size(100_000));
    assert!(long < 2 * short && long < 200_000, "{short} and {long} bytes");
}

/// A run of which there is hardly anything yet has a page all the same.
#[test]
fn a_run_that_begins_has_a_page() {
    let runs = Runs::new();
    runs.config("a", "kd", "0.1");
    let a = runs.0.path().join("a");
    assert!(html(&[&a]).contains("a has done no update yet."));
    let b = runs.write("b", "metrics.jsonl", "{\"step\":1,\"lo");
    assert!(html(&[&b]).contains("no config.toml"));
    let both = html(&[&a, &b]);
    assert_eq!(both, html(&[&a, &b]), "the same runs have the same page");
}
