//! How much CPU others took while something was measured.

use std::fs;
use std::time::{Duration, Instant};

/// Clock ticks per second in `/proc` (proc(5), `USER_HZ`).
const TICKS: f64 = 100.0;

/// The CPU time used so far, by everybody and by those under test.
#[derive(Debug)]
pub struct Machine {
    began: Instant,
    pids: Vec<u32>,
    all: u64,
    ours: u64,
}

impl Machine {
    /// Begins to watch; `pids` and this process are not the others.
    ///
    /// # Panics
    /// `/proc` cannot be read.
    #[must_use]
    pub fn watch(pids: impl IntoIterator<Item = u32>) -> Machine {
        let pids: Vec<u32> = pids.into_iter().chain([std::process::id()]).collect();
        Machine {
            began: Instant::now(),
            all: busy(),
            ours: used(&pids),
            pids,
        }
    }

    /// How many CPUs those under test, and this process, have kept busy since then, on the average.
    ///
    /// # Panics
    /// `/proc` cannot be read.
    #[must_use]
    pub fn ours(&self) -> f64 {
        let ours = used(&self.pids).saturating_sub(self.ours);
        let elapsed = self.began.elapsed().max(Duration::from_millis(1));
        ours as f64 / TICKS / elapsed.as_secs_f64()
    }

    /// How many CPUs the others have kept busy since then, on the average.
    ///
    /// # Panics
    /// `/proc` cannot be read.
    #[must_use]
    pub fn others(&self) -> f64 {
        let ours = used(&self.pids).saturating_sub(self.ours);
        let others = busy().saturating_sub(self.all).saturating_sub(ours);
        let elapsed = self.began.elapsed().max(Duration::from_millis(1));
        others as f64 / TICKS / elapsed.as_secs_f64()
    }
}

/// Ticks that were not idle, those that a hypervisor gave to others included.
fn busy() -> u64 {
    let stat = fs::read_to_string("/proc/stat").expect("the kernel's figures");
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user, nice, system, (idle, iowait,) irq, softirq, steal
    [0, 1, 2, 5, 6, 7].iter().filter_map(|at| fields.get(*at)).sum()
}

/// Ticks used by these processes; none by one that is gone.
fn used(pids: &[u32]) -> u64 {
    let stats = pids
        .iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    stats.map(|stat| own_ticks(&stat)).sum()
}

fn own_ticks(stat: &str) -> u64 {
    // Behind the name, which may contain anything, come the state and ten numbers; then utime and stime.
    let fields = stat.rsplit(") ").next().unwrap_or_default().split_whitespace();
    fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum()
}
