//! A root daemon with apps of another user: the daemon does nothing for an app that its user may not do.

use std::fs::{self, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::Path;

use rpm_e2e::app::App;
use rpm_e2e::ask::BOUND;
use rpm_e2e::complaint::assert_says;
use rpm_e2e::outside::kill_daemon;
use rpm_e2e::place::Place;
use rpm_testkit::{Port, Rpm, get, get_from, skip, wait_until};
use rpm_wire::api::Status;
use serde_json::json;

/// Nobody, and another user without a name.
const OTHER: u32 = 65_534;
const THIRD: u32 = 65_432;
/// A server on `PORT`, and on `HOST` if that is set.
const SITE: &str = "require('http').createServer((q, r) => r.end('pid ' + process.pid + ' uid ' + process.getuid()))\
                    .listen(+process.env.PORT, process.env.HOST);";

fn may(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip(test, "only a daemon of root runs apps as other users");
    }
    root
}

/// Creates a directory that belongs to this user and is closed to others.
fn closed(place: &Place, name: &str, owner: u32) -> std::path::PathBuf {
    let path = place.path().join(name);
    fs::create_dir(&path).expect("a directory");
    fs::set_permissions(&path, Permissions::from_mode(0o700)).expect("it is ours");
    chown(&path, Some(owner), Some(owner)).expect("root may");
    path
}

fn serves_unix(place: &Place, path: &Path) -> std::path::PathBuf {
    let path = path.display();
    let text = format!(
        "require('http').createServer((q, r) => r.end('x')).listen({:?});",
        path.to_string()
    );
    place.write("unix.js", &text)
}

/// `listen(path)` where a regular file exists.
#[test]
fn a_regular_file_is_no_stale_socket() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let file = place.write("precious.db", "precious\n");
    let script = serves_unix(&place, &file);
    let ran = App::of([script]).args(["--name", "x", "-i", "1"]).try_start(&rpm);
    assert_says(&ran, &["EADDRINUSE"]);
    assert_eq!(place.read("precious.db"), "precious\n");
    rpm.ok(["delete", "x"]);
    assert_eq!(place.read("precious.db"), "precious\n");
}

/// The app has moved it, or another one has put a file there.
#[test]
fn a_path_that_is_no_longer_the_socket_that_was_made_stays() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let path = place.path().join("s");
    let script = serves_unix(&place, &path);
    let app = App::of([script]).args(["--name", "x", "-i", "1"]);
    app.start(&rpm);
    assert!(fs::metadata(&path).expect("it is there").file_type().is_socket());
    fs::rename(&path, place.path().join("moved")).expect("it is moved");
    fs::write(&path, "of somebody else").expect("a file");
    rpm.ok(["delete", "x"]);
    assert_eq!(place.read("s"), "of somebody else");
    fs::remove_file(&path).expect("it is there");
    // A socket that a killed program left is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    app.start(&rpm);
    rpm.ok(["delete", "x"]);
    assert!(!path.exists(), "what was made is removed");
}

#[test]
fn sockets_are_made_in_the_file_system_as_the_apps_user() {
    if !may("sockets_are_made_in_the_file_system_as_the_apps_user") {
        return;
    }
    let (rpm, place) = (Rpm::new(), Place::new());
    let (roots, theirs) = (closed(&place, "roots", 0), closed(&place, "theirs", OTHER));
    fs::write(roots.join("file"), "precious").expect("a file");
    drop(std::os::unix::net::UnixListener::bind(roots.join("stale")).expect("a socket"));
    let app = |path: &Path| {
        let script = serves_unix(&place, path);
        App::of([script]).args(["--name", "x", "-i", "1", "--uid", "65534"])
    };
    for name in ["file", "stale", "new"] {
        let ran = app(&roots.join(name)).try_start(&rpm);
        assert_says(&ran, &["EACCES"]);
        rpm.ok(["delete", "x"]);
    }
    assert_eq!(place.read("roots/file"), "precious");
    assert!(roots.join("stale").exists() && !roots.join("new").exists());
    let path = theirs.join("s");
    app(&path).start(&rpm);
    assert_eq!(fs::metadata(&path).expect("it is there").uid(), OTHER);
    kill_daemon(&rpm);
    assert_eq!(rpm.wait_status("x", Status::Online).len(), 1);
    rpm.ok(["delete", "x"]);
    assert!(!path.exists(), "what was made is removed, by the next daemon too");
}

/// Whoever can write to a directory can replace a log there by a link.
#[test]
fn links_that_the_apps_user_has_made_lead_nowhere_that_it_may_not_go() {
    if !may("links_that_the_apps_user_has_made_lead_nowhere_that_it_may_not_go") {
        return;
    }
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let (roots, theirs) = (closed(&place, "roots", 0), closed(&place, "theirs", OTHER));
    let names: Vec<&str> = "out.log.1 err.log app-0.pid access.log .err.log.times out.log .out.log.times"
        .split(' ')
        .collect();
    let script = place.write(
        "w.js",
        &format!("console.log('* * * * * root touch'.padEnd(2000)); console.error('bad'); {SITE}"),
    );
    let file = |name: &str| theirs.join(name).display().to_string();
    let app = json!({"name": "w", "script": script, "instances": 1, "exec_mode": "cluster", "uid": "65534", "gid": "65534",
        "out_file": file("out.log"), "error_file": file("err.log"), "merge_logs": true, "log_max_size": "1K", "pid_file": file("app.pid"),
        "balance": "proxy", "access_log": file("access.log"), "env": {"PORT": port.number()}});
    place.write("ecosystem.json", &json!({"apps": [app]}).to_string());
    place.ok(&rpm, ["start", "ecosystem.json"]);
    get(port.number(), "/").expect("an answer");
    // The first one was rotated.
    for name in &names[..5] {
        let made = || fs::metadata(theirs.join(name)).map_or(0, |meta| meta.size());
        wait_until("it is written", BOUND, made, |size| *size > 0);
        assert_eq!(
            fs::metadata(theirs.join(name)).expect("it is there").uid(),
            OTHER,
            "{name}"
        );
    }
    assert!(place.read("theirs/out.log.1").contains("root touch"));
    rpm.ok(["stop", "w"]);
    for name in &names {
        let (link, target) = (theirs.join(name), roots.join(name));
        let _ = fs::remove_file(&link);
        fs::write(&target, "precious\n").expect("a file");
        symlink(&target, &link).expect("a link");
        lchown(&link, Some(OTHER), Some(OTHER)).expect("root may");
    }
    // An app whose log cannot be written is not started.
    let told = rpm.fails(["start", "w"]);
    assert!(told.contains("cannot open the access log"), "{told}");
    assert_eq!(place.read("roots/access.log"), "precious\n");
    rpm.ok(["stop", "w"]);
    fs::remove_file(theirs.join("access.log")).expect("it is a link");
    rpm.ok(["start", "w"]);
    get(port.number(), "/").expect("an answer");
    rpm.ok(["flush", "w"]);
    rpm.ok(["reloadLogs"]);
    rpm.ok(["restart", "w"]);
    get(port.number(), "/").expect("an answer");
    // What was written there before the daemon was killed would be written there afterwards.
    kill_daemon(&rpm);
    rpm.ok(["restart", "w"]);
    rpm.ok(["delete", "w"]);
    rpm.ok(["kill"]);
    for name in names {
        assert_eq!(place.read(&format!("roots/{name}")), "precious\n", "{name}");
        assert_eq!(theirs.join(name).is_symlink(), name != "access.log", "{name}");
    }
}

/// In directories in which the app's user cannot write, root writes as before.
#[test]
fn files_in_directories_of_root_are_written_by_root() {
    if !may("files_in_directories_of_root_are_written_by_root") {
        return;
    }
    let (rpm, place) = (Rpm::new(), Place::new());
    let (roots, theirs) = (closed(&place, "roots", 0), closed(&place, "theirs", OTHER));
    symlink(&roots, place.path().join("link")).expect("a link");
    // An older daemon created it as root.
    fs::write(theirs.join("old.log"), "before\n").expect("a file");
    fs::set_permissions(theirs.join("old.log"), Permissions::from_mode(0o600)).expect("it is ours");
    let script = place.write("w.sh", "echo \"a line\"; echo \"an error\" >&2; exec sleep 1000");
    let app = |name: &str, out: &Path| {
        json!({"name": name, "script": script, "interpreter": "/bin/sh", "uid": "65534",
        "out_file": out, "pid_file": roots.join(format!("{name}.pid"))})
    };
    let apps = [
        app("one", &place.path().join("link/new/out.log")),
        app("two", &theirs.join("old.log")),
    ];
    place.write("ecosystem.json", &json!({"apps": apps}).to_string());
    place.ok(&rpm, ["start", "ecosystem.json"]);
    let has = |path: &str, text: &str| {
        wait_until("its line", BOUND, || place.read(path), |out| out == text);
        assert_eq!(
            fs::metadata(place.path().join(path)).expect("it is there").uid(),
            0,
            "{path}"
        );
    };
    has("roots/new/out.log", "a line\n");
    assert_eq!(place.read("theirs/old.log.before"), "before\n");
    let line = || place.read("theirs/old.log");
    wait_until("its line", BOUND, line, |out| out == "a line\n");
    assert_eq!(
        fs::metadata(theirs.join("old.log")).expect("it is there").uid(),
        OTHER
    );
    // Below its own home, which only root can read.
    let error = || String::from_utf8_lossy(&rpm.output("one", "error", None)).into_owned();
    wait_until("its line", BOUND, error, |text| text == "an error\n");
    assert!(rpm.ok(["logs", "one", "--nostream"]).contains("a line"));
    let pid = rpm.pids("one")[0].to_string();
    let name = format!("roots/one-{}.pid", rpm.list()[0].id);
    assert_eq!(place.read(&name), pid);
    rpm.ok(["flush"]);
    assert_eq!(
        place.read("roots/new/out.log") + &place.read("theirs/old.log"),
        ""
    );
    rpm.ok(["delete", "one"]);
    assert!(!place.path().join(name).exists());
}

/// Also without `uid`: in `/tmp` every user can create links.
#[test]
fn links_of_others_are_not_followed_for_the_daemons_own_apps() {
    if !may("links_of_others_are_not_followed_for_the_daemons_own_apps") {
        return;
    }
    let (rpm, place) = (Rpm::new(), Place::new());
    let (roots, public) = (closed(&place, "roots", 0), closed(&place, "public", 0));
    fs::set_permissions(&public, Permissions::from_mode(0o1777)).expect("it is ours");
    for name in ["out.log", "err.log"] {
        fs::write(roots.join(name), "precious\n").expect("a file");
        symlink(roots.join(name), public.join(name)).expect("a link");
    }
    lchown(public.join("out.log"), Some(OTHER), Some(OTHER)).expect("root may");
    let script = place.write("w.sh", "echo out; echo err >&2; exec sleep 1000");
    let app = json!({"name": "w", "script": script, "interpreter": "/bin/sh",
        "out_file": public.join("out.log"), "error_file": public.join("err.log")});
    place.write("ecosystem.json", &json!({"apps": [app]}).to_string());
    place.ok(&rpm, ["start", "ecosystem.json"]);
    let err = || place.read("roots/err.log");
    wait_until("its line", BOUND, err, |text| text == "precious\nerr\n");
    rpm.ok(["flush", "w"]);
    assert_eq!(place.read("roots/out.log"), "precious\n");
    wait_until(
        "it is said",
        BOUND,
        || rpm.log(),
        |log| log.contains("losing output"),
    );
}

/// A set-user-ID program started by a worker would run with the worker's filter.
#[test]
fn apps_of_another_user_gain_no_privileges_unless_they_are_to() {
    if !may("apps_of_another_user_gain_no_privileges_unless_they_are_to") {
        return;
    }
    let rpm = Rpm::new();
    let line = "grep NoNewPrivs /proc/self/status; exec sleep 1000";
    for (name, args, expected) in [
        ("other", &["--uid", "65534"][..], "1"),
        ("free", &["--uid", "65534", "--no-intercept"], "0"),
        ("own", &[], "0"),
    ] {
        App::of([line]).args(["--name", name]).args(args).start(&rpm);
        let out = || String::from_utf8_lossy(&rpm.output(name, "out", None)).into_owned();
        let text = wait_until("its line", BOUND, out, |text| text.ends_with('\n'));
        assert_eq!(text, format!("NoNewPrivs:\t{expected}\n"), "{name}");
    }
}

/// The users of all internet sockets on this port, including private slots.
fn owners(port: u16) -> Vec<u32> {
    let wanted = format!(":{port:04X}");
    let mut owners = Vec::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        let rows = text
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        // Connections have other states; 07 is a bound UDP socket.
        let bound = rows.filter(|row| row[1].ends_with(&wanted) && matches!(row[3], "0A" | "07"));
        owners.extend(bound.map(|row| row[7].parse::<u32>().expect("a number")));
    }
    owners
}

fn wait_owned(port: &Port, count: usize, user: u32) {
    let all = || owners(port.number());
    let right = |owners: &Vec<u32>| owners.len() >= count && owners.iter().all(|owner| *owner == user);
    wait_until("all are of the user", BOUND, all, right);
}

/// Only sockets of one user share a port, so a user who holds none of root's cannot join root's ports.
fn sockets_belong_to_the_apps_user(balance: &str, count: usize) {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let site = place.write("site.js", SITE);
    let app = |uid: u32| {
        let app = json!({"name": "w", "script": site, "instances": 2, "exec_mode": "cluster", "balance": balance,
            "uid": uid.to_string(), "env": {"PORT": port.number()}});
        place.write("ecosystem.json", &json!({"apps": [app]}).to_string());
    };
    app(OTHER);
    place.ok(&rpm, ["start", "ecosystem.json"]);
    wait_owned(&port, count, OTHER);
    kill_daemon(&rpm);
    rpm.ok(["ping"]);
    wait_owned(&port, count, OTHER);
    // For a while the new workers share the port with the old ones.
    app(THIRD);
    place.ok(&rpm, ["reload", "ecosystem.json"]);
    wait_owned(&port, count, THIRD);
    let body = get(port.number(), "/").expect("an answer").body;
    assert!(body.ends_with("uid 65432"), "{body}");
}

#[test]
fn slots_belong_to_the_apps_user() {
    if may("slots_belong_to_the_apps_user") {
        sockets_belong_to_the_apps_user("direct", 2);
    }
}

#[test]
fn slots_that_are_handed_over_belong_to_the_apps_user() {
    if may("slots_that_are_handed_over_belong_to_the_apps_user") {
        sockets_belong_to_the_apps_user("handoff", 2);
    }
}

#[test]
fn sockets_of_the_proxy_belong_to_the_apps_user() {
    if may("sockets_of_the_proxy_belong_to_the_apps_user") {
        sockets_belong_to_the_apps_user("proxy", 3);
    }
}

#[test]
fn udp_ports_and_passed_sockets_belong_to_the_apps_user() {
    if !may("udp_ports_and_passed_sockets_belong_to_the_apps_user") {
        return;
    }
    let (rpm, place) = (Rpm::new(), Place::new());
    let (udp, passed) = (Port::reserve(), Port::reserve());
    let text = "require('dgram').createSocket('udp4').bind(+process.env.PORT, () => process.send('ready'));";
    App::of([place.write("udp.js", text)])
        .args(["--name", "udp", "-i", "2", "--uid", "65534", "--wait-ready"])
        .port(&udp)
        .start(&rpm);
    wait_owned(&udp, 1, OTHER);
    let address = format!("127.0.0.1:{passed}");
    App::of([place.write("passed.sh", "exec sleep 1000")])
        .args([
            "--name", "passed", "-i", "1", "--uid", "65534", "--listen", &address,
        ])
        .args(["--interpreter", "/bin/sh"])
        .start(&rpm);
    wait_owned(&passed, 1, OTHER);
}

/// A connection that the daemon accepts and hands over could otherwise be bound to another port, one of another user's app.
#[test]
fn a_connection_that_is_handed_over_cannot_take_the_port_of_another_user() {
    if !may("a_connection_that_is_handed_over_cannot_take_the_port_of_another_user") {
        return;
    }
    let (rpm, place) = (Rpm::new(), Place::new());
    let (victim, port) = (Port::reserve(), Port::reserve());
    let site = place.write("site.js", SITE);
    App::of([site])
        .args(["--name", "victim", "-i", "2", "--uid", "65432"])
        .port(&victim)
        .env("HOST", "0.0.0.0")
        .start(&rpm);
    place.write(
        "steal.py",
        "import ctypes, socket, struct, sys\n\
         libc = ctypes.CDLL(None)\n\
         libc.connect(3, struct.pack('H14x', 0), 16)\n\
         s = socket.socket(fileno=3)\n\
         s.setblocking(True)\n\
         s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
         try:\n    s.bind(('', int(sys.argv[1])))\n    s.listen()\n    print('stolen', flush=True)\n    s.accept()\n\
         except Exception as e: print('refused', e, flush=True)\n",
    );
    let thief = place.write(
        "thief.js",
        "require('net').createServer({pauseOnConnect: true}, s => {\n\
           require('child_process').spawn('/usr/bin/python3', [__dirname + '/steal.py', process.env.VICTIM],\n\
             {stdio: ['ignore', 'inherit', 'inherit', s._handle]});\n\
         }).listen(+process.env.PORT, '0.0.0.0');",
    );
    let thief = App::of([thief]).args([
        "--name",
        "thief",
        "-i",
        "1",
        "--uid",
        "65534",
        "--balance",
        "handoff",
        // Intercepted calls are refused before the kernel sees them, which is not a security boundary.
        "--no-intercept",
    ]);
    thief.env("VICTIM", &victim).port(&port).start(&rpm);
    let _client = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port.number())).expect("it is accepted");
    let out = || String::from_utf8_lossy(&rpm.output("thief", "out", Some(2))).into_owned();
    let text = wait_until("it has tried", BOUND, out, |text| text.ends_with('\n'));
    assert!(text.contains("refused"), "{text}");
    for _ in 0..6 {
        let body = get(victim.number(), "/").expect("an answer").body;
        assert!(body.contains("uid 65432"), "{body}");
    }
}

/// Ports below 1024 that the daemon opens: only those that the configuration names.
#[test]
fn privileged_ports_are_those_that_the_configuration_names() {
    if !may("privileged_ports_are_those_that_the_configuration_names") {
        return;
    }
    let (rpm, place) = (Rpm::new(), Place::new());
    let host = Ipv4Addr::new(
        127,
        81,
        (std::process::id() >> 8) as u8,
        std::process::id() as u8 | 1,
    );
    let site = place.write("site.js", &SITE.replace("process.env.PORT", "811"));
    let app = |args: &[&str]| {
        let app = App::of([&site]).args(["--name", "w", "-i", "1"]).args(args);
        app.env("HOST", host)
    };
    let ran = app(&["--uid", "65534"]).try_start(&rpm);
    assert_says(&ran, &["EACCES", "--ports 811"]);
    rpm.ok(["delete", "w"]);
    for (args, port) in [
        (&["--uid", "65534", "--ports", "811"][..], ""),
        (&["--uid", "65534", "--ports", "811", "--balance", "proxy"], ""),
        (&["--uid", "65534"], "811"),
        (&["--gid", "65534"], ""),
        (&[], ""),
    ] {
        app(args).env("PORT", port).start(&rpm);
        get_from(host.into(), 811, "/").expect("an answer");
        rpm.ok(["delete", "w"]);
    }
}

/// Sockets in another network namespace are no concern of this one.
#[test]
fn sockets_of_another_network_namespace_are_not_served() {
    if !may("sockets_of_another_network_namespace_are_not_served") {
        return;
    }
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    place.write(
        "server.py",
        "import os, socket\n\
         s = socket.socket()\n\
         s.setsockopt(1, 2, 1)\n\
         s.bind(('', int(os.environ['PORT'])))\n\
         s.listen()\n\
         print('listens', flush=True)\n\
         s.accept()\n",
    );
    let own = format!(
        "exec unshare -Urn /usr/bin/python3 {}/server.py",
        place.path().display()
    );
    let script = place.write("own.sh", &own);
    let app = |args: &[&str]| {
        let app = App::of([&script]).args(["--interpreter", "/bin/sh", "--name", "w", "--uid", "65534"]);
        app.args(args).port(&port)
    };
    app(&["-i", "1"]).start(&rpm);
    wait_until(
        "it listens",
        BOUND,
        || rpm.output("w", "out", Some(0)),
        |out| out == b"listens\n",
    );
    assert_eq!(owners(port.number()), [] as [u32; 0], "nothing listens here");
    rpm.ok(["delete", "w"]);
    let ran = app(&["-i", "1", "--balance", "proxy", "--no-autorestart"]).try_start(&rpm);
    assert_says(&ran, &["network namespace"]);
    assert_eq!(owners(port.number()), [] as [u32; 0], "nothing listens here");
}
