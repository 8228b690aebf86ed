//! Lines that apps write from now on, for those who look for something in them. Nothing is kept and nothing is read twice; the files are followed as
//! those that are sent on are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, io};

use rpm_wire::api::Process;

use super::assemble::Room;
use super::book::Entry;
use super::disk::{Disk as _, Machine, Meta};
use super::handles::Handles;
use super::log::{CHUNK, Log, Look};
use super::now_ns;
use super::position::Position;
use super::prints::moved;
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
/// The most files whose length is noted when a look begins.
const NOTED: usize = 50_000;
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

/// The files there were, with their lengths, in the directories that had logs when a look began. What they have got since is new, whenever it
/// becomes known that one of them is a log.
#[derive(Debug, Default)]
struct Before {
    directories: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, Meta>,
}

impl Before {
    fn of(logs: &BTreeMap<PathBuf, About>, disk: &Machine) -> Before {
        let mut before = Before::default();
        let directories: BTreeSet<&Path> = logs.keys().filter_map(|log| log.parent()).collect();
        for directory in directories {
            let entries = match fs::read_dir(directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    before.directories.insert(directory.to_owned());
                    continue;
                }
                Err(_) => continue,
            };
            for entry in entries.flatten() {
                if before.files.len() >= NOTED {
                    return before;
                }
                let path = entry.path();
                if let Ok(meta) = disk.look(&path, true) {
                    before.files.insert(path, meta);
                }
            }
            before.directories.insert(directory.to_owned());
        }
        before
    }

    /// Whether there was such a file; `None` if nobody has looked.
    fn knows(&self, path: &Path) -> Option<Option<&Meta>> {
        let directory = path.parent()?;
        self.directories.contains(directory).then(|| self.files.get(path))
    }
}

/// The logs of some apps, each from where it ended when the look began, or from the beginning of a file that was made later.
#[derive(Debug)]
pub(crate) struct Tail {
    disk: Machine,
    /// Logs whose files may not be there yet.
    wanted: BTreeMap<PathBuf, About>,
    logs: BTreeMap<PathBuf, Log<Machine>>,
    /// How far those were read that are not followed any more: an app may be away for a moment.
    let_go: BTreeMap<PathBuf, Position>,
    /// What there was when the look began; `None` before the logs are known.
    before: Option<Before>,
    /// Lines that were read and nobody has looked at yet.
    lines: VecDeque<(Arc<About>, String)>,
    /// Bytes that were left out in all, and of which log last.
    left_out: (u64, PathBuf),
    /// Logs that there are besides those that are followed.
    beyond: usize,
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
            let_go: BTreeMap::new(),
            before: None,
            lines: VecDeque::new(),
            left_out: (0, PathBuf::new()),
            beyond: 0,
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
        self.before = None;
        self.let_go.clear();
    }

    /// How many bytes were left out in all, because they were written faster than they were looked at, and of which log last.
    pub(crate) fn left_out(&self) -> (u64, &Path) {
        (self.left_out.0, &self.left_out.1)
    }

    /// Follows the logs of those of these apps that are wanted, and no others.
    pub(crate) fn follow(&mut self, processes: &[Process], is_wanted: impl Fn(&str) -> bool) {
        let mut known = sources(processes);
        self.disk
            .know(known.keys().cloned().collect::<BTreeSet<PathBuf>>());
        self.before.get_or_insert_with(|| Before::of(&known, &self.disk));
        known.retain(|_, about| Origin(about).apps().any(&is_wanted));
        self.beyond = known.len().saturating_sub(LOGS);
        while known.len() > LOGS {
            known.pop_last();
        }
        let let_go = self.logs.extract_if(.., |path, _| !known.contains_key(path));
        let let_go = let_go.filter_map(|(path, log)| Some((path, log.cursor()?)));
        self.let_go.extend(let_go);
        while self.let_go.len() > LOGS {
            self.let_go.pop_first();
        }
        for (path, log) in &mut self.logs {
            if let Some(about) = known.get(path).filter(|about| **about != *log.about) {
                log.about = Arc::new(about.clone());
            }
        }
        self.wanted = known;
    }

    /// Gives each new line to `each`, until there is none or the time is over, and says what somebody should know. If `each` says false, it is
    /// not done with the line, and gets it again the next time; no more is read before.
    pub(crate) fn read(
        &mut self,
        until: Instant,
        mut each: impl FnMut(Origin<'_>, &str) -> bool,
    ) -> Vec<String> {
        self.open();
        let (mut complaints, mut more, mut is_first) = (Vec::new(), true, true);
        if self.beyond > 0 {
            let beyond = self.beyond;
            complaints.push(format!(
                "{beyond} logs are not looked at: there are more than {LOGS}"
            ));
        }
        while std::mem::take(&mut more) {
            for path in self.order() {
                // However slow the machine is, it goes on.
                if !self.hand_over(&mut each) || (Instant::now() >= until && !is_first) {
                    self.skip();
                    return complaints;
                }
                is_first = false;
                let Some(log) = self.logs.get_mut(&path) else {
                    continue;
                };
                let look = Look {
                    now_ns: now_ns(),
                    now_ms: u64::try_from((self.clock.elapsed() + BEGINS_AT).as_millis()).unwrap_or(u64::MAX),
                    room: ROOM,
                };
                match log.gather(&self.disk, look, &mut self.buffer) {
                    Ok(gathered) => {
                        more |= gathered.more;
                        for record in &gathered.records {
                            let lines = own(&record.text, record.about.dated).lines();
                            let lines = lines.map(|line| (Arc::clone(&record.about), line.to_owned()));
                            self.lines.extend(lines);
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
        if !self.hand_over(&mut each) {
            self.skip();
        }
        complaints
    }

    /// False if not all was looked at.
    fn hand_over(&mut self, each: &mut impl FnMut(Origin<'_>, &str) -> bool) -> bool {
        while let Some((about, line)) = self.lines.front() {
            if !each(Origin(about), line) {
                return false;
            }
            self.lines.pop_front();
        }
        true
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
            let before = self.before.as_ref().and_then(|before| before.knows(path));
            let (position, at_end) = match (self.let_go.remove(path), before) {
                (Some(position), _) => (Some(position), false),
                (None, Some(Some(before))) => (Some(self.behind(path, about, before)), false),
                (None, Some(None)) => (None, false),
                (None, None) => (None, meta.identity.born < self.since_ns),
            };
            let entry = Entry {
                about: about.clone(),
                position,
                begun_ns: self.since_ns,
                at_end,
            };
            let mut log = Log::new(path.clone(), entry);
            // Where it begins is decided now, though it may be read later. If that fails, reading says why.
            let _ = log.find(&self.disk);
            self.logs.insert(path.clone(), log);
        }
    }

    /// The place behind what a file had. By its bytes it is known later, if it has its name still.
    fn behind(&self, path: &Path, about: &About, before: &Meta) -> Position {
        let start = Position::start(before.identity, before.written_ns, 0);
        let printed = || -> io::Result<Option<Position>> {
            let file = self.disk.open(path, !about.foreign)?;
            let meta = self.disk.meta(&file)?;
            if !meta.identity.is(&before.identity) || meta.len < before.len {
                return Ok(None);
            }
            moved(&self.disk, &file, &start, before.len, before).map(Some)
        };
        let offset = before.len;
        printed().ok().flatten().unwrap_or(Position { offset, ..start })
    }

    /// Leaves out what cannot be caught up with.
    fn skip(&mut self) {
        for (path, log) in &mut self.logs {
            // What was read counts, not what a receiver has taken.
            if let Some(cursor) = log.cursor() {
                log.ack(cursor);
            }
            let behind = log.behind(&self.disk);
            if behind > BEHIND {
                self.left_out = (self.left_out.0 + behind, path.clone());
                let entry = Entry {
                    position: None,
                    at_end: true,
                    ..log.entry()
                };
                *log = Log::new(path.clone(), entry);
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

/// What the app has written of a record: without the time that the daemon puts before its first line.
fn own(text: &str, dated: bool) -> &str {
    match text.split_once(": ").filter(|_| dated) {
        Some((time, own)) if !time.contains('\n') => own,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use serde_json::json;

    use super::*;

    fn process(directory: &Path, app: &str) -> Process {
        let out = directory.join(format!("{app}.log"));
        let value = json!({
            "id": 0, "name": app, "instance": 0, "generation": 1, "exec_mode": "cluster", "plane": "direct", "status": "online", "pid": null,
            "uptime_ms": null, "started_at_ms": 0, "created_at_ms": 0, "restarts": 0, "unstable_restarts": 0, "cpu_percent": 0.0, "memory_bytes": 0,
            "connections": null, "exit_code": null, "out_log": out, "err_log": "/dev/null",
        });
        serde_json::from_value(value).expect("a process")
    }

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Place {
            let directory = std::env::temp_dir().join(format!("rpm-tail-{name}-{}", std::process::id()));
            fs::create_dir_all(&directory).expect("a directory");
            Place(directory)
        }

        /// An object in a line is whole at once.
        fn write(&self, app: &str, numbers: std::ops::Range<u32>) {
            let path = self.0.join(format!("{app}.log"));
            let mut file = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .expect("a log");
            for number in numbers {
                writeln!(file, "{{{number}}}").expect("it is written");
            }
        }

        fn follow(&self, tail: &mut Tail, apps: &[&str]) {
            let processes: Vec<Process> = apps.iter().map(|app| process(&self.0, app)).collect();
            tail.follow(&processes, |app| app != "other");
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn all(tail: &mut Tail) -> Vec<String> {
        let mut lines = Vec::new();
        let complaints = tail.read(Instant::now() + Duration::from_secs(60), |_, line| {
            lines.push(line.to_owned());
            true
        });
        assert_eq!(complaints, Vec::<String>::new());
        lines
    }

    fn numbers(numbers: std::ops::Range<u32>) -> Vec<String> {
        numbers.map(|number| format!("{{{number}}}")).collect()
    }

    #[test]
    fn what_was_read_is_looked_at_however_little_time_there_is() {
        let (place, mut tail) = (Place::new("time"), Tail::new());
        place.follow(&mut tail, &["api"]);
        place.write("api", 0..1_000);
        let (mut lines, mut is_done) = (Vec::new(), false);
        for _ in 0..5_000 {
            let mut left = 1;
            tail.read(Instant::now(), |_, line| {
                // Every other time nobody is done with it.
                is_done = !is_done;
                left -= 1;
                if is_done && left >= 0 {
                    lines.push(line.to_owned());
                }
                is_done && left >= 0
            });
        }
        assert_eq!(lines, numbers(0..1_000));
        assert_eq!(tail.left_out().0, 0);
    }

    #[test]
    fn a_log_is_new_from_where_it_was_when_the_look_began() {
        let (place, mut tail) = (Place::new("new"), Tail::new());
        for app in ["api", "late", "other", "turned"] {
            place.write(app, 0..3);
        }
        place.follow(&mut tail, &["other", "api"]);
        assert_eq!(all(&mut tail), numbers(0..0));
        // Apps that are started over the logs of before, one of them through a rotation, and one that has had none.
        place.write("late", 3..5);
        place.write("turned", 5..6);
        fs::rename(place.0.join("turned.log"), place.0.join("turned.log.1")).expect("it is rotated");
        place.write("turned", 6..7);
        place.write("young", 7..9);
        place.follow(&mut tail, &["other", "api", "late", "turned", "young"]);
        let mut lines = all(&mut tail);
        lines.sort_unstable();
        assert_eq!(lines, numbers(3..9));
        // An app is away for a moment.
        place.follow(&mut tail, &["other", "api"]);
        place.write("young", 9..10);
        fs::rename(place.0.join("young.log"), place.0.join("young.log.1")).expect("it is rotated");
        place.write("young", 10..11);
        place.follow(&mut tail, &["other", "api", "young"]);
        assert_eq!(all(&mut tail), ["{9}", "{10}"]);
        // Other rules: what there is by then is of no interest.
        place.write("late", 11..12);
        tail.begin();
        place.follow(&mut tail, &["other", "late"]);
        place.write("late", 12..13);
        assert_eq!(all(&mut tail), ["{12}"]);
    }

    #[test]
    fn an_anchor_finds_the_beginning_of_what_the_app_wrote() {
        for (text, dated, expected) in [
            ("2026-03-05T14:07:09: FATAL: a", true, "FATAL: a"),
            (
                "2026-03-05T14:07:09: FATAL: a\n    at f: g",
                true,
                "FATAL: a\n    at f: g",
            ),
            ("FATAL: a", false, "FATAL: a"),
            ("no time\nb: c", true, "no time\nb: c"),
        ] {
            assert_eq!(own(text, dated), expected, "{text:?}");
        }
    }
}
