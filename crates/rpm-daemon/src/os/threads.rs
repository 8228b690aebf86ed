//! Work that may wait for a process, on a thread of its own: the event loop must not wait.
//!
//! Tokio's pool panics where the system has no thread to give (`RLIMIT_NPROC`, the `pids.max` of a control group). Here that is an error.

use std::io;
use std::thread;

use tokio::sync::oneshot;

/// For a system call or two and a line of the log, in bytes.
const STACK: usize = 256 * 1024;

/// Does `work` on a new thread, and gives its result.
///
/// # Errors
/// No thread can be made, `EAGAIN`; or `work` has panicked.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    // Nobody waits for the result any more when the daemon ends.
    let act = move || drop(done.send(work()));
    thread::Builder::new()
        .name("rpm-wait".to_owned())
        .stack_size(STACK)
        .spawn(act)?;
    result.await.map_err(|_| io::Error::other("it panicked"))
}

/// Drops what a process has made, or may have something of it in its queue, on a thread: to close that may take as long as the process likes, as with
/// a socket that lingers.
pub(crate) async fn close<T: Send + 'static>(what: T) {
    // Without a thread it is closed here.
    let _ = run(move || drop(what)).await;
}
