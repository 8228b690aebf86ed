//! Alerts: the rules by which `rpm observe` tells somebody what happens to the apps.
//!
//! They stand in `observe.alerts` of an ecosystem file, and are kept in `$RPM_HOME/alerts.json` in the form below, which `rpm-observe` reads.

use serde::{Deserialize, Serialize};

use crate::api::RESERVED_PREFIX;

/// The file with the rules, in the directory of the daemon. It can have secrets in it: addresses that take messages from whoever has them.
pub const RULES_FILE: &str = "alerts.json";
/// The file with the time until which nothing is sent, in milliseconds since the Unix epoch.
pub const MUTE_FILE: &str = "alerts.mute";
/// The most rules that a file may have.
pub const MAX_RULES: usize = 200;
/// The longest file with rules that is read, in bytes.
pub const RULES_BYTES: u64 = 1 << 20;

/// What `above` of a rule counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// The rule has no `above`.
    None,
    /// Bytes.
    Bytes,
    /// Percent of one CPU.
    Percent,
    /// A number of something.
    Count,
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
    /// a new worker of a reload does not pass its health check
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
}

impl Trigger {
    /// True if the daemon has to be asked for figures to know it.
    #[must_use]
    pub fn needs_figures(self) -> bool {
        matches!(
            self,
            Trigger::Memory | Trigger::Cpu | Trigger::Down | Trigger::DaemonDown
        )
    }
}

/// What the body of a webhook looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Everything that is known, as an object of our own.
    Json,
    /// An incoming webhook of Slack, and of what understands the same (Mattermost, Rocket.Chat).
    Slack,
    /// A webhook of Discord.
    Discord,
    /// A webhook of Microsoft Teams (a workflow that posts a card).
    Teams,
    /// Events API v2 of PagerDuty; needs `key`.
    Pagerduty,
}

impl Shape {
    /// All of them, by name.
    pub const ALL: [(&str, Shape); 5] = [
        ("json", Shape::Json),
        ("slack", Shape::Slack),
        ("discord", Shape::Discord),
        ("teams", Shape::Teams),
        ("pagerduty", Shape::Pagerduty),
    ];

    /// The one that the host of an URL understands.
    #[must_use]
    pub fn of_host(host: &str) -> Shape {
        let ends = |suffix: &str| host == suffix || host.ends_with(&format!(".{suffix}"));
        match () {
            () if ends("slack.com") => Shape::Slack,
            () if ends("discord.com") || ends("discordapp.com") => Shape::Discord,
            () if ends("office.com") || ends("logic.azure.com") || ends("powerplatform.com") => Shape::Teams,
            () if ends("pagerduty.com") => Shape::Pagerduty,
            () => Shape::Json,
        }
    }
}

/// Who is told.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Sink {
    /// An HTTP POST.
    Webhook {
        /// `http://` or `https://`. Often a secret.
        url: String,
        /// The form of the body.
        shape: Shape,
        /// The integration key of PagerDuty.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
    /// A line for `/bin/sh`.
    Exec {
        /// The line.
        command: String,
        /// Where it runs.
        cwd: String,
    },
}

/// Addresses and keys are secrets, and so may a command line have some: none is shown.
impl std::fmt::Debug for Sink {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.shown())
    }
}

impl Sink {
    /// As it may be shown: without what is secret in an address.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Sink::Webhook { url, .. } => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
                let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
                let host = host.rsplit('@').next().unwrap_or_default();
                format!("{scheme}://{host}/…")
            }
            Sink::Exec { command, .. } => {
                // Variables before it may be secrets.
                let mut words = command.split_whitespace();
                let program = words.find(|word| !word.contains('=')).unwrap_or_default();
                match program.len() == command.trim().len() {
                    true => program.to_owned(),
                    false => format!("{program} …"),
                }
            }
        }
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
    /// At most one message about an app in so many milliseconds.
    pub every_ms: u64,
    /// Who is told.
    pub sinks: Vec<Sink>,
}

impl Rule {
    /// `every`, if the rule does not say it, in milliseconds.
    pub const USUAL_EVERY_MS: u64 = 300_000;

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
    fn what_is_secret_is_not_shown() {
        let webhook = |url: &str| Sink::Webhook {
            url: url.to_owned(),
            shape: Shape::Json,
            key: Some("k3y".to_owned()),
        };
        let exec = |command: &str| Sink::Exec {
            command: command.to_owned(),
            cwd: "/".to_owned(),
        };
        for (sink, shown) in [
            (
                webhook("https://hooks.slack.com/services/T/B/s3cret"),
                "https://hooks.slack.com/…",
            ),
            (webhook("http://user:s3cret@a.test?t=s3cret"), "http://a.test/…"),
            (exec("./page.sh"), "./page.sh"),
            (exec("curl -H 'token: s3cret' x"), "curl …"),
            (exec("TOKEN=s3cret ./page.sh"), "./page.sh …"),
        ] {
            assert_eq!(sink.shown(), shown);
            assert_eq!(format!("{sink:?}"), shown);
        }
    }

    #[test]
    fn the_host_says_what_it_understands() {
        for (host, shape) in [
            ("hooks.slack.com", Shape::Slack),
            ("discord.com", Shape::Discord),
            ("x.webhook.office.com", Shape::Teams),
            ("events.pagerduty.com", Shape::Pagerduty),
            ("notslack.com", Shape::Json),
            ("localhost", Shape::Json),
        ] {
            assert_eq!(Shape::of_host(host), shape, "{host}");
        }
    }

    #[test]
    fn the_file_is_what_was_written() {
        let rules = Rules {
            rules: vec![Rule {
                on: Trigger::Memory,
                apps: vec!["api".to_owned()],
                above: Some(5e8),
                for_ms: 60_000,
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
