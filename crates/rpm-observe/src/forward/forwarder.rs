//! What one destination gets: logs are read into batches, a batch is sent until it is settled, and then the positions move on. It has a disk, but
//! neither clock nor network: time and answers come in, requests go out.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rpm_wire::forward::Destination;

use super::batch::{BATCH_RECORDS, Batch};
use super::book::{Book, Entry, address};
use super::counts::Count;
use super::delivery::{Delivery, Outcome, Part, Pause};
use super::disk::Disk;
use super::handles::Handles;
use super::log::{CHUNK, Log, Look, Rest};
use super::pace::{Backoff, Pace};
use super::record::{About, Record};

/// A batch waits no longer than this for more records, in milliseconds.
const LINGER_MS: u64 = 500;
/// Between two looks at the files, in milliseconds.
const TICK_MS: u64 = 250;
/// Between two writes of the positions, in milliseconds. What was sent since is sent again after a crash.
const SAVE_MS: u64 = 1_000;
/// Between two looks at what is behind, in milliseconds.
const MEASURE_MS: u64 = 1_000;
/// Logs that are looked at each time: it takes a list of a directory for each that was rotated.
const MEASURED: usize = 200;
/// Between two complaints, in milliseconds.
const COMPLAIN_MS: u64 = 30_000;
/// The most complaints at a time.
const COMPLAINTS: usize = 20;
/// The most logs of a destination.
const LOGS: usize = 10_000;
/// The most rounds over all logs before something else has its turn.
const ROUNDS: usize = 64;

/// Between the parts of a batch that was refused, in milliseconds: a wrong address is not asked as fast as it answers.
const SPLIT_MS: u64 = 100;

/// The time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// In nanoseconds since 1970. It may be set back, so no wait is measured by it.
    pub ns: u64,
    /// In milliseconds, on a clock that is never set. It does not begin at 0.
    pub ms: u64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Send [`Forwarder::part`], and say what became of it.
    Send,
    /// Nothing for so many milliseconds.
    Wait(u64),
}

/// Forwards logs to one destination.
#[derive(Debug)]
pub(super) struct Forwarder<D: Disk> {
    destination: Destination,
    disk: D,
    begun_ns: u64,
    /// No list of logs was seen yet, and there are no positions.
    is_new: bool,
    /// When it was known last which logs there are, and of which apps they were sent.
    listed_ns: u64,
    listed_apps: Vec<String>,
    /// The logs that there are; `None` before that was known.
    known: Option<BTreeSet<PathBuf>>,
    logs: BTreeMap<PathBuf, Log<D>>,
    /// Logs of apps that are not sent at present.
    others: BTreeMap<PathBuf, Entry>,
    /// The log that had its turn last.
    turn: Option<PathBuf>,
    handles: Handles,
    /// Bytes that are behind, by log, and the log that was measured last.
    behind: BTreeMap<PathBuf, u64>,
    measured: Option<PathBuf>,
    batch: Batch,
    delivery: Option<Delivery>,
    /// Our own line, which is sent when the receiver refuses others.
    own: Option<Record>,
    backoff: Backoff,
    pace: Pace,
    /// This address has taken something.
    is_proven: bool,
    until_ms: u64,
    dirty: bool,
    saved_ms: u64,
    measured_ms: u64,
    complained_ms: u64,
    complaints: BTreeSet<String>,
    count: Arc<Count>,
    buffer: Vec<u8>,
}

impl<D: Disk> Forwarder<D> {
    /// Goes on where the book says. Without one it begins with what was written since `begun_ns`, in nanoseconds since 1970.
    pub(super) fn new(
        destination: Destination,
        disk: D,
        book: Option<Book>,
        count: Arc<Count>,
        handles: Handles,
        begun_ns: u64,
    ) -> Forwarder<D> {
        let is_new = book.is_none();
        let book = book.unwrap_or_else(|| Book::new(begun_ns));
        let is_ours = |(_, entry): &(PathBuf, Entry)| destination.is_about(&entry.about.app);
        let (ours, others): (Vec<_>, Vec<_>) = book.logs.into_iter().partition(is_ours);
        let log = |(path, mut entry): (PathBuf, Entry)| {
            entry.begun_ns = entry.begun_ns.max(book.begun_ns);
            (path.clone(), Log::new(path, entry))
        };
        Forwarder {
            logs: ours.into_iter().map(log).collect(),
            others: others.into_iter().collect(),
            is_proven: book.proven == Some(address(&destination.to)),
            destination,
            disk,
            begun_ns: book.begun_ns,
            is_new,
            listed_ns: book.listed_ns.max(book.begun_ns),
            listed_apps: book.apps,
            known: None,
            turn: None,
            handles,
            behind: BTreeMap::new(),
            measured: None,
            batch: Batch::default(),
            delivery: None,
            own: None,
            backoff: Backoff::default(),
            pace: Pace::new(BATCH_RECORDS),
            until_ms: 0,
            dirty: true,
            saved_ms: 0,
            measured_ms: 0,
            complained_ms: 0,
            complaints: BTreeSet::new(),
            count,
            buffer: vec![0; CHUNK],
        }
    }

    /// The logs that there are. One of an app that is gone is read to its end, and its position is kept as long as its files.
    pub(super) fn set_logs(&mut self, known: &BTreeMap<PathBuf, About>, now: Now) {
        self.disk.know(known.keys().cloned().collect());
        self.known = Some(known.keys().cloned().collect());
        self.forget(now.ms);
        let disk = &self.disk;
        let has_file = |path: &Path, entry: &Entry| disk.look(path, !entry.about.foreign).is_ok();
        self.others
            .retain(|path, entry| known.contains_key(path) || has_file(path, entry));
        let room = LOGS.saturating_sub(self.logs.len());
        let ours = |(path, about): (&PathBuf, &About)| Some((path.clone(), about.of(&self.destination)?));
        let ours: Vec<(PathBuf, About)> = known.iter().filter_map(ours).collect();
        let is_new = |(path, _): &&(PathBuf, About)| !self.logs.contains_key(path);
        let new = ours.iter().filter(is_new).count();
        if new > room {
            self.complain(format!(
                "there are more than {LOGS} logs; the others are not forwarded"
            ));
        }
        for (path, about) in ours {
            let is_full = self.logs.len() >= LOGS;
            match self.logs.get_mut(&path) {
                Some(log) if *log.about == about => {}
                Some(log) => log.about = Arc::new(about),
                None if is_full => {}
                None => {
                    let entry = self.entry(&path, about, now.ns);
                    self.logs.insert(path.clone(), Log::new(path, entry));
                }
            }
        }
        self.is_new = false;
        self.listed_ns = now.ns;
        self.listed_apps.clone_from(&self.destination.apps);
        self.dirty = true;
    }

    /// Of a log that is new here. It may have been sent before the apps were chosen anew. One that there was not when it was looked last is sent from its
    /// first file; one of an app that was not sent then, from its present file.
    fn entry(&mut self, path: &Path, about: About, now_ns: u64) -> Entry {
        if let Some(entry) = self.others.remove(path) {
            return Entry { about, ..entry };
        }
        let before = Destination {
            apps: self.listed_apps.clone(),
            ..self.destination.clone()
        };
        let begun_ns = match (self.is_new, about.of(&before)) {
            (true, _) => self.begun_ns,
            (false, Some(_)) => self.listed_ns,
            (false, None) => now_ns,
        };
        Entry {
            about,
            position: None,
            begun_ns,
            at_end: self.is_new && self.destination.from_end,
        }
    }

    /// Lets go of logs whose apps are gone, when nothing is left of them.
    fn forget(&mut self, now_ms: u64) {
        let Some(known) = &self.known else {
            return;
        };
        let gone = |path: &&PathBuf| !known.contains(*path);
        let rest = |path: &PathBuf| self.logs.get(path).map(|log| log.rest(&self.disk, now_ms));
        let ended = self.logs.keys().filter(gone);
        let ended = ended.filter_map(|path| Some((path.clone(), rest(path)?)));
        let ended: Vec<_> = ended.filter(|(_, rest)| *rest != Rest::Something).collect();
        for (path, rest) in ended {
            self.logs.remove(&path);
            self.dirty = true;
            if rest == Rest::Lost {
                self.gap(&path);
            }
        }
    }

    fn gap(&mut self, path: &Path) {
        self.complain(format!(
            "{}: a file was removed or emptied before its end was sent; lines may be missing",
            path.display()
        ));
        self.count.add_gap();
    }

    /// What is to be done now.
    pub(super) fn step(&mut self, now: Now) -> Next {
        let now_ms = now.ms;
        self.measure(now_ms);
        if self.delivery.is_some() {
            self.find();
            return match self.until_ms > now_ms {
                true => Next::Wait(self.until_ms - now_ms),
                false => Next::Send,
            };
        }
        self.fill(now);
        if self.batch.records.is_empty() {
            self.commit();
            return Next::Wait(TICK_MS);
        }
        let age = now_ms.saturating_sub(self.batch.since_ms);
        if !self.batch.is_full() && age < LINGER_MS {
            return Next::Wait(TICK_MS.min(LINGER_MS - age));
        }
        let sizes = self.batch.sizes().to_vec();
        self.delivery = Some(Delivery::new(sizes, self.pace, self.is_proven));
        Next::Send
    }

    /// The records that are to be sent.
    pub(super) fn part(&self) -> Vec<&Record> {
        match self.delivery.as_ref().and_then(Delivery::part) {
            None => Vec::new(),
            Some(Part::Own) => self.own.iter().collect(),
            Some(Part::Records(part)) => {
                let records = part.iter().filter_map(|number| self.batch.records.get(*number));
                records.collect()
            }
        }
    }

    /// What became of them. `dice` is a random number between 0 and 1.
    pub(super) fn answered(&mut self, outcome: Outcome, now: Now, dice: f64) {
        let Some(delivery) = &mut self.delivery else {
            return;
        };
        let settled = delivery.answered(outcome);
        let (part, is_proven) = (delivery.part(), delivery.is_proven());
        let is_done = part.is_none();
        self.own = (part == Some(Part::Own)).then(|| Record::own(now.ns));
        let (taken, refused) = (
            self.batch.lines(&settled.taken),
            self.batch.lines(&settled.refused),
        );
        let has_failed = matches!(settled.pause, Some(Pause::Failed(_)));
        self.count.add(taken, refused, has_failed);
        let has_passed = is_proven && !self.is_proven;
        let wall_ms = now.ns / 1_000_000;
        if taken > 0 || has_passed {
            self.backoff.reset();
            self.count.standing.took(taken, wall_ms);
        }
        self.dirty |= has_passed;
        self.is_proven |= is_proven;
        self.pace = delivery.pace();
        let pause = match settled.pause {
            None => 0,
            Some(Pause::Split) => SPLIT_MS,
            Some(Pause::Failed(asked)) => {
                u64::try_from(self.backoff.pause(asked, dice).as_millis()).unwrap_or(u64::MAX)
            }
        };
        self.until_ms = now.ms.saturating_add(pause);
        match settled.why {
            Some(why) if has_failed => {
                let again = wall_ms.saturating_add(pause);
                self.count.standing.failed(&why, wall_ms, again);
                self.complain(format!("{why}; tried again"));
            }
            Some(why) if refused > 0 => {
                self.count.standing.gave_up(refused, &why, wall_ms);
                self.complain(format!("{why}; refused lines are given up"));
            }
            _ => {}
        }
        if is_done {
            self.delivery = None;
            self.commit();
        }
    }

    /// The positions as they are stored, if it is time to store them; `now`: if anything is new.
    pub(super) fn book(&mut self, now_ms: u64, now: bool) -> Option<Book> {
        let is_time = now || self.saved_ms == 0 || now_ms.abs_diff(self.saved_ms) >= SAVE_MS;
        // Before it is known which logs there are, a book would say that there are none.
        if !self.dirty || !is_time || self.is_new {
            return None;
        }
        self.dirty = false;
        self.saved_ms = now_ms;
        let ours = self.logs.iter().map(|(path, log)| (path.clone(), log.entry()));
        let others = self
            .others
            .iter()
            .map(|(path, entry)| (path.clone(), entry.clone()));
        Some(Book {
            begun_ns: self.begun_ns,
            listed_ns: self.listed_ns,
            apps: self.listed_apps.clone(),
            proven: self.is_proven.then(|| address(&self.destination.to)),
            logs: others.chain(ours).collect(),
        })
    }

    /// The positions could not be stored.
    pub(super) fn not_saved(&mut self, error: &io::Error) {
        self.dirty = true;
        self.complain(format!(
            "the positions cannot be stored: {error}; after a restart lines are sent again"
        ));
    }

    /// What somebody should know, once in a while.
    pub(super) fn complaints(&mut self, now_ms: u64) -> Vec<String> {
        if self.complaints.is_empty() || now_ms.abs_diff(self.complained_ms) < COMPLAIN_MS {
            return Vec::new();
        }
        self.complained_ms = now_ms;
        std::mem::take(&mut self.complaints).into_iter().collect()
    }

    fn complain(&mut self, what: String) {
        if self.complaints.len() < COMPLAINTS {
            self.complaints.insert(what);
        }
    }

    /// Everything in the batch is settled.
    fn commit(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        for (path, position) in batch.ends {
            if let Some(log) = self.logs.get_mut(&path)
                && log.acked() != Some(position)
            {
                log.ack(position);
                self.dirty = true;
            }
        }
    }

    /// Reads until the batch is full or there is nothing more now. Each log has its turn, so that one that is written to without an end holds up no
    /// other.
    fn fill(&mut self, now: Now) {
        for _ in 0..ROUNDS {
            let mut more = false;
            for path in order(&self.logs, self.turn.as_ref()) {
                if self.batch.is_full() {
                    return;
                }
                more |= self.read(&path, now);
                self.turn = Some(path);
            }
            if !more {
                return;
            }
        }
    }

    /// Reads one log; true if there is more.
    fn read(&mut self, path: &Path, now: Now) -> bool {
        // What is not proven to take anything is shown something of every log.
        let logs = if self.is_proven { 1 } else { self.logs.len() };
        let Some(room) = self.batch.room(path, logs) else {
            return false;
        };
        let Some(log) = self.logs.get_mut(path) else {
            return false;
        };
        let look = Look {
            now_ns: now.ns,
            now_ms: now.ms,
            room,
        };
        let (acked, cursor) = (log.acked(), log.cursor());
        let gathered = match log.gather(&self.disk, look, &mut self.buffer) {
            Ok(gathered) => gathered,
            Err(error) => {
                log.close();
                if error.kind() != io::ErrorKind::NotFound {
                    self.complain(format!("cannot read {}: {error}", path.display()));
                }
                return false;
            }
        };
        log.hold(&self.handles);
        self.dirty |= log.acked() != acked;
        if let Some(position) = log.cursor().filter(|position| cursor != Some(*position)) {
            self.batch.ends.insert(path.to_owned(), position);
        }
        if gathered.gap {
            self.gap(path);
        }
        if gathered.restarted {
            self.complain(format!(
                "{} was emptied, and is sent from its beginning",
                path.display()
            ));
        }
        if self.batch.records.is_empty() {
            self.batch.since_ms = now.ms;
        }
        let to = &self.destination.to;
        self.batch.add(path, gathered.records, |record| record.size(to));
        gathered.more
    }

    /// While nothing is taken, logs that are new are at least known: what is removed then is a gap.
    fn find(&mut self) {
        let mut found = false;
        for log in self.logs.values_mut().filter(|log| log.cursor().is_none()) {
            // What cannot be read now is read later, or somebody is told then.
            if log.find(&self.disk).unwrap_or(false) {
                self.count.add_gap();
            }
            found |= log.cursor().is_some();
        }
        self.dirty |= found;
    }

    fn measure(&mut self, now_ms: u64) {
        if now_ms.abs_diff(self.measured_ms) < MEASURE_MS {
            return;
        }
        self.measured_ms = now_ms;
        self.forget(now_ms);
        let logs = &self.logs;
        self.behind.retain(|path, _| logs.contains_key(path));
        let order = order(logs, self.measured.as_ref());
        for path in order.into_iter().take(MEASURED) {
            if let Some(log) = self.logs.get(&path) {
                self.behind.insert(path.clone(), log.behind(&self.disk));
            }
            self.measured = Some(path);
        }
        self.count.set_behind(self.behind.values().sum());
    }
}

/// The logs, beginning behind this one.
fn order<L>(logs: &BTreeMap<PathBuf, L>, last: Option<&PathBuf>) -> Vec<PathBuf> {
    let is_after = |path: &&PathBuf| last.is_none_or(|last| *path > last);
    let (mut order, before): (Vec<&PathBuf>, Vec<&PathBuf>) = logs.keys().partition(is_after);
    order.extend(before);
    order.into_iter().cloned().collect()
}
