//! The daemon dies while it ends workers: the next one continues with that.

use std::cell::RefCell;
use std::fs;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rpm_e2e::app::App;
use rpm_e2e::outside::{freeze, kill, kill_daemon, thaw};
use rpm_e2e::place::Place;
use rpm_e2e::process::signal;
use rpm_testkit::{Port, Process, Rpm, Status, fixture, get, node, wait_until};

/// Long enough for anything, on a loaded machine.
const BOUND: Duration = Duration::from_secs(20);

/// A captured Node program has a request in flight and a client that waits; its daemon dies and it is stopped, in the order of `act`. The
/// request is answered, clients are refused, and no client waits in a queue that is not accepted from.
fn refuses_while_the_daemon_dies(act: impl FnOnce(&Rpm, u32)) {
    let (rpm, port, place) = (Rpm::new(), Port::reserve(), Place::new());
    let start = format!("exec {} {}", node(22).display(), fixture("slow.js").display());
    App::of([place.write("start.sh", &start)])
        .args(["-i", "1", "--name", "web", "--drain-timeout", "60s"])
        .port(&port)
        .start(&rpm);
    // A program that may have no port counts as started after a second.
    let listens = |count: &usize| *count >= 1;
    wait_until("it listens", BOUND, || port.listeners(), listens);
    let worker = rpm.process(0).pid.expect("it runs");
    let number = port.number();
    // On a loaded machine it may take seconds until it is seen in flight.
    let request = std::thread::spawn(move || get(number, "/?ms=6000"));
    let connections = || rpm.process(0).connections;
    wait_until("it is accepted", BOUND, connections, |count| *count == Some(1));
    freeze(worker);
    let connect = || TcpStream::connect(("127.0.0.1", number)).map_err(|error| error.kind());
    let waiting = connect().expect("it listens");
    act(&rpm, worker);
    let began = Instant::now();
    let refused = |outcome: &Result<TcpStream, ErrorKind>| {
        outcome.as_ref().err() == Some(&ErrorKind::ConnectionRefused)
    };
    let _ = wait_until("clients are refused", BOUND, connect, refused);
    let answer = request.join().expect("it ends");
    let answered = answer.as_ref().is_ok_and(|it| it.status == 200);
    assert!(answered, "{answer:?}\n{}", rpm.log());
    rpm.wait_status("web", Status::Stopped);
    // drain_timeout is 60 s.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(40), "{took:?}\n{}", rpm.log());
    drop(waiting);
}

#[test]
fn a_captured_worker_that_was_told_to_refuse_clients_goes_on_with_that() {
    refuses_while_the_daemon_dies(|rpm, worker| {
        rpm.ok(["stop", "web", "--no-wait"]);
        rpm.wait_status("web", Status::Stopping);
        kill_daemon(rpm);
        rpm.wait_status("web", Status::Stopping);
        thaw(worker);
    });
}

#[test]
fn a_captured_worker_that_is_not_back_yet_is_told_to_refuse_clients_when_it_is() {
    refuses_while_the_daemon_dies(|rpm, worker| {
        kill_daemon(rpm);
        rpm.ok(["stop", "web", "--no-wait"]);
        rpm.wait_status("web", Status::Stopping);
        thaw(worker);
    });
}

/// The daemon dies after it terminated a worker and before it stored that, so the stored state is the previous one.
#[test]
fn a_worker_that_was_asked_to_end_is_not_asked_again() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let app = App::cluster("slow.js", "2").args(["--name", "web", "--kill-timeout", "60s"]);
    app.port(&port).env("LINGERS", 1).start(&rpm);
    let list = rpm.list();
    let heard = |name: &str| {
        let count = |process: &Process| {
            let said = fs::read_to_string(&process.out_log).unwrap_or_default();
            said.lines().filter(|line| line.starts_with(name)).count()
        };
        list.iter().map(count).collect::<Vec<_>>()
    };
    let each_once = |counts: &Vec<usize>| *counts == [1, 1];
    rpm.ok(["stop", "web", "--no-wait", "--hard"]);
    // Two states are kept, and the daemon may write others before the workers have printed.
    let before = RefCell::new(None);
    let look = || {
        let is_before = |state: &String| state.contains("\"ending\":false") && state.contains("Stopping");
        let states = ["state.json", "state.json.old"].map(|name| fs::read_to_string(rpm.home().join(name)));
        if let Some(state) = states.into_iter().flatten().find(is_before) {
            *before.borrow_mut() = Some(state);
        }
    };
    let asked = || {
        look();
        heard("sigint")
    };
    wait_until("each is asked", BOUND, asked, each_once);
    kill_daemon(&rpm);
    look();
    let before = before.into_inner().expect("a state from before they were asked");
    fs::write(rpm.home().join("state.json"), before).expect("written");
    rpm.wait_status("web", Status::Stopping);
    // This arrives after whatever the daemon sent before its response.
    for pid in rpm.pids("web") {
        signal(pid, "USR2");
    }
    wait_until("each hears", BOUND, || heard("sigusr2"), each_once);
    assert_eq!(heard("sigint"), [1, 1], "{}", rpm.log());
    for pid in rpm.pids("web") {
        kill(pid);
    }
    rpm.wait_status("web", Status::Stopped);
}
