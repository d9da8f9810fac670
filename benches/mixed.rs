//! Teacher-mixed sampling: what each form of one law costs. README.md says what each row is.

#![expect(clippy::unwrap_used, reason = "a bench stops where something is wrong")]

#[expect(dead_code, reason = "the other benches use more of it")]
mod support;

use std::time::Instant;

use retort::decode::{Effort, Form, Mixture, Request, Sampling, sample, sample_mixed};
use retort::model::{CausalLm, LoadOptions};
use support::args::Args;
use support::folders::{Float, Folders, Llama, TEN_MILLION};
use support::table::{Table, median};

/// Ten times the student: a teacher as the capacity gap would have it, and more.
const HUNDRED_MILLION: Llama =
    Llama { hidden: 768, layers: 14, heads: 12, kv_heads: 12, ffn: 2048, vocabulary: 6144 };
const PROMPT: usize = 32;
const ALPHA: f64 = 0.2;

fn main() {
    let args = Args::read();
    let (rows, new) = if args.quick { (3, 6) } else { (32, 64) };
    let batch = if args.quick { 2 } else { 32 };
    let [student, teacher] = [TEN_MILLION, HUNDRED_MILLION].map(|shape| Folders::make(args.quick, shape));
    let what = format!("student {}; teacher {}", student.what, teacher.what);
    let table = Table::new("mixed", &args, &what, None);
    let load =
        |folders: &Folders| CausalLm::load(&folders.of(Float::ALL[0]), LoadOptions::default()).unwrap();
    let work = Work { student: load(&student), teacher: load(&teacher), rows, new, batch };
    let forms: Vec<(String, Option<Form>)> = forms();
    let mut seconds = vec![Vec::new(); forms.len()];
    let mut efforts = vec![Effort::default(); forms.len()];
    tch::set_num_threads(1);
    for _ in 0..args.rounds {
        for (i, (_, form)) in forms.iter().enumerate() {
            let start = Instant::now();
            efforts[i] = work.sample(*form);
            seconds[i].push(start.elapsed().as_secs_f64());
            eprintln!("{}: {:.1} s", forms[i].0, start.elapsed().as_secs_f64());
        }
    }
    println!("{}", table.head());
    println!(
        "* work: {rows} rows in batches of {batch}, {new} tokens each behind {PROMPT}, alpha {ALPHA}, one thread"
    );
    println!("\n| form | tokens a second | student passes | teacher passes | tokens a teacher pass |");
    println!("|---|---:|---:|---:|---:|");
    for (((name, _), seconds), effort) in forms.iter().zip(&seconds).zip(&efforts) {
        let speed = (rows * new) as f64 / median(seconds);
        let heard = effort.teacher_tokens as f64 / effort.teacher_passes.max(1) as f64;
        let Effort { student_passes, teacher_passes, .. } = effort;
        println!("| {name} | {speed:.0} | {student_passes} | {teacher_passes} | {heard:.1} |");
    }
}

fn forms() -> Vec<(String, Option<Form>)> {
    let coins = |shared, patience| Some(Form::Coins { shared, patience });
    let mut all = vec![("the student alone".to_string(), None), ("lockstep".into(), Some(Form::Lockstep))];
    all.push(("coins, shared".into(), coins(true, 0.0)));
    for patience in [0.0, 0.25, 0.5, 0.75, 1.0] {
        all.push((format!("coins, patience {patience}"), coins(false, patience)));
    }
    all
}

struct Work {
    student: CausalLm,
    teacher: CausalLm,
    rows: usize,
    new: usize,
    batch: usize,
}

impl Work {
    fn sample(&self, form: Option<Form>) -> Effort {
        let ids: Vec<u32> = (0..self.rows * PROMPT).map(|i| (i * 7919 % 6000) as u32 % 61).collect();
        let requests: Vec<Request<'_>> =
            ids.chunks(PROMPT).zip(0..).map(|(prompt, row)| Request { prompt, row, sample: 0 }).collect();
        let settings = Sampling { max_new_tokens: self.new, ..Sampling::default() };
        let mut made = 0;
        let mut done = |_: usize, reply: retort::decode::Reply| {
            made += reply.ids.len();
            Ok(())
        };
        let effort = match form {
            None => {
                sample(&self.student, &requests, &settings, self.batch, &mut done).unwrap();
                Effort { student_passes: self.new * self.rows.div_ceil(self.batch), ..Effort::default() }
            }
            Some(form) => {
                let mixture =
                    Mixture { teacher: &self.teacher, alpha: ALPHA, form, scores: true, states: false };
                sample_mixed(&self.student, mixture, &requests, &settings, self.batch, &mut done).unwrap()
            }
        };
        assert_eq!(made, self.rows * self.new);
        effort
    }
}
