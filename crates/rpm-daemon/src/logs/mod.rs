//! The apps' output: pipes in, files out, on threads of their own so that a slow or full disk never stops the daemon, and a program that
//! prints 100 MB/s waits for its own lines only.
//!
//! A file system that does not respond (NFS without its server, a frozen disk) holds every thread that touches it. So each mount has a
//! log thread of its own (`threads.rs`); one that hangs holds the programs whose logs are on its mount, and nothing else. It is remembered
//! as not answering until it has answered (`orders.rs`). Files that it may hold are read on threads that may hang as well
//! (`volume.rs`), and never by the event loop.
//!
//! Bytes are copied as they are; nothing is split, decoded or kept. A client that follows a log reads the file, and learns when something
//! was added.

pub(crate) mod own_log;

mod claims;
mod drain;
mod orders;
mod parts;
mod progress;
pub(crate) mod rotation;
mod sink;
mod stamp;
mod stream;
pub mod tail;
mod threads;
pub(crate) mod times;
mod underway;
mod volume;

pub use stamp::Style;
pub(crate) use volume::Volume;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rpm_keeper::Kept;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout_at;

use crate::home::Home;
use crate::os::behalf::Behalf;
use orders::{Done, Order};
use progress::Progress;
use threads::{LogThread, Threads};

/// For all log threads to answer. One that does not is held by a file system that does not respond, for as long as that lasts. Shorter
/// than a client waits for the beginning of an answer (5 s), so that it gets one that says so.
pub(crate) const ANSWERED_WITHIN: Duration = Duration::from_secs(3);

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
    /// Where in `path` it begins.
    pub begin: Begin,
}

/// Where in a file the lines of a worker begin, in bytes: how long it was when the log thread got the stream.
#[derive(Clone, Debug, Default)]
pub struct Begin(Arc<OnceLock<u64>>);

impl Begin {
    /// It is known.
    pub(crate) fn at(offset: u64) -> Begin {
        Begin(Arc::new(OnceLock::from(offset)))
    }

    /// `None`: nothing of the worker can be in the file yet.
    pub(crate) fn get(&self) -> Option<u64> {
        self.0.get().copied()
    }

    /// Notes it, if it is not known.
    fn note(&self, length: impl FnOnce() -> u64) {
        self.0.get_or_init(length);
    }
}

/// When a file is rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// It has so many bytes.
    pub bytes: u64,
    /// So many are kept besides.
    pub keep: u32,
}

/// Files, and with whose rights they are opened.
type Files = Vec<(PathBuf, Behalf)>;

/// A log thread does not answer.
#[derive(Debug, thiserror::Error)]
#[error("the file system at {} does not respond", mount.display())]
pub(crate) struct Stalled {
    /// Where the file system is mounted that holds it.
    pub(crate) mount: PathBuf,
}

/// The log threads read nothing until this is dropped.
pub(crate) struct Paused {
    _resume: Vec<Sender<()>>,
}

/// The way to the log threads.
#[derive(Clone)]
pub struct LogSink {
    threads: Arc<Threads>,
    progress: Arc<Progress>,
    readers: Arc<watch::Sender<usize>>,
}

/// Somebody is sent what is written; while it lives, [`LogSink::all_read`] waits.
pub(crate) struct Reader(Arc<watch::Sender<usize>>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.send_modify(|readers| *readers -= 1);
    }
}

/// An order that is waited for.
struct Asked {
    thread: Arc<LogThread>,
    number: u64,
    answer: oneshot::Receiver<()>,
}

impl LogSink {
    /// Starts the thread for the mount that the daemon's directory is on; others start when they are needed. What a daemon that was
    /// killed had on its way is written when its pipes are added.
    ///
    /// # Errors
    /// No thread or no descriptor is to be had.
    pub fn start(home: &Home) -> io::Result<LogSink> {
        let progress = Arc::new(Progress::new());
        Ok(LogSink {
            threads: Arc::new(Threads::start(home, Arc::clone(&progress))?),
            progress,
            readers: Arc::new(watch::Sender::new(0)),
        })
    }

    /// Copies streams of one worker to their files until their last writers have closed them.
    pub fn add(&self, sources: impl IntoIterator<Item = Source>) {
        self.threads.add(sources);
    }

    /// Where the lines of a worker will begin that is about to be started.
    pub(crate) fn begin_of(&self, path: &Path) -> Begin {
        match self.threads.is_at_home(path) {
            true => Begin::at(tail::size(path)),
            // The thread looks when it gets the stream: the event loop must not touch the file.
            false => Begin::default(),
        }
    }

    /// Resolves when all that has been written to the pipes so far is in these files, or cannot be.
    pub(crate) async fn sync_files<'p>(&self, files: impl IntoIterator<Item = &'p Path>) {
        // Whoever waited goes on with what is there.
        let _ = sync(self.threads.of(files)).await;
    }

    /// The same for all files; the error says whether all threads answer.
    ///
    /// # Errors
    /// Which file system holds one that does not.
    pub(crate) async fn answers(&self) -> Result<(), Stalled> {
        sync(self.threads.all()).await
    }

    /// As [`LogSink::sync_files`], for a thread that may wait, though no longer than this.
    pub(crate) fn sync_files_within<'p>(&self, files: impl IntoIterator<Item = &'p Path>, within: Duration) {
        let deadline = Instant::now() + within;
        let asked: Vec<_> = self
            .threads
            .of(files)
            .into_iter()
            .filter(|thread| !thread.orders.is_late())
            .map(|thread| {
                let (done, answer) = mpsc::channel();
                thread.orders.give(Order::Sync(Box::new(move || {
                    let _ = done.send(());
                })));
                answer
            })
            .collect();
        for answer in asked {
            // Whoever waited goes on with what is there.
            let _ = answer.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// Has all threads write what is in the pipes, and read nothing more until what is returned is dropped.
    ///
    /// # Errors
    /// One does not answer; all go on.
    pub(crate) async fn pause(&self) -> Result<Paused, Stalled> {
        let threads = self.threads.all();
        if let Some(late) = threads.iter().find(|thread| thread.orders.is_late()) {
            return Err(late.stalled());
        }
        let mut resume = Vec::new();
        let pause = |done| {
            let (resumed, wait) = mpsc::channel();
            resume.push(resumed);
            Order::Pause(done, wait)
        };
        answered(ask(threads, pause)).await?;
        Ok(Paused { _resume: resume })
    }

    /// Changes whenever something was added to any file.
    #[must_use]
    pub fn written(&self) -> watch::Receiver<u64> {
        self.progress.follow()
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

    /// Opens the files again before the next bytes: somebody has moved them.
    pub fn reopen(&self) {
        for thread in self.threads.all() {
            thread.orders.give(Order::Reopen);
        }
    }

    /// Empties these files.
    ///
    /// # Errors
    /// Some are not emptied yet: the first file system that does not respond. They are emptied when it does.
    pub(crate) async fn flush(&self, files: Files) -> Result<(), Stalled> {
        let mut by_thread: Vec<(Arc<LogThread>, Files)> = Vec::new();
        for file in files {
            let thread = self.threads.thread_of(&file.0);
            match by_thread
                .iter_mut()
                .find(|(known, _)| Arc::ptr_eq(known, &thread))
            {
                Some((_, files)) => files.push(file),
                None => by_thread.push((thread, vec![file])),
            }
        }
        let mut late = None;
        let mut asked = Vec::new();
        for (thread, files) in by_thread {
            let mut files = Some(files);
            let flush = |done| Order::Flush(files.take().unwrap_or_default(), done);
            let is_late = thread.orders.is_late();
            let order = ask(vec![thread], flush);
            match is_late {
                true => late = late.or(order.first().map(|asked| asked.thread.stalled())),
                false => asked.extend(order),
            }
        }
        answered(asked).await?;
        late.map_or(Ok(()), Err)
    }

    /// Does something with a file of an app besides its logs: here, if it is on the mount that the daemon's directory is on, and otherwise
    /// on the thread of its mount, in the order of these calls. Where that hangs only the last such act of each file is done.
    pub(crate) fn act(&self, path: &Path, act: impl FnOnce() + Send + 'static) {
        match self.threads.is_at_home(path) {
            true => act(),
            false => {
                let thread = self.threads.thread_of(path);
                thread.orders.give(Order::Act(path.to_owned(), Box::new(act)));
            }
        }
    }

    /// The mount of a file, to read files there.
    pub(crate) fn volume(&self, path: &Path) -> Volume {
        Volume::new(self.threads.thread_of(path), self.threads.is_at_home(path))
    }

    /// Ends the threads after a last pass, for which they have this long.
    pub fn stop(&self, within: Duration) {
        let deadline = Instant::now() + within;
        let mut answers = Vec::new();
        for thread in self.threads.all() {
            let (done, answer) = mpsc::channel();
            let is_late = thread.orders.is_late();
            thread.orders.give(Order::Stop(Box::new(move || {
                let _ = done.send(());
            })));
            if !is_late {
                answers.push(answer);
            }
        }
        for answer in answers {
            // What is not in the files then is in the pipes of processes that have ended, and lost.
            let _ = answer.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        self.progress.end();
    }
}

/// Gives each of these threads an order.
fn ask(threads: Vec<Arc<LogThread>>, mut order: impl FnMut(Done) -> Order) -> Vec<Asked> {
    let ask = |thread: Arc<LogThread>| {
        let (done, answer) = oneshot::channel();
        let done = Box::new(move || {
            // Whoever asked may have given up.
            let _ = done.send(());
        });
        let number = thread.orders.give(order(done));
        Asked {
            thread,
            number,
            answer,
        }
    };
    threads.into_iter().map(ask).collect()
}

/// Has those that answer write what is in the pipes. One that did not answer before is not asked again until it has.
async fn sync(threads: Vec<Arc<LogThread>>) -> Result<(), Stalled> {
    let (late, threads): (Vec<_>, Vec<_>) = threads.into_iter().partition(|thread| thread.orders.is_late());
    answered(ask(threads, Order::Sync)).await?;
    late.first().map_or(Ok(()), |late| Err(late.stalled()))
}

/// Waits for all, with one deadline; notes those that have not answered by then.
async fn answered(asked: Vec<Asked>) -> Result<(), Stalled> {
    let deadline = tokio::time::Instant::now() + ANSWERED_WITHIN;
    let mut stalled = None;
    for Asked {
        thread,
        number,
        answer,
    } in asked
    {
        match timeout_at(deadline, answer).await {
            // It has answered, or ended.
            Ok(_) => {}
            Err(_) => {
                thread.orders.missed(number);
                stalled = stalled.or(Some(thread.stalled()));
            }
        }
    }
    stalled.map_or(Ok(()), Err)
}
