//! Commands that end processes: what they would do, and their progress.

use std::fmt::Write as _;
use std::pin::pin;
use std::time::Duration;

use rpm_wire::api::{Action, Known, Process, Status};
use tokio::time::timeout;

use super::{is_silent, read, tell};
use crate::render::visible;

/// Delay before the first message: most processes end within this time.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How many processes are named; the others are only counted.
const MOST: usize = 5;

/// What `--dry-run` prints: a line for each app, in the order of the processes.
pub(super) fn would(what: Action, meant: &[Known]) -> Vec<String> {
    let mut names: Vec<&str> = Vec::new();
    for process in meant {
        if !names.contains(&process.name.as_str()) {
            names.push(&process.name);
        }
    }
    let line = |name: &str| {
        let of_app = || meant.iter().filter(|process| process.name == name);
        let running = of_app()
            .filter(|process| process.status != Status::Stopped)
            .count();
        let (verb, count) = match what {
            Action::Stop if running == 0 => return format!("{}: stopped already", visible(name)),
            Action::Stop => ("stopped", running),
            Action::Delete => ("deleted", of_app().count()),
            Action::Restart => ("restarted", of_app().count()),
        };
        let processes = if count == 1 { "process" } else { "processes" };
        format!("{}: would be {verb} ({count} {processes})", visible(name))
    };
    names.into_iter().map(line).collect()
}

/// Waits for a change that ends processes. If it takes long, stderr says which ones; `at_once` is the command that does not wait.
pub(super) async fn explained<T>(change: impl Future<Output = T>, at_once: &str) -> T {
    let mut change = pin!(change);
    if let Ok(done) = timeout(PATIENCE, &mut change).await {
        return done;
    }
    let explain = async {
        let processes: Vec<Process> = read("/v1/processes").await.unwrap_or_default();
        if let Some(text) = explanation(&processes, at_once).filter(|_| !is_silent()) {
            tell(text);
        }
        std::future::pending().await
    };
    tokio::select! {
        done = change => done,
        never = explain => never,
    }
}

/// Names the processes that are still ending, and how to end them now; `None` if there are none.
fn explanation(processes: &[Process], at_once: &str) -> Option<String> {
    let ending: Vec<&Process> = processes
        .iter()
        .filter(|process| process.status == Status::Stopping)
        .collect();
    if ending.is_empty() {
        return None;
    }
    let mut text = "waiting for processes to end:".to_owned();
    for (number, process) in ending.iter().take(MOST).enumerate() {
        let comma = if number == 0 { "" } else { "," };
        let _ = write!(text, "{comma} {} {}", visible(&process.name), process.id);
        match (process.pid, process.connections) {
            (Some(pid), Some(1)) => drop(write!(text, " (pid {pid}, 1 connection)")),
            (Some(pid), Some(count)) => drop(write!(text, " (pid {pid}, {count} connections)")),
            (Some(pid), None) => drop(write!(text, " (pid {pid})")),
            (None, _) => {}
        }
    }
    if let Some(more @ 1..) = ending.len().checked_sub(MOST) {
        let _ = write!(text, " and {more} more");
    }
    let _ = write!(text, "; {at_once} ends them at once");
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARD: &str = "`rpm stop web --hard`";

    fn process(id: u32, status: &str, connections: Option<u32>) -> Process {
        let process = serde_json::json!({
            "id": id, "name": "web", "instance": id, "generation": 1, "exec_mode": "cluster", "plane": "direct", "status": status,
            "pid": 100 + id, "uptime_ms": null, "started_at_ms": 0, "created_at_ms": 0, "restarts": 0, "unstable_restarts": 0,
            "cpu_percent": 0.0, "memory_bytes": 0, "connections": connections, "exit_code": null, "out_log": "", "err_log": ""
        });
        serde_json::from_value(process).expect("a process")
    }

    #[test]
    fn a_dry_run_names_each_app_with_its_processes() {
        let known = |id: u32, name: &str, status: &str| -> Known {
            let known = serde_json::json!({
                "id": id, "name": name, "namespace": "default", "script": "/app.js", "status": status
            });
            serde_json::from_value(known).expect("a process")
        };
        let meant = [
            known(0, "web", "online"),
            known(1, "api", "stopped"),
            known(2, "web", "errored"),
            known(3, "web", "stopped"),
        ];
        assert_eq!(
            would(Action::Delete, &meant),
            [
                "web: would be deleted (3 processes)",
                "api: would be deleted (1 process)"
            ]
        );
        assert_eq!(
            would(Action::Stop, &meant),
            ["web: would be stopped (2 processes)", "api: stopped already"]
        );
    }

    #[test]
    fn the_processes_that_have_not_ended_are_named() {
        let processes = [
            process(0, "stopping", Some(1)),
            process(1, "online", Some(9)),
            process(2, "stopping", Some(3)),
            process(3, "stopping", None),
        ];
        let expected = "waiting for processes to end: web 0 (pid 100, 1 connection), web 2 (pid 102, 3 connections), web 3 (pid 103); \
                        `rpm stop web --hard` ends them at once";
        assert_eq!(explanation(&processes, HARD).as_deref(), Some(expected));
        assert_eq!(explanation(&processes[1..2], HARD), None);
        let many: Vec<Process> = (0..8).map(|id| process(id, "stopping", None)).collect();
        let text = explanation(&many, HARD).expect("some are ending");
        assert!(
            text.contains("web 4 (pid 104) and 3 more; `rpm stop web --hard`"),
            "{text}"
        );
    }
}
