//! The end of a worker: its leader, then whatever is left of its process tree.

use std::collections::HashSet;
use std::sync::Arc;

use rpm_core::WorkerId;
use rpm_core::protocol::{Exit, Input};
use rpm_sys::tree::{self, Tree};
use rpm_sys::{ExitStatus, PidFd, Signal};
use rpm_wire::api::{Stage, StopSignal};
use rpm_wire::channel;
use tokio::io::Interest;
use tracing::{info, warn};

use crate::channel::Outgoing;
use crate::outputs::{pid_file, remove_pid};
use crate::supervisor::{Event, Supervisor};
use crate::watched::watched;
use crate::worker::{Life, Worker};

/// Node's exit code for an option it does not know.
const NODE_BAD_OPTION: i32 = 9;

/// Looks at what is left of a tree, at most: each time that something has changed.
const LOOKS: usize = 8;

impl Supervisor {
    /// Asks a worker to stop, in the way that its program knows.
    pub(crate) fn ask_to_stop(&mut self, worker: WorkerId) {
        // The next daemon must not ask it a second time.
        self.store.changed();
        let Some(held) = self.workers.get_mut(&worker) else {
            return;
        };
        if held.spec.shutdown_with_message && told_to_shut_down(held) {
            return;
        }
        let signal = signal(held.spec.kill_signal);
        let treekill = held.spec.treekill;
        match &mut held.life {
            Life::Running(process) if !treekill => {
                process.ending = true;
                // One that has ended since is found to have.
                let _ = process.pidfd.send_signal(signal);
            }
            Life::Running(_) | Life::Remains { .. } | Life::None => self.end_tree(worker, signal),
        }
    }

    /// Sends a signal to the worker's whole tree, children before parents.
    pub(crate) fn end_tree(&mut self, worker: WorkerId, signal: Signal) {
        let Some(held) = self.workers.get_mut(&worker) else {
            return;
        };
        let signalled = match &mut held.life {
            Life::Running(process) => {
                process.ending = true;
                Tree::snapshot(process.pid).and_then(|tree| tree.signal(signal))
            }
            Life::Remains { left, .. } => {
                // Each has a pidfd, so one that has ended since is simply not found.
                left.iter().for_each(|process| drop(process.send_signal(signal)));
                Ok(())
            }
            Life::None => Ok(()),
        };
        if let Err(error) = signalled {
            warn!(%worker, %error, "cannot signal a worker's process tree");
        }
    }

    pub(crate) fn leader_exited(&mut self, worker: WorkerId) {
        let Some(held) = self.workers.get(&worker) else {
            return;
        };
        let Life::Running(process) = &held.life else {
            return;
        };
        let (pid, pidfd, ending) = (process.pid, Arc::clone(&process.pidfd), process.ending);
        let adopted = process.adopted;
        // Before the leader is waited for, its pid still names its process group and nobody else's.
        // Those below the leader first: what is handed over meanwhile is found among the orphans.
        let mut left = tree::descendants(pid);
        left.extend(self.strays(worker, adopted));
        left.retain(|other| *other != pid);
        let left = opened(left);
        if !ending {
            // Nobody asked a crashed worker's children to finish, and they may hold its ports.
            left.iter()
                .for_each(|process| drop(process.send_signal(Signal::KILL)));
        }
        let status = pidfd
            .try_wait()
            .ok()
            .flatten()
            .or_else(|| pidfd.exit_of_stranger());
        let exit = match status {
            Some(ExitStatus::Code(code)) => Exit::Code(code),
            Some(ExitStatus::Signal(signal)) => Exit::Signal(signal),
            None => Exit::Signal(Signal::KILL.as_raw()),
        };
        info!(%worker, pid, ?exit, "exited");
        if let Some(held) = self.workers.get(&worker) {
            remove_pid(&pid_file(&self.home, &held.spec, held.instance), pid);
        }
        self.step(worker, if ending { Stage::Gone } else { Stage::Failed });
        if let Some(held) = self.workers.get_mut(&worker) {
            held.life = Life::Remains {
                exit,
                left: left.clone(),
                ending,
                adopted,
            };
        }
        if exit == Exit::Code(NODE_BAD_OPTION) && !self.agents.has(worker) {
            self.doubt_agent(worker);
        }
        self.agents.forget(worker);
        self.drains.end(worker);
        self.end_refusal(worker);
        if left.is_empty() {
            self.tree_is_gone(worker);
        } else {
            self.await_remains(worker, left);
        }
    }

    /// What is left of the tree of a worker besides what descends from its leader: orphans of it, which became the daemon's children, each with
    /// what is below it. Those of one that was no child of this daemon (`adopted`) are not its children either.
    ///
    /// A process that ends while it is looked at hands its children over behind the look, so there is another one until nothing has changed.
    fn strays(&self, worker: WorkerId, adopted: bool) -> Vec<u32> {
        let mut before = self.look_for_strays(worker, adopted);
        for _ in 1..LOOKS {
            let now = self.look_for_strays(worker, adopted);
            if now == before {
                break;
            }
            before = now;
        }
        before
    }

    fn look_for_strays(&self, worker: WorkerId, adopted: bool) -> Vec<u32> {
        let mark = format!("RPM_WORKER={worker}");
        let leaders = self.workers.values().filter_map(|held| Some(held.process()?.pid));
        let leaders: HashSet<u32> = leaders.collect();
        let mut found = tree::orphans_of(&mark, |pid| leaders.contains(&pid));
        if adopted {
            let home = self.home.root().display().to_string();
            let ours = |pid: &u32| tree::variable(*pid, "RPM_HOME").as_ref() == Some(&home);
            found.extend(tree::marked(&mark).into_iter().filter(ours));
        }
        let below: Vec<u32> = found.iter().flat_map(|pid| tree::descendants(*pid)).collect();
        found.extend(below);
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The end of what was left may have made orphans of what was below it: they are told to end as well. Says whether there are any.
    fn ends_again(&mut self, worker: WorkerId) -> bool {
        let Some(held) = self.workers.get(&worker) else {
            return false;
        };
        let Life::Remains { adopted, ending, .. } = held.life else {
            return false;
        };
        let signal = match (ending, held.spec.treekill) {
            (true, true) => Some(signal(held.spec.kill_signal)),
            (true, false) => None,
            (false, _) => Some(Signal::KILL),
        };
        let more = opened(self.strays(worker, adopted));
        if more.is_empty() {
            return false;
        }
        if let Some(signal) = signal {
            // One that has ended since is found to have.
            more.iter().for_each(|process| drop(process.send_signal(signal)));
        }
        if let Some(Worker {
            life: Life::Remains { left, .. },
            ..
        }) = self.workers.get_mut(&worker)
        {
            left.clone_from(&more);
        }
        self.await_remains(worker, more);
        true
    }

    fn await_remains(&self, worker: WorkerId, remains: Vec<Arc<PidFd>>) {
        let events = self.events.clone();
        tokio::spawn(async move {
            for process in remains {
                if let Ok(ended) = watched(process, Interest::READABLE) {
                    let _ = ended.readable().await;
                    // An orphan of the tree is ours to wait for; what is not is somebody else's.
                    let _ = ended.get_ref().try_wait();
                }
            }
            let _ = events.send(Event::TreeGone(worker)).await;
        });
    }

    /// What was left of a tree has ended.
    pub(crate) fn tree_gone(&mut self, worker: WorkerId) {
        if !self.ends_again(worker) {
            self.tree_is_gone(worker);
        }
    }

    fn tree_is_gone(&mut self, worker: WorkerId) {
        let Some(held) = self.workers.get_mut(&worker) else {
            return;
        };
        let Life::Remains { exit, .. } = held.life else {
            return;
        };
        held.life = Life::None;
        let app = held.app;
        // It has none any more, or never told of its end.
        self.retake(worker);
        for (connection, to) in self.listeners.worker_gone(worker) {
            self.hand_over_one(connection, &to);
        }
        self.input(Input::Exited { worker, exit });
        if !self
            .core
            .instances()
            .any(|view| view.app == app && view.worker().is_some())
        {
            self.listeners.close_shared(app);
        }
    }
}

/// Sends the message that PM2 has programs wait for; `false`: it has no channel.
fn told_to_shut_down(held: &mut Worker) -> bool {
    let Some(process) = held.process_mut() else {
        return false;
    };
    let message = Outgoing {
        bytes: channel::message(&"shutdown".into()),
        fd: None,
    };
    let told = process
        .channel
        .as_mut()
        .is_some_and(|channel| channel.send(message, None));
    process.ending |= told;
    told
}

/// The processes, by descriptors; those that are gone are left out.
fn opened(mut pids: Vec<u32>) -> Vec<Arc<PidFd>> {
    pids.sort_unstable();
    pids.dedup();
    let open = |pid: u32| PidFd::open(pid).ok().map(Arc::new);
    pids.into_iter().filter_map(open).collect()
}

fn signal(of: StopSignal) -> Signal {
    match of {
        StopSignal::Interrupt => Signal::INT,
        StopSignal::Terminate => Signal::TERM,
        StopSignal::Quit => Signal::QUIT,
        StopSignal::HangUp => Signal::HUP,
        StopSignal::User1 => Signal::USR1,
        StopSignal::User2 => Signal::USR2,
    }
}
