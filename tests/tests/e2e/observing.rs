//! `observe on`: the process that serves the metrics, supervised and not listed.

use rpm_e2e::app::App;
use rpm_e2e::ask::BOUND;
use rpm_e2e::outside::kill_daemon;
use rpm_e2e::place::Place;
use rpm_e2e::raw::Connection;
use rpm_testkit::{Port, Rpm, get, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// What `observe status --json` says.
fn status(rpm: &Rpm) -> Value {
    serde_json::from_str(&rpm.ok(["observe", "status", "--json"])).expect("JSON")
}

pub(crate) fn pid(rpm: &Rpm) -> Option<u64> {
    status(rpm)["process"]["pid"].as_u64()
}

pub(crate) fn turn_on(rpm: &Rpm, port: &Port) {
    let on = rpm.run(["observe", "on", "--listen", &port.number().to_string()]);
    assert_eq!(on.code, Some(0), "{on:#?}\n{}", rpm.log());
    let url = format!("http://127.0.0.1:{port}/metrics");
    assert!(on.stderr.contains(&url), "{on:#?}");
    // A process in fork mode counts as ready after one second, and may need longer to reach its port.
    wait_until("it listens", BOUND, || port.listeners(), |count| *count > 0);
}

pub(crate) fn page(port: &Port) -> String {
    let answer = get(port.number(), "/metrics").expect("it answers");
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

/// Waits until the page says that the daemon runs.
fn wait_up(port: &Port) {
    let up = || get(port.number(), "/metrics").map_or_else(|error| error.to_string(), |answer| answer.body);
    wait_until("the metrics are served", BOUND, up, |page| {
        page.contains("rpm_up 1\n")
    });
}

fn end(pid: u64) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, Signal::KILL).expect("it is there");
}

/// It is listed only for whoever names it.
fn is_hidden(rpm: &Rpm) {
    for command in [
        &["list"][..],
        &["jlist"],
        &["list", "--json"],
        &["list", "default"],
        &["id", "rpm-observe"],
    ] {
        let shown = rpm.run(command);
        assert!(!shown.stdout.contains("rpm-observe"), "{command:?}: {shown:#?}");
    }
    for command in [
        &["list", "--hidden"][..],
        &["list", "rpm-observe"],
        &["describe", "rpm-observe"],
    ] {
        let shown = rpm.ok(command);
        assert!(shown.contains("rpm-observe"), "{command:?}: {shown}");
    }
}

#[test]
fn it_is_supervised_and_not_listed() {
    let (rpm, web, later, port) = (Rpm::new(), Port::reserve(), Port::reserve(), Port::reserve());
    assert_eq!(rpm.ok(["observe", "status"]), "off\n");
    assert_eq!(rpm.run(["observe", "off"]).code, Some(0));
    assert_eq!(rpm.daemon_pid(), None, "neither starts a daemon");
    turn_on(&rpm, &port);
    assert!(rpm.list().is_empty(), "{:?}", rpm.list());
    let all = rpm.run(["stop", "all"]);
    assert!(all.stderr.contains("there is no process"), "{all:#?}");
    App::cluster("hello.js", "2").port(&web).start(&rpm);
    App::new("hello.js")
        .args(["--name", "later"])
        .port(&later)
        .start(&rpm);
    let ids: Vec<u32> = rpm.list().iter().map(|process| process.id).collect();
    assert_eq!(ids, [0, 1, 2], "as without it");
    let page = wait_until(
        "both are counted",
        BOUND,
        || page(&port),
        |page| page.contains(r#"rpm_workers{app="hello",state="online"} 2"#),
    );
    assert!(!page.contains("rpm-observe"), "{page}");
    is_hidden(&rpm);
    let logs = rpm.ok(["logs", "rpm-observe", "--nostream"]);
    assert!(logs.contains("rpm-observe | metrics for Prometheus"), "{logs}");
    assert!(
        !logs.contains("|rpm-observe"),
        "it has no id that users know: {logs}"
    );
    let scaled = rpm.run(["scale", "rpm-observe", "2"]);
    assert!(scaled.stderr.contains("cannot be scaled"), "{scaled:#?}");
    let before = pid(&rpm).expect("it runs");
    rpm.ok(["restart", "all", "--hard"]);
    rpm.ok(["stop", "all"]);
    rpm.ok(["delete", "all"]);
    assert_eq!(pid(&rpm), Some(before), "`all` does not mean it");
    App::new("hello.js").port(&later).start(&rpm);
    assert_eq!(rpm.list()[0].id, 0, "the list was empty");
    end(before);
    let after = || pid(&rpm);
    wait_until("another one", BOUND, after, |pid| {
        pid.is_some_and(|pid| pid != before)
    });
    wait_up(&port);
    // What a disk has not taken within a second is left out.
    let events = || rpm.ok(["events", "rpm-observe"]);
    let told = |events: &String| {
        events.contains("crashed: killed by SIGKILL") && events.contains("  rpm-observe  crashed")
    };
    wait_until("its end is recorded", BOUND, events, told);
    rpm.ok(["observe", "off"]);
    assert_eq!(rpm.ok(["observe", "status"]), "off\n");
    assert!(get(port.number(), "/metrics").is_err(), "it has ended");
    assert_eq!(
        rpm.ok(["list", "--hidden", "--json"]).matches("\"name\"").count(),
        1
    );
}

#[test]
fn it_comes_back_after_a_death_an_update_and_at_boot() {
    let (rpm, web, port) = (Rpm::new(), Port::reserve(), Port::reserve());
    App::cluster("hello.js", "1").port(&web).start(&rpm);
    turn_on(&rpm, &port);
    let saved = rpm.run(["save"]);
    assert!(saved.stderr.contains("1 app saved"), "{saved:#?}");
    let before = pid(&rpm);
    kill_daemon(&rpm);
    assert_eq!(rpm.list().len(), 1, "the next daemon has the app");
    assert_eq!(pid(&rpm), before, "and this, which served on");
    wait_up(&port);
    let kept = rpm.pids("hello");
    rpm.ok(["update"]);
    let renewed = || pid(&rpm);
    wait_until("the new program serves", BOUND, renewed, |pid| {
        pid.is_some() && *pid != before
    });
    wait_up(&port);
    assert_eq!(rpm.pids("hello"), kept, "an update leaves the apps alone");
    rpm.ok(["kill"]);
    assert!(
        get(port.number(), "/metrics").is_err(),
        "it has ended with everything"
    );
    let back = rpm.run(["resurrect"]);
    assert_eq!(back.code, Some(0), "{back:#?}");
    wait_up(&port);
    let served = pid(&rpm);
    rpm.ok(["resurrect"]);
    assert_eq!(pid(&rpm), served, "what runs is left alone");
    rpm.ok(["observe", "off"]);
    rpm.ok(["save"]);
    rpm.ok(["kill"]);
    rpm.ok(["resurrect"]);
    assert_eq!(rpm.ok(["observe", "status"]), "off\n");
}

#[test]
fn a_file_turns_it_on_and_off() {
    let (rpm, place, port, other) = (Rpm::new(), Place::new(), Port::reserve(), Port::reserve());
    place.write("app.js", "setInterval(() => {}, 1000);");
    place.write("token", "correct-horse-battery\n");
    let file = |observe: &str| {
        let text = format!(r#"{{"apps": [{{"name": "a", "script": "app.js"}}], "observe": {observe}}}"#);
        place.write("ecosystem.json", &text);
    };
    file(&format!(r#"{{"listen": {port}}}"#));
    let dry = place.ok(&rpm, ["start", "ecosystem.json", "--dry-run"]);
    assert!(
        dry.stdout
            .contains(&format!("observe: http://127.0.0.1:{port}/metrics")),
        "{dry:#?}"
    );
    assert!(status(&rpm)["observe"].is_null(), "nothing was changed");
    place.ok(&rpm, ["start", "ecosystem.json", "--only", "a"]);
    assert!(status(&rpm)["observe"].is_null(), "one app was meant");
    place.ok(&rpm, ["start", "ecosystem.json"]);
    wait_up(&port);
    let before = pid(&rpm);
    place.ok(&rpm, ["reload", "ecosystem.json"]);
    assert_eq!(pid(&rpm), before, "it is as the file says");
    file(&format!(
        r#"{{"listen": "127.0.0.1:{other}", "token_file": "token"}}"#
    ));
    place.ok(&rpm, ["reload", "ecosystem.json"]);
    let asked = || get(other.number(), "/metrics").map_or(0, |answer| answer.status);
    wait_until("it wants the token", BOUND, asked, |status| *status == 401);
    let gone = || get(port.number(), "/metrics").is_err();
    wait_until("the old address is free", BOUND, gone, |gone| *gone);
    file("false");
    place.ok(&rpm, ["reload", "ecosystem.json"]);
    assert_eq!(rpm.ok(["observe", "status"]), "off\n");
    file(r#"{"listen": "everywhere"}"#);
    let wrong = place.run(&rpm, ["validate", "ecosystem.json"]);
    assert!(wrong.stderr.contains("`observe.listen` must be"), "{wrong:#?}");
}

#[test]
fn what_cannot_be_is_said() {
    let (rpm, web, port) = (Rpm::new(), Port::reserve(), Port::reserve());
    for name in ["rpm-observe", "rpm-web"] {
        let taken = App::new("hello.js")
            .args(["--name", name])
            .port(&web)
            .try_start(&rpm);
        assert_eq!(taken.code, Some(1), "{taken:#?}");
        assert!(
            taken.stderr.contains("reserved") && taken.stderr.contains("--name"),
            "{taken:#?}"
        );
    }
    let open = rpm.run(["observe", "on", "--listen", "0.0.0.0:0"]);
    assert_eq!(open.code, Some(1), "{open:#?}");
    assert!(open.stderr.contains("--token-file"), "{open:#?}");
    let missing = rpm.run(["observe", "on", "--token-file", "/nowhere"]);
    assert!(
        missing.stderr.contains("cannot read the token in /nowhere"),
        "{missing:#?}"
    );
    assert_eq!(rpm.ok(["observe", "status"]), "off\n", "nothing was begun");
    App::new("hello.js").port(&port).start(&rpm);
    wait_until("it listens", BOUND, || port.listeners(), |count| *count > 0);
    let taken = rpm.run(["observe", "on", "--listen", &port.number().to_string()]);
    assert_eq!(taken.code, Some(1), "{taken:#?}");
    assert!(
        taken.stderr.contains("cannot listen on"),
        "the process says why: {taken:#?}"
    );
    rpm.ok(["observe", "off"]);
    turn_on(&rpm, &web);
    wait_up(&web);
    let mut site = Connection::open(&web);
    site.send("GET /metrics HTTP/1.1\r\nHost: example.org\r\n\r\n");
    let rebound = site.answer();
    assert_eq!(rebound.status, 403, "{rebound:?}");
}
