//! Events: what has happened to the apps and to the daemon. A line of `GET /v1/events` and of `$RPM_HOME/events.ndjson` is an [`Event`].
//!
//! The table below is the only list of the kinds: from it come the type, the names, and the table of `docs/EVENTS.md`. A new kind is a row of it,
//! what people read in `events/text.rs`, and a name in `npm/rpmx/index.d.ts`.

mod pick;
mod text;

use serde::{Deserialize, Serialize};

pub use pick::{Picked, Picker, Which};
pub use text::{Tone, signal_name};

/// Names of the files, oldest first: the last one is written to.
pub const FILES: [&str; 5] = [
    "events.ndjson.4",
    "events.ndjson.3",
    "events.ndjson.2",
    "events.ndjson.1",
    "events.ndjson",
];
/// A file that has so many bytes is rotated.
pub const FILE_BYTES: u64 = 2 << 20;
/// Longest line, in bytes. Longer ones are not read.
pub const LINE_BYTES: usize = 32 << 10;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Rises by 1 with each event, over all daemons of the directory.
    pub seq: u64,
    /// When it happened, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// To whom.
    #[serde(flatten)]
    pub subject: Subject,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// To whom something happened; all absent: to the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The app's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The instance: `pm_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// The worker: a number that no other worker of this daemon's apps has had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<u64>,
    /// The process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The generation of the worker, or of the reload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
}

/// What every event has, whatever its kind: read where the kind may be one that only a newer version knows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Head {
    /// As [`Event::seq`].
    pub seq: u64,
    /// As [`Event::at_ms`].
    pub at_ms: u64,
    /// The name of the kind.
    pub kind: String,
    /// The app's name.
    #[serde(default)]
    pub app: Option<String>,
    /// Its namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The instance.
    #[serde(default)]
    pub id: Option<u32>,
}

/// Instead of an event in a stream: so many are not kept any more, or could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// How many.
    pub lost: u64,
}

/// A kind of event, for documents.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub about: &'static str,
    /// Its fields, each with its meaning.
    pub fields: &'static [(&'static str, &'static str)],
}

fn no(value: &bool) -> bool {
    !value
}

fn none(value: &u32) -> bool {
    *value == 0
}

macro_rules! kinds {
    ($(
        $(#[doc = $doc:literal])+
        $variant:ident = $name:literal {
            $(
                $(#[doc = $field_doc:literal])+
                $(#[serde($($serde:tt)*)])?
                $field:ident: $type:ty,
            )*
        }
    )*) => {
        /// What happened. Fields that are absent have nothing to say.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "kind")]
        pub enum What {
            $(
                $(#[doc = $doc])+
                #[serde(rename = $name)]
                $variant {
                    $(
                        $(#[doc = $field_doc])+
                        $(#[serde($($serde)*)])?
                        $field: $type,
                    )*
                },
            )*
        }

        impl What {
            /// The name of the kind.
            #[must_use]
            pub fn kind(&self) -> &'static str {
                match self {
                    $(What::$variant { .. } => $name,)*
                }
            }
        }

        /// All kinds.
        pub const KINDS: &[Kind] = &[
            $(Kind {
                name: $name,
                about: concat!($($doc),+),
                fields: &[$((stringify!($field), concat!($($field_doc),+)),)*],
            },)*
        ];
    };
}

kinds! {
    /// A process was started.
    Started = "started" {
        /// Restarts of the instance so far.
        restarts: u32,
        /// A reload has started it: it serves when it is proved ready.
        #[serde(default, skip_serializing_if = "no")]
        candidate: bool,
    }
    /// A worker is ready: it is online.
    Ready = "ready" {
        /// It listens on nothing.
        #[serde(default, skip_serializing_if = "no")]
        silent: bool,
    }
    /// A process ended without being asked to, or could not be started, or was not ready in time.
    Crashed = "crashed" {
        /// Its exit code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
        /// The signal that killed it, by name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
        /// It was not ready in time, and was ended for that.
        #[serde(default, skip_serializing_if = "no")]
        not_ready: bool,
        /// Failures to start in a row, this one included.
        failures: u32,
        /// After so many failures in a row the instance is errored.
        max_restarts: u32,
        /// Milliseconds until the next process is started (absent: none is).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_in_ms: Option<u64>,
        /// Why it could not be started, or did not get what it asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
        /// The last lines of its standard error, oldest first: 10 at most, of 256 bytes each.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        last_lines: Vec<String>,
        /// Crashes of the instance since the last report, this one not counted.
        #[serde(default, skip_serializing_if = "none")]
        repeats: u32,
    }
    /// An instance failed too often, and is not started any more.
    Errored = "errored" {
        /// Failures to start in a row.
        failures: u32,
    }
    /// A process ended by itself, and the app is not to be restarted then.
    Exited = "exited" {
        /// Its exit code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
        /// The signal that killed it, by name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
        /// As for `crashed`, unless the exit code is 0.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        last_lines: Vec<String>,
    }
    /// A worker has accepted no connection for a second, or what waited for it had to be moved: new connections go to other workers.
    Frozen = "frozen" {
        /// Connections that waited for it.
        queued: u32,
        /// How often it was so since the last report, this time not counted.
        #[serde(default, skip_serializing_if = "none")]
        repeats: u32,
    }
    /// A frozen worker accepts connections again.
    Recovered = "recovered" {
        /// How long it accepted none, in milliseconds.
        after_ms: u64,
    }
    /// Connections that a worker had not accepted were moved to other workers.
    Rescued = "rescued" {
        /// How many, since the last report.
        connections: u64,
    }
    /// A reload has begun.
    ReloadBegun = "reload_begun" {
        /// How many workers it replaces.
        instances: u32,
    }
    /// A new worker of a reload is proved ready and serves; the old one stands by.
    CandidateReady = "candidate_ready" {}
    /// A reload is done: all new workers serve.
    ReloadDone = "reload_done" {
        /// It brought back workers that a reload, which was undone, had ended.
        #[serde(default, skip_serializing_if = "no")]
        returned: bool,
    }
    /// A reload was undone: the workers that ran before keep serving.
    ReloadUndone = "reload_undone" {
        /// What went wrong, in words.
        why: String,
    }
    /// A worker drains: it finishes what it has begun, and then ends.
    Draining = "draining" {}
    /// A process has ended that was asked to.
    Stopped = "stopped" {
        /// What for: `stop`, `restart`, `delete`, `replaced` (by a new worker, or because there are fewer instances now), `undone` (with its reload), or `shutdown` of the daemon.
        cause: String,
        /// Its exit code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
        /// The signal that ended it, by name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
    }
    /// An instance was removed from the list.
    Deleted = "deleted" {}
    /// A worker is replaced, because its processes use more memory than `max_memory_restart`.
    MemoryLimit = "memory_limit" {
        /// What they use, in bytes.
        used_bytes: u64,
        /// What they may use, in bytes.
        limit_bytes: u64,
    }
    /// An app has another number of instances.
    Scaled = "scaled" {
        /// How many it had.
        from: u32,
        /// How many it has now.
        to: u32,
    }
    /// A worker fails its health check: a new one of a reload, or one behind the proxy (`check_interval`).
    Unhealthy = "unhealthy" {
        /// What it answered.
        why: String,
    }
    /// A worker passes its health check.
    Healthy = "healthy" {}
    /// An app is restarted, because a file has changed (`watch`).
    Watch = "watch" {
        /// The file.
        path: String,
    }
    /// An app is restarted by its time table (`cron_restart`).
    Cron = "cron" {}
    /// A daemon was started; nothing ran before.
    DaemonStarted = "daemon_started" {
        /// Its version.
        version: String,
    }
    /// A daemon has taken over the apps of one that has died.
    DaemonTakenOver = "daemon_taken_over" {
        /// Its version.
        version: String,
        /// Processes that run on.
        workers: u32,
    }
    /// The daemon was replaced by another program (`rpm update`).
    DaemonUpdated = "daemon_updated" {
        /// The version of that.
        version: String,
        /// Processes that run on.
        workers: u32,
    }
    /// The daemon ends, and no app runs.
    DaemonStopped = "daemon_stopped" {}
    /// Events could not be written: the disk was full, or too slow.
    EventsLost = "events_lost" {
        /// How many.
        count: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crash() -> Event {
        Event {
            seq: 7,
            at_ms: 1_772_716_029_042,
            subject: Subject {
                app: Some("api".to_owned()),
                namespace: Some("default".to_owned()),
                id: Some(2),
                worker: Some(14),
                pid: Some(4242),
                generation: Some(3),
            },
            what: What::Crashed {
                exit_code: Some(1),
                signal: None,
                not_ready: false,
                failures: 1,
                max_restarts: 16,
                retry_in_ms: Some(200),
                why: None,
                last_lines: vec!["Error: no".to_owned()],
                repeats: 0,
            },
        }
    }

    #[test]
    fn a_line_has_what_everybody_needs_first_and_is_read_back() {
        let line = serde_json::to_string(&crash()).unwrap();
        assert_eq!(
            line,
            r#"{"seq":7,"at_ms":1772716029042,"app":"api","namespace":"default","id":2,"worker":14,"pid":4242,"generation":3,"kind":"crashed","exit_code":1,"failures":1,"max_restarts":16,"retry_in_ms":200,"last_lines":["Error: no"]}"#
        );
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), crash());
        let daemon = r#"{"seq":8,"at_ms":1,"pid":1,"kind":"daemon_stopped"}"#;
        let event: Event = serde_json::from_str(daemon).unwrap();
        assert_eq!(event.what, What::DaemonStopped {});
        assert_eq!(serde_json::to_string(&event).unwrap(), daemon);
    }

    #[test]
    fn a_kind_that_is_not_known_has_a_head() {
        let line = r#"{"seq":9,"at_ms":1,"app":"api","kind":"of_tomorrow","much":true}"#;
        let head: Head = serde_json::from_str(line).unwrap();
        assert_eq!((head.seq, head.kind.as_str(), head.id), (9, "of_tomorrow", None));
        assert!(serde_json::from_str::<Event>(line).is_err());
    }

    #[test]
    fn the_table_is_the_type() {
        assert_eq!(crash().what.kind(), "crashed");
        let crashed = KINDS.iter().find(|kind| kind.name == "crashed").expect("a kind");
        let names: Vec<&str> = crashed.fields.iter().map(|(name, _)| *name).collect();
        assert_eq!(names[..3], ["exit_code", "signal", "not_ready"]);
        for kind in KINDS {
            let sentences = [kind.about]
                .into_iter()
                .chain(kind.fields.iter().map(|(_, about)| *about));
            for sentence in sentences {
                assert!(
                    sentence.starts_with(' ') && sentence.ends_with('.'),
                    "{}: {sentence:?}",
                    kind.name
                );
            }
            let repeated = KINDS.iter().filter(|other| other.name == kind.name).count();
            assert_eq!(repeated, 1, "{}", kind.name);
        }
    }
}
