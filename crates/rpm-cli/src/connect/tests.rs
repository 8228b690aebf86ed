//! Start-up against programs that pretend to be the daemon.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use super::*;

/// A home of its own, and a script in it that is started as the daemon.
struct Fixture(PathBuf);

impl Fixture {
    fn new(name: &str, script: &str) -> Self {
        let root = std::env::temp_dir().join(format!("rpm-conn-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir(&root).expect("directory");
        let program = root.join("program");
        // Written by another process: a child that another test forks meanwhile would hold it open for writing, and then it cannot be executed.
        let mut writer = Command::new("/bin/sh")
            .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
            .arg(&program)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        let text = format!("#!/bin/sh\n{script}\n");
        let mut input = writer.stdin.take().expect("its input");
        input.write_all(text.as_bytes()).expect("script");
        drop(input);
        assert!(writer.wait().expect("it ends").success());
        Fixture(root)
    }

    fn home(&self) -> Home {
        Home::open(self.0.clone()).expect("home")
    }

    /// The outcome of a start, and how often the program ran.
    fn start(&self) -> (Result<UnixStream, ConnectError>, usize) {
        let outcome = block_on(connect_or_start(
            &self.home(),
            &self.0.join("program"),
            Lost::Refuse,
        ));
        let runs = fs::read_to_string(self.0.join("runs")).unwrap_or_default();
        (outcome, runs.lines().count())
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime")
        .block_on(future)
}

#[test]
fn a_daemon_that_runs_is_not_started() {
    let fixture = Fixture::new("runs", "echo x >>$RPM_HOME/runs");
    let _daemon = UnixListener::bind(fixture.home().socket()).expect("socket");
    let (outcome, runs) = fixture.start();
    assert!(outcome.is_ok() && runs == 0, "{outcome:?}");
}

#[test]
fn what_the_failing_daemon_says_is_shown() {
    let fixture = Fixture::new(
        "fails",
        "echo x >>$RPM_HOME/runs; echo \"no room: $1 in $(pwd)\"; exit 1",
    );
    let (outcome, runs) = fixture.start();
    let error = outcome.expect_err("refused").to_string();
    assert_eq!(
        (error.as_str(), runs),
        ("the daemon could not start: no room: daemon in /", 1)
    );
}

#[test]
fn a_daemon_that_dies_silently_or_lies_is_told_from_one_that_runs() {
    let error = |name, script| {
        Fixture::new(name, script)
            .start()
            .0
            .expect_err("dead")
            .to_string()
    };
    assert!(error("silent", "exit 3").starts_with("the daemon ended at once ("));
    assert!(error("liar", "echo ready").starts_with("the daemon ended at once (after it was ready)"));
}

#[test]
fn a_program_that_cannot_be_executed_is_an_error() {
    let fixture = Fixture::new("absent", "");
    let outcome = block_on(connect_or_start(
        &fixture.home(),
        &fixture.0.join("absent"),
        Lost::Refuse,
    ));
    assert!(matches!(outcome, Err(ConnectError::Spawn(_))), "{outcome:?}");
}

#[test]
fn a_client_that_waits_for_the_lock_finds_the_daemon_of_its_holder() {
    let fixture = Fixture::new("race", "echo x >>$RPM_HOME/runs; echo must not run");
    let home = fixture.home();
    let lock = home.lock_file().expect("lock file");
    lock.lock().expect("locked");
    let program = fixture.0.join("program");
    block_on(async {
        let waiting = connect_or_start(&home, &program, Lost::Refuse);
        let holder = async {
            tokio::task::yield_now().await;
            UnixListener::bind(home.socket()).expect("socket")
        };
        let (outcome, _daemon) = tokio::join!(waiting, holder);
        outcome.expect("connected");
    });
    drop(lock);
    assert!(!fixture.0.join("runs").exists());
}

#[test]
fn a_stale_socket_counts_as_no_daemon() {
    let fixture = Fixture::new("stale", "echo x >>$RPM_HOME/runs; echo started; exit 1");
    drop(UnixListener::bind(fixture.home().socket()).expect("socket"));
    assert!(matches!(block_on(connect(&fixture.home())), Ok(None)));
    let (outcome, runs) = fixture.start();
    assert!(
        matches!(outcome, Err(ConnectError::Refused(_))) && runs == 1,
        "{outcome:?}"
    );
}
