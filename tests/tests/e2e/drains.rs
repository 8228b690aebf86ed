//! What draining workers of programs without an agent still have, as the kernel tells it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::place::Place;
use rpm_testkit::{Port, Rpm, skip, wait_until};
use rpm_wire::api::{Other, Phase};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

const BOUND: Duration = Duration::from_secs(30);

/// Answers a connection with its pid, when it was sent a line and there is a file `go`; on a socket that it is passed, or at `PORT`.
const WAITS: &str = r#"
import os, socket, time
if "LISTEN_FDS" in os.environ:
    listener = socket.fromfd(3, socket.AF_INET, socket.SOCK_STREAM)
else:
    listener = socket.socket()
    listener.bind(("127.0.0.1", int(os.environ["PORT"])))
    listener.listen(128)
while True:
    connection, _ = listener.accept()
    while connection.recv(1) not in (b"\n", b""):
        pass
    print("asked", os.getpid(), flush=True)
    while not os.path.exists("go"):
        time.sleep(0.01)
    connection.sendall(str(os.getpid()).encode())
    connection.close()
"#;

/// Seconds; the agents of others have 2 more to close what is left.
const DRAIN_SECONDS: u64 = 60;

/// Starts two such programs, asks one, replaces both, and lets it answer when it has drained for a second. `ask` sends what makes the program answer.
fn who_is_asked_answers(app: impl Fn(&Place, &Port) -> App, ask: impl Fn(&mut TcpStream)) {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    place.write("waits.py", WAITS);
    app(&place, &port)
        .args([
            "--name",
            "web",
            "-i",
            "2",
            "--interpreter",
            "python3",
            "--drain-timeout",
            &format!("{DRAIN_SECONDS}s"),
        ])
        .args(["--cwd".as_ref(), place.path().as_os_str()])
        .start(&rpm);
    let before = rpm.pids("web");
    let mut client = TcpStream::connect(("127.0.0.1", port.number())).expect("a connection");
    client.set_read_timeout(Some(BOUND)).expect("a time");
    ask(&mut client);
    let log = || rpm.ok(["logs", "web", "--nostream"]);
    let log = wait_until("it is asked", BOUND, log, |log| log.contains("asked "));
    let asked = before.iter().find(|pid| log.contains(&format!("asked {pid}")));
    rpm.ok(["reload", "web"]);
    // It drains, and was looked at many times.
    let of_it = || {
        let list = rpm.list();
        let mut others = list.into_iter().flat_map(|process| process.others);
        others.find(|other| Some(&other.pid) == asked)
    };
    let for_a_second = |other: &Option<Other>| {
        let left = other.as_ref().and_then(|other| other.left_ms);
        left.is_none_or(|left| left < (DRAIN_SECONDS + 1) * 1000)
    };
    let other = wait_until("it drains", BOUND, of_it, for_a_second);
    assert_eq!(
        other.map(|other| other.phase),
        Some(Phase::Draining),
        "{}",
        rpm.log()
    );
    place.write("go", "");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert_eq!(Some(answer), asked.map(u32::to_string), "{}", rpm.log());
}

fn send_line(client: &mut TcpStream) {
    client.write_all(b"x\n").expect("it is sent");
}

/// Legal since RFC 793; what `nc -N` does.
#[test]
fn a_client_that_has_sent_everything_gets_its_answer() {
    let app = |place: &Place, port: &Port| App::of([place.path().join("waits.py")]).port(port);
    who_is_asked_answers(app, |client| {
        send_line(client);
        client.shutdown(Shutdown::Write).expect("it is connected");
    });
}

/// Root of a container, who may not look into another user's processes.
#[test]
fn what_the_kernel_does_not_show_is_not_taken_for_nothing() {
    let test = "what_the_kernel_does_not_show_is_not_taken_for_nothing";
    if let Err(error) = remove_capability_from_bounding_set(CapabilitySet::SYS_PTRACE) {
        return skip(test, &format!("only root can give up a capability: {error}"));
    }
    let app = |place: &Place, port: &Port| {
        let listen = format!("127.0.0.1:{port}");
        App::of([place.path().join("waits.py")]).args(["--listen", &listen, "--uid", "nobody"])
    };
    who_is_asked_answers(app, send_line);
}
