//! `events`: what has happened, and what happens.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::time::Duration;

use anyhow::bail;
use comfy_table::Table;
use jiff::Timestamp;
use rpm_wire::api::ApiError;
use rpm_wire::events::{FILES, Head, Picker, Which};
use rpm_wire::terminal;
use tokio::time::sleep;

use super::complaint::tell;
use super::session;
use crate::args::EventsArgs;
use crate::connect::connect;
use crate::home::{Home, home_dir};
use crate::http::{RequestError, Session, percent_encoded};
use crate::output::Output;
use crate::render::{EventLines, Look};

/// Between two looks whether there is another daemon, when the one that was followed has died.
const LOOK: Duration = Duration::from_millis(100);

pub(super) async fn events(args: &EventsArgs, output: &mut Output) -> anyhow::Result<()> {
    let home = Home::open(home_dir()?)?;
    let mut printer = Printer::new(args.json, output.look);
    if !args.follow && connect(&home).await?.is_none() {
        return written(&home, args, &mut printer, output);
    }
    let mut session = session().await?;
    let mut path = path(args);
    let begun = u64::try_from(Timestamp::now().as_millisecond()).ok();
    let since_begun = EventsArgs {
        since: args.since.max(begun),
        ..args.clone()
    };
    let mut goes_on = false;
    loop {
        let mut stream = match session.lines(&path).await {
            Ok(stream) => stream,
            // The next daemon has died, too, or was updated, before it answered.
            Err(error) if goes_on && !matches!(error, RequestError::Api(_)) => {
                session = next(&home).await?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        goes_on = true;
        loop {
            let lines = match stream.next().await {
                Ok(Some(lines)) => lines,
                Err(error) if !args.follow => return Err(error.into()),
                Ok(None) if !args.follow => return printer.end(),
                // It has ended, or was updated.
                Ok(None) | Err(_) => break,
            };
            printer.print(&lines, output)?;
            output.flush()?;
        }
        if printer.ended {
            bail!("the daemon has ended");
        }
        // It was updated, or has died: the next one goes on with the same numbers.
        session = next(&home).await?;
        path = match printer.seq {
            0 => self::path(&since_begun),
            seq => format!("{}&after={seq}", self::path(args)),
        };
    }
}

fn path(args: &EventsArgs) -> String {
    let mut path = format!("/v1/events?lines={}&follow={}", args.lines, args.follow);
    if let Some(since) = args.since {
        path.push_str(&format!("&since_ms={since}"));
    }
    // Names never contain a line break.
    if !args.targets.is_empty() {
        path.push_str(&format!("&target={}", percent_encoded(&args.targets.join("\n"))));
    }
    path
}

/// The next daemon, whenever somebody starts one.
async fn next(home: &Home) -> anyhow::Result<Session> {
    loop {
        if let Some(stream) = connect(home).await?
            && let Ok(session) = Session::open(stream).await
        {
            return Ok(session);
        }
        sleep(LOOK).await;
    }
}

/// Without a daemon: what is in its files.
fn written(home: &Home, args: &EventsArgs, printer: &mut Printer, output: &mut Output) -> anyhow::Result<()> {
    let refused = |error: String, hint: &str| ApiError {
        error,
        hint: Some(hint.to_owned()),
        last_lines: Vec::new(),
        unknown: None,
    };
    if let Some(pattern) = args.targets.iter().find(|target| target.starts_with('/')) {
        let error = format!("{pattern}: patterns need the daemon, and none runs");
        return Err(
            RequestError::Api(refused(error, "name the app, or start the daemon by `rpm ping`")).into(),
        );
    }
    let ever = Cell::new(false);
    let meant = |head: &Head| {
        let is = |target: &String| {
            let id = head.id.map(|id| id.to_string());
            let own = [head.app.as_ref(), head.namespace.as_ref(), id.as_ref()];
            target == "all" || own.into_iter().flatten().any(|name| name == target)
        };
        let meant = args.targets.is_empty() || args.targets.iter().any(is);
        ever.set(ever.get() || meant);
        meant
    };
    let fits = |head: &Head| meant(head) && args.since.is_none_or(|since| head.at_ms >= since);
    let mut picker = Picker::new(Which::Last(args.lines as usize), 0, &fits);
    for path in FILES.iter().map(|name| home.root().join(name)) {
        if !path.is_file() {
            continue;
        }
        let lines = BufReader::new(File::open(path)?).split(b'\n');
        for line in lines.map_while(Result::ok) {
            picker.push(&line);
        }
    }
    let picked = picker.finish();
    if !args.targets.is_empty() && !ever.get() {
        let error = format!("no event of {}", args.targets.join(" "));
        return Err(RequestError::Api(refused(error, "`rpm events` shows those of all apps")).into());
    }
    let mut lines = picked.lines.join(&b'\n');
    lines.push(b'\n');
    printer.print(&lines, output)?;
    output.flush()?;
    printer.end()
}

/// Prints lines of the stream.
struct Printer {
    json: bool,
    lines: EventLines,
    /// The last event that was printed.
    seq: u64,
    /// It says that the daemon ends.
    ended: bool,
}

impl Printer {
    fn new(json: bool, look: Look) -> Printer {
        let columns = Table::new().width().map(usize::from);
        Printer {
            json,
            lines: EventLines::new(look, columns),
            seq: 0,
            ended: false,
        }
    }

    fn print(&mut self, lines: &[u8], output: &mut Output) -> anyhow::Result<()> {
        let lines = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        lines.clone().for_each(|line| self.lines.widen(line));
        for line in lines {
            if let Ok(head) = serde_json::from_slice::<Head>(line) {
                (self.seq, self.ended) = (head.seq, head.kind == "daemon_stopped");
            }
            if self.json {
                let text = String::from_utf8_lossy(line);
                match output.look {
                    Look::Plain => output.line(text)?,
                    Look::Terminal | Look::Coloured => output.line(terminal::json(&text))?,
                }
            } else if let Some(text) = self.lines.text(line) {
                output.line(text)?;
            }
        }
        Ok(())
    }

    fn end(&self) -> anyhow::Result<()> {
        if self.seq == 0 {
            tell("no events");
        }
        Ok(())
    }
}
