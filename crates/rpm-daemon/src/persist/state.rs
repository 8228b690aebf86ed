//! What the daemon must know if it dies and another one goes on: one file, written before the act.
//!
//! The workers run on without a daemon, and the keeper holds everything that one would need: their listening sockets, the daemon's
//! end of their channel, the read ends of their log pipes. The file says what is what. How it says it is the business of `rpm-state`.

use std::fs::{self, OpenOptions};
use std::io;
use std::mem;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rpm_core::snapshot::RestoreError;
use rpm_core::{Core, WorkerId};
use rpm_keeper::Keeper;
use rpm_listen::Listeners;
use rpm_state::{AppsDocument, Document, FORMAT, ReadError, State, Unsupported};
use rpm_sys::{survive, tree};
use rpm_wire::api::ApiError;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tracing::{debug, error, warn};

use crate::apps::app::Apps;
use crate::failure::failure;
use crate::home::Home;
use crate::os::clock::now_ms;
use crate::os::pace::pause;
use crate::os::reserve;
use crate::persist::journal::Journal;
use crate::persist::stored::{Stored, StoredWorker};
use crate::persist::takeover::is_client;
use crate::workers::worker::Workers;

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
    /// What the monotonic clock says at tick 0.
    pub(crate) origin: Duration,
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
        let version = env!("CARGO_PKG_VERSION");
        // First: the state names apps and their revisions, and those that it does not name are of no account.
        if known.apps.have_changed() {
            let document = AppsDocument {
                format: FORMAT,
                version: version.to_owned(),
                apps: known.apps.iter().map(|(id, app)| (id.0, app.stored())).collect(),
            };
            write(known.home, APPS, &document)?;
            known.apps.written();
        }
        let state = State {
            format: FORMAT,
            version: version.to_owned(),
            boot_id: self.boot_id.clone(),
            origin: known.origin.into(),
            core: known.core.snapshot().into(),
            workers: known
                .workers
                .values()
                .filter_map(StoredWorker::of)
                .map(Into::into)
                .collect(),
            listeners: known.listeners.stored(),
            next_app: known.next_app,
            next_ticket: known.next_ticket,
            rescues: known.rescues,
        };
        write(known.home, STATE, &state)
    }
}

fn write(home: &Home, name: &str, document: &impl Document) -> io::Result<()> {
    let new = home.root().join(format!("{name}.new"));
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    rpm_state::write(document, file)?;
    replace(&new, &home.root().join(name), &home.root().join(old(name)))
}

/// Puts the file `new` in the place of `path`, and that in the place of `before`. At no moment is there no `path`: this daemon may be killed
/// at any, and who looks in the directory then finds both.
fn replace(new: &Path, path: &Path, before: &Path) -> io::Result<()> {
    match renameat_with(CWD, new, CWD, path, RenameFlags::EXCHANGE) {
        Ok(()) => fs::rename(new, before),
        Err(Errno::NOENT) => fs::rename(new, path),
        // Some file systems, those of a network among them, cannot exchange files.
        Err(Errno::INVAL | Errno::NOSYS) => {
            fs::rename(path, before)?;
            fs::rename(new, path)
        }
        Err(error) => Err(error.into()),
    }
}

/// The file before the last one.
fn old(name: &str) -> String {
    format!("{name}.old")
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("cannot read it")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Document(#[from] ReadError),
    #[error("it contradicts itself")]
    Core(#[from] RestoreError),
}

/// Why it is not known what the daemon before this one left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    /// It is in a format that this program does not read.
    #[error(transparent)]
    Format(Unsupported),
    /// Neither the last file nor the one before it can be used.
    #[error("it is damaged")]
    Damaged,
}

/// What the daemon before this one left; `None`: it left nothing, or nothing that is still true.
///
/// # Errors
/// It left something, and what that is cannot be read.
pub(crate) fn read(home: &Home) -> Result<Option<Stored>, Unreadable> {
    let restored = |text: &[u8]| {
        let mut state = rpm_state::read_state(text)?;
        let snapshot = mem::take(&mut state.core).into();
        Ok((Core::restore(snapshot, now_ms())?, state))
    };
    let Some((core, state)) = read_file(home, STATE, restored)? else {
        return Ok(None);
    };
    if Some(&state.boot_id) != survive::boot_id().ok().as_ref() {
        warn!("the state is from before the last boot; its workers are gone");
        return Ok(None);
    }
    let apps = read_file(home, APPS, |text| Ok(rpm_state::read_apps(text)?))?;
    Ok(apps.map(|apps| Stored::new(core, state, apps)))
}

/// What is in the file, or, if it is damaged, in the one before it. One of another format is not passed over: what the one before it says is
/// not true any more.
fn read_file<T>(
    home: &Home,
    name: &str,
    parse: impl Fn(&[u8]) -> Result<T, Damage>,
) -> Result<Option<T>, Unreadable> {
    let mut damaged = false;
    for name in [name, &old(name)] {
        match read_one(home, name, &parse) {
            Ok(Some(read)) => return Ok(Some(read)),
            Ok(None) => {}
            Err(Damage::Document(ReadError::Unsupported(why))) => {
                error!(name, error = %why, "cannot read what the daemon before has stored; its workers are not known");
                return Err(Unreadable::Format(why));
            }
            Err(error) => {
                let error = crate::failure::chain(&error);
                error!(error, name, "the state of the daemon before is damaged");
                damaged = true;
            }
        }
    }
    if damaged {
        Err(Unreadable::Damaged)
    } else {
        Ok(None)
    }
}

fn read_one<T>(
    home: &Home,
    name: &str,
    parse: impl Fn(&[u8]) -> Result<T, Damage>,
) -> Result<Option<T>, Damage> {
    match fs::read(home.root().join(name)) {
        Ok(text) => parse(&text).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
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
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn the_file_is_there_at_every_moment_and_the_one_before_it_is_kept() {
        let dir = std::env::temp_dir().join(format!("rpm-replace-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let [new, path, before] = ["new", "path", "before"].map(|name| dir.join(name));
        let put = |text: &str| {
            fs::write(&new, text).expect("written");
            replace(&new, &path, &before).expect("replaced");
        };
        put("0");
        assert!(!before.exists());
        let done = AtomicBool::new(false);
        let missed = thread::scope(|scope| {
            let looks = scope.spawn(|| {
                let mut missed = 0;
                while !done.load(Ordering::Relaxed) {
                    missed += u32::from(!path.exists());
                }
                missed
            });
            for number in 1..=500_u32 {
                put(&number.to_string());
            }
            done.store(true, Ordering::Relaxed);
            looks.join().expect("it ends")
        });
        assert_eq!(missed, 0);
        let text = |path: &Path| fs::read_to_string(path).expect("it is there");
        assert_eq!([&path, &before].map(|path| text(path)), ["500", "499"]);
        assert!(!new.exists());
        fs::remove_dir_all(&dir).expect("it is ours");
    }
}
