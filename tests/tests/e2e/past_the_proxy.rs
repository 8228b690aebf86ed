//! What the proxy promises (TLS, limits) holds, or the app does not start: no client ever bypasses it.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::ask::BOUND;
use rpm_e2e::certificate::certificate;
use rpm_e2e::complaint::assert_says;
use rpm_e2e::denied::Denied;
use rpm_e2e::outside::kill_daemon;
use rpm_e2e::place::Place;
use rpm_e2e::steering;
use rpm_testkit::{Port, Ran, Rpm, Status, wait_until};

/// Listens on HOST:PORT, even if there is no such address, and prints the result; answers `plain`.
const PLAIN: &str = "
import os, socket
server = socket.socket()
server.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND
if 'SHARED' in os.environ:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((os.environ.get('HOST', '0.0.0.0'), int(os.environ['PORT'])))
server.listen(16)
while True:
    client, _ = server.accept()
    client.recv(4096)
    client.sendall(b'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: 5\\r\\n\\r\\nplain')
    client.close()
";

/// An app that is to be served with TLS by the proxy.
struct Secret {
    rpm: Rpm,
    place: Place,
    port: Port,
    files: [PathBuf; 2],
    script: PathBuf,
}

impl Secret {
    fn new() -> Secret {
        let (rpm, place) = (Rpm::new(), Place::new());
        let files = certificate(&place, "site", "a.test");
        let script = place.write("plain.py", PLAIN);
        Secret {
            rpm,
            place,
            port: Port::reserve(),
            files,
            script,
        }
    }

    fn app(&self, script: &Path) -> App {
        let [chain, key] = &self.files;
        App::of([script])
            .args([
                "-i",
                "1",
                "--name",
                "secret",
                "--balance",
                "proxy",
                "--max-restarts",
                "1",
            ])
            .args(["--tls-cert".as_ref(), chain.as_os_str()])
            .args(["--tls-key".as_ref(), key.as_os_str()])
            .port(&self.port)
    }

    fn python(&self) -> App {
        self.app(&self.script)
    }

    /// Clients in clear text are left waiting where nothing is served.
    fn curl(&self, scheme: &str) -> Ran {
        let within = if scheme == "https" { "15" } else { "3" };
        let to = format!("a.test:{}", self.port);
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--max-time", within, "--cacert"])
            .arg(&self.files[0])
            .args([
                "--resolve",
                &format!("{to}:127.0.0.1"),
                &format!("{scheme}://{to}/"),
            ]);
        curl.output().expect("curl runs").into()
    }

    /// Checks that clear-text clients get nothing.
    fn is_closed(&self) {
        let asked = self.curl("http");
        assert!(
            asked.code != Some(0) && asked.stdout.is_empty(),
            "{asked:#?}\n{}",
            self.rpm.log()
        );
    }

    /// Checks that the app does not start, for this reason, and that no process listens.
    fn is_refused(&self, ran: &Ran, parts: &[&str]) {
        assert_says(ran, parts);
        self.is_closed();
        let connected = TcpStream::connect(("127.0.0.1", self.port.number()));
        assert!(connected.is_err(), "{}", self.rpm.log());
    }
}

#[test]
fn where_calls_cannot_be_intercepted_it_does_not_start() {
    for denied in [Denied::Seccomp, Denied::Listener, Denied::Getfd] {
        let secret = Secret::new();
        let command = secret.python().command(&secret.rpm);
        let ran = denied.to(&command).output().expect("python3 runs").into();
        secret.is_refused(
            &ran,
            &["cannot be behind the proxy", "listeners are not seen", "--listen"],
        );
        assert_eq!(secret.rpm.list(), []);
    }
    let secret = Secret::new();
    let ran = secret.python().args(["--no-intercept"]).try_start(&secret.rpm);
    secret.is_refused(&ran, &["cannot be behind the proxy", "leave --no-intercept out"]);
}

#[test]
fn a_listener_for_the_network_that_the_proxy_does_not_serve_is_refused() {
    let why = ["so `listen` is refused (EACCES)", "Permission denied"];
    let left_out = Secret::new();
    let ran = left_out
        .python()
        .args(["--ports", "9999"])
        .try_start(&left_out.rpm);
    left_out.is_refused(&ran, &[&why[..], &["--ports leaves it out"]].concat());
    let random = Secret::new();
    let ran = random.python().env("PORT", 0).try_start(&random.rpm);
    random.is_refused(&ran, &[&why[..], &["a random port"]].concat());
    // TEST-NET-1: the program may bind it, and the proxy cannot.
    let foreign = Secret::new();
    let ran = foreign.python().env("HOST", "192.0.2.1").try_start(&foreign.rpm);
    let addr = format!("192.0.2.1:{}", foreign.port);
    foreign.is_refused(
        &ran,
        &[&why[..], &[&addr, "Cannot assign requested address"]].concat(),
    );
}

/// Its user's sockets share no address with those of root, so either the proxy has a socket of that user, or nothing listens.
#[test]
fn nor_is_it_served_past_the_proxy_as_another_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for shared in [false, true] {
        let secret = Secret::new();
        // An interpreter in root's home cannot be executed by another user.
        let python = ["--interpreter", "/usr/bin/python3"];
        let mut app = secret
            .python()
            .args(python)
            .args(["--uid", "65534", "--gid", "65534"]);
        if shared {
            app = app.env("SHARED", 1);
        }
        let ran = app.try_start(&secret.rpm);
        secret.is_closed();
        match ran.code {
            Some(0) => assert_eq!(secret.curl("https").stdout, "plain"),
            _ => secret.is_refused(&ran, &["so `listen` is refused (EACCES)"]),
        }
    }
}

/// A loopback listener is for this machine: metrics, a debugger.
#[test]
fn what_ports_leave_out_may_be_had_on_this_machine() {
    let secret = Secret::new();
    let (other, served) = (Port::reserve(), secret.port.to_string());
    let both = format!("import socket\nother = socket.create_server(('127.0.0.1', {other}))\n{PLAIN}");
    let script = secret.place.write("both.py", &both);
    secret.app(&script).args(["--ports", &served]).start(&secret.rpm);
    secret.is_closed();
    assert_eq!(secret.curl("https").stdout, "plain");
    assert!(TcpStream::connect(("127.0.0.1", other.number())).is_ok());
}

/// The next daemon may find the workers serving and their certificate missing.
#[test]
fn without_its_certificate_the_next_daemon_serves_nobody() {
    let secret = Secret::new();
    secret.python().start(&secret.rpm);
    assert_eq!(secret.curl("https").stdout, "plain");
    let key = &secret.files[1];
    let aside = secret.place.path().join("aside");
    fs::rename(key, &aside).expect("it is ours");
    kill_daemon(&secret.rpm);
    let listed = secret.rpm.list();
    assert_eq!(listed[0].status, Status::Online);
    secret.is_closed();
    let info = secret.rpm.describe("secret");
    assert!(info.listeners[0].reason.contains("site.key"), "{info:#?}");
    fs::rename(&aside, key).expect("it is ours");
    let asked = || secret.curl("https").stdout;
    wait_until("it serves again", BOUND, asked, |said| said == "plain");
}

#[test]
fn a_port_for_redirects_that_is_taken_is_told_and_tls_is_served() {
    let secret = Secret::new();
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let number = taken.local_addr().expect("its address").port().to_string();
    let host = ["--redirect-http", &number];
    secret
        .python()
        .env("HOST", "127.0.0.1")
        .args(host)
        .start(&secret.rpm);
    assert_eq!(secret.curl("https").stdout, "plain");
    let info = secret.rpm.describe("secret");
    let told = format!("port {number}, whose clients are to be sent to https, cannot be opened");
    assert!(info.listeners[0].reason.contains(&told), "{info:#?}");
    secret.is_closed();
}

/// If the proxy's settings fail, they must not be replaced by defaults that promise nothing.
#[test]
fn an_access_log_that_cannot_be_written_is_a_reason_not_to_start() {
    let secret = Secret::new();
    let log = secret.place.path().join("nowhere/access.log");
    let app = secret.python().args(["--access-log".as_ref(), log.as_os_str()]);
    secret.is_refused(
        &app.try_start(&secret.rpm),
        &["cannot be behind the proxy", "nowhere/access.log"],
    );
}

#[test]
fn limits_that_mean_nothing_are_refused() {
    let secret = Secret::new();
    for option in [
        ["--max-body", "1M"],
        ["--max-head", "1M"],
        ["--access-log", "access.log"],
    ] {
        let app = secret.python().args(["--protocol", "tcp"]).args(option);
        assert_says(
            &app.try_start(&secret.rpm),
            &["the proxy sees no requests", option[0]],
        );
    }
}

/// `rpm serve` with an incomplete password.
#[test]
fn a_site_is_not_open_because_its_password_is_missing() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    place.write("site/index.html", "secret");
    for (user, password, switched) in [("me", "", "true"), ("", "it", "true"), ("me", "it", "yes")] {
        let file = serde_json::json!({"apps": [{"name": "site", "script": "serve", "env": {
            "PM2_SERVE_PATH": "site",
            "PM2_SERVE_PORT": port.number(),
            "PM2_SERVE_BASIC_AUTH": switched,
            "PM2_SERVE_BASIC_AUTH_USERNAME": user,
            "PM2_SERVE_BASIC_AUTH_PASSWORD": password,
        }}]});
        place.write("ecosystem.json", &file.to_string());
        let ran = place.run(&rpm, ["start", "ecosystem.json"]);
        assert_says(
            &ran,
            &[if switched == "true" {
                "a user and a password"
            } else {
                "must be true or false"
            }],
        );
    }
    let words = [
        "serve",
        "site",
        "--basic-auth-username",
        "me",
        "--basic-auth-password",
        "",
    ];
    assert_says(&place.run(&rpm, words), &["a user and a password"]);
    assert_eq!(rpm.list(), []);
}

/// The private slots behind a port: its listeners on loopback addresses.
fn private_slots(port: &Port) -> Vec<SocketAddr> {
    const LISTEN: &str = "0A";
    let table = fs::read_to_string("/proc/net/tcp").expect("it is read");
    let slot = |line: &str| {
        let mut fields = line.split_whitespace();
        let (ip, number) = fields.nth(1)?.split_once(':')?;
        // The address is in the machine's byte order.
        let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes());
        let number = u16::from_str_radix(number, 16).ok()?;
        let listens = fields.nth(1)? == LISTEN && number == port.number() && ip.octets()[1] >> 6 == 1;
        listens.then(|| SocketAddr::new(ip.into(), number))
    };
    table.lines().skip(1).filter_map(slot).collect()
}

/// Only the proxy can connect to a worker, whatever happens to the daemon.
fn only_the_proxy_reaches_a_worker_of(rpm: &Rpm) {
    let port = Port::reserve();
    App::cluster("hello.js", "2")
        .args(["--name", "web", "--balance", "proxy", "--health-check", "/"])
        .port(&port)
        .start(rpm);
    let is_closed = || {
        let slots = private_slots(&port);
        assert!(slots.len() >= 2, "{slots:?}");
        let tried: Vec<_> = slots
            .iter()
            .map(|slot| {
                let slot = *slot;
                let within = Duration::from_millis(400);
                std::thread::spawn(move || TcpStream::connect_timeout(&slot, within))
            })
            .collect();
        for (slot, tried) in slots.iter().zip(tried) {
            let error = tried
                .join()
                .expect("it does not panic")
                .expect_err("it is closed");
            // That of a worker that has left may have been closed meanwhile.
            let closed = error.kind() == ErrorKind::ConnectionRefused && !private_slots(&port).contains(slot);
            assert!(error.kind() == ErrorKind::TimedOut || closed, "{slot}: {error}");
        }
        let answer = rpm_testkit::get(port.number(), "/").expect("the proxy answers");
        assert_eq!(answer.status, 200, "{}", rpm.log());
    };
    is_closed();
    rpm.ok(["reload", "web", "--wait"]);
    is_closed();
    kill_daemon(rpm);
    assert_eq!(rpm.list().len(), 2);
    is_closed();
    rpm.ok(["update"]);
    is_closed();
    let log = rpm.log();
    assert!(!log.contains("connections of any local user"), "{log}");
}

#[test]
fn only_the_proxy_reaches_a_worker() {
    only_the_proxy_reaches_a_worker_of(&Rpm::new());
}

/// It knows the proxy by a secret, not by a privilege.
#[test]
fn only_the_proxy_reaches_a_worker_of_an_unprivileged_daemon() {
    let test = "only_the_proxy_reaches_a_worker_of_an_unprivileged_daemon";
    if let Some(rpm) = steering::Path::Classic.rpm(test) {
        only_the_proxy_reaches_a_worker_of(&rpm);
    }
}
