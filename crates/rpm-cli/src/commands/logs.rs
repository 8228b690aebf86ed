//! `logs`: the last lines of the apps, and new ones.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::thread;

use anyhow::{Context as _, bail};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use rpm_wire::api::{LogLine, Stream};
use rpm_wire::dayjs::format_time;
use rpm_wire::terminal;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::session;
use crate::args::LogsArgs;
use crate::http::{Lines, Session, percent_encoded};
use crate::output::{Output, OutputError};
use crate::render;

/// Shown for an unknown time.
const UNKNOWN: &str = "-";

/// Default timestamp format.
const ISO: &str = "YYYY-MM-DDTHH:mm:ss.SSSZ";

/// Capacity, in chunks as the daemon sends them, of the queue of output to print.
const PARTS: usize = 8;

pub(super) async fn logs(args: &LogsArgs, output: &mut Output) -> anyhow::Result<()> {
    LogStream::open(args).await?.print(output).await?;
    if follows(args) {
        bail!("the daemon ended the stream");
    }
    Ok(())
}

/// Lines of apps, as the daemon sends them.
pub(super) struct LogStream {
    args: LogsArgs,
    lines: Lines,
    /// Keeps the stream open.
    _session: Session,
}

impl LogStream {
    /// Opens the stream: no line from now on is missed.
    pub(super) async fn open(args: &LogsArgs) -> anyhow::Result<LogStream> {
        LogStream::at(&path(args), args).await
    }

    /// The same, but past lines are those since the start of the daemon.
    pub(super) async fn open_fresh(args: &LogsArgs) -> anyhow::Result<LogStream> {
        LogStream::at(&format!("{}&fresh=true", path(args)), args).await
    }

    async fn at(path: &str, args: &LogsArgs) -> anyhow::Result<LogStream> {
        let mut session = session().await?;
        Ok(LogStream {
            args: args.clone(),
            lines: session.lines(path).await?,
            _session: session,
        })
    }

    /// Prints them until the daemon ends the stream; a followed stream ends with the daemon.
    async fn print(mut self, output: &mut Output) -> anyhow::Result<()> {
        let mut printer = Printer::new(self.args);
        while let Some(lines) = self.lines.next().await? {
            let look = output.look;
            let raw = printer.args.raw;
            printer.print(&lines, look, |_, text| match raw {
                true => output.raw_line(&text),
                false => output.line(text),
            })?;
            output.flush()?;
        }
        Ok(())
    }

    /// The same on a thread of its own, so that the caller does not block while standard output is not read. Lines go to the standard
    /// stream that their app names, by default to standard output.
    pub(super) async fn print_aside(mut self) -> anyhow::Result<()> {
        let (parts, mut inbox) = mpsc::channel::<Vec<u8>>(PARTS);
        let (done, printed) = oneshot::channel();
        let mut streams = Streams::open(Printer::new(self.args))?;
        let printing = move || {
            let mut result = Ok(());
            while let (Ok(()), Some(lines)) = (&result, inbox.blocking_recv()) {
                result = streams.print(&lines);
            }
            // The receiver is gone if the command ends.
            let _ = done.send(result);
        };
        thread::Builder::new()
            .name("rpm-print".to_owned())
            .spawn(printing)?;
        while let Some(lines) = self.lines.next().await? {
            if parts.send(lines).await.is_err() {
                break;
            }
        }
        drop(parts);
        printed.await.unwrap_or_else(|_| bail!("printing has ended"))
    }
}

/// The standard streams for another thread; the command has locked its own handle.
struct Streams {
    printer: Printer,
    out: BufWriter<File>,
    err: BufWriter<File>,
}

impl Streams {
    fn open(printer: Printer) -> std::io::Result<Streams> {
        let own = |stream: BorrowedFd<'_>| stream.try_clone_to_owned().map(File::from);
        Ok(Streams {
            printer,
            out: BufWriter::new(own(std::io::stdout().as_fd())?),
            err: BufWriter::new(own(std::io::stderr().as_fd())?),
        })
    }

    fn print(&mut self, lines: &[u8]) -> anyhow::Result<()> {
        let Streams { printer, out, err } = self;
        printer.print(lines, render::Look::Plain, |line, text| {
            let to = match line.to {
                Some(Stream::Err) => &mut *err,
                Some(Stream::Out) | None => &mut *out,
            };
            Ok(writeln!(to, "{text}")?)
        })?;
        out.flush()
            .and_then(|()| err.flush())
            .map_err(OutputError::from)?;
        Ok(())
    }
}

fn path(args: &LogsArgs) -> String {
    // Names never contain a line break.
    let target = match args.targets.as_slice() {
        [] => String::new(),
        targets => format!("&target={}", percent_encoded(&targets.join("\n"))),
    };
    format!("/v1/logs?lines={}&follow={}{target}", args.lines, follows(args))
}

/// Whether new lines are followed.
fn follows(args: &LogsArgs) -> bool {
    !args.nostream && args.until.is_none()
}

/// Whether a line is in the requested time range. A line of unknown time is in none.
fn is_timely(args: &LogsArgs, written: Option<u64>) -> bool {
    match (args.since, args.until) {
        (None, None) => true,
        (since, until) => written
            .is_some_and(|ms| since.is_none_or(|since| since <= ms) && until.is_none_or(|until| ms <= until)),
    }
}

/// Prints lines in the requested format.
struct Printer {
    args: LogsArgs,
    width: usize,
    zone: TimeZone,
}

impl Printer {
    fn new(args: LogsArgs) -> Printer {
        Printer {
            args,
            width: 0,
            zone: TimeZone::system(),
        }
    }

    /// Prints a chunk from the daemon: whole lines, each a JSON object.
    fn print(
        &mut self,
        lines: &[u8],
        look: render::Look,
        mut write: impl FnMut(&LogLine, String) -> Result<(), OutputError>,
    ) -> anyhow::Result<()> {
        for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            let line: LogLine = serde_json::from_slice(line).context("the daemon sent no log line")?;
            let unwanted = match line.stream {
                Stream::Out => self.args.err,
                Stream::Err => self.args.out,
            };
            if !unwanted && is_timely(&self.args, line.time_ms) {
                self.width = render::origin_width(self.width, &line);
                write(&line, self.text(&line, look))?;
            }
        }
        Ok(())
    }

    fn text(&self, line: &LogLine, look: render::Look) -> String {
        let args = &self.args;
        let written = line.time_ms.and_then(|ms| self.zoned(ms));
        let time = |usual: &str| {
            let format = args.timestamp.as_deref().unwrap_or(usual);
            written.as_ref().map(|written| format_time(format, written))
        };
        let kind = match line.stream {
            Stream::Out => "out",
            Stream::Err => "error",
        };
        if args.json {
            let object = object(line, time(ISO).as_deref()).to_string();
            return match look {
                render::Look::Plain => object,
                render::Look::Terminal | render::Look::Coloured => terminal::json(&object).into_owned(),
            };
        }
        if args.format {
            let LogLine { id, name, line, .. } = line;
            return format!(
                "timestamp={} app={name} id={id} type={kind} message={line}",
                time(ISO).as_deref().unwrap_or(UNKNOWN)
            );
        }
        let text = if args.raw {
            line.line.clone()
        } else {
            render::log_line(line, self.width, look)
        };
        let text = match &args.highlight {
            Some(what) if !what.is_empty() => render::highlighted(&text, what, look),
            _ => text,
        };
        match &args.timestamp {
            Some(format) => format!("{}: {text}", time(format).as_deref().unwrap_or(UNKNOWN)),
            None => text,
        }
    }

    fn zoned(&self, ms: u64) -> Option<Zoned> {
        let time = Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
        Some(time.to_zoned(self.zone.clone()))
    }
}

/// The line with the fields of this program and with those of PM2.
fn object(line: &LogLine, time: Option<&str>) -> Value {
    let kind = match line.stream {
        Stream::Out => "out",
        Stream::Err => "err",
    };
    json!({
        "id": line.id, "name": line.name, "stream": line.stream, "line": line.line,
        "message": line.line, "timestamp": time, "type": kind, "process_id": line.id, "app_name": line.name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(args: &LogsArgs) -> String {
        // 2026-03-05T13:07:09.042Z.
        shown_at(args, Some(1_772_716_029_042))
    }

    fn shown_at(args: &LogsArgs, time_ms: Option<u64>) -> String {
        let line = LogLine {
            id: 3,
            name: "web".to_owned(),
            stream: Stream::Err,
            line: "it failed".to_owned(),
            shared: false,
            time_ms,
            to: None,
        };
        let printer = Printer {
            zone: TimeZone::fixed(jiff::tz::offset(1)),
            ..Printer::new(args.clone())
        };
        printer.text(&line, render::Look::Plain)
    }

    #[test]
    fn a_time_that_is_not_known_is_not_made_up() {
        let usual = LogsArgs::default;
        let line = |args: LogsArgs| shown_at(&args, None);
        assert_eq!(
            line(LogsArgs {
                raw: true,
                timestamp: Some("HH:mm".to_owned()),
                ..usual()
            }),
            "-: it failed"
        );
        assert!(
            line(LogsArgs {
                format: true,
                ..usual()
            })
            .starts_with("timestamp=- app=web")
        );
        assert!(
            line(LogsArgs {
                json: true,
                ..usual()
            })
            .contains("\"timestamp\":null")
        );
    }

    #[test]
    fn the_address_asks_for_what_is_wanted() {
        let args = |targets: &[&str], lines, nostream| LogsArgs {
            targets: targets.iter().map(|target| (*target).to_owned()).collect(),
            lines,
            nostream,
            ..LogsArgs::default()
        };
        assert_eq!(path(&args(&[], 15, false)), "/v1/logs?lines=15&follow=true");
        assert_eq!(
            path(&args(&["a b&c"], 0, true)),
            "/v1/logs?lines=0&follow=false&target=a%20b%26c"
        );
        let until = LogsArgs {
            until: Some(7),
            ..args(&["web", "0"], 5, false)
        };
        assert_eq!(path(&until), "/v1/logs?lines=5&follow=false&target=web%0A0");
    }

    #[test]
    fn lines_of_a_time() {
        let args = |since, until| LogsArgs {
            since,
            until,
            ..LogsArgs::default()
        };
        for (since, until, shown) in [
            (None, None, "- 5 6 7"),
            (Some(6), None, "6 7"),
            (None, Some(6), "5 6"),
            (Some(6), Some(6), "6"),
            (Some(8), None, ""),
        ] {
            let all = [None, Some(5), Some(6), Some(7)];
            let timely = all.iter().filter(|time| is_timely(&args(since, until), **time));
            let timely: Vec<String> = timely
                .map(|time| time.map_or_else(|| "-".to_owned(), |ms| ms.to_string()))
                .collect();
            assert_eq!(timely.join(" "), shown, "{since:?} {until:?}");
        }
    }

    #[test]
    fn each_format_is_that_of_pm2() {
        let usual = LogsArgs::default;
        assert_eq!(shown(&usual()), "3|web | it failed");
        assert_eq!(shown(&LogsArgs { raw: true, ..usual() }), "it failed");
        assert_eq!(
            shown(&LogsArgs {
                format: true,
                ..usual()
            }),
            "timestamp=2026-03-05T14:07:09.042+01:00 app=web id=3 type=error message=it failed"
        );
        let stamped = LogsArgs {
            timestamp: Some("HH:mm".to_owned()),
            raw: true,
            ..usual()
        };
        assert_eq!(shown(&stamped), "14:07: it failed");
        let json: Value = serde_json::from_str(&shown(&LogsArgs {
            json: true,
            ..usual()
        }))
        .unwrap();
        for (key, value) in [
            ("message", json!("it failed")),
            ("type", json!("err")),
            ("process_id", json!(3)),
            ("app_name", json!("web")),
        ] {
            assert_eq!(json[key], value, "{key}");
        }
    }
}
