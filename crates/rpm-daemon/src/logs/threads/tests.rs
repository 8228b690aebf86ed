//! Which thread gets which file, and what becomes of the others when one hangs.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use super::*;
use crate::logs::{ANSWERED_WITHIN, Begin, LogSink, Style};
use crate::os::behalf::Behalf;

/// A home and its log threads; gone when dropped.
struct Scene {
    dir: PathBuf,
    sink: LogSink,
}

impl Scene {
    fn new(name: &str) -> Scene {
        let dir = std::env::temp_dir().join(format!("rpm-threads-{name}-{}", std::process::id()));
        let home = Home::prepare(&dir).unwrap();
        let sink = LogSink::start(&home).unwrap();
        let threads = &sink.threads;
        let mounts = Mounts::with(&[
            (Path::new("/"), Kind::Disk),
            (&threads.places[0].point, Kind::Disk),
            (Path::new("/far"), Kind::Remote),
            (Path::new("/memory"), Kind::Memory),
        ]);
        threads.table().mounts = mounts;
        Scene { dir, sink }
    }

    fn threads(&self) -> &Threads {
        &self.sink.threads
    }

    /// The number of the thread for a mount.
    fn number_for(&self, mount: &str) -> usize {
        let threads = self.threads();
        threads.number_for(&mut threads.table(), mount.into())
    }

    fn choose(&self, paths: &[&str]) -> usize {
        let threads = self.threads();
        threads.choose(&mut threads.table(), paths.iter().map(Path::new))
    }

    fn thread(&self, number: usize) -> Arc<LogThread> {
        self.threads().table().thread(number)
    }

    /// Has a thread hang until what is returned is dropped.
    fn hang(&self, number: usize) -> Sender<()> {
        let (release, held) = mpsc::channel();
        let (reached, blocked) = mpsc::channel();
        let hang = move || {
            reached.send(()).unwrap();
            // An error is what it waits for.
            let _ = held.recv();
        };
        let thread = self.thread(number);
        thread
            .orders
            .give(Order::Act("/hung/file".into(), Box::new(hang)));
        blocked.recv().unwrap();
        release
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.sink.stop(Duration::from_secs(5));
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().build().unwrap().block_on(future)
}

#[test]
fn a_mount_has_one_thread_and_their_number_is_bounded() {
    let scene = Scene::new("bounded");
    let (one, two) = (scene.number_for("/one"), scene.number_for("/two"));
    // Nobody writes to the first mount: its thread gets the second.
    assert_eq!((one, two), (1, 1));
    let _one = scene.threads().claims.claim(Path::new("/two/a.log"), two);
    assert_eq!((scene.number_for("/three"), scene.number_for("/two")), (2, 1));
    let mut claims = Vec::new();
    for number in 2..40 {
        let mount = format!("/mount-{number}");
        let thread = scene.number_for(&mount);
        assert_eq!(thread, number.min(OUTPUTS - 1));
        let path = Path::new(&mount).join("a.log");
        claims.push(scene.threads().claims.claim(&path, thread));
    }
    assert_eq!(scene.threads().all().len(), OUTPUTS);
    assert_eq!(scene.number_for("/two"), 1);
}

#[test]
fn streams_go_where_their_files_are_written_already_or_else_to_the_mount_that_may_hang() {
    let scene = Scene::new("choose");
    let own = scene.dir.join("logs/a.log");
    let own = own.to_str().unwrap();
    for (paths, thread) in [
        (&[own][..], 0),
        (&["/memory/a.log"], 0),
        (&["/far/a.log"], 1),
        (&["/far/a.log", own], 1),
        (&[own, "/far/a.log"], 1),
    ] {
        assert_eq!(scene.choose(paths), thread, "{paths:?}");
    }
    let own_claimed = scene.threads().claims.claim(Path::new(own), 0);
    assert_eq!(
        scene.choose(&[own, "/far/a.log"]),
        0,
        "two threads would write to it"
    );
    drop(own_claimed);
    let _own = scene.threads().claims.claim(Path::new(own), 1);
    assert_eq!(scene.choose(&[own]), 1, "two threads would write to it");
}

#[test]
fn one_that_hangs_is_waited_for_once_and_holds_no_other() {
    let scene = Scene::new("hangs");
    let far = scene.number_for("/far");
    let path = Path::new("/far/b.log");
    let _far = scene.threads().claims.claim(path, far);
    let release = scene.hang(far);
    let own = scene.dir.join("logs/a.log");
    let begun = Instant::now();
    block_on(scene.sink.sync_files([own.as_path()]));
    assert!(begun.elapsed() < ANSWERED_WITHIN, "the other thread answers");
    let stalled = block_on(scene.sink.answers()).unwrap_err();
    assert_eq!(stalled.mount, Path::new("/far"));
    assert!(begun.elapsed() >= ANSWERED_WITHIN);
    assert!(!scene.sink.volume(path).responds() && scene.sink.volume(&own).responds());

    let flush = |path: &Path| vec![(path.to_owned(), Behalf::default())];
    let is_quick = || {
        let begun = Instant::now();
        assert!(block_on(scene.sink.answers()).is_err());
        assert!(block_on(scene.sink.pause()).is_err());
        assert!(block_on(scene.sink.flush(flush(path))).is_err());
        block_on(scene.sink.flush(flush(&own))).unwrap();
        block_on(scene.sink.sync_files([path]));
        scene.sink.sync_files_within([path], ANSWERED_WITHIN);
        begun.elapsed() < ANSWERED_WITHIN
    };
    // Each wait would take that long; but so may a machine that is busy, now and then.
    assert!((0..4).any(|_| is_quick()), "it is not waited for again");

    drop(release);
    let begun = Instant::now();
    let responds = || scene.sink.volume(path).responds();
    while !responds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it answers again");
        thread::yield_now();
    }
    block_on(scene.sink.answers()).unwrap();
    drop(block_on(scene.sink.pause()).unwrap());
}

#[test]
fn a_stream_goes_on_while_the_thread_of_another_mount_hangs() {
    let scene = Scene::new("goes-on");
    let far = scene.number_for("/far");
    let _far = scene.threads().claims.claim(Path::new("/far/b.log"), far);
    let _hung = scene.hang(far);
    let path = scene.dir.join("logs/a.log");
    std::fs::write(&path, "before\n").unwrap();
    let (read, mut write) = io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&read, true).unwrap();
    let begin = scene.sink.begin_of(&path);
    assert_eq!(begin.get(), Some(7));
    scene.sink.add([Source {
        pipe: rpm_keeper::Keeper::none().keep(OwnedFd::from(read), rpm_keeper::NOBODY),
        path: path.clone(),
        also: None,
        style: Style::Raw,
        limit: None,
        behalf: Behalf::default(),
        begin,
    }]);
    // More than the pipe has room for.
    let lines = "a line\n".repeat(100_000);
    write.write_all(lines.as_bytes()).unwrap();
    drop(write);
    block_on(scene.sink.sync_files([path.as_path()]));
    assert_eq!(std::fs::read(&path).unwrap().len(), 7 + lines.len());
    assert_eq!(
        scene.sink.begin_of(Path::new("/far/b.log")).get(),
        None,
        "it is not touched"
    );
}

#[test]
fn a_stream_that_is_taken_says_where_it_begins() {
    let scene = Scene::new("begins");
    let path = scene.dir.join("a.log");
    std::fs::write(&path, "before\n").unwrap();
    let (read, write) = io::pipe().unwrap();
    let begin = Begin::default();
    scene.sink.add([Source {
        pipe: rpm_keeper::Keeper::none().keep(OwnedFd::from(read), rpm_keeper::NOBODY),
        path,
        also: None,
        style: Style::Raw,
        limit: None,
        behalf: Behalf::default(),
        begin: begin.clone(),
    }]);
    drop(write);
    block_on(scene.sink.answers()).unwrap();
    assert_eq!(begin.get(), Some(7));
}
