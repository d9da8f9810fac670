//! The command line of a bench.

/// What was asked for.
pub struct Args {
    /// A tiny model and few rounds: does the bench still run?
    pub quick: bool,
    /// How often each side is timed.
    pub rounds: usize,
    /// Only rows with one of these in their names; all where there is none.
    pub only: Vec<String>,
    /// Numbers of threads.
    pub threads: Vec<usize>,
    /// Rows x tokens of forward passes.
    pub shapes: Vec<(i64, i64)>,
}

impl Args {
    /// `cargo bench` passes `--bench`; without it (`cargo test`) the quick mode runs, and words that
    /// are meant for test harnesses are passed over.
    pub fn read() -> Self {
        let given: Vec<String> = std::env::args().skip(1).collect();
        let has = |flag: &str| given.iter().any(|a| a == flag);
        let after = |flag: &str| {
            given
                .iter()
                .zip(given.iter().skip(1))
                .filter(|(a, _)| *a == flag)
                .map(|(_, b)| b.clone())
                .collect()
        };
        let (rounds, only): (Vec<String>, Vec<String>) = (after("--rounds"), after("--only"));
        let quick = has("--quick") || !has("--bench");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Args {
            quick,
            rounds: rounds.first().map_or(if quick { 2 } else { 5 }, |n| n.parse().unwrap()),
            only,
            threads: if cores > 1 { vec![1, 2] } else { vec![1] },
            shapes: if quick { vec![(2, 8)] } else { vec![(1, 512), (8, 128)] },
        }
    }

    /// Whether a row of this name is to be measured.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part))
    }
}
