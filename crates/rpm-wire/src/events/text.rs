//! Events for people: one sentence each.

use super::What;

/// Names of signals, from 1 on.
const SIGNALS: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// The name of a signal of Linux, or `signal 34`.
#[must_use]
pub fn signal_name(number: i32) -> String {
    let index = usize::try_from(number - 1).ok();
    let name = index.and_then(|index| SIGNALS.get(index));
    name.map_or_else(|| format!("signal {number}"), |name| (*name).to_owned())
}

/// How much an event is worth the reader's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be, and worth seeing.
    Good,
    /// One step of several.
    Plain,
    /// Something that a person may want to look at.
    Warning,
    /// Something has failed.
    Bad,
}

impl What {
    /// What happened, without to whom.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "one sentence for each kind")]
    pub fn sentence(&self) -> String {
        match self {
            What::Started { candidate: true, .. } => "started by a reload".to_owned(),
            What::Started { restarts: 0, .. } => "started".to_owned(),
            What::Started { restarts, .. } => format!("started again (restart {restarts})"),
            What::Ready { silent: true } => "ready, and listens on nothing".to_owned(),
            What::Ready { silent: false } => "ready".to_owned(),
            What::Crashed { .. } => self.crash(),
            What::Errored { failures } => {
                format!("errored: it failed {} and is not restarted", times(*failures))
            }
            What::Exited {
                exit_code, signal, ..
            } => {
                format!(
                    "{}; it is not to be restarted",
                    ended(*exit_code, signal.as_deref())
                )
            }
            What::Frozen { queued, repeats } => format!(
                "frozen: it accepts no connections, {} waiting{}",
                count(u64::from(*queued), "is", "are"),
                more(*repeats)
            ),
            What::Recovered { after_ms } => format!("accepts connections again, after {}", span(*after_ms)),
            What::Rescued { connections } => format!(
                "{} moved to other workers",
                count(*connections, "connection was", "connections were")
            ),
            What::ReloadBegun { instances } => {
                format!(
                    "reload begun: {} to replace",
                    count(u64::from(*instances), "worker", "workers")
                )
            }
            What::CandidateReady {} => "new worker is ready and serves".to_owned(),
            What::ReloadDone { returned: false } => "reload done: the new workers serve".to_owned(),
            What::ReloadDone { returned: true } => "all workers of the former version are back".to_owned(),
            What::ReloadUndone { why } => format!("reload undone: {why}"),
            What::Draining {} => "draining: it finishes its requests".to_owned(),
            What::Stopped {
                cause,
                exit_code,
                signal,
            } => {
                let why = match cause.as_str() {
                    "stop" => "stopped",
                    "restart" => "stopped for a restart",
                    "delete" => "stopped, to be deleted",
                    "undone" => "new worker ended",
                    "shutdown" => "stopped with the daemon",
                    _ => "old worker ended",
                };
                match (exit_code, signal.as_deref()) {
                    // As most programs end that are asked to.
                    (Some(0) | None, None) | (None, Some("SIGINT" | "SIGTERM")) => why.to_owned(),
                    (code, signal) => format!("{why} ({})", how(*code, signal)),
                }
            }
            What::Deleted {} => "deleted".to_owned(),
            What::MemoryLimit {
                used_bytes,
                limit_bytes,
            } => format!(
                "replaced: it uses {} MB of memory, and may use {} MB",
                used_bytes >> 20,
                limit_bytes >> 20
            ),
            What::Scaled { from, to } => format!(
                "scaled from {from} to {}",
                count(u64::from(*to), "instance", "instances")
            ),
            What::Unhealthy { why } => format!("fails its health check: {why}"),
            What::Healthy {} => "passes its health check".to_owned(),
            What::Watch { path } => format!("restarted: {path} has changed"),
            What::Cron {} => "restarted by its time table".to_owned(),
            What::DaemonStarted { version } => format!("daemon started (version {version})"),
            What::DaemonTakenOver { version, workers } => format!(
                "daemon died; a new one (version {version}) took over {}",
                count(u64::from(*workers), "process", "processes")
            ),
            What::DaemonUpdated { version, workers } => format!(
                "daemon updated to version {version}; {} untouched",
                count(u64::from(*workers), "process", "processes")
            ),
            What::DaemonStopped {} => "daemon stopped".to_owned(),
            What::EventsLost { count: lost } => {
                format!(
                    "{} lost: the disk was full or too slow",
                    count(*lost, "event was", "events were")
                )
            }
        }
    }

    /// How much it matters.
    #[must_use]
    pub fn tone(&self) -> Tone {
        match self {
            What::Ready { .. }
            | What::Recovered { .. }
            | What::CandidateReady {}
            | What::ReloadDone { .. }
            | What::Healthy {} => Tone::Good,
            What::Crashed { .. }
            | What::Errored { .. }
            | What::ReloadUndone { .. }
            | What::EventsLost { .. } => Tone::Bad,
            What::Frozen { .. }
            | What::Rescued { .. }
            | What::MemoryLimit { .. }
            | What::Unhealthy { .. }
            | What::DaemonTakenOver { .. } => Tone::Warning,
            What::Exited {
                exit_code: Some(0), ..
            } => Tone::Plain,
            What::Exited { .. } => Tone::Bad,
            What::Started { .. }
            | What::ReloadBegun { .. }
            | What::Draining {}
            | What::Stopped { .. }
            | What::Deleted {}
            | What::Scaled { .. }
            | What::Watch { .. }
            | What::Cron {}
            | What::DaemonStarted { .. }
            | What::DaemonUpdated { .. }
            | What::DaemonStopped {} => Tone::Plain,
        }
    }

    /// Lines that belong to it, to be printed below it.
    #[must_use]
    pub fn last_lines(&self) -> &[String] {
        match self {
            What::Crashed { last_lines, .. } | What::Exited { last_lines, .. } => last_lines,
            _ => &[],
        }
    }

    fn crash(&self) -> String {
        let What::Crashed {
            exit_code,
            signal,
            not_ready,
            failures,
            max_restarts,
            retry_in_ms,
            why,
            repeats,
            last_lines: _,
        } = self
        else {
            return String::new();
        };
        let mut text = match (not_ready, exit_code, signal) {
            (true, ..) => "was not ready in time".to_owned(),
            (false, None, None) => "could not be started".to_owned(),
            (false, Some(code), _) => format!("crashed with exit code {code}"),
            (false, None, Some(signal)) => format!("crashed: killed by {signal}"),
        };
        if let Some(why) = why {
            text.push_str(&format!(": {why}"));
        }
        match retry_in_ms {
            Some(0) => text.push_str("; next try at once"),
            Some(ms) => text.push_str(&format!("; next try in {}", span(*ms))),
            None => {}
        }
        if *failures > 1 && retry_in_ms.is_some() {
            text.push_str(&format!(" (failure {failures} of {max_restarts})"));
        }
        text + &more(*repeats)
    }
}

fn ended(exit_code: Option<i32>, signal: Option<&str>) -> String {
    match (exit_code, signal) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

fn how(exit_code: Option<i32>, signal: Option<&str>) -> String {
    match (exit_code, signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => signal.unwrap_or("unknown").to_owned(),
    }
}

fn times(count: u32) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times in a row"),
    }
}

fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn more(repeats: u32) -> String {
    match repeats {
        0 => String::new(),
        1 => " (and once more before)".to_owned(),
        repeats => format!(" (and {repeats} times more before)"),
    }
}

/// Milliseconds for people.
fn span(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..10_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        10_000..120_000 => format!("{} s", ms / 1000),
        ms => format!("{} min", ms / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crashed(exit_code: Option<i32>, signal: Option<&str>) -> What {
        What::Crashed {
            exit_code,
            signal: signal.map(str::to_owned),
            not_ready: false,
            failures: 1,
            max_restarts: 16,
            retry_in_ms: Some(200),
            why: None,
            last_lines: Vec::new(),
            repeats: 0,
        }
    }

    #[test]
    fn a_crash_says_how_and_what_follows() {
        assert_eq!(
            crashed(Some(1), None).sentence(),
            "crashed with exit code 1; next try in 200 ms"
        );
        assert_eq!(
            crashed(None, Some("SIGKILL")).sentence(),
            "crashed: killed by SIGKILL; next try in 200 ms"
        );
        let looping = What::Crashed {
            exit_code: Some(7),
            signal: None,
            not_ready: false,
            failures: 3,
            max_restarts: 16,
            retry_in_ms: Some(12_000),
            why: None,
            last_lines: Vec::new(),
            repeats: 37,
        };
        assert_eq!(
            looping.sentence(),
            "crashed with exit code 7; next try in 12 s (failure 3 of 16) (and 37 times more before)"
        );
    }

    #[test]
    fn numbers_and_times() {
        let sentence = |what: What| what.sentence();
        assert_eq!(
            sentence(What::Rescued { connections: 1 }),
            "1 connection was moved to other workers"
        );
        assert_eq!(
            sentence(What::Rescued { connections: 5 }),
            "5 connections were moved to other workers"
        );
        assert_eq!(
            sentence(What::Recovered { after_ms: 3_250 }),
            "accepts connections again, after 3.2 s"
        );
        assert_eq!(
            sentence(What::Scaled { from: 1, to: 4 }),
            "scaled from 1 to 4 instances"
        );
        assert_eq!(
            [9, 15, 31, 34].map(signal_name),
            ["SIGKILL", "SIGTERM", "SIGSYS", "signal 34"]
        );
        assert_eq!(signal_name(0), "signal 0");
    }
}
