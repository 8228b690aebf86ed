//! As a container: process 1, any user, no HOME, a root that is read-only, no `/dev/shm`.

use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rpm_e2e::clients::Clients;
use rpm_e2e::outside::{kill, terminate};
use rpm_e2e::place::Place;
use rpm_e2e::process::{first_child, inside, name, root};
use rpm_testkit::{Kind, Port, Report, Rpm, get, repository, skip, wait_until};

const BOUND: Duration = Duration::from_secs(30);
const CLIENTS: usize = 4;
/// Responses between two events.
const SOME: u64 = 50;

/// Leaves an orphan for each request of `/orphan`, and answers `/slow` late.
const APP: &str = "
    const { spawn } = require('node:child_process');
    const { writeFileSync } = require('node:fs');
    require('node:http').createServer((request, response) => {
      if (request.url === '/slow') {
        writeFileSync('/tmp/asked', '');
        setTimeout(() => response.end('late'), 1000);
      } else if (request.url === '/orphan') {
        spawn('sh', ['-c', '(sleep 0.1 &)'], { detached: true }).on('close', () => response.end('left'));
      } else {
        response.end('here');
      }
    }).listen(+process.env.PORT);
    console.log('started');
";

/// What is called a container here; it ends when dropped.
struct Container {
    outside: Option<Child>,
    /// The number that its process 1 has outside.
    init: u32,
    _files: Place,
    _root: Place,
}

impl Container {
    /// Runs `rpmx runtime` with these words. `None` without root; in CI that fails.
    fn run(test: &str, port: &Port, words: &[&str]) -> Option<Container> {
        if !rustix::process::geteuid().is_root() {
            skip(test, "only root can make the namespaces");
            return None;
        }
        let (place, files, rpm) = (Place::new(), Place::new(), Rpm::new());
        files.write("app.js", APP);
        let mut strip = Command::new("objcopy");
        strip
            .arg("--strip-all")
            .args([rpm.binary(), files.path().join("rpmx").as_path()]);
        assert!(strip.status().expect("objcopy runs").success());
        let script = repository().join("tests/fixtures/container/run.sh");
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc"])
            .args([&script, place.path(), files.path()])
            .args([
                &format!("PORT={port}"),
                "RPM_HOME=/tmp/rpm",
                "/app/rpmx",
                "runtime",
            ])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let outside = command.spawn().expect("unshare runs");
        let init = wait_until(
            "process 1 runs",
            BOUND,
            || first_child(outside.id()),
            |init| init.is_some_and(|init| name(init) == "rpmx"),
        );
        let container = Container {
            outside: Some(outside),
            init: init.expect("it runs"),
            _files: files,
            _root: place,
        };
        let serves = || get(port.number(), "/").is_ok();
        wait_until("it serves", BOUND, serves, |serves| *serves);
        Some(container)
    }

    /// As `docker exec` does it.
    fn exec(&self, words: &[&str]) -> Output {
        let mut command = inside(self.init);
        command
            .args(["setpriv", "--reuid=10001", "--regid=10001", "--clear-groups"])
            .args(["env", "RPM_HOME=/tmp/rpm", "/app/rpmx"])
            .args(words);
        command.output().expect("nsenter runs")
    }

    /// Processes that have ended, and that nobody has waited for.
    fn zombies(&self) -> usize {
        let processes = std::fs::read_dir(root(self.init).join("proc")).expect("it has a /proc");
        let zombie = |path: std::path::PathBuf| {
            std::fs::read_to_string(path.join("stat")).is_ok_and(|stat| stat.contains(") Z "))
        };
        processes.flatten().filter(|entry| zombie(entry.path())).count()
    }

    /// What it printed, and how it ended.
    fn finish(mut self) -> Output {
        let outside = self.outside.take().expect("it is waited for once");
        outside.wait_with_output().expect("it ends")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Some(mut outside) = self.outside.take() {
            kill(self.init);
            let _ = outside.wait();
        }
    }
}

#[test]
fn any_user_on_a_root_that_is_read_only() {
    let port = Port::reserve();
    let test = "any_user_on_a_root_that_is_read_only";
    let Some(container) = Container::run(test, &port, &["app.js", "-i", "2", "--json"]) else {
        return;
    };
    let ready = || container.exec(&["ready"]);
    wait_until("it is healthy", BOUND, ready, |ran| ran.status.success());
    let clients = Clients::begin(&port, "/", CLIENTS);
    clients.wait_ok(SOME);
    let reloaded = container.exec(&["reload", "app"]);
    assert!(reloaded.status.success(), "{reloaded:?}");
    clients.wait_ok(SOME);
    let reports = clients.finish();
    let unclean = |(_, report): &&(Kind, Report)| report.check_clean().is_err();
    let unclean: Vec<_> = reports.iter().filter(unclean).collect();
    assert!(unclean.is_empty(), "{unclean:#?}");
    for _ in 0..5 {
        get(port.number(), "/orphan").expect("an answer");
    }
    wait_until(
        "no zombie is left",
        BOUND,
        || container.zombies(),
        |zombies| *zombies == 0,
    );

    let number = port.number();
    let request = std::thread::spawn(move || get(number, "/slow"));
    let asked = root(container.init).join("tmp/asked");
    let asked = || std::fs::exists(&asked).is_ok_and(|exists| exists);
    wait_until("a request is in flight", BOUND, asked, |asked| *asked);
    terminate(container.init);
    let answer = request.join().expect("it ends").expect("it is answered");
    assert_eq!((answer.status, answer.body.as_str()), (200, "late"));
    let ended = container.finish();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let printed = String::from_utf8(ended.stdout).expect("UTF-8");
    let lines: Vec<serde_json::Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    let started = lines.iter().filter(|line| line["message"] == "started");
    assert_eq!(
        started.count(),
        4,
        "two workers, and two of the reload: {printed}"
    );
}
