//! The thread that looks at files: lines of logs that match a pattern, how large logs are, and certificates. A slow disk and a costly pattern hold up
//! nothing else, and take a bounded share of one CPU.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use regex_lite::{Regex, RegexBuilder};
use rpm_wire::alerts::{PATTERN_COMPILED_BYTES, Rule, Source, Trigger};
use rpm_wire::api::Process;
use tokio::sync::mpsc;

use super::body::clipped;
use super::certificate::valid_until;
use super::condition::{Read, Reading, mebibytes, span};
use super::disk_use::{fullness, sizes};
use super::engine::Found;
use crate::forward::Tail;

/// Between two looks at lines.
const LINES_EVERY: Duration = Duration::from_millis(250);
/// How long one look may take: about a tenth of a CPU.
const BUDGET: Duration = Duration::from_millis(20);
/// What is left of a look after its time, for the lines that were read already.
const GRACE: Duration = Duration::from_millis(25);
/// Between two looks at sizes and certificates.
const FILES_EVERY: Duration = Duration::from_secs(60);
/// A line is looked at up to here, in bytes.
const LINE_BYTES: usize = 8 * 1024;
/// So much of it is told, in bytes.
const TOLD_BYTES: usize = 500;
/// Rules and apps of which lines were found, and not told yet.
const FOUND: usize = 10_000;
/// Output that is thrown away.
const NOWHERE: &str = "/dev/null";
/// Below this a time is told in hours, in seconds.
const HOURS_BELOW: i64 = 3 * 86_400;
/// Between two complaints.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// What is to be looked at.
#[derive(Debug)]
struct Order {
    rules: Arc<Vec<Rule>>,
    processes: Vec<Process>,
}

/// What was seen. The numbers are of these rules.
#[derive(Debug)]
pub(crate) struct Seen {
    pub rules: Arc<Vec<Rule>>,
    pub lines: Vec<Found>,
    /// Of all apps, if they were looked at.
    pub readings: Option<Vec<Read>>,
}

/// The thread, which ends with this.
#[derive(Debug)]
pub(crate) struct Looker {
    orders: SyncSender<Order>,
}

impl Looker {
    /// Begins to look.
    pub(crate) fn start(seen: mpsc::Sender<Seen>) -> std::io::Result<Looker> {
        let (orders, heard) = sync_channel(1);
        let work = Work {
            orders: heard,
            seen,
            tail: Tail::new(),
            order: None,
            patterns: Vec::new(),
            found: BTreeMap::new(),
            files_at: None,
            complained: None,
        };
        thread::Builder::new()
            .name("rpm-alerts".to_owned())
            .spawn(move || work.run())?;
        Ok(Looker { orders })
    }

    /// The rules, and the processes that there are. While the thread is busy it goes on with those it has.
    pub(crate) fn set(&self, rules: &Arc<Vec<Rule>>, processes: Vec<Process>) {
        let rules = Arc::clone(rules);
        let _ = self.orders.try_send(Order { rules, processes });
    }
}

struct Work {
    orders: Receiver<Order>,
    seen: mpsc::Sender<Seen>,
    tail: Tail,
    order: Option<Order>,
    /// By the numbers of their rules.
    patterns: Vec<(usize, Regex)>,
    found: BTreeMap<(usize, String), Found>,
    files_at: Option<Instant>,
    complained: Option<Instant>,
}

impl Work {
    fn run(mut self) {
        loop {
            match self.orders.recv_timeout(LINES_EVERY) {
                Ok(order) => self.take(order),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.lines();
            self.tell();
        }
    }

    fn take(&mut self, order: Order) {
        let is_same = self
            .order
            .as_ref()
            .is_some_and(|before| before.rules == order.rules);
        if !is_same {
            // What was found has the numbers of the rules before.
            self.tell();
            self.found.clear();
            self.patterns = patterns(&order.rules);
            self.tail.begin();
            self.files_at = None;
        }
        let rules = &order.rules;
        let about = |app: &str| {
            let mut ours = rules.iter().filter(|rule| rule.on == Trigger::LogPattern);
            ours.any(|rule| rule.is_about(app))
        };
        self.tail.follow(&order.processes, about);
        self.order = Some(order);
    }

    fn lines(&mut self) {
        let Some(order) = self.order.as_ref().filter(|_| !self.patterns.is_empty()) else {
            return;
        };
        let (patterns, found, rules) = (&self.patterns, &mut self.found, &order.rules);
        let until = Instant::now() + BUDGET;
        let mut passed_over = 0_u64;
        let mut complaints = self.tail.read(until, |origin, line| {
            if Instant::now() >= until + GRACE {
                passed_over += 1;
                return;
            }
            let line = plain(&line[..line.floor_char_boundary(LINE_BYTES)]);
            for (number, pattern) in patterns {
                let rule = &rules[*number];
                if !origin.apps().any(|app| rule.is_about(app)) || !pattern.is_match(&line) {
                    continue;
                }
                for app in origin.apps().filter(|app| rule.is_about(app)) {
                    note(found, *number, app, &line);
                }
            }
        });
        if passed_over > 0 {
            complaints.push(format!(
                "{passed_over} lines were not looked at: patterns take too long"
            ));
        }
        let is_time = self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY);
        if let Some(complaint) = complaints.first().filter(|_| is_time) {
            eprintln!("alerts: log-pattern: {complaint}");
            self.complained = Some(Instant::now());
        }
    }

    /// What nobody takes at the moment is kept, and counted on.
    fn tell(&mut self) {
        let Some(order) = &self.order else { return };
        let is_wanted = order.rules.iter().any(|rule| rule.on.source() == Source::Files);
        let is_time = is_wanted && self.files_at.is_none_or(|at| at.elapsed() >= FILES_EVERY);
        if self.found.is_empty() && !is_time {
            return;
        }
        let Ok(place) = self.seen.try_reserve() else {
            return;
        };
        place.send(Seen {
            rules: Arc::clone(&order.rules),
            lines: std::mem::take(&mut self.found).into_values().collect(),
            readings: is_time.then(|| readings(&order.rules, &order.processes)),
        });
        if is_time {
            self.files_at = Some(Instant::now());
        }
    }
}

/// The patterns of the rules. They were tried when the file was read.
fn patterns(rules: &[Rule]) -> Vec<(usize, Regex)> {
    let mut patterns = Vec::new();
    for (number, rule) in rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| rule.on == Trigger::LogPattern)
    {
        let pattern = rule.pattern.as_deref().unwrap_or_default();
        match RegexBuilder::new(pattern)
            .size_limit(PATTERN_COMPILED_BYTES)
            .build()
        {
            Ok(pattern) => patterns.push((number, pattern)),
            Err(error) => eprintln!("alerts: rule {number}: /{pattern}/ cannot be looked for: {error}"),
        }
    }
    patterns
}

fn note(found: &mut BTreeMap<(usize, String), Found>, rule: usize, app: &str, line: &str) {
    let room = found.len() < FOUND;
    match found.get_mut(&(rule, app.to_owned())) {
        Some(found) => found.count = found.count.saturating_add(1),
        None if !room => {}
        None => {
            let first = Found {
                rule,
                app: app.to_owned(),
                count: 1,
                line: clipped(line, TOLD_BYTES),
            };
            found.insert((rule, app.to_owned()), first);
        }
    }
}

/// A line without what moves a cursor or colours a terminal: neither patterns nor people expect that.
fn plain(line: &str) -> Cow<'_, str> {
    if !line.contains(char::is_control) {
        return Cow::Borrowed(line);
    }
    let (mut text, mut chars) = (String::new(), line.chars());
    while let Some(char) = chars.next() {
        match char {
            // A control sequence (ECMA-48): it ends with a character from @ on.
            '\u{1b}' => {
                let mut rest = chars.clone();
                if rest.next() == Some('[') {
                    rest.by_ref().find(|char| ('@'..='~').contains(char));
                    chars = rest;
                }
            }
            '\t' => text.push(' '),
            char if char.is_control() => {}
            char => text.push(char),
        }
    }
    text.into()
}

/// What is known of the files of each app, for the rules about files.
fn readings(rules: &[Rule], processes: &[Process]) -> Vec<Read> {
    let mut apps: BTreeMap<&str, Vec<&Process>> = BTreeMap::new();
    for process in processes {
        apps.entry(&process.name).or_default().push(process);
    }
    let logs: BTreeMap<&str, BTreeSet<PathBuf>> = apps.iter().map(|(app, all)| (*app, logs(all))).collect();
    let sizes = match rules.iter().any(|rule| rule.on == Trigger::LogsSize) {
        true => sizes(&logs.values().flatten().cloned().collect()),
        false => BTreeMap::new(),
    };
    let mut readings = Vec::new();
    for (number, rule) in rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| rule.on.source() == Source::Files)
    {
        for (app, all) in apps.iter().filter(|(app, _)| rule.is_about(app)) {
            let reading = match rule.on {
                Trigger::LogsSize => {
                    let taken = logs[app].iter().filter_map(|log| sizes.get(log)).sum();
                    Some(log_size(rule, taken))
                }
                Trigger::LogsDisk => logs[app]
                    .iter()
                    .filter_map(|log| fullness(log))
                    .reduce(f64::max)
                    .map(|full| disk(rule, full)),
                _ => certificates(rule, all),
            };
            readings.extend(reading.map(|reading| Read {
                rule: number,
                app: (*app).to_owned(),
                reading,
            }));
        }
    }
    readings
}

/// The log files of an app.
fn logs(processes: &[&Process]) -> BTreeSet<PathBuf> {
    let both = |process: &&Process| process.details.as_ref()?.both_log.clone();
    let files = processes.iter().flat_map(|process| {
        [
            Some(process.out_log.clone()),
            Some(process.err_log.clone()),
            both(process),
        ]
    });
    let files = files.flatten().filter(|path| !path.is_empty() && path != NOWHERE);
    files.map(PathBuf::from).collect()
}

fn log_size(rule: &Rule, taken: u64) -> Reading {
    let above = rule.above.unwrap_or_default();
    let holds = taken as f64 > above;
    let taken = mebibytes(taken as f64);
    let text = match holds {
        true => format!("its logs take {taken}, more than {}", mebibytes(above)),
        false => format!("its logs take {taken}"),
    };
    Reading::Known { holds, text }
}

fn disk(rule: &Rule, full: f64) -> Reading {
    let above = rule.above.unwrap_or_default();
    let holds = full > above;
    let text = match holds {
        true => format!("the disk with its logs is {full:.0} % full, more than {above} %"),
        false => format!("the disk with its logs is {full:.0} % full"),
    };
    Reading::Known { holds, text }
}

/// The certificate that expires first. An app without any has no reading.
fn certificates(rule: &Rule, processes: &[&Process]) -> Option<Reading> {
    let specs = processes.iter().filter_map(|process| process.spec.as_ref());
    let paths: BTreeSet<&String> = specs.flat_map(|spec| &spec.proxy.tls_cert).collect();
    let now = i64::try_from(super::now_ms() / 1000).unwrap_or(i64::MAX);
    if paths.is_empty() {
        return None;
    }
    // One that is being replaced cannot be read for a moment.
    let left = |path: &&String| Some((valid_until(Path::new(path)).ok()? - now, path.to_string()));
    let Some((left, path)) = paths.iter().filter_map(left).min() else {
        return Some(Reading::Unknown);
    };
    Some(expiry(rule, left, &path))
}

/// A certificate that is valid for so many seconds yet.
fn expiry(rule: &Rule, left: i64, path: &str) -> Reading {
    let text = match left {
        ..=0 => format!("its certificate {path} has expired"),
        1..HOURS_BELOW => format!("its certificate {path} expires in {} h", left / 3_600),
        _ => format!("its certificate {path} expires in {} days", left / 86_400),
    };
    let holds = left < i64::try_from(rule.for_ms / 1000).unwrap_or(i64::MAX);
    let text = match holds {
        true if left > 0 => format!("{text}, less than {}", span(rule.for_ms)),
        _ => text,
    };
    Reading::Known { holds, text }
}

#[cfg(test)]
mod tests {
    use super::super::tests::rule;
    use super::*;

    #[test]
    fn a_line_is_shown_without_what_a_terminal_obeys() {
        for (line, expected) in [
            ("plain ö", "plain ö"),
            ("\u{1b}[31mFATAL\u{1b}[0m: no", "FATAL: no"),
            ("a\tb\rc\u{7}", "a bc"),
            ("\u{1b}]0;title\u{7}x", "]0;titlex"),
            ("end\u{1b}[", "end"),
        ] {
            assert_eq!(plain(line), expected, "{line:?}");
        }
    }

    #[test]
    fn files_in_words() {
        let (size, full) = (rule(Trigger::LogsSize), rule(Trigger::LogsDisk));
        let certificate = rule(Trigger::Certificate);
        for (reading, expected, told) in [
            (log_size(&size, 1 << 30), false, "its logs take 1024 MiB"),
            (
                log_size(&size, (1 << 30) + 1),
                true,
                "its logs take 1024 MiB, more than 1024 MiB",
            ),
            (disk(&full, 90.0), false, "the disk with its logs is 90 % full"),
            (
                disk(&full, 91.0),
                true,
                "the disk with its logs is 91 % full, more than 90 %",
            ),
            (
                expiry(&certificate, 14 * 86_400, "a"),
                false,
                "its certificate a expires in 14 days",
            ),
            (
                expiry(&certificate, 14 * 86_400 - 1, "a"),
                true,
                "its certificate a expires in 13 days, less than 14 days",
            ),
            (
                expiry(&certificate, 7_200, "a"),
                true,
                "its certificate a expires in 2 h, less than 14 days",
            ),
            (
                expiry(&certificate, 0, "a"),
                true,
                "its certificate a has expired",
            ),
        ] {
            let known = Reading::Known {
                holds: expected,
                text: told.to_owned(),
            };
            assert_eq!(reading, known);
        }
    }
}
