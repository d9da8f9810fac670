//! One collection and its inner epochs: terms and gradients against float64, written here from the equations.

use tch::{Device, Kind, Tensor};

use super::super::feed::Feed;
use super::super::gather::Gather;
use super::super::setup::{Material, Options};
use super::super::update::{Gradient, Updater};
use super::super::work::Work;
use super::super::{course, optimizer_settings};
use super::{Silent, fixture, flat, wide};
use crate::checkpoint::RunDir;
use crate::config::RunConfig;
use crate::data::sampler::Cut;
use crate::model::{CausalLm, Padding, read_design};
use crate::optim::{Optimizer, Outcome};
use crate::weights::Dtype;

/// The teacher with a tokenizer beside it, and some text.
#[expect(clippy::disallowed_methods, reason = "a test makes its own files")]
fn files(dir: &std::path::Path) -> [std::path::PathBuf; 2] {
    let [teacher, corpus] = ["teacher", "corpus.txt"].map(|name| dir.join(name));
    std::fs::create_dir(&teacher).unwrap();
    for name in
        ["updates/teacher/config.json", "updates/teacher/model.safetensors", "score/llama/tokenizer.json"]
    {
        let file = fixture(name);
        std::fs::copy(&file, teacher.join(file.file_name().unwrap())).unwrap();
    }
    let text = "Water rises as steam, and falls as water.\n\nWhat stays behind was never wine.\n\n";
    std::fs::write(&corpus, text.repeat(4)).unwrap();
    [teacher, corpus]
}

/// A run that is set up, short of its loop.
struct Set {
    _dir: tempfile::TempDir,
    material: Material,
    gather: Gather,
    updater: Updater,
    optimizer: Optimizer,
    lr: f64,
}

impl Set {
    fn up(settings: &[&str]) -> Set {
        let dir = tempfile::tempdir().unwrap();
        let [teacher, corpus] = files(dir.path());
        let text = format!(
            "policy = \"minillm\"\nstudent.model = {:?}\nteacher.model = {:?}\ndata.train = {:?}\ndata.corpus = {:?}\n\
             data.max_response = 12\ndata.sequence = 16\ntrain.steps = 8\ntrain.batch = 4\ntrain.lr = 3e-3\n\
             train.schedule = \"constant\"\nminillm.rollouts = 8\n",
            fixture("score/llama"),
            teacher,
            fixture("updates/rows.jsonl"),
            corpus,
        );
        let set: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
        let config = RunConfig::parse(&text, "run.toml".as_ref(), &set).unwrap();
        let options = Options { device: Device::Cpu, kind: Kind::Float, write: Dtype::F32, resume: false };
        let material = Material::load(&config, &options, None).unwrap();
        let run = RunDir::take(&dir.path().join("run")).unwrap();
        let policy = config.policy().unwrap();
        let feed = Feed::prepare(&config, &material, &run, policy.as_ref(), &mut Silent).unwrap();
        let corpus = Feed::beside(&config, &material, &run, policy.as_ref()).unwrap();
        let gather = Gather::new(&config, &material, policy.as_ref(), (feed, corpus), 8);
        let train = &config.settings.train;
        let optimizer = Optimizer::new(material.student.params(), optimizer_settings(train)).unwrap();
        let lr = course(train, 8).at(1);
        let least = config.settings.sampling.min_new_tokens;
        // Cut finely: the reference takes every row on its own.
        let updater = Updater::new(&material, policy, Cut::Rows(3), least).unwrap();
        Set { _dir: dir, material, gather, updater, optimizer, lr }
    }
}

/// log p over the vocabulary where each token of a row from `from` on is predicted: [tokens, v].
fn log_softmax(model: &CausalLm, ids: &[u32], from: usize, v: i64, barred: usize, eos: &[u32]) -> Tensor {
    let all: Vec<i64> = ids[..ids.len() - 1].iter().map(|&id| id.into()).collect();
    let hidden = model.hidden(&Tensor::from_slice(&all).unsqueeze(0), &Padding::Right).unwrap();
    let logits = model.head().logits(&hidden).unwrap().squeeze_dim(0).narrow(1, 0, v);
    let logits = logits.narrow(0, from as i64 - 1, (ids.len() - from) as i64).to_kind(Kind::Double);
    let mask = Tensor::zeros(logits.size(), (Kind::Double, Device::Cpu));
    for &id in eos {
        let _ = mask.narrow(0, 0, barred.min(ids.len() - from) as i64).select(1, id.into()).fill_(-1e30);
    }
    (logits + mask).log_softmax(-1, Kind::Double)
}

/// What differs between the presets.
struct Preset {
    next: bool,
    gamma: f64,
    scale: f64,
    clip: f64,
    whiten: bool,
    weigh: bool,
    corpus_kd: f64,
}

const PAPER: Preset =
    Preset { next: true, gamma: 1.0, scale: 1.0, clip: 1e30, whiten: false, weigh: true, corpus_kd: 0.0 };
const LMOPS: Preset =
    Preset { next: false, gamma: 0.95, scale: 0.5, clip: 100.0, whiten: true, weigh: false, corpus_kd: 0.5 };

/// A reply as the reference takes it.
struct Reply {
    ids: Vec<u32>,
    from: usize,
    q_old: Vec<f64>,
    w: Vec<f64>,
    advantage: Vec<f64>,
}

impl Preset {
    /// The advantages of section 1 of the method, from what was recorded.
    fn replies(&self, rows: &[&crate::rollout::Experience], longest: usize) -> Vec<Reply> {
        let mut replies: Vec<Reply> = rows.iter().map(|row| self.reply(row)).collect();
        if self.whiten {
            let cells = (replies.len() * longest) as f64;
            let all = || replies.iter().flat_map(|r| r.advantage.iter().copied());
            let mean = all().sum::<f64>() / cells;
            let square = all().map(|a| a * a).sum::<f64>() / cells;
            let sd = (square - mean * mean + 1e-8).sqrt();
            for a in replies.iter_mut().flat_map(|r| r.advantage.iter_mut()) {
                *a = (*a - mean) / sd;
            }
        }
        replies
    }

    fn reply(&self, row: &crate::rollout::Experience) -> Reply {
        let of = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let (q, p, m) = (of(&row.numbers.student), of(&row.numbers.teacher), of(&row.numbers.drawn));
        let r: Vec<f64> =
            q.iter().zip(&p).map(|(q, p)| ((p - q) / self.scale).clamp(-self.clip, self.clip)).collect();
        let start = usize::from(self.next);
        let advantage = (0..r.len())
            .map(|t| {
                let rest = &r[(t + start).min(r.len())..];
                let sum: f64 = rest.iter().enumerate().map(|(k, r)| self.gamma.powi(k as i32) * r).sum();
                if rest.is_empty() { 0.0 } else { sum / rest.len() as f64 }
            })
            .collect();
        let w = q.iter().zip(&m).map(|(q, m)| (q - m).exp()).collect();
        Reply { ids: row.example.ids.clone(), from: row.example.from, q_old: q, w, advantage }
    }

    /// `L_pg + L_1 + L_pt` with whole logits and autograd: the three terms.
    fn loss(&self, set: &Set, q: &CausalLm, p: &CausalLm, replies: &[Reply], work: &Work) -> [Tensor; 3] {
        let zero = || Tensor::zeros([0i64; 0], (Kind::Double, Device::Cpu));
        let (v, eos) = (set.material.vocabulary as i64, &set.material.eos);
        let n: usize = replies.iter().map(|r| r.w.len()).sum();
        let (mut pg, mut kl, mut pt, mut n_pt) = (zero(), zero(), zero(), 0);
        for r in replies {
            let lq = log_softmax(q, &r.ids, r.from, v, 2, eos);
            let lp = log_softmax(p, &r.ids, r.from, v, 2, eos).detach();
            let targets: Vec<i64> = r.ids[r.from..].iter().map(|&id| id.into()).collect();
            let chosen = lq.gather(1, &Tensor::from_slice(&targets).unsqueeze(1), false).squeeze_dim(1);
            let (a, w) = (Tensor::from_slice(&r.advantage), Tensor::from_slice(&r.w));
            let rho = (chosen - Tensor::from_slice(&r.q_old)).exp() * &w;
            pg += (-&a * &rho).maximum(&(-&a * rho.clamp(0.8, 1.2))).sum(Kind::Double) / n as f64;
            let each = (lq.exp() * (&lq - lp)).sum_dim_intlist(-1i64, false, Kind::Double);
            kl += (if self.weigh { each * w } else { each }).sum(Kind::Double) / n as f64;
        }
        for row in &work.corpus {
            let from = row.from.max(1);
            let lq = log_softmax(q, &row.ids, from, v, 0, eos);
            let targets: Vec<i64> = row.ids[from..].iter().map(|&id| id.into()).collect();
            n_pt += targets.len();
            let hard = lq.gather(1, &Tensor::from_slice(&targets).unsqueeze(1), false).sum(Kind::Double);
            let soft = (log_softmax(p, &row.ids, from, v, 0, eos).exp().detach() * &lq).sum(Kind::Double);
            pt = pt - hard * (1.0 - self.corpus_kd) - soft * self.corpus_kd;
        }
        [pg, kl, pt / n_pt as f64]
    }
}

/// One collection and four inner epochs, every update: terms and gradients of the whole loop against float64.
fn follows(name: &str, preset: &Preset) {
    let settings =
        [format!("minillm.preset={name}"), "minillm.rollouts=8".into(), "sampling.min_new_tokens=2".into()];
    let mut set = Set::up(&settings.iter().map(String::as_str).collect::<Vec<_>>());
    let teacher = wide(
        set.material.teacher_model().unwrap().unwrap(),
        read_design(&fixture("updates/teacher")).unwrap(),
    );
    for step in 0..8 {
        let work = set.gather.next(step, &set.material, set.updater.policy(), &mut Silent).unwrap();
        let rows: Vec<&crate::rollout::Experience> = work
            .main
            .iter()
            .map(|row| set.gather.collection().iter().find(|e| e.example == row.example).unwrap())
            .collect();
        let student = wide(&set.material.student, read_design(&fixture("score/llama")).unwrap());
        let replies = preset.replies(&rows, 12);
        let [pg, kl, pt] = preset.loss(&set, &student, &teacher, &replies, &work);
        (&pg + &kl + &pt).backward();
        let Gradient { loss, terms, .. } = set.updater.gradient(&set.material, &work).unwrap();
        let term = |name: &str| terms.iter().find(|t| t.0 == name).unwrap().1;
        let near = |what: &str, got: f64, exact: &Tensor| {
            let exact = exact.double_value(&[]);
            assert!(
                (got - exact).abs() <= 1e-5 * exact.abs().max(1.0),
                "{name} {step} {what}: {got} {exact}"
            );
        };
        near("pg", term("pg"), &pg);
        near("loss", loss, &(&pg + &kl + &pt));
        let corpus = term("corpus-ce") * (1.0 - preset.corpus_kd);
        let soft = if preset.corpus_kd > 0.0 { term("corpus-teacher-ce") * preset.corpus_kd } else { 0.0 };
        near("corpus", corpus + soft, &pt);
        let exact = flat(&student.params().compute().iter().map(Tensor::grad).collect::<Vec<_>>());
        let norm = |t: &Tensor| t.norm().double_value(&[]);
        let (off, size) = (norm(&(flat(set.updater.sums()) - &exact)), norm(&exact));
        assert!(off <= 1e-5 * size, "{name} {step}: {off} of {size}");
        let told = set.updater.run(&set.material, &work, &mut set.optimizer, set.lr).unwrap();
        assert!(matches!(told.outcome, Outcome::Done(_)));
    }
}

#[test]
fn the_papers_preset_follows_float64() {
    follows("paper", &PAPER);
}

#[test]
fn the_codes_preset_follows_float64() {
    follows("lmops", &LMOPS);
}

/// Behind the collection the teacher's head is all that is asked: the body can go. Text beside the replies that is learnt
/// with the teacher's opinion (`lmops`) still needs it.
#[test]
fn inner_epochs_ask_the_teacher_for_nothing() {
    for (name, asks) in [("paper", false), ("lmops", true)] {
        let mut set = Set::up(&[&format!("minillm.preset={name}"), "minillm.rollouts=8"]);
        for step in 0..8 {
            let work = set.gather.next(step, &set.material, set.updater.policy(), &mut Silent).unwrap();
            if step == 0 {
                set.material.teacher.as_mut().unwrap().lose_body().unwrap();
            }
            let told = set.updater.run(&set.material, &work, &mut set.optimizer, set.lr);
            assert_eq!(told.is_err(), asks, "{name}, update {step}");
        }
    }
}
