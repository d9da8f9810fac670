//! A rank that is killed at any moment, also inside a save: the others end in time and name it, no half checkpoint is
//! ever loaded, and another world goes on to the weights of a run that was never interrupted.

use std::time::{Duration, Instant};

use crate::learning::{chain, student};
use crate::processes::{Going, alike, apart, beginning};
use crate::{Case, text_of};

/// Everybody saves, often: there is always somebody inside a save.
const SETTINGS: [&str; 9] = [
    "train.steps=12",
    "train.batch=4",
    "train.lr=1e-3",
    "train.eval_every=0",
    "train.save_every=1",
    "train.keep=2",
    "train.schedule=constant",
    "dist.timeout=10",
    "dist.bucket=0.001",
];

/// Numbers that look drawn, and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// Twenty with `RETORT_TEST_KILLS=20`; a few in the suite. Every second one is inside what a rank writes, at a step of it.
#[test]
fn a_rank_killed_at_any_moment_ends_the_others_and_another_world_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows.jsonl");
    std::fs::write(&rows, chain(2, 24, 14)).unwrap();
    let case = Case::new("sft", &rows);
    let student = student(&case, "student", 32, 2);
    let settings = [&[student.as_str()], &SETTINGS[..]].concat();
    let begun = beginning(&case, &settings);
    case.good("whole", &settings, &[]);
    let kills: u64 = text_of("RETORT_TEST_KILLS").map_or(4, |n| n.parse().unwrap());
    let (mut dice, mut ended, mut inside) = (Dice(kills), 0, 0);
    for n in 0..kills {
        let (size, zero) = (2 + n % 2, n % 3);
        let rank = dice.below(size);
        let zero = format!("dist.zero={zero}");
        let with = [&settings[..], &[zero.as_str()]].concat();
        let out = format!("kill-{n}");
        let (size, what) = (size.to_string(), format!("kill {n} of rank {rank} of {size}, {zero}"));
        // Rank 0 writes some 60 steps an update; the others, where they write, a few.
        let step = 1 + if rank == 0 { dice.below(500) } else { dice.below(40) };
        let writes = n % 2 == 1 && (rank == 0 || zero != "dist.zero=0");
        let going = if writes {
            inside += 1;
            Going::with_fault(&case, &out, &with, &size, Some(format!("{step}@{rank}")))
        } else {
            let going = Going::new(&case, &out, &with, &size).after(1 + dice.below(8) as usize);
            std::thread::sleep(Duration::from_millis(dice.below(60)));
            going.tell(rank as usize, libc::SIGKILL);
            going
        };
        let begun_to_end = Instant::now();
        let (code, said) = going.ends();
        if code != 0 {
            ended += 1;
            assert_eq!(code, 4, "{what}: {said}");
            let named = format!("rank {rank} is gone");
            assert!(said.lines().any(|l| l.starts_with("retort: ") && l.contains(&named)), "{what}: {said}");
            assert!(writes || begun_to_end.elapsed() < Duration::from_secs(30), "{what}: too late");
        }
        let then = ["1", "2", "3"][dice.below(3) as usize];
        let other = format!("dist.zero={}", dice.below(3));
        let rest = [&settings[..], &[other.as_str()]].concat();
        case.good(&out, &rest, &["--resume", "--nproc", then]);
        let off = apart(&case, "whole/final", &format!("{out}/final"), &begun);
        eprintln!("{what}, step {step}: code {code}, then {then} with {other}: {off:.1e} of the way apart");
        assert!(off < 1e-5, "{what}: {off} of the way apart");
        alike(&case, "whole", &out);
        let left = std::fs::read_dir(case.path(&out).join("checkpoints")).unwrap();
        let names: Vec<String> = left.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert!(!names.iter().any(|name| name.contains("partial")), "{what}: {names:?}");
    }
    assert!(ended * 2 > kills && inside > 0, "{ended} of {kills} ended by it, {inside} inside a save");
}
