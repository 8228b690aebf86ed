//! The log thread: one poller over all pipes, and over what takes them where that may stop taking bytes.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use rpm_sys::epoll::{Poller, Waker};
use tokio::sync::watch;
use tracing::warn;

use super::sink::{Sinks, empty};
use super::stream::Stream;
use super::underway::{Left, Underway, is_transient};
use super::{Order, Source};

/// Read at most this much from one pipe before the others have their turn: the size of a pipe.
const TURN_BYTES: usize = 64 * 1024;
/// A pass for [`Order::Sync`] ends after this many turns of one pipe: its writer is still writing.
const SYNC_TURNS: usize = 16;
const WAKE_TOKEN: u64 = 0;
/// The token of a stream is a multiple of this; those between are of what takes it.
const TOKENS: u64 = 4;

pub(super) struct Drain {
    inbox: Receiver<Order>,
    waker: Arc<Waker>,
    progress: watch::Sender<u64>,
    poller: Poller,
    streams: BTreeMap<u64, Stream>,
    sinks: Sinks,
    next_token: u64,
    buffer: Vec<u8>,
    underway: Underway,
    /// Of the daemon before; its pipe is not taken back yet.
    left: Option<Left>,
    /// When a line is to be written though it has no end.
    due: Option<Instant>,
}

enum Turn {
    Empty,
    Read,
    Ended,
}

impl Drain {
    pub(super) fn new(
        inbox: Receiver<Order>,
        waker: Arc<Waker>,
        progress: watch::Sender<u64>,
        underway: &Path,
    ) -> io::Result<Drain> {
        let poller = Poller::new()?;
        poller.add(waker.as_fd(), WAKE_TOKEN)?;
        let buffer = vec![0; TURN_BYTES];
        let (underway, left) = Underway::open(underway);
        Ok(Drain {
            inbox,
            waker,
            progress,
            poller,
            streams: BTreeMap::new(),
            sinks: Sinks::default(),
            next_token: TOKENS,
            buffer,
            underway,
            left,
            due: None,
        })
    }

    pub(super) fn run(mut self) {
        let mut ready = Vec::new();
        loop {
            ready.clear();
            let left = self.due.map(|due| due.saturating_duration_since(Instant::now()));
            if let Err(error) = self.poller.wait(&mut ready, left) {
                warn!(%error, "the log thread cannot wait for output");
                return;
            }
            // First: who shares a file must be known before what came since is written to it.
            if ready.contains(&WAKE_TOKEN) {
                self.waker.drain();
            }
            if self.obey().is_break() {
                return;
            }
            let mut wrote = self.release_due();
            for token in &ready {
                match *token {
                    WAKE_TOKEN => {}
                    stream if stream.is_multiple_of(TOKENS) => {
                        self.turn(stream);
                        wrote = true;
                    }
                    sink => self.sinks.go_on(sink, &self.poller),
                }
            }
            if wrote {
                self.report();
            }
        }
    }

    fn report(&self) {
        if self.progress.receiver_count() > 0 {
            self.progress.send_modify(|count| *count += 1);
        }
    }

    fn obey(&mut self) -> std::ops::ControlFlow<()> {
        while let Ok(order) = self.inbox.try_recv() {
            match order {
                Order::Add(source) => self.add(source),
                Order::Sync(done) => {
                    self.pass();
                    let _ = done.send(());
                }
                Order::SyncThread(done) => {
                    self.pass();
                    let _ = done.send(());
                }
                Order::Pause(done, resumed) => {
                    self.pass();
                    // Another daemon may go on from here, and knows what is in the files.
                    self.release(|_| true);
                    let _ = done.send(());
                    // An error is what it waits for: the other side is gone.
                    let _ = resumed.recv();
                }
                Order::Reopen => self.sinks.reopen(),
                Order::Flush(files, done) => {
                    self.pass();
                    files.iter().for_each(|(path, behalf)| empty(path, behalf));
                    let _ = done.send(());
                }
                Order::Stop(done) => {
                    self.pass();
                    self.release(|_| true);
                    self.report();
                    let _ = done.send(());
                    return std::ops::ControlFlow::Break(());
                }
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    fn add(&mut self, source: Source) {
        let token = self.next_token;
        self.next_token += TOKENS;
        let mut stream = Stream::new(source, token, &mut self.sinks);
        if let Some(left) = self.left.take_if(|left| left.is_of(&stream.pipe)) {
            stream.complete(&left, &mut self.sinks, &self.poller);
        }
        match self.poller.add(stream.pipe.as_fd(), token) {
            Ok(()) => drop(self.streams.insert(token, stream)),
            Err(error) => {
                warn!(path = stream.name(), %error, "cannot watch a worker's output");
                stream.finish(&mut self.sinks, &self.poller);
            }
        }
    }

    /// Writes what has waited long enough for the end of its line; was there any?
    fn release_due(&mut self) -> bool {
        let now = Instant::now();
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        self.release(|stream| stream.due().is_some_and(|due| due <= now));
        self.due = self.streams.values().filter_map(Stream::due).min();
        true
    }

    fn release(&mut self, which: impl Fn(&Stream) -> bool) {
        for stream in self.streams.values_mut().filter(|stream| which(stream)) {
            stream.release(&mut self.sinks, &self.poller);
        }
    }

    fn pass(&mut self) {
        let tokens: Vec<u64> = self.streams.keys().copied().collect();
        for token in tokens {
            for _ in 0..SYNC_TURNS {
                match self.turn(token) {
                    // Its end comes behind the last bytes.
                    Turn::Read => {}
                    Turn::Empty | Turn::Ended => break,
                }
            }
        }
        self.report();
    }

    fn turn(&mut self, token: u64) -> Turn {
        let Some(stream) = self.streams.get_mut(&token) else {
            return Turn::Ended;
        };
        match self.underway.take(stream, &mut self.sinks, &mut self.buffer) {
            Ok(0) => {}
            Ok(count) => {
                stream.store(&self.buffer[..count], &mut self.sinks, &self.poller);
                self.underway.written();
                for (path, keep) in stream.full(&self.sinks) {
                    self.sinks.rotate(&path, keep);
                }
                self.due = [self.due, stream.due()].into_iter().flatten().min();
                return Turn::Read;
            }
            Err(error) if is_transient(&error) => return Turn::Empty,
            Err(error) => warn!(path = stream.name(), %error, "cannot read a worker's output"),
        }
        if let Some(mut ended) = self.streams.remove(&token) {
            ended.finish(&mut self.sinks, &self.poller);
            let _ = self.poller.remove(ended.pipe.as_fd());
        }
        Turn::Ended
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Limit, LogSink, Source, Style};
    use super::{Path, Poller, Sinks, Stream, Underway};
    use crate::os::behalf::Behalf;
    use std::io::Write as _;

    fn kept(pipe: std::io::PipeReader) -> rpm_keeper::Kept<std::os::fd::OwnedFd> {
        rpm_keeper::Keeper::none().keep(pipe.into(), rpm_keeper::NOBODY)
    }

    #[test]
    fn bytes_arrive_as_they_were_written() {
        let dir = std::env::temp_dir().join(format!("rpm-drain-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("out.log");
        let (read, write) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&read, true).unwrap();
        let sink = LogSink::start(&dir.join("output")).unwrap();
        sink.add(Source {
            pipe: kept(read),
            path: path.clone(),
            also: None,
            style: Style::Raw,
            limit: None,
            behalf: Behalf::default(),
        });
        let long = vec![b'x'; 1 << 20];
        let mut writer = std::fs::File::from(std::os::fd::OwnedFd::from(write));
        writer.write_all(b"part").unwrap();
        writer.write_all(&long).unwrap();
        writer.write_all(b"\xff\xfe\n").unwrap();
        drop(writer);
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(sink.sync());
        let stored = std::fs::read(&path).unwrap();
        assert_eq!(stored.len(), 4 + long.len() + 3);
        assert!(stored.starts_with(b"partxxx") && stored.ends_with(b"x\xff\xfe\n"));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_long_line_is_one_object() {
        let dir = std::env::temp_dir().join(format!("rpm-objects-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("out.log");
        let (read, mut write) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&read, true).unwrap();
        let sink = LogSink::start(&dir.join("output")).unwrap();
        sink.add(Source {
            pipe: kept(read),
            path: path.clone(),
            also: None,
            style: Style::Json {
                app: "web".to_owned(),
                id: 0,
                stream: "out",
                format: None,
            },
            limit: None,
            behalf: Behalf::default(),
        });
        let long = "x".repeat(900_000);
        write.write_all(format!("{long}\nshort\n").as_bytes()).unwrap();
        drop(write);
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(sink.sync());
        let stored = std::fs::read_to_string(&path).unwrap();
        let objects = stored.lines().map(|line| serde_json::from_str(line).unwrap());
        let lengths: Vec<usize> = objects
            .map(|object: serde_json::Value| object["message"].as_str().unwrap().len())
            .collect();
        assert_eq!(lengths, [long.len() + 1, 6]);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    /// A daemon that is killed after it has taken output from a pipe, when so much of it is in the file.
    fn killed_with(written: usize) -> Vec<u8> {
        let dir = std::env::temp_dir().join(format!("rpm-killed-{written}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (path, output) = (dir.join("out.log"), dir.join("output"));
        std::fs::write(&path, "before\n").unwrap();
        let (read, mut write) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&read, true).unwrap();
        let source = |pipe: &std::io::PipeReader| Source {
            pipe: kept(pipe.try_clone().unwrap()),
            path: path.clone(),
            also: None,
            style: Style::Raw,
            limit: None,
            behalf: Behalf::default(),
        };
        write.write_all(b"one\ntwo\n").unwrap();
        {
            let (underway, _) = Underway::open(&output);
            let (mut sinks, poller) = (Sinks::default(), Poller::new().unwrap());
            let mut stream = Stream::new(source(&read), 4, &mut sinks);
            let mut buffer = [0; 100];
            let count = underway.take(&mut stream, &mut sinks, &mut buffer).unwrap();
            stream.store(&buffer[..count.min(written)], &mut sinks, &poller);
        }
        write.write_all(b"three\n").unwrap();
        let sink = LogSink::start(&output).unwrap();
        sink.add(source(&read));
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(sink.sync());
        let stored = std::fs::read(&path).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        stored
    }

    #[test]
    fn what_a_killed_daemon_had_read_is_written_once() {
        for written in [0, 3, 8] {
            let stored = killed_with(written);
            assert_eq!(
                stored, b"before\none\ntwo\nthree\n",
                "{written} bytes were written"
            );
        }
    }

    #[test]
    fn large_files_are_rotated_and_not_a_byte_is_lost() {
        let dir = std::env::temp_dir().join(format!("rpm-rotated-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("out.log");
        let sink = LogSink::start(Path::new("/dev/null")).unwrap();
        // Two writers of one file, as with merged logs.
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let (read, write) = std::io::pipe().unwrap();
                rustix::io::ioctl_fionbio(&read, true).unwrap();
                sink.add(Source {
                    pipe: kept(read),
                    path: path.clone(),
                    also: None,
                    style: Style::Raw,
                    limit: Some(Limit {
                        bytes: 10_000,
                        keep: 100,
                    }),
                    behalf: Behalf::default(),
                });
                std::fs::File::from(std::os::fd::OwnedFd::from(write))
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        for number in 0..5000 {
            for (of, mut writer) in writers.iter().enumerate() {
                writer.write_all(format!("{of} {number}\n").as_bytes()).unwrap();
            }
            if number % 50 == 0 {
                runtime.block_on(sink.sync());
            }
        }
        runtime.block_on(sink.sync());
        let mut files: Vec<_> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            // Not the index of times.
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("out.log"))
            .collect();
        assert!(files.len() > 5, "{files:?}");
        // The highest number is the oldest.
        files.sort_by_key(|path| {
            std::cmp::Reverse(
                path.extension()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .parse::<u32>()
                    .unwrap_or(0),
            )
        });
        let text: String = files
            .iter()
            .map(|path| std::fs::read_to_string(path).unwrap())
            .collect();
        for of in ["0", "1"] {
            let lines = text.lines().filter_map(|line| line.strip_prefix(of));
            let numbers: Vec<usize> = lines.map(|number| number.trim().parse().unwrap()).collect();
            assert_eq!(numbers, (0..5000).collect::<Vec<_>>());
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_full_disk_loses_output_and_nothing_else() {
        let (read, mut write) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&read, true).unwrap();
        let sink = LogSink::start(Path::new("/dev/null")).unwrap();
        sink.add(Source {
            pipe: kept(read),
            path: "/dev/full".into(),
            also: None,
            style: Style::Raw,
            limit: None,
            behalf: Behalf::default(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        // Far more than a pipe holds: the writer would block for ever if the thread stopped reading.
        for _ in 0..64 {
            write.write_all(&[b'y'; 16 * 1024]).unwrap();
        }
        runtime.block_on(sink.sync());
    }

    #[test]
    fn lines_of_several_workers_in_one_file_stay_whole() {
        let dir = std::env::temp_dir().join(format!("rpm-shared-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("out.log");
        let sink = LogSink::start(Path::new("/dev/null")).unwrap();
        let [mut one, mut two] = [0, 1].map(|_| {
            let (read, write) = std::io::pipe().unwrap();
            rustix::io::ioctl_fionbio(&read, true).unwrap();
            sink.add(Source {
                pipe: kept(read),
                path: path.clone(),
                also: None,
                style: Style::Raw,
                limit: None,
                behalf: Behalf::default(),
            });
            write
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let stored = || {
            runtime.block_on(sink.sync());
            std::fs::read_to_string(&path).unwrap()
        };
        one.write_all(b"one begins ").unwrap();
        assert_eq!(stored(), "");
        two.write_all(b"two\ntwo begins ").unwrap();
        assert_eq!(stored(), "two\n");
        one.write_all(b"and ends\n").unwrap();
        assert_eq!(stored(), "two\none begins and ends\n");
        // Not for ever: then it is a line of its own.
        let begun = std::time::Instant::now();
        let mut text = stored();
        while !text.ends_with("two begins ") {
            assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{text:?}");
            std::thread::yield_now();
            text = stored();
        }
        one.write_all(b"one\n").unwrap();
        assert!(stored().ends_with("two begins \none\n"));
        two.write_all(b"last").unwrap();
        drop(two);
        assert!(stored().ends_with("one\nlast"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
