//! Unmodified programs in many languages: several copies share a port, are replaced when they are killed, and are reloaded, and no client
//! notices.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::ask::{V4, printed, who, workers};
use rpm_e2e::clients::Clients;
use rpm_e2e::outside::{freeze, kill, kill_daemon, thaw};
use rpm_e2e::steering::{self, talkative, undisturbed};
use rpm_testkit::{
    Load, Outcome, Port, Process, Rpm, Status, Traffic, bun, deno, fixture, node, skip, wait_until,
};

const BOUND: Duration = Duration::from_secs(30);
/// Copies of each program.
const COPIES: usize = 4;
/// Clients with a connection for every request.
const CLIENTS: usize = 4;
/// Responses between two events.
const SOME: u64 = 100;
/// Connections that are counted.
const CONNECTIONS: usize = 40;
/// Rounds.
const TIMES: usize = 25;

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// Copies of a program behind one port.
struct Site {
    rpm: Rpm,
    port: Port,
}

impl Site {
    fn start(rpm: Rpm, what: &[OsString]) -> Site {
        let port = Port::reserve();
        let copies = COPIES.to_string();
        let options = ["-i", copies.as_str(), "--name", "web", "--drain-timeout", "5s"];
        // What follows `--` belongs to the program.
        let at = what.iter().position(|word| word == "--").unwrap_or(what.len());
        let (ours, theirs) = what.split_at(at);
        let filled =
            |word: &OsString| OsString::from(word.to_string_lossy().replace("PORT", &port.to_string()));
        App::of(ours.iter().map(filled))
            .args(options)
            .args(theirs.iter().map(filled))
            .port(&port)
            .start(&rpm);
        Site { rpm, port }
    }

    /// Connections rotate exactly. There are few at a time, for which every copy gets its CPU even beside other tests.
    fn spreads(&self) {
        for _ in 0..TIMES {
            let served: BTreeMap<String, usize> = undisturbed(&self.rpm, || {
                let mut served = BTreeMap::new();
                for _ in 0..CONNECTIONS {
                    *served.entry(who(V4, &self.port)).or_insert(0) += 1;
                }
                served
            });
            let each: Vec<usize> = served.values().copied().collect();
            assert_eq!(each, [CONNECTIONS / COPIES; COPIES], "{served:?}");
        }
    }

    /// Reloads under load.
    fn reloads(&self) {
        let before = self.rpm.pids("web");
        let clients = Clients::fresh(&self.port, CLIENTS);
        clients.wait_ok(SOME);
        self.rpm.ok(["reload", "web", "--wait"]);
        assert!(self.rpm.pids("web").iter().all(|pid| !before.contains(pid)));
        clients.wait_ok(SOME);
        clients.finish_clean(&self.rpm);
    }

    /// Kills a worker under load: its clients lose what it was answering, and others nothing.
    fn is_killed(&self) {
        let clients = Clients::fresh(&self.port, CLIENTS);
        clients.wait_ok(SOME);
        let victim = self.rpm.process(1).pid.expect("it runs");
        kill(victim);
        let replaced =
            |now: &Process| now.status == Status::Online && now.pid.is_some_and(|pid| pid != victim);
        wait_until("a replacement", BOUND, || self.rpm.process(1), replaced);
        clients.wait_ok(SOME);
        for (_, report) in clients.finish() {
            let allowed = report.check_allowing(&[Outcome::ResetFresh, Outcome::Truncated]);
            assert!(allowed.is_ok(), "{report}\n{}", self.rpm.log());
            assert!(report.outcomes.failures() <= CLIENTS as u64, "{report}");
        }
        assert_eq!(workers(&self.port, COPIES).len(), COPIES);
    }
}

impl Site {
    /// The daemon dies under load, and the next one takes the programs back.
    fn outlives_the_daemon(&self) {
        let pids = self.rpm.pids("web");
        let clients = Clients::fresh(&self.port, CLIENTS);
        clients.wait_ok(SOME);
        kill_daemon(&self.rpm);
        clients.wait_ok(SOME);
        assert_eq!(self.rpm.pids("web"), pids, "{}", self.rpm.log());
        clients.wait_ok(SOME);
        clients.finish_clean(&self.rpm);
    }

    /// The process that serves as one of the copies is stopped: what it had accepted waits, and nothing else does.
    fn is_frozen(&self) {
        let load = Load {
            // Enough that they are not all connected to one copy at the same moment.
            clients: 4 * CLIENTS,
            // What it had accepted waits until all those answers have come.
            timeout: Duration::from_secs(100),
            ..Load::local(self.port.number())
        };
        let answers = workers(&self.port, COPIES);
        let victim = answers
            .iter()
            .next()
            .and_then(|answer| answer.split(' ').nth(1)?.parse().ok());
        let victim = victim.expect("a pid");
        let traffic = Traffic::start(&load);
        traffic.wait_ok(SOME);
        freeze(victim);
        for _ in 0..10 {
            traffic.wait_ok(SOME);
        }
        thaw(victim);
        let report = traffic.finish();
        assert!(report.check_clean().is_ok(), "{report}\n{}", self.rpm.log());
    }
}

/// Checks everything that is promised for every program.
fn serves(test: &str, what: &[OsString]) {
    serves_by(steering::Path::Ebpf, test, what);
}

fn serves_by(path: steering::Path, test: &str, what: &[OsString]) {
    let Some(rpm) = path.rpm(test).map(talkative) else {
        return;
    };
    let site = Site::start(rpm, what);
    assert_eq!(workers(&site.port, COPIES).len(), COPIES, "{}", site.rpm.log());
    if path.is_used(&site.rpm, "web", test) {
        site.spreads();
    }
    site.is_killed();
    site.is_frozen();
    site.outlives_the_daemon();
    site.reloads();
}

/// A program with an agent drains clients with kept connections, so that they lose nothing either.
fn keeps_connections(what: &[OsString]) {
    let site = Site::start(Rpm::new(), what);
    for _ in 0..3 {
        let clients = Clients::begin(&site.port, "/", CLIENTS);
        clients.wait_ok(SOME);
        site.rpm.ok(["reload", "web", "--wait"]);
        clients.wait_ok(SOME);
        clients.finish_clean(&site.rpm);
    }
}

/// True if the machine has this program; otherwise reports that the test is skipped.
fn has(test: &str, program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).is_file()));
    if !found {
        skip(test, &format!("{program} is not installed"));
    }
    found
}

/// A fixture, run by this interpreter.
fn run_by(interpreter: &Path, name: &str) -> Vec<OsString> {
    let mut all = vec![fixture(name).into_os_string()];
    all.extend(words(&["--interpreter"]));
    all.push(interpreter.into());
    all
}

/// Compiles a program once for all tests of this file.
fn compiled(
    cell: &OnceLock<PathBuf>,
    name: &str,
    compile: impl FnOnce(&Path, &Path) -> Command,
) -> Vec<OsString> {
    let path = cell.get_or_init(|| {
        let source = fixture(name);
        let directory = std::env::temp_dir().join(format!("rpm-compiled-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory for programs");
        let program = directory.join(name.replace('.', "-"));
        let done = compile(&source, &program).output().expect("the compiler runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        program
    });
    vec![path.clone().into_os_string()]
}

#[test]
fn python() {
    serves("python", &[fixture("hello.py").into_os_string()]);
}

#[test]
fn python_with_file_capabilities() {
    let what = [fixture("hello.py").into_os_string()];
    serves_by(steering::Path::Capable, "python_with_file_capabilities", &what);
}

#[test]
fn python_without_privileges() {
    let Some(rpm) = steering::Path::Classic.rpm("python_without_privileges") else {
        return;
    };
    let site = Site::start(rpm, &[fixture("hello.py").into_os_string()]);
    assert!(steering::Path::Classic.is_used(&site.rpm, "web", "python_without_privileges"));
    assert_eq!(workers(&site.port, COPIES).len(), COPIES);
    site.is_killed();
    site.reloads();
}

#[test]
fn gunicorn() {
    if !has("gunicorn", "gunicorn") {
        return;
    }
    let mut what = words(&["gunicorn", "--cwd"]);
    what.push(fixture("wsgi.py").parent().expect("a directory").into());
    what.extend(words(&[
        "--",
        "--bind",
        "127.0.0.1:PORT",
        "--workers",
        "2",
        "wsgi:app",
    ]));
    serves("gunicorn", &what);
}

#[test]
fn uvicorn() {
    if !has("uvicorn", "uvicorn") {
        return;
    }
    let mut what = words(&["uvicorn", "--cwd"]);
    what.push(fixture("asgi.py").parent().expect("a directory").into());
    what.extend(words(&[
        "--",
        "--host",
        "127.0.0.1",
        "--port",
        "PORT",
        "--log-level",
        "warning",
        "asgi:app",
    ]));
    serves("uvicorn", &what);
}

#[test]
fn puma() {
    if !has("puma", "puma") {
        return;
    }
    let rackup = fixture("hello.ru").into_os_string();
    let mut what = words(&["puma", "--", "--bind", "tcp://127.0.0.1:PORT", "--quiet"]);
    what.push(rackup);
    serves("puma", &what);
}

#[test]
fn go() {
    if !has("go", "go") {
        return;
    }
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let what = compiled(&PROGRAM, "hello.go", |source, program| {
        let mut command = Command::new("go");
        let cache = program.with_extension("cache");
        command
            .args(["build", "-o"])
            .arg(program)
            .arg(source)
            .env("GOCACHE", cache);
        command.env("GO111MODULE", "off");
        command
    });
    serves("go", &what);
}

#[test]
fn rust() {
    if !has("rust", "rustc") {
        return;
    }
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let what = compiled(&PROGRAM, "hello.rs", |source, program| {
        let mut command = Command::new("rustc");
        command.args(["--edition", "2024", "-o"]).arg(program).arg(source);
        command
    });
    serves("rust", &what);
}

#[test]
fn a_static_binary() {
    if !has("a_static_binary", "cc") {
        return;
    }
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let what = compiled(&PROGRAM, "hello.c", |source, program| {
        let mut command = Command::new("cc");
        command.args(["-static", "-O1", "-o"]).arg(program).arg(source);
        command
    });
    serves("a_static_binary", &what);
}

#[test]
fn bun_serve() {
    serves("bun_serve", &run_by(&bun(), "hello-bun.ts"));
}

#[test]
fn bun_with_node_http() {
    serves("bun_with_node_http", &run_by(&bun(), "hello.js"));
}

#[test]
fn bun_serve_with_kept_connections() {
    keeps_connections(&run_by(&bun(), "hello-bun.ts"));
}

#[test]
fn bun_with_node_http_with_kept_connections() {
    keeps_connections(&run_by(&bun(), "hello.js"));
}

#[test]
fn npm_start_with_kept_connections() {
    keeps_connections(&npm());
}

#[test]
fn bun_says_that_it_is_ready() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let mut what = run_by(&bun(), "ready.js");
    what.extend(words(&["-i", "2", "--wait-ready", "--name", "web"]));
    App::of(what).port(&port).start(&rpm);
    assert_eq!(workers(&port, 2).len(), 2, "it serves, and has said so");
}

#[test]
fn deno_serve() {
    let mut what = run_by(&deno(), "hello-deno.ts");
    what.extend(words(&["--interpreter-args", "run -A --no-lock"]));
    serves("deno_serve", &what);
}

/// `npm start` of an app in its own directory.
fn npm() -> Vec<OsString> {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        let directory = std::env::temp_dir().join(format!("rpm-npm-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let start = format!("{} {}", node(22).display(), fixture("hello.js").display());
        let package = serde_json::json!({ "name": "hello", "private": true, "scripts": { "start": start } });
        std::fs::write(directory.join("package.json"), package.to_string()).expect("it is written");
        directory
    });
    let mut what = words(&["npm start", "--cwd"]);
    what.push(directory.into());
    what
}

#[test]
fn npm_start() {
    serves("npm_start", &npm());
}

#[test]
fn a_command_line() {
    let line = format!("cd / && {} {}", node(22).display(), fixture("hello.js").display());
    serves("a_command_line", &words(&[&line]));
}

#[test]
fn a_program_that_closes_its_listener_is_steered_around() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("closes.py", "2")
        .args(["--name", "web"])
        .port(&port)
        .start(&rpm);
    assert_eq!(workers(&port, 2).len(), 2);
    rpm_testkit::get(port.number(), "/close").expect("an answer");
    let clients = Clients::fresh(&port, CLIENTS);
    clients.wait_ok(SOME);
    let slots = || {
        rpm.describe("web")
            .listeners
            .iter()
            .map(|listener| listener.slots.len())
            .sum::<usize>()
    };
    wait_until("its slot is gone", BOUND, slots, |count| *count == 1);
    clients.wait_ok(SOME);
    clients.finish_clean(&rpm);
    assert!(
        rpm.list()
            .iter()
            .all(|process| process.status == Status::Online && process.restarts == 0)
    );
}

#[test]
fn the_pid_that_is_shown_is_the_programs_and_the_figures_are_the_trees() {
    let site = Site::start(Rpm::new(), &npm());
    let answers: Vec<String> = workers(&site.port, COPIES).into_iter().collect();
    let pids: Vec<String> = answers
        .iter()
        .filter_map(|answer| Some(answer.split(' ').nth(1)?.to_owned()))
        .collect();
    let list = || site.rpm.list();
    // npm and its shell are in the worker's tree, and Node serves.
    let settled = |list: &Vec<Process>| {
        list.iter().all(|process| {
            let shown = process.pid.is_some_and(|pid| pids.contains(&pid.to_string()));
            shown && process.memory_bytes > 60 << 20
        })
    };
    wait_until("the programs are shown", BOUND, list, settled);
}

#[test]
fn who_has_the_port_is_named() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let _taken = std::net::TcpListener::bind((V4, port.number())).expect("it is free");
    let app = App::cluster("hello.py", "2").args(["--name", "web"]).port(&port);
    let ran = app.try_start(&rpm);
    let owner = format!("pid {}", std::process::id());
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(
        ran.stderr.contains("is in use by") && ran.stderr.contains(&owner),
        "{ran:#?}"
    );
}

#[test]
fn a_port_that_is_tried_first_leaves_no_slot_behind() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::new("probes.js")
        .args(["--name", "web"])
        .port(&port)
        .start(&rpm);
    let said = || printed(&rpm, "web", None);
    wait_until("it listens", BOUND, said, |said| said.contains("listening"));
    // Before any client has reached a slot that is not accepted from.
    let slots: Vec<usize> = rpm
        .describe("web")
        .listeners
        .iter()
        .map(|listener| listener.slots.len())
        .collect();
    assert_eq!(slots, [1]);
    assert_eq!(workers(&port, 1).len(), 1);
}
