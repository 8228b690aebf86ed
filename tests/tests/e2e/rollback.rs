//! Releases behind a symbolic link: a reload follows it, a rollback returns to its previous target, and neither loses a request.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use rpm_e2e::clients::Clients;
use rpm_e2e::outside::kill;
use rpm_testkit::{Port, Rpm, get, node, wait_until};

/// Long enough for anything, on a loaded machine.
const BOUND: Duration = Duration::from_secs(20);
/// Clients of each kind.
const CLIENTS: usize = 4;
/// Responses between two events.
const SOME: u64 = 50;

/// Answers with its release, its working directory and a variable.
const APP: &str = "const { basename } = require('path'); \
    require('http').createServer((_, res) => res.end( \
        [basename(__dirname), basename(process.cwd()), process.env.COLOR].join(' '))).listen(process.env.PORT);";

/// An app that is started through the link `current`.
struct Site {
    rpm: Rpm,
    port: Port,
}

impl Site {
    /// Starts release `one` with these options.
    fn start(args: &[&str]) -> Site {
        let site = Site {
            rpm: Rpm::new(),
            port: Port::reserve(),
        };
        site.release("one", APP);
        let started = site
            .rpm
            .command(["start", "app.js", "--name", "site", "--interpreter"])
            .arg(node(22))
            .arg("--cwd")
            .arg(site.path("current"))
            .args(args)
            .env("PORT", site.port.to_string())
            .env("COLOR", "blue")
            .output()
            .expect("rpm runs");
        assert!(started.status.success(), "{started:?}\n{}", site.rpm.log());
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.rpm.home().join(name)
    }

    /// Writes a release and points the link to it.
    fn release(&self, name: &str, code: &str) {
        std::fs::create_dir_all(self.path(name)).expect("a directory");
        std::fs::write(self.path(name).join("app.js"), code).expect("a script");
        symlink(name, self.path("next")).expect("a link");
        std::fs::rename(self.path("next"), self.path("current")).expect("the link moves");
    }

    fn answer(&self) -> String {
        get(self.port.number(), "/").expect("an answer").body
    }

    fn update_env(&self, color: &str) {
        let reloaded = self
            .rpm
            .command(["reload", "site", "--update-env"])
            .env("PORT", self.port.to_string())
            .env("COLOR", color)
            .output();
        let reloaded = reloaded.expect("rpm runs");
        assert!(reloaded.status.success(), "{reloaded:?}\n{}", self.rpm.log());
    }
}

#[test]
fn back_and_forth_between_releases_under_load() {
    let site = Site::start(&["-i", "2"]);
    assert_eq!(site.answer(), "one one blue");
    let clients = Clients::begin(&site.port, "/", CLIENTS);
    clients.wait_ok(SOME);
    site.release("two", APP);
    site.rpm.ok(["reload", "site"]);
    assert_eq!(site.answer(), "two two blue", "the link has moved");
    clients.wait_ok(SOME);
    for release in ["one", "two", "one"] {
        site.rpm.ok(["rollback", "site"]);
        assert_eq!(site.answer(), format!("{release} {release} blue"));
        clients.wait_ok(SOME);
    }
    site.rpm.ok(["reload", "site"]);
    assert_eq!(site.answer(), "two two blue", "where the link leads");
    clients.wait_ok(SOME);
    clients.finish_clean(&site.rpm);
}

#[test]
fn a_worker_that_is_started_again_is_of_the_release_that_serves() {
    let site = Site::start(&["-i", "1"]);
    site.release("two", APP);
    let before = site.rpm.process(0);
    kill(before.pid.expect("it runs"));
    wait_until(
        "the worker is replaced",
        BOUND,
        || site.rpm.process(0),
        |now| now.pid.is_some() && now.pid != before.pid && now.restarts == 1,
    );
    site.rpm.wait_status("site", rpm_testkit::Status::Online);
    assert_eq!(site.answer(), "one one blue", "nobody has deployed the other");
}

#[test]
fn the_environment_goes_back_too() {
    let site = Site::start(&["-i", "2"]);
    site.rpm.ok(["reload", "site"]);
    assert_eq!(site.answer(), "one one blue", "kept");
    site.update_env("red");
    assert_eq!(site.answer(), "one one red");
    site.rpm.ok(["rollback", "site"]);
    assert_eq!(site.answer(), "one one blue");
}

/// Nor does a timetable or a file that is watched, which restart in the same way.
#[test]
fn a_restart_to_the_same_paths_leaves_what_a_rollback_goes_back_to() {
    let site = Site::start(&["-i", "2"]);
    site.release("two", APP);
    site.rpm.ok(["reload", "site"]);
    let before = site.rpm.pids("site");
    site.rpm.ok(["restart", "site"]);
    assert!(site.rpm.pids("site").iter().all(|pid| !before.contains(pid)));
    assert_eq!(site.answer(), "two two blue");
    site.rpm.ok(["rollback", "site"]);
    assert_eq!(site.answer(), "one one blue");
}

#[test]
fn nothing_to_go_back_to() {
    let site = Site::start(&["-i", "2"]);
    let error = site.rpm.fails(["rollback", "site"]);
    assert!(error.contains("no previous generation"), "{error}");
    site.release("two", "process.exit(3)");
    site.rpm.fails(["reload", "site"]);
    let error = site.rpm.fails(["rollback", "site"]);
    assert!(error.contains("no previous generation"), "a failed one: {error}");
    site.release("three", APP);
    site.rpm.ok(["reload", "site"]);
    std::fs::remove_dir_all(site.path("one")).expect("removed");
    let pids = site.rpm.pids("site");
    let error = site.rpm.fails(["rollback", "site"]);
    assert!(
        error.contains("cannot roll back: the working directory"),
        "{error}"
    );
    std::fs::remove_dir_all(site.path("three")).expect("removed");
    let error = site.rpm.fails(["reload", "site"]);
    assert!(
        error.contains("cannot restart site: the working directory"),
        "{error}"
    );
    let error = site.rpm.fails(["restart", "site", "--hard"]);
    assert!(error.contains("nothing was changed"), "{error}");
    assert_eq!(site.rpm.pids("site"), pids, "untouched");
    let error = site.rpm.fails(["rollback", "nowhere"]);
    assert!(error.contains("no process or app"), "{error}");
}

#[test]
fn files_that_were_changed_in_place_are_spoken_of() {
    let site = Site::start(&["-i", "1"]);
    site.rpm.ok(["reload", "site"]);
    let ran = site.rpm.run(["rollback", "site"]);
    assert!(
        ran.code == Some(0) && ran.stderr.contains("stay changed"),
        "{ran:?}"
    );
}

#[test]
fn fork_mode_follows_the_link_and_goes_back() {
    let site = Site::start(&["--listen-timeout", "9000"]);
    let answers = |wanted: &str| {
        let what = format!("the answer {wanted}");
        let ask = || get(site.port.number(), "/").map_or_else(|error| error.to_string(), |it| it.body);
        wait_until(&what, BOUND, ask, |got| got == wanted);
    };
    answers("one one blue");
    site.release("two", APP);
    site.rpm.ok(["restart", "site"]);
    answers("two two blue");
    site.rpm.ok(["rollback", "site"]);
    answers("one one blue");
}
