//! What is put before each line: the time, or the whole line as an object.

use jiff::Zoned;
use rpm_wire::dayjs::format_time;
use serde_json::json;

/// Longest line that is kept together as one object, in bytes: the longest that `logs` shows whole.
pub(super) const LINE_LIMIT: usize = 1024 * 1024;

/// How lines are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Style {
    /// As they come.
    Raw,
    /// After the time, in this format.
    Dated(String),
    /// As JSON objects, one a line.
    Json {
        /// The app.
        app: String,
        /// The instance.
        id: u32,
        /// `out` or `err`.
        stream: &'static str,
        /// The format of the time; that of ISO 8601 without one.
        format: Option<String>,
    },
}

/// The formatter of one stream.
#[derive(Debug)]
pub(super) struct Lines {
    style: Style,
    /// The next byte begins a line.
    fresh: bool,
}

impl Lines {
    pub(super) fn new(style: Style) -> Lines {
        Lines { style, fresh: true }
    }

    /// The bytes as they are written; `None`: as they are. Objects are made of whole lines, which the caller puts together.
    pub(super) fn style(&mut self, bytes: &[u8], now: impl Fn() -> Zoned) -> Option<Vec<u8>> {
        match &self.style {
            Style::Raw => None,
            Style::Dated(format) => {
                let mut styled = Vec::with_capacity(bytes.len() + 64);
                let mut time = None;
                for part in bytes.split_inclusive(|byte| *byte == b'\n') {
                    if self.fresh {
                        let time = time.get_or_insert_with(|| format_time(format, &now()));
                        styled.extend_from_slice(time.as_bytes());
                        styled.extend_from_slice(b": ");
                    }
                    styled.extend_from_slice(part);
                    self.fresh = part.ends_with(b"\n");
                }
                Some(styled)
            }
            Style::Json { .. } => Some(self.objects(bytes, &now())),
        }
    }

    fn objects(&self, whole: &[u8], now: &Zoned) -> Vec<u8> {
        let Style::Json {
            app,
            id,
            stream,
            format,
        } = &self.style
        else {
            return whole.to_vec();
        };
        let timestamp = match format {
            Some(format) => format_time(format, now),
            None => now.timestamp().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
        };
        let mut objects = Vec::new();
        for line in whole.split_inclusive(|byte| *byte == b'\n') {
            let object = json!({
                "message": String::from_utf8_lossy(line),
                "timestamp": timestamp,
                "type": stream,
                "process_id": id,
                "app_name": app,
            });
            objects.extend_from_slice(object.to_string().as_bytes());
            objects.push(b'\n');
        }
        objects
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Zoned {
        "2026-03-05T14:07:09.042+01:00[Europe/Berlin]".parse().unwrap()
    }

    #[test]
    fn the_time_stands_before_each_line_once() {
        let mut lines = Lines::new(Style::Dated("HH:mm".to_owned()));
        assert_eq!(lines.style(b"one\ntw", now).unwrap(), b"14:07: one\n14:07: tw");
        assert_eq!(lines.style(b"o\nthree\n", now).unwrap(), b"o\n14:07: three\n");
        assert_eq!(Lines::new(Style::Raw).style(b"x", now), None);
    }

    #[test]
    fn each_line_is_an_object() {
        let mut lines = Lines::new(Style::Json {
            app: "web".to_owned(),
            id: 3,
            stream: "out",
            format: None,
        });
        assert_eq!(lines.style(b"", now).unwrap(), b"");
        let styled = String::from_utf8(lines.style(b"a \"b\" c\n\xff\n", now).unwrap()).unwrap();
        let objects: Vec<serde_json::Value> = styled
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let expected = json!({
            "message": "a \"b\" c\n", "timestamp": "2026-03-05T13:07:09.042Z", "type": "out", "process_id": 3, "app_name": "web",
        });
        assert_eq!(objects[0], expected);
        assert_eq!((objects.len(), &objects[1]["message"]), (2, &json!("\u{fffd}\n")));
        let rest = String::from_utf8(lines.style(b"rest", now).unwrap()).unwrap();
        assert!(rest.contains("\"message\":\"rest\""), "{rest}");
    }
}
