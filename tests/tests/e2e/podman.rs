//! Images as docs/CONTAINERS.md has them, built and run by Podman.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rpm_e2e::clients::Clients;
use rpm_e2e::image::copy_program;
use rpm_e2e::outside::kill;
use rpm_e2e::place::Place;
use rpm_e2e::process::{first_child, inside, name};
use rpm_testkit::{Kind, Port, Report, Rpm, fixture, get, node, repository, skip, wait_until};

const BOUND: Duration = Duration::from_secs(30);
const CLIENTS: usize = 4;
/// Responses between two events.
const SOME: u64 = 50;

/// Podman with a store of its own. Its containers end when this is dropped.
struct Podman {
    outside: Child,
    /// What holds the namespaces.
    holder: u32,
    store: Place,
    /// Directories that images are built from.
    files: Place,
}

impl Podman {
    /// `None` without root; in CI that fails.
    fn new(test: &str) -> Option<Podman> {
        if !rustix::process::geteuid().is_root() {
            skip(test, "only root can make the namespaces");
            return None;
        }
        let (store, files) = (Place::new(), Place::new());
        let script = repository().join("tests/fixtures/container/podman.sh");
        let mut hold = Command::new("unshare");
        hold.args(["--mount", "--pid", "--fork", "--kill-child"])
            .args([&script, store.path()])
            .stdin(Stdio::null());
        let outside = hold.spawn().expect("unshare runs");
        let holder = wait_until(
            "there are namespaces for Podman",
            BOUND,
            || first_child(outside.id()),
            |holder| holder.is_some_and(|holder| name(holder) == "sleep"),
        );
        Some(Podman {
            outside,
            holder: holder.expect("it runs"),
            store,
            files,
        })
    }

    fn run(&self, words: &[&str]) -> Output {
        let at = |name: &str| self.store.path().join(name);
        let mut podman = inside(self.holder);
        podman
            .args([
                "podman",
                "--storage-driver=overlay",
                "--cgroup-manager=cgroupfs",
                "--events-backend=file",
            ])
            .args([
                "--root".as_ref(),
                at("images").as_path(),
                "--runroot".as_ref(),
                at("run").as_path(),
            ])
            .args(words);
        podman.output().expect("nsenter runs")
    }

    /// What a command prints, which must not fail.
    fn ok(&self, words: &[&str]) -> String {
        let ran = self.run(words);
        let [out, err] = [&ran.stdout, &ran.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert!(ran.status.success(), "podman {words:?}\n{out}\n{err}");
        out
    }

    /// A directory whose files become an image.
    fn context(&self, name: &str) -> PathBuf {
        let context = self.files.path().join(name);
        fs::create_dir_all(&context).expect("a directory");
        context
    }

    fn build(&self, context: &Path, image: &str, dockerfile: &str) {
        fs::write(context.join("Dockerfile"), dockerfile).expect("a file");
        let context = context.to_str().expect("UTF-8");
        self.ok(&[
            "build",
            "--quiet",
            "--pull=never",
            "--layers=false",
            "--format=docker",
            "--tag",
            image,
            context,
        ]);
    }

    /// Makes an image of a tree of files, which costs less than a build that copies it.
    fn import(&self, root: &Path, image: &str) {
        let archive = self.files.path().join("root.tar");
        let mut tar = Command::new("tar");
        tar.arg("--create")
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(root)
            .arg(".");
        assert!(tar.status().expect("tar runs").success());
        self.ok(&["import", "--quiet", archive.to_str().expect("UTF-8"), image]);
    }

    /// Starts a container of this name, on a root that is read-only, with the limits that this machine permits.
    fn start(&self, container: &str, port: &Port, words: &[&str]) {
        let port = format!("PORT={port}");
        let options = [
            &["run", "--detach", "--name", container, "--env", &port][..],
            &[
                "--network=host",
                "--cgroups=disabled",
                "--read-only",
                "--tmpfs=/tmp",
            ],
            &["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"],
        ];
        self.ok(&[&options.concat(), words].concat());
    }

    /// Waits for the end of a container, and returns its exit code.
    fn ended(&self, container: &str) -> String {
        let code = self.ok(&["wait", container]);
        code.trim().to_owned()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        kill(self.holder);
        let _ = self.outside.wait();
    }
}

/// Waits for answers of a container.
fn serves(podman: &Podman, container: &str, port: &Port) {
    let printed = || {
        let ran = podman.run(&["logs", container]);
        [ran.stdout, ran.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let answers = || get(port.number(), "/").map_err(|error| (error.to_string(), printed()));
    let _answer = wait_until("it serves", BOUND, answers, Result::is_ok);
}

/// Reloads an app in a container under traffic.
fn reloads(podman: &Podman, container: &str, port: &Port, app: &str) {
    let clients = Clients::begin(port, "/", CLIENTS);
    clients.wait_ok(SOME);
    podman.ok(&["exec", container, "rpmx", "reload", app]);
    clients.wait_ok(SOME);
    let reports = clients.finish();
    let unclean = |(_, report): &&(Kind, Report)| report.check_clean().is_err();
    let unclean: Vec<_> = reports.iter().filter(unclean).collect();
    assert!(unclean.is_empty(), "{unclean:#?}");
}

#[test]
fn an_image_of_the_documented_dockerfile() {
    let Some(podman) = Podman::new("an_image_of_the_documented_dockerfile") else {
        return;
    };
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let base = podman.context("base");
    copy_program(&node(22), &base.join("root"), "/usr/local/bin/node");
    // For the libraries of the program under test, if it is not static.
    copy_program(rpm.binary(), &base.join("root"), "/usr/local/bin/rpmx");
    podman.import(&base.join("root"), "docker.io/library/node:22-slim");
    let app = podman.context("app");
    fs::create_dir_all(app.join("target/dist")).expect("a directory");
    fs::copy(base.join("root/usr/local/bin/rpmx"), app.join("target/dist/rpm")).expect("a copy");
    let server = "require('http').createServer((_, answer) => answer.end('here')).listen(+process.env.PORT); console.log('started');";
    fs::write(app.join("server.js"), server).expect("a file");
    let dockerfile = fs::read_to_string(repository().join("packaging/docker/Dockerfile.node"));
    podman.build(&app, "app", &dockerfile.expect("it is there"));

    podman.start("app", &port, &["app", "server.js", "-i", "2"]);
    serves(&podman, "app", &port);
    let healthy = || podman.run(&["healthcheck", "run", "app"]);
    wait_until("it is healthy", BOUND, healthy, |ran| ran.status.success());
    reloads(&podman, "app", &port, "server");
    podman.ok(&["stop", "--time=60", "app"]);
    assert_eq!(podman.ended("app"), "0");
    let logs = podman.ok(&["logs", "app"]);
    assert_eq!(
        logs.matches("started").count(),
        4,
        "two workers, and two of the reload: {logs}"
    );
}

#[test]
fn an_image_with_nothing_but_the_program_and_an_app() {
    let Some(podman) = Podman::new("an_image_with_nothing_but_the_program_and_an_app") else {
        return;
    };
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let bare = podman.context("bare");
    // What is not static brings its libraries.
    copy_program(rpm.binary(), &bare.join("root"), "/usr/local/bin/rpmx");
    let mut cc = Command::new("cc");
    cc.args(["-static", "-O1", "-o"])
        .args([bare.join("root/app"), fixture("hello.c")]);
    assert!(cc.status().expect("cc runs").success());
    let dockerfile = "FROM scratch\nCOPY root /\nENV RPM_HOME=/tmp/rpm PATH=/usr/local/bin\nENTRYPOINT [\"rpmx\", \"daemon\"]\n";
    podman.build(&bare, "bare", dockerfile);

    podman.start("bare", &port, &["bare"]);
    let started = || podman.run(&["exec", "bare", "rpmx", "ping", "--no-start"]);
    wait_until("the daemon answers", BOUND, started, |ran| ran.status.success());
    podman.ok(&["exec", "bare", "rpmx", "start", "/app", "-i", "2"]);
    serves(&podman, "bare", &port);
    reloads(&podman, "bare", &port, "app");
    podman.ok(&["exec", "bare", "rpmx", "ready"]);
    // Process 1 may be gone before this command is, and then that is killed.
    podman.run(&["exec", "bare", "rpmx", "kill"]);
    assert_eq!(podman.ended("bare"), "0");
}
