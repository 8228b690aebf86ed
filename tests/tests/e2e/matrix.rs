//! Everything that ends workers, for each kind of program, data path and mode, under load: how long it takes, and what clients see.

use std::cell::RefCell;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Child;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rpm_e2e::app::App;
use rpm_e2e::clients::one_of;
use rpm_e2e::outside::{freeze, kill};
use rpm_e2e::place::Place;
use rpm_e2e::raw::{Answer, Connection};
use rpm_testkit::{
    Kind, Load, Outcome, Port, Process, Report, Rpm, Status, Traffic, bun, fixture, get, node, wait_for,
    wait_until,
};

/// Long enough for anything, on a loaded machine.
const BOUND: Duration = Duration::from_secs(30);
/// A worker with clients drains for 30 s, and one that does not end is killed 1.6 s later. Nothing here may wait for that.
const PROMPT: Duration = Duration::from_secs(25);
/// No client may wait for it either.
const PATIENCE: Duration = Duration::from_secs(20);
/// Clients of each kind: with a new connection per request, and with a kept one.
const CLIENTS: usize = 4;
/// Responses between two events.
const SOME: u64 = 30;
/// Duration of a request that is in flight while something happens.
const SLOW_MS: u64 = 1500;

/// A kind of program, by how it is drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    /// Through node:cluster's channel and the agent.
    Node,
    /// Node that the daemon does not recognise: its sockets are captured, and it has the agent.
    Captured,
    /// Bun, which has the agent and whose connections the kernel counts.
    Bun,
    /// A program without an agent.
    Python,
}

/// One combination.
#[derive(Clone, Copy, Debug)]
struct Cell {
    program: Program,
    /// `--balance`.
    path: &'static str,
    /// `None` for fork mode.
    instances: Option<&'static str>,
}

impl Program {
    fn cells(self) -> Vec<Cell> {
        let paths: &[&'static str] = match self {
            Program::Node => &["direct", "handoff", "proxy"],
            Program::Captured | Program::Bun | Program::Python => &["direct", "proxy"],
        };
        let cell = |path, instances| Cell {
            program: self,
            path,
            instances,
        };
        let mut cells = vec![cell("direct", None)];
        for path in paths {
            cells.extend([cell(path, Some("1")), cell(path, Some("2"))]);
        }
        cells
    }

    /// True if a stop waits for requests in flight.
    fn finishes(self) -> bool {
        match self {
            Program::Node | Program::Captured | Program::Bun => true,
            Program::Python => false,
        }
    }

    fn app(self, place: &Place) -> App {
        match self {
            Program::Node => App::new("slow.js"),
            Program::Captured => {
                let (node, script) = (node(22), fixture("slow.js"));
                let start = format!("#!/bin/sh\nexec {} {}\n", node.display(), script.display());
                let path = place.write("start", &start);
                let executable = std::fs::Permissions::from_mode(0o755);
                std::fs::set_permissions(&path, executable).expect("it is ours");
                App::of([path])
            }
            Program::Bun => App::new("hello-bun.ts").args(["--interpreter".into(), bun().into_os_string()]),
            Program::Python => App::new("hello.py"),
        }
    }
}

/// A combination that runs, with clients.
struct Running {
    cell: Cell,
    rpm: Rpm,
    port: Port,
    traffic: Vec<Traffic>,
    _place: Place,
}

impl Running {
    fn start(cell: Cell) -> Running {
        Running::with(cell, |app| app)
    }

    /// Starts programs that stay alive for long after SIGINT.
    fn lingering(cell: Cell) -> Running {
        Running::with(cell, |app| app.env("LINGERS", 1).args(["--kill-timeout", "60s"]))
    }

    fn with(cell: Cell, more: impl FnOnce(App) -> App) -> Running {
        let (rpm, port, place) = (Rpm::new(), Port::reserve(), Place::new());
        let mut app = more(cell.program.app(&place).args(["--name", "web"]).port(&port));
        if let Some(instances) = cell.instances {
            app = app.args(["-i", instances, "--balance", cell.path]);
        }
        app.start(&rpm);
        // In fork mode a process is online when it runs, and may not listen yet.
        wait_until(
            "it serves",
            BOUND,
            || get(port.number(), "/").is_ok(),
            |serves| *serves,
        );
        let kinds: &[Kind] = match cell.program {
            Program::Python => &[Kind::NewConnection],
            Program::Node | Program::Captured | Program::Bun => &[Kind::NewConnection, Kind::KeepAlive],
        };
        let load = |kind: &Kind| Load {
            kind: *kind,
            timeout: PATIENCE,
            ..one_of(kinds.len(), &port, CLIENTS)
        };
        let traffic = kinds.iter().map(|kind| Traffic::start(&load(kind))).collect();
        let running = Running {
            cell,
            rpm,
            port,
            traffic,
            _place: place,
        };
        running.answers(SOME);
        running
    }

    /// Waits until each kind of client has had `count` more responses.
    fn answers(&self, count: u64) {
        self.traffic.iter().for_each(|traffic| traffic.wait_ok(count));
    }

    /// Starts a request that is in flight when this returns.
    fn slow_request(&self) -> Request {
        let request = request(&self.port, &format!("/?ms={SLOW_MS}&say=begun"));
        let logs: Vec<_> = self
            .rpm
            .list()
            .into_iter()
            .map(|process| process.out_log)
            .collect();
        let said = || {
            let texts = logs
                .iter()
                .map(|log| std::fs::read_to_string(log).unwrap_or_default());
            texts.collect::<String>()
        };
        wait_until("it is in flight", BOUND, said, |said| said.contains("begun"));
        request
    }

    /// Stops the clients. Only these outcomes are allowed, and none more often per kind than it has clients.
    fn lost_at_most_one_each(&mut self, allowed: &[Outcome]) {
        let cell = self.cell;
        for report in std::mem::take(&mut self.traffic).into_iter().map(Traffic::finish) {
            check(cell, &self.rpm, &report, allowed);
            assert!(report.outcomes.failures() <= CLIENTS as u64, "{cell:?}: {report}");
        }
    }
}

type Request = JoinHandle<Answer>;

/// Sends `GET path` on a new connection. Another thread waits for the response.
fn request(port: &Port, path: &str) -> Request {
    let mut connection = Connection::open(port);
    connection.send(&format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    ));
    std::thread::spawn(move || connection.answer())
}

impl Running {
    /// Checks that the request gets its response.
    fn expect_answer(&self, request: Request) {
        // The client has printed why it has no response.
        let status = request.join().map(|answer| answer.status).ok();
        assert_eq!(status, Some(200), "{:?}\n{}", self.cell, self.rpm.log());
    }
}

fn check(cell: Cell, rpm: &Rpm, report: &Report, allowed: &[Outcome]) {
    let checked = report.check_allowing(allowed);
    assert!(checked.is_ok(), "{cell:?}: {report}\n{}", rpm.log());
}

fn each(program: Program, act: fn(Running)) {
    for cell in program.cells() {
        act(Running::start(cell));
    }
}

fn each_lingering(program: Program, act: fn(Running)) {
    for cell in program.cells() {
        act(Running::lingering(cell));
    }
}

/// `stop` and `delete`: quick, requests in flight are finished, and no client hangs.
fn ends(running: Running, command: &str) {
    let slow = running.slow_request();
    let began = Instant::now();
    running.rpm.ok([command, "web"]);
    let took = began.elapsed();
    let cell = running.cell;
    assert!(took < PROMPT, "{cell:?}: {took:?}\n{}", running.rpm.log());
    if cell.program.finishes() {
        running.expect_answer(slow);
    }
    let cut: &[Outcome] = match cell.program.finishes() {
        true => &[],
        false => &[Outcome::Truncated],
    };
    refuses(running, cut);
}

/// Checks that no worker serves any more, and that no client hangs. `cut` are allowed outcomes besides refusals.
fn refuses(running: Running, cut: &[Outcome]) {
    let cell = running.cell;
    // Connections in the queue are reset, and later ones are refused.
    let mut allowed = vec![Outcome::Refused, Outcome::ResetFresh, Outcome::ResetReused];
    allowed.extend(cut);
    if cell.path == "proxy" {
        // 503: the app was stopped.
        allowed.push(Outcome::WrongStatus);
    }
    let rpm = running.rpm;
    for report in running.traffic.into_iter().map(Traffic::finish) {
        check(cell, &rpm, &report, &allowed);
    }
    assert!(
        get(running.port.number(), "/").is_err(),
        "{cell:?}: somebody answers"
    );
}

fn is_stopped(running: Running) {
    ends(running, "stop");
}

fn is_deleted(running: Running) {
    ends(running, "delete");
}

/// A frozen worker is killed: its clients lose what it had accepted, and everything else waits for its replacement.
fn is_frozen_and_killed(mut running: Running) {
    let victim = running.rpm.process(0).pid.expect("it runs");
    freeze(victim);
    // All clients may be connected to the frozen one; this one is not.
    let newcomer = request(&running.port, "/");
    // Others answer, or all clients wait for it.
    let goal = running.traffic[0].ok() + SOME;
    let seen = || (running.traffic[0].ok(), waiting(&running));
    let suffices = |(answers, waiting): &(u64, u32)| *answers >= goal || *waiting > 0;
    wait_until("connections wait", BOUND, seen, suffices);
    kill(victim);
    let replaced = |now: &Process| now.status == Status::Online && now.pid.is_some_and(|pid| pid != victim);
    wait_until("a replacement", BOUND, || running.rpm.process(0), replaced);
    running.answers(SOME);
    if running.cell.path != "proxy" {
        running.expect_answer(newcomer);
    }
    let lost = [
        Outcome::ResetFresh,
        Outcome::ResetReused,
        Outcome::Truncated,
        Outcome::WrongStatus,
    ];
    let allowed = if running.cell.path == "proxy" {
        &lost[..]
    } else {
        &lost[..3]
    };
    running.lost_at_most_one_each(allowed);
}

/// Connections that the workers have not accepted, or requests that the proxy has not had answered.
fn waiting(running: &Running) -> u32 {
    let listeners = running.rpm.describe("web").listeners;
    let slots = listeners.iter().flat_map(|listener| &listener.slots);
    slots
        .map(|slot| slot.queued + slot.proxied.as_ref().map_or(0, |proxied| proxied.in_flight))
        .sum()
}

/// Three reloads during one request, which is answered by its own worker.
fn is_reloaded_three_times(mut running: Running) {
    let slow = running.slow_request();
    for _ in 0..3 {
        running.rpm.ok(["reload", "web"]);
    }
    running.expect_answer(slow);
    running.answers(SOME);
    running.lost_at_most_one_each(&[]);
}

/// Longer than an agent has to acknowledge a drain.
const BUSY_MS: u64 = 2500;

/// A worker whose event loop is blocked when it is asked to drain finishes its requests nevertheless. In fork mode it computes; elsewhere
/// it waits, which is the other way of being blocked, and leaves the CPUs to other tests.
fn is_busy_when_it_drains(mut running: Running) {
    let mut under_way = vec![running.slow_request()];
    let workers = running.rpm.list().len();
    let how = if running.cell.instances.is_none() {
        "block"
    } else {
        "wait"
    };
    let path = format!("/?{how}={BUSY_MS}");
    // One per worker, as they take turns.
    let busy = || -> Vec<Request> { (0..workers).map(|_| request(&running.port, &path)).collect() };
    let sent = RefCell::new(busy());
    // Later clients of a busy worker wait; earlier ones are answered.
    let newcomers = RefCell::new(Vec::new());
    let look = || {
        let (mut sent, mut newcomers) = (sent.borrow_mut(), newcomers.borrow_mut());
        // All may be over before this process has looked.
        if sent.iter().all(Request::is_finished) {
            sent.extend(busy());
        }
        if newcomers.last().is_none_or(Request::is_finished) {
            newcomers.push(request(&running.port, "/"));
        }
        waiting(&running)
    };
    wait_until("a worker is busy", BOUND, look, |waiting| *waiting > 0);
    running.rpm.ok(["reload", "web"]);
    under_way.extend(sent.into_inner());
    under_way.extend(newcomers.into_inner());
    for request in under_way {
        running.expect_answer(request);
    }
    running.answers(SOME);
    running.lost_at_most_one_each(&[]);
}

/// Kills these processes once they have printed that they got SIGINT.
fn kill_lingering(processes: &[Process]) {
    for process in processes {
        let mark = format!("sigint {}\n", process.pid.expect("it runs"));
        let said = || std::fs::read_to_string(&process.out_log).unwrap_or_default();
        wait_until("it has had SIGINT", BOUND, said, |said| said.contains(&mark));
    }
    for pid in processes.iter().filter_map(|process| process.pid) {
        kill(pid);
    }
}

/// Checks that the command succeeds quickly.
fn is_prompt(running: &Running, command: &mut Child, began: Instant) {
    let ended = || command.try_wait().expect("it is ours");
    let status = wait_for("the command ends", BOUND, ended);
    let took = began.elapsed();
    let met = status.success() && took < PROMPT;
    assert!(
        met,
        "{:?}: {status}, {took:?}\n{}",
        running.cell,
        running.rpm.log()
    );
}

/// A worker that is being restarted, got SIGINT and still has its listener and clients is killed. They lose what it was answering, and
/// everything else waits for its replacement.
fn is_killed_while_it_is_restarted(mut running: Running) {
    let victim = running.rpm.process(0);
    let mut restart = running.rpm.spawn(["restart", "0", "--hard"]);
    kill_lingering(std::slice::from_ref(&victim));
    is_prompt(&running, &mut restart, Instant::now());
    let now = running.rpm.process(0);
    assert!(now.status == Status::Online && now.pid != victim.pid, "{now:#?}");
    running.answers(SOME);
    let mut allowed = vec![Outcome::ResetFresh, Outcome::ResetReused, Outcome::Truncated];
    if running.cell.path == "proxy" {
        // 502: the worker that had the request is gone.
        allowed.push(Outcome::WrongStatus);
    }
    running.lost_at_most_one_each(&allowed);
    // They would stay alive at the end of the test, too.
    let left = running.rpm.list();
    let mut delete = running.rpm.spawn(["delete", "web", "--hard"]);
    kill_lingering(&left);
    is_prompt(&running, &mut delete, Instant::now());
}

/// All workers are stopped, got SIGINT, and are killed before their time is over: no client hangs.
fn is_killed_while_it_is_stopped(running: Running) {
    let victims = running.rpm.list();
    let mut stop = running.rpm.spawn(["stop", "web"]);
    kill_lingering(&victims);
    is_prompt(&running, &mut stop, Instant::now());
    refuses(running, &[Outcome::Truncated]);
}

macro_rules! matrix {
    ($each:ident: $($program:ident { $($name:ident: $act:ident,)* })*) => {
        $($(
            #[test]
            fn $name() {
                $each(Program::$program, $act);
            }
        )*)*
    };
}

matrix! { each_lingering:
    Node {
        node_is_killed_while_it_is_restarted: is_killed_while_it_is_restarted,
        node_is_killed_while_it_is_stopped: is_killed_while_it_is_stopped,
    }
    Captured {
        captured_node_is_killed_while_it_is_restarted: is_killed_while_it_is_restarted,
        captured_node_is_killed_while_it_is_stopped: is_killed_while_it_is_stopped,
    }
    Bun {
        bun_is_killed_while_it_is_restarted: is_killed_while_it_is_restarted,
        bun_is_killed_while_it_is_stopped: is_killed_while_it_is_stopped,
    }
    Python {
        python_is_killed_while_it_is_restarted: is_killed_while_it_is_restarted,
        python_is_killed_while_it_is_stopped: is_killed_while_it_is_stopped,
    }
}

matrix! { each:
    Node {
        node_is_stopped: is_stopped,
        node_is_deleted: is_deleted,
        node_is_frozen_and_killed: is_frozen_and_killed,
        node_is_reloaded_three_times: is_reloaded_three_times,
        node_is_busy_when_it_drains: is_busy_when_it_drains,
    }
    Captured {
        captured_node_is_stopped: is_stopped,
        captured_node_is_deleted: is_deleted,
        captured_node_is_frozen_and_killed: is_frozen_and_killed,
        captured_node_is_reloaded_three_times: is_reloaded_three_times,
        captured_node_is_busy_when_it_drains: is_busy_when_it_drains,
    }
    Bun {
        bun_is_stopped: is_stopped,
        bun_is_deleted: is_deleted,
        bun_is_frozen_and_killed: is_frozen_and_killed,
        bun_is_reloaded_three_times: is_reloaded_three_times,
        bun_is_busy_when_it_drains: is_busy_when_it_drains,
    }
    Python {
        python_is_stopped: is_stopped,
        python_is_deleted: is_deleted,
        python_is_frozen_and_killed: is_frozen_and_killed,
        python_is_reloaded_three_times: is_reloaded_three_times,
    }
}
