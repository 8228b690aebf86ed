//! Resource usage of a process: two reads from `/proc`, without allocation.

use std::io;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::proc::{Stat, numbers_in, read};

/// CPU time and memory of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all threads since the start, in steps of 10 ms.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// Start time in clock ticks after boot: together with the pid it identifies the process.
    pub start_ticks: u64,
}

/// The usage of process `pid`.
///
/// # Errors
/// `ENOENT` or `ESRCH` if it does not exist.
pub fn usage(pid: u32) -> io::Result<Usage> {
    let stat = Stat::of(pid)?;
    Ok(Usage {
        cpu: cpu_time(stat.cpu_ticks),
        rss_bytes: resident_bytes(pid)?,
        start_ticks: stat.start_ticks,
    })
}

/// Resident memory of process `pid`, in bytes.
///
/// # Errors
/// As [`usage`].
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    let mut buffer = [0; 128];
    let memory = read(format_args!("/proc/{pid}/statm"), &mut buffer)?;
    let pages = resident_pages(memory).ok_or(io::ErrorKind::InvalidData)?;
    Ok(pages.saturating_mul(rustix::param::page_size() as u64))
}

/// The duration of clock ticks.
pub(crate) fn cpu_time(ticks: u64) -> Duration {
    let hz = rustix::param::clock_ticks_per_second().max(1);
    let nanos = u128::from(ticks) * 1_000_000_000 / u128::from(hz);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// How long a process has run that was started at this time, in clock ticks after boot ([`Usage::start_ticks`]). Nobody can set that clock.
#[must_use]
pub fn age(start_ticks: u64) -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0));
    now.saturating_sub(cpu_time(start_ticks))
}

/// The state letter of process `pid`: `R`, `S`, `D`, `Z`, `T`, `t`, `X` or `I` (proc_pid_stat(5)).
///
/// # Errors
/// `ENOENT` or `ESRCH` if it does not exist.
pub fn state(pid: u32) -> io::Result<char> {
    Ok(Stat::of(pid)?.state)
}

/// True if a thread of process `pid` runs, waits for a CPU, or waits for a disk. False if there is no such process.
#[must_use]
pub fn wants_cpu(pid: u32) -> bool {
    let mut threads = numbers_in(&format!("/proc/{pid}/task"));
    threads.any(|thread| Stat::of_thread(pid, thread).is_ok_and(|stat| matches!(stat.state, 'R' | 'D')))
}

fn resident_pages(statm: &[u8]) -> Option<u64> {
    str::from_utf8(statm)
        .ok()?
        .split_ascii_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_thread_may_want_cpu() {
        // The first thread of this process waits for the tests.
        assert!(wants_cpu(std::process::id()));
        let mut asleep = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let begun = std::time::Instant::now();
        while wants_cpu(asleep.id()) {
            assert!(begun.elapsed() < Duration::from_secs(30), "it sleeps");
            std::thread::yield_now();
        }
        asleep.kill().unwrap();
        asleep.wait().unwrap();
        assert!(!wants_cpu(asleep.id()));
    }

    #[test]
    fn of_this_process() {
        let pid = std::process::id();
        let before = usage(pid).unwrap();
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        let mut sum = 0_u64;
        while usage(pid).unwrap().cpu < before.cpu + Duration::from_millis(30) {
            sum = block
                .iter()
                .fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)));
        }
        std::hint::black_box(sum);
        let after = usage(pid).unwrap();
        assert!(
            after.rss_bytes >= before.rss_bytes + (48 << 20),
            "{before:?} {after:?}"
        );
        assert_eq!(after.start_ticks, before.start_ticks);
        // It was started before it used its CPU, and a test does not take an hour.
        assert!((after.cpu / 2..Duration::from_secs(3600)).contains(&age(after.start_ticks)));
        assert!(matches!(state(pid).unwrap(), 'R' | 'S' | 'D'));
    }

    #[test]
    fn of_nobody() {
        assert!(usage(u32::MAX).is_err());
        assert_eq!(resident_pages(b"12"), None);
        assert_eq!(resident_pages(b"12 34 5"), Some(34));
    }
}
