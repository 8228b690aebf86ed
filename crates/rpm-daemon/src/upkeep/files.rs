//! Watching files for changes, on a thread of its own for each app.

mod rules;
mod watcher;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rpm_wire::api::WatchSpec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tracing::warn;

pub(crate) use rules::check;

use rules::{Ours, Rules};
use watcher::Watcher;

/// Changes that come so close together are one: a file that is written is not read halfway.
const QUIET: Duration = Duration::from_millis(50);
/// Changes that never cease are told so long after the first.
const LONGEST: Duration = Duration::from_secs(5);

/// Watches until it is dropped.
#[derive(Debug)]
pub(crate) struct FileWatch {
    spec: WatchSpec,
    ours: Ours,
    /// The thread ends when this is closed.
    _thread: UnixStream,
}

impl FileWatch {
    /// Begins. `ours` are files that the daemon writes itself. `changed` is called on the thread, once for changes that come together.
    pub(crate) fn start(
        spec: &WatchSpec,
        ours: Vec<PathBuf>,
        changed: impl Fn(&Path) -> bool + Send + 'static,
    ) -> std::io::Result<FileWatch> {
        let (held, end) = UnixStream::pair()?;
        let ours = Ours::new(ours);
        let (wanted, written) = (spec.clone(), ours.clone());
        let delay = Duration::from_millis(spec.delay_ms);
        // Here, so that whoever starts it hears when the user has too many of them, and tries again.
        let inotify = Watcher::init()?;
        thread::Builder::new()
            .name("rpm-watch".to_owned())
            .stack_size(512 * 1024)
            .spawn(move || {
                let rules = Rules::new(&wanted, written.clone(), |path| path.symlink_metadata().is_ok());
                let watcher = Watcher::open(inotify, rules);
                if let Err(error) = run(watcher, &end, delay, &written, &changed) {
                    warn!(%error, "files are not watched any more; stop and start the app to have them watched again");
                }
            })?;
        Ok(FileWatch {
            spec: spec.clone(),
            ours,
            _thread: held,
        })
    }

    pub(crate) fn is_of(&self, spec: &WatchSpec) -> bool {
        &self.spec == spec
    }

    /// These are the files that the daemon writes itself from now on. What was seen of them in the last moment does not count either.
    pub(crate) fn leave_out(&self, ours: Vec<PathBuf>) {
        self.ours.set(ours);
    }
}

/// Changes that are to be told.
struct Due {
    at: Instant,
    latest: Instant,
    /// Of the first that is not the daemon's.
    path: PathBuf,
}

impl Due {
    /// One more change.
    fn changed(due: Option<Due>, path: PathBuf, delay: Duration, now: Instant) -> Due {
        let quiet = now + QUIET;
        match due {
            Some(due) => Due {
                at: due.at.max(quiet).min(due.latest),
                ..due
            },
            None => Due {
                at: quiet.max(now + delay),
                latest: now + delay.max(LONGEST),
                path,
            },
        }
    }
}

/// Tells of changes until `end` is closed, or nobody wants to know.
fn run(
    mut watcher: Watcher,
    end: &UnixStream,
    delay: Duration,
    ours: &Ours,
    changed: &dyn Fn(&Path) -> bool,
) -> std::io::Result<()> {
    let mut due: Option<Due> = None;
    loop {
        let now = Instant::now();
        if let Some(over) = due.take_if(|due| due.at <= now)
            && !ours.explain(&over.path)
            && !changed(&over.path)
        {
            return Ok(());
        }
        let left = due.as_ref().map(|due| due.at.saturating_duration_since(now));
        if has_ended(&watcher, end, left)? {
            return Ok(());
        }
        if let Some(path) = watcher.changed(ours)? {
            due = due.filter(|due| !ours.explain(&due.path));
            due = Some(Due::changed(due, path, delay, Instant::now()));
        }
    }
}

/// Waits until there is something to hear, or for so long. Is it the end?
fn has_ended(watcher: &Watcher, end: &UnixStream, left: Option<Duration>) -> std::io::Result<bool> {
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    let mut fds = [
        PollFd::from_borrowed_fd(watcher.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(end.as_fd(), PollFlags::IN),
    ];
    match poll(&mut fds, left.as_ref()) {
        Ok(_) => Ok(!fds[1].revents().is_empty()),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn changes_are_told_when_they_cease_or_at_last() {
        let start = Instant::now();
        let after = |delay: u64, changes: &[u64]| {
            let change = |due, at: &u64| {
                let path = PathBuf::from(at.to_string());
                let now = start + Duration::from_millis(*at);
                Some(Due::changed(due, path, Duration::from_millis(delay), now))
            };
            let due = changes.iter().fold(None, change).unwrap();
            assert_eq!(due.path, Path::new("0"));
            (due.at - start).as_millis()
        };
        assert_eq!(after(0, &[0]), 50);
        assert_eq!(after(0, &[0, 30, 60]), 110);
        assert_eq!(after(700, &[0, 30]), 700);
        assert_eq!(after(700, &[0, 690]), 740);
        assert_eq!(after(0, &[0, 4990]), 5000);
        assert_eq!(after(9000, &[0, 8990]), 9000);
    }

    #[test]
    fn changes_are_told_once_and_also_in_new_directories() {
        let dir = std::env::temp_dir().join(format!("rpm-files-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("src")).unwrap();
        let dir = dir.canonicalize().unwrap();
        let spec = WatchSpec {
            paths: vec![dir.display().to_string()],
            ignore: vec!["*.log".to_owned(), r"regex:[\/\\]data$".to_owned()],
            delay_ms: 0,
        };
        let (sender, changes) = channel();
        let watch = FileWatch::start(&spec, Vec::new(), move |path| {
            sender.send(path.to_owned()).is_ok()
        })
        .unwrap();
        let bound = Duration::from_secs(20);
        // The thread may not be watching yet.
        let first = || {
            let began = Instant::now();
            let mut writes = 0;
            loop {
                writes += 1;
                std::fs::write(dir.join("src/a.js"), "x").unwrap();
                if let Ok(path) = changes.recv_timeout(Duration::from_millis(200)) {
                    // Those before may be told, too, and what comes meanwhile with them.
                    while writes > 1 && changes.recv_timeout(Duration::from_secs(2)).is_ok() {}
                    return path;
                }
                assert!(began.elapsed() < bound);
            }
        };
        assert_eq!(first(), dir.join("src/a.js"));
        // A file whose writer is interrupted after it was created is two changes.
        let next_but = |last: &str| loop {
            let path = changes.recv_timeout(bound).unwrap();
            if path != dir.join(last) {
                return path;
            }
        };
        std::fs::write(dir.join("x.log"), "x").unwrap();
        std::fs::create_dir(dir.join("data")).unwrap();
        std::fs::write(dir.join("data/x"), "x").unwrap();
        std::fs::create_dir(dir.join("new")).unwrap();
        assert_eq!(changes.recv_timeout(bound).unwrap(), dir.join("new"));
        std::fs::write(dir.join("new/b.js"), "x").unwrap();
        assert_eq!(next_but("new"), dir.join("new/b.js"));
        watch.leave_out(vec![dir.join("new/own.txt"), dir.join("logs/own.log")]);
        std::fs::create_dir(dir.join("logs")).unwrap();
        std::fs::write(dir.join("new/own.txt"), "x").unwrap();
        std::fs::write(dir.join("new/c.js"), "x").unwrap();
        assert_eq!(next_but("new/b.js"), dir.join("new/c.js"));
        drop(watch);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
