//! Streams through a log thread.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::parts::HELD_FOR;
use super::super::{Begin, Limit, LogSink, Source, Style};
use super::{Placed, Poller, Sinks, Stream, Underway};
use crate::home::Home;
use crate::os::behalf::Behalf;

const BOUND: Duration = Duration::from_secs(20);

fn started(dir: &Path) -> LogSink {
    LogSink::start(&Home::prepare(dir).unwrap()).unwrap()
}

/// Returns when the contents of the pipes are in the files, however little CPU the log thread gets.
fn answered(sink: &LogSink) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().build().unwrap();
    let begun = Instant::now();
    while let Err(stalled) = runtime.block_on(sink.answers()) {
        assert!(begun.elapsed() < BOUND, "{stalled:?}");
        std::thread::yield_now();
    }
}

fn kept(pipe: std::io::PipeReader) -> rpm_keeper::Kept<std::os::fd::OwnedFd> {
    rpm_keeper::Keeper::none().keep(pipe.into(), rpm_keeper::NOBODY)
}

/// What comes from this pipe goes into this file as it is.
fn source(pipe: std::io::PipeReader, path: &Path) -> Source {
    Source {
        pipe: kept(pipe),
        path: path.to_owned(),
        also: None,
        style: Style::Raw,
        limit: None,
        behalf: Behalf::default(),
        begin: Begin::default(),
    }
}

#[test]
fn bytes_arrive_as_they_were_written() {
    let dir = std::env::temp_dir().join(format!("rpm-drain-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("out.log");
    let (read, write) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&read, true).unwrap();
    let sink = started(&dir);
    sink.add([source(read, &path)]);
    let long = vec![b'x'; 1 << 20];
    let mut writer = std::fs::File::from(std::os::fd::OwnedFd::from(write));
    writer.write_all(b"part").unwrap();
    writer.write_all(&long).unwrap();
    writer.write_all(b"\xff\xfe\n").unwrap();
    drop(writer);
    answered(&sink);
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
    let sink = started(&dir);
    sink.add([Source {
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
        begin: Begin::default(),
    }]);
    let long = "x".repeat(900_000);
    write.write_all(format!("{long}\nshort\n").as_bytes()).unwrap();
    drop(write);
    answered(&sink);
    let stored = std::fs::read_to_string(&path).unwrap();
    let objects = stored.lines().map(|line| serde_json::from_str(line).unwrap());
    let lengths: Vec<usize> = objects
        .map(|object: serde_json::Value| object["message"].as_str().unwrap().len())
        .collect();
    assert_eq!(lengths, [long.len() + 1, 6]);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// A stream of a daemon, which is killed after its log thread of that number has taken output from the pipe, when so much of it is in the
/// file.
struct Killed {
    path: PathBuf,
    pipe: std::io::PipeReader,
}

impl Killed {
    fn new(home: &Home, thread: usize, written: usize) -> Killed {
        let path = home.logs().join(format!("out-{thread}.log"));
        std::fs::write(&path, "before\n").unwrap();
        let (pipe, mut write) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&pipe, true).unwrap();
        let killed = Killed { path, pipe };
        write
            .write_all(format!("one {thread}\ntwo\n").as_bytes())
            .unwrap();
        let (underway, _) = Underway::open(&home.output(thread));
        let (mut sinks, poller) = (Sinks::default(), Poller::new().unwrap());
        let placed = Placed {
            source: killed.source(),
            claims: Vec::new(),
        };
        let mut stream = Stream::new(placed, 4, &mut sinks);
        let mut buffer = [0; 100];
        let count = underway.take(&mut stream, &mut sinks, &mut buffer).unwrap();
        stream.store(&buffer[..count.min(written)], &mut sinks, &poller);
        write.write_all(b"three\n").unwrap();
        killed
    }

    fn source(&self) -> Source {
        source(self.pipe.try_clone().unwrap(), &self.path)
    }
}

#[test]
fn what_a_killed_daemon_had_read_by_any_thread_is_written_once() {
    for written in [0, 3, 10] {
        let dir = std::env::temp_dir().join(format!("rpm-killed-{written}-{}", std::process::id()));
        let home = Home::prepare(&dir).unwrap();
        let all = [0, 1, 7].map(|thread| (thread, Killed::new(&home, thread, written)));
        let sink = LogSink::start(&home).unwrap();
        // Now all of them are on one mount.
        sink.add(all.iter().map(|(_, killed)| killed.source()));
        answered(&sink);
        for (thread, killed) in &all {
            let stored = std::fs::read_to_string(&killed.path).unwrap();
            let expected = format!("before\none {thread}\ntwo\nthree\n");
            assert_eq!(stored, expected, "{written} bytes were written");
            assert_eq!(home.output(*thread).exists(), *thread == 0);
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn large_files_are_rotated_and_not_a_byte_is_lost() {
    let dir = std::env::temp_dir().join(format!("rpm-rotated-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("out.log");
    let sink = started(&dir);
    // Two writers of one file, as with merged logs.
    let writers: Vec<_> = (0..2)
        .map(|_| {
            let (read, write) = std::io::pipe().unwrap();
            rustix::io::ioctl_fionbio(&read, true).unwrap();
            sink.add([Source {
                pipe: kept(read),
                path: path.clone(),
                also: None,
                style: Style::Raw,
                limit: Some(Limit {
                    bytes: 10_000,
                    keep: 100,
                }),
                behalf: Behalf::default(),
                begin: Begin::default(),
            }]);
            std::fs::File::from(std::os::fd::OwnedFd::from(write))
        })
        .collect();
    for number in 0..5000 {
        for (of, mut writer) in writers.iter().enumerate() {
            writer.write_all(format!("{of} {number}\n").as_bytes()).unwrap();
        }
        if number % 50 == 0 {
            answered(&sink);
        }
    }
    answered(&sink);
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
    let dir = std::env::temp_dir().join(format!("rpm-full-{}", std::process::id()));
    let (read, mut write) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&read, true).unwrap();
    let sink = started(&dir);
    sink.add([source(read, Path::new("/dev/full"))]);
    // Far more than a pipe holds: the writer would block for ever if the thread stopped reading.
    for _ in 0..64 {
        write.write_all(&[b'y'; 16 * 1024]).unwrap();
    }
    answered(&sink);
}

#[test]
fn lines_of_several_workers_in_one_file_stay_whole() {
    let dir = std::env::temp_dir().join(format!("rpm-shared-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("out.log");
    let sink = started(&dir);
    let [mut one, mut two] = [0, 1].map(|_| {
        let (read, write) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&read, true).unwrap();
        sink.add([source(read, &path)]);
        write
    });
    let stored = || {
        answered(&sink);
        std::fs::read_to_string(&path).unwrap()
    };
    loop {
        let begun = Instant::now();
        let before = stored();
        one.write_all(b"one begins ").unwrap();
        let begins = stored();
        two.write_all(b"two\ntwo begins ").unwrap();
        let other = stored();
        one.write_all(b"and ends\n").unwrap();
        let ends = stored();
        // After so long a beginning may be a line of its own, rightly.
        if begun.elapsed() < HELD_FOR {
            assert_eq!(begins, before);
            assert_eq!(other, format!("{before}two\n"));
            assert_eq!(ends, format!("{before}two\none begins and ends\n"));
            break;
        }
        two.write_all(b"\n").unwrap();
    }
    // Not for ever: then it is a line of its own.
    let begun = Instant::now();
    let mut text = stored();
    while !text.ends_with("two begins ") {
        assert!(begun.elapsed() < BOUND, "{text:?}");
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
