//! That something was added to some file, for those who follow.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// What the log threads report to; a thread that hangs does not keep those who follow from seeing the end.
pub(super) struct Progress(Mutex<Option<watch::Sender<u64>>>);

impl Progress {
    pub(super) fn new() -> Progress {
        Progress(Mutex::new(Some(watch::Sender::new(0))))
    }

    /// Something was added.
    pub(super) fn report(&self) {
        if let Some(sender) = &*self.lock()
            && sender.receiver_count() > 0
        {
            sender.send_modify(|count| *count += 1);
        }
    }

    /// Changes when something is added from now on; closed when nothing more comes.
    pub(super) fn follow(&self) -> watch::Receiver<u64> {
        match &*self.lock() {
            Some(sender) => sender.subscribe(),
            None => watch::channel(0).1,
        }
    }

    /// Nothing more comes.
    pub(super) fn end(&self) {
        drop(self.lock().take());
    }

    fn lock(&self) -> MutexGuard<'_, Option<watch::Sender<u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
