//! `rpm events`, `GET /v1/events`: what happens is written, with numbers that go on, and shown to whoever asks.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};

use rpm_e2e::app::App;
use rpm_e2e::ask::{BOUND, follower};
use rpm_e2e::clients::Clients;
use rpm_e2e::outside::kill_daemon;
use rpm_e2e::place::Place;
use rpm_e2e::process::signal;
use rpm_testkit::{Port, Rpm, fixture, get, wait_for, wait_until};
use rpm_wire::events::{FILE_BYTES, FILES, Head};
use serde_json::{Value, json};

/// What `GET /v1/events` answers.
fn events(rpm: &Rpm, query: &str) -> Vec<Value> {
    let answer = rpm.api("GET", &format!("/v1/events?{query}"), "");
    assert_eq!(answer.status, 200, "{answer:?}");
    parsed(&answer.body)
}

fn parsed(lines: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).expect("an object a line");
    lines.lines().map(parse).collect()
}

fn all(rpm: &Rpm) -> Vec<Value> {
    events(rpm, "lines=10000")
}

fn last(rpm: &Rpm) -> u64 {
    all(rpm).last().map_or(0, seq)
}

fn seq(event: &Value) -> u64 {
    event["seq"].as_u64().expect("a number")
}

fn kind(event: &Value) -> &str {
    event["kind"].as_str().expect("a kind")
}

fn of<'a>(events: &'a [Value], wanted: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| kind(event) == wanted).collect()
}

/// Each number is one higher than that before it.
fn assert_no_gap(events: &[Value]) {
    let seqs: Vec<u64> = events.iter().map(seq).collect();
    let expected: Vec<u64> = (seqs[0]..).take(seqs.len()).collect();
    assert_eq!(seqs, expected, "{events:#?}");
}

/// Waits until an event is there, and returns all.
fn wait_event(rpm: &Rpm, what: &str, is: impl Fn(&Value) -> bool) -> Vec<Value> {
    wait_until(what, BOUND, || all(rpm), |events| events.iter().any(&is))
}

#[test]
fn a_crash_says_how_what_it_said_last_and_what_follows() {
    let rpm = Rpm::new();
    App::cluster("exit-at-once.js", "1")
        .args(["--name", "job", "--max-restarts", "3", "--no-wait"])
        .env("EXIT_CODE", 7)
        .env("TOKEN", "a-secret-of-the-environment")
        .start(&rpm);
    let events = wait_event(&rpm, "it is given up", |event| kind(event) == "errored");
    assert_no_gap(&events);
    assert_eq!(kind(&events[0]), "daemon_started");
    let crashes = of(&events, "crashed");
    assert_eq!(crashes.len(), 3, "{events:#?}");
    for (crash, failures) in crashes.iter().zip(1..) {
        assert_eq!(crash["last_lines"], json!(["leaving at once"]), "{crash}");
        let fields = [
            "app",
            "namespace",
            "id",
            "generation",
            "exit_code",
            "failures",
            "max_restarts",
        ];
        let found = fields.map(|field| crash[field].clone());
        let expected = [
            "job".into(),
            "default".into(),
            0.into(),
            1.into(),
            7.into(),
            json!(failures),
            3.into(),
        ];
        assert_eq!(found, expected, "{crash}");
        assert_eq!(crash["retry_in_ms"].is_u64(), failures < 3, "{crash}");
        let started = of(&events, "started");
        assert!(
            started
                .iter()
                .any(|event| event["pid"] == crash["pid"] && event["worker"] == crash["worker"])
        );
    }
    assert_eq!(of(&events, "errored")[0]["failures"], 3);
    let shown = rpm.ok(["events", "job"]);
    assert!(
        shown.contains("job 0  crashed with exit code 7; next try in "),
        "{shown}"
    );
    assert!(shown.contains("| leaving at once"), "{shown}");
    assert!(
        shown.contains("job 0  errored: it failed 3 times in a row"),
        "{shown}"
    );
    assert!(!shown.contains("daemon"), "of the app alone: {shown}");
    rpm.ok(["delete", "job"]);
    // Who asks is answered when it is written.
    assert_eq!(kind(all(&rpm).last().expect("events")), "deleted");
    let path = rpm.home().join("events.ndjson");
    let written = std::fs::read_to_string(&path).expect("the file");
    assert!(!written.contains("a-secret"), "{written}");
    assert!(written.ends_with("\"kind\":\"deleted\"}\n"), "{written}");
    let mode = path.metadata().expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_reload_under_load_is_told_step_by_step_and_one_that_is_undone_says_why() {
    let (rpm, port, place) = (Rpm::new(), Port::reserve(), Place::new());
    let serves = format!("require({:?});", fixture("hello.js"));
    let script = place.write("web.js", &serves);
    App::of([script.to_str().expect("UTF-8"), "-i", "2", "--name", "web"])
        .node(22)
        .port(&port)
        .start(&rpm);
    let clients = Clients::begin(&port, "/", 2);
    clients.wait_ok(20);
    let begun = last(&rpm);
    rpm.ok(["reload", "web", "--wait"]);
    let told = events(&rpm, &format!("after={begun}"));
    assert_no_gap(&told);
    assert_eq!(seq(&told[0]), begun + 1);
    // A worker that gets no CPU for a while counts as frozen, at any time.
    let told: Vec<Value> = told
        .into_iter()
        .filter(|event| !["frozen", "recovered", "rescued"].contains(&kind(event)))
        .collect();
    assert_eq!(
        (kind(&told[0]), &told[0]["instances"], &told[0]["generation"]),
        ("reload_begun", &json!(2), &json!(2))
    );
    for (wanted, count) in [
        ("started", 2),
        ("candidate_ready", 2),
        ("reload_done", 1),
        ("draining", 2),
        ("stopped", 2),
    ] {
        let found = of(&told, wanted);
        assert_eq!(found.len(), count, "{wanted}: {told:#?}");
    }
    assert!(
        of(&told, "started")
            .iter()
            .all(|event| event["candidate"] == true)
    );
    assert!(
        of(&told, "stopped")
            .iter()
            .all(|event| event["cause"] == "replaced" && event["generation"] == 1)
    );
    assert!(of(&told, "ready").is_empty(), "that is said once: {told:#?}");

    place.write("web.js", "console.error('no such table'); process.exit(3);");
    let begun = last(&rpm);
    rpm.fails(["reload", "web"]);
    let told = events(&rpm, &format!("after={begun}&target=web"));
    let undone = of(&told, "reload_undone");
    let why = undone[0]["why"].as_str().expect("a text");
    assert!(why.contains("exited with code 3 before it was ready"), "{why}");
    assert_eq!(undone[0]["generation"], 3);
    assert_eq!(of(&told, "crashed")[0]["last_lines"], json!(["no such table"]));
    place.write("web.js", &serves);
    clients.finish_clean(&rpm);
}

#[test]
fn commands_limits_and_their_consequences_are_told() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("chores.js", "1")
        .args(["--name", "web", "--max-memory-restart", "150M"])
        .env("MODE", "eat")
        .port(&port)
        .start(&rpm);
    get(port.number(), "/?mb=200").expect("it eats");
    let events = wait_event(&rpm, "it is replaced", |event| event["cause"] == "replaced");
    let limit = of(&events, "memory_limit");
    assert_eq!(
        (limit.len(), &limit[0]["limit_bytes"]),
        (1, &json!(150 << 20)),
        "{events:#?}"
    );
    assert!(
        limit[0]["used_bytes"].as_u64() > limit[0]["limit_bytes"].as_u64(),
        "{events:#?}"
    );
    rpm.ok(["scale", "web", "2"]);
    rpm.ok(["restart", "web", "--hard"]);
    rpm.ok(["stop", "web"]);
    rpm.ok(["delete", "web"]);
    let events = all(&rpm);
    assert_no_gap(&events);
    let scaled = of(&events, "scaled");
    assert_eq!((&scaled[0]["from"], &scaled[0]["to"]), (&json!(1), &json!(2)));
    let causes: Vec<&Value> = of(&events, "stopped")
        .iter()
        .map(|event| &event["cause"])
        .collect();
    assert_eq!(
        causes,
        ["replaced", "restart", "restart", "stop", "stop"],
        "{events:#?}"
    );
    assert_eq!(of(&events, "deleted").len(), 2);
    assert_eq!(of(&events, "crashed").len(), 0);
}

#[test]
fn a_worker_that_stands_still_under_load_is_frozen_and_recovers() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("hello.js", "2")
        .args(["--name", "web"])
        .port(&port)
        .start(&rpm);
    let clients = Clients::fresh(&port, 4);
    clients.wait_ok(20);
    let pid = rpm.pids("web")[0];
    let ours = |event: &Value, wanted: &str| kind(event) == wanted && event["pid"] == pid;
    signal(pid, "STOP");
    wait_event(&rpm, "it is frozen", |event| ours(event, "frozen"));
    signal(pid, "CONT");
    let events = wait_event(&rpm, "it has recovered", |event| ours(event, "recovered"));
    let frozen = events
        .iter()
        .find(|event| ours(event, "frozen"))
        .expect("it was there");
    assert_eq!((&frozen["app"], &frozen["id"]), (&json!("web"), &json!(0)));
    clients.finish_clean(&rpm);
}

/// `rpm events --follow --json`, with its lines in a file.
struct Follower {
    child: Child,
    place: Place,
}

impl Follower {
    fn new(rpm: &Rpm) -> Follower {
        let place = Place::new();
        let file = std::fs::File::create(place.path().join("lines")).expect("a file");
        let mut command = rpm.command(["events", "--follow", "--json", "--lines", "10000"]);
        let child = command
            .stdout(file)
            .stderr(Stdio::null())
            .spawn()
            .expect("rpm runs");
        Follower { child, place }
    }

    fn heard(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.place.path().join("lines")).expect("the file");
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        parsed(&text[..whole])
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_numbers_go_on_when_the_daemon_is_killed_updated_and_ended() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    rpm.ok(["ping"]);
    let follower = Follower::new(&rpm);
    App::cluster("hello.js", "2")
        .args(["--name", "web"])
        .port(&port)
        .start(&rpm);
    let hears = |wanted: &str, count: usize| {
        let heard = || follower.heard();
        let is = |heard: &Vec<Value>| of(heard, wanted).len() >= count;
        wait_until(wanted, BOUND, heard, is)
    };
    // With the old workers gone: those that drain run on, too.
    rpm.ok(["reload", "web", "--wait"]);
    hears("reload_done", 1);
    for round in 1..=2 {
        kill_daemon(&rpm);
        rpm.ok(["ping"]);
        hears("daemon_taken_over", round);
        rpm.ok(["restart", "web", "--hard"]);
        rpm.ok(["update"]);
        hears("daemon_updated", round);
        rpm.ok(["reload", "web"]);
        hears("reload_done", round + 1);
    }
    let taken = of(&all(&rpm), "daemon_taken_over")[0].clone();
    assert_eq!(taken["workers"], 2);
    assert_eq!(
        of(&all(&rpm), "crashed").len(),
        0,
        "nothing happened to the workers: {:#?}",
        all(&rpm)
    );
    rpm.ok(["kill"]);
    let heard = hears("daemon_stopped", 1);
    assert_no_gap(&heard);

    // Without a daemon the command reads the files, and starts none.
    let written = parsed(&rpm.ok(["events", "--json", "--lines", "10000"]));
    assert_eq!(rpm.daemon_pid(), None);
    assert_no_gap(&written);
    assert_eq!((seq(&written[0]), kind(&written[0])), (1, "daemon_started"));
    assert_eq!(kind(written.last().expect("events")), "daemon_stopped");
    assert_eq!(heard, written, "a follower hears what is written");
    assert!(
        of(&written, "stopped")
            .iter()
            .any(|event| event["cause"] == "shutdown")
    );
    assert!(of(&written, "deleted").is_empty(), "nobody has deleted it");
    let shown = rpm.ok(["events", "web", "--lines", "1"]);
    assert!(shown.lines().count() == 1 && shown.contains("  web "), "{shown}");
    let complaint = rpm.fails(["events", "/web/"]);
    assert!(complaint.contains("patterns need the daemon"), "{complaint}");

    rpm.ok(["ping"]);
    let next = all(&rpm);
    assert_no_gap(&next);
    assert_eq!(
        seq(next.last().expect("events")),
        seq(written.last().expect("events")) + 1
    );
    assert_eq!(kind(next.last().expect("events")), "daemon_started");
}

#[test]
fn a_line_that_was_cut_by_a_death_is_no_obstacle() {
    let rpm = Rpm::new();
    rpm.ok(["ping"]);
    let begun = last(&rpm);
    rpm.ok(["kill"]);
    let path = rpm.home().join("events.ndjson");
    let mut file = std::fs::File::options()
        .append(true)
        .open(path)
        .expect("the file");
    file.write_all(b"\x00 damage \xff\n{\"seq\":77,\"at_ms\":1,\"ki")
        .expect("written");
    rpm.ok(["ping"]);
    let events = all(&rpm);
    assert_no_gap(&events);
    assert_eq!(seq(events.last().expect("events")), begun + 2, "{events:#?}");
}

#[test]
fn what_is_asked_for_is_what_is_sent() {
    let rpm = Rpm::new();
    for (name, namespace) in [("one", "shop"), ("other", "shop"), ("third", "default")] {
        App::new("no-listen.js")
            .args(["--name", name, "--namespace", namespace])
            .start(&rpm);
    }
    rpm.ok(["delete", "other"]);
    let apps = |query: &str| {
        let mut apps: Vec<String> = events(&rpm, query)
            .iter()
            .map(|event| event["app"].as_str().unwrap_or("-").to_owned())
            .collect();
        apps.sort();
        apps.dedup();
        apps
    };
    for (query, expected) in [
        ("", &["-", "one", "other", "third"][..]),
        ("target=all", &["-", "one", "other", "third"]),
        ("target=one", &["one"]),
        ("target=one%0Athird", &["one", "third"]),
        ("target=shop", &["one", "other"]),
        ("target=%2F%5Eo%2F", &["one", "other"]),
        ("target=2", &["third"]),
        ("target=other", &["other"]),
        ("target=1", &["other"]),
    ] {
        assert_eq!(apps(query), expected, "{query}");
    }
    let whole = all(&rpm);
    let middle = &whole[whole.len() / 2];
    let (after, since) = (seq(middle), middle["at_ms"].as_u64().expect("a time"));
    let behind: Vec<Value> = whole.iter().filter(|event| seq(event) > after).cloned().collect();
    assert_eq!(events(&rpm, &format!("after={after}")), behind);
    assert_eq!(events(&rpm, &format!("after={after}&lines=1")), behind[..1]);
    assert_eq!(events(&rpm, "lines=2"), whole[whole.len() - 2..]);
    assert_eq!(events(&rpm, "after=0"), whole);
    let late = events(&rpm, &format!("since_ms={since}"));
    assert!(late.iter().all(|event| event["at_ms"].as_u64() >= Some(since)) && !late.is_empty());
    for (query, error) in [
        ("target=thrid", "no process or app"),
        ("target=%2F(%2F", "not a valid pattern"),
        ("after=99999", "there is no event 99999 yet"),
    ] {
        let answer = rpm.api("GET", &format!("/v1/events?{query}"), "");
        assert!(
            answer.status == 422 && answer.body.contains(error),
            "{query}: {answer:?}"
        );
    }
    let complaint = rpm.fails(["events", "thrid"]);
    assert!(complaint.contains("third"), "it asks what was meant: {complaint}");
    assert_eq!(parsed(&rpm.ok(["events", "one", "--json", "-n", "1"])).len(), 1);
}

#[test]
fn one_that_does_not_read_delays_nobody_and_hears_how_many_were_rotated_away() {
    let rpm = Rpm::new();
    let mut count = 0;
    for name in FILES {
        let mut text = String::new();
        while (text.len() as u64) < FILE_BYTES {
            count += 1;
            let path = "x".repeat(200);
            writeln!(
                text,
                r#"{{"seq":{count},"at_ms":1,"app":"old","kind":"watch","path":"{path}"}}"#
            )
            .expect("a string");
        }
        std::fs::write(rpm.home().join(name), text).expect("written");
    }
    rpm.ok(["ping"]);
    let stuck = follower(&rpm, "/v1/events?after=0&follow=true");
    // It has at most what fits into buffers, which is less than the oldest file. That goes with the next rotation.
    App::new("no-listen.js").args(["--name", "new"]).start(&rpm);
    let ready = wait_for("it is ready", BOUND, || {
        let told = events(&rpm, "target=new");
        told.iter().find(|event| kind(event) == "ready").map(seq)
    });
    assert!(ready > count, "{ready}");
    let (mut next, mut lost) = (1, 0);
    for line in BufReader::new(stuck).lines() {
        let line = line.expect("a line");
        if let Ok(gone) = serde_json::from_str::<rpm_wire::events::Lost>(&line) {
            lost += gone.lost;
            next += gone.lost;
        } else if let Ok(head) = serde_json::from_str::<Head>(&line) {
            assert_eq!(head.seq, next, "{line}");
            next += 1;
            if head.seq == ready {
                break;
            }
        }
    }
    let file = count / FILES.len() as u64;
    assert!(lost > file / 4 && lost <= file + 1, "{lost} of {file}");
}
