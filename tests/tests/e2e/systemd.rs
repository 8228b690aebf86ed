//! The package for Debian, installed on a system of its own with a real systemd: the service loses nothing, whatever systemd does with it, be it
//! the system's or a user's own, and removing the package leaves nothing running.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rpm_e2e::clients::Clients;
use rpm_e2e::outside::kill;
use rpm_e2e::place::Place;
use rpm_e2e::process::{first_child, inside, name, xtask};
use rpm_testkit::{Kind, Port, Report, Rpm, get, repository, skip, wait_until};

/// For systemd to be up, and for whatever it is asked to do.
const BOUND: Duration = Duration::from_secs(60);
const CLIENTS: usize = 4;
/// Responses between two events.
const SOME: u64 = 50;
/// Commands as the user of the service.
const USER: [&str; 7] = [
    "setpriv",
    "--reuid=4711",
    "--regid=4711",
    "--clear-groups",
    "env",
    "HOME=/home/web",
    "XDG_RUNTIME_DIR=/run/user/4711",
];

/// Whose systemd has the service of this user.
#[derive(Clone, Copy)]
enum Systemd {
    System,
    User,
}

impl Systemd {
    /// The words of `systemctl VERB... SERVICE`.
    fn systemctl<'a>(self, verb: &[&'a str]) -> Vec<&'a str> {
        match self {
            Systemd::System => [&["systemctl"], verb, &["rpmx@web"]].concat(),
            Systemd::User => [&USER[..], &["systemctl", "--user"], verb, &["rpmx"]].concat(),
        }
    }
}

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
        self.ok(&[&USER[..], &["sh", "-c", line]].concat())
    }

    fn systemctl(&self, of: Systemd, verb: &[&str]) -> String {
        self.ok(&of.systemctl(verb))
    }

    /// The journal of the service, whoever has it.
    fn journal(&self) -> String {
        let units = [
            "_SYSTEMD_UNIT=rpmx@web.service",
            "+",
            "_SYSTEMD_USER_UNIT=rpmx.service",
        ];
        let ran = self.run(&[&["journalctl", "--no-pager", "--lines=100"][..], &units].concat());
        String::from_utf8_lossy(&ran.stdout).into_owned()
    }

    /// The processes of the apps.
    fn workers(&self) -> Vec<u64> {
        let list: serde_json::Value = serde_json::from_str(&self.as_user("rpmx list --json")).expect("JSON");
        let processes = list.as_array().expect("a list").iter();
        processes.map(|it| it["pid"].as_u64().expect("it runs")).collect()
    }

    fn daemon(&self, of: Systemd) -> String {
        let pid = self.systemctl(of, &["show", "--property=MainPID", "--value"]);
        pid.trim().to_owned()
    }

    /// What runs there as the user of the service, but for the user's systemd.
    fn processes_of_the_user(&self) -> String {
        let ran = self.run(&["ps", "--user", "4711", "--format", "pid=,args="]);
        let lines = String::from_utf8_lossy(&ran.stdout).into_owned();
        let others = lines
            .lines()
            .filter(|line| !line.ends_with("systemd --user") && !line.ends_with("(sd-pam)"));
        others.collect::<Vec<_>>().join("\n")
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
    let mut pack = xtask();
    pack.args(["deb", "--fast"])
        .args([&directory.join("rpm"), directory]);
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
    system.systemctl(Systemd::System, &["enable", "--now"]);
    get(port.number(), "/").expect("what was saved is served");
}

/// Reloads, restarts, kills and upgrades it under traffic.
fn loses_nothing(system: &System, of: Systemd, port: &Port, deb: &str) {
    let (workers, daemon) = (system.workers(), system.daemon(of));
    assert_eq!(workers.len(), 2);
    let unchanged =
        |after: &str| assert_eq!(system.workers(), workers, "after {after}\n{}", system.journal());

    let clients = Clients::begin(port, "/", CLIENTS);
    clients.wait_ok(SOME);
    system.systemctl(of, &["reload"]);
    assert_eq!(system.daemon(of), daemon, "another version, in its place");
    unchanged("a reload of the service");
    clients.wait_ok(SOME);
    system.systemctl(of, &["restart"]);
    let second = system.daemon(of);
    assert_ne!(second, daemon, "another daemon\n{}", system.journal());
    unchanged("a restart of the service");
    clients.wait_ok(SOME);
    system.ok(&["kill", "-KILL", &second]);
    let next = |(pid, state): &(String, String)| {
        !["0", second.as_str()].contains(&pid.as_str()) && state.trim() == "active"
    };
    // It has a pid before it is up, and a command of ours must not start another one.
    let daemon = || {
        let pid = system.daemon(of);
        (
            pid,
            system.systemctl(of, &["show", "--property=ActiveState", "--value"]),
        )
    };
    wait_until("systemd starts the next one", BOUND, daemon, next);
    unchanged("a crash");
    clients.wait_ok(SOME);
    let upgraded = system.ok(&["dpkg", "--install", deb]);
    assert!(!upgraded.contains("still runs the version before"), "{upgraded}");
    unchanged("an upgrade");
    clients.wait_ok(SOME);
    let reports = clients.finish();
    let unclean = |(_, report): &&(Kind, Report)| report.check_clean().is_err();
    let unclean: Vec<_> = reports.iter().filter(unclean).collect();
    assert!(unclean.is_empty(), "{unclean:#?}\n{}", system.journal());

    system.systemctl(of, &["stop"]);
    // The keeper ends by itself after the daemon, and is waited for by systemd after that.
    let processes = || system.processes_of_the_user();
    wait_until("nothing is left of it", BOUND, processes, String::is_empty);
    system.systemctl(of, &["start"]);
    get(port.number(), "/").expect("it is served again");
}

/// Hands the apps over from the system's service to one of the user, who needs root for nothing but lingering.
fn hand_to_the_user(system: &System, port: &Port) {
    let asked = system.run(&[&USER[..], &["rpmx", "startup"]].concat());
    assert_eq!(asked.status.code(), Some(1), "{asked:?}");
    let [said, explained] = [&asked.stdout, &asked.stderr].map(|it| String::from_utf8_lossy(it));
    assert!(
        said.starts_with("sudo env ") && said.contains("startup systemd -u web"),
        "{said}"
    );
    assert!(
        explained.contains("systemctl --user enable --now rpmx"),
        "{explained}"
    );
    system.systemctl(Systemd::System, &["disable", "--now"]);
    system.ok(&["loginctl", "enable-linger", "web"]);
    await_users_systemd(system);
    system.systemctl(Systemd::User, &["enable", "--now"]);
    get(port.number(), "/").expect("it is served by the user's own service");
}

/// Waits until the user's systemd is up.
fn await_users_systemd(system: &System) {
    let words = [&USER[..], &["systemctl", "--user", "is-system-running"]].concat();
    // Whatever other services of users this machine has.
    let up = |ran: &Output| matches!(ran.stdout.trim_ascii(), b"running" | b"degraded");
    wait_until("the user's systemd is up", BOUND, || system.run(&words), up);
}

/// The user has no session: lingering alone keeps the service, and starts it with the system.
fn lingers(system: &System, port: &Port) {
    let processes = || system.processes_of_the_user();
    system.ok(&["loginctl", "disable-linger", "web"]);
    wait_until(
        "it ends with the user's systemd",
        BOUND,
        processes,
        String::is_empty,
    );
    system.ok(&["loginctl", "enable-linger", "web"]);
    await_users_systemd(system);
    let serves = || get(port.number(), "/").is_ok();
    wait_until("it is started as at boot", BOUND, serves, |serves| *serves);
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
    loses_nothing(&system, Systemd::System, &port, &deb);
    what_is_sent_to_journald_is_in_the_journal(&system);
    hand_to_the_user(&system, &port);
    loses_nothing(&system, Systemd::User, &port, &deb);
    lingers(&system, &port);

    system.ok(&["dpkg", "--remove", "rpmx"]);
    let processes = || system.processes_of_the_user();
    wait_until("nothing is left", BOUND, processes, String::is_empty);
    assert_eq!(
        system.run(&["rpmx", "--version"]).status.code(),
        Some(127),
        "it is gone"
    );
}
