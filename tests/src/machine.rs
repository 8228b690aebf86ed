//! CPU time that other programs took during a measurement.

use std::fs;
use std::time::{Duration, Instant};

/// Clock ticks per second in `/proc` (proc(5), `USER_HZ`).
const TICKS: f64 = 100.0;

/// CPU time used so far: by all processes, and by those under test.
#[derive(Debug)]
pub struct Machine {
    began: Instant,
    pids: Vec<u32>,
    all: u64,
    ours: u64,
}

impl Machine {
    /// Starts to watch. `pids` and this process count as under test.
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

    /// The average number of CPUs that this process and those under test have kept busy since then.
    ///
    /// # Panics
    /// `/proc` cannot be read.
    #[must_use]
    pub fn ours(&self) -> f64 {
        let ours = used(&self.pids).saturating_sub(self.ours);
        let elapsed = self.began.elapsed().max(Duration::from_millis(1));
        ours as f64 / TICKS / elapsed.as_secs_f64()
    }

    /// The average number of CPUs that all other processes have kept busy since then.
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

/// Ticks that were not idle, including those that a hypervisor gave to other guests.
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

/// Ticks used by these processes; 0 for one that is gone.
fn used(pids: &[u32]) -> u64 {
    let stats = pids
        .iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    stats.map(|stat| own_ticks(&stat)).sum()
}

fn own_ticks(stat: &str) -> u64 {
    // The name may contain anything. After it come the state and ten numbers, then utime and stime.
    let fields = stat.rsplit(") ").next().unwrap_or_default().split_whitespace();
    fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum()
}
