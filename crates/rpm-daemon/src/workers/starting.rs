//! Workers that start: whether they have had the CPU that they would need to fail, and whether they still work towards anything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rpm_core::protocol::Input;
use rpm_core::{Core, Tick, WorkerId};
use rpm_sys::{tree, usage};

use crate::os::pace::pause;
use crate::workers::worker::Workers;

/// A program that has used so much has had its chance to fail.
const ENOUGH_CPU: Duration = Duration::from_secs(1);
/// Between two looks at workers that should listen and do not yet.
const LOOK: Duration = Duration::from_millis(500);
/// A program that uses less than one part in so many of a CPU is at rest: it waits for something.
const REST_SHARE: u32 = 20;
/// So many times what a look took goes by before the next one.
const PAUSE_SHARE: u32 = 9;
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Workers that should listen and do not yet, as they were when they were last looked at.
#[derive(Default)]
pub(crate) struct Starting {
    seen: BTreeMap<WorkerId, Seen>,
    due: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Seen {
    at: Instant,
    cpu: Duration,
    /// It has been at rest since.
    since: Instant,
}

impl Seen {
    /// What is seen of the same worker next.
    fn next(self, now: Instant, work: Work) -> Seen {
        let used = work.cpu.saturating_sub(self.cpu);
        let works = work.wants || used * REST_SHARE > now.saturating_duration_since(self.at);
        let since = if works { now } else { self.since };
        Seen {
            at: now,
            cpu: work.cpu,
            since,
        }
    }
}

/// What the processes of a tree do.
#[derive(Clone, Copy, Debug)]
struct Work {
    /// What they have used.
    cpu: Duration,
    /// One of them wants more.
    wants: bool,
}

/// A process, and all below it.
fn family(leader: u32) -> Vec<u32> {
    tree::descendants(leader).into_iter().chain([leader]).collect()
}

fn work_of(leader: u32) -> Work {
    let family = family(leader);
    let used = family.iter().filter_map(|pid| usage::usage(*pid).ok());
    let wants = |pid: &u32| matches!(usage::state(*pid), Ok('R' | 'D'));
    // A leader that has ended is not at rest: its exit is about to be reported, and says more than any look.
    let ended = || matches!(usage::state(leader), Err(_) | Ok('Z' | 'X'));
    Work {
        cpu: used.map(|usage| usage.cpu).sum(),
        wants: family.iter().any(wants) || ended(),
    }
}

impl Starting {
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A worker was started.
    pub(crate) fn begin(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + LOOK);
    }

    /// What the core has to know of the workers that should listen: which of them do nothing any more.
    pub(crate) fn look(&mut self, core: &Core, workers: &Workers) -> Vec<Input> {
        let began = Instant::now();
        if self.due.is_none_or(|due| due > began) {
            return Vec::new();
        }
        let mut at_rest = Vec::new();
        let before = std::mem::take(&mut self.seen);
        for (worker, rest) in core.should_listen() {
            let Some(work) = leader(workers, worker).map(work_of) else {
                continue;
            };
            let new = Seen {
                at: began,
                cpu: work.cpu,
                since: began,
            };
            let seen = before.get(&worker).map_or(new, |before| before.next(began, work));
            self.seen.insert(worker, seen);
            if began.saturating_duration_since(seen.since) >= rest {
                at_rest.push(Input::Rests { worker });
            }
        }
        let pause = pause(began.elapsed(), PAUSE_SHARE, LOOK..=LONGEST_PAUSE);
        self.due = (!self.seen.is_empty()).then(|| Instant::now() + pause);
        at_rest
    }
}

/// Which of the workers that the core would take for ready at `now`, because they live, have hardly run: on a machine that is busy a program
/// may need seconds to come to where it fails. Its first thread may be waiting for others, which lack the CPU.
pub(crate) fn starved(core: &Core, workers: &Workers, now: Tick) -> Vec<Input> {
    let lacks = |leader: u32| {
        let work = work_of(leader);
        let wants = || work.wants || family(leader).into_iter().any(usage::wants_cpu);
        work.cpu < ENOUGH_CPU && wants()
    };
    let starved = core
        .ready_by_living(now)
        .filter(|worker| leader(workers, *worker).is_some_and(lacks));
    starved.map(|worker| Input::Starved { worker }).collect()
}

fn leader(workers: &Workers, worker: WorkerId) -> Option<u32> {
    Some(workers.get(&worker)?.process()?.pid)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rpm_sys::pidfd::PidFd;
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    #[test]
    fn at_rest_is_what_uses_next_to_no_cpu_and_wants_none() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let cpu = Duration::from_millis;
        let seen = Seen {
            at: began,
            cpu: cpu(100),
            since: began,
        };
        let work = |ms, wants| Work { cpu: cpu(ms), wants };
        for (work, since) in [
            (work(100, false), 0),
            (work(110, false), 0),
            (work(130, false), 500),
            (work(100, true), 500),
        ] {
            assert_eq!(seen.next(at(500), work).since, at(since), "{work:?}");
        }
        let busy = seen.next(at(500), work(500, false));
        assert_eq!(busy.next(at(1000), work(500, false)).since, at(500));
    }

    #[test]
    fn what_has_ended_and_is_not_yet_waited_for_is_not_at_rest() {
        let mut ended = Command::new("true").spawn().unwrap();
        let pidfd = PidFd::open(ended.id()).unwrap();
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
        assert_eq!(usage::state(ended.id()).unwrap(), 'Z');
        assert!(work_of(ended.id()).wants);
        let pid = ended.id();
        ended.wait().unwrap();
        assert!(work_of(pid).wants);
    }
}
