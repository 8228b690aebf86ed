//! Whether systemd stops the service that this command belongs to in order to start it again.
//!
//! systemd tells an `ExecStop=` nothing of that. But a service that is restarted has a job of the type `restart` until it has stopped (in the
//! list of `systemctl list-jobs`), and its processes are in a control group with the name of its unit.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::super::tell;

/// For systemd to say what it does.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

/// A unit, and which systemd has it.
#[derive(Debug, PartialEq, Eq)]
struct Unit<'a> {
    name: &'a str,
    /// It belongs to a user's own manager of services.
    of_user: bool,
}

/// Is systemd about to start this service again? `false` as well if that cannot be found out: then it is stopped.
pub(in crate::commands) fn is_restarting() -> bool {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(unit) = unit(&groups) else { return false };
    match jobs(unit.of_user) {
        Ok(jobs) => is_restarted(&jobs, unit.name),
        Err(error) => {
            tell(format!(
                "systemd does not say whether {} is being restarted ({error}), so that the apps are stopped",
                unit.name
            ));
            false
        }
    }
}

/// The unit that a process with these control groups (`/proc/PID/cgroup`, cgroups(7)) belongs to. Of version 1, the hierarchy of systemd.
fn unit(groups: &str) -> Option<Unit<'_>> {
    let paths = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        let path = parts.next()?;
        matches!(controllers, "" | "name=systemd").then_some(path)
    });
    let named = paths.filter_map(|path| {
        let services = path.split('/').filter(|part| part.ends_with(".service"));
        let name = services.clone().next_back()?;
        let of_user = services.clone().count() > 1 && services.clone().any(|part| part.starts_with("user@"));
        Some(Unit { name, of_user })
    });
    named.max_by_key(|unit| unit.of_user)
}

/// What systemd has to do, as `systemctl` prints it.
fn jobs(of_user: bool) -> Result<String, String> {
    let mut command = Command::new("systemctl");
    if of_user {
        command.arg("--user");
    }
    command
        .args(["list-jobs", "--no-legend", "--no-pager", "--plain", "--full"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("systemctl: {error}"))?;
    let deadline = Instant::now() + ANSWER_WITHIN;
    // A list that fills the pipe is longer than any that is waited for.
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!(
                "systemctl has not answered within {} s",
                ANSWER_WITHIN.as_secs()
            ));
        }
        thread::sleep(PAUSE);
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("systemctl: {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Is there a job in this list that restarts the unit? A line is `4711 rpmx@deploy.service restart running`.
fn is_restarted(jobs: &str, unit: &str) -> bool {
    jobs.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(unit) && words.next() == Some("restart")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_of_a_process() {
        let system = |name| Some(Unit { name, of_user: false });
        let user = |name| Some(Unit { name, of_user: true });
        for (groups, expected) in [
            (
                "0::/system.slice/rpm-deploy.service\n",
                system("rpm-deploy.service"),
            ),
            (
                "0::/system.slice/system-rpmx.slice/rpmx@deploy.service/.control\n",
                system("rpmx@deploy.service"),
            ),
            (
                "3:cpu,cpuacct:/a.service\n1:name=systemd:/system.slice/rpmx@a:b.service\n0::/\n",
                system("rpmx@a:b.service"),
            ),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/rpmx.service\n",
                user("rpmx.service"),
            ),
            // The manager itself, and a login.
            (
                "0::/user.slice/user-1000.slice/user@1000.service/init.scope\n",
                system("user@1000.service"),
            ),
            ("0::/user.slice/user-1000.slice/session-3.scope\n", None),
            ("0::/\n", None),
            ("", None),
            ("nonsense\n:\n", None),
        ] {
            assert_eq!(unit(groups), expected, "{groups}");
        }
    }

    #[test]
    fn a_restart_among_jobs() {
        let jobs = "4711 rpmx@deploy.service restart running\n  12 nginx.service start waiting\n13 rpmx@b.service stop running\n";
        assert!(is_restarted(jobs, "rpmx@deploy.service"));
        assert!(!is_restarted(jobs, "rpmx@b.service"), "it is stopped");
        assert!(!is_restarted(jobs, "deploy.service"));
        assert!(!is_restarted(jobs, "nginx.service"));
        assert!(!is_restarted("", "rpmx@deploy.service"));
        assert!(!is_restarted("No jobs running.\n", "jobs"));
    }
}
