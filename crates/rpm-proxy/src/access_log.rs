//! The access log: a line for each request, in Apache's combined format or as JSON. A separate thread writes the lines. A slow disk does not
//! delay requests: lines are dropped, and the log says how many.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use tracing::warn;

/// Most lines that wait for the disk.
const WAITING: usize = 8192;
/// Size of a write, in bytes, and the longest time before it.
const BUFFER: usize = 64 * 1024;
const FLUSH_AFTER: Duration = Duration::from_millis(500);
/// If a pipe or a terminal takes nothing for this long, the waiting lines are dropped.
const TAKEN_WITHIN: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// Where and how the access log is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The file. When another program rotates it, a new one is opened.
    pub path: PathBuf,
    /// One JSON object per line instead of the combined format.
    pub json: bool,
    /// One in this many requests is logged; at least 1.
    pub every: u32,
    /// Opens the file.
    pub opener: Opener,
}

/// Opens a file for appending, with the rights of a user. It must never block: a pipe without a reader gets no lines until it has one, and
/// a terminal must not become the controlling terminal.
#[derive(Clone)]
pub struct Opener {
    user: Option<u32>,
    /// Only the thread that writes opens the file.
    may_hang: bool,
    open: Arc<Open>,
}

type Open = dyn Fn(&Path) -> io::Result<File> + Send + Sync;

impl Opener {
    /// `user`: the user whose rights are used, if they are not those of this process.
    pub fn new(
        user: Option<u32>,
        open: impl Fn(&Path) -> io::Result<File> + Send + Sync + 'static,
    ) -> Opener {
        Opener {
            user,
            may_hang: false,
            open: Arc::new(open),
        }
    }

    /// With `may_hang` the thread that writes opens the file, and nobody else: the file system may never answer. A file that cannot be
    /// opened is no error of the settings then.
    #[must_use]
    pub fn with_thread(self, may_hang: bool) -> Opener {
        Opener { may_hang, ..self }
    }

    fn open(&self, path: &Path) -> io::Result<BlockingFile> {
        match (self.open)(path) {
            Ok(file) => Ok(BlockingFile(Some(file))),
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => Ok(BlockingFile(None)),
            Err(error) => Err(error),
        }
    }
}

impl PartialEq for Opener {
    fn eq(&self, other: &Opener) -> bool {
        self.user == other.user
    }
}

impl Eq for Opener {}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// The log of a front.
#[derive(Debug)]
pub(crate) struct AccessLog {
    pub(crate) settings: LogSettings,
    lines: SyncSender<String>,
    requests: AtomicU64,
    lost: AtomicU64,
}

/// A request, as the log shows it.
#[derive(Debug)]
pub(crate) struct Entry {
    began: Instant,
    line: String,
    host: Option<String>,
    referer: Option<String>,
    agent: Option<String>,
}

/// The response to a request, as the log shows it. By default there is none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    /// The key of the upstream that responded.
    pub(crate) upstream: Option<u32>,
}

/// A line of the log. It is written when this is dropped, at the end of the response.
pub(crate) struct Line {
    log: Arc<AccessLog>,
    entry: Entry,
    client: IpAddr,
    pub(crate) outcome: Outcome,
}

impl Line {
    pub(crate) fn new(log: Arc<AccessLog>, entry: Entry, client: IpAddr) -> Line {
        Line {
            log,
            entry,
            client,
            outcome: Outcome::default(),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.log.add(&self.entry, self.client, self.outcome);
    }
}

impl AccessLog {
    /// Opens the file and starts the thread that writes.
    pub(crate) fn open(settings: &LogSettings) -> io::Result<AccessLog> {
        let file = match settings.opener.may_hang {
            true => BlockingFile(None),
            false => settings.opener.open(&settings.path)?,
        };
        let (lines, inbox) = sync_channel(WAITING);
        let (path, opener) = (settings.path.clone(), settings.opener.clone());
        thread::Builder::new()
            .name("rpm-access-log".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || write((&path, &opener), file, &inbox))?;
        Ok(AccessLog {
            settings: settings.clone(),
            lines,
            requests: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        })
    }

    /// This request is one of those that are logged.
    pub(crate) fn wants(&self) -> bool {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        number.is_multiple_of(u64::from(self.settings.every.max(1)))
    }

    pub(crate) fn add(&self, entry: &Entry, client: IpAddr, outcome: Outcome) {
        let line = if self.settings.json {
            entry.json(client, outcome)
        } else {
            entry.combined(client, outcome)
        };
        if self.lines.try_send(line).is_err() {
            let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
            // Not a warning for each line.
            if lost.is_power_of_two() {
                warn!(path = %self.settings.path.display(), lost, "access log too slow: lines dropped");
            }
        }
    }
}

impl Entry {
    /// From the beginning of a head that cannot be parsed.
    pub(crate) fn of_malformed(head: &[u8]) -> Entry {
        let text = String::from_utf8_lossy(head);
        let mut lines = text.trim_start().lines();
        let mut entry = Entry::new(lines.next().unwrap_or_default().to_owned(), None);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            entry.record_field(name, value.as_bytes());
        }
        entry
    }

    /// A request without fields. `line`: method, target and version. `authority`: the host in the target or the pseudo-header, which takes
    /// precedence over `Host`.
    pub(crate) fn new(line: String, authority: Option<&str>) -> Entry {
        Entry {
            began: Instant::now(),
            line,
            host: authority.map(str::to_owned),
            referer: None,
            agent: None,
        }
    }

    /// Records a field if the log shows it. The first of several counts, as it does for Node.
    pub(crate) fn record_field(&mut self, name: &str, value: &[u8]) {
        let target = match name.len() {
            4 if name.eq_ignore_ascii_case("host") => &mut self.host,
            7 if name.eq_ignore_ascii_case("referer") => &mut self.referer,
            10 if name.eq_ignore_ascii_case("user-agent") => &mut self.agent,
            _ => return,
        };
        target.get_or_insert_with(|| String::from_utf8_lossy(value.trim_ascii()).into_owned());
    }

    fn combined(&self, client: IpAddr, outcome: Outcome) -> String {
        let time = jiff::Timestamp::now().to_zoned(TimeZone::system());
        let time = time.strftime("%d/%b/%Y:%H:%M:%S %z");
        let mut line = format!("{client} - - [{time}] \"");
        escape(&mut line, &self.line);
        // Writing to a string cannot fail.
        let _ = write!(line, "\" {} {}", outcome.status, outcome.bytes);
        for text in [&self.referer, &self.agent] {
            line.push_str(" \"");
            let text = text.as_deref().filter(|text| !text.is_empty());
            escape(&mut line, text.unwrap_or("-"));
            line.push('"');
        }
        line.push('\n');
        line
    }

    fn json(&self, client: IpAddr, outcome: Outcome) -> String {
        let mut words = self.line.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let (method, target, protocol) = (word(), word(), word());
        let [host, referer, agent] =
            [&self.host, &self.referer, &self.agent].map(|text| text.as_deref().unwrap_or_default());
        let mut line = format!(
            "{{\"time\":\"{}\",\"client\":\"{client}\",\"method\":",
            jiff::Timestamp::now()
        );
        for (text, next) in [
            (method, ",\"target\":"),
            (target, ",\"protocol\":"),
            (protocol, ",\"host\":"),
            (host, ",\"referer\":"),
            (referer, ",\"user_agent\":"),
            (agent, ""),
        ] {
            line.push('"');
            escape(&mut line, text);
            line.push('"');
            line.push_str(next);
        }
        let took = self.began.elapsed().as_secs_f64() * 1000.0;
        let _ = write!(
            line,
            ",\"status\":{},\"bytes\":{},\"ms\":{took:.3},\"instance\":",
            outcome.status, outcome.bytes
        );
        let _ = match outcome.upstream {
            Some(key) => write!(line, "{key}"),
            None => write!(line, "null"),
        };
        line.push_str("}\n");
        line
    }
}

/// Escapes text as in JSON, so that neither a line nor a string ends early. Readers of the combined format understand that, too.
fn escape(line: &mut String, text: &str) {
    for letter in text.chars() {
        match letter {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            control if control.is_control() => {
                let _ = write!(line, "\\u{:04x}", u32::from(control));
            }
            other => line.push(other),
        }
    }
}

/// A file, or a pipe that may stop taking bytes: writing waits for it, but not for ever.
struct BlockingFile(Option<File>);

impl io::Write for BlockingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = self.0.as_mut().ok_or(Errno::NXIO)?;
        match file.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut room = [PollFd::new(file, PollFlags::OUT)];
                if rustix::event::poll(&mut room, Some(&TAKEN_WITHIN))? == 0 {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                file.write(bytes)
            }
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes lines until the log is dropped.
fn write((path, opener): (&Path, &Opener), file: BlockingFile, inbox: &Receiver<String>) {
    let mut out = BufWriter::with_capacity(BUFFER, file);
    let mut failing = false;
    let mut due = None;
    loop {
        let line = match due {
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => inbox.recv_timeout(Instant::saturating_duration_since(&due, Instant::now())),
        };
        let mut done = match &line {
            Ok(line) => out.write_all(line.as_bytes()),
            Err(_) => Ok(()),
        };
        let due_at = *due.get_or_insert_with(|| Instant::now() + FLUSH_AFTER);
        if line.is_err() || due_at <= Instant::now() {
            done = done.and_then(|()| out.flush());
            due = None;
        }
        if due.is_none() && (done.is_err() || !is_same(path, out.get_ref())) {
            // What cannot be written now is dropped: the buffer must not grow.
            match opener.open(path) {
                Ok(file) => {
                    drop(std::mem::replace(&mut out, BufWriter::with_capacity(BUFFER, file)).into_parts());
                }
                Err(error) => done = done.and(Err(error)),
            }
        }
        if let (Err(error), false) = (&done, failing) {
            warn!(path = %path.display(), %error, "cannot write the access log: lines dropped");
        }
        failing = done.is_err();
        if matches!(line, Err(RecvTimeoutError::Disconnected)) {
            return;
        }
    }
}

/// The path still names this file. It does not after a rotation.
fn is_same(path: &Path, file: &BlockingFile) -> bool {
    let Some(file) = &file.0 else { return false };
    let opened = file.metadata().ok().map(|it| (it.dev(), it.ino()));
    path.metadata().ok().map(|it| (it.dev(), it.ino())) == opened
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] =
        b"GET /a\"b HTTP/1.1\r\nHost: x.org\r\nUser-Agent: curl/8\\\r\nReferer: http://y/\r\n\r\n";

    fn outcome() -> Outcome {
        Outcome {
            status: 200,
            bytes: 12,
            upstream: Some(3),
        }
    }

    #[test]
    fn lines_hold_what_is_known_and_end_once() {
        let entry = Entry::of_malformed(HEAD);
        let line = entry.combined([192, 0, 2, 7].into(), outcome());
        assert!(line.starts_with("192.0.2.7 - - ["), "{line}");
        assert!(
            line.ends_with("] \"GET /a\\\"b HTTP/1.1\" 200 12 \"http://y/\" \"curl/8\\\\\"\n"),
            "{line}"
        );
        let line = entry.json([192, 0, 2, 7].into(), outcome());
        for part in [
            "\"client\":\"192.0.2.7\",\"method\":\"GET\",\"target\":\"/a\\\"b\",\"protocol\":\"HTTP/1.1\",\"host\":\"x.org\"",
            "\"user_agent\":\"curl/8\\\\\",\"status\":200,\"bytes\":12,\"ms\":",
            ",\"instance\":3}\n",
        ] {
            assert!(line.contains(part), "{line}");
        }
        let odd =
            Entry::of_malformed(b"GET /\x01\xff HTTP/1.1\r\n\r\n").combined([1, 1, 1, 1].into(), outcome());
        assert!(odd.contains("/\\u0001\u{fffd} HTTP"), "{odd}");
    }

    #[test]
    fn one_in_n_requests_is_logged_and_a_rotated_file_is_opened_again() {
        let path = std::env::temp_dir().join(format!("rpm-access-log-{}", std::process::id()));
        let log = AccessLog::open(&LogSettings {
            path: path.clone(),
            json: false,
            every: 3,
            opener: Opener::new(None, |path| File::options().create(true).append(true).open(path)),
        })
        .expect("it is opened");
        assert_eq!((0..9).filter(|_| log.wants()).count(), 3);
        let lines = |path: &Path| std::fs::read_to_string(path).unwrap_or_default().lines().count();
        let written = |path: &Path, count: usize| {
            let deadline = Instant::now() + Duration::from_secs(20);
            while lines(path) < count {
                assert!(Instant::now() < deadline, "not written");
                // tidy: sleep because another thread writes, and nothing notifies of a file that grows
                thread::sleep(Duration::from_millis(5));
            }
        };
        let entry = Entry::of_malformed(HEAD);
        log.add(&entry, [1, 1, 1, 1].into(), outcome());
        written(&path, 1);
        let rotated = path.with_extension("1");
        std::fs::rename(&path, &rotated).expect("it is rotated");
        // The first one after that may still go to the old file.
        let deadline = Instant::now() + Duration::from_secs(20);
        while lines(&path) == 0 {
            assert!(Instant::now() < deadline, "not opened again");
            log.add(&entry, [1, 1, 1, 1].into(), outcome());
            // tidy: sleep because the writer looks at the file's name only now and then
            thread::sleep(Duration::from_millis(50));
        }
        drop(log);
        std::fs::remove_file(&path).expect("it is there");
        std::fs::remove_file(&rotated).expect("it is there");
    }
}
