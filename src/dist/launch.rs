//! Who this process is among the others, as its launcher says: torchrun's variables, Slurm's, or those that
//! `retort distill --nproc` gives to its children, which are torchrun's.

use super::watch::Fault;
use crate::error::{Error, Result};
use crate::native::group::Store;

/// A process among others, and where they meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The number of this process.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// Its number on its own machine.
    pub local_rank: usize,
    /// How many are on its machine.
    pub local_size: usize,
    /// Where they meet.
    pub host: String,
    /// At which port.
    pub port: u16,
    /// Whether this process keeps the store that they meet at, and not its launcher.
    pub serves: bool,
    /// Whether its launcher keeps it, and no rank.
    pub kept: bool,
    /// What tells this start of the run from others at the same store.
    pub prefix: String,
}

type Ask<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Launch {
    /// A process without others, which keeps its own store.
    pub fn alone() -> Launch {
        let (host, prefix) = ("127.0.0.1".to_string(), "alone".to_string());
        let (local_rank, local_size) = (0, 1);
        Launch { rank: 0, size: 1, local_rank, local_size, host, port: 0, serves: true, kept: false, prefix }
    }

    /// What the environment says; none where it says nothing of other processes.
    pub fn from_environment() -> Result<Option<Launch>> {
        Launch::of(&|name| std::env::var(name).ok().filter(|text| !text.is_empty()))
    }

    /// The same of any variables.
    pub fn of(ask: Ask<'_>) -> Result<Option<Launch>> {
        let found = match (ask("RANK"), ask("WORLD_SIZE")) {
            (Some(_), Some(_)) => Some(torchrun(ask)?),
            // A batch script of Slurm has these too, but is no step.
            _ if ask("SLURM_STEP_ID").is_some() && ask("SLURM_PROCID").is_some() => slurm(ask)?,
            _ => None,
        };
        match &found {
            Some(l) if l.rank >= l.size || l.local_rank >= l.local_size => {
                let e = Error::user("the launcher's numbers do not fit").field("rank");
                Err(e.expected(format!("below {}", l.size)).found(l.rank))
            }
            _ => Ok(found.filter(|l| l.size > 1)),
        }
    }
}

/// A number among the variables.
fn number(ask: Ask<'_>, name: &str) -> Result<Option<usize>> {
    let Some(text) = ask(name) else { return Ok(None) };
    let wrong = || Error::user("an environment variable that cannot be").field(name);
    text.trim().parse().map(Some).map_err(|_| wrong().expected("a whole number").found(&text))
}

fn needed<T>(found: Option<T>, name: &str) -> Result<T> {
    let advice = "torchrun sets it; unset RANK and WORLD_SIZE to train with one process";
    found.ok_or_else(|| Error::user("an environment variable is missing").field(name).advice(advice))
}

fn port_of(number: usize, name: &str) -> Result<u16> {
    let wrong = || Error::user("an environment variable that cannot be").field(name);
    u16::try_from(number).map_err(|_| wrong().expected("a port").found(number))
}

fn torchrun(ask: Ask<'_>) -> Result<Launch> {
    let must = |name| needed(number(ask, name)?, name);
    let (rank, size) = (must("RANK")?, must("WORLD_SIZE")?);
    let (host, port) = if size > 1 {
        (needed(ask("MASTER_ADDR"), "MASTER_ADDR")?, port_of(must("MASTER_PORT")?, "MASTER_PORT")?)
    } else {
        (String::new(), 0)
    };
    let local_rank = number(ask, "LOCAL_RANK")?.unwrap_or(0);
    let text = |name| ask(name).unwrap_or_default();
    // torchrun's agent keeps a store of its own and says so.
    let kept = ask("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True");
    Ok(Launch {
        rank,
        size,
        local_rank,
        local_size: number(ask, "LOCAL_WORLD_SIZE")?.unwrap_or(local_rank + 1),
        host,
        port,
        serves: rank == 0 && !kept,
        kept,
        prefix: format!("retort/{}/{}", text("TORCHELASTIC_RUN_ID"), text("TORCHELASTIC_RESTART_COUNT")),
    })
}

fn slurm(ask: Ask<'_>) -> Result<Option<Launch>> {
    let size = match number(ask, "SLURM_STEP_NUM_TASKS")? {
        Some(size) => Some(size),
        None => number(ask, "SLURM_NTASKS")?,
    };
    let (Some(rank), Some(size)) = (number(ask, "SLURM_PROCID")?, size) else { return Ok(None) };
    if size == 1 {
        return Ok(None);
    }
    let nodes = ask("SLURM_STEP_NODELIST").or_else(|| ask("SLURM_JOB_NODELIST"));
    let nodes = nodes.ok_or_else(|| {
        Error::user("an environment variable is missing").field("SLURM_JOB_NODELIST").advice("srun sets it")
    })?;
    let job = number(ask, "SLURM_JOB_ID")?.unwrap_or(0);
    // Jobs that share a machine have different numbers.
    let port = match number(ask, "MASTER_PORT")? {
        Some(port) => port_of(port, "MASTER_PORT")?,
        None => 20_000 + (job % 20_000) as u16,
    };
    let local_rank = number(ask, "SLURM_LOCALID")?.unwrap_or(0);
    let tasks = ask("SLURM_STEP_TASKS_PER_NODE").or_else(|| ask("SLURM_TASKS_PER_NODE"));
    let node = number(ask, "SLURM_NODEID")?.unwrap_or(0);
    Ok(Some(Launch {
        rank,
        size,
        local_rank,
        local_size: tasks.and_then(|text| tasks_of(&text, node)).unwrap_or(local_rank + 1),
        host: ask("MASTER_ADDR").unwrap_or_else(|| first_node(&nodes)),
        port,
        serves: rank == 0,
        kept: false,
        prefix: format!(
            "retort/{job}/{}/{}",
            ask("SLURM_STEP_ID").unwrap_or_default(),
            ask("SLURM_RESTART_COUNT").unwrap_or_default()
        ),
    }))
}

/// The first of `gpu[003-007,12],login2`.
fn first_node(list: &str) -> String {
    let first = match (list.find('['), list.find(',')) {
        (Some(open), comma) if comma.is_none_or(|comma| open < comma) => {
            let inside = &list[open + 1..];
            let end = inside.find([',', '-', ']']).unwrap_or(inside.len());
            let tail = inside.find(']').map_or("", |close| &inside[close + 1..]);
            let tail = &tail[..tail.find(',').unwrap_or(tail.len())];
            return format!("{}{}{tail}", &list[..open], &inside[..end]);
        }
        (_, Some(comma)) => &list[..comma],
        _ => list,
    };
    first.to_string()
}

/// How many tasks the n-th node has by `4(x2),3`.
fn tasks_of(text: &str, node: usize) -> Option<usize> {
    let mut from = 0;
    for part in text.split(',') {
        let (tasks, nodes) = match part.split_once("(x") {
            Some((tasks, nodes)) => (tasks, nodes.strip_suffix(')')?.parse().ok()?),
            None => (part, 1usize),
        };
        from += nodes;
        if node < from {
            return tasks.trim().parse().ok();
        }
    }
    None
}

/// The store that a parent keeps for its children, on this machine.
#[derive(Debug)]
pub struct Keeper {
    store: Store,
}

impl Keeper {
    /// Opens it at a free port.
    pub fn open() -> Result<Keeper> {
        let prefix = format!("retort/{}/{}", OF_CHILDREN.0, OF_CHILDREN.1);
        let store = Store::open("127.0.0.1", 0, true, &prefix, std::time::Duration::from_secs(60))?;
        Ok(Keeper { store })
    }

    /// Where it is.
    pub fn port(&self) -> u16 {
        self.store.port()
    }

    /// Tells the other children how one of them has ended, where it has not told them itself.
    pub fn has_ended(&self, rank: usize, how: &str) {
        Fault::found(rank, format!("is gone: {how}")).leave(&self.store);
    }
}

/// The number of the run and of its start, as torchrun has them.
const OF_CHILDREN: (&str, &str) = ("nproc", "0");

/// What the n-th of `size` children on this machine is told, so that they meet at the store that their parent keeps.
pub fn children(n: usize, size: usize, port: u16) -> Vec<(&'static str, String)> {
    vec![
        ("RANK", n.to_string()),
        ("LOCAL_RANK", n.to_string()),
        ("WORLD_SIZE", size.to_string()),
        ("LOCAL_WORLD_SIZE", size.to_string()),
        ("MASTER_ADDR", "127.0.0.1".into()),
        ("MASTER_PORT", port.to_string()),
        ("TORCHELASTIC_USE_AGENT_STORE", "True".into()),
        ("TORCHELASTIC_RUN_ID", OF_CHILDREN.0.into()),
        ("TORCHELASTIC_RESTART_COUNT", OF_CHILDREN.1.into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Launch>> {
        let ask = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
        Launch::of(&ask)
    }

    const TORCHRUN: [(&str, &str); 7] = [
        ("RANK", "3"),
        ("WORLD_SIZE", "8"),
        ("LOCAL_RANK", "1"),
        ("LOCAL_WORLD_SIZE", "2"),
        ("MASTER_ADDR", "node0"),
        ("MASTER_PORT", "29500"),
        ("TORCHELASTIC_RESTART_COUNT", "2"),
    ];

    #[test]
    fn torchruns_variables_are_read() {
        let launch = of(&TORCHRUN).unwrap().unwrap();
        assert_eq!((launch.rank, launch.size, launch.local_rank, launch.local_size), (3, 8, 1, 2));
        assert_eq!((launch.host.as_str(), launch.port, launch.serves), ("node0", 29500, false));
        let again = [&TORCHRUN[..6], &[("TORCHELASTIC_RESTART_COUNT", "3")]].concat();
        assert_ne!(of(&again).unwrap().unwrap().prefix, launch.prefix, "another start meets elsewhere");
        let mut first = TORCHRUN.to_vec();
        first[0] = ("RANK", "0");
        assert!(of(&first).unwrap().unwrap().serves);
        first.push(("TORCHELASTIC_USE_AGENT_STORE", "True"));
        assert!(!of(&first).unwrap().unwrap().serves);
        assert!(of(&first).unwrap().unwrap().kept);
        assert_eq!(of(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(), None);
        assert_eq!(of(&[("WORLD_SIZE", "4")]).unwrap(), None);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let said = |variables: &[(&str, &str)]| of(variables).unwrap_err().to_string();
        assert!(said(&TORCHRUN[..5]).contains("MASTER_PORT"), "{}", said(&TORCHRUN[..5]));
        let mut wrong = TORCHRUN.to_vec();
        wrong[0] = ("RANK", "many");
        assert!(said(&wrong).contains("RANK: expected a whole number, found many"), "{}", said(&wrong));
        wrong[0] = ("RANK", "8");
        assert!(said(&wrong).contains("below 8"));
        wrong[0] = ("RANK", "1");
        wrong[5] = ("MASTER_PORT", "70000");
        assert!(said(&wrong).contains("MASTER_PORT"));
    }

    #[test]
    fn slurms_variables_are_read() {
        let step = [
            ("SLURM_STEP_ID", "0"),
            ("SLURM_PROCID", "5"),
            ("SLURM_STEP_NUM_TASKS", "7"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_NODEID", "1"),
            ("SLURM_STEP_TASKS_PER_NODE", "4,3"),
            ("SLURM_JOB_NODELIST", "gpu[003-007,12],login2"),
            ("SLURM_JOB_ID", "40123"),
        ];
        let launch = of(&step).unwrap().unwrap();
        assert_eq!((launch.rank, launch.size, launch.local_rank, launch.local_size), (5, 7, 1, 3));
        assert_eq!((launch.host.as_str(), launch.port, launch.serves), ("gpu003", 20_123, false));
        assert_eq!(of(&step[1..]).unwrap(), None, "a batch script is no step");
        let hosts = ["a,b", "a", "n[1,3]-x,m2", "n[08-10]"].map(first_node);
        assert_eq!(hosts, ["a", "a", "n1-x", "n08"]);
        assert_eq!(
            [tasks_of("4(x2),3", 1), tasks_of("4(x2),3", 2), tasks_of("4", 1)],
            [Some(4), Some(3), None]
        );
    }
}
