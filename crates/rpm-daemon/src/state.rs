//! What the daemon must know if it dies and another one goes on: one file, written before the act.
//!
//! The workers run on without a daemon, and hold everything that one would need: their listening sockets, the daemon's
//! end of their channel, the read ends of their log pipes. The file says what is what.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use rpm_core::{AppId, Core, InstanceId, WorkerId};
use rpm_sys::survive;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use crate::app::App;
use crate::home::Home;
use crate::supervisor::Supervisor;
use crate::worker::{Kept, Life, Logs, Worker};

/// Of the file. Another one is not read.
const FORMAT: u32 = 2;
/// What changes nothing but figures is written this much later, together with what else happens until then.
const WRITE_EVERY: Duration = Duration::from_millis(20);
/// With no more workers than these it is written as soon as one of them is ready: the next daemon ends a worker that it believes to wait
/// for an answer. With hundreds that takes long, and all that become ready within [`WRITE_EVERY`] are written together.
const FEW: usize = 128;

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
    pub(crate) token: String,
    pub(crate) logs: Logs,
    pub(crate) kept: Kept,
    /// Its processes that have called `listen`.
    #[serde(default)]
    pub(crate) listeners: BTreeSet<u32>,
}

/// Whether what is known is also written.
pub(crate) struct Store {
    changed: bool,
    written: Option<Instant>,
    failed: bool,
    boot_id: String,
}

impl Store {
    pub(crate) fn new() -> Store {
        Store {
            changed: false,
            written: None,
            failed: false,
            // Without it the file is never read, which is right.
            boot_id: survive::boot_id().unwrap_or_default(),
        }
    }

    pub(crate) fn changed(&mut self) {
        self.changed = true;
    }

    /// When it is to be written at the latest.
    pub(crate) fn due(&self) -> Option<Instant> {
        let due = self.written.map_or_else(Instant::now, |at| at + WRITE_EVERY);
        self.changed.then_some(due)
    }
}

impl Supervisor {
    /// Is it written for each worker that becomes ready?
    pub(crate) fn stores_at_once(&self) -> bool {
        self.workers.len() <= FEW
    }

    /// Writes what has changed. `at_once`: something is about to be done that the next daemon must know of.
    pub(crate) fn store(&mut self, at_once: bool) {
        let due = self
            .store
            .due()
            .is_some_and(|due| at_once || due <= Instant::now());
        if !due {
            return;
        }
        let written = self.write_state();
        self.store.changed = false;
        self.store.written = Some(Instant::now());
        match written {
            Ok(()) => self.store.failed = false,
            Err(error) if !self.store.failed => {
                self.store.failed = true;
                self.store.changed = true;
                error!(%error, "cannot write the state: if the daemon died now the next one would not know its workers");
            }
            Err(_) => self.store.changed = true,
        }
    }

    fn write_state(&mut self) -> io::Result<()> {
        // First: the state names apps and their revisions, and those that it does not name are of no account.
        if self.apps.have_changed() {
            write(&self.home, APPS, &*self.apps)?;
            self.apps.written();
        }
        let stored = Stored {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: self.store.boot_id.clone(),
            origin: survive::monotonic().saturating_sub(self.now().0),
            core: &self.core,
            apps: BTreeMap::new(),
            workers: self.workers.values().filter_map(stored).collect(),
            listeners: self.listeners.stored(),
            next_app: self.next_app,
            next_ticket: self.next_ticket,
            rescues: self.rescues,
        };
        write(&self.home, STATE, &stored)
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
    let mut file = BufWriter::with_capacity(WRITE_BYTES, file);
    serde_json::to_writer(&mut file, what)?;
    file.flush()?;
    fs::rename(&new, home.root().join(name))
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
        token: worker.token.clone(),
        logs: worker.logs.clone(),
        kept: process.kept,
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
        warn!("the state is of before the system was started; its workers are gone");
        return None;
    }
    stored.apps = read_file(home, APPS)?;
    stored.apps.retain(|app, _| stored.core.app(*app).is_some());
    Some(stored)
}

fn read_file<T: DeserializeOwned>(home: &Home, name: &str) -> Option<T> {
    let text = match fs::read(home.root().join(name)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            error!(%error, name, "cannot read the state of the daemon before; its workers are not known");
            return None;
        }
    };
    let read = serde_json::from_slice(&text);
    read.inspect_err(
        |error| error!(%error, name, "the state of the daemon before is damaged; its workers are not known"),
    )
    .ok()
}

/// The daemon ends, and its workers have done so.
pub(crate) fn forget(home: &Home) {
    for name in [STATE, APPS] {
        let _ = fs::remove_file(home.root().join(name));
    }
}
