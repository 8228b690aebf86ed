//! The package for Debian, installed on a system of its own with a real systemd: the service loses nothing, whatever systemd does with it, and
//! removing the package leaves nothing running.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rpm_e2e::clients::Clients;
use rpm_e2e::outside::kill;
use rpm_e2e::place::Place;
use rpm_e2e::process::{first_child, inside, name};
use rpm_testkit::{Kind, Port, Report, Rpm, get, repository, skip, wait_until};

/// For systemd to be up, and for whatever it is asked to do.
const BOUND: Duration = Duration::from_secs(60);
const CLIENTS: usize = 4;
/// Responses between two events.
const SOME: u64 = 50;
const SERVICE: &str = "rpmx@web";

/// A system in namespaces, with this machine's programs and network. It ends when dropped.
struct System {
    /// What waits for its end and removes its control groups.
    outside: Child,
    /// Its systemd, by the number that it has outside.
    init: u32,
    /// Seen inside as `/shared`.
    shared: Place,
    _root: Place,
}

impl System {
    /// Boots it. `None` without root; in CI that fails.
    fn boot(test: &str) -> Option<System> {
        if !rustix::process::geteuid().is_root() {
            skip(test, "only root can boot another system");
            return None;
        }
        let (root, shared) = (Place::new(), Place::new());
        let script = repository().join("tests/fixtures/systemd/boot.sh");
        let mut boot = Command::new("unshare");
        boot.arg("--mount")
            .args([&script, root.path(), shared.path()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let outside = boot.spawn().expect("unshare runs");
        let init = wait_until(
            "systemd runs",
            BOUND,
            || first_child(outside.id()).and_then(first_child),
            // No longer the script that becomes it.
            |init| init.is_some_and(|init| name(init) == "systemd"),
        );
        let system = System {
            outside,
            init: init.expect("it runs"),
            shared,
            _root: root,
        };
        let up = |ran: &Output| String::from_utf8_lossy(&ran.stdout).trim() == "running";
        let state = ["systemctl", "is-system-running"];
        wait_until("it is up", BOUND, || system.run(&state), up);
        Some(system)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = inside(self.init);
        command.args(words);
        command
    }

    /// Runs a command as its root.
    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("nsenter runs")
    }

    /// What a command prints, which must not fail.
    fn ok(&self, words: &[&str]) -> String {
        let ran = self.run(words);
        let [out, err] = [&ran.stdout, &ran.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert!(
            ran.status.success(),
            "{words:?}\n{out}\n{err}\n{}",
            self.journal()
        );
        out
    }

    /// Runs a command as the user of the service.
    fn as_user(&self, line: &str) -> String {
        let user = ["setpriv", "--reuid=4711", "--regid=4711", "--clear-groups"];
        let words = [&user[..], &["env", "HOME=/home/web", "sh", "-c", line]].concat();
        self.ok(&words)
    }

    fn journal(&self) -> String {
        let ran = self.run(&["journalctl", "--unit", SERVICE, "--no-pager", "--lines=100"]);
        String::from_utf8_lossy(&ran.stdout).into_owned()
    }

    /// The processes of the apps.
    fn workers(&self) -> Vec<u64> {
        let list: serde_json::Value = serde_json::from_str(&self.as_user("rpmx list --json")).expect("JSON");
        let processes = list.as_array().expect("a list").iter();
        processes.map(|it| it["pid"].as_u64().expect("it runs")).collect()
    }

    fn daemon(&self) -> String {
        let pid = self.ok(&["systemctl", "show", "--property=MainPID", "--value", SERVICE]);
        pid.trim().to_owned()
    }

    /// What runs there as the user of the service.
    fn processes_of_the_user(&self) -> String {
        let ran = self.run(&["ps", "--user", "4711", "--format", "pid=,args="]);
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    }
}

impl Drop for System {
    fn drop(&mut self) {
        // Everything else in there ends with it.
        kill(self.init);
        let _ = self.outside.wait();
        if std::thread::panicking()
            && let Some(mut said) = self.outside.stderr.take()
        {
            let mut text = String::new();
            let _ = said.read_to_string(&mut text);
            eprintln!("the system said:\n{text}");
        }
    }
}

/// The package of the program under test, without symbols; its path inside.
fn package(system: &System) -> String {
    let directory = system.shared.path();
    let rpm = Rpm::new();
    for name in ["rpm", "rpm-observe"] {
        let mut strip = Command::new("objcopy");
        strip
            .arg("--strip-all")
            .args([rpm.binary().with_file_name(name), directory.join(name)]);
        assert!(strip.status().expect("objcopy runs").success());
    }
    let mut pack = Command::new(env!("CARGO"));
    pack.args(["xtask", "deb", "--fast"])
        .args([&directory.join("rpm"), directory])
        .current_dir(repository());
    let ran = pack.stdin(Stdio::null()).output().expect("it runs");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let built = PathBuf::from(String::from_utf8_lossy(&ran.stdout).trim());
    let name = built.file_name().and_then(|name| name.to_str());
    format!("/shared/{}", name.expect("UTF-8"))
}

/// Installs the package, and a service with an app of two workers.
fn install(system: &System, deb: &str, port: &Port) {
    system.ok(&["dpkg", "--install", deb]);
    let verified = system.run(&["systemd-analyze", "verify", "--man=no", "rpmx@web.service"]);
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && said.is_empty(), "{said}");
    system.shared.write(
        "app.js",
        "require('http').createServer((_, answer) => answer.end('here')).listen(+process.env.PORT)",
    );
    let start = format!("PORT={port} rpmx start /shared/app.js --instances 2");
    system.as_user(&format!("cd && {start} && rpmx save && rpmx kill"));
    system.ok(&["systemctl", "enable", "--now", SERVICE]);
    get(port.number(), "/").expect("what was saved is served");
}

/// An app whose lines are sent to the journald of the system, one of them as long as few are.
fn what_is_sent_to_journald_is_in_the_journal(system: &System) {
    let port = Port::reserve();
    system.shared.write(
        "talk.sh",
        "echo for the journal; head -c 120000 /dev/zero | tr '\\0' x; echo; exec sleep 1000",
    );
    let app = r#"{"name": "talk", "script": "/shared/talk.sh", "interpreter": "sh"}"#;
    let observe = format!(r#"{{"listen": {port}, "logs": [{{"to": "journald"}}]}}"#);
    system.shared.write(
        "talk.json",
        &format!(r#"{{"apps": [{app}], "observe": {observe}}}"#),
    );
    system.as_user("cd && rpmx start /shared/talk.json");
    let written = || {
        system.ok(&[
            "journalctl",
            "--no-pager",
            "--output=cat",
            "--all",
            "SYSLOG_IDENTIFIER=talk",
            "RPM_STREAM=out",
        ])
    };
    let lines = wait_until("they are in the journal", BOUND, written, |text| {
        text.lines().count() == 2
    });
    let lengths: Vec<usize> = lines.lines().map(str::len).collect();
    assert!(
        lines.contains("for the journal") && lengths.contains(&120_000),
        "{lengths:?}"
    );
    system.as_user("rpmx delete talk && rpmx observe off");
}

#[test]
fn a_service_loses_nothing_whatever_systemd_does_with_it() {
    let Some(system) = System::boot("a_service_loses_nothing_whatever_systemd_does_with_it") else {
        return;
    };
    let port = Port::reserve();
    let deb = package(&system);
    install(&system, &deb, &port);
    let (workers, daemon) = (system.workers(), system.daemon());
    assert_eq!(workers.len(), 2);
    let unchanged =
        |after: &str| assert_eq!(system.workers(), workers, "after {after}\n{}", system.journal());

    let clients = Clients::begin(&port, "/", CLIENTS);
    clients.wait_ok(SOME);
    system.ok(&["systemctl", "reload", SERVICE]);
    assert_eq!(system.daemon(), daemon, "another version, in its place");
    unchanged("a reload of the service");
    clients.wait_ok(SOME);
    system.ok(&["systemctl", "restart", SERVICE]);
    let second = system.daemon();
    assert_ne!(second, daemon, "another daemon\n{}", system.journal());
    unchanged("a restart of the service");
    clients.wait_ok(SOME);
    system.ok(&["kill", "-KILL", &second]);
    let next = |pid: &String| !["0", second.as_str()].contains(&pid.as_str());
    wait_until("systemd starts the next one", BOUND, || system.daemon(), next);
    unchanged("a crash");
    clients.wait_ok(SOME);
    let upgraded = system.ok(&["dpkg", "--install", &deb]);
    assert!(!upgraded.contains("still runs the version before"), "{upgraded}");
    unchanged("an upgrade");
    clients.wait_ok(SOME);
    let reports = clients.finish();
    let unclean = |(_, report): &&(Kind, Report)| report.check_clean().is_err();
    let unclean: Vec<_> = reports.iter().filter(unclean).collect();
    assert!(unclean.is_empty(), "{unclean:#?}\n{}", system.journal());

    what_is_sent_to_journald_is_in_the_journal(&system);
    system.ok(&["systemctl", "stop", SERVICE]);
    assert_eq!(system.processes_of_the_user(), "", "after `systemctl stop`");
    system.ok(&["systemctl", "start", SERVICE]);
    get(port.number(), "/").expect("it is served again");
    system.ok(&["dpkg", "--remove", "rpmx"]);
    let processes = || system.processes_of_the_user();
    wait_until("nothing is left", BOUND, processes, String::is_empty);
    assert_eq!(
        system.run(&["rpmx", "--version"]).status.code(),
        Some(127),
        "it is gone"
    );
}
