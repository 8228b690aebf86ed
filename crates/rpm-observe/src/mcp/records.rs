//! What was printed, and what has happened, as a client gets to see it. Pure.

use jiff::Timestamp;
use rpm_wire::api::{LogLine, Stream};
use rpm_wire::events::{Event, Head, What};
use schemars::JsonSchema;
use serde::Serialize;

use super::bounds::Room;
use super::secrets::Secrets;

/// Answer of `logs`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Logs {
    /// Oldest first.
    lines: Vec<LineView>,
    /// Older lines would fit the request, too: narrow it, or ask for more.
    older_left_out: bool,
}

/// A line that an app has printed.
#[derive(Debug, Serialize, JsonSchema)]
struct LineView {
    /// When it was written, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    app: String,
    id: u32,
    /// `out` or `err`.
    stream: &'static str,
    line: String,
}

/// Answer of `events`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Events {
    /// Oldest first.
    events: Vec<EventView>,
    /// Further events would fit the request, too: older ones, or with `after` newer ones.
    more: bool,
    /// So many events are not kept any more.
    #[serde(skip_serializing_if = "is_zero")]
    lost: u64,
}

/// Something that happened.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct EventView {
    /// Rises by 1 with each event.
    seq: u64,
    at: String,
    /// Without it, it happened to the daemon.
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    kind: String,
    /// The same in words.
    text: String,
    /// What the process printed last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    last_lines: Vec<String>,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Logs {
    /// Those lines, of which older ones were left out already or not.
    pub(super) fn of(lines: Vec<LogLine>, left_out: usize) -> Logs {
        let view = |line: LogLine| LineView {
            at: line.time_ms.and_then(time),
            app: line.name,
            id: line.id,
            stream: match line.stream {
                Stream::Out => "out",
                Stream::Err => "err",
            },
            line: line.line,
        };
        let (lines, over) = Room::new().last(lines.into_iter().map(view).collect());
        Logs {
            lines,
            older_left_out: left_out + over > 0,
        }
    }
}

impl Events {
    /// Those events; `onward`: those that come first are the ones that are kept.
    pub(super) fn of(events: Vec<EventView>, left_out: usize, lost: u64, onward: bool) -> Events {
        let mut room = Room::new();
        let (events, over) = if onward {
            room.first(events)
        } else {
            room.last(events)
        };
        Events {
            events,
            more: left_out + over > 0,
            lost,
        }
    }
}

impl EventView {
    pub(super) fn of(event: &Event, secrets: &Secrets) -> EventView {
        let shown = |text: &str| secrets.legible(text);
        let last_lines = match &event.what {
            What::Crashed { last_lines, .. } | What::Exited { last_lines, .. } => last_lines.as_slice(),
            _ => &[],
        };
        EventView {
            seq: event.seq,
            at: time(event.at_ms).unwrap_or_default(),
            app: event.subject.app.clone(),
            id: event.subject.id,
            pid: event.subject.pid,
            kind: event.what.kind().to_owned(),
            text: shown(&event.what.sentence()),
            last_lines: last_lines.iter().map(|line| shown(line)).collect(),
        }
    }

    /// Of a kind that only a newer daemon knows.
    pub(super) fn unknown(head: Head) -> EventView {
        EventView {
            seq: head.seq,
            at: time(head.at_ms).unwrap_or_default(),
            app: head.app,
            id: head.id,
            pid: None,
            text: head.kind.clone(),
            kind: head.kind,
            last_lines: Vec::new(),
        }
    }
}

/// As ISO 8601 has it, in UTC.
fn time(ms: u64) -> Option<String> {
    let ms = i64::try_from(ms).ok()?;
    Some(Timestamp::from_millisecond(ms).ok()?.to_string())
}
