//! The objectives on language models: one small student, one teacher, the same rows and as many updates with each.

use std::path::Path;

use retort::config::RunConfig;
use retort::decode::{Sampling, Speaker};
use retort::error::{Error, Result};
use retort::eval::replies::{Answer, answers};
use retort::eval::rouge;
use retort::model::LoadOptions;
use retort::model::sight::Padding;
use retort::quickstart::grammar::{Grammar, Request, Split};
use retort::quickstart::rows::{Draw, Replies, write};
use retort::quickstart::write_models;
use retort::report::draw::{Axis, Chart, Drawing, Series};
use retort::report::page::{Cell, Table};
use retort::store::Folder;
use retort::train::{self, Options, Silent};
use retort::weights::Dtype;
use tch::{Device, Kind, Tensor};

/// What the columns are.
pub const EXPLAINED: &str = "Mass in the void: what the student gives to tokens that the teacher gives less than a \
    thousandth, behind the student's own words. Coverage: of the tokens that the teacher gives at least a tenth, \
    behind the teacher's words, the share that the student gives at least a tenth of that. Entropy: nats a token, \
    behind its own words. Valid: replies that answer the request, one sampled a prompt. KLs: behind the student's \
    own words.";

/// The objectives: their names, and what a config says of them.
const OBJECTIVES: [(&str, &str); 7] = [
    ("forward KL", "policy = 'kd'\nkd.divergence = 'forward-kl'\nkd.ratio = 1.0\n"),
    ("skew forward KL", "policy = 'kd'\nkd.divergence = 'skew-forward-kl'\nkd.ratio = 1.0\n"),
    ("JSD", "policy = 'kd'\nkd.divergence = 'jsd'\nkd.ratio = 1.0\nkd.jsd_normalised = true\n"),
    ("TVD", "policy = 'kd'\nkd.divergence = 'tvd'\nkd.ratio = 1.0\n"),
    ("skew reverse KL", "policy = 'kd'\nkd.divergence = 'skew-reverse-kl'\nkd.ratio = 1.0\n"),
    ("reverse KL", "policy = 'kd'\nkd.divergence = 'reverse-kl'\nkd.ratio = 1.0\n"),
    ("MiniLLM", "policy = 'minillm'\n"),
];

/// The times at which a run is measured.
const LOOKS: usize = 4;

/// Rows that are learnt.
const LEARNT: usize = 1500;

/// An objective's run.
pub struct Arm {
    name: &'static str,
    /// The update, and what was measured after it.
    seen: Vec<(u64, Measured)>,
}

/// By the names of [`COLUMNS`], in their order.
type Measured = [f64; 7];

/// What is measured: its name, the unit, decimals.
const COLUMNS: [(&str, &str, usize); 7] = [
    ("mass in the void", "%", 2),
    ("coverage", "%", 1),
    ("entropy", "nats", 3),
    ("Rouge-L", "", 1),
    ("valid", "%", 1),
    ("forward KL", "nats", 3),
    ("reverse KL", "nats", 3),
];

impl Arm {
    pub fn json(&self) -> serde_json::Value {
        let line = |(step, values): &(u64, Measured)| {
            let mut object = serde_json::Map::from_iter([("step".to_string(), (*step).into())]);
            object.extend(
                COLUMNS.iter().zip(values).map(|((name, ..), x)| (name.replace(' ', "_"), (*x).into())),
            );
            serde_json::Value::Object(object)
        };
        serde_json::json!({"objective": self.name, "seen": self.seen.iter().map(line).collect::<Vec<_>>()})
    }

    fn last(&self) -> Measured {
        self.seen.last().map_or([f64::NAN; 7], |(_, values)| *values)
    }
}

/// Trains with each objective, and measures along the way.
pub fn train_all(folder: &Folder, steps: usize, rows: usize) -> Result<Vec<Arm>> {
    write_models(folder)?;
    let grammar = Grammar::built_in()?;
    let learnt = (Split::Train, Replies::One { mistaken: 0.0 });
    write(&grammar, &folder.path("train.jsonl")?, LEARNT, learnt, Draw { seed: 1, file: 0 })?;
    let held = (Split::Test, Replies::Several(6));
    let requests = write(&grammar, &folder.path("held_out.jsonl")?, rows, held, Draw { seed: 1, file: 2 })?;
    let (read, _) = retort::data::read_with(&folder.path("held_out.jsonl")?, None, &mut |_, _| Ok(()))?;
    let references =
        read.rows.iter().map(|row| row.references().into_iter().map(String::from).collect()).collect();
    let teacher = Reader::open(&folder.path("models/teacher")?, &requests)?;
    let heard = teacher.answers()?;
    let held = Held { grammar, requests, references, teacher, heard };
    let first = held.measure(&folder.path("models/base")?)?;
    let mut arms = Vec::new();
    for (name, says) in OBJECTIVES {
        let run = folder.path(&format!("runs/{}", name.to_lowercase().replace(' ', "-")))?;
        train(folder, &run, says, steps)?;
        let mut seen = vec![(0, first)];
        for look in 1..=LOOKS {
            let step = (steps * look / LOOKS) as u64;
            seen.push((step, held.measure(&run.join(format!("checkpoints/step-{step}")))?));
        }
        eprintln!("{name}: done");
        arms.push(Arm { name, seen });
    }
    Ok(arms)
}

/// One run, a checkpoint at each look.
fn train(folder: &Folder, run: &Path, says: &str, steps: usize) -> Result<()> {
    let root = folder.root().display();
    let text = format!(
        "{says}seed = 1\nstudent.model = '{root}/models/base'\nteacher.model = '{root}/models/teacher'\n\
         data.train = ['{root}/train.jsonl']\ndata.max_prompt = 64\ndata.max_response = 64\n\
         train.steps = {steps}\ntrain.batch = 64\ntrain.lr = 1e-3\ntrain.schedule = 'cosine'\ntrain.warmup = 10\n\
         train.eval_every = 0\ntrain.save_every = {}\ntrain.keep = {}\n",
        (steps / LOOKS).max(1),
        LOOKS + 1
    );
    let config = RunConfig::parse(&text, &run.with_extension("toml"), &[])?;
    let options = Options { device: Device::Cpu, kind: Kind::Float, write: Dtype::F32, resume: true };
    train::run(config, run, &options, &mut Silent).map(|_| ())
}

/// A model that answers the held-out requests.
struct Reader {
    speaker: Speaker,
    prompts: Vec<Vec<u32>>,
}

impl Reader {
    fn open(folder: &Path, requests: &[Request]) -> Result<Self> {
        let speaker = Speaker::open(folder, LoadOptions::default())?;
        let prompts = speaker.prompts(requests.iter().map(|request| request.prompt.as_str()))?;
        Ok(Reader { speaker, prompts })
    }

    fn answers(&self) -> Result<Vec<Answer>> {
        let prompts: Vec<&[u32]> = self.prompts.iter().map(Vec::as_slice).collect();
        let settings = self.speaker.sampling(Sampling { max_new_tokens: 64, ..Sampling::default() });
        answers((&self.speaker.model, &self.speaker.tokenizer), &prompts, &settings, 32, &mut || ())
    }

    /// The log-probabilities of everything that could follow, at each token of a reply: [t, v].
    fn after(&self, row: usize, reply: &Answer) -> Result<Tensor> {
        let prompt = &self.prompts[row];
        let ids: Vec<i64> = prompt.iter().chain(&reply.ids).map(|id| i64::from(*id)).collect();
        let ids_bt = Tensor::f_from_slice(&ids)?.f_unsqueeze(0)?;
        let hidden_btd = self.speaker.model.hidden(&ids_bt, &Padding::Right)?;
        let own_td =
            hidden_btd.f_squeeze_dim(0)?.f_narrow(0, prompt.len() as i64 - 1, reply.ids.len() as i64)?;
        Ok(self.speaker.model.logits(&own_td)?.f_to_kind(Kind::Double)?.f_log_softmax(-1, None::<Kind>)?)
    }
}

/// What all students are measured on.
struct Held {
    grammar: Grammar,
    requests: Vec<Request>,
    references: Vec<Vec<String>>,
    teacher: Reader,
    heard: Vec<Answer>,
}

impl Held {
    fn measure(&self, folder: &Path) -> Result<Measured> {
        let _off = tch::no_grad_guard();
        let student = Reader::open(folder, &self.requests)?;
        let said = student.answers()?;
        let [mut void, mut entropy, mut forward, mut reverse, mut tokens] = [0.0; 5];
        let (mut modes, mut covered) = (0.0, 0.0);
        let (mut rouge_l, mut valid) = (0.0, 0.0);
        for (row, reply) in said.iter().enumerate() {
            let (q_tv, p_tv) = (student.after(row, reply)?, self.teacher.after(row, reply)?);
            let sum = |t: Tensor| t.sum(Kind::Double).double_value(&[]);
            void += sum(q_tv.exp() * p_tv.lt(1e-3_f64.ln()));
            entropy -= sum(q_tv.exp() * &q_tv);
            reverse += sum(q_tv.exp() * (&q_tv - &p_tv));
            forward += sum(p_tv.exp() * (&p_tv - &q_tv));
            tokens += reply.ids.len() as f64;
            let (q_tv, p_tv) =
                (student.after(row, &self.heard[row])?, self.teacher.after(row, &self.heard[row])?);
            let is_mode = p_tv.ge(0.1_f64.ln());
            modes += sum(is_mode.to_kind(Kind::Double));
            covered += sum(is_mode.logical_and(&(&q_tv - &p_tv).ge(0.1_f64.ln())).to_kind(Kind::Double));
            rouge_l += rouge::best(&self.references[row], &reply.text).unwrap_or(0.0);
            valid += f64::from(u8::from(self.grammar.is_valid(&self.requests[row], reply.text.trim())?));
        }
        if tokens == 0.0 || modes == 0.0 {
            return Err(Error::bug("nothing was said"));
        }
        let rows = said.len() as f64;
        let percent = |x: f64, of: f64| 100.0 * x / of;
        Ok([
            percent(void, tokens),
            percent(covered, modes),
            entropy / tokens,
            percent(rouge_l, rows),
            percent(valid, rows),
            forward / tokens,
            reverse / tokens,
        ])
    }
}

/// For a terminal.
pub fn table(arms: &[Arm]) -> String {
    let mut text = format!("{:<16}", "objective");
    for (name, unit, _) in COLUMNS {
        text +=
            &format!("  {:>18}", if unit.is_empty() { name.to_string() } else { format!("{name}, {unit}") });
    }
    for arm in arms {
        text += &format!("\n{:<16}", arm.name);
        for ((.., digits), value) in COLUMNS.iter().zip(arm.last()) {
            text += &format!("  {value:>18.digits$}");
        }
    }
    text + "\n"
}

/// For the page.
pub fn cells(arms: &[Arm]) -> Table {
    let head =
        COLUMNS.map(|(name, unit, _)| if unit.is_empty() { name.into() } else { format!("{name}, {unit}") });
    let mut table = Table::new(std::iter::once("objective".to_string()).chain(head));
    for arm in arms {
        let numbers =
            COLUMNS.iter().zip(arm.last()).map(|((.., digits), value)| Cell::number(value, *digits));
        table = table.row(std::iter::once(Cell::text(arm.name)).chain(numbers));
    }
    table
}

/// Each column over training.
pub fn charts(arms: &[Arm]) -> Vec<Drawing> {
    let chart = |(column, (name, unit, _)): (usize, &(&str, &str, usize))| {
        let mut chart =
            Chart::new(*name, Axis::new("update"), Axis::new(if unit.is_empty() { "points" } else { unit }));
        for arm in arms {
            chart = chart
                .with(Series::line(arm.name, arm.seen.iter().map(|(step, v)| (*step as f64, v[column]))));
        }
        chart.draw()
    };
    COLUMNS.iter().enumerate().map(chart).collect()
}
