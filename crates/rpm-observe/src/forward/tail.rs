//! Lines that apps write from now on, for those who look for something in them. Nothing is kept and nothing is read twice; the files are followed as
//! those that are sent on are.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rpm_wire::api::Process;

use super::assemble::Room;
use super::disk::{Disk as _, Machine};
use super::handles::Handles;
use super::log::{CHUNK, Log, Look};
use super::now_ns;
use super::record::About;
use super::sources::sources;

/// The most logs that are followed.
const LOGS: usize = 2_000;
/// What is read of one log before another has its turn.
const ROOM: Room = Room {
    records: 200,
    bytes: 64 * 1024,
};
/// What a log may have that was not read yet, in bytes. Of more the rest is left out: it would never be caught up with.
const BEHIND: u64 = 64 << 20;
/// What the clock of looks begins with, so that 0 is long ago.
const BEGINS_AT: Duration = Duration::from_secs(3_600);

/// Whose line it is: of each of these apps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a>(&'a About);

impl Origin<'_> {
    /// The apps that write to the log.
    pub(crate) fn apps(&self) -> impl Iterator<Item = &str> {
        let About { app, others, .. } = self.0;
        std::iter::once(app.as_str()).chain(others.iter().map(String::as_str))
    }
}

/// The logs of some apps, each from its end, or from the beginning of a file that was made later.
#[derive(Debug)]
pub(crate) struct Tail {
    disk: Machine,
    /// Logs whose files may not be there yet.
    wanted: BTreeMap<PathBuf, About>,
    logs: BTreeMap<PathBuf, Log<Machine>>,
    /// The log that had its turn last.
    turn: Option<PathBuf>,
    handles: Handles,
    /// Files that were made since are read from their beginning, in nanoseconds since 1970.
    since_ns: u64,
    clock: Instant,
    buffer: Vec<u8>,
}

impl Tail {
    pub(crate) fn new() -> Tail {
        Tail {
            disk: Machine::default(),
            wanted: BTreeMap::new(),
            logs: BTreeMap::new(),
            turn: None,
            handles: Handles::default(),
            since_ns: now_ns(),
            clock: Instant::now(),
            buffer: vec![0; CHUNK],
        }
    }

    /// Of logs that are not followed yet, what is there now is of no interest.
    pub(crate) fn begin(&mut self) {
        self.since_ns = now_ns();
    }

    /// Follows the logs of those of these apps that are wanted, and no others.
    pub(crate) fn follow(&mut self, processes: &[Process], is_wanted: impl Fn(&str) -> bool) {
        let mut known = sources(processes);
        self.disk
            .know(known.keys().cloned().collect::<BTreeSet<PathBuf>>());
        known.retain(|_, about| Origin(about).apps().any(&is_wanted));
        while known.len() > LOGS {
            known.pop_last();
        }
        self.logs.retain(|path, _| known.contains_key(path));
        for (path, log) in &mut self.logs {
            if let Some(about) = known.get(path).filter(|about| **about != *log.about) {
                log.about = Arc::new(about.clone());
            }
        }
        self.wanted = known;
    }

    /// Gives each new line to `each`, until there is none or the time is over, and says what somebody should know.
    pub(crate) fn read(&mut self, until: Instant, mut each: impl FnMut(Origin<'_>, &str)) -> Vec<String> {
        self.open();
        let (mut complaints, mut more) = (Vec::new(), true);
        while std::mem::take(&mut more) {
            for path in self.order() {
                if Instant::now() >= until {
                    self.skip(&mut complaints);
                    return complaints;
                }
                let Some(log) = self.logs.get_mut(&path) else {
                    continue;
                };
                let look = Look {
                    now_ns: now_ns(),
                    now_ms: u64::try_from((self.clock.elapsed() + BEGINS_AT).as_millis()).unwrap_or(u64::MAX),
                    begun_ns: self.since_ns,
                    room: ROOM,
                };
                match log.gather(&self.disk, look, &mut self.buffer) {
                    Ok(gathered) => {
                        more |= gathered.more;
                        for record in &gathered.records {
                            record
                                .text
                                .lines()
                                .for_each(|line| each(Origin(&record.about), line));
                        }
                        log.hold(&self.handles);
                    }
                    Err(error) => {
                        log.close();
                        if error.kind() != io::ErrorKind::NotFound {
                            complaints.push(format!("cannot read {}: {error}", path.display()));
                        }
                    }
                }
                self.turn = Some(path);
            }
        }
        complaints
    }

    /// Begins with logs whose files are there by now.
    fn open(&mut self) {
        for (path, about) in &self.wanted {
            if self.logs.contains_key(path) {
                continue;
            }
            let Ok(meta) = self.disk.look(path, !about.foreign) else {
                continue;
            };
            let at_end = meta.identity.born < self.since_ns;
            let log = Log::new(path.clone(), Arc::new(about.clone()), None, at_end);
            self.logs.insert(path.clone(), log);
        }
    }

    /// Leaves out what cannot be caught up with.
    fn skip(&mut self, complaints: &mut Vec<String>) {
        for (path, log) in &mut self.logs {
            // What was read counts, not what a receiver has taken.
            if let Some(cursor) = log.cursor() {
                log.ack(cursor);
            }
            let behind = log.behind(&self.disk);
            if behind > BEHIND {
                complaints.push(format!(
                    "{} is written to faster than it is looked through; {} MiB were left out",
                    path.display(),
                    behind >> 20
                ));
                *log = Log::new(path.clone(), Arc::clone(&log.about), None, true);
            }
        }
    }

    /// The logs, beginning behind the one that had its turn last.
    fn order(&self) -> Vec<PathBuf> {
        let is_after = |path: &&PathBuf| self.turn.as_ref().is_none_or(|last| *path > last);
        let (mut order, before): (Vec<&PathBuf>, Vec<&PathBuf>) = self.logs.keys().partition(is_after);
        order.extend(before);
        order.into_iter().cloned().collect()
    }
}
