//! Whatever a worker or another process of its user sends to the daemon, and however fast: others are served, and the daemon stays small.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rpm_e2e::app::App;
use rpm_e2e::ask::{BOUND, follower, printed};
use rpm_e2e::complaint::assert_says;
use rpm_e2e::place::Place;
use rpm_e2e::process::own_bytes;
use rpm_testkit::{Port, Rpm, wait_until};

/// A daemon that does not serve others takes longer, or for ever, and does so most of the time. One that does takes milliseconds on an idle
/// machine.
const HEARD_WITHIN: Duration = Duration::from_secs(2);
/// No single time is longer, even if the machine gave the daemon no CPU for a while. What it must not wait for takes 30 s, or has no end.
const HEARD_AT_ALL_WITHIN: Duration = Duration::from_secs(12);
/// Requests sent in the meantime.
const ASKED: usize = 20;
/// Bound for the daemon's own memory, with a few workers.
const BYTES: u64 = 32 << 20;
/// Bound for its descriptors. For each of the 256 listeners that a worker may have: the socket, its copy in a response that the worker does
/// not read, and the steering program with two tables. And some for everything else.
const DESCRIPTORS: usize = 256 * 5 + 100;
/// Bound for the daemon's log: one line per second for each kind of complaint.
const LOG_BYTES: usize = 64 << 10;

/// Checks that others are served.
fn is_heard(rpm: &Rpm, while_what: &str) {
    let mut times: Vec<Duration> = (0..ASKED)
        .map(|_| {
            let began = Instant::now();
            for path in ["/v1/ping", "/v1/processes"] {
                let answer = rpm.api("GET", path, "");
                assert_eq!(answer.status, 200, "{while_what}: {answer:?}");
            }
            began.elapsed()
        })
        .collect();
    times.sort();
    println!(
        "{while_what}: median {:?}, longest {:?}",
        times[ASKED / 2],
        times[ASKED - 1]
    );
    assert!(times[ASKED / 2] < HEARD_WITHIN, "{while_what}: {times:?}");
    assert!(times[ASKED - 1] < HEARD_AT_ALL_WITHIN, "{while_what}: {times:?}");
}

fn is_small(rpm: &Rpm, while_what: &str) {
    let bytes = own_bytes(rpm.daemon_pid().expect("it runs"));
    println!("{while_what}: {} KiB", bytes >> 10);
    assert!(bytes < BYTES, "{while_what}: {bytes} bytes");
    let log = rpm.log();
    let last: Vec<&str> = log.lines().rev().take(20).collect();
    assert!(
        log.len() < LOG_BYTES,
        "{while_what}: {} bytes of log, the last of it: {last:#?}",
        log.len()
    );
}

fn descriptors(rpm: &Rpm) -> usize {
    let pid = rpm.daemon_pid().expect("it runs");
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("it is ours")
        .count()
}

/// Runs workers that each send only one of these.
fn floods(all: &[&str]) {
    let rpm = Rpm::new();
    for flood in all {
        App::cluster("floods.js", "1")
            .args(["--name", flood, "--no-wait"])
            .env("FLOOD", flood)
            .start(&rpm);
        let id = rpm.list()[0].id;
        let said = || printed(&rpm, flood, Some(id));
        wait_until("it floods", BOUND, said, |said| said.contains("flooding"));
        is_heard(&rpm, flood);
        is_small(&rpm, flood);
        assert!(descriptors(&rpm) < DESCRIPTORS, "{flood}: {}", descriptors(&rpm));
        rpm.ok(["delete", flood, "--hard"]);
    }
}

#[test]
fn a_channel_full_of_lines_keeps_nobody_waiting() {
    floods(&["lines", "messages", "refusals", "long", "fds"]);
}

#[test]
fn a_channel_full_of_requests_keeps_nobody_waiting() {
    floods(&["handles", "ready", "leaving", "listening", "closing", "asking"]);
}

#[test]
fn messages_that_a_client_follows_and_does_not_read_are_dropped_and_counted() {
    /// More than the 4 MiB that wait for a client, and what is in socket buffers.
    const SENT: usize = 6 << 20;
    let rpm = Rpm::new();
    App::cluster("floods.js", "1")
        .args(["--name", "flood", "--no-wait"])
        .env("FLOOD", "messages")
        .start(&rpm);
    let (mut reads, stuck) = (follower(&rpm, "/v1/messages"), follower(&rpm, "/v1/messages"));
    let (mut buffer, mut sent) = (vec![0; 1 << 20], 0);
    while sent < SENT {
        let upto = (sent + buffer.len()).min(SENT);
        while sent < upto {
            sent += reads.read(&mut buffer).expect("messages");
        }
        is_heard(&rpm, "messages that are not read");
        is_small(&rpm, "messages that are not read");
    }
    let mut read = 0;
    let counted = BufReader::new(stuck)
        .lines()
        .map(|line| line.expect("a line"))
        .find(|line| {
            read += line.len();
            line.starts_with("{\"lost\":") || read > SENT
        });
    assert!(counted.is_some() && read <= SENT, "it has all of {read} bytes");
    rpm.ok(["delete", "flood", "--hard"]);
}

#[test]
fn descriptors_that_take_long_to_close_keep_nobody_waiting() {
    floods(&["lingering"]);
}

/// Descriptors in messages that the daemon does not read are closed with the queue.
#[test]
fn nor_do_such_that_it_has_not_read() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let script = place.write(
        "lingers.py",
        "import array, os, socket, struct, threading, time
silent = socket.create_server(('127.0.0.1', 0), backlog=512)
def lingering():
    client = socket.create_connection(silent.getsockname())
    client.setblocking(False)
    try:
        while True: client.send(b'x' * 65536)
    except BlockingIOError: pass
    client.setblocking(True)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 30))
    return client
def send(to, bytes):
    client = lingering()
    try: to.sendmsg([bytes], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [client.fileno()]))])
    except OSError as error:
        print(error)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    # If the daemon has closed its own already this one is the last, and it is the script that lingers.
    closing = threading.Thread(target=client.close, daemon=True)
    closing.start()
    closing.join(2)
send(socket.socket(fileno=os.dup(0)), b'x')
agents = socket.socket(socket.AF_UNIX)
agents.connect(os.environ['AGENTS'])
send(agents, b'{\"hello\":{\"token\":\"nope\",\"pid\":1}}\\n')
send(agents, b'more')
print('sent', flush=True)
time.sleep(1000)
",
    );
    let agents = rpm.home().join("agent.sock");
    App::of([script])
        .args(["--name", "lingers"])
        .env("AGENTS", agents.display())
        .start(&rpm);
    wait_until(
        "it has sent them",
        BOUND,
        || printed(&rpm, "lingers", None),
        |said| said.contains("sent"),
    );
    is_heard(&rpm, "unread descriptors");
    rpm.ok(["delete", "lingers", "--hard"]);
    is_heard(&rpm, "unread descriptors of the dead");
}

/// A worker that opens a port per customer without limit gets the error that it would get at the descriptor limit.
#[test]
fn a_worker_has_so_many_listeners_and_then_the_error_that_node_knows() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let script = place.write(
        "many.js",
        "const net = require('net');
         const ends = {};
         let open = 0;
         const done = (how) => {
             ends[how] = (ends[how] ?? 0) + 1;
             if (++open === 300) console.log(JSON.stringify(ends));
         };
         for (let i = 0; i < 300; i++) {
             const server = net.createServer();
             server.on('error', (error) => done(error.code)).listen(0, '127.0.0.1', () => done('listening'));
         }",
    );
    let began = Instant::now();
    App::of([script])
        .node(22)
        .args(["-i", "1", "--name", "many"])
        .start(&rpm);
    let said = || printed(&rpm, "many", Some(0));
    // With all that belongs to a listener they take some 8 s beside other tests.
    let said = wait_until("all have an end", 3 * BOUND, said, |said| said.contains('}'));
    assert_eq!(said, "{\"listening\":256,\"EMFILE\":44}\n");
    is_heard(&rpm, "listeners");
    let told = rpm.log().matches("a worker gets no further listener").count();
    // One a second, of 44.
    let most = 2 + began.elapsed().as_secs();
    assert!(
        (1..=most).contains(&(told as u64)),
        "{told} lines:\n{}",
        rpm.log()
    );
    // It can reopen what it closes.
    rpm.ok(["delete", "many"]);
    wait_until(
        "they are closed",
        3 * BOUND,
        || descriptors(&rpm),
        |now| *now < 100,
    );
}

/// Any process with the user's rights can connect to the agents' socket.
#[test]
fn strangers_at_the_socket_of_the_agents_are_closed_and_take_no_descriptors() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("hello.js", "2")
        .args(["--name", "web"])
        .port(&port)
        .start(&rpm);
    let before = descriptors(&rpm);
    let connect = || {
        let stream = UnixStream::connect(rpm.home().join("agent.sock")).expect("it listens");
        stream.set_read_timeout(Some(BOUND)).expect("a socket");
        stream
    };
    for _ in 0..300 {
        let mut stream = connect();
        let hello = b"{\"hello\":{\"token\":\"nope\",\"pid\":1,\"counts\":true}}\n";
        stream.write_all(hello).expect("it is read");
        assert_eq!(stream.read(&mut [0]).expect("its end"), 0, "it is closed");
    }
    let _silent: Vec<UnixStream> = (0..300).map(|_| connect()).collect();
    is_heard(&rpm, "strangers");
    let now = descriptors(&rpm);
    assert!(now <= before + 80, "{now} descriptors, {before} before");
    is_small(&rpm, "strangers");
    // Agents of new workers are accepted once the strangers' time is over.
    rpm.ok(["reload", "web", "--wait"]);
}

/// The worker has the daemon's end of its standard input, and can make it blocking.
#[test]
fn what_is_sent_to_a_worker_that_does_not_read_keeps_nobody_waiting() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let script = place.write(
        "waits.py",
        "import fcntl, os, time
for number in range(3, 40):
    try:
        if os.readlink(f'/proc/self/fd/{number}').startswith('socket:'):
            fcntl.fcntl(number, fcntl.F_SETFL, fcntl.fcntl(number, fcntl.F_GETFL) & ~os.O_NONBLOCK)
    except OSError: pass
print('blocking', flush=True)
time.sleep(1000)
",
    );
    App::of([script]).args(["--name", "deaf"]).start(&rpm);
    wait_until(
        "it has",
        BOUND,
        || printed(&rpm, "deaf", None),
        |said| said.contains("blocking"),
    );
    let line = "x".repeat(100_000);
    let send = || rpm.run(["send", "deaf", &line]);
    let refused = wait_until("it is full", BOUND, send, |ran| ran.code != Some(0));
    assert_says(&refused, &["does not read its standard input"]);
    is_heard(&rpm, "standard input");
}

/// From as many threads as it likes, each of which waits for its answer.
#[test]
fn calls_without_end_keep_nobody_waiting() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let script = place.write(
        "calls.py",
        "import socket, threading
def storm():
    while True:
        one = socket.socket()
        try: one.bind(('127.0.0.1', 0))
        except OSError: pass
        one.close()
for _ in range(64): threading.Thread(target=storm).start()
print('calling', flush=True)
",
    );
    App::of([script])
        .args(["--name", "calls", "-i", "1", "--no-wait"])
        .start(&rpm);
    wait_until(
        "it calls",
        BOUND,
        || printed(&rpm, "calls", Some(0)),
        |said| said.contains("calling"),
    );
    is_heard(&rpm, "calls");
    is_small(&rpm, "calls");
    rpm.ok(["delete", "calls", "--hard"]);
}
