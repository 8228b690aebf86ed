//! Threads, processes or descriptors are used up for a while: what runs keeps running, what must be possible remains possible, and
//! afterwards everything is.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::ask::workers;
use rpm_e2e::outside::{has_ended, limit};
use rpm_e2e::place::Place;
use rpm_e2e::process::descriptors;
use rpm_testkit::{Port, Process, Rpm, Status, fixture, get, wait_for, wait_until};
use rustix::process::{Resource, getrlimit};

/// Long enough for anything, on a loaded machine.
const BOUND: Duration = Duration::from_secs(20);
/// Runs a program once a file exists.
const GATE: &str = "import os, runpy, time
while not os.path.exists(os.environ['GATE']): time.sleep(0.01)
runpy.run_path(os.environ['APP'], run_name='__main__')
";
/// The system's message without a free thread or process (`EAGAIN`).
const NO_MORE: &str = "Resource temporarily unavailable";

fn daemon(rpm: &Rpm) -> u32 {
    rpm.daemon_pid().expect("a daemon runs")
}

/// How often the daemon could not create a thread or process.
fn denied(rpm: &Rpm) -> usize {
    rpm.log().matches(NO_MORE).count()
}

/// Runs a command that must succeed, and must not wait for ever.
fn prompt(rpm: &Rpm, args: &[&str]) {
    let mut command = rpm.spawn(args);
    let ended = || command.try_wait().expect("it is ours");
    let status = wait_for(&format!("{args:?} ends"), 2 * BOUND, ended);
    assert!(status.success(), "{args:?}: {status}\n{}", rpm.log());
}

/// Limits the threads and processes of an unprivileged daemon's user. With 1 it already has too many. `None`: no limit.
fn limit_threads(rpm: &Rpm, most: Option<u64>) {
    let most = most.or(getrlimit(Resource::Nproc).maximum);
    let most = most.map_or("unlimited".to_owned(), |most| most.to_string());
    // In some containers even root may not do this for another user.
    let set = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "prlimit"])
        .args([format!("--pid={}", daemon(rpm)), format!("--nproc={most}:")])
        .status();
    assert!(set.expect("setpriv runs").success());
}

#[test]
fn workers_that_listen_while_no_thread_can_be_made_are_answered_afterwards() {
    let test = "workers_that_listen_while_no_thread_can_be_made_are_answered_afterwards";
    let Some(rpm) = Rpm::unprivileged(test) else {
        return;
    };
    let (port, place) = (Port::reserve(), Place::new());
    let gate = place.path().join("gate");
    App::of([place.write("app.py", GATE)])
        .args(["-i", "3", "--name", "web", "--no-wait"])
        .port(&port)
        .env("APP", fixture("hello.py").display())
        .env("GATE", gate.display())
        .start(&rpm);
    limit_threads(&rpm, Some(1));
    fs::write(&gate, "").expect("it opens");
    wait_until("nobody is heard", BOUND, || denied(&rpm), |times| *times >= 3);
    assert!(
        rpm.list()
            .iter()
            .all(|process| process.status == Status::Launching)
    );
    limit_threads(&rpm, None);
    rpm.wait_status("web", Status::Online);
    assert_eq!(workers(&port, 3).len(), 3);

    // What is impossible is reported, and what runs keeps running.
    limit_threads(&rpm, Some(1));
    let pids = rpm.pids("web");
    for command in [&["update"][..], &["reload", "web"]] {
        let error = rpm.fails(command);
        assert!(error.contains(NO_MORE), "{command:?}: {error}");
    }
    assert_eq!(rpm.pids("web"), pids);
    assert_eq!(workers(&port, 3).len(), 3);
    limit_threads(&rpm, None);
    rpm.ok(["reload", "web"]);
    rpm.ok(["scale", "web", "4"]);
    assert_eq!(workers(&port, 4).len(), 4);
    rpm.ok(["update"]);
    assert!(!rpm.log().contains("panicked"), "{}", rpm.log());
}

#[test]
fn files_that_cannot_be_watched_for_want_of_a_thread_are_watched_afterwards() {
    let test = "files_that_cannot_be_watched_for_want_of_a_thread_are_watched_afterwards";
    let Some(rpm) = Rpm::unprivileged(test) else {
        return;
    };
    let place = Place::new();
    let watched = place.write("watched", "first");
    App::of(["/bin/sleep".to_owned(), format!("--watch={}", watched.display())])
        .args(["--name", "web", "--", "1000"])
        .start(&rpm);
    // A stopped app is not watched.
    rpm.ok(["stop", "web"]);
    limit_threads(&rpm, Some(1));
    let _ = rpm.run(["start", "web", "--no-wait"]);
    let log = || rpm.log();
    wait_until("it cannot be watched", BOUND, log, |log| {
        log.contains("cannot watch its files yet")
    });
    limit_threads(&rpm, None);
    rpm.wait_status("web", Status::Online);
    let change = || {
        place.write("watched", "changed");
        rpm.log()
    };
    let seen = |log: &String| log.contains("this file has changed");
    wait_until("a change is seen", BOUND, change, seen);
}

/// A connection that the daemon has accepted.
struct Connection(UnixStream);

impl Connection {
    fn new(rpm: &Rpm) -> Connection {
        let stream = UnixStream::connect(rpm.home().join("rpm.sock")).expect("a daemon runs");
        stream.set_read_timeout(Some(BOUND)).expect("a time-out");
        let mut connection = Connection(stream);
        let answer = connection.ask("GET", "/v1/ping", "");
        assert!(answer.contains("pong"), "{answer}");
        connection
    }

    /// Sends a request and reads the response, which is short.
    fn ask(&mut self, method: &str, path: &str, body: &str) -> String {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: rpm\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.0.write_all((head + body).as_bytes()).expect("sent");
        let mut answer = vec![0; 16 * 1024];
        let length = self.0.read(&mut answer).expect("an answer in time");
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }
}

/// Uses up all of the daemon's descriptors but its reserve and `spared` others, so that no number below the limit is free. Descriptors that
/// are freed fill the gaps below the reserve, which matters when it is released.
fn use_up(rpm: &Rpm, spared: u64) -> Vec<Connection> {
    let daemon = daemon(rpm);
    limit(daemon, Resource::Nofile, None);
    let mut fillers = Vec::new();
    loop {
        let (lowest_free, reserve) = numbers(daemon);
        if lowest_free > reserve {
            limit(daemon, Resource::Nofile, Some(lowest_free + spared));
            return fillers;
        }
        fillers.push(Connection::new(rpm));
    }
}

/// The lowest free descriptor number, and the highest number of the reserve, whose descriptors are open on `/dev/null`.
fn numbers(daemon: u32) -> (u64, u64) {
    let held = fs::read_dir(format!("/proc/{daemon}/fd")).expect("it runs");
    let held: BTreeMap<u64, PathBuf> = held
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?))
        })
        .collect();
    let lowest_free = (0..).find(|number| !held.contains_key(number));
    let reserve = held
        .iter()
        .rfind(|(_, target)| target.as_path() == "/dev/null")
        .map(|(number, _)| *number);
    (lowest_free.expect("some are free"), reserve.expect("a reserve"))
}

#[test]
fn with_all_descriptors_in_use_apps_are_ended() {
    let rpm = Rpm::new();
    let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
    // Each worker has two processes, which are signalled together.
    let tree = format!("python3 {}; true", fixture("hello.py").display());
    for (name, port) in ["first", "second", "third"].iter().zip(&ports) {
        // Whoever is killed after that was not asked: it is longer than anything here waits.
        let app = App::of([&tree]).args(["-i", "2", "--name", name, "--kill-timeout", "60s"]);
        app.port(port).start(&rpm);
    }
    let pids = [rpm.pids("first"), rpm.pids("second")].concat();
    let mut connection = Connection::new(&rpm);
    let few = descriptors(daemon(&rpm));
    // The daemon notices some time later that its clients are gone.
    let leave = |fillers: Vec<Connection>| {
        drop(fillers);
        let left = || descriptors(daemon(&rpm));
        wait_until("they have left", BOUND, left, |left| *left <= few);
    };
    let fillers = use_up(&rpm, 0);
    // The daemon knows this one already, and no descriptor is left for its processes.
    let order = r#"{"action":"delete","targets":["first"],"wait":true}"#;
    let answer = connection.ask("POST", "/v1/actions", order);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}\n{}", rpm.log());
    // One is left besides that of the command, which is not enough.
    leave(fillers);
    let fillers = use_up(&rpm, 2);
    prompt(&rpm, &["delete", "second"]);
    let list = rpm.list();
    assert!(
        list.len() == 2 && list.iter().all(|process| process.name == "third"),
        "{list:#?}"
    );
    assert!(pids.iter().all(|pid| has_ended(*pid)), "{pids:?}");
    let log = || rpm.log();
    assert!(
        !log().contains("exit=Signal(9)"),
        "each was asked to end: {}",
        log()
    );
    assert!(get(ports[2].number(), "/").is_ok(), "it serves on");
    // When the reserve is used up, too, the daemon waits until a client leaves, without a busy loop.
    leave(fillers);
    let fillers = use_up(&rpm, 0);
    let socket = rpm.home().join("rpm.sock");
    let connect = |_| UnixStream::connect(&socket).expect("it listens");
    let more: Vec<UnixStream> = (0..64).map(connect).collect();
    let says = |log: &String| log.contains("cannot accept a request");
    wait_until("it says so", BOUND, log, says);
    drop((fillers, more));
    prompt(&rpm, &["list"]);
    limit(daemon(&rpm), Resource::Nofile, None);
    rpm.ok(["reload", "third"]);
}

/// Sends a first request on a connection.
fn is_answered(client: &mut TcpStream) {
    client.set_read_timeout(Some(BOUND)).expect("a time-out");
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("sent");
    let mut begin = [0; 12];
    client.read_exact(&mut begin).expect("an answer");
    assert_eq!(&begin, b"HTTP/1.1 200");
}

#[test]
fn clients_of_the_proxy_leave_descriptors_for_everything_else() {
    /// Enough for the daemon and two apps.
    const LIMIT: u64 = 256;
    let (rpm, front, port) = (Rpm::new(), Port::reserve(), Port::reserve());
    assert!(rpm.list().is_empty(), "a daemon runs");
    limit(daemon(&rpm), Resource::Nofile, Some(LIMIT));
    // The clients say nothing until the end, however long that takes.
    let app = App::cluster("hello.js", "2").args([
        "--name",
        "front",
        "--balance",
        "proxy",
        "--header-timeout",
        "5m",
    ]);
    app.port(&front).start(&rpm);
    let app = App::cluster("hello.js", "2").args(["--name", "other"]);
    app.port(&port).start(&rpm);
    let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, front.number())).expect("it listens");
    let mut idle: Vec<TcpStream> = (0..LIMIT + 64).map(|_| connect()).collect();
    let many = |count: &usize| *count as u64 >= LIMIT * 3 / 4;
    wait_until("clients have many", BOUND, || descriptors(daemon(&rpm)), many);
    prompt(&rpm, &["list"]);
    prompt(&rpm, &["reload", "other"]);
    prompt(&rpm, &["scale", "other", "3"]);
    assert_eq!(workers(&port, 3).len(), 3);
    prompt(&rpm, &["delete", "other"]);
    prompt(&rpm, &["reload", "front"]);
    // A client that was accepted is served; one that was not is served once there is room.
    is_answered(&mut idle[0]);
    let mut last = idle.pop().expect("many");
    drop(idle);
    is_answered(&mut last);
    let all = |list: &Vec<Process>| list.iter().all(|process| process.status == Status::Online);
    wait_until("all is well", BOUND, || rpm.list(), all);
}
