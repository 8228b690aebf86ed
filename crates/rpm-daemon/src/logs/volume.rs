//! Reading files of one mount, by those who must not hang when it does.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::Stalled;
use super::threads::LogThread;
use crate::os::threads;

/// For reading the end of a file, whose bytes are on the heap.
const STACK: usize = 256 * 1024;

/// A mount that logs are on.
#[derive(Clone)]
pub(crate) struct Volume {
    thread: Arc<LogThread>,
    mount: PathBuf,
    is_home: bool,
}

impl Volume {
    pub(super) fn new(thread: Arc<LogThread>, is_home: bool) -> Volume {
        Volume {
            mount: thread.mount(),
            thread,
            is_home,
        }
    }

    /// True if both are the same.
    pub(crate) fn is(&self, other: &Volume) -> bool {
        Arc::ptr_eq(&self.thread, &other.thread)
    }

    /// False if what is written there is stuck: reading would be, too. The mount of the daemon's directory is only slow: if it did not
    /// respond the daemon would not either.
    pub(crate) fn responds(&self) -> bool {
        self.is_home || !self.thread.orders.is_late()
    }

    /// What is said of it if it does not respond.
    pub(crate) fn stalled(&self) -> Stalled {
        Stalled {
            mount: self.mount.clone(),
        }
    }

    /// Does `read`, which reads files of this mount, on a thread of its own; if the mount does not respond this never resolves. So many
    /// threads read at the same time and no more.
    ///
    /// # Errors
    /// No thread can be made.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let permit = Arc::clone(&self.thread.reads).acquire_owned().await;
        let permit = permit.map_err(io::Error::other)?;
        threads::run(move || {
            let read = read();
            drop(permit);
            read
        })
        .await
    }

    /// The same for a thread that may wait, though no longer than this. `None`: it was not done in time.
    pub(crate) fn read_within<T: Send + 'static>(
        &self,
        within: Duration,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if self.is_home {
            return Some(read());
        }
        let permit = Arc::clone(&self.thread.reads).try_acquire_owned().ok();
        let permit = permit.filter(|_| self.responds())?;
        let (done, result) = mpsc::channel();
        let act = move || {
            let _ = done.send(read());
            drop(permit);
        };
        let begun = thread::Builder::new()
            .name("rpm-wait".to_owned())
            .stack_size(STACK)
            .spawn(act);
        begun.ok()?;
        result.recv_timeout(within).ok()
    }
}
