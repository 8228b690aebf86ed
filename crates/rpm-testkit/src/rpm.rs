//! The real `rpm`, with a home of its own.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rpm_wire::api::{AppInfo, Process, Status};

use crate::http::{self, Answer};
use crate::reachable::{What, reachable};
use crate::{node, repository, wait_until};

/// User and group of an unprivileged daemon.
const NOBODY: u32 = 65_534;
/// Long enough for anything, on a loaded machine.
const BOUND: Duration = Duration::from_secs(30);

/// A home directory, and the `rpm` command that uses it. Its daemon is stopped when this is dropped.
#[derive(Debug)]
pub struct Rpm {
    home: PathBuf,
    binary: PathBuf,
    unprivileged: bool,
    capable: bool,
    env: Vec<(String, String)>,
}

/// A finished command.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Rpm {
    /// Runs as the user of the tests.
    ///
    /// # Panics
    /// There is no binary, or no directory can be created.
    #[must_use]
    pub fn new() -> Rpm {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // It is short because the address of a Unix socket has at most 108 bytes.
        let home = PathBuf::from(format!("/tmp/rpm-t{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&home);
        fs::create_dir(&home).expect("a home");
        Rpm {
            home,
            binary: binary().to_owned(),
            unprivileged: false,
            capable: false,
            env: Vec::new(),
        }
    }

    /// Runs as an unprivileged user without capabilities (`setpriv`), who cannot load eBPF programs. `None` if the machine does not allow
    /// that; in CI that fails.
    ///
    /// # Panics
    /// In CI, if `setpriv` or root is missing.
    #[must_use]
    pub fn unprivileged(test: &str) -> Option<Rpm> {
        let mut rpm = Rpm::new();
        rpm.unprivileged = true;
        if let Err(error) = std::os::unix::fs::chown(&rpm.home, Some(NOBODY), Some(NOBODY)) {
            crate::skip(test, &format!("only root can become another user: {error}"));
            return None;
        }
        let probe = rpm.command(["--version"]).output();
        match probe {
            Ok(done) if done.status.success() => Some(rpm),
            Ok(done) => {
                // The checkout's directory may be closed to other users.
                crate::skip(
                    test,
                    &format!("as nobody: {}", String::from_utf8_lossy(&done.stderr)),
                );
                None
            }
            Err(error) => {
                crate::skip(test, &format!("setpriv does not run: {error}"));
                None
            }
        }
    }

    /// Runs as an unprivileged user, with a copy of the program that has these file capabilities (`setcap`). `None` if the machine does not
    /// allow that; in CI that fails.
    ///
    /// # Panics
    /// In CI, if it is not possible.
    #[must_use]
    pub fn capable(test: &str, capabilities: &str) -> Option<Rpm> {
        let mut rpm = Rpm::new();
        rpm.capable = true;
        let copy = rpm.home.join("rpm-capable");
        let given = fs::copy(&rpm.binary, &copy)
            .and_then(|_| std::os::unix::fs::chown(&rpm.home, Some(NOBODY), Some(NOBODY)))
            .and_then(|()| Command::new("setcap").arg(capabilities).arg(&copy).output());
        match given {
            Ok(done) if done.status.success() => {
                rpm.binary = copy;
                Some(rpm)
            }
            Ok(done) => {
                crate::skip(test, &String::from_utf8_lossy(&done.stderr));
                None
            }
            Err(error) => {
                crate::skip(test, &format!("no program with capabilities: {error}"));
                None
            }
        }
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn with_env(mut self, key: &str, value: &str) -> Rpm {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The program.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Its home directory.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// A command to be run by the caller, who wants its output live or its environment changed.
    #[must_use]
    pub fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = if self.unprivileged || self.capable {
            let mut setpriv = Command::new("setpriv");
            setpriv.args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "--inh-caps=-all",
            ]);
            if self.unprivileged {
                setpriv.args(["--bounding-set=-all", "--no-new-privs"]);
            }
            setpriv.arg("--").arg(&self.binary);
            setpriv
        } else {
            Command::new(&self.binary)
        };
        command
            .args(args)
            .env("RPM_HOME", &self.home)
            .env("NO_COLOR", "1")
            .env("PATH", path())
            .current_dir("/");
        command
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs a command and waits for it.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn run(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ran {
        self.command(args).output().expect("rpm runs").into()
    }

    /// Runs a command that must succeed, and returns its standard output.
    ///
    /// # Panics
    /// It fails.
    pub fn ok(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(0), "{ran:#?}\n{}", self.log());
        ran.stdout
    }

    /// Runs a command that must fail with code 1, and returns its standard error.
    ///
    /// # Panics
    /// It succeeds, or fails in another way.
    pub fn fails(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(1), "{ran:#?}\n{}", self.log());
        ran.stderr
    }

    /// Starts a command without waiting for it.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn spawn(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Child {
        self.command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("rpm runs")
    }

    /// The output of `rpm list --json`.
    ///
    /// # Panics
    /// It fails.
    #[must_use]
    pub fn list(&self) -> Vec<Process> {
        let text = self.read("/v1/processes", &["list", "--json"]);
        serde_json::from_str(&text).expect("a list of processes")
    }

    /// What the control API returns at `path`, or the output of `command`, which prints the same, if there is no daemon: the command starts
    /// one. Waits ask a hundred times a second, and a process for each would take a third of a CPU.
    fn read(&self, path: &str, command: &[&str]) -> String {
        match http::unix(&self.home.join("rpm.sock"), "GET", path, b"") {
            Ok(answer) if answer.status == 200 => answer.body,
            Ok(_) | Err(_) => self.ok(command),
        }
    }

    /// One process of the list.
    ///
    /// # Panics
    /// It is not in the list.
    #[must_use]
    pub fn process(&self, id: u32) -> Process {
        self.list()
            .into_iter()
            .find(|process| process.id == id)
            .expect("the process is listed")
    }

    /// The pids of an app's processes, by id.
    #[must_use]
    pub fn pids(&self, name: &str) -> Vec<u32> {
        self.list()
            .into_iter()
            .filter(|process| process.name == name)
            .filter_map(|process| process.pid)
            .collect()
    }

    /// Waits until every process of the app has this status, and returns them.
    ///
    /// # Panics
    /// It takes too long.
    pub fn wait_status(&self, name: &str, status: Status) -> Vec<Process> {
        let ours = || {
            self.list()
                .into_iter()
                .filter(|process| process.name == name)
                .collect::<Vec<_>>()
        };
        let all =
            |list: &Vec<Process>| !list.is_empty() && list.iter().all(|process| process.status == status);
        wait_until(&format!("{name} is {}", status.as_str()), BOUND, ours, all)
    }

    /// The output of `rpm describe --json`. App names in tests need no encoding in a path.
    ///
    /// # Panics
    /// It fails.
    #[must_use]
    pub fn describe(&self, app: &str) -> AppInfo {
        let text = self.read(&format!("/v1/apps/{app}"), &["describe", app, "--json"]);
        serde_json::from_str(&text).expect("a description")
    }

    /// Sends a request to the control API.
    ///
    /// # Panics
    /// There is no daemon.
    #[must_use]
    pub fn api(&self, method: &str, path: &str, body: &str) -> Answer {
        http::unix(&self.home.join("rpm.sock"), method, path, body.as_bytes()).expect("the daemon answers")
    }

    /// All processes that workers of this home have started, leaders included, even if they have other parents now.
    #[must_use]
    pub fn processes_of_workers(&self) -> Vec<u32> {
        let mut all = rpm_sys::tree::marked(&format!("RPM_HOME={}", self.home().display()));
        all.retain(|pid| rpm_sys::tree::variable(*pid, "RPM_WORKER").is_some());
        all
    }

    /// The daemon's pid, if one runs.
    #[must_use]
    pub fn daemon_pid(&self) -> Option<u32> {
        self.pid_in("rpm.pid")
    }

    /// The pid of the keeper, if there is one.
    #[must_use]
    pub fn keeper_pid(&self) -> Option<u32> {
        self.pid_in("keep.pid")
    }

    fn pid_in(&self, name: &str) -> Option<u32> {
        let text = fs::read_to_string(self.home.join(name)).ok()?;
        text.trim().parse().ok()
    }

    /// The daemon's log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.join("rpm.log")).unwrap_or_default()
    }

    /// What an app's process wrote to `out` or `error`; `id` is `None` in fork mode.
    #[must_use]
    pub fn output(&self, name: &str, stream: &str, id: Option<u32>) -> Vec<u8> {
        let suffix = id.map(|id| format!("-{id}")).unwrap_or_default();
        fs::read(self.home.join(format!("logs/{name}-{stream}{suffix}.log"))).unwrap_or_default()
    }
}

impl Default for Rpm {
    fn default() -> Self {
        Rpm::new()
    }
}

impl Drop for Rpm {
    fn drop(&mut self) {
        let pid = self.daemon_pid();
        let stopped = self.run(["kill"]);
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.log());
        } else {
            assert_eq!(stopped.code, Some(0), "{stopped:#?}");
        }
        if let Some(pid) = pid {
            wait_until("the daemon has exited", BOUND, || runs(pid), |runs| !runs);
        }
        let _ = fs::set_permissions(&self.home, fs::Permissions::from_mode(0o700));
        let _ = fs::remove_dir_all(&self.home);
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

/// True if a process runs. One that has ended stays visible until its parent, which may be a slow init, reaps it.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// The binary under test: `RPM_BIN`, or the one that was built with this test.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let binary = std::env::var_os("RPM_BIN").map_or_else(built, PathBuf::from);
        // What it executes for some commands has to be beside it, wherever that is.
        let companion = binary.with_file_name("rpm-observe");
        if companion.is_file() {
            reachable(companion, What::File);
        }
        reachable(binary, What::File)
    })
}

/// Where programs are looked for. First the Node that the tests install, so that it is the same on every machine. Then the programs of the
/// system: those of a version manager such as pyenv are scripts that start some twenty others, and take longer than what they run.
fn path() -> &'static OsStr {
    static PATH: OnceLock<OsString> = OnceLock::new();
    PATH.get_or_init(|| {
        let node = node(22).parent().expect("a file is in a directory").to_owned();
        let first = [node, "/usr/bin".into(), "/bin".into()];
        let rest = std::env::var_os("PATH").unwrap_or_default();
        std::env::join_paths(first.into_iter().chain(std::env::split_paths(&rest)))
            .expect("no directory of theirs has a colon in its name")
    })
}

/// `target/<profile>/rpm`; a test is `target/<profile>/deps/<name>`. A build of all tests makes it, and nextest always builds all (`cargo
/// xtask test`). A build of one package does not, so without nextest it is built here if it is out of date.
fn built() -> PathBuf {
    let test = std::env::current_exe().expect("a test is a file");
    let binary = test
        .ancestors()
        .nth(2)
        .expect("a test is in target/<profile>/deps")
        .join("rpm");
    if std::env::var_os("NEXTEST").is_none() {
        let done = Command::new(env!("CARGO"))
            .args(["test", "--quiet", "--no-run", "--workspace"])
            .current_dir(repository())
            .output()
            .expect("cargo runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    assert!(
        binary.is_file(),
        "no {}: run the tests with `cargo xtask test`, which builds it, or name another binary in RPM_BIN",
        binary.display()
    );
    binary
}
