//! Faulty input: each message says what failed, why, and what to do.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use rpm_e2e::app::App;
use rpm_e2e::complaint::assert_says;
use rpm_testkit::{Port, Rpm, Status, fixture, get, node};
use rpm_wire::api::ApiError;

fn hello(port: &Port) -> App {
    App::cluster("hello.js", "2").port(port)
}

/// A process outside rpm that listens.
struct Foreign(Child);

impl Foreign {
    fn listen(port: &Port, reuse_port: bool) -> Foreign {
        // As servers do, because a client of an earlier test may have left the port in TIME_WAIT.
        let script = "import socket,sys; s=socket.socket(); \
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); \
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(sys.argv[2])); \
            s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(); print('up', flush=True); sys.stdin.read()";
        let flag = if reuse_port { "1" } else { "0" };
        let mut child = Command::new("python3")
            .args(["-c", script, &port.to_string(), flag])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let mut said = String::new();
        let output = child.stdout.take().expect("it is piped");
        BufReader::new(output)
            .read_line(&mut said)
            .expect("it can be read");
        assert_eq!(said.trim(), "up");
        Foreign(child)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_script_that_is_not_there() {
    let rpm = Rpm::new();
    assert_says(
        &rpm.run(["start", "nothing.js"]),
        &["script not found: nothing.js", "looked in /", "give its path"],
    );
    assert_says(
        &rpm.run(["start", "/tmp"]),
        &["/tmp is a directory", "name the script in it"],
    );
    assert!(rpm.list().is_empty(), "nothing was started");
}

#[test]
fn an_interpreter_that_is_not_there() {
    let rpm = Rpm::new();
    for program in ["no-such-program", "/no/such/program"] {
        let script = fixture("hello.js");
        let ran = rpm.run([
            "start".as_ref(),
            script.as_os_str(),
            "--interpreter".as_ref(),
            program.as_ref(),
        ]);
        assert_says(
            &ran,
            &["interpreter not found", program, "install it", "--interpreter"],
        );
    }
    assert!(rpm.list().is_empty(), "nothing was started");
}

/// With `SO_REUSEPORT` the kernel would let both bind, and share connections between them.
#[test]
fn a_port_that_a_foreign_process_has() {
    for reuse_port in [false, true] {
        let (rpm, port) = (Rpm::new(), Port::reserve());
        let foreign = Foreign::listen(&port, reuse_port);
        let owner = format!("(pid {})", foreign.0.id());
        let address = format!("127.0.0.1:{port}");
        let ran = hello(&port).try_start(&rpm);
        assert_says(
            &ran,
            &[
                &address,
                "is in use by",
                "python",
                &owner,
                "stop it or use another port",
            ],
        );
        drop(foreign);
        rpm.ok(["restart", "hello"]);
        assert_eq!(get(port.number(), "/").expect("the port is free now").status, 200);
    }
}

#[test]
fn a_port_that_another_app_has() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    hello(&port).args(["--name", "first"]).start(&rpm);
    let ran = hello(&port).args(["--name", "second"]).try_start(&rpm);
    assert_says(
        &ran,
        &[
            "is in use by the app \"first\"",
            &format!("127.0.0.1:{port}"),
            "use another port",
        ],
    );
    rpm.wait_status("first", Status::Online);
    assert_eq!(
        get(port.number(), "/").expect("the first one serves on").status,
        200
    );
}

/// Outside cluster mode a program counts as started once it is executed. The list shows what becomes of it.
#[test]
fn an_app_that_exits_at_once() {
    let rpm = Rpm::new();
    // Node may rest for a moment while it boots. If a second has passed then, it counts as started.
    let script = rpm.home().join("exit-at-once.sh");
    fs::write(&script, "echo leaving at once >&2; exit 1\n").expect("a script");
    let ran = App::of([script])
        .args(["--interpreter", "sh", "--max-restarts", "2"])
        .try_start(&rpm);
    assert_says(
        &ran,
        &["exited with code 1 before it was ready", "leaving at once"],
    );
    let ended = rpm.wait_status("exit-at-once", Status::Errored);
    assert_eq!(ended[0].exit_code, Some(1));
    let lines = rpm.ok(["logs", "exit-at-once", "--nostream"]);
    assert!(lines.contains("leaving at once"), "{lines}");
}

#[test]
fn an_app_that_exits_at_once_in_a_cluster() {
    let rpm = Rpm::new();
    let script = rpm.home().join("gone.js");
    fs::write(&script, "console.log('no configuration'); process.exit(3);").expect("a script");
    let args = [
        "start",
        script.to_str().expect("UTF-8"),
        "-i",
        "2",
        "--interpreter",
    ];
    let ran = rpm.run(args.iter().map(Into::into).chain([node(22).into_os_string()]));
    assert_says(
        &ran,
        &[
            "gone (",
            "exited with code 3 before it was ready",
            "its last lines",
            "no configuration",
        ],
    );
}

#[test]
fn an_app_that_throws() {
    let rpm = Rpm::new();
    let ran = App::cluster("throws.js", "2").try_start(&rpm);
    assert_says(
        &ran,
        &[
            "throws (",
            "exited with code 1 before it was ready",
            "Error: broken on purpose",
            "hint: ",
        ],
    );
}

#[test]
fn a_host_name_that_resolves_to_nothing() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    // Where no name server answers, it is asked for a second, and not for as long as a start may take.
    let ran = hello(&port)
        .env("HOST", "no-such-host.invalid")
        .env("RES_OPTIONS", "timeout:1 attempts:1")
        .try_start(&rpm);
    assert_says(
        &ran,
        &[
            "exited with code 1 before it was ready",
            "getaddrinfo",
            "no-such-host.invalid",
        ],
    );
}

/// It could be a queue consumer, so it runs, and a note says that it does not listen.
#[test]
fn an_app_that_never_listens() {
    let rpm = Rpm::new();
    let ran = App::cluster("no-listen.js", "2")
        .args(["--listen-timeout", "500"])
        .start(&rpm);
    for id in [0, 1] {
        let note = format!("note: no-listen ({id}) is online and listens on nothing");
        assert!(ran.stderr.contains(&note), "{ran:#?}");
    }
    rpm.wait_status("no-listen", Status::Online);
}

#[test]
fn a_working_directory_that_is_not_there() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let ran = hello(&port).args(["--cwd", "/no/where"]).try_start(&rpm);
    assert_says(
        &ran,
        &[
            "the working directory /no/where does not exist",
            "create it",
            "--cwd",
        ],
    );
}

/// The daemon checks this too: the directory may vanish, and other clients may not check.
#[test]
fn a_working_directory_that_vanished() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let place = rpm.home().join("place");
    fs::create_dir(&place).expect("a directory");
    let place_arg = place.to_str().expect("UTF-8");
    hello(&port).args(["--cwd", place_arg]).start(&rpm);
    rpm.ok(["stop", "hello"]);
    fs::remove_dir(&place).expect("it is empty");
    assert_says(
        &rpm.run(["restart", "hello"]),
        &[place_arg, "does not exist", "create it"],
    );
}

#[test]
fn a_name_that_exists() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    hello(&port).start(&rpm);
    let ran = hello(&Port::reserve()).try_start(&rpm);
    assert_says(
        &ran,
        &[
            "\"hello\" already runs",
            " restart hello` restarts it",
            " --force`",
        ],
    );
    assert_eq!(rpm.list().len(), 2);
    let ran = hello(&port).args(["--name", "all"]).try_start(&rpm);
    assert_says(
        &ran,
        &[
            "\"all\" cannot be the name of an app",
            "choose another with --name",
        ],
    );
}

#[test]
fn numbers_of_instances_that_make_no_sense() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    hello(&port).start(&rpm);
    assert_says(
        &rpm.run(["scale", "hello", "0"]),
        &["at least one instance", " delete hello` ends it"],
    );
    assert_says(
        &rpm.run(["scale", "hello", "100000"]),
        &["100000 instances are too many", "the most is 1000"],
    );
    assert_says(
        &rpm.run(["scale", "hello", "many"]),
        &["\'many\'", "expected n, +n, -n or max"],
    );
    assert_says(
        &rpm.run(["scale", "other", "2"]),
        &["no process or app \"other\"", "there are: hello"],
    );
    assert_eq!(rpm.pids("hello").len(), 2, "nothing has changed");
    let more = App::cluster("hello.js", "100000")
        .args(["--name", "more"])
        .port(&port)
        .try_start(&rpm);
    assert_says(&more, &["100000 instances are too many", "the most is 1000"]);
    let most = App::cluster("hello.js", "100000000000")
        .port(&port)
        .try_start(&rpm);
    assert_says(&most, &["100000000000", "expected a number of instances"]);
}

#[test]
fn addresses_to_listen_on_that_are_none() {
    let rpm = Rpm::new();
    for wrong in ["nonsense", "127.0.0.1:99999", "example.org:80", "[::1]"] {
        let ran = App::cluster("hello.js", "2")
            .args(["--listen", wrong])
            .try_start(&rpm);
        assert_says(
            &ran,
            &[
                wrong,
                "expected a port, or an IP address and a port such as 127.0.0.1:8080",
            ],
        );
    }
}

fn refusal(rpm: &Rpm, method: &str, path: &str, body: &str) -> (u16, ApiError) {
    let answer = rpm.api(method, path, body);
    let error = serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    (answer.status, error)
}

#[test]
fn requests_that_the_api_does_not_take() {
    let rpm = Rpm::new();
    rpm.ok(["ping"]);
    let large = " ".repeat(33 << 20);
    let cases = [
        (
            "POST",
            "/v1/apps",
            large.as_str(),
            413,
            "larger than 33554432 bytes",
        ),
        ("POST", "/v1/apps", "{", 400, "EOF"),
        ("POST", "/v1/apps", "hello", 400, "expected value"),
        (
            "POST",
            "/v1/scale",
            r#"{"target": "x"}"#,
            400,
            "missing field `count`",
        ),
        (
            "POST",
            "/v1/scale",
            r#"{"target": "x", "count": "2", "colour": 1}"#,
            400,
            "unknown field `colour`",
        ),
        ("GET", "/v1/nothing", "", 404, "no such endpoint"),
        ("DELETE", "/v1/apps", "", 404, "no such endpoint"),
        ("GET", "/v1/apps/nobody", "", 422, "no process or app \"nobody\""),
    ];
    for (method, path, body, status, part) in cases {
        let (found, error) = refusal(&rpm, method, path, body);
        assert_eq!(found, status, "{method} {path}: {error:?}");
        assert!(error.error.contains(part), "{method} {path}: {error:?}");
        assert!(error.hint.is_some(), "{method} {path} says what to do: {error:?}");
    }
    assert_eq!(
        rpm.api("GET", "/v1/ping", "").status,
        200,
        "the daemon is unharmed"
    );
}

#[test]
fn what_is_not_a_command() {
    let rpm = Rpm::new();
    assert_says(&rpm.run(["strat"]), &["strat"]);
    assert_says(
        &rpm.run(["start"]),
        &["there is no ecosystem.config.js here", "init"],
    );
    assert_eq!(rpm.daemon_pid(), None, "no daemon is started for that");
}

/// A daemon that was started to say that it knows nothing would stay.
#[test]
fn a_question_about_an_app_starts_no_daemon() {
    let rpm = Rpm::new();
    let ping = rpm.run(["ping", "--no-start"]);
    assert_says(&ping, &["the daemon is not running"]);
    for question in [
        &["logs", "web"][..],
        &["describe", "web"],
        &["env", "web"],
        &["flush", "web"],
        &["reset", "web"],
        &["sendSignal", "SIGUSR1", "web"],
        &["send", "web", "hello"],
        &["attach", "web"],
        &["trigger", "web", "gc"],
    ] {
        let answer = rpm.run(question);
        assert_says(
            &answer,
            &["no process or app \"web\"", "the daemon is not running", "start"],
        );
        assert_eq!(rpm.daemon_pid(), None, "{question:?} started one");
    }
}
