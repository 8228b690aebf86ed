//! What the daemon does for an app by itself, and with what settings, with real processes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rpm_e2e::app::App;
use rpm_e2e::clients::Clients;
use rpm_e2e::outside::kill_daemon;
use rpm_e2e::place::Place;
use rpm_testkit::{Port, Process, Rpm, Status, fixture, get, wait_for, wait_until};

const BOUND: Duration = Duration::from_secs(40);

fn chores(mode: &str) -> App {
    App::new("chores.js").args(["--name", "chores"]).env("MODE", mode)
}

fn settled(rpm: &Rpm, id: u32, status: Status) -> Process {
    wait_until(
        "its state",
        BOUND,
        || rpm.process(id),
        |process| process.status == status,
    )
}

fn restarted(rpm: &Rpm, restarts: u32) -> Process {
    let often = |process: &Process| process.restarts >= restarts && process.status == Status::Online;
    wait_until("restarts", BOUND, || rpm.process(0), often)
}

#[test]
fn some_exit_codes_are_the_end_of_it() {
    let rpm = Rpm::new();
    chores("exit")
        .env("CODE", 3)
        .args(["--stop-exit-codes", "0", "3"])
        .start(&rpm);
    let process = settled(&rpm, 0, Status::Stopped);
    assert_eq!((process.exit_code, process.restarts), (Some(3), 0));
    rpm.ok(["delete", "chores"]);
    chores("exit")
        .env("CODE", 4)
        .args(["--stop-exit-codes", "0", "3"])
        // On a busy machine it needs longer than the usual second to get to its exit.
        .args(["--min-uptime", "60000", "--max-restarts", "3", "--no-wait"])
        .start(&rpm);
    settled(&rpm, 0, Status::Errored);
    rpm.ok(["reset", "chores"]);
    let process = rpm.process(0);
    assert_eq!((process.restarts, process.unstable_restarts), (0, 0));
}

#[test]
fn too_much_memory_is_replaced_and_no_request_lost() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("chores.js", "2")
        .args(["--name", "web", "--max-memory-restart", "150M"])
        .env("MODE", "eat")
        .port(&port)
        .start(&rpm);
    let clients = Clients::begin(&port, "/", 2);
    clients.wait_ok(50);
    let before: BTreeSet<u32> = rpm.pids("web").into_iter().collect();
    get(port.number(), "/?mb=200").expect("it eats");
    let replaced = wait_until(
        "one is replaced",
        BOUND,
        || rpm.list(),
        |list| {
            list.iter().map(|process| process.restarts).sum::<u32>() == 1
                && list.iter().all(|process| process.others.is_empty())
        },
    );
    let after: BTreeSet<u32> = replaced.iter().filter_map(|process| process.pid).collect();
    assert_eq!(before.intersection(&after).count(), 1, "the other is left alone");
    assert!(rpm.log().contains("it exceeds its memory limit"));
    clients.wait_ok(50);
    clients.finish_clean(&rpm);
}

#[test]
fn the_clock_restarts_what_runs_and_starts_what_has_ended() {
    let rpm = Rpm::new();
    chores("").args(["--cron-restart", "* * * * * *"]).start(&rpm);
    restarted(&rpm, 2);
    rpm.ok(["stop", "chores"]);
    let restarts = rpm.process(0).restarts;
    App::of(["/bin/true"])
        .args(["--name", "job", "--no-autorestart", "-c", "* * * * * *"])
        .start(&rpm);
    let times = || rpm.log().matches("started app=\"job\"").count();
    wait_until("the job runs again and again", BOUND, times, |times| *times >= 3);
    let process = rpm.process(0);
    assert_eq!(
        (process.status, process.restarts),
        (Status::Stopped, restarts),
        "a user has stopped it"
    );
}

#[test]
fn regular_expressions_of_a_file_tell_what_does_not_matter() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write("app.js", "setInterval(() => console.log('line'), 50);");
    let with = |expression: &str| {
        let app =
            format!("{{ script: 'app.js', watch: true, ignore_watch: [{expression}], out_file: 'own.log' }}");
        place.write(
            "ecosystem.config.js",
            &format!("module.exports = {{ apps: [{app}] }};"),
        );
    };
    with(r"/(?!x)y/");
    let refused = place.run(&rpm, ["start", "ecosystem.config.js"]);
    assert!(
        refused.code == Some(1) && refused.stderr.contains("look-around"),
        "{refused:?}"
    );
    with(r"/[\/\\]DATA[\/\\]/i, /\.tmp$/");
    place.ok(&rpm, ["start", "ecosystem.config.js"]);
    change(
        &rpm,
        &place,
        "app.js",
        "setInterval(() => console.log('other'), 50);",
    );
    restarted(&rpm, 1);
    let quiet = || {
        let restarts = rpm.process(0).restarts;
        place.write("data/x", "changed");
        place.write("a.tmp", "changed");
        let printed = || place.read("own.log").matches("other").count();
        let before = printed();
        wait_until("its own lines", BOUND, printed, |lines| *lines > before + 10);
        (rpm.process(0).restarts == restarts).then_some(())
    };
    wait_for("only changes that matter", BOUND, quiet);
}

#[test]
fn changed_files_restart_and_others_do_not() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write("app.js", "setInterval(() => console.log('line'), 50);");
    place.write("node_modules/x/index.js", "");
    let start = [
        "start",
        "app.js",
        "--watch",
        "--ignore-watch",
        "*.tmp,data",
        "-o",
        "own.log",
    ];
    place.ok(&rpm, start);
    assert!(rpm.process(0).watching);
    change(
        &rpm,
        &place,
        "app.js",
        "setInterval(() => console.log('other'), 50);",
    );
    restarted(&rpm, 1);
    let quiet = || {
        let restarts = rpm.process(0).restarts;
        for name in [".git/index", "node_modules/x/index.js", "a.tmp", "data/deep/x"] {
            place.write(name, "changed");
        }
        let printed = || place.read("own.log").matches("other").count();
        let before = printed();
        wait_until("its own lines", BOUND, printed, |lines| *lines > before + 10);
        (rpm.process(0).restarts == restarts).then_some(restarts)
    };
    let restarts = wait_for("only changes that matter", BOUND, quiet);
    place.write("new/deep.js", "");
    restarted(&rpm, restarts + 1);
    // Watching is switched off, and on again.
    rpm.ok(["restart", "app", "--watch"]);
    assert!(!rpm.process(0).watching);
    rpm.ok(["restart", "app", "--watch"]);
    assert!(rpm.process(0).watching);
    rpm.ok(["stop", "app"]);
    assert!(!rpm.process(0).watching, "stopped by a user");
}

/// Writes a file until the daemon has seen a change: watching begins a moment after the start.
fn change(rpm: &Rpm, place: &Place, name: &str, text: &str) {
    let seen = || rpm.log().matches("this file has changed").count();
    let before = seen();
    let mut written: Option<Instant> = None;
    wait_for("the change to be seen", BOUND, || {
        if written.is_none_or(|at| at.elapsed() > Duration::from_millis(500)) {
            place.write(name, text);
            written = Some(Instant::now());
        }
        (seen() > before).then_some(())
    });
}

/// A site of two workers that answers with a word, or never listens if there is a file named `busy` in the other place.
fn site(says: &str) -> String {
    format!(
        "if (require('fs').existsSync(process.env.BUSY)) setInterval(() => console.log('busy'), 100);
        else require('http').createServer((_, answer) => answer.end('{says}')).listen(+process.env.PORT, '127.0.0.1');"
    )
}

/// Files that are watched, and others.
struct Watched {
    rpm: Rpm,
    place: Place,
    elsewhere: Place,
    port: Port,
}

impl Watched {
    /// It answers "one".
    fn start() -> Watched {
        let (rpm, port) = (Rpm::new(), Port::reserve());
        let (place, elsewhere) = (Place::new(), Place::new());
        place.write("app.js", &site("one"));
        let mut command = rpm.command(["start", "app.js", "-i", "2", "--watch", "--name", "web"]);
        command
            .args(["--listen-timeout", "60s", "--parallel", "2"])
            .current_dir(place.path())
            .env("PWD", place.path())
            .env("BUSY", elsewhere.path().join("busy"))
            .env("PORT", port.to_string());
        let ran = command.output().expect("it runs");
        assert!(ran.status.success(), "{ran:?}");
        Watched {
            rpm,
            place,
            elsewhere,
            port,
        }
    }

    /// The same, with clients that are being served.
    fn under_load() -> (Watched, Clients) {
        let site = Watched::start();
        let clients = Clients::begin(&site.port, "/", 2);
        clients.wait_ok(50);
        (site, clients)
    }

    fn change(&self, says: &str) {
        change(&self.rpm, &self.place, "app.js", &site(says));
    }

    /// Starts a reload that never ends.
    fn hang(&self) {
        self.elsewhere.write("busy", "");
        self.change("two");
        let busy = |id| {
            self.rpm
                .output("web", "out", Some(id))
                .starts_with(b"busy")
                .then_some(())
        };
        wait_for("both hang", BOUND, || busy(0).and(busy(1)));
        std::fs::remove_file(self.elsewhere.path().join("busy")).expect("it is there");
    }

    /// The responses on enough connections to reach each worker.
    fn answers(&self) -> BTreeSet<String> {
        let answer = |_| get(self.port.number(), "/").expect("it answers").body;
        (0..30).map(answer).collect()
    }

    fn all_say(&self, says: &str) {
        let wanted = BTreeSet::from([says.to_owned()]);
        wait_until(
            "this answer",
            BOUND,
            || self.answers(),
            |answers| *answers == wanted,
        );
    }
}

#[test]
fn a_cluster_that_is_watched_is_reloaded() {
    let (site, clients) = Watched::under_load();
    site.change("two");
    site.all_say("two");
    clients.wait_ok(50);
    clients.finish_clean(&site.rpm);
}

#[test]
fn a_change_during_a_reload_is_not_lost_and_does_not_wait_for_it() {
    let (site, clients) = Watched::under_load();
    site.hang();
    site.change("three");
    site.all_say("three");
    clients.finish_clean(&site.rpm);
}

#[test]
fn nobody_waits_for_a_reload_that_nobody_asked_for() {
    let (site, clients) = Watched::under_load();
    site.hang();
    site.rpm.ok(["reload", "web"]);
    site.all_say("two");
    clients.finish_clean(&site.rpm);
}

#[test]
fn a_message_asks_it_to_stop() {
    let rpm = Rpm::new();
    chores("message").args(["--shutdown-with-message"]).start(&rpm);
    let out = || String::from_utf8_lossy(&rpm.output("chores", "out", None)).into_owned();
    wait_until("it runs", BOUND, out, |text| text.contains("instance"));
    rpm.ok(["stop", "chores"]);
    let text = wait_until("it was asked", BOUND, out, |text| {
        text.contains("message shutdown")
    });
    assert!(!text.contains("signal"), "{text}");
}

#[test]
fn it_waits_in_the_list_until_it_is_started() {
    let rpm = Rpm::new();
    chores("").args(["--no-autostart"]).start(&rpm);
    assert_eq!(
        (rpm.process(0).status, rpm.process(0).pid),
        (Status::Stopped, None)
    );
    rpm.ok(["start", "chores"]);
    settled(&rpm, 0, Status::Online);
}

#[test]
fn instances_have_numbers_of_their_own() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let file = format!(
        "apps:\n- name: chores\n  script: {}\n  instances: 2\n  namespace: shop\n  instance_var: INSTANCE_ID\n  increment_var: PORT\n  port: 9000\n  listen_timeout: 500\n",
        fixture("chores.js").display()
    );
    place.write("e.yaml", &file);
    place.ok(&rpm, ["start", "e.yaml"]);
    for id in 0..2 {
        let expected = format!("instance {id} port {} uid ", 9000 + id);
        let out = || String::from_utf8_lossy(&rpm.output("chores", "out", Some(id))).into_owned();
        let text = wait_until("its line", BOUND, out, |text| text.contains("instance"));
        assert!(
            text.contains(&expected) && text.contains("namespace shop"),
            "{text}"
        );
    }
}

#[test]
fn root_can_have_it_run_as_somebody_else() {
    let rpm = Rpm::new();
    if std::fs::metadata("/proc/self")
        .map(|meta| std::os::unix::fs::MetadataExt::uid(&meta))
        .ok()
        != Some(0)
    {
        let error = rpm.fails(["start", "/bin/cat", "--uid", "nobody"]);
        assert!(error.contains("the daemon does not run as root"), "{error}");
        return;
    }
    App::of(["id -u && id -g && sleep 1000"])
        .args(["--name", "who", "--uid", "65534", "--gid", "4242"])
        .start(&rpm);
    let out = || String::from_utf8_lossy(&rpm.output("who", "out", None)).into_owned();
    let text = wait_until("its lines", BOUND, out, |text| text.lines().count() >= 2);
    assert_eq!(text, "65534\n4242\n");
    let error = rpm.fails(["start", "/bin/cat", "--uid", "nobody-of-this-name"]);
    assert!(error.contains("there is no user"), "{error}");
}

/// The agents of another user's workers reach the daemon, whose home is closed to that user, and also the next daemon.
#[test]
fn clients_of_another_users_workers_are_told_to_go_before_a_worker_ends() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let script = "require('http').createServer((_, res) => res.end(String(process.getuid()))).listen(process.env.PORT)";
    let script = place.write("site.js", script);
    let app = App::of([script]).args(["--name", "site", "-i", "2", "--uid", "65534"]);
    app.port(&port).start(&rpm);
    assert_eq!(get(port.number(), "/").expect("an answer").body, "65534");
    let reload = || {
        let clients = Clients::begin(&port, "/", 4);
        clients.wait_ok(50);
        rpm.ok(["reload", "site", "--wait"]);
        clients.wait_ok(50);
        clients.finish_clean(&rpm);
        let left = rpm
            .list()
            .iter()
            .map(|process| process.others.len())
            .sum::<usize>();
        assert_eq!(left, 0, "{}", rpm.log());
    };
    reload();
    kill_daemon(&rpm);
    reload();
}

#[test]
fn output_goes_where_it_is_wanted() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let script = fixture("chores.js");
    let script = script.to_str().expect("UTF-8");
    let start =
        |name: &str, options: &[&str]| place.ok(&rpm, [&["start", script, "--name", name], options].concat());
    let has = |file: &str, part: &str| {
        wait_until(
            "its lines",
            BOUND,
            || place.read(file),
            |text| text.contains(part),
        );
    };
    start("plain", &["-o", "o.log", "-e", "e.log", "--log=both.log"]);
    has("o.log", "instance");
    has("e.log", "complaint");
    has("both.log", "complaint");
    has("both.log", "instance");
    start(
        "many",
        &["-i", "2", "--listen-timeout", "500", "-o", "m.log", "-e", "NULL"],
    );
    has("m-1.log", "instance");
    has("m-2.log", "instance");
    start(
        "merged",
        &[
            "-i",
            "2",
            "--listen-timeout",
            "500",
            "-o",
            "one.log",
            "--merge-logs",
        ],
    );
    wait_until(
        "two lines",
        BOUND,
        || place.read("one.log"),
        |text| text.matches("instance").count() == 2,
    );
    start("dated", &["-o", "d.log", "--log-date-format", "[at] YYYY"]);
    has("d.log", "at 20");
    start("json", &["-o", "j.log", "--log-type", "json"]);
    has("j.log", "\"app_name\":\"json\"");
    let line: serde_json::Value =
        serde_json::from_str(place.read("j.log").lines().next().expect("a line")).expect("JSON");
    assert!(
        line["message"]
            .as_str()
            .is_some_and(|text| text.starts_with("instance"))
            && line["type"] == "out"
    );
    start("silent", &["--disable-logs"]);
    assert_eq!(rpm.describe("silent").processes[0].out_log, "/dev/null");
    // Emptied, and opened again.
    rpm.ok(["flush", "plain"]);
    assert_eq!(
        (place.read("o.log"), place.read("e.log")),
        (String::new(), String::new())
    );
    std::fs::rename(place.path().join("o.log"), place.path().join("old.log")).expect("moved");
    rpm.ok(["reloadLogs"]);
    rpm.ok(["restart", "plain"]);
    has("o.log", "instance");
}

#[test]
fn pids_are_written_and_removed() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let script = fixture("chores.js");
    let script = script.to_str().expect("UTF-8");
    place.ok(&rpm, ["start", script, "--name", "web", "-p", "web.pid"]);
    let pid = rpm.process(0).pid.expect("it runs").to_string();
    assert_eq!(place.read("web-0.pid"), pid);
    place.ok(&rpm, ["start", script, "--name", "usual"]);
    let usual = rpm.home().join("pids/usual-1.pid");
    assert_eq!(
        std::fs::read_to_string(&usual).ok(),
        rpm.process(1).pid.map(|pid| pid.to_string())
    );
    rpm.ok(["stop", "all"]);
    assert!(!usual.exists() && !place.path().join("web-0.pid").exists());
}
