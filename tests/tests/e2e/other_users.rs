//! A daemon of root and apps that run as another user: what that user may not do the daemon does not do for it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::Path;

use rpm_e2e::app::App;
use rpm_e2e::ask::BOUND;
use rpm_e2e::outside::kill_daemon;
use rpm_e2e::place::Place;
use rpm_testkit::{Port, Rpm, get, skip, wait_until};
use serde_json::json;

/// Nobody.
const OTHER: u32 = 65_534;
/// A server on `PORT`, and on `HOST` if that is given.
const SITE: &str = "require('http').createServer((q, r) => r.end('pid ' + process.pid + ' uid ' + process.getuid()))\
                    .listen(+process.env.PORT, process.env.HOST);";

fn may(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip(test, "only a daemon of root runs apps as other users");
    }
    root
}

/// A directory there which belongs to this user, and which nobody else can look into.
fn closed(place: &Place, name: &str, owner: u32) -> std::path::PathBuf {
    let path = place.path().join(name);
    fs::create_dir(&path).expect("a directory");
    fs::set_permissions(&path, Permissions::from_mode(0o700)).expect("it is ours");
    chown(&path, Some(owner), Some(owner)).expect("root may");
    path
}

/// Whoever can write in a directory can have a log there lead elsewhere.
#[test]
fn links_that_the_apps_user_has_made_lead_nowhere_that_it_may_not_go() {
    if !may("links_that_the_apps_user_has_made_lead_nowhere_that_it_may_not_go") {
        return;
    }
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let (roots, theirs) = (closed(&place, "roots", 0), closed(&place, "theirs", OTHER));
    let names = [
        "out.log.1",
        "err.log",
        "app-0.pid",
        "access.log",
        ".err.log.times",
        "out.log",
        ".out.log.times",
    ];
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
    for name in names {
        let (link, target) = (theirs.join(name), roots.join(name));
        let _ = fs::remove_file(&link);
        fs::write(&target, "precious\n").expect("a file");
        symlink(&target, &link).expect("a link");
        lchown(&link, Some(OTHER), Some(OTHER)).expect("root may");
    }
    rpm.ok(["start", "w"]);
    get(port.number(), "/").expect("an answer");
    rpm.ok(["flush", "w"]);
    rpm.ok(["reloadLogs"]);
    rpm.ok(["restart", "w"]);
    get(port.number(), "/").expect("an answer");
    // What went there before the daemon was killed would go there afterwards.
    kill_daemon(&rpm);
    rpm.ok(["restart", "w"]);
    rpm.ok(["delete", "w"]);
    rpm.ok(["kill"]);
    for name in names {
        assert_eq!(place.read(&format!("roots/{name}")), "precious\n", "{name}");
        assert!(theirs.join(name).is_symlink(), "{name}");
    }
}

/// Where the app's user has no say about what lies in a directory, nothing has changed.
#[test]
fn files_in_directories_of_root_are_written_by_root() {
    if !may("files_in_directories_of_root_are_written_by_root") {
        return;
    }
    let (rpm, place) = (Rpm::new(), Place::new());
    let (roots, theirs) = (closed(&place, "roots", 0), closed(&place, "theirs", OTHER));
    symlink(&roots, place.path().join("link")).expect("a link");
    // Of a daemon of before, which made it as root.
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
    // Below its own home, which is root's alone.
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

/// Without `uid`, too: in `/tmp` everybody can put a link.
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
        |log| log.contains("output is being lost"),
    );
}
