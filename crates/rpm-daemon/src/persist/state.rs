//! What the daemon must know if it dies and another one goes on: one file, written before the act.
//!
//! The workers run on without a daemon, and the keeper holds everything that one would need: their listening sockets, the daemon's
//! end of their channel, the read ends of their log pipes. The file says what is what.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use rpm_core::{AppId, Core, InstanceId, Tick, WorkerId};
use rpm_keeper::Keeper;
use rpm_listen::Listeners;
use rpm_sys::{survive, tree};
use rpm_wire::api::ApiError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::{debug, error, warn};

use crate::apps::app::{App, Apps};
use crate::failure::failure;
use crate::home::Home;
use crate::os::pace::pause;
use crate::os::reserve;
use crate::persist::journal::Journal;
use crate::persist::takeover::is_client;
use crate::workers::worker::{Life, Logs, Tokens, Worker, Workers};

/// Of the file. Another one is not read.
const FORMAT: u32 = 3;
/// What changes nothing but figures is written this much later, together with what else happens until then.
const WRITE_EVERY: Duration = Duration::from_millis(20);
/// So many times what the last write took goes by before it: of the time a tenth goes into writing, at most, however much there is.
const PAUSE_SHARE: u32 = 9;
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The same before what must be written before it is done, and waits for that.
const REST_SHARE: u32 = 2;
const LONGEST_REST: Duration = Duration::from_millis(100);
/// As [`WRITE_EVERY`] while it cannot be written.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// What was written so long ago says that it can be written now.
const PROVED_FOR: Duration = Duration::from_secs(1);
/// With no more workers than these it is written before one is started and as soon as one is ready: the next daemon ends a worker that it does
/// not know, or believes to wait for an answer. With hundreds that takes long: one that has no clients yet is not written, and what happens to them within [`WRITE_EVERY`] is written together,
/// and what must be written before it is done waits for a while, [`REST_SHARE`], for more of it.
const FEW: usize = 128;

/// For the keeper to have what it is to keep: it has it at once, unless hundreds of workers start.
const KEPT_WITHIN: Duration = Duration::from_millis(50);

/// The files.
const STATE: &str = "state.json";
const APPS: &str = "apps.json";

/// Written at a time.
const WRITE_BYTES: usize = 32 * 1024;

/// The whole state, without what apps are started from: that is much, changes rarely, and has a file of its own.
#[derive(Serialize, Deserialize)]
pub(crate) struct Stored<C = Core> {
    format: u32,
    /// Of the daemon that wrote it.
    version: String,
    boot_id: String,
    /// What the monotonic clock said at tick 0.
    pub(crate) origin: Duration,
    pub(crate) core: C,
    #[serde(skip)]
    pub(crate) apps: BTreeMap<AppId, App>,
    pub(crate) workers: Vec<StoredWorker>,
    pub(crate) listeners: rpm_listen::Stored,
    pub(crate) next_app: u32,
    pub(crate) next_ticket: u64,
    pub(crate) rescues: u64,
}

/// A worker that has a process.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredWorker {
    pub(crate) id: WorkerId,
    pub(crate) app: AppId,
    pub(crate) instance: InstanceId,
    pub(crate) pid: u32,
    /// With the pid it names the process.
    pub(crate) start_ticks: u64,
    pub(crate) started_at_ms: u64,
    pub(crate) ending: bool,
    #[serde(default = "yes")]
    pub(crate) agent_seen: bool,
    pub(crate) token: String,
    pub(crate) logs: Logs,
    pub(crate) tokens: Tokens,
    /// It is to be replaced: much that it needs is gone.
    pub(crate) bereft: bool,
    /// Its processes that have called `listen`.
    #[serde(default)]
    pub(crate) listeners: BTreeSet<u32>,
}

/// Of the daemon before this was written.
fn yes() -> bool {
    true
}

/// Whether what is known is also written.
pub(crate) struct Store {
    changed: bool,
    written: Option<Instant>,
    /// How long that took.
    took: Duration,
    /// Why it could not be written the last time.
    failed: Option<String>,
    boot_id: String,
    /// Workers that were asked to end, before the state says so; none if there is no room for the file.
    asked: Option<Journal>,
}

impl Store {
    pub(crate) fn new(home: &Home) -> Store {
        let asked = Journal::open(&home.asked());
        let warned = asked.inspect_err(|error| {
            warn!(%error, "if this daemon dies now, the next one may signal a worker a second time");
        });
        Store {
            asked: warned.ok(),
            changed: false,
            written: None,
            took: Duration::ZERO,
            failed: None,
            // Without it the file is never read, which is right.
            boot_id: survive::boot_id().unwrap_or_default(),
        }
    }

    pub(crate) fn changed(&mut self) {
        self.changed = true;
    }

    /// This process of a worker was asked to end a moment ago.
    pub(crate) fn note_asked(&mut self, worker: WorkerId, start_ticks: u64) {
        self.changed = true;
        if let Some(Err(error)) = self.asked.as_ref().map(|it| it.note(worker, start_ticks)) {
            debug!(%worker, %error, "that it was asked to end is not noted");
        }
    }

    /// Was it, by this daemon or the one before?
    pub(crate) fn was_asked(&self, worker: WorkerId, start_ticks: u64) -> bool {
        let noted = self.asked.as_ref().and_then(|it| it.of(worker).ok());
        noted.is_some_and(|noted| noted.contains(&start_ticks))
    }

    /// When it is to be written at the latest.
    pub(crate) fn due(&self) -> Option<Instant> {
        let every = if self.failed.is_some() {
            TRY_EVERY
        } else {
            pause(self.took, PAUSE_SHARE, WRITE_EVERY..=LONGEST_PAUSE)
        };
        let due = self.written.map_or_else(Instant::now, |at| at + every);
        self.changed.then_some(due)
    }

    /// Until when nothing more is written, but to hurry: what must be written before it is done waits, so that it is written together.
    pub(crate) fn rests_until(&self) -> Option<Instant> {
        let until = self.written? + pause(self.took, REST_SHARE, Duration::ZERO..=LONGEST_REST);
        (until > Instant::now()).then_some(until)
    }

    /// What waits is written now.
    pub(crate) fn hurry(&mut self) {
        self.took = Duration::ZERO;
    }

    /// Is it known that the file can be written?
    fn is_proved(&self) -> bool {
        self.failed.is_none() && self.written.is_some_and(|at| at.elapsed() < PROVED_FOR)
    }
}

/// What is written, and who keeps what it names: lent by the supervisor.
pub(crate) struct Known<'a> {
    pub(crate) core: &'a Core,
    pub(crate) apps: &'a mut Apps,
    pub(crate) workers: &'a Workers,
    pub(crate) listeners: &'a Listeners,
    pub(crate) keeper: &'a Keeper,
    pub(crate) home: &'a Home,
    pub(crate) next_app: u32,
    pub(crate) next_ticket: u64,
    pub(crate) rescues: u64,
    pub(crate) now: Tick,
}

/// Is it written for each worker that is started and becomes ready?
pub(crate) fn stores_at_once(workers: &Workers) -> bool {
    workers.len() <= FEW
}

impl Store {
    /// Writes what has changed. `at_once`: something is about to be done that the next daemon must know of.
    pub(crate) fn write(&mut self, known: &mut Known<'_>, at_once: bool) {
        let due = self.due().is_some_and(|due| at_once || due <= Instant::now());
        if !due {
            return;
        }
        let began = Instant::now();
        // What the file names is in the keeper's hands.
        known.keeper.settle(KEPT_WITHIN);
        let written = reserve::with(|| self.write_state(known));
        self.changed = false;
        self.took = began.elapsed();
        self.written = Some(Instant::now());
        match written {
            Ok(()) => self.failed = None,
            Err(error) => {
                self.changed = true;
                if self.failed.replace(error.to_string()).is_none() {
                    error!(%error, "cannot write the state: if the daemon died now the next one would not know its workers");
                }
            }
        }
    }

    /// Can it be stored what is about to be started? A daemon that died would leave workers that nobody knows.
    ///
    /// # Errors
    /// No: why, and what to do.
    pub(crate) fn can_store(&mut self, known: &mut Known<'_>) -> Result<(), ApiError> {
        if !self.is_proved() {
            self.changed();
            self.write(known, true);
        }
        let Some(why) = &self.failed else {
            return Ok(());
        };
        let home = known.home.root().display();
        Err(failure(
            format!(
                "the daemon cannot write its state in {home}: {why}; if it died, it would lose what is started now"
            ),
            Some(
                "free space there, or make it writable; meanwhile apps can be stopped and deleted, and `rpm kill` works",
            ),
        ))
    }

    fn write_state(&self, known: &mut Known<'_>) -> io::Result<()> {
        // First: the state names apps and their revisions, and those that it does not name are of no account.
        if known.apps.have_changed() {
            write(known.home, APPS, &**known.apps)?;
            known.apps.written();
        }
        let stored = Stored {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: self.boot_id.clone(),
            origin: survive::monotonic().saturating_sub(known.now.0),
            core: known.core,
            apps: BTreeMap::new(),
            workers: known.workers.values().filter_map(stored).collect(),
            listeners: known.listeners.stored(),
            next_app: known.next_app,
            next_ticket: known.next_ticket,
            rescues: known.rescues,
        };
        write(known.home, STATE, &stored)
    }
}

fn write(home: &Home, name: &str, what: &impl Serialize) -> io::Result<()> {
    let new = home.root().join(format!("{name}.new"));
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    // Not as a whole in memory: with hundreds of apps it has megabytes.
    let mut file = BufWriter::with_capacity(WRITE_BYTES, Summed::new(file));
    serde_json::to_writer(&mut file, what)?;
    let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.finish()?;
    let path = home.root().join(name);
    match fs::rename(&path, home.root().join(old(name))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::rename(&new, path)
}

/// The file before the last one.
fn old(name: &str) -> String {
    format!("{name}.old")
}

/// Before the sum that ends a file.
const SUM: &[u8] = b"\n#";

/// A file that ends with a sum of what is in it.
struct Summed<W> {
    file: W,
    sum: u64,
}

impl<W: io::Write> Summed<W> {
    fn new(file: W) -> Summed<W> {
        Summed {
            file,
            sum: FNV_OFFSET,
        }
    }

    fn finish(mut self) -> io::Result<()> {
        self.file.write_all(SUM)?;
        writeln!(self.file, "{:016x}", self.sum)?;
        self.file.flush()
    }
}

impl<W: io::Write> io::Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.sum = sum(self.sum, &bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// FNV-1a: against damage, and not against anybody.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

fn sum(before: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(before, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(FNV_PRIME)
    })
}

/// What is in such a file. One of a daemon before this was written has no sum.
fn unsummed(text: &[u8]) -> Result<&[u8], Damage> {
    let Some(at) = text.windows(SUM.len()).rposition(|window| window == SUM) else {
        return Ok(text);
    };
    let (what, stated) = (&text[..at], &text[at + SUM.len()..]);
    let is_right = format!("{:016x}\n", sum(FNV_OFFSET, what)).as_bytes() == stated;
    is_right.then_some(what).ok_or(Damage::Sum)
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("cannot read it")]
    Io(#[from] io::Error),
    #[error("its sum is wrong")]
    Sum,
    #[error("it is malformed")]
    Json(#[from] serde_json::Error),
}

fn stored(worker: &Worker) -> Option<StoredWorker> {
    let Life::Running(process) = &worker.life else {
        return None;
    };
    Some(StoredWorker {
        id: worker.id,
        app: worker.app,
        instance: worker.instance,
        pid: process.pid,
        start_ticks: process.start_ticks,
        started_at_ms: process.started_at_ms,
        ending: process.ending,
        agent_seen: worker.agent_seen,
        token: worker.token.clone(),
        logs: worker.logs.clone(),
        tokens: process.tokens,
        bereft: process.bereft,
        listeners: worker.listeners.clone(),
    })
}

/// What the daemon before this one left; `None`: it left nothing, or nothing that is still true.
pub(crate) fn read(home: &Home) -> Option<Stored> {
    let mut stored: Stored = read_file(home, STATE)?;
    if stored.format != FORMAT {
        let (format, version) = (stored.format, stored.version);
        error!(
            format,
            version, "the state is of another version of the daemon; its workers are not known"
        );
        return None;
    }
    if Some(&stored.boot_id) != survive::boot_id().ok().as_ref() {
        warn!("the state is from before the last boot; its workers are gone");
        return None;
    }
    stored.apps = read_file(home, APPS)?;
    stored.apps.retain(|app, _| stored.core.app(*app).is_some());
    Some(stored)
}

/// The file, or, if it is damaged, the one before it.
fn read_file<T: DeserializeOwned>(home: &Home, name: &str) -> Option<T> {
    for name in [name, &old(name)] {
        match read_one(home, name) {
            Ok(Some(read)) => return Some(read),
            Ok(None) => {}
            Err(error) => {
                let error = crate::failure::chain(&error);
                error!(error, name, "the state of the daemon before is damaged");
            }
        }
    }
    None
}

fn read_one<T: DeserializeOwned>(home: &Home, name: &str) -> Result<Option<T>, Damage> {
    let text = match fs::read(home.root().join(name)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(serde_json::from_slice(unsummed(&text)?)?))
}

/// Processes of workers of this home, which nobody knows where there is no state to be read.
pub(crate) fn lost(home: &Home) -> Vec<u32> {
    let mut all = tree::marked(&format!("RPM_HOME={}", home.root().display()));
    let own = std::process::id();
    all.retain(|pid| *pid != own && tree::variable(*pid, "RPM_WORKER").is_some() && !is_client(*pid));
    all
}

/// The daemon ends, and its workers have done so.
pub(crate) fn forget(home: &Home) {
    let _ = fs::remove_file(home.asked());
    for name in [STATE, APPS] {
        let _ = fs::remove_file(home.root().join(name));
        let _ = fs::remove_file(home.root().join(old(name)));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const WHOLE: &[u8] = b"{\"a\":\"\\n#\"}";

    #[test]
    fn a_file_with_a_wrong_sum_is_not_believed() {
        let mut text = Vec::new();
        let mut file = Summed::new(&mut text);
        file.write_all(WHOLE).expect("memory");
        file.finish().expect("memory");
        assert_eq!(unsummed(&text).expect("it is whole"), WHOLE);
        assert_eq!(unsummed(b"{}").expect("an older one"), b"{}");
        for at in 0..text.len() {
            let mut damaged = text.clone();
            damaged[at] ^= 1;
            let seen = unsummed(&damaged).ok().map(<[u8]>::to_vec);
            // Without its mark it is taken for an older one, and is none.
            let is_json = |seen: &Vec<u8>| serde_json::from_slice::<serde_json::Value>(seen).is_ok();
            assert!(!seen.as_ref().is_some_and(is_json), "byte {at}");
            // What is cut off before its mark looks like an older one, which is whole, or is no JSON.
            let cut = unsummed(&text[..at]).ok().map(<[u8]>::to_vec);
            let is_whole = |seen: &Vec<u8>| seen.trim_ascii_end() == WHOLE;
            assert!(
                !cut.is_some_and(|seen| is_json(&seen) && !is_whole(&seen)),
                "cut at {at}"
            );
        }
    }
}
