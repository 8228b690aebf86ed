//! The daemon is killed, and no client notices: its workers keep serving, and the next daemon takes them back.

use std::fs;
use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter, Write as _};
use std::net::TcpStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::Command;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::clients::Clients;
use rpm_e2e::outside::{has_ended, kill, kill_daemon, voluntary_switches};
use rpm_e2e::place::Place;
use rpm_e2e::process::{catches_interrupt, signal};
use rpm_e2e::raw::Connection;
use rpm_e2e::site::{Site, hello};
use rpm_e2e::steering::Path;
use rpm_testkit::{Outcome, Phase, Port, Process, Rpm, Status, fixture, get, skip, wait_until};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process_group};

/// Long enough for anything, on a loaded machine.
const BOUND: Duration = Duration::from_secs(20);
/// Clients of each kind.
const CLIENTS: usize = 4;
/// Responses between two events.
const SOME: u64 = 50;

/// The facts that must not change.
fn facts(list: &[Process]) -> Vec<(u32, Option<u32>, u32, u32, Status)> {
    let facts = |it: &Process| (it.id, it.pid, it.restarts, it.generation, it.status);
    list.iter().map(facts).collect()
}

fn all_gone(list: &[Process]) -> bool {
    list.iter().all(|process| process.others.is_empty())
}

/// Kills the daemon under load, lets the next one take over, and then does everything that can be done with the workers.
fn taken_over(rpm: &Rpm, app: &App, port: &Port) {
    app.start(rpm);
    let clients = Clients::begin(port, "/", CLIENTS);
    clients.wait_ok(SOME);
    let before = rpm.list();
    kill_daemon(rpm);
    clients.wait_ok(SOME);
    assert_eq!(facts(&rpm.list()), facts(&before), "{}", rpm.log());
    clients.wait_ok(SOME);
    rpm.ok(["reload", "web", "--wait"]);
    let after = rpm.list();
    assert!(
        after
            .iter()
            .zip(&before)
            .all(|(new, old)| new.pid != old.pid && new.restarts == old.restarts + 1)
    );
    clients.wait_ok(SOME);
    rpm.ok(["scale", "web", "3"]);
    rpm.ok(["scale", "web", "2"]);
    wait_until(
        "the surplus is gone",
        BOUND,
        || rpm.list(),
        |list| list.len() == 2 && all_gone(list),
    );
    clients.wait_ok(SOME);
    clients.finish_clean(rpm);
}

fn web(name: &str, port: &Port) -> App {
    App::cluster(name, "2").args(["--name", "web"]).port(port)
}

#[test]
fn workers_serve_on_and_are_taken_back() {
    for node in [20, 24] {
        let (rpm, port) = (Rpm::new(), Port::reserve());
        taken_over(&rpm, &web("hello.js", &port).node(node), &port);
    }
}

#[test]
fn workers_serve_on_and_are_taken_back_without_privileges() {
    let test = "workers_serve_on_and_are_taken_back_without_privileges";
    if let Some(rpm) = Path::Classic.rpm(test) {
        let port = Port::reserve();
        taken_over(&rpm, &web("hello.js", &port), &port);
    }
}

#[test]
fn a_program_that_was_passed_its_socket_is_taken_back() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let address = format!("127.0.0.1:{}", port.number());
    let app = App::cluster("listen-fds.py", "2").args(["--name", "web", "--listen", &address]);
    taken_over(&rpm, &app, &port);
}

#[test]
fn it_may_die_again_and_again() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("hello.js", &port).start(&rpm);
    let clients = Clients::begin(&port, "/", CLIENTS);
    let before = facts(&rpm.list());
    for _ in 0..4 {
        clients.wait_ok(SOME);
        kill_daemon(&rpm);
        assert_eq!(facts(&rpm.list()), before, "{}", rpm.log());
    }
    rpm.ok(["reload", "web"]);
    clients.wait_ok(SOME);
    clients.finish_clean(&rpm);
}

/// A killed process holds its files until the last of its threads has ended, and refuses clients before that.
#[test]
fn who_starts_the_next_daemon_waits_for_what_the_last_one_still_holds() {
    let rpm = Rpm::new();
    let held = fs::File::create(rpm.home().join("rpm.pid")).expect("a file");
    held.lock().expect("nobody has it");
    let mut ping = rpm.spawn(["ping"]);
    let children = format!("/proc/{0}/task/{0}/children", ping.id());
    let daemon = || fs::read_to_string(&children).unwrap_or_default();
    let daemon = wait_until("a daemon is started", BOUND, daemon, |pids| !pids.is_empty());
    let daemon: u32 = daemon.trim().parse().expect("one child");
    let looked = || voluntary_switches(daemon).values().sum::<u64>();
    wait_until("it looks at the file again and again", BOUND, looked, |times| {
        *times > 20
    });
    assert_eq!(ping.try_wait().expect("it is ours"), None);
    drop(held);
    assert!(ping.wait().expect("it ends").success(), "{}", rpm.log());
}

/// A pipe that accepts nothing until it is read.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    fcntl_setfl(&writer, OFlags::NONBLOCK).expect("it does not wait");
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).expect("it waits");
    (reader, writer)
}

/// A Ctrl-C for the command that starts the next daemon, at the last moment of that start.
#[test]
fn an_interrupt_while_the_next_daemon_starts_is_not_for_the_apps() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("hello.js", &port).start(&rpm);
    let before = facts(&rpm.list());
    kill_daemon(&rpm);
    // A terminal interrupts a whole process group.
    let mut leader = Command::new("sleep")
        .arg("1000")
        .process_group(0)
        .spawn()
        .expect("sleep runs");
    let group = Pid::from_child(&leader);
    // The daemon handles signals, and then waits until it can report that it is ready.
    let (reader, writer) = full_pipe();
    let mut next = rpm.command(["daemon"]);
    next.process_group(group.as_raw_nonzero().get()).stdout(writer);
    let daemon = next.spawn().expect("rpm runs").id();
    drop(next);
    let catches = || catches_interrupt(daemon);
    wait_until("it obeys signals", BOUND, catches, |catches| *catches);
    kill_process_group(group, Signal::INT).expect("it is there");
    let ended = leader.wait().expect("it is ours");
    assert_eq!(ended.signal(), Some(Signal::INT.as_raw()));
    let said = BufReader::new(reader)
        .lines()
        .map_while(Result::ok)
        .find(|line| !line.is_empty());
    assert_eq!(said.as_deref(), Some("ready"));
    assert_eq!(facts(&rpm.list()), before, "{}", rpm.log());
    assert_eq!(rpm.daemon_pid(), Some(daemon), "{}", rpm.log());
}

#[test]
fn a_worker_that_dies_meanwhile_is_replaced_by_the_next_daemon() {
    for path in [Path::Ebpf, Path::Classic] {
        let Some(rpm) = path.rpm("a_worker_that_dies_meanwhile_is_replaced_by_the_next_daemon") else {
            continue;
        };
        let port = Port::reserve();
        web("hello.js", &port).start(&rpm);
        let before = rpm.pids("web");
        kill_daemon(&rpm);
        kill(before[1]);
        let list = || rpm.list();
        let replaced = |list: &Vec<Process>| {
            list.iter().all(|process| process.status == Status::Online) && list[1].pid != Some(before[1])
        };
        wait_until("it is replaced", BOUND, list, replaced);
        assert_eq!(rpm.process(0).pid, Some(before[0]), "the other one serves on");
        assert_eq!(rpm.process(1).restarts, 1);
        let clients = Clients::begin(&port, "/", CLIENTS);
        clients.wait_ok(SOME);
        rpm.ok(["reload", "web"]);
        clients.wait_ok(SOME);
        clients.finish_clean(&rpm);
    }
}

#[test]
fn a_worker_that_was_taken_back_is_replaced_when_it_crashes() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("hello.js", &port).start(&rpm);
    kill_daemon(&rpm);
    let victim = rpm.process(0).pid.expect("it runs");
    kill(victim);
    let one = || rpm.process(0);
    let replaced = |it: &Process| it.status == Status::Online && it.pid != Some(victim);
    let now = wait_until("it is replaced", BOUND, one, replaced);
    assert_eq!((now.restarts, now.exit_code), (1, Some(137)), "{now:?}");
    assert!(get(port.number(), "/").is_ok());
}

#[test]
fn a_worker_that_has_just_become_ready_is_taken_back() {
    const TIMES: usize = 8;
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("hello.js", &port).start(&rpm);
    for _ in 0..TIMES {
        let victim = rpm.process(1).pid.expect("it runs");
        kill(victim);
        let replaced = |it: &Process| it.status == Status::Online && it.pid.is_some_and(|pid| pid != victim);
        let before = wait_until("a replacement", BOUND, || rpm.process(1), replaced);
        kill_daemon(&rpm);
        let after = rpm.process(1);
        assert_eq!(after.pid, before.pid, "{}", rpm.log());
        // Resets the back-off: the next crash must not wait longer than this one.
        rpm.ok(["reset", "web"]);
    }
}

/// Requests in flight through the proxy end with the daemon; later clients wait for the next one.
#[test]
fn clients_of_the_proxy_wait_for_the_next_daemon() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let app = App::cluster("hello.js", "2").args(["--name", "web", "--balance", "proxy"]);
    app.port(&port).start(&rpm);
    let clients = Clients::begin(&port, "/", CLIENTS);
    clients.wait_ok(SOME);
    for round in 0..3 {
        if round == 2 {
            // New workers get the sockets.
            rpm.ok(["reload", "web", "--wait"]);
            clients.wait_ok(SOME);
        }
        let before = rpm.pids("web");
        kill_daemon(&rpm);
        let waiting = TcpStream::connect(("127.0.0.1", port.number()));
        assert!(waiting.is_ok(), "{waiting:?}");
        assert_eq!(rpm.pids("web"), before, "{}", rpm.log());
        clients.wait_ok(SOME);
    }
    let cut = [Outcome::ResetFresh, Outcome::ResetReused, Outcome::Truncated];
    for (kind, report) in clients.finish() {
        // One request of each client at each death, and no client is refused.
        let allowed = report.outcomes.check_allowing(&cut).is_ok();
        let met = allowed && report.outcomes.failures() <= 3 * CLIENTS as u64;
        assert!(met, "{}: {report}\n{}", kind.as_str(), rpm.log());
    }
    rpm.ok(["delete", "web"]);
    let refused = TcpStream::connect(("127.0.0.1", port.number()));
    assert!(refused.is_err(), "nobody listens any more");
}

#[test]
fn lines_are_neither_lost_nor_doubled() {
    // 4,000 lines after each request at most: what some requests bring fits into a pipe, however long no daemon reads it.
    const NOISY: &str = "let [n, left] = [0, 4000];
        setInterval(() => { for (let i = 0; i < 9 && left > 0; i++, left--) console.log(`line ${n++}`) }, 1);
        require('node:http').createServer((req, res) => { left = 4000; res.end(); }).listen(+process.env.PORT, '127.0.0.1');";
    const DEATHS: usize = 8;
    let site = Site::start(Rpm::new(), NOISY, &[]);
    let log = site.rpm.process(0).out_log;
    let read = || fs::read_to_string(&log).unwrap_or_default();
    let lines = |text: &String| text.lines().count();
    wait_until("it prints", BOUND, read, |text| lines(text) > 20);
    for _ in 0..DEATHS {
        kill_daemon(&site.rpm);
        let then = lines(&read());
        // What it prints while no daemon reads is in the pipe.
        let serves = || get(site.port.number(), "/").is_ok();
        assert!(serves(), "it serves on");
        let _ = site.rpm.list();
        // Each request lets one of the workers print more.
        let more = || {
            assert!(serves(), "it serves on");
            read()
        };
        let text = wait_until("it prints on", BOUND, more, |text| lines(text) > then + 20);
        for (number, line) in text.lines().enumerate().take(then + 20) {
            assert_eq!(line, format!("line {number}"));
        }
    }
}

/// Kills the daemon when a reload has `reached` a stage, then calls `go_on`. Either the old version or the new one must serve completely then.
fn killed_while(site: &Site, body: &str, reached: impl Fn(&[Process]) -> bool, go_on: impl FnOnce()) -> bool {
    let before = site.rpm.pids("site");
    let clients = Clients::begin(&site.port, "/", CLIENTS);
    clients.wait_ok(SOME);
    site.write(body);
    site.rpm.ok(["reload", "site", "--no-wait"]);
    wait_until(
        "the reload gets there",
        BOUND,
        || site.rpm.list(),
        |list| reached(list),
    );
    kill_daemon(&site.rpm);
    clients.wait_ok(SOME);
    go_on();
    let settled =
        |list: &Vec<Process>| all_gone(list) && list.iter().all(|process| process.status == Status::Online);
    let list = wait_until("it is settled", BOUND, || site.rpm.list(), settled);
    let pids: Vec<u32> = list.iter().filter_map(|process| process.pid).collect();
    let kept = pids.iter().filter(|pid| before.contains(pid)).count();
    assert!(
        kept == 0 || kept == before.len(),
        "half: {before:?}, then {pids:?}"
    );
    clients.wait_ok(SOME);
    clients.finish_clean(&site.rpm);
    kept == 0
}

fn others(list: &[Process], phase: Phase) -> usize {
    list.iter()
        .flat_map(|process| &process.others)
        .filter(|other| other.phase == phase)
        .count()
}

/// Listens on nothing: a new worker of a reload gets 30 s for that.
const NEVER: &str = "setInterval(() => {}, 1000);";

#[test]
fn killed_while_the_new_workers_boot() {
    let site = Site::start(Rpm::new(), &hello(), &["--parallel", "2"]);
    let boot = |list: &[Process]| others(list, Phase::Launching) == 2;
    assert!(!killed_while(&site, NEVER, boot, || ()), "it is undone");
}

#[test]
fn killed_while_half_of_the_new_workers_serve() {
    let site = Site::start(Rpm::new(), &hello(), &[]);
    let half = format!(
        "if (process.env.NODE_APP_INSTANCE === '0') {{ {} }} else {NEVER}",
        hello()
    );
    let serves = |list: &[Process]| others(list, Phase::Standby) == 1;
    assert!(!killed_while(&site, &half, serves, || ()), "it is undone");
}

#[test]
fn killed_while_the_old_workers_drain() {
    // A worker drains until its last request is answered.
    let gate = Place::new();
    let rpm = Rpm::new().with_env("GATE", gate.path().to_str().expect("UTF-8"));
    let old = format!("require({:?})\n", fixture("late.js"));
    let site = Site::start(rpm, &old, &["--drain-timeout", "60s"]);
    let mut late = Connection::open(&site.port);
    late.send("GET /late HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    let asked = || gate.path().join("asked").exists();
    wait_until("it is asked", BOUND, asked, |asked| *asked);
    let drains = |list: &[Process]| others(list, Phase::Draining) > 0;
    let go_on = || drop(gate.write("go", ""));
    assert!(killed_while(&site, &hello(), drains, go_on), "it was complete");
    assert_eq!(late.answer().status, 200, "{}", site.rpm.log());
}

#[test]
fn kill_ends_what_a_dead_daemon_has_left() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("hello.js", &port).start(&rpm);
    let pids = rpm.pids("web");
    kill_daemon(&rpm);
    assert!(get(port.number(), "/").is_ok(), "they serve on");
    rpm.ok(["kill"]);
    for pid in pids {
        wait_until("the worker is gone", BOUND, || has_ended(pid), |ended| *ended);
    }
    assert_eq!(rpm.daemon_pid(), None);
    let ran = rpm.run(["kill"]);
    assert!(ran.stderr.contains("nothing to kill"), "{ran:?}");
}

/// Damages the daemon's stored state while no daemon runs.
fn damage(rpm: &Rpm, names: &[&str]) {
    kill_daemon(rpm);
    for name in names {
        let path = rpm.home().join(name);
        let mut bytes = fs::read(&path).expect("it is there");
        bytes.truncate(bytes.len() / 2);
        fs::write(&path, bytes).expect("written");
    }
}

#[test]
fn the_state_before_is_used_when_the_last_one_is_damaged() {
    for name in ["state.json", "apps.json"] {
        let (rpm, port) = (Rpm::new(), Port::reserve());
        web("hello.js", &port).start(&rpm);
        // This writes a previous state: an app is added and deleted.
        App::new("no-listen.js").args(["--name", "other"]).start(&rpm);
        rpm.ok(["delete", "other"]);
        let pids = rpm.pids("web");
        damage(&rpm, &[name]);
        assert_eq!(rpm.pids("web"), pids, "{}", rpm.log());
        assert!(rpm.log().contains("is damaged"), "{}", rpm.log());
        rpm.ok(["reload", "web"]);
    }
}

#[test]
fn workers_that_nobody_knows_any_more_are_named_and_can_be_ended() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("hello.js", &port).start(&rpm);
    let pids = rpm.pids("web");
    damage(&rpm, &["state.json", "state.json.old"]);
    for command in ["list", "reload"] {
        let error = rpm.fails(
            [command, "web"]
                .iter()
                .take(if command == "list" { 1 } else { 2 }),
        );
        assert!(
            error.contains("unknown to a new one") && error.contains("rpm kill"),
            "{error}"
        );
        assert!(pids.iter().all(|pid| error.contains(&pid.to_string())), "{error}");
    }
    assert!(get(port.number(), "/").is_ok(), "they serve on");
    rpm.ok(["kill"]);
    assert_eq!(rpm.processes_of_workers(), [] as [u32; 0]);
    assert!(rpm.list().is_empty());
}

/// Its parent is gone, and the process that adopted it reaps it. The daemon that took it back asks the kernel.
#[test]
fn the_exit_code_of_a_worker_that_was_taken_back_counts() {
    const TOLD_FROM: (u32, u32) = (6, 15);
    if kernel() < TOLD_FROM {
        return skip(
            "the_exit_code_of_a_worker_that_was_taken_back_counts",
            "no PIDFD_INFO_EXIT",
        );
    }
    for (code, status) in [(0, Status::Stopped), (3, Status::Stopped), (4, Status::Errored)] {
        let (rpm, place) = (Rpm::new(), Place::new());
        let script = format!(
            "process.on('SIGUSR2', () => process.exit({code})); setInterval(() => {{}}, 1000); console.log('on');"
        );
        place.write("ends.js", &script);
        let stops = [
            "--stop-exit-codes",
            "0,3",
            "--max-restarts",
            "0",
            "--min-uptime",
            "1h",
        ];
        place.ok(&rpm, [&["start", "ends.js"][..], &stops].concat());
        let handles = || rpm.output("ends", "out", None) == b"on\n";
        wait_until("it handles the signal", BOUND, handles, |handles| *handles);
        let pid = rpm.process(0).pid.expect("it runs");
        kill_daemon(&rpm);
        assert_eq!(rpm.process(0).pid, Some(pid), "it was taken back");
        signal(pid, "USR2");
        let ended = |process: &Process| process.status == status;
        let process = wait_until("it has ended", BOUND, || rpm.process(0), ended);
        assert_eq!(
            (process.exit_code, process.restarts),
            (Some(code), 0),
            "{}",
            rpm.log()
        );
    }
}

/// The kernel's version.
fn kernel() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux");
    let mut numbers = text.split(['.', '-']).map_while(|number| number.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[test]
fn a_state_that_cannot_be_read_is_said_so_and_does_no_harm() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    fs::write(rpm.home().join("state.json"), "{\"format\":1,").expect("written");
    web("hello.js", &port).start(&rpm);
    assert!(rpm.log().contains("is damaged"), "{}", rpm.log());
    assert!(get(port.number(), "/").is_ok());
    rpm.ok(["kill"]);
    assert!(!rpm.home().join("state.json").exists(), "nothing is left of it");
}
