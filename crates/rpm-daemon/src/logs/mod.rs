//! The apps' output: pipes in, files out, on a thread of its own so that a slow or full disk never
//! stops the daemon, and a program that prints 100 MB/s waits for its own lines only. (A disk that does not respond at all, as NFS
//! without its server, holds the thread, and with it every program that prints more than its pipe has room for.)
//!
//! Bytes are copied as they are; nothing is split, decoded or kept. Who follows a log reads the file, and
//! is told when something was added.

pub(crate) mod own_log;

mod drain;
mod parts;
pub(crate) mod rotation;
mod sink;
mod stamp;
mod stream;
pub mod tail;
pub(crate) mod times;
mod underway;

pub use stamp::Style;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rpm_keeper::Kept;
use rpm_sys::epoll::Waker;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::os::behalf::Behalf;

/// An order to the thread, which a file on a disk that does not respond may hold for as long as that lasts.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// A worker's stream and where it goes.
#[derive(Debug)]
pub struct Source {
    /// The read end of the worker's pipe.
    pub pipe: Kept<OwnedFd>,
    /// The file that takes it.
    pub path: PathBuf,
    /// Another file that takes it too.
    pub also: Option<PathBuf>,
    /// How its lines are written.
    pub style: Style,
    /// When its files are rotated; `None`: they grow.
    pub limit: Option<Limit>,
    /// With whose rights they are opened.
    pub behalf: Behalf,
}

/// When a file is rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// It has so many bytes.
    pub bytes: u64,
    /// So many are kept besides.
    pub keep: u32,
}

enum Order {
    Add(Source),
    /// Answer when everything that is in the pipes now is in the files.
    Sync(oneshot::Sender<()>),
    /// The same, for a thread.
    SyncThread(Sender<()>),
    /// The same, and wait until the other side of the channel is dropped.
    Pause(oneshot::Sender<()>, mpsc::Receiver<()>),
    /// Open the files anew: somebody has moved them.
    Reopen,
    /// Empty these files.
    Flush(Vec<(PathBuf, Behalf)>, oneshot::Sender<()>),
    /// End after a last pass, and answer.
    Stop(Sender<()>),
}

/// The log thread's handle.
#[derive(Clone)]
pub struct LogSink {
    orders: Arc<Mutex<Sender<Order>>>,
    waker: Arc<Waker>,
    written: watch::Receiver<u64>,
    readers: Arc<watch::Sender<usize>>,
}

/// Somebody is sent what is written; while it lives, [`LogSink::all_read`] waits.
pub(crate) struct Reader(Arc<watch::Sender<usize>>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.send_modify(|readers| *readers -= 1);
    }
}

impl LogSink {
    /// Starts the thread; `underway` is the file for what is on its way, and may be left by a daemon that was killed.
    ///
    /// # Errors
    /// No thread or no descriptor is to be had.
    pub fn start(underway: &Path) -> io::Result<LogSink> {
        let (orders, inbox) = mpsc::channel();
        let (progress, written) = watch::channel(0);
        let waker = Arc::new(Waker::new()?);
        let drain = drain::Drain::new(inbox, Arc::clone(&waker), progress, underway)?;
        thread::Builder::new()
            .name("rpm-logs".to_owned())
            .stack_size(512 * 1024)
            .spawn(move || drain.run())?;
        Ok(LogSink {
            orders: Arc::new(Mutex::new(orders)),
            waker,
            written,
            readers: Arc::new(watch::Sender::new(0)),
        })
    }

    /// Copies a stream to its file until its last writer has closed it.
    pub fn add(&self, source: Source) {
        self.order(Order::Add(source));
    }

    /// Resolves when all that has been written to the pipes so far is in the files.
    pub async fn sync(&self) {
        let (done, wait) = oneshot::channel();
        self.order(Order::Sync(done));
        // Whoever waited goes on with what is there.
        let _ = timeout(ANSWERED_WITHIN, wait).await;
    }

    /// Whether it answers: a file on a disk that does not respond may hold it for as long as that lasts.
    pub(crate) async fn answers(&self) -> bool {
        let (done, wait) = oneshot::channel();
        self.order(Order::Sync(done));
        matches!(timeout(ANSWERED_WITHIN, wait).await, Ok(Ok(())))
    }

    /// The same for a thread that may wait, though no longer than this.
    pub(crate) fn sync_within(&self, within: Duration) {
        let (done, wait) = mpsc::channel();
        self.order(Order::SyncThread(done));
        // Whoever waited goes on with what is there.
        let _ = wait.recv_timeout(within);
    }

    /// The same, and reads nothing more until what is returned is dropped. `None`: it does not answer, and reads on when it does.
    pub async fn pause(&self) -> Option<Sender<()>> {
        let (done, wait) = oneshot::channel();
        let (resume, resumed) = mpsc::channel();
        self.order(Order::Pause(done, resumed));
        let paused = timeout(ANSWERED_WITHIN, wait).await;
        matches!(paused, Ok(Ok(()))).then_some(resume)
    }

    /// Changes whenever something was added to any file.
    #[must_use]
    pub fn written(&self) -> watch::Receiver<u64> {
        self.written.clone()
    }

    /// Counts somebody among those who are sent what is written.
    #[must_use]
    pub(crate) fn reader(&self) -> Reader {
        self.readers.send_modify(|readers| *readers += 1);
        Reader(Arc::clone(&self.readers))
    }

    /// Resolves when nobody is sent anything any more: after [`LogSink::stop`], when all have been sent everything.
    pub(crate) async fn all_read(&self) {
        let mut readers = self.readers.subscribe();
        // The sender is this value's own, so it is not gone.
        let _ = readers.wait_for(|readers| *readers == 0).await;
    }

    /// Opens the files anew before the next bytes: somebody has moved them.
    pub fn reopen(&self) {
        self.order(Order::Reopen);
    }

    /// Empties these files. False if it has not answered; it empties them when it does.
    pub async fn flush(&self, files: Vec<(PathBuf, Behalf)>) -> bool {
        let (done, wait) = oneshot::channel();
        self.order(Order::Flush(files, done));
        matches!(timeout(ANSWERED_WITHIN, wait).await, Ok(Ok(())))
    }

    /// Ends the thread after a last pass, for which it has this long.
    pub fn stop(&self, within: Duration) {
        let (done, wait) = mpsc::channel();
        self.order(Order::Stop(done));
        // What is not in the files then is in the pipes of processes that have ended, and lost.
        let _ = wait.recv_timeout(within);
    }

    fn order(&self, order: Order) {
        let sender = self
            .orders
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if sender.send(order).is_ok() {
            self.waker.wake();
        }
    }
}
