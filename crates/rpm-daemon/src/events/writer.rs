//! The thread that writes: whatever the disk does, the event loop goes on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use rpm_wire::events::{Event, Subject, What};
use tokio::sync::watch;
use tracing::warn;

use super::file::EventFile;
use crate::logs::{Begin, LogSink, tail};
use crate::os::clock::now_ms;

/// Events that may wait to be written; more are dropped and counted.
const WAITING: usize = 4096;
/// Events that are written together: what they need of the log thread is asked for once.
const BATCH: usize = 256;
/// For the output of a worker that has ended to be in its file. It is a matter of milliseconds, except on a machine that has no CPU or disk to
/// spare, which is when workers crash. A file system that does not respond is waited for once.
const OUTPUT_WITHIN: Duration = Duration::from_secs(2);
/// Lines of standard error in a report, bytes of each, and how far back in the file they are looked for.
const LINES: usize = 10;
const LINE_BYTES: usize = 256;
const TAIL_BYTES: u64 = 8 << 10;
/// Longest text in a report, in bytes.
const TEXT_BYTES: usize = 1024;
const STACK: usize = 256 * 1024;

/// The way to the thread.
#[derive(Debug)]
pub(super) struct Writer {
    orders: Sender<Order>,
    waiting: Arc<AtomicUsize>,
    lost: Arc<AtomicU64>,
    written: watch::Receiver<u64>,
}

/// An event without its number.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) at_ms: u64,
    pub(super) subject: Subject,
    pub(super) what: What,
    /// The file that has its standard error, and where its own lines begin there.
    pub(super) tail: Option<(PathBuf, Begin)>,
}

impl Draft {
    pub(super) fn new(at_ms: u64, subject: Subject, what: What) -> Draft {
        Draft {
            at_ms,
            subject,
            what,
            tail: None,
        }
    }
}

enum Order {
    Write(Box<Draft>),
    Then(Box<dyn FnOnce() + Send>),
    Stop,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread can be made.
    pub(super) fn start(dir: &Path, logs: LogSink) -> io::Result<Writer> {
        let (orders, inbox) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let lost = Arc::new(AtomicU64::new(0));
        let (progress, written) = watch::channel(0);
        let counters = (Arc::clone(&waiting), Arc::clone(&lost));
        let dir = dir.to_owned();
        thread::Builder::new()
            .name("rpm-events".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                let file = EventFile::new(&dir);
                progress.send_replace(file.seq());
                let thread = Thread {
                    file,
                    logs,
                    waiting: counters.0,
                    lost: counters.1,
                    progress,
                    failing: false,
                };
                thread.run(&inbox);
            })?;
        Ok(Writer {
            orders,
            waiting,
            lost,
            written,
        })
    }

    /// Writes an event, or counts it as lost: never waits.
    pub(super) fn write(&self, draft: Draft) {
        let room = self.waiting.fetch_add(1, Ordering::Relaxed) < WAITING;
        if !room || self.orders.send(Order::Write(Box::new(draft))).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Does this when all before is written, or could not be.
    pub(super) fn then(&self, act: impl FnOnce() + Send + 'static) {
        // The thread ends only when it is told to.
        let _ = self.orders.send(Order::Then(Box::new(act)));
    }

    /// Waits until all is written, though no longer than this.
    pub(super) fn flush(&self, within: Duration) {
        let (done, wait) = mpsc::sync_channel(1);
        self.then(move || {
            // Who waits may have given up.
            let _ = done.send(());
        });
        // A disk that blocks must not keep the daemon.
        let _ = wait.recv_timeout(within);
    }

    pub(super) fn stop(&self) {
        let _ = self.orders.send(Order::Stop);
    }

    pub(super) fn written(&self) -> watch::Receiver<u64> {
        self.written.clone()
    }
}

struct Thread {
    file: EventFile,
    logs: LogSink,
    waiting: Arc<AtomicUsize>,
    lost: Arc<AtomicU64>,
    progress: watch::Sender<u64>,
    /// The last one could not be written.
    failing: bool,
}

impl Thread {
    fn run(mut self, inbox: &Receiver<Order>) {
        while let Ok(first) = inbox.recv() {
            let others = std::iter::from_fn(|| inbox.try_recv().ok()).take(BATCH - 1);
            let batch: Vec<Order> = [first].into_iter().chain(others).collect();
            let tails = batch.iter().filter_map(|order| match order {
                Order::Write(draft) => draft.tail.as_ref().map(|(path, _)| path.as_path()),
                Order::Then(_) | Order::Stop => None,
            });
            self.logs.sync_files_within(tails, OUTPUT_WITHIN);
            for order in batch {
                match order {
                    Order::Write(draft) => {
                        self.write(*draft);
                        self.waiting.fetch_sub(1, Ordering::Relaxed);
                    }
                    Order::Then(act) => {
                        self.progress.send_replace(self.file.seq());
                        act();
                    }
                    Order::Stop => return,
                }
            }
            self.progress.send_replace(self.file.seq());
        }
    }

    fn write(&mut self, draft: Draft) {
        let lost = self.lost.load(Ordering::Relaxed);
        if lost > 0 {
            let subject = Subject {
                pid: Some(std::process::id()),
                ..Subject::default()
            };
            let what = What::EventsLost { count: lost };
            if self.append(now_ms(), subject, what) {
                self.lost.fetch_sub(lost, Ordering::Relaxed);
            }
        }
        let Draft {
            at_ms,
            subject,
            mut what,
            tail,
        } = draft;
        let last_lines = |(path, begin)| self.last_lines(path, &begin);
        add_lines(&mut what, || tail.map(last_lines).unwrap_or_default());
        if !self.append(at_ms, subject, what) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What is known of the last lines of a worker, where the file system that has them responds.
    fn last_lines(&self, path: PathBuf, begin: &Begin) -> Vec<String> {
        let Some(from) = begin.get() else {
            return Vec::new();
        };
        let volume = self.logs.volume(&path);
        let read = move || tail::last_lines_within(&path, from, LINES, TAIL_BYTES);
        volume.read_within(OUTPUT_WITHIN, read).unwrap_or_default()
    }

    fn append(&mut self, at_ms: u64, subject: Subject, what: What) -> bool {
        let event = Event {
            seq: 0,
            at_ms,
            subject,
            what,
        };
        let failed = self.file.append(event).err();
        if let Some(error) = failed.as_ref().filter(|_| !self.failing) {
            warn!(%error, "cannot write events; they are counted, and the next one says how many are lost");
        }
        self.failing = failed.is_some();
        failed.is_none()
    }
}

/// What a worker has said last, and texts that are too long.
fn add_lines(what: &mut What, last: impl FnOnce() -> Vec<String>) {
    let lines = match what {
        What::Crashed { why, last_lines, .. } => {
            why.iter_mut().for_each(|why| shorten(why, TEXT_BYTES));
            last_lines
        }
        What::Exited { last_lines, .. } => last_lines,
        What::ReloadUndone { why } | What::Unhealthy { why } => return shorten(why, TEXT_BYTES),
        What::Watch { path } => return shorten(path, TEXT_BYTES),
        _ => return,
    };
    *lines = last();
    lines.iter_mut().for_each(|line| *line = plain(line));
    lines.retain(|line| !line.trim().is_empty());
    lines.iter_mut().for_each(|line| shorten(line, LINE_BYTES));
}

/// Without colours and other control sequences.
fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' => {
                // `ESC [`, parameters, and a letter; of any other sequence the letter behind ESC.
                if letters.next() == Some('[') {
                    let _ = letters.find(|letter| ('@'..='~').contains(letter));
                }
            }
            '\t' => text.push(' '),
            letter if letter.is_control() => {}
            letter => text.push(letter),
        }
    }
    text
}

/// Cuts at a letter.
fn shorten(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes - '…'.len_utf8()));
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use rpm_wire::events::Which;

    use super::*;
    use crate::events::history::History;

    #[test]
    fn texts_are_cut_at_a_letter() {
        let mut text = "é".repeat(10);
        shorten(&mut text, 20);
        assert_eq!(text, "é".repeat(10));
        shorten(&mut text, 12);
        assert_eq!(text, format!("{}…", "é".repeat(4)));
    }

    #[test]
    fn lines_lose_their_colours() {
        assert_eq!(
            plain("\u{1b}[1;31mError\u{1b}[0m:\tno\r\u{7}\u{1b}c!"),
            "Error: no!"
        );
        assert_eq!(plain("\u{1b}[31"), "");
    }

    #[test]
    fn a_disk_that_blocks_keeps_nobody_and_what_is_lost_is_counted() {
        let dir = std::env::temp_dir().join(format!("rpm-writer-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let logs = LogSink::start(&crate::home::Home::prepare(&dir).unwrap()).unwrap();
        let writer = Writer::start(&dir, logs).unwrap();
        let (release, held) = mpsc::channel::<()>();
        let (reached, blocked) = mpsc::channel();
        writer.then(move || {
            reached.send(()).unwrap();
            let _ = held.recv();
        });
        blocked.recv().unwrap();
        let more = 7;
        let cron = || Draft::new(1, Subject::default(), What::Cron {});
        for _ in 0..WAITING + more {
            writer.write(cron());
        }
        assert_eq!(writer.lost.load(Ordering::Relaxed), more as u64);
        drop(release);
        let mut written = writer.written();
        // The first of them says what was lost.
        while *written.borrow_and_update() < 1 + WAITING as u64 {
            await_change(&mut written);
        }
        writer.write(cron());
        writer.flush(Duration::from_secs(20));
        let picked = History::new(&dir).read(Which::First(usize::MAX), &|_| true);
        let events: Vec<Event> = picked
            .lines
            .iter()
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        let lost = |event: &Event| matches!(event.what, What::EventsLost { count } if count == more as u64);
        assert_eq!(events.iter().filter(|event| lost(event)).count(), 1);
        let seqs: Vec<u64> = events.iter().map(|event| event.seq).collect();
        assert_eq!(seqs, (1..=WAITING as u64 + 2).collect::<Vec<_>>());
        writer.stop();
        std::fs::remove_dir_all(&dir).unwrap();
    }

    fn await_change(written: &mut watch::Receiver<u64>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(written.changed()).unwrap();
    }
}
