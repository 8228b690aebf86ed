//! Logs on a file system that does not respond: who writes there waits, and nobody else.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rpm_e2e::app::{App, PRINTING};
use rpm_e2e::ask::{BOUND, follower};
use rpm_e2e::clients::Clients;
use rpm_e2e::hung_mount::HungMount;
use rpm_e2e::place::Place;
use rpm_testkit::{Port, Ran, Rpm, Status, get, wait_for, wait_until};

const CLIENTS: usize = 4;
/// What is printed at once is more than a pipe holds.
const LINES: usize = 130;
/// The daemon waits for the log of a file system that does not respond 3 s, once: what has nothing to do with it is quicker.
const AT_ONCE: Duration = Duration::from_millis(2500);

/// A daemon in a namespace with a directory that does not respond.
struct Scene {
    // First: nothing can end that waits for it.
    hung: HungMount,
    rpm: Rpm,
    place: Place,
    dir: PathBuf,
}

impl Scene {
    fn new(test: &str) -> Option<Scene> {
        let (rpm, place) = (Rpm::new(), Place::new());
        let dir = place.path().join("hung");
        fs::create_dir(&dir).expect("a mount point");
        let hung = HungMount::new(test, &dir)?;
        let started = hung
            .inside(&rpm.command(["ping"]))
            .output()
            .expect("nsenter runs");
        assert!(started.status.success(), "{started:?}");
        place.write("app.js", PRINTING);
        Some(Scene {
            hung,
            rpm,
            place,
            dir,
        })
    }

    /// Starts the app `a`, whose log is there and which says in the file `done` that it has printed everything.
    fn start_hung(&self, more: &[&str]) {
        let log = self.log();
        let log = log.to_str().expect("UTF-8");
        let words = ["start", "app.js", "-n", "a", "-o", log, "-e", log];
        self.place
            .ok(&self.rpm, [&words[..], more, &["--", "done"]].concat());
    }

    fn log(&self) -> PathBuf {
        self.dir.join("a.log")
    }

    fn is_done(&self) -> bool {
        self.place.path().join("done").exists()
    }

    /// What is said of the file system.
    fn silence(&self) -> String {
        format!("the file system at {} does not respond", self.dir.display())
    }

    /// The quickest of three: the machine may be busy.
    fn quickest(&self, words: &[&str]) -> Duration {
        let run = |_| {
            let begun = Instant::now();
            self.rpm.ok(words);
            begun.elapsed()
        };
        (0..3).map(run).min().expect("three")
    }

    /// Has `say` print, and sees the lines in its log.
    fn say(&self, port: &Port, word: &str) {
        let query = format!("/?out={word}{}&times={LINES}", "x".repeat(1000));
        assert_eq!(get(port.number(), &query).expect("an answer").status, 200);
        let printed = || {
            let all = [0, 1].map(|id| self.rpm.output("say", "out", Some(id)));
            String::from_utf8_lossy(&all.concat()).matches(word).count()
        };
        wait_until("all lines arrive", BOUND, printed, |count| *count == LINES);
    }
}

#[test]
fn it_holds_nobody_but_who_writes_there() {
    let port = Port::reserve();
    let Some(mut scene) = Scene::new("it_holds_nobody_but_who_writes_there") else {
        return;
    };
    App::cluster("say.js", "2").port(&port).start(&scene.rpm);
    scene.start_hung(&["--pid", scene.dir.join("a.pid").to_str().expect("UTF-8")]);
    scene.say(&port, "first");
    let said = scene.rpm.fails(["logs", "a", "--nostream"]);
    assert!(said.contains(&scene.silence()), "{said}");
    assert!(!scene.is_done(), "its log takes everything: nothing hangs");

    let clients = Clients::begin(&port, "/", CLIENTS);
    clients.wait_ok(50);
    scene.rpm.ok(["reload", "say"]);
    clients.wait_ok(50);
    clients.finish_clean(&scene.rpm);
    scene.say(&port, "second");
    for words in [
        &["list"][..],
        &["logs", "say", "--nostream"],
        &["describe", "a"],
        &["flush", "say"],
    ] {
        let took = scene.quickest(words);
        assert!(took < AT_ONCE, "{words:?} took {took:?}");
    }
    assert!(
        scene.rpm.output("say", "out", Some(0)).is_empty(),
        "it was emptied"
    );
    scene.say(&port, "third");
    let shown = scene.rpm.ok(["logs", "--nostream", "--lines", "500"]);
    assert!(shown.contains("third"), "{shown}");
    let instead = format!("[rpm: this log cannot be read: {}]", scene.silence());
    assert_eq!(shown.matches(&instead).count(), 1, "{shown}");
    let mut followed = BufReader::new(follower(&scene.rpm, "/v1/logs?follow=true&lines=0"));
    see(&mut followed, &instead);
    scene.say(&port, "fourth");
    see(&mut followed, "fourth");
    scene.rpm.ok(["restart", "a"]);
    App::of(["sleep 1000"])
        .args(["--name", "third"])
        .start(&scene.rpm);

    for (words, said) in [
        (&["update"][..], "logs cannot be written"),
        (&["kill", "--keep-apps"], "logs cannot be written"),
        (&["flush", "a"], "logs are not emptied yet"),
    ] {
        let ran = scene.rpm.run(words);
        let said = format!("{said}: {}", scene.silence());
        assert!(
            ran.code == Some(1) && ran.stderr.contains(&said),
            "{words:?}: {ran:#?}"
        );
    }
    scene.go_on();
    see(&mut followed, "again");
}

/// Reads until a line has the text.
fn see(lines: &mut impl BufRead, text: &str) {
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert_ne!(lines.read_line(&mut line).expect("a line"), 0, "no {text}");
    }
}

impl Scene {
    /// The file system fails instead of hanging, then it is gone: the app prints, and its log has the size of the gap.
    fn go_on(&mut self) {
        assert!(!self.is_done());
        self.hung.fail();
        wait_until("the app goes on", BOUND, || self.is_done(), |done| *done);
        let log = || self.rpm.log();
        wait_until("the daemon says so", BOUND, log, |log| {
            log.contains("losing output")
        });
        self.hung.unmount();
        let log = self.log();
        wait_for("its log is written again, after a mark", BOUND, || {
            self.place.ok(&self.rpm, ["sendSignal", "SIGUSR2", "a"]);
            let text = fs::read_to_string(&log).unwrap_or_default();
            (text.contains(" bytes of output were lost here]\n") && text.contains("again\n")).then_some(())
        });
        assert!(self.rpm.ok(["logs", "a", "--nostream"]).contains("again"));
        self.rpm.wait_status("a", Status::Online);
    }
}

#[test]
fn a_daemon_ends_and_apps_crash_while_it_hangs() {
    let Some(scene) = Scene::new("a_daemon_ends_and_apps_crash_while_it_hangs") else {
        return;
    };
    // Not Node, which may need a second to start: then it would count as started.
    scene
        .place
        .write("crash.sh", "echo it prints a line\nsleep 0.1\nexit 3\n");
    let log = scene.dir.join("c.log");
    let log = log.to_str().expect("UTF-8");
    let words = [
        "start",
        "crash.sh",
        "-n",
        "c",
        "-o",
        log,
        "-e",
        log,
        "--max-restarts",
        "2",
        // However long it takes until it crashes.
        "--min-uptime",
        "1h",
    ];
    let begun = Instant::now();
    let ran: Ran = scene.place.run(&scene.rpm, words);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stderr.contains("exited with code 3"), "{ran:#?}");
    scene.rpm.wait_status("c", Status::Errored);
    // The thread that writes events has its lines or does without.
    wait_for("the crash is an event", BOUND, || {
        scene
            .rpm
            .ok(["events", "--json"])
            .contains("\"errored\"")
            .then_some(())
    });
    scene.start_hung(&[]);
    scene.rpm.ok(["kill"]);
    assert!(begun.elapsed() < 3 * BOUND, "{:?}", begun.elapsed());
}

#[test]
fn an_access_log_there_holds_no_request() {
    let Some(scene) = Scene::new("an_access_log_there_holds_no_request") else {
        return;
    };
    let port = Port::reserve();
    let app = App::cluster("hello.js", "1").port(&port);
    app.args(["--balance", "proxy", "--access-log"])
        .args([scene.dir.join("access.log").as_os_str()])
        .start(&scene.rpm);
    for _ in 0..100 {
        assert_eq!(get(port.number(), "/").expect("an answer").status, 200);
    }
    assert_eq!(scene.rpm.list().len(), 1);
}
