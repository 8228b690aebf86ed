//! The end of a worker: its leader, then whatever is left of its process tree.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::sync::Arc;

use rpm_core::protocol::Exit;
use rpm_core::{AppId, WorkerId};
use rpm_sys::tree::{self, Census, Tree};
use rpm_sys::{PidFd, Signal};
use rpm_wire::api::{StopSignal, WorkerStage};
use rpm_wire::channel;
use tokio::io::Interest;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::apps::catalog::Catalog;
use crate::home::Home;
use crate::logs::LogSink;
use crate::os::FEW_TREES;
use crate::os::behalf::Behalf;
use crate::os::watched::watched;
use crate::persist::state::Store;
use crate::processes::ProcessEvent;
use crate::processes::progress::Steps;
use crate::workers::outputs::{pid_file, remove_pid};
use crate::workers::worker::{Outgoing, ProcessTree, Worker, Workers, exit_of};

/// Node's exit code for an option it does not know.
const NODE_BAD_OPTION: i32 = 9;

/// The variable that names the worker in the environment of everything that it starts.
const MARK: &str = "RPM_WORKER";

/// Looks at what is left of a tree, at most: each time that something has changed.
const LOOKS: usize = 8;

/// What is needed to end workers, and to find what they leave: lent by the supervisor for one step.
pub(crate) struct Ending<'a, E> {
    pub(crate) workers: &'a mut Workers,
    /// What the workers are called.
    pub(crate) catalog: Catalog<'a>,
    pub(crate) steps: &'a Steps,
    pub(crate) store: &'a mut Store,
    /// All processes as they were in this step, if somebody has looked.
    pub(crate) census: &'a mut Option<Census>,
    pub(crate) home: &'a Home,
    pub(crate) logs: &'a LogSink,
    pub(crate) events: &'a mpsc::Sender<E>,
}

/// The leader of a worker has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeaderEnd {
    /// Its program does not know an option that it was given: the agent, perhaps.
    pub(crate) bad_option: bool,
    /// Nothing of its tree is left.
    pub(crate) whole: bool,
}

/// Nothing is left of a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gone {
    pub(crate) app: AppId,
    pub(crate) exit: Exit,
}

impl<E: From<ProcessEvent> + Send + 'static> Ending<'_, E> {
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
        match &mut held.tree {
            ProcessTree::Running(process) if !treekill => {
                process.ending = true;
                // One that has ended since is found to have.
                let _ = process.pidfd.send_signal(signal);
            }
            ProcessTree::Running(_) | ProcessTree::Remains { .. } | ProcessTree::None => {
                self.end_tree(worker, signal);
            }
        }
        if let Some(process) = self.workers.get(&worker).and_then(|held| held.process()) {
            self.store.note_asked(worker, process.start_ticks);
        }
    }

    /// Asks these workers to end if the daemon before has not.
    pub(crate) fn ask_again(&mut self, told: Vec<WorkerId>) {
        for worker in told {
            let process = self.workers.get_mut(&worker).and_then(|held| held.process_mut());
            let Some(process) = process.filter(|process| !process.ending) else {
                continue;
            };
            // Or it did, and died before that was in the state.
            process.ending = self.store.was_asked(worker, process.start_ticks);
            if !process.ending {
                self.ask_to_stop(worker);
            }
        }
    }

    /// Sends a signal to the worker's whole tree, children before parents.
    pub(crate) fn end_tree(&mut self, worker: WorkerId, signal: Signal) {
        let Some(held) = self.workers.get_mut(&worker) else {
            return;
        };
        let signalled = match &mut held.tree {
            ProcessTree::Running(process) => {
                process.ending = true;
                let tree = match process.adopted || self.census.is_some() {
                    true => Tree::within(self.census.get_or_insert_with(Census::take), process.pid),
                    false => Tree::snapshot(process.pid),
                };
                tree.and_then(|tree| tree.signal(signal))
            }
            ProcessTree::Remains { left, .. } => {
                let before = left.len();
                signal_each(worker, left, signal);
                // What is left out is waited for no longer. That of before goes on waiting, and what it reports then means nothing.
                if left.len() < before {
                    let left = left.clone();
                    self.await_remains(worker, left);
                }
                Ok(())
            }
            ProcessTree::None => Ok(()),
        };
        if let Err(error) = signalled {
            warn!(%worker, %error, "cannot signal a worker's process tree");
        }
    }

    /// What the leaders of these workers, which have ended, have left of their trees. Together, because to find that takes a look at all processes.
    pub(crate) fn left_by(&self, workers: &[WorkerId]) -> Vec<(WorkerId, Vec<u32>)> {
        let leader = |worker: &WorkerId| {
            let process = self.workers.get(worker)?.process()?;
            Some((*worker, process.pid, process.adopted))
        };
        let leaders: Vec<(WorkerId, u32, bool)> = workers.iter().filter_map(leader).collect();
        let adopted = leaders.iter().any(|(_, _, adopted)| *adopted);
        let census = (adopted || leaders.len() > FEW_TREES).then(Census::take);
        // Before a leader is waited for, its pid still names its process group and nobody else's.
        // Those below the leaders first: what is handed over meanwhile is found among the orphans.
        let below = |(worker, pid, _): &(WorkerId, u32, bool)| {
            let below = match &census {
                Some(census) => census.descendants(*pid),
                None => tree::descendants(*pid),
            };
            (*worker, below)
        };
        let below: Vec<(WorkerId, Vec<u32>)> = leaders.iter().map(below).collect();
        let of: BTreeMap<WorkerId, bool> = leaders
            .iter()
            .map(|(worker, _, adopted)| (*worker, *adopted))
            .collect();
        let mut strays = self.strays(&of);
        let whole = |(worker, mut left): (WorkerId, Vec<u32>)| {
            left.extend(strays.remove(&worker).unwrap_or_default());
            (worker, left)
        };
        below.into_iter().map(whole).collect()
    }

    /// The leader of a worker has ended, and has left these processes.
    pub(crate) fn leader_exited(&mut self, worker: WorkerId, mut left: Vec<u32>) -> Option<LeaderEnd> {
        let held = self.workers.get(&worker)?;
        let ProcessTree::Running(process) = &held.tree else {
            return None;
        };
        let (pid, pidfd, ending) = (process.pid, process.pidfd.share(), process.ending);
        let adopted = process.adopted;
        left.retain(|other| *other != pid);
        let mut left = opened(left);
        if !ending {
            // Nobody asked a crashed worker's children to finish, and they may hold its ports.
            signal_each(worker, &mut left, Signal::KILL);
        }
        let status = pidfd
            .try_wait()
            .ok()
            .flatten()
            .or_else(|| pidfd.exit_of_stranger());
        if status.is_none() {
            info!(%worker, pid, "only its parent, another process, knows how it ended; counted as killed");
        }
        let exit = exit_of(status);
        info!(%worker, pid, ?exit, "exited");
        let path = pid_file(self.home, &held.spec, held.instance);
        let (behalf, gone) = (Behalf::of(&held.spec), path.clone());
        self.logs.act(&path, move || remove_pid(&gone, &behalf, pid));
        let stage = if ending {
            WorkerStage::Gone
        } else {
            WorkerStage::Failed
        };
        self.steps.report(self.catalog, Some(held), stage);
        if let Some(held) = self.workers.get_mut(&worker) {
            held.tree = ProcessTree::Remains {
                exit,
                left: left.clone(),
                ending,
                adopted,
            };
        }
        let whole = left.is_empty();
        if !whole {
            self.await_remains(worker, left);
        }
        Some(LeaderEnd {
            bad_option: exit == Exit::Code(NODE_BAD_OPTION),
            whole,
        })
    }

    /// What is left of the trees of these workers besides what descends from their leaders: orphans, which became the daemon's children, each
    /// with what is below it. Those of one that was no child of this daemon (adopted: `true`) are not its children either.
    ///
    /// A process that ends while it is looked at hands its children over behind the look, so there is another one until nothing has changed.
    fn strays(&self, of: &BTreeMap<WorkerId, bool>) -> BTreeMap<WorkerId, BTreeSet<u32>> {
        let mut before = self.look_for_strays(of);
        for _ in 1..LOOKS {
            let now = self.look_for_strays(of);
            if now == before {
                break;
            }
            before = now;
        }
        before
    }

    fn look_for_strays(&self, of: &BTreeMap<WorkerId, bool>) -> BTreeMap<WorkerId, BTreeSet<u32>> {
        let leaders = self.workers.values().filter_map(|held| Some(held.process()?.pid));
        let leaders: HashSet<u32> = leaders.collect();
        let mut marked = tree::orphans_with(MARK, |pid| leaders.contains(&pid));
        if of.values().any(|adopted| *adopted) {
            let home = format!("RPM_HOME={}", self.home.root().display());
            marked.extend(tree::marked_with(&home, MARK));
        }
        let mut found: BTreeMap<WorkerId, BTreeSet<u32>> = BTreeMap::new();
        for (pid, worker) in marked {
            let worker = worker.parse().map(WorkerId);
            if let Some(worker) = worker.ok().filter(|worker| of.contains_key(worker)) {
                let found = found.entry(worker).or_default();
                found.insert(pid);
                found.extend(tree::descendants(pid));
            }
        }
        found
    }

    /// What was left of these trees has ended. That may have made orphans of what was below it: they are told to end as well. Those of which
    /// nothing is left.
    pub(crate) fn trees_gone(&mut self, workers: &[WorkerId]) -> Vec<WorkerId> {
        let adopted = |worker: &WorkerId| match self.workers.get(worker)?.tree {
            ProcessTree::Remains { adopted, .. } => Some((*worker, adopted)),
            ProcessTree::Running(_) | ProcessTree::None => None,
        };
        let of: BTreeMap<WorkerId, bool> = workers.iter().filter_map(adopted).collect();
        let mut strays = self.strays(&of);
        of.into_keys()
            .filter(|worker| {
                let left = strays.remove(worker).unwrap_or_default();
                !self.ends_again(*worker, left)
            })
            .collect()
    }

    /// Says whether there are any.
    fn ends_again(&mut self, worker: WorkerId, left: BTreeSet<u32>) -> bool {
        let Some(held) = self.workers.get(&worker) else {
            return false;
        };
        let ProcessTree::Remains { ending, .. } = held.tree else {
            return false;
        };
        let signal = match (ending, held.spec.treekill) {
            (true, true) => Some(signal(held.spec.kill_signal)),
            (true, false) => None,
            (false, _) => Some(Signal::KILL),
        };
        let mut more = opened(left.into_iter().collect());
        if let Some(signal) = signal {
            signal_each(worker, &mut more, signal);
        }
        if more.is_empty() {
            return false;
        }
        if let Some(Worker {
            tree: ProcessTree::Remains { left, .. },
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
            let _ = events.send(ProcessEvent::TreeGone(worker).into()).await;
        });
    }

    /// Nothing is left of the worker.
    pub(crate) fn tree_is_gone(&mut self, worker: WorkerId) -> Option<Gone> {
        let held = self.workers.get_mut(&worker)?;
        let ProcessTree::Remains { exit, .. } = held.tree else {
            return None;
        };
        held.tree = ProcessTree::None;
        let app = held.app;
        Some(Gone { app, exit })
    }
}

/// Sends each a signal; one that has ended since is found to have. What cannot even be killed is left out: a program of another user (sudo)
/// would keep its worker from being replaced for as long as it runs.
fn signal_each(worker: WorkerId, processes: &mut Vec<Arc<PidFd>>, signal: Signal) {
    let denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    processes.retain(|process| {
        let sent = process.send_signal(signal);
        let is_left = signal == Signal::KILL && sent.as_ref().is_err_and(denied);
        if is_left {
            warn!(%worker, "a process that the worker has started belongs to another user and cannot be ended; it is left running");
        }
        !is_left
    });
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
