//! The log thread: one poller over all pipes.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use jiff::Zoned;
use rpm_sys::oneshot::{Poller, Waker};
use tokio::sync::watch;
use tracing::warn;

use super::stamp::Lines;
use super::underway::{Left, Underway, is_transient};
use super::{Limit, Order, Source, aside};
use crate::home::private_file;

/// Read at most this much from one pipe before the others have their turn: the size of a pipe.
const TURN_BYTES: usize = 64 * 1024;
/// A pass for [`Order::Sync`] ends after this many full turns of one pipe: its writer is still writing.
const SYNC_TURNS: usize = 16;
const WAKE_TOKEN: u64 = 0;

pub(super) struct Drain {
    inbox: Receiver<Order>,
    waker: Arc<Waker>,
    progress: watch::Sender<u64>,
    poller: Poller,
    streams: BTreeMap<u64, Stream>,
    next_token: u64,
    buffer: Vec<u8>,
    underway: Underway,
    /// Of the daemon before; its pipe is not taken back yet.
    left: Option<Left>,
}

pub(super) struct Stream {
    pub(super) pipe: File,
    sinks: Vec<Sink>,
    lines: Lines,
    limit: Option<Limit>,
}

/// A file that takes a stream.
struct Sink {
    path: PathBuf,
    file: Option<File>,
    /// Bytes that could not be written since the last success.
    lost: u64,
    /// What was written last ends a line.
    whole: bool,
}

enum Turn {
    Empty,
    Full,
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
            next_token: 1,
            buffer,
            underway,
            left,
        })
    }

    pub(super) fn run(mut self) {
        let mut ready = Vec::new();
        loop {
            ready.clear();
            if let Err(error) = self.poller.wait(&mut ready, None) {
                warn!(%error, "the log thread cannot wait for output");
                return;
            }
            for token in &ready {
                if *token == WAKE_TOKEN {
                    self.waker.drain();
                } else {
                    self.turn(*token);
                }
            }
            if !ready.iter().all(|token| *token == WAKE_TOKEN) {
                self.report();
            }
            if self.obey().is_break() {
                return;
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
                Order::Pause(done, resumed) => {
                    self.pass();
                    let _ = done.send(());
                    // An error is what it waits for: the other side is gone.
                    let _ = resumed.recv();
                }
                Order::Reopen => self.reopen(),
                Order::Flush(files, done) => {
                    self.pass();
                    for path in files {
                        empty(&path);
                    }
                    let _ = done.send(());
                }
                Order::Stop => {
                    self.pass();
                    return std::ops::ControlFlow::Break(());
                }
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    fn add(&mut self, source: Source) {
        let token = self.next_token;
        self.next_token += 1;
        let mut stream = Stream::new(source);
        if let Some(left) = self.left.take_if(|left| left.is_of(&stream.pipe)) {
            stream.complete(&left);
        }
        match self.poller.add(stream.pipe.as_fd(), token) {
            Ok(()) => drop(self.streams.insert(token, stream)),
            Err(error) => warn!(path = stream.name(), %error, "cannot watch a worker's output"),
        }
    }

    fn reopen(&mut self) {
        for sink in self.streams.values_mut().flat_map(|stream| &mut stream.sinks) {
            sink.file = None;
        }
    }

    /// Starts a file anew, for all who write to it.
    fn put_aside(&mut self, path: &Path, keep: u32) {
        if let Err(error) = aside::put_aside(path, keep) {
            warn!(path = %path.display(), %error, "cannot put a log aside; it goes on growing");
        }
        // Who looks for it finds it.
        drop(private_file(path));
        let sinks = self.streams.values_mut().flat_map(|stream| &mut stream.sinks);
        sinks
            .filter(|sink| sink.path == path)
            .for_each(|sink| sink.file = None);
    }

    fn pass(&mut self) {
        let tokens: Vec<u64> = self.streams.keys().copied().collect();
        for token in tokens {
            for _ in 0..SYNC_TURNS {
                match self.turn(token) {
                    Turn::Full => {}
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
        match self.underway.take(stream, &mut self.buffer) {
            Ok(0) => {}
            Ok(count) => {
                stream.store(&self.buffer[..count]);
                self.underway.written();
                let full = stream.full();
                full.iter().for_each(|(path, keep)| self.put_aside(path, *keep));
                return if count == self.buffer.len() {
                    Turn::Full
                } else {
                    Turn::Empty
                };
            }
            Err(error) if is_transient(&error) => return Turn::Empty,
            Err(error) => warn!(path = stream.name(), %error, "cannot read a worker's output"),
        }
        if let Some(mut ended) = self.streams.remove(&token) {
            ended.finish();
            let _ = self.poller.remove(ended.pipe.as_fd());
        }
        Turn::Ended
    }
}

impl Stream {
    fn new(source: Source) -> Stream {
        let sinks = [Some(source.path), source.also].into_iter().flatten();
        let sink = |path: PathBuf| {
            // Who looks for the file finds it, also before the first line. What fails here fails again, and is told then.
            drop(private_file(&path));
            Sink {
                path,
                file: None,
                lost: 0,
                whole: true,
            }
        };
        Stream {
            pipe: File::from(source.pipe),
            sinks: sinks.map(sink).collect(),
            lines: Lines::new(source.style),
            limit: source.limit,
        }
    }

    fn name(&self) -> String {
        let first = self.sinks.first();
        first.map_or_else(String::new, |sink| sink.path.display().to_string())
    }

    fn store(&mut self, bytes: &[u8]) {
        let styled = self.lines.style(bytes, Zoned::now);
        let bytes = styled.as_deref().unwrap_or(bytes);
        self.sinks.iter_mut().for_each(|sink| sink.store(bytes));
    }

    /// How long its files are; `None`: it is none, or cannot be opened.
    pub(super) fn lengths(&mut self) -> impl Iterator<Item = Option<u64>> {
        self.sinks.iter_mut().map(Sink::length)
    }

    /// Writes what a daemon that was killed had read, where it is missing.
    fn complete(&mut self, left: &Left) {
        let styled = self.lines.style(left.bytes(), Zoned::now);
        let bytes = styled.as_deref().unwrap_or(left.bytes());
        for (number, sink) in self.sinks.iter_mut().enumerate() {
            let length = sink.length();
            let lacking = left.lacking(number, length, bytes);
            sink.store(lacking);
        }
    }

    /// The files that have grown too large; at the end of a line, if there is one in time.
    fn full(&self) -> Vec<(PathBuf, u32)> {
        let Some(limit) = self.limit else {
            return Vec::new();
        };
        let too_large = |sink: &&Sink| {
            let meta = sink.file.as_ref().and_then(|file| file.metadata().ok());
            meta.is_some_and(|meta| {
                let due = if sink.whole {
                    limit.bytes
                } else {
                    limit.bytes.saturating_mul(2)
                };
                meta.is_file() && meta.len() >= due
            })
        };
        let full = self.sinks.iter().filter(too_large);
        full.map(|sink| (sink.path.clone(), limit.keep)).collect()
    }

    fn finish(&mut self) {
        let rest = self.lines.finish(Zoned::now);
        if !rest.is_empty() {
            self.sinks.iter_mut().for_each(|sink| sink.store(&rest));
        }
    }
}

/// A file that is not there is empty.
fn empty(path: &Path) {
    let emptied =
        OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|file| match file.metadata()?.is_file() {
                true => file.set_len(0),
                false => Ok(()),
            });
    match emptied {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(path = %path.display(), %error, "cannot empty a log");
        }
        Ok(()) | Err(_) => {}
    }
}

impl Sink {
    /// Writes to the file. What a full disk does not take is dropped and counted, so that the program
    /// goes on; the gap is marked in the file once it takes bytes again.
    fn store(&mut self, bytes: &[u8]) {
        if let Err(error) = self.write(bytes) {
            if self.lost == 0 {
                let path = self.path.display();
                warn!(%path, %error, "output is being lost; free some space or make the file writable");
            }
            self.lost += bytes.len() as u64;
            self.file = None;
        }
    }

    fn open(&mut self) -> io::Result<&mut File> {
        match &mut self.file {
            Some(file) => Ok(file),
            none => Ok(none.insert(private_file(&self.path)?)),
        }
    }

    /// How long its file is; `None`: it is none, or takes nothing: who makes room may replace it.
    fn length(&mut self) -> Option<u64> {
        if self.lost > 0 {
            return None;
        }
        let meta = self.open().and_then(|file| file.metadata()).ok()?;
        meta.is_file().then_some(meta.len())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let lost = self.lost;
        let file = self.open()?;
        if lost > 0 {
            writeln!(file, "\n[rpm: {lost} bytes of output were lost here]")?;
            self.lost = 0;
        }
        self.whole = bytes.is_empty() || bytes.ends_with(b"\n");
        self.open()?.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Limit, LogSink, Source, Style};
    use super::{Path, Stream, Underway};
    use std::io::Write as _;

    #[test]
    fn bytes_arrive_as_they_were_written() {
        let dir = std::env::temp_dir().join(format!("rpm-drain-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("out.log");
        let (read, write) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&read, true).unwrap();
        let sink = LogSink::start(&dir.join("output")).unwrap();
        sink.add(Source {
            pipe: read.into(),
            path: path.clone(),
            also: None,
            style: Style::Raw,
            limit: None,
        });
        let long = vec![b'x'; 1 << 20];
        let mut writer = std::fs::File::from(std::os::fd::OwnedFd::from(write));
        writer.write_all(b"part").unwrap();
        writer.write_all(&long).unwrap();
        writer.write_all(b"\xff\xfe\n").unwrap();
        drop(writer);
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(sink.sync());
        let stored = std::fs::read(&path).unwrap();
        assert_eq!(stored.len(), 4 + long.len() + 3);
        assert!(stored.starts_with(b"partxxx") && stored.ends_with(b"x\xff\xfe\n"));
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
            pipe: pipe.try_clone().unwrap().into(),
            path: path.clone(),
            also: None,
            style: Style::Raw,
            limit: None,
        };
        write.write_all(b"one\ntwo\n").unwrap();
        {
            let (underway, _) = Underway::open(&output);
            let mut stream = Stream::new(source(&read));
            let mut buffer = [0; 100];
            let count = underway.take(&mut stream, &mut buffer).unwrap();
            stream.store(&buffer[..count.min(written)]);
        }
        write.write_all(b"three\n").unwrap();
        let sink = LogSink::start(&output).unwrap();
        sink.add(source(&read));
        tokio::runtime::Builder::new_current_thread()
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
    fn large_files_are_put_aside_and_not_a_byte_is_lost() {
        let dir = std::env::temp_dir().join(format!("rpm-aside-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("out.log");
        let sink = LogSink::start(Path::new("/dev/null")).unwrap();
        // Two writers of one file, as with merged logs.
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let (read, write) = std::io::pipe().unwrap();
                rustix::io::ioctl_fionbio(&read, true).unwrap();
                sink.add(Source {
                    pipe: read.into(),
                    path: path.clone(),
                    also: None,
                    style: Style::Raw,
                    limit: Some(Limit {
                        bytes: 10_000,
                        keep: 100,
                    }),
                });
                std::fs::File::from(std::os::fd::OwnedFd::from(write))
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
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
            pipe: read.into(),
            path: "/dev/full".into(),
            also: None,
            style: Style::Raw,
            limit: None,
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        // Far more than a pipe holds: the writer would block for ever if the thread stopped reading.
        for _ in 0..64 {
            write.write_all(&[b'y'; 16 * 1024]).unwrap();
        }
        runtime.block_on(sink.sync());
    }
}
