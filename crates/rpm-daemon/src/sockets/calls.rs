//! Calls of workers, as they come: received on a thread of their own, noted, and passed on to the event loop.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rpm_core::WorkerId;
use rpm_sys::intercept::{Notifications, Received};
use rustix::fs::FileType;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::apps::delivery::Delivery;
use crate::os::threads;
use crate::os::watched::watched;
use crate::persist::journal::Journal;
use crate::workers::calls::Intercepted;

/// A program that has bound a socket listens on it soon.
const FOLLOWS_WITHIN: Duration = Duration::from_millis(20);
/// After a call could not be read: at first, and at most. It doubles in between.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A process of a worker waits until its call is answered.
pub(crate) struct Called {
    pub(crate) worker: WorkerId,
    pub(crate) call: Intercepted,
    /// Dropped when it was dealt with.
    pub(crate) dealt: std::sync::mpsc::Sender<()>,
}

/// Answers what the daemon before this one may have received and not answered: the calls go on. Behind the proxy they fail, for they may have
/// been such as open a listener past it; the worker is replaced.
pub(crate) fn answer_stuck(
    worker: WorkerId,
    delivery: Delivery,
    from: &Notifications,
    journal: Option<&Journal>,
) {
    let fronted = delivery.is_fronted();
    let calls = journal.map(|journal| journal.of(worker));
    for call in calls.into_iter().flatten().flatten() {
        let answered = match fronted {
            true => from.fail_with(call, Errno::ACCESS.raw_os_error()),
            false => from.proceed_with(call),
        };
        if answered.is_ok() {
            info!(%worker, fails = fronted, "answered a call that the previous daemon had left unanswered");
        }
    }
}

/// Passes on what the processes of a worker call, as long as one lives.
pub(crate) fn watch<E: From<Called> + Send + 'static>(
    worker: WorkerId,
    from: Arc<Notifications>,
    journal: Option<Arc<Journal>>,
    events: mpsc::Sender<E>,
) {
    tokio::spawn(async move {
        let mut pause = FIRST_PAUSE;
        let reports = loop {
            match watched(Arc::clone(&from), Interest::READABLE) {
                Ok(reports) => break reports,
                Err(error) => complain(worker, &error, &mut pause).await,
            }
        };
        while let Ok(mut ready) = reports.readable().await {
            let (from, journal, events) = (Arc::clone(&from), journal.clone(), events.clone());
            // Not on the event loop: what a worker has as its memory, or as a socket, may take long to read or to close.
            let passed = threads::run(move || pass_on(&from, worker, journal.as_deref(), &events)).await;
            match passed.flatten() {
                Ok(More::Later) => {
                    pause = FIRST_PAUSE;
                    ready.clear_ready();
                }
                Ok(More::Never) => return,
                // The callers wait meanwhile: what is missing now may be there later.
                Err(error) => complain(worker, &error, &mut pause).await,
            }
        }
    });
}

/// Whether a worker may call again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    Later,
    /// No process is left that could.
    Never,
}

/// Passes on the calls that wait now, and those that follow closely: a thread for each would cost more than the call.
fn pass_on<E: From<Called>>(
    from: &Arc<Notifications>,
    worker: WorkerId,
    journal: Option<&Journal>,
    events: &mpsc::Sender<E>,
) -> io::Result<More> {
    let mut last = Instant::now();
    loop {
        match receive(from, worker, journal)? {
            Received::Call(call) => {
                last = Instant::now();
                // Here: what a worker has for memory may have whoever reads it wait, and so may closing what it has for a socket.
                let address = from.address(&call);
                let socket = from.socket(&call).and_then(only_socket).map(Arc::new);
                let _last = socket.as_ref().ok().cloned();
                let from = Arc::clone(from);
                let intercepted = Intercepted {
                    from,
                    call,
                    address,
                    socket,
                };
                // One after the other, however many threads of the worker call: others have their turn in between.
                let (dealt, done) = std::sync::mpsc::channel();
                let called = Called {
                    worker,
                    call: intercepted,
                    dealt,
                };
                if events.blocking_send(called.into()).is_err() {
                    return Ok(More::Never);
                }
                let _ = done.recv();
            }
            Received::Nothing if last.elapsed() < FOLLOWS_WITHIN => from.wait(FOLLOWS_WITHIN)?,
            Received::Nothing => return Ok(More::Later),
            Received::End => return Ok(More::Never),
        }
    }
}

/// Nothing else is a copy made of: closing that would be the affair of its file system, which may be the worker's own.
fn only_socket(fd: OwnedFd) -> io::Result<OwnedFd> {
    let mode = rustix::fs::fstat(&fd)?.st_mode;
    match FileType::from_raw_mode(mode) {
        FileType::Socket => Ok(fd),
        _ => Err(Errno::NOTSOCK.into()),
    }
}

/// Says once that calls cannot be read, and waits before the next try.
async fn complain(worker: WorkerId, error: &io::Error, pause: &mut Duration) {
    if *pause == FIRST_PAUSE {
        warn!(%worker, %error, "cannot read the calls of a worker; it waits until this succeeds");
    }
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}

/// The next call, which is noted before anything is done about it.
fn receive(from: &Notifications, worker: WorkerId, journal: Option<&Journal>) -> io::Result<Received> {
    let received = from.receive()?;
    if let (Received::Call(call), Some(journal)) = (&received, journal)
        && let Err(error) = journal.note(worker, call.id())
    {
        debug!(%worker, %error, "a call is not noted");
    }
    Ok(received)
}
