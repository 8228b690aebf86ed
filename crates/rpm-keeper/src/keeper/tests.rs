//! A keeper and the daemon that uses it, in one process.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::thread::JoinHandle;

use super::*;
use crate::hold::Holder;
use crate::shelf::Shelf;
use crate::socket::listen_at;

const BOUND: Duration = Duration::from_secs(20);

/// A keeper in a thread of its own, and the daemon that started it.
struct World {
    path: PathBuf,
    holder: Option<Holder>,
    thread: Option<JoinHandle<()>>,
}

impl World {
    fn new(name: &str, alone: Duration) -> (World, Keeper) {
        let path = std::env::temp_dir().join(format!("rpm-keeper-{name}-{}", std::process::id()));
        let keeper = Keeper::with(Some(path.clone()));
        let (ours, theirs) = scm::packet_pair().unwrap();
        rustix::io::ioctl_fionbio(&theirs, true).unwrap();
        keeper.lock().link = Some(Arc::new(ours));
        keeper.serve();
        let holder = Some(Holder {
            listener: listen_at(&path).unwrap(),
            link: Some(theirs),
            shelf: Shelf::new(),
            alone,
        });
        let thread = None;
        (World { path, holder, thread }, keeper)
    }

    fn begin(&mut self) {
        let mut holder = self.holder.take().unwrap();
        self.thread = Some(std::thread::spawn(move || while holder.step().unwrap() {}));
    }

    /// The next daemon.
    fn next(&self) -> Keeper {
        let opened = Keeper::open(&self.path);
        assert!(opened.lost.is_none() && opened.started.is_ok(), "{opened:?}");
        opened.keeper.serve();
        opened.keeper
    }

    fn end(mut self) {
        self.thread.take().unwrap().join().unwrap();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Cuts the connection, as if the daemon had been killed.
fn die(keeper: &Keeper) {
    keeper.lock().link = None;
}

fn kept_pipe(keeper: &Keeper, owner: u64) -> (Kept<OwnedFd>, PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    (keeper.keep(reader.into(), owner), writer)
}

fn reads(kept: &Kept<OwnedFd>, mut writer: &PipeWriter) -> bool {
    writer.write_all(b"x").unwrap();
    let mut byte = [0];
    File::from(kept.try_clone().unwrap())
        .read_exact(&mut byte)
        .is_ok()
}

/// True if no process has the read end.
fn is_closed(writer: &PipeWriter) -> bool {
    let mut polled = [rustix::event::PollFd::new(writer, rustix::event::PollFlags::OUT)];
    rustix::event::poll(&mut polled, Some(&rustix::event::Timespec::default())).unwrap();
    polled[0].revents().contains(rustix::event::PollFlags::ERR)
}

fn wait_until(what: &str, is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < BOUND, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn what_was_kept_is_had_back_and_what_was_dropped_is_not() {
    let (mut world, first) = World::new("back", BOUND);
    // More than the socket can buffer while the keeper does not read.
    let pipes: Vec<_> = (0..500).map(|_| kept_pipe(&first, NOBODY)).collect();
    assert!(!first.flush());
    world.begin();
    first.settle(BOUND);
    assert!(first.flush());
    let tokens: Vec<Token> = pipes.iter().map(|(kept, _)| kept.token()).collect();
    let (mut kept, writers): (Vec<_>, Vec<_>) = pipes.into_iter().unzip();
    let dropped = kept.remove(7);
    let dropped_token = dropped.token();
    drop(dropped);
    die(&first);
    // The copies of a process close with it.
    kept.into_iter().for_each(|kept| drop(kept.share()));
    let second = world.next();
    let taken: Vec<_> = tokens.iter().filter_map(|token| second.take(*token)).collect();
    assert_eq!(taken.len(), tokens.len() - 1);
    assert!(!second.has(dropped_token) && second.take(dropped_token).is_none());
    assert!(second.take(tokens[0]).is_none(), "it is taken");
    assert!(reads(&taken[3], &writers[3]) && reads(&taken[498], &writers[499]));
    wait_until("the dropped one is closed", || is_closed(&writers[7]));
    // The third daemon gets what the second has not dropped.
    drop(taken);
    let (last, writer) = kept_pipe(&second, NOBODY);
    let token = last.token();
    second.settle(BOUND);
    die(&second);
    let third = world.next();
    assert!(third.take(tokens[0]).is_none());
    let last = third.take(token).unwrap();
    assert!(reads(&last, &writer));
    third.quit();
    world.end();
}

#[test]
fn without_a_daemon_what_a_process_owned_ends_with_it_and_the_keeper_with_the_last() {
    let (mut world, first) = World::new("owned", Duration::ZERO);
    world.begin();
    let mut children = [0, 1].map(|_| std::process::Command::new("sleep").arg("1000").spawn().unwrap());
    let open = |child: &std::process::Child| Arc::new(PidFd::open(child.id()).unwrap());
    let processes = [
        first.keep_process(open(&children[0]), 5),
        first.keep_process(open(&children[1]), 6),
    ];
    let (mut left, written) = kept_pipe(&first, 5);
    let (mut moved, moved_to) = kept_pipe(&first, 5);
    moved.belongs_to(6);
    first.settle(BOUND);
    die(&first);
    for kept in [&mut left, &mut moved] {
        // The daemon's own copy is gone, too.
        kept.descriptor = Arc::new(File::open("/dev/null").unwrap().into());
    }
    children[0].kill().unwrap();
    wait_until("what it owned is closed", || is_closed(&written));
    assert!(!is_closed(&moved_to), "it was given to another one");
    children[1].kill().unwrap();
    world.end();
    // A thread closes them, and the keeper may end before it does.
    wait_until("what the other one owned is closed", || is_closed(&moved_to));
    children.iter_mut().for_each(|child| drop(child.wait()));
    drop(processes);
}

#[test]
fn what_is_something_else_than_it_should_be_is_let_go() {
    let (mut world, first) = World::new("else", BOUND);
    world.begin();
    let (kept, writer) = kept_pipe(&first, NOBODY);
    let token = kept.token();
    first.settle(BOUND);
    die(&first);
    drop(kept);
    let second = world.next();
    assert!(second.take_as(token, |fd| PidFd::taken_back(fd, 1)).is_none());
    wait_until("it is closed", || is_closed(&writer));
    second.quit();
    world.end();
}

#[test]
fn a_daemon_that_does_not_come_to_serve_leaves_everything_to_the_next() {
    let (mut world, first) = World::new("gives-up", BOUND);
    world.begin();
    let (kept, writer) = kept_pipe(&first, NOBODY);
    let token = kept.token();
    first.settle(BOUND);
    die(&first);
    let second = Keeper::open(&world.path).keeper;
    let taken = second.take(token).unwrap();
    assert!(!second.lets_go());
    // It fails to start, and drops what it has.
    drop(taken);
    let (early, _) = kept_pipe(&second, NOBODY);
    drop(early);
    assert!(second.flush());
    die(&second);
    let third = Keeper::open(&world.path).keeper;
    let taken = third.take(token).unwrap();
    assert!(reads(&taken, &writer));
    third.serve();
    assert!(third.confirm(BOUND).is_ok());
    third.abandon();
    drop(taken);
    let fourth = world.next();
    assert!(fourth.has(token));
    fourth.quit();
    assert!(fourth.has_quit() && fourth.confirm(BOUND).is_err());
    world.end();
    drop(kept);
}

#[test]
fn one_that_keeps_nothing_works() {
    let keeper = Keeper::none();
    let (reader, writer): (PipeReader, PipeWriter) = io::pipe().unwrap();
    let kept = keeper.keep(reader.into(), NOBODY);
    assert!(reads(&kept, &writer) && keeper.flush() && keeper.pid().is_none());
    assert!(keeper.renew().is_err());
    drop(kept);
    assert!(is_closed(&writer));
}
