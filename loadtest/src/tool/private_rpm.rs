//! A daemon of our own in a temporary home.

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use super::{pidfds, procfs};

/// The longest a command may take: a start waits for readiness.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// The longest `rpm kill` may take at the end.
const KILL_LIMIT: Duration = Duration::from_secs(10);

static HOMES: AtomicU32 = AtomicU32::new(0);

/// A private rpm; dropping it ends the daemon with all its workers and removes its home.
#[derive(Debug)]
pub(crate) struct PrivateRpm {
    program: PathBuf,
    home: PathBuf,
    env: Vec<(String, String)>,
    user: User,
}

/// Whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// The one that runs this.
    Own,
    /// One without any privilege: `nobody`, if this is run by root.
    Nobody,
}

/// Debian's `nobody`.
const NOBODY: u32 = 65_534;

impl PrivateRpm {
    /// Where its files are.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// With a new home and these variables in the environment of everything; starts nothing.
    pub(crate) fn new(program: PathBuf, env: Vec<(String, String)>) -> anyhow::Result<Self> {
        PrivateRpm::new_as(program, env, User::Own)
    }

    /// The same as this user.
    pub(crate) fn new_as(program: PathBuf, env: Vec<(String, String)>, user: User) -> anyhow::Result<Self> {
        let number = HOMES.fetch_add(1, Ordering::Relaxed);
        let home = std::env::temp_dir().join(format!("rpm-loadtest-{}-{number}", std::process::id()));
        let created = std::fs::DirBuilder::new().mode(0o700).create(&home);
        created.with_context(|| format!("creating the home {}", home.display()))?;
        let user = match user {
            User::Nobody if rustix::process::geteuid().is_root() => {
                let given = std::os::unix::fs::chown(&home, Some(NOBODY), Some(NOBODY));
                given.with_context(|| format!("giving {} to nobody", home.display()))?;
                User::Nobody
            }
            User::Own | User::Nobody => User::Own,
        };
        Ok(PrivateRpm {
            program,
            home,
            env,
            user,
        })
    }

    /// Run an rpm command and return what it prints.
    ///
    /// # Errors
    /// It fails (with its output in the error) or takes longer than a minute.
    pub(crate) async fn command(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.command_with(arguments, &[]).await
    }

    /// The same, with more variables in its environment.
    ///
    /// # Errors
    /// As [`PrivateRpm::command`].
    pub(crate) async fn command_with(
        &self,
        arguments: &[&str],
        env: &[(&str, &str)],
    ) -> anyhow::Result<String> {
        let mut command = Command::from(self.std_command());
        command.envs(env.iter().copied());
        let running = command.args(arguments).kill_on_drop(true).output();
        let shown = format!("rpm {}", arguments.join(" "));
        let Output {
            status,
            stdout,
            stderr,
        } = timeout(COMMAND_LIMIT, running)
            .await
            .with_context(|| format!("`{shown}` took longer than {COMMAND_LIMIT:?}"))?
            .with_context(|| format!("executing {}", self.program.display()))?;
        let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        ensure!(status.success(), "`{shown}` failed ({status}):\n{stdout}{stderr}");
        Ok(stdout)
    }

    /// A command that has not run yet, whose output nobody wants.
    pub(crate) fn quiet(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.std_command();
        command
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// The process ids of all running workers.
    ///
    /// # Errors
    /// `rpm list --json` fails or prints something else than the list of processes.
    pub(crate) async fn workers(&self) -> anyhow::Result<Vec<u32>> {
        let text = self.command(&["list", "--json"]).await?;
        worker_pids(&text).with_context(|| format!("`rpm list --json` printed {text:?}"))
    }

    /// The process id of the daemon.
    ///
    /// # Errors
    /// None runs, or its number is another program's.
    pub(crate) async fn daemon(&self) -> anyhow::Result<u32> {
        let pong = self.command(&["ping", "--json"]).await?;
        let pong: Value = serde_json::from_str(&pong).context("`rpm ping --json` printed no JSON")?;
        let daemon = pong["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        let daemon = daemon.context("`rpm ping --json` told no pid")?;
        match procfs::program(daemon) {
            Some(program) if program == self.program => Ok(daemon),
            other => bail!("process {daemon} is not the daemon but {other:?}"),
        }
    }

    fn std_command(&self) -> std::process::Command {
        let mut command = match self.user {
            User::Own => std::process::Command::new(&self.program),
            User::Nobody => {
                let mut command = std::process::Command::new("setpriv");
                let (uid, gid) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
                command.args([
                    &uid,
                    &gid,
                    "--clear-groups",
                    "--bounding-set=-all",
                    "--inh-caps=-all",
                ]);
                command.arg(&self.program);
                command
            }
        };
        command
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env("RPM_HOME", &self.home);
        for foreign in [
            "NODE_OPTIONS",
            "NODE_CHANNEL_FD",
            "NODE_UNIQUE_ID",
            "NODE_APP_INSTANCE",
        ] {
            command.env_remove(foreign);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Every process of this rpm that is alive.
    fn processes(&self) -> Vec<OwnedFd> {
        let Ok(listed) = output_within(self.std_command().args(["list", "--json"]), KILL_LIMIT) else {
            return Vec::new();
        };
        let workers = worker_pids(&listed).unwrap_or_default();
        let parents = workers.iter().filter_map(|worker| procfs::parent(*worker));
        let daemon = parents
            .into_iter()
            .find(|pid| procfs::program(*pid).as_ref() == Some(&self.program));
        let roots: Vec<u32> = workers.iter().copied().chain(daemon).collect();
        pidfds::hold(&roots)
    }
}

impl Drop for PrivateRpm {
    fn drop(&mut self) {
        let processes = self.processes();
        if let Err(error) = output_within(self.std_command().arg("kill"), KILL_LIMIT) {
            eprintln!("ending the private rpm daemon: {error:#}");
        }
        // Gone already, as it should be, unless the daemon is broken.
        pidfds::end(&processes);
        if let Err(error) = std::fs::remove_dir_all(&self.home) {
            eprintln!("removing {}: {error}", self.home.display());
        }
    }
}

fn worker_pids(list: &str) -> anyhow::Result<Vec<u32>> {
    let list: Vec<Value> = serde_json::from_str(list)?;
    let pids = list.iter().filter_map(|process| process["pid"].as_u64());
    Ok(pids.filter_map(|pid| u32::try_from(pid).ok()).collect())
}

/// Run a short command without a runtime, for it may be gone when things are dropped.
fn output_within(command: &mut std::process::Command, limit: Duration) -> anyhow::Result<String> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let stdout = child.stdout.take().context("no pipe")?;
    let reader = std::thread::spawn(move || std::io::read_to_string(stdout));
    let deadline = Instant::now() + limit;
    while child.try_wait()?.is_none() {
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            bail!("no end within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    match reader.join() {
        Ok(text) => Ok(text?),
        Err(_) => bail!("reading its output failed"),
    }
}

/// The path of a program or script as an argument.
///
/// # Errors
/// It is not UTF-8.
pub(crate) fn argument(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pids_of_running_workers_only() {
        let list = r#"[{"id":0,"pid":41},{"id":1,"pid":null},{"id":2,"pid":43}]"#;
        assert_eq!(worker_pids(list).expect("list"), [41, 43]);
        assert!(worker_pids("rpm: usage").is_err());
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let mut sleep = std::process::Command::new("sleep");
        let ended = output_within(sleep.arg("60"), Duration::from_millis(20));
        assert!(ended.is_err_and(|error| error.to_string().contains("20ms")));
    }

    #[test]
    fn a_home_is_removed() {
        let rpm = PrivateRpm::new("/bin/true".into(), Vec::new()).expect("home");
        let home = rpm.home.clone();
        assert!(home.is_dir());
        drop(rpm);
        assert!(!home.exists());
    }
}
