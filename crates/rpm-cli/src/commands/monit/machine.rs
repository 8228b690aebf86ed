//! How busy this machine is, from `/proc`.

use std::fs;

/// CPU times since boot, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    busy: u64,
    all: u64,
}

/// What the machine does.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Machine {
    /// Busy share of each core, from 0 to 1.
    pub(super) cores: Vec<f64>,
    /// The same of all cores together.
    pub(super) busy: f64,
    /// Memory that programs could not get, in bytes.
    pub(super) used: u64,
    /// Memory of the machine, in bytes.
    pub(super) memory: u64,
    /// Runnable threads on average over 1, 5 and 15 minutes, as the kernel writes them.
    pub(super) load: String,
}

/// Compares CPU times with those before.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    /// Those of all cores together, then of each.
    before: Vec<Times>,
}

impl Sampler {
    /// Reads the present figures. `None`: this system has no such files.
    pub(super) fn read(&mut self) -> Option<Machine> {
        let file = |name| fs::read_to_string(name).ok();
        let load = file("/proc/loadavg").unwrap_or_default();
        self.take(&file("/proc/stat")?, &file("/proc/meminfo")?, &load)
    }

    /// The figures in these texts. Shares are those since the last call, and at the first call those since boot.
    fn take(&mut self, stat: &str, meminfo: &str, load: &str) -> Option<Machine> {
        let now: Vec<Times> = stat.lines().map_while(times).collect();
        // Cores come and go: then their places are others.
        let comparable = self.before.len() == now.len();
        let share = |(place, now): (usize, &Times)| {
            let before = if comparable {
                self.before[place]
            } else {
                Times::default()
            };
            let busy = now.busy.saturating_sub(before.busy) as f64;
            let all = now.all.saturating_sub(before.all) as f64;
            if all > 0.0 { (busy / all).min(1.0) } else { 0.0 }
        };
        let shares: Vec<f64> = now.iter().enumerate().map(share).collect();
        self.before = now;
        let (&busy, cores) = shares.split_first()?;
        let memory = bytes(meminfo, "MemTotal:")?;
        let free = bytes(meminfo, "MemAvailable:").or_else(|| bytes(meminfo, "MemFree:"))?;
        Some(Machine {
            cores: cores.to_vec(),
            busy,
            used: memory.saturating_sub(free),
            memory,
            load: load.split_whitespace().take(3).collect::<Vec<_>>().join(" "),
        })
    }
}

/// `cpu0 user nice system idle iowait irq softirq steal guest guest_nice`; `None`: another line. Time of guests is in that of users, too.
fn times(line: &str) -> Option<Times> {
    let mut words = line
        .strip_prefix("cpu")?
        .split(' ')
        .filter(|word| !word.is_empty());
    if line.as_bytes().get(3) != Some(&b' ') {
        words.next();
    }
    let ticks: Vec<u64> = words.take(8).map_while(|word| word.parse().ok()).collect();
    let all = ticks.iter().sum();
    let idle = ticks.get(3)? + ticks.get(4).unwrap_or(&0);
    Some(Times {
        busy: all - idle,
        all,
    })
}

/// The value of a line such as `MemTotal:  8000 kB`.
fn bytes(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: &str = "MemTotal:       8000 kB\nMemFree:         100 kB\nMemAvailable:   6000 kB\n";

    #[test]
    fn shares_are_those_since_the_last_look() {
        let mut sampler = Sampler::default();
        let first =
            "cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 5 0 5 40 0 0 0 0 0 0\ncpu1 5 0 5 40 0 0 0 0 0 0\nintr 1 2\n";
        let machine = sampler
            .take(first, MEMORY, "0.50 0.25 0.10 2/300 4711\n")
            .expect("figures");
        assert_eq!((machine.busy, machine.cores.len()), (0.2, 2));
        assert_eq!((machine.used, machine.memory), (2000 * 1024, 8000 * 1024));
        assert_eq!(machine.load, "0.50 0.25 0.10");
        let second = "cpu  60 0 10 130 0 0 0 0 0 0\ncpu0 55 0 5 40 0 0 0 0 0 0\ncpu1 5 0 5 65 25 0 0 0 0 0\nintr 1 2\n";
        let machine = sampler.take(second, MEMORY, "").expect("figures");
        assert_eq!((machine.busy, machine.cores), (0.5, vec![1.0, 0.0]));
    }

    #[test]
    fn other_text_is_no_figure() {
        assert_eq!(Sampler::default().take("", MEMORY, ""), None);
        assert_eq!(Sampler::default().take("cpu  1 2 3 4\n", "", ""), None);
        assert_eq!(times("cpufreq 1"), None);
    }
}
