//! A worker as the daemon holds it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rpm_core::protocol::Exit;
use rpm_core::{AppId, InstanceId, WorkerId};
use rpm_keeper::{Kept, Token};
use rpm_sys::intercept::Notifications;
use rpm_sys::pidfd::PidFd;
use rpm_sys::{ExitStatus, Signal, tree};
use rpm_wire::api::AppSpec;
use rpm_wire::channel::QueryServer;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::apps::delivery::Delivery;
use crate::logs::Begin;
use crate::workers::calls::HeldBack;

/// A worker: one process tree.
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) app: AppId,
    pub(crate) instance: InstanceId,
    pub(crate) spec: Arc<AppSpec>,
    pub(crate) delivery: Delivery,
    pub(crate) logs: Logs,
    pub(crate) tree: ProcessTree,
    /// Why it did not get what it asked for, or could not be spawned: shown if it fails.
    pub(crate) trouble: Option<String>,
    /// An agent has spoken for it: one that is gone comes back.
    pub(crate) agent_seen: bool,
    /// The name that its agent uses for it.
    pub(crate) token: String,
    /// Lines on its channel that were no messages.
    pub(crate) malformed: u64,
    /// Listeners that it asked for and gets when its reload is done.
    pub(crate) withheld: Vec<QueryServer>,
    /// Calls of `listen` that are answered then.
    pub(crate) held_back: Vec<HeldBack>,
    /// Sockets that share their address and are not listened on yet, by cookie.
    pub(crate) bound: BTreeSet<u64>,
    /// Its processes that have called `listen`.
    pub(crate) listeners: BTreeSet<u32>,
    /// Where it listened when it ended, a few addresses at most: a reload may have failed for that.
    pub(crate) listened: Vec<SocketAddr>,
    /// The names of the actions that its program offers, as far as they are kept for the next daemon.
    pub(crate) actions: Vec<String>,
}

/// Listeners that one worker may be waiting for; what is asked for beyond that is refused.
pub(crate) const WITHHELD_LIMIT: usize = 64;

/// Whether there is a process.
pub(crate) enum ProcessTree {
    /// Not spawned (yet, or it could not be).
    None,
    /// The leader runs, or has ended and is not yet waited for.
    Running(Box<Process>),
    /// The leader has ended; others of its tree have not.
    Remains {
        /// How the leader ended.
        exit: Exit,
        /// The others.
        left: Vec<Arc<PidFd>>,
        /// It was asked to end.
        ending: bool,
        /// It was no child of this daemon.
        adopted: bool,
    },
}

/// Whose place in the list of processes a worker takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) instance: InstanceId,
    /// Which of its app's it is, from 0.
    pub(crate) number: u32,
}

/// All of them, by their ids.
pub(crate) type Workers = BTreeMap<WorkerId, Worker>;

/// The leader of a worker's process tree.
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) pidfd: Kept<PidFd>,
    /// With the pid it names the process.
    pub(crate) start_ticks: u64,
    pub(crate) started: Instant,
    pub(crate) started_at_ms: u64,
    pub(crate) channel: Option<Channel>,
    /// It was asked to end.
    pub(crate) ending: bool,
    /// It was started by the daemon before this one, and is no child of this one.
    pub(crate) adopted: bool,
    /// By which the next daemon has what belongs to it.
    pub(crate) tokens: Tokens,
    /// Some kept descriptors are lost, because the keeper died together with a daemon.
    pub(crate) without_keeper: bool,
    /// Where its standard input is written, in fork mode.
    pub(crate) stdin: Option<Kept<OwnedFd>>,
    /// Its calls of `bind` and `listen`, if they are intercepted.
    pub(crate) notifications: Option<Kept<Notifications>>,
    pub(crate) usage: UsageSample,
}

/// What is kept of a worker for the next daemon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tokens {
    /// Its process.
    pub(crate) process: Token,
    /// The daemon's end of its channel.
    pub(crate) channel: Option<Token>,
    /// The read end of its output.
    pub(crate) out: Option<Token>,
    /// The read end of its errors.
    pub(crate) err: Option<Token>,
    /// The reports of its calls.
    pub(crate) reports: Option<Token>,
    /// The daemon's end of its standard input.
    pub(crate) stdin: Option<Token>,
}

/// Messages that wait for a worker which does not read; more are refused.
pub(crate) const OUTGOING_LIMIT: usize = 1024;

/// A message to a worker, newline included, with at most one descriptor.
pub(crate) struct Outgoing {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fd: Option<OwnedFd>,
}

/// Messages, each of 1 MiB at most, that may wait for a worker that does not read, before those of other programs are refused.
const FOREIGN_MESSAGES_LIMIT: usize = 16;

/// The daemon's side of a Node channel.
pub(crate) struct Channel {
    outgoing: mpsc::Sender<Outgoing>,
    /// What was sent with a descriptor, or as a ping, and is not acknowledged yet, in order.
    unacknowledged: VecDeque<Awaiting>,
    /// Acknowledgements, which have no numbers, are those of `unacknowledged` in their order. They are not if the daemon before this one has
    /// sent something that is acknowledged now.
    in_step: bool,
    /// Messages with descriptors that wait until a ping is answered.
    held: VecDeque<(Outgoing, Option<Awaiting>)>,
    /// For whoever watches the worker's process.
    last_words: Option<LastWords>,
}

/// How the task of a channel learns that the worker has died, and when it has read all that the worker said.
pub(crate) struct LastWords {
    died: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// What a `NODE_HANDLE_ACK` or `NODE_HANDLE_NACK` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaiting {
    /// The socket that answers a `queryServer`.
    Listener,
    /// A connection, by its sequence number.
    Connection(u64),
    /// A heartbeat.
    Ping,
}

/// CPU use between the last two samples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UsageSample {
    pub(crate) at: Instant,
    pub(crate) cpu: Duration,
    pub(crate) cpu_percent: f64,
    pub(crate) rss_bytes: u64,
}

/// Where a worker's output goes, and where in the files its own begins.
#[derive(Clone, Debug)]
pub(crate) struct Logs {
    pub(crate) out: PathBuf,
    pub(crate) err: PathBuf,
    /// What takes both, besides.
    pub(crate) both: Option<PathBuf>,
    pub(crate) out_from: Begin,
    pub(crate) err_from: Begin,
}

impl Worker {
    /// The pid of the program: of the one process that listens, where the leader has only started it (a shell, npm).
    pub(crate) fn program_pid(&self) -> Option<u32> {
        let leader = self.process()?.pid;
        let mut listeners = self.listeners.iter();
        match (listeners.next(), listeners.next()) {
            (Some(only), None) => Some(*only),
            (Some(_), Some(_)) | (None, _) => Some(leader),
        }
    }

    pub(crate) fn process(&self) -> Option<&Process> {
        match &self.tree {
            ProcessTree::Running(process) => Some(process),
            ProcessTree::None | ProcessTree::Remains { .. } => None,
        }
    }

    pub(crate) fn process_mut(&mut self) -> Option<&mut Process> {
        match &mut self.tree {
            ProcessTree::Running(process) => Some(process),
            ProcessTree::None | ProcessTree::Remains { .. } => None,
        }
    }

    /// Whether it shares ports with others of its app.
    pub(crate) fn shares_ports(&self) -> bool {
        self.delivery.shares_ports(self.is_intercepted())
    }

    /// Whether its calls of `bind` and `listen` are intercepted.
    pub(crate) fn is_intercepted(&self) -> bool {
        self.process()
            .is_some_and(|process| process.notifications.is_some())
    }

    /// The processes that may hold its slots: its leader, and where slots are inherited its children.
    pub(crate) fn slot_holders(&self) -> Vec<Arc<PidFd>> {
        let Some(process) = self.process() else {
            return Vec::new();
        };
        let mut holders = vec![process.pidfd.share()];
        if self.delivery.children_hold_slots(self.is_intercepted()) {
            let children = tree::descendants(process.pid).into_iter();
            let opened = children.filter_map(|pid| PidFd::open(pid).ok());
            holders.extend(opened.map(Arc::new));
        }
        holders
    }

    pub(crate) fn channel_mut(&mut self) -> Option<&mut Channel> {
        self.process_mut().and_then(|process| process.channel.as_mut())
    }
}

impl Channel {
    pub(crate) fn new(outgoing: mpsc::Sender<Outgoing>, last_words: Option<LastWords>) -> Channel {
        Channel {
            outgoing,
            unacknowledged: VecDeque::new(),
            in_step: true,
            held: VecDeque::new(),
            last_words,
        }
    }

    /// The channel of a worker that another daemon has started: what that has sent may still be acknowledged.
    pub(crate) fn taken_back(self) -> Channel {
        Channel {
            in_step: false,
            ..self
        }
    }

    /// For whoever watches the worker's process, which is one.
    pub(crate) fn take_last_words(&mut self) -> Option<LastWords> {
        self.last_words.take()
    }

    /// Queues a message; `false` if the worker does not read, or is gone.
    ///
    /// One with a descriptor waits for the answer to a ping: Node gives the descriptor that it received
    /// in a read to the first message of that read which may have one. A ping is such a message, and the
    /// kernel may deliver it together with the next one.
    pub(crate) fn send(&mut self, message: Outgoing, awaiting: Option<Awaiting>) -> bool {
        if message.fd.is_none() || (!self.awaits_pong() && self.held.is_empty()) {
            return self.pass(message, awaiting);
        }
        let room = self.held.len() < OUTGOING_LIMIT;
        if room {
            self.held.push_back((message, awaiting));
        }
        room
    }

    /// True if so many messages wait that further ones of other programs are refused: they would only fill the daemon's memory.
    pub(crate) fn is_behind(&self) -> bool {
        self.outgoing.max_capacity() - self.outgoing.capacity() >= FOREIGN_MESSAGES_LIMIT
    }

    /// Messages with descriptors that wait until a ping is answered.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Takes back the connections that wait to be sent: their numbers.
    pub(crate) fn take_unsent(&mut self) -> Vec<u64> {
        let mut numbers = Vec::new();
        self.held.retain(|(_, awaiting)| match awaiting {
            Some(Awaiting::Connection(number)) => {
                numbers.push(*number);
                false
            }
            Some(Awaiting::Listener | Awaiting::Ping) | None => true,
        });
        numbers
    }

    /// Nothing waits to be written.
    pub(crate) fn is_flushed(&self) -> bool {
        self.held.is_empty() && self.outgoing.capacity() == self.outgoing.max_capacity()
    }

    /// Whether a ping is not answered yet.
    pub(crate) fn awaits_pong(&self) -> bool {
        self.unacknowledged.contains(&Awaiting::Ping)
    }

    /// The worker has acknowledged something, which it has `taken` or not: what? Out of step a connection stays unacknowledged until its
    /// number is heard ([`Channel::hear_number`]): that a worker has not taken one of the daemon before says nothing of it.
    pub(crate) fn acknowledge(&mut self, taken: bool) -> Option<Awaiting> {
        let answered = match (self.in_step, taken) {
            (true, _) => self.unacknowledged.pop_front(),
            (false, true) => self.remove_first(Awaiting::Listener),
            (false, false) => self.remove_first(Awaiting::Ping),
        };
        while !self.awaits_pong() && self.outgoing.capacity() > 0 {
            let Some((message, awaiting)) = self.held.pop_front() else {
                break;
            };
            self.pass(message, awaiting);
        }
        answered
    }

    /// The worker has answered connection `number`: whatever was sent before is acknowledged, and from now on the channel is in step. The
    /// connections among it, which have no answer, were not taken: their numbers.
    pub(crate) fn hear_number(&mut self, number: u64) -> Vec<u64> {
        let sent = |awaiting: &Awaiting| *awaiting == Awaiting::Connection(number);
        let Some(at) = self
            .unacknowledged
            .iter()
            .position(sent)
            .filter(|_| !self.in_step)
        else {
            return Vec::new();
        };
        self.in_step = true;
        let earlier = self.unacknowledged.drain(..=at);
        let lost = earlier.filter_map(|awaiting| match awaiting {
            Awaiting::Connection(other) if other != number => Some(other),
            Awaiting::Connection(_) | Awaiting::Listener | Awaiting::Ping => None,
        });
        lost.collect()
    }

    fn remove_first(&mut self, awaiting: Awaiting) -> Option<Awaiting> {
        let at = self.unacknowledged.iter().position(|it| *it == awaiting)?;
        self.unacknowledged.remove(at)
    }

    fn pass(&mut self, message: Outgoing, awaiting: Option<Awaiting>) -> bool {
        let sent = self.outgoing.try_send(message).is_ok();
        if sent {
            self.unacknowledged.extend(awaiting);
        }
        sent
    }
}

impl LastWords {
    pub(crate) fn new(died: oneshot::Sender<()>, task: JoinHandle<()>) -> LastWords {
        LastWords { died, task }
    }

    /// The worker has died: waits until all is passed on that it said.
    pub(crate) async fn hear(self) {
        // A task that has ended already needs no word of it.
        let _ = self.died.send(());
        let _ = self.task.await;
    }
}

impl UsageSample {
    pub(crate) fn start() -> UsageSample {
        UsageSample {
            at: Instant::now(),
            cpu: Duration::ZERO,
            cpu_percent: 0.0,
            rss_bytes: 0,
        }
    }
}

/// How a worker ended. An unknown exit status counts as a crash (SIGKILL).
pub(crate) fn exit_of(status: Option<ExitStatus>) -> Exit {
    match status {
        Some(ExitStatus::Code(code)) => Exit::Code(code),
        Some(ExitStatus::Signal(signal)) => Exit::Signal(signal),
        None => Exit::Signal(Signal::KILL.as_raw()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str, with_fd: bool) -> Outgoing {
        let fd = with_fd.then(|| std::fs::File::open("/dev/null").unwrap().into());
        Outgoing {
            bytes: name.into(),
            fd,
        }
    }

    fn sent(inbox: &mut mpsc::Receiver<Outgoing>) -> Vec<String> {
        std::iter::from_fn(|| inbox.try_recv().ok())
            .map(|m| String::from_utf8(m.bytes).unwrap())
            .collect()
    }

    #[test]
    fn descriptors_wait_for_the_answer_to_a_ping() {
        let (outgoing, mut inbox) = mpsc::channel(8);
        let mut channel = Channel::new(outgoing, None);
        assert!(channel.send(message("before", true), Some(Awaiting::Listener)));
        assert!(channel.send(message("ping", false), Some(Awaiting::Ping)));
        assert!(channel.send(message("listener", true), Some(Awaiting::Listener)));
        assert!(channel.send(message("connection", true), Some(Awaiting::Connection(7))));
        assert!(channel.send(message("refusal", false), None));
        assert_eq!(sent(&mut inbox), ["before", "ping", "refusal"]);
        assert_eq!(channel.acknowledge(true), Some(Awaiting::Listener));
        assert_eq!(sent(&mut inbox), Vec::<String>::new());
        assert_eq!(channel.acknowledge(false), Some(Awaiting::Ping));
        assert_eq!(sent(&mut inbox), ["listener", "connection"]);
        assert_eq!(channel.acknowledge(true), Some(Awaiting::Listener));
        assert_eq!(channel.acknowledge(true), Some(Awaiting::Connection(7)));
        assert_eq!(channel.acknowledge(true), None);
        assert_eq!(channel.hear_number(7), Vec::<u64>::new());
    }

    #[test]
    fn what_is_said_to_a_dead_daemon_refuses_no_connection() {
        let (outgoing, _inbox) = mpsc::channel(8);
        let mut channel = Channel::new(outgoing, None).taken_back();
        assert!(channel.send(message("connection", true), Some(Awaiting::Connection(7))));
        assert!(channel.send(message("ping", false), Some(Awaiting::Ping)));
        // A connection, a ping and one that the worker did not get, all of the daemon before.
        assert_eq!(channel.acknowledge(true), None);
        assert_eq!(channel.acknowledge(false), Some(Awaiting::Ping), "a sign of life");
        assert_eq!(channel.acknowledge(false), None);
        // What the daemon before has numbered is not known here.
        assert_eq!(channel.hear_number(3), Vec::<u64>::new());
        // Those of this one.
        assert_eq!(channel.acknowledge(true), None);
        assert!(channel.send(message("second", true), Some(Awaiting::Connection(8))));
        assert_eq!(channel.hear_number(7), Vec::<u64>::new());
        assert_eq!(
            channel.acknowledge(false),
            Some(Awaiting::Connection(8)),
            "in step"
        );
    }

    #[test]
    fn a_later_answer_shows_that_a_connection_was_not_taken() {
        let (outgoing, _inbox) = mpsc::channel(8);
        let mut channel = Channel::new(outgoing, None).taken_back();
        for number in [7, 8, 9] {
            assert!(channel.send(message("connection", true), Some(Awaiting::Connection(number))));
        }
        assert_eq!(channel.acknowledge(false), None, "of 7, or of the daemon before");
        assert_eq!(channel.acknowledge(true), None);
        assert_eq!(channel.hear_number(8), [7]);
        assert_eq!(channel.acknowledge(true), Some(Awaiting::Connection(9)));
    }

    #[test]
    fn what_waits_is_bounded() {
        let (outgoing, _inbox) = mpsc::channel(8);
        let mut channel = Channel::new(outgoing, None);
        assert!(channel.send(message("ping", false), Some(Awaiting::Ping)));
        // Without descriptors: a thousand would meet the limit of the process.
        channel
            .held
            .extend((0..OUTGOING_LIMIT).map(|_| (message("held", false), None)));
        assert!(!channel.send(message("one more", true), Some(Awaiting::Listener)));
    }
}
