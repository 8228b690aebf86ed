//! Alerts: the rules by which `rpm observe` tells somebody what happens to the apps.
//!
//! They stand in `observe.alerts` of an ecosystem file, and are kept in `$RPM_HOME/alerts.json` in the form below, which `rpm-observe` reads.

mod sinks;

use serde::{Deserialize, Serialize};

use crate::api::RESERVED_PREFIX;
pub use sinks::{PLACEHOLDERS, Shape, Sink, SmtpServer};

/// The file with the rules, in the directory of the daemon. It can have secrets in it: addresses that take messages from whoever has them.
pub const RULES_FILE: &str = "alerts.json";
/// The file with the time until which nothing is sent, in milliseconds since the Unix epoch.
pub const MUTE_FILE: &str = "alerts.mute";
/// The most rules that a file may have.
pub const MAX_RULES: usize = 200;
/// The longest file with rules that is read, in bytes.
pub const RULES_BYTES: u64 = 1 << 20;
/// The longest pattern of a rule, in bytes.
pub const PATTERN_BYTES: usize = 1_000;
/// The most that a pattern may take when it is compiled, in bytes: how long it takes to match a line depends on it.
pub const PATTERN_COMPILED_BYTES: usize = 256 << 10;
/// `above` of `latency` is less than this, in milliseconds: longer times are not told apart when they are counted.
pub const LONGEST_LATENCY_MS: f64 = 10_000.0;

/// What `above` of a rule counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// The rule has no `above`.
    None,
    /// Bytes.
    Bytes,
    /// Percent.
    Percent,
    /// A number of something.
    Count,
    /// Milliseconds.
    Milliseconds,
}

/// What shows whether a rule has something to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An event of the daemon.
    Events,
    /// The figures of a process.
    Processes,
    /// Whether the daemon answers.
    Daemon,
    /// The figures of an app, which are recorded every second.
    Figures,
    /// What an app writes to its logs.
    Lines,
    /// Files of an app: how large its logs are, and its certificates.
    Files,
}

macro_rules! triggers {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $unit:ident, $above:expr, $for_ms:expr;)*) => {
        /// What a rule is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Trigger {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $variant,)*
        }

        impl Trigger {
            /// All of them.
            pub const ALL: &[Trigger] = &[$(Trigger::$variant,)*];

            /// Its name in files.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Trigger::$variant => $name,)* }
            }

            /// When it fires.
            #[must_use]
            pub fn about(self) -> &'static str {
                match self { $(Trigger::$variant => concat!($($doc,)+).trim_ascii(),)* }
            }

            /// What `above` counts.
            #[must_use]
            pub fn unit(self) -> Unit {
                match self { $(Trigger::$variant => Unit::$unit,)* }
            }

            /// `above`, if the rule does not say it; `None` means that it must.
            #[must_use]
            pub fn usual_above(self) -> Option<f64> {
                match self { $(Trigger::$variant => $above,)* }
            }

            /// `for` in milliseconds, if the rule does not say it; `None` means that the rule has no such key.
            #[must_use]
            pub fn usual_for_ms(self) -> Option<u64> {
                match self { $(Trigger::$variant => $for_ms,)* }
            }
        }
    };
}

triggers! {
    /// a process has ended without being asked to, or could not be started
    Crash = "crash", None, None, None;
    /// an app has crashed more than `above` times within `for`
    CrashLoop = "crash-loop", Count, Some(3.0), Some(60_000);
    /// an instance has failed too often, and is not started any more
    Errored = "errored", None, None, None;
    /// a worker accepts no connections
    Frozen = "frozen", None, None, None;
    /// a reload was undone: the old workers serve on
    ReloadFailed = "reload-failed", None, None, None;
    /// a new worker of a reload, or one behind the proxy (`--check-interval`), does not pass its health check
    Unhealthy = "unhealthy", None, None, None;
    /// a worker was replaced, because it used more memory than it may
    MemoryLimit = "memory-limit", None, None, None;
    /// an instance has used more memory than `above` for the time `for`
    Memory = "memory", Bytes, None, Some(60_000);
    /// an instance has used more of a CPU than `above` percent for the time `for`
    Cpu = "cpu", Percent, Some(90.0), Some(300_000);
    /// an instance that should serve is not online for the time `for`
    Down = "down", None, None, Some(30_000);
    /// the daemon does not answer for the time `for`; apps serve on without it
    DaemonDown = "daemon-down", None, None, Some(30_000);
    /// the event loop of a Node worker is more than `above` late (99th percentile) for the time `for`
    LoopDelay = "loop-delay", Milliseconds, Some(200.0), Some(60_000);
    /// one in a hundred requests of an app takes longer than `above` (99th percentile), over the time `for`
    Latency = "latency", Milliseconds, Some(1000.0), Some(300_000);
    /// more than `above` percent of an app's requests are answered with 5xx, over the time `for`
    ErrorRate = "error-rate", Percent, Some(5.0), Some(120_000);
    /// more than `above` lines that an app writes to its logs match `pattern` within `for`
    LogPattern = "log-pattern", Count, Some(0.0), Some(60_000);
    /// the logs of an app, with its rotated ones, take more than `above` of the disk
    LogsSize = "logs-size", Bytes, Some(1_073_741_824.0), None;
    /// the disk that has the logs of an app is fuller than `above` percent
    LogsDisk = "logs-disk", Percent, Some(90.0), None;
    /// a certificate that the proxy serves for an app is valid for less than the time `for`
    Certificate = "certificate", None, None, Some(1_209_600_000);
}

impl Trigger {
    /// What shows it.
    #[must_use]
    pub fn source(self) -> Source {
        match self {
            Trigger::Crash
            | Trigger::CrashLoop
            | Trigger::Errored
            | Trigger::Frozen
            | Trigger::ReloadFailed
            | Trigger::Unhealthy
            | Trigger::MemoryLimit => Source::Events,
            Trigger::Memory | Trigger::Cpu | Trigger::Down => Source::Processes,
            Trigger::DaemonDown => Source::Daemon,
            Trigger::LoopDelay | Trigger::Latency | Trigger::ErrorRate => Source::Figures,
            Trigger::LogPattern => Source::Lines,
            Trigger::LogsSize | Trigger::LogsDisk | Trigger::Certificate => Source::Files,
        }
    }

    /// True if it is a condition that holds or does not, and is looked at again and again.
    #[must_use]
    pub fn is_level(self) -> bool {
        !matches!(self.source(), Source::Events | Source::Lines)
    }

    /// True if it lasts until it is over, which is told, too.
    #[must_use]
    pub fn has_end(self) -> bool {
        !matches!(
            self,
            Trigger::Crash | Trigger::CrashLoop | Trigger::MemoryLimit | Trigger::LogPattern
        )
    }

    /// True if requests are counted for it.
    #[must_use]
    pub fn counts_requests(self) -> bool {
        matches!(self, Trigger::Latency | Trigger::ErrorRate)
    }

    /// `above` and `for` in words, where the rule does not say them: as a file could have them.
    #[must_use]
    pub fn usual(self) -> [Option<String>; 2] {
        let above = self.usual_above().map(|above| match self.unit() {
            Unit::Bytes => format!("{:.0}G", above / f64::from(1 << 30)),
            Unit::Milliseconds => short(above as u64),
            Unit::None | Unit::Percent | Unit::Count => above.to_string(),
        });
        [above, self.usual_for_ms().map(short)]
    }
}

/// A time as a file may have it.
fn short(ms: u64) -> String {
    const DAY: u64 = 86_400_000;
    match ms {
        _ if ms >= DAY && ms.is_multiple_of(DAY) => format!("{}d", ms / DAY),
        _ if ms >= 60_000 && ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms >= 1_000 && ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What it is about.
    pub on: Trigger,
    /// The apps that it is about; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apps: Vec<String>,
    /// The bound, in the unit of the trigger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<f64>,
    /// For how long, in milliseconds.
    #[serde(default)]
    pub for_ms: u64,
    /// What a line has to match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// Of fewer requests nothing is concluded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_requests: Option<u32>,
    /// At most one message about an app in so many milliseconds.
    pub every_ms: u64,
    /// Who is told.
    pub sinks: Vec<Sink>,
}

impl Rule {
    /// `every`, if the rule does not say it, in milliseconds.
    pub const USUAL_EVERY_MS: u64 = 300_000;
    /// `min_requests`, if the rule does not say it.
    pub const USUAL_MIN_REQUESTS: u32 = 20;

    /// True if it is about this app. All apps are those of the user.
    #[must_use]
    pub fn is_about(&self, app: &str) -> bool {
        match self.apps.is_empty() {
            true => !app.starts_with(RESERVED_PREFIX),
            false => self.apps.iter().any(|name| name == app),
        }
    }
}

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// In the order of the file that they come from.
    pub rules: Vec<Rule>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_what_was_written() {
        let rules = Rules {
            rules: vec![Rule {
                on: Trigger::Memory,
                apps: vec!["api".to_owned()],
                above: Some(5e8),
                for_ms: 60_000,
                pattern: None,
                min_requests: None,
                every_ms: Rule::USUAL_EVERY_MS,
                sinks: vec![Sink::Exec {
                    command: "true".to_owned(),
                    cwd: "/".to_owned(),
                }],
            }],
        };
        let text = serde_json::to_string(&rules).expect("JSON");
        assert_eq!(serde_json::from_str::<Rules>(&text).expect("rules"), rules);
        for trigger in Trigger::ALL {
            let name = serde_json::to_string(trigger).expect("JSON");
            assert_eq!(name, format!("{:?}", trigger.name()));
        }
    }
}
