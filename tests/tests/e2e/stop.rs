//! Stopping: clients are refused, and requests in flight are finished.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rpm_e2e::app::App;
use rpm_e2e::ask::printed;
use rpm_e2e::clients::Clients;
use rpm_e2e::site::Site;
use rpm_e2e::steering::Path;
use rpm_testkit::{Answer, Port, Process, Rpm, Status, get, wait_until};

/// Long enough for anything, on a loaded machine.
const BOUND: Duration = Duration::from_secs(20);

/// The file that the request waits for.
fn awaited(rpm: &Rpm) -> PathBuf {
    rpm.home().join("go")
}

fn held(rpm: &Rpm, port: &Port) {
    App::cluster("held.js", "2")
        .args(["--name", "web"])
        .port(port)
        .start(rpm);
}

/// A request that a worker has begun to handle, and finishes when there is the file [`awaited`].
fn under_way(rpm: &Rpm, port: &Port) -> JoinHandle<std::io::Result<Answer>> {
    let (number, path) = (port.number(), format!("/?until={}", awaited(rpm).display()));
    let request = thread::spawn(move || get(number, &path));
    let said = || [0, 1].map(|id| printed(rpm, "web", Some(id))).concat();
    wait_until("a worker has it", BOUND, said, |said| said.contains("held"));
    request
}

fn connect(port: &Port) -> Result<TcpStream, ErrorKind> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port.number())).map_err(|error| error.kind())
}

fn finishes_and_refuses(rpm: &Rpm, command: &str) {
    let port = Port::reserve();
    held(rpm, &port);
    let request = under_way(rpm, &port);
    rpm.ok([command, "web", "--no-wait"]);
    let refused = |outcome: &Result<(), ErrorKind>| *outcome == Err(ErrorKind::ConnectionRefused);
    let _ = wait_until("clients are refused", BOUND, || connect(&port).map(drop), refused);
    assert!(!request.is_finished(), "the request is still under way");
    fs::write(awaited(rpm), "").expect("it is written");
    let answer = request.join().expect("it ends").expect("it is answered");
    assert_eq!(answer.status, 200);
    let gone = |list: &Vec<Process>| list.iter().all(|process| process.status == Status::Stopped);
    wait_until("it is stopped", BOUND, || rpm.list(), gone);
}

#[test]
fn a_request_under_way_is_finished_and_clients_are_refused_meanwhile() {
    for command in ["stop", "delete"] {
        finishes_and_refuses(&Rpm::new(), command);
    }
}

#[test]
fn so_it_is_without_privileges() {
    if let Some(rpm) = Path::Classic.rpm("so_it_is_without_privileges") {
        finishes_and_refuses(&rpm, "stop");
    }
}

#[test]
fn a_hard_stop_does_not_wait() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    held(&rpm, &port);
    let request = under_way(&rpm, &port);
    rpm.ok(["stop", "web", "--hard"]);
    assert!(request.join().expect("it ends").is_err(), "it was cut");
}

#[test]
fn connections_that_are_only_kept_do_not_delay_it() {
    let site = Site::start(Rpm::new(), &rpm_e2e::site::hello(), &["--drain-timeout", "1h"]);
    let mut kept = connect(&site.port).expect("it listens");
    kept.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("sent");
    let mut begin = [0; 12];
    kept.read_exact(&mut begin).expect("an answer");
    let silent = connect(&site.port).expect("it listens");
    site.rpm.ok(["stop", "site"]);
    let mut rest = Vec::new();
    kept.read_to_end(&mut rest).expect("closed in peace");
    drop(silent);
}

#[test]
fn the_programs_own_handler_runs_last_and_can_close_its_server() {
    const APP: &str =
        "const server = require('http').createServer((_, res) => res.end('x')).listen(process.env.PORT);
        process.on('SIGINT', () => { console.log('port', server.address().port);
            server.close((error) => { console.log('closed', error?.code); process.exit(); }); });";
    let site = Site::start(Rpm::new(), APP, &[]);
    site.rpm.ok(["stop", "site"]);
    for process in site.rpm.list() {
        assert_eq!((process.status, process.exit_code), (Status::Stopped, Some(0)));
        let wanted = format!("port {}\nclosed undefined", site.port);
        let log = || fs::read_to_string(&process.out_log).unwrap_or_default();
        wait_until("its output", BOUND, log, |log| log.contains(&wanted));
    }
    site.rpm.ok(["restart", "site"]);
    assert!(get(site.port.number(), "/").is_ok(), "it starts again");
}

#[test]
fn another_app_does_not_notice() {
    let (rpm, port, other) = (Rpm::new(), Port::reserve(), Port::reserve());
    App::cluster("hello.js", "2")
        .args(["--name", "web"])
        .port(&port)
        .start(&rpm);
    App::cluster("hello.js", "2")
        .args(["--name", "other"])
        .port(&other)
        .start(&rpm);
    let clients = Clients::begin(&port, "/", 4);
    for _ in 0..3 {
        clients.wait_ok(50);
        rpm.ok(["stop", "other"]);
        clients.wait_ok(50);
        rpm.ok(["restart", "other"]);
    }
    clients.finish_clean(&rpm);
}

#[test]
fn one_instance_can_be_stopped_and_nothing_is_lost() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("hello.js", "3")
        .args(["--name", "web"])
        .port(&port)
        .start(&rpm);
    let clients = Clients::begin(&port, "/", 4);
    clients.wait_ok(50);
    rpm.ok(["stop", "0"]);
    clients.wait_ok(50);
    rpm.ok(["delete", "1"]);
    clients.wait_ok(50);
    clients.finish_clean(&rpm);
}

/// On a connection that is not HTTP nothing shows whether it is busy, and some last as long as the process.
#[test]
fn connections_that_are_not_http_do_not_hold_it_up() {
    for mode in [&[][..], &["-i", "1"]] {
        let (rpm, port, raw) = (Rpm::new(), Port::reserve(), Port::reserve());
        App::new("internal.js")
            .args(["--name", "web", "--drain-timeout", "10m"])
            .args(mode)
            .port(&port)
            .env("RAW_PORT", &raw)
            .start(&rpm);
        let serves = || get(port.number(), "/").is_ok() && connect(&raw).is_ok();
        wait_until("it serves", BOUND, serves, |serves| *serves);
        let _idle = connect(&raw).expect("it listens");
        let began = Instant::now();
        rpm.ok(["stop", "web"]);
        // They are waited for, for a second; drain_timeout is 10 minutes.
        let took = began.elapsed();
        assert!(
            took < Duration::from_secs(60),
            "{mode:?}: {took:?}\n{}",
            rpm.log()
        );
    }
}
