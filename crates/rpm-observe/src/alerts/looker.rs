//! The thread that looks at files: lines of logs that match a pattern, how large logs are, and certificates. A slow disk and a costly pattern hold up
//! nothing else, and take a bounded share of one CPU.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use regex_lite::{Regex, RegexBuilder};
use rpm_wire::alerts::{PATTERN_COMPILED_BYTES, Rule, Source, Trigger};
use rpm_wire::api::Process;
use tokio::sync::mpsc;

use super::body::clipped;
use super::condition::Read;
use super::engine::Found;
use super::readings::readings;
use crate::forward::Tail;

/// Between two looks at lines.
const LINES_EVERY: Duration = Duration::from_millis(250);
/// How long one look may take.
const BUDGET: Duration = Duration::from_millis(20);
/// A look is followed by a pause of so many times what it took: a tenth of a CPU, however long one line and one pattern took.
const PAUSE: u32 = 9;
/// Complaints that are made at once.
const COMPLAINTS: usize = 5;
/// Between two looks at sizes and certificates.
const FILES_EVERY: Duration = Duration::from_secs(60);
/// A line is looked at up to here, in bytes.
const LINE_BYTES: usize = 8 * 1024;
/// So much of it is told, in bytes.
const TOLD_BYTES: usize = 500;
/// Rules and apps of which lines were found, and not told yet.
const FOUND: usize = 10_000;
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
        let work = Work::new(heard, seen);
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
    /// The pattern by which the line that was begun is looked at next.
    from: usize,
    complained: Option<Instant>,
    /// Bytes that were left out by then.
    complained_of: u64,
}

impl Work {
    fn new(orders: Receiver<Order>, seen: mpsc::Sender<Seen>) -> Work {
        Work {
            orders,
            seen,
            tail: Tail::new(),
            order: None,
            patterns: Vec::new(),
            found: BTreeMap::new(),
            files_at: None,
            from: 0,
            complained: None,
            complained_of: 0,
        }
    }

    fn run(mut self) {
        let mut next = Instant::now();
        loop {
            let left = next.saturating_duration_since(Instant::now());
            match self.orders.recv_timeout(left) {
                Ok(order) => {
                    self.take(order);
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let begun = Instant::now();
            self.lines();
            next = Instant::now() + pause(begun.elapsed());
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
            self.from = 0;
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
        let (patterns, found, rules, from) = (&self.patterns, &mut self.found, &order.rules, &mut self.from);
        let until = Instant::now() + BUDGET;
        let mut is_first = true;
        let mut complaints = self.tail.read(until, |origin, line| {
            let line = plain(&line[..line.floor_char_boundary(LINE_BYTES)]);
            for (at, (number, pattern)) in patterns.iter().enumerate().skip(*from) {
                let rule = &rules[*number];
                if !origin.apps().any(|app| rule.is_about(app)) {
                    continue;
                }
                // At least one each time, so that it goes on.
                if !std::mem::take(&mut is_first) && Instant::now() >= until {
                    *from = at;
                    return false;
                }
                if !pattern.is_match(&line) {
                    continue;
                }
                for app in origin.apps().filter(|app| rule.is_about(app)) {
                    note(found, *number, app, &line);
                }
            }
            *from = 0;
            true
        });
        let (left_out, of) = self.tail.left_out();
        if left_out > self.complained_of {
            let (of, left_out) = (of.display(), left_out >> 20);
            let text = format!(
                "logs are written to faster than they are looked through: {left_out} MiB were left out so far, of {of} last"
            );
            complaints.insert(0, text);
        }
        let is_time = self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY);
        if complaints.is_empty() || !is_time {
            return;
        }
        for complaint in complaints.iter().take(COMPLAINTS) {
            eprintln!("alerts: log-pattern: {complaint}");
        }
        self.complained = Some(Instant::now());
        self.complained_of = left_out;
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

/// After a look that took so long.
fn pause(used: Duration) -> Duration {
    used.saturating_mul(PAUSE).max(LINES_EVERY)
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

#[cfg(test)]
mod tests {
    use super::super::readings::NOWHERE;
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
    fn looks_take_a_tenth_of_the_time() {
        for (used, expected) in [(0, 250), (20, 250), (100, 900), (5_000, 45_000)] {
            let used = Duration::from_millis(used);
            assert_eq!(pause(used), Duration::from_millis(expected));
        }
    }

    #[test]
    fn each_line_meets_each_pattern_once() {
        let directory = std::env::temp_dir().join(format!("rpm-looker-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let log = directory.join("api.log");
        let mut process = super::super::tests::process("api", 0, "online", 0, 0.0);
        process.out_log = log.display().to_string();
        process.err_log = NOWHERE.to_owned();
        let about = |pattern: &str| Rule {
            pattern: Some(pattern.to_owned()),
            ..rule(Trigger::LogPattern)
        };
        let (mut work, _orders, _seen) = work();
        // One look is not enough for these.
        let slow = format!("(x{{0,40}}){{0,8}}{}", "y");
        let rules = Arc::new(vec![about(&slow), about("^.[0-9]+.$"), about("x")]);
        work.take(Order {
            rules,
            processes: vec![process],
        });
        let x = "x".repeat(500);
        let lines: String = (0..40).map(|number| format!("{{{number}}}\n{{{x}}}\n")).collect();
        std::fs::write(&log, lines).expect("a log");
        let mut looks = 0;
        let counts = |work: &Work| {
            let counts = work.found.values().map(|found| (found.rule, found.count));
            counts.collect::<Vec<_>>()
        };
        while counts(&work) != [(1, 40), (2, 40)] && looks < 2_000 {
            work.lines();
            looks += 1;
        }
        work.lines();
        assert_eq!(counts(&work), [(1, 40), (2, 40)], "after {looks} looks");
        std::fs::remove_dir_all(&directory).expect("it is ours");
    }

    fn work() -> (Work, SyncSender<Order>, mpsc::Receiver<Seen>) {
        let (orders, heard) = sync_channel(1);
        let (told, seen) = mpsc::channel(1);
        (Work::new(heard, told), orders, seen)
    }
}
