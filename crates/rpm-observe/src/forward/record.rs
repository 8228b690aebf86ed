//! A record: what is known of what an app has written. Lines that are JSON objects are parsed for their level, time, message and trace.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use rpm_wire::forward::Destination;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::assemble::Raw;

/// Times of records are between this (the year 2000) and five minutes from now, in nanoseconds. Others are not times.
const EARLIEST_NS: u64 = 946_684_800_000_000_000;
const AHEAD_NS: u64 = 300_000_000_000;

/// The app of a line of our own, and what it says.
const OWN_APP: &str = "rpm-observe";
const OWN_TEXT: &str = "rpm sends this line to see whether lines are taken here: one of an app was refused";

/// Which standard stream something was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stream {
    Out,
    Err,
}

impl Stream {
    pub(super) fn name(self) -> &'static str {
        match self {
            Stream::Out => "out",
            Stream::Err => "err",
        }
    }

    pub(super) fn named(name: &str) -> Option<Stream> {
        match name {
            "out" => Some(Stream::Out),
            "err" => Some(Stream::Err),
            _ => None,
        }
    }
}

/// Whose log a file is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    pub app: String,
    /// Other apps that write to it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub others: BTreeSet<String>,
    /// The instance; none if several write to the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// None if both go there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Stream>,
    /// Lines begin with a time and ": ".
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dated: bool,
    /// The app runs as another user, who may have put a link in the place of the file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub foreign: bool,
}

impl About {
    /// As this destination sees it: under the first app that it is about. `None` if it is about none.
    pub(super) fn of(&self, destination: &Destination) -> Option<About> {
        let mut apps: BTreeSet<String> = self.others.clone();
        let app = match destination.is_about(&self.app) {
            true => self.app.clone(),
            false => apps.iter().find(|app| destination.is_about(app))?.clone(),
        };
        apps.insert(self.app.clone());
        apps.remove(&app);
        Some(About {
            app,
            others: apps,
            ..self.clone()
        })
    }
}

/// How severe a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Fatal,
}

impl Level {
    pub(super) fn name(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
            Level::Fatal => "fatal",
        }
    }

    /// A name, or a number of pino and bunyan.
    fn of(value: &Value) -> Option<Level> {
        if let Some(number) = value.as_u64() {
            return match number {
                10..20 => Some(Level::Trace),
                20..30 => Some(Level::Debug),
                30..40 => Some(Level::Info),
                40..50 => Some(Level::Warn),
                50..60 => Some(Level::Error),
                60..=99 => Some(Level::Fatal),
                _ => None,
            };
        }
        match value.as_str()?.to_ascii_lowercase().as_str() {
            "trace" | "trc" | "silly" | "verbose" => Some(Level::Trace),
            "debug" | "dbg" => Some(Level::Debug),
            "info" | "inf" | "information" | "informational" | "notice" | "log" | "http" => Some(Level::Info),
            "warn" | "warning" | "wrn" => Some(Level::Warn),
            "error" | "err" | "severe" => Some(Level::Error),
            "fatal" | "ftl" | "critical" | "crit" | "alert" | "emerg" | "emergency" | "panic" | "dpanic" => {
                Some(Level::Fatal)
            }
            _ => None,
        }
    }
}

/// What a line that is a JSON object says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Parsed {
    pub message: Option<String>,
    pub trace: Option<String>,
    pub span: Option<String>,
    /// The other fields.
    pub fields: Map<String, Value>,
}

/// A record.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub about: Arc<About>,
    pub id: Option<u32>,
    pub stream: Option<Stream>,
    /// Its time, in nanoseconds since 1970: what it says itself, or when it was written.
    pub time_ns: u64,
    /// When it was written.
    pub written_ns: u64,
    pub level: Option<Level>,
    /// As it was written, without what the daemon has added to a line.
    pub text: String,
    pub parsed: Option<Parsed>,
    /// Lines of the file that it is.
    pub lines: u32,
    /// The same whenever it is read.
    pub key: Key,
}

/// Where a record stands: a number for the file, and the offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(pub u64, pub u64);

/// When a record was written, as far as its file knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub written_ns: u64,
    pub now_ns: u64,
}

impl Record {
    pub(super) fn new(raw: Raw, about: &Arc<About>, clock: Clock, key: Key) -> Record {
        let is_time = |time: &u64| (EARLIEST_NS..clock.now_ns.saturating_add(AHEAD_NS)).contains(time);
        let mut fields = object(&raw.text, about.dated);
        let own = fields.as_mut().and_then(|fields| {
            let names = ["time", "timestamp", "@timestamp", "ts", "@t", "t"];
            take(fields, &names, |value| time_of(value).filter(is_time))
        });
        let level = fields.as_mut().and_then(|fields| {
            take(
                fields,
                &[
                    "level",
                    "severity",
                    "log.level",
                    "lvl",
                    "loglevel",
                    "levelname",
                    "@l",
                ],
                Level::of,
            )
        });
        let written_ns = raw.envelope.time_ns.filter(is_time);
        let written_ns = written_ns.unwrap_or(clock.written_ns);
        Record {
            about: Arc::clone(about),
            id: raw.envelope.id.or(about.id),
            stream: raw.envelope.stream.or(about.stream),
            time_ns: own.unwrap_or(written_ns),
            written_ns,
            level,
            text: raw.text,
            parsed: fields.map(Parsed::of),
            lines: raw.lines,
            key,
        }
    }

    /// A line of our own, to see whether a receiver takes anything.
    pub(super) fn own(now_ns: u64) -> Record {
        let about = About {
            app: OWN_APP.to_owned(),
            others: BTreeSet::new(),
            id: None,
            stream: None,
            dated: false,
            foreign: false,
        };
        Record {
            about: Arc::new(about),
            id: None,
            stream: None,
            time_ns: now_ns,
            written_ns: now_ns,
            level: None,
            text: OWN_TEXT.to_owned(),
            parsed: None,
            lines: 0,
            key: Key(0, now_ns),
        }
    }

    /// What it says, without the rest of a JSON object.
    pub(super) fn message(&self) -> &str {
        let message = self.parsed.as_ref().and_then(|parsed| parsed.message.as_deref());
        message.unwrap_or(&self.text)
    }
}

impl Parsed {
    fn of(mut fields: Map<String, Value>) -> Parsed {
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        Parsed {
            message: take(&mut fields, &["msg", "message", "@m", "event"], text),
            trace: take(&mut fields, &["trace_id", "traceId", "trace.id", "traceID"], text),
            span: take(&mut fields, &["span_id", "spanId", "span.id", "spanID"], text),
            fields,
        }
    }
}

/// The object that a line is.
fn object(text: &str, dated: bool) -> Option<Map<String, Value>> {
    let text = match dated {
        true => text.split_once(": ").map_or(text, |(_, own)| own),
        false => text,
    };
    if !text.starts_with('{') {
        return None;
    }
    serde_json::from_str::<Map<String, Value>>(text).ok()
}

/// Takes the first of these fields that is what it should be.
fn take<T>(fields: &mut Map<String, Value>, names: &[&str], read: impl Fn(&Value) -> Option<T>) -> Option<T> {
    let (name, value) = names
        .iter()
        .find_map(|name| Some((*name, read(fields.get(*name)?)?)))?;
    fields.remove(name);
    Some(value)
}

/// A time in nanoseconds: text by RFC 3339, or a number of seconds, milliseconds, microseconds or nanoseconds since 1970.
fn time_of(value: &Value) -> Option<u64> {
    if let Some(text) = value.as_str() {
        return time_of_text(text);
    }
    let unit = |number: f64| match number {
        _ if number >= 1e17 => 1.0,
        _ if number >= 1e14 => 1e3,
        _ if number >= 1e11 => 1e6,
        _ => 1e9,
    };
    let scale = unit(value.as_f64()?);
    if let Some(whole) = value.as_u64() {
        return whole.checked_mul(scale as u64);
    }
    Some((value.as_f64()? * 1e9 / (1e9 / scale)) as u64)
}

pub(super) fn time_of_text(text: &str) -> Option<u64> {
    let time: Timestamp = text.parse().ok()?;
    u64::try_from(time.as_nanosecond()).ok()
}

/// By RFC 3339, in UTC, to the microsecond.
pub(super) fn rfc3339(time_ns: u64) -> String {
    let time = Timestamp::from_nanosecond(i128::from(time_ns)).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::super::assemble::Envelope;
    use super::*;

    pub(in super::super) const NOW_NS: u64 = 1_772_716_029_000_000_000;

    pub(in super::super) fn record(text: &str) -> Record {
        let about = Arc::new(About {
            app: "api".to_owned(),
            others: BTreeSet::new(),
            id: Some(3),
            stream: Some(Stream::Out),
            dated: false,
            foreign: false,
        });
        let raw = Raw {
            begin: 0,
            end: text.len() + 1,
            lines: 1,
            text: text.to_owned(),
            envelope: Envelope::default(),
        };
        let clock = Clock {
            written_ns: NOW_NS,
            now_ns: NOW_NS,
        };
        Record::new(raw, &about, clock, Key(7, 42))
    }

    #[test]
    fn objects_say_level_time_message_and_trace() {
        let pino = json!({"level": 50, "time": 1_772_716_000_123_u64, "msg": "boom", "trace_id": "4bf9", "span_id": "00f0", "user": 7});
        let winston = json!({"level": "WARN", "timestamp": "2026-03-05T14:07:09.5+01:00", "message": "boom"});
        let zap =
            json!({"severity": "critical", "ts": 1_772_716_000.25, "message": "boom", "traceId": "4bf9"});
        for (value, level, time, trace) in [
            (pino, Level::Error, 1_772_716_000_123_000_000, Some("4bf9")),
            (winston, Level::Warn, 1_772_716_029_500_000_000, None),
            (zap, Level::Fatal, 1_772_716_000_250_000_000, Some("4bf9")),
        ] {
            let record = record(&value.to_string());
            assert_eq!((record.level, record.message()), (Some(level), "boom"), "{value}");
            assert!(
                record.time_ns.abs_diff(time) < 1_000,
                "{value}: {}",
                record.time_ns
            );
            let parsed = record.parsed.expect("it is an object");
            assert_eq!(parsed.trace.as_deref(), trace, "{value}");
            assert_eq!(parsed.fields.get("user"), value.get("user"));
        }
    }

    #[test]
    fn what_is_no_object_or_says_nonsense_is_a_line() {
        for text in [
            "plain",
            "{not json}",
            r#"{"time":"yesterday","level":7,"msg":5}"#,
            r#"{"time":12}"#,
            r#"{"time":99999999999999999}"#,
            "[1]",
        ] {
            let record = record(text);
            assert_eq!(
                (record.time_ns, record.level, record.message()),
                (NOW_NS, None, text)
            );
        }
        assert_eq!(rfc3339(NOW_NS + 42_000_000), "2026-03-05T13:07:09.042000Z");
    }

    #[test]
    fn only_a_field_with_a_time_is_one() {
        let good = 1_772_716_000_250_u64;
        for (other, is_time) in [
            (json!(12), false),
            (json!("yesterday"), false),
            (json!(NOW_NS + 600_000_000_000), false),
            (json!(NOW_NS + 200_000_000_000), true),
        ] {
            let line = json!({"time": other, "ts": good}).to_string();
            let record = record(&line);
            let fields = record.parsed.expect("an object").fields;
            let expected = if is_time {
                other.as_u64()
            } else {
                Some(good * 1_000_000)
            };
            assert_eq!(Some(record.time_ns), expected, "{line}");
            assert_eq!(
                (fields.contains_key("time"), fields.contains_key("ts")),
                (!is_time, is_time)
            );
        }
    }
}
