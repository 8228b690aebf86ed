//! The thread of one destination. What is slow, a disk or a receiver, holds up nobody else.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rpm_wire::forward::Destination;
use tokio::sync::watch;
use tokio::time::sleep;

use super::book::{Book, Place};
use super::counts::Count;
use super::disk::Machine;
use super::forwarder::{Forwarder, Next, Now};
use super::handles::Handles;
use super::now_ns;
use super::record::About;
use super::send::Sender;

/// The longest pause: what is behind is looked at so often.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Between two attempts to read the positions.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(5);
/// What the clock of waits begins with, so that 0 is long ago.
const BEGINS_AT: Duration = Duration::from_secs(3_600);

/// The logs that there are, by path; `None` until the daemon has answered.
pub(super) type Known = Option<Arc<BTreeMap<PathBuf, About>>>;

/// A destination that is served.
#[derive(Debug)]
pub(super) struct Lane {
    pub destination: Destination,
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

/// What a lane works with.
pub(super) struct Means {
    /// The name of this machine.
    pub host: String,
    /// Where its positions lie.
    pub place: Place,
    /// The logs that there are.
    pub known: watch::Receiver<Known>,
    /// What it counts.
    pub count: Arc<Count>,
    /// The bound on files that are held open.
    pub handles: Handles,
    /// When the destinations were written down, in nanoseconds since 1970. One that is new gets what was written since: an app may print, and its log be
    /// rotated, before its thread runs.
    pub configured_ns: u64,
}

impl Lane {
    /// Begins to forward.
    pub(super) fn start(destination: Destination, means: Means) -> std::io::Result<Lane> {
        means.count.standing.is_at(destination.to.shown());
        let (stop, stopped) = watch::channel(false);
        let work = Work {
            destination: destination.clone(),
            means,
            stopped,
            begun: Instant::now(),
        };
        let thread = thread::Builder::new()
            .name("rpm-forward".to_owned())
            .spawn(move || work.run())?;
        Ok(Lane {
            destination,
            stop,
            thread,
        })
    }

    /// Asks it to end.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// True if its thread has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }
}

/// What the thread has.
struct Work {
    destination: Destination,
    means: Means,
    stopped: watch::Receiver<bool>,
    begun: Instant,
}

impl Work {
    fn run(self) {
        let name = self.destination.name.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(self.forward()),
            // The thread ends, and is started again.
            Err(error) => eprintln!("logs to {name}: cannot set up the event loop: {error}"),
        }
    }

    async fn forward(mut self) {
        let name = self.destination.name.clone();
        let Some(book) = self.positions().await else {
            return;
        };
        let mut sender = Sender::new(self.destination.clone(), self.means.host.clone());
        let mut forwarder = Forwarder::new(
            self.destination.clone(),
            Machine::default(),
            book,
            Arc::clone(&self.means.count),
            self.means.handles.clone(),
            now_ns().min(self.means.configured_ns),
        );
        let dice = RandomState::new();
        self.means.known.mark_changed();
        while !*self.stopped.borrow() {
            let now = self.now();
            if self.means.known.has_changed().unwrap_or(false)
                && let Some(known) = self.means.known.borrow_and_update().clone()
            {
                forwarder.set_logs(&known, now);
            }
            match forwarder.step(now) {
                Next::Send => tokio::select! {
                    outcome = async { sender.send(&forwarder.part()).await } => {
                        let roll = (dice.hash_one(now_ns()) >> 32) as f64 / f64::from(u32::MAX);
                        forwarder.answered(outcome, self.now(), roll);
                    }
                    _ = self.stopped.changed() => {}
                },
                Next::Wait(ms) => {
                    let pause = Duration::from_millis(ms).min(LONGEST_PAUSE);
                    tokio::select! {
                        () = sleep(pause) => {}
                        _ = self.stopped.changed() => {}
                    }
                }
            }
            self.save(&mut forwarder, false);
            for complaint in forwarder.complaints(self.now().ms) {
                eprintln!("logs to {name}: {complaint}");
            }
        }
        self.save(&mut forwarder, true);
    }

    /// The positions. While they cannot be read nothing is sent: it would be sent from elsewhere, and they would be replaced. `None` if it is to end.
    async fn positions(&mut self) -> Option<Option<Book>> {
        let mut said = String::new();
        while !*self.stopped.borrow() {
            let error = match self.means.place.open(now_ns()) {
                Ok((book, damage)) => {
                    if let Some(damage) = damage {
                        eprintln!("logs to {}: {damage}", self.destination.name);
                        self.means.count.add_gap();
                    }
                    return Some(book);
                }
                Err(error) => error.to_string(),
            };
            if error != said {
                eprintln!("logs to {}: {error}; tried again", self.destination.name);
                said = error;
            }
            tokio::select! {
                () = sleep(UNREADABLE_PAUSE) => {}
                _ = self.stopped.changed() => {}
            }
        }
        None
    }

    fn now(&self) -> Now {
        let since = self.begun.elapsed() + BEGINS_AT;
        Now {
            ns: now_ns(),
            ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Where nothing can be written, logs are forwarded all the same; after a restart some are sent again.
    fn save(&self, forwarder: &mut Forwarder<Machine>, now: bool) {
        if let Some(book) = forwarder.book(self.now().ms, now)
            && let Err(error) = self.means.place.write(&book)
        {
            forwarder.not_saved(&error);
        }
    }
}
