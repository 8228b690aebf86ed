//! Ending processes for certain: a descriptor stays its own process's, whoever gets the number next.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::procfs;

/// How long killed processes may take to be gone: exiting frees memory, and the machine may be busy.
const END_LIMIT: Duration = Duration::from_secs(5);

/// The living processes of these roots and all their descendants.
pub(crate) fn hold(roots: &[u32]) -> Vec<OwnedFd> {
    procfs::trees(roots).into_iter().filter_map(open).collect()
}

/// Kill them and wait until they have ended, 5 s at most.
pub(crate) fn end(processes: &[OwnedFd]) {
    for process in processes {
        // One that is gone already is what was wanted.
        let _gone = pidfd_send_signal(process, Signal::KILL);
    }
    let deadline = Instant::now() + END_LIMIT;
    for process in processes {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok();
        // At the time-out there is nothing more to be done: SIGKILL was sent.
        let _ended = poll(&mut [PollFd::new(process, PollFlags::IN)], left.as_ref());
    }
}

fn open(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    #[test]
    fn a_grandchild_ends_with_its_root() {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "sleep 60 & echo started; wait"])
            .stdout(Stdio::piped());
        let mut child = shell.spawn().expect("sh");
        let mut lines = BufReader::new(child.stdout.take().expect("pipe")).lines();
        assert_eq!(lines.next().expect("line").expect("text"), "started");
        let held = hold(&[child.id()]);
        assert_eq!(held.len(), 2);
        end(&held);
        assert!(child.try_wait().expect("wait").is_some());
        assert!(held.iter().all(has_ended));
    }

    fn has_ended(process: &OwnedFd) -> bool {
        let mut polled = [PollFd::new(process, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready == 1)
    }
}
