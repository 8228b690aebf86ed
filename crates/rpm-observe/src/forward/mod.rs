//! Forwarding of logs: what the apps write goes to Loki, an OpenTelemetry collector, Elasticsearch, a syslog server or journald, at least once.
//!
//! The log files are the queue: a destination has a position in each, which moves on when the receiver has taken what is before it. So nothing is kept
//! in memory but one batch, an outage costs no more than the files keep, and an app never waits. [`forwarder`] decides, and has neither clock nor
//! network; [`log`] follows one log through its files, [`assemble`] and [`record`] make records of its lines, [`delivery`] settles a batch.
//! [`lane`] is the thread of a destination, [`send`] and the files beside it speak the protocols.

mod assemble;
mod batch;
mod book;
mod counts;
mod delivery;
mod disk;
mod elastic;
mod forwarder;
mod handles;
mod joined;
mod journald;
mod lane;
mod log;
mod loki;
mod otlp;
mod pace;
mod position;
mod prints;
mod record;
mod secrets;
mod send;
#[cfg(test)]
mod simulation;
mod size;
mod sources;
mod syslog;
mod tail;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rpm_wire::api::Process;
use rpm_wire::forward::{Destination, Destinations, FORWARD_BYTES, FORWARD_FILE};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::daemon::Daemon;
use crate::files::{self, Changing};
use book::Place;
pub use counts::Forwarded;
use handles::Handles;
use lane::{Known, Lane, Means};
pub(crate) use tail::Tail;

/// The file that the process which forwards has locked.
const LOCK_FILE: &str = "forward.lock";
/// Between two looks at the settings.
const LOOK: Duration = Duration::from_secs(1);
/// Between two questions which logs there are. One that is new is sent from its beginning, however late it is found.
const LIST: Duration = Duration::from_secs(5);

/// Forwards logs, to the destinations in the daemon's directory.
#[derive(Debug)]
pub struct Forward {
    daemon: Daemon,
    home: PathBuf,
    host: String,
    settings: Changing,
    forwarded: Arc<Forwarded>,
    wanted: Vec<Destination>,
    lanes: Vec<Lane>,
    known: watch::Sender<Known>,
    handles: Handles,
    listed: Option<Instant>,
    troubles: Troubles,
}

impl Forward {
    /// For the daemon with this socket, whose directory has the destinations.
    #[must_use]
    pub fn new(socket: PathBuf, home: PathBuf) -> Forward {
        Forward {
            daemon: Daemon::new(socket),
            host: crate::host_name(),
            settings: Changing::new(home.join(FORWARD_FILE), FORWARD_BYTES),
            home,
            forwarded: Arc::default(),
            wanted: Vec::new(),
            lanes: Vec::new(),
            known: watch::Sender::new(None),
            handles: Handles::default(),
            listed: None,
            troubles: Troubles::default(),
        }
    }

    /// What became of the lines, for the metrics.
    #[must_use]
    pub fn forwarded(&self) -> Arc<Forwarded> {
        Arc::clone(&self.forwarded)
    }

    /// Forwards, for ever. Of several processes one does, and the next when it has ended.
    pub async fn run(mut self) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let lock = self.home.join(LOCK_FILE);
        let mut turn = None;
        loop {
            ticks.tick().await;
            if turn.is_none() {
                match files::turn(&lock) {
                    Ok(now) => {
                        turn = now;
                        self.troubles.over("lock");
                    }
                    Err(error) => {
                        let what = format!("cannot lock {}: {error}", lock.display());
                        self.troubles.complain("lock", &what);
                    }
                }
            }
            if turn.is_some() {
                self.look();
                self.list().await;
                self.serve();
            }
        }
    }

    /// The settings, if they have changed.
    fn look(&mut self) {
        let Some(text) = self.settings.changed() else {
            return;
        };
        let read = text
            .map_err(|error| error.to_string())
            .and_then(|text| match text.trim() {
                "" => Ok(Destinations::default()),
                text => serde_json::from_str(text).map_err(|error| error.to_string()),
            });
        match read {
            Ok(read) => {
                eprintln!("logs: {} destinations", read.destinations.len());
                self.wanted = read.destinations;
                self.listed = None;
                let names: Vec<String> = self.wanted.iter().map(|it| it.name.clone()).collect();
                self.forwarded.retain(|name| names.iter().any(|it| it == name));
                book::tidy(&self.home, &names);
                self.troubles.over("settings");
            }
            Err(error) => {
                let path = self.settings.path().display();
                let what = format!(
                    "the destinations stay as they were: cannot read {path}: {error}; start the ecosystem file again, which writes it"
                );
                self.troubles.complain("settings", &what);
            }
        }
    }

    /// Asks which logs there are. Without an answer those that are known are read.
    async fn list(&mut self) {
        if self.wanted.is_empty() || self.listed.is_some_and(|at| at.elapsed() < LIST) {
            return;
        }
        self.listed = Some(Instant::now());
        let answer = self.daemon.get("/v1/processes?spec=true").await;
        let processes = answer.map_err(|error| error.to_string());
        let processes = processes.and_then(|text| {
            serde_json::from_slice::<Vec<Process>>(&text).map_err(|error| error.to_string())
        });
        match processes {
            Ok(processes) => {
                let now = Arc::new(sources::sources(&processes));
                self.known.send_if_modified(|known| {
                    let is_new = known.as_ref() != Some(&now);
                    *known = Some(now);
                    is_new
                });
                self.troubles.over("list");
            }
            Err(error) => {
                let what = format!("cannot ask the daemon which logs there are: {error}");
                self.troubles.complain("list", &what);
            }
        }
    }

    /// Has a lane for each destination. One whose settings are others ends first: no two have the same positions.
    fn serve(&mut self) {
        for lane in self
            .lanes
            .iter()
            .filter(|lane| !self.wanted.contains(&lane.destination))
        {
            lane.stop();
        }
        self.lanes.retain(|lane| !lane.has_ended());
        for destination in &self.wanted {
            if self
                .lanes
                .iter()
                .any(|lane| lane.destination.name == destination.name)
            {
                continue;
            }
            let means = Means {
                host: self.host.clone(),
                place: Place::of(&self.home, &destination.name),
                known: self.known.subscribe(),
                count: self.forwarded.of(&destination.name),
                handles: self.handles.clone(),
                configured_ns: self.settings.written_ns(),
            };
            let lane = Lane::start(destination.clone(), means);
            match lane {
                Ok(lane) => {
                    self.lanes.push(lane);
                    self.troubles.over(&destination.name);
                }
                Err(error) => {
                    let what = format!("cannot start a thread for {}: {error}", destination.name);
                    self.troubles.complain(&destination.name, &what);
                }
            }
        }
    }
}

/// What goes wrong, by what it is about: it is said once, and not every second of a night.
#[derive(Debug, Default)]
struct Troubles(BTreeMap<String, String>);

impl Troubles {
    fn complain(&mut self, about: &str, what: &str) {
        if self.is_new(about, what) {
            eprintln!("logs: {what}");
        }
    }

    fn is_new(&mut self, about: &str, what: &str) -> bool {
        let before = self.0.insert(about.to_owned(), what.to_owned());
        before.as_deref() != Some(what)
    }

    fn over(&mut self, about: &str) {
        self.0.remove(about);
    }
}

/// The time, in nanoseconds since 1970.
fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_wrong_is_said_once_until_it_is_over() {
        let mut troubles = Troubles::default();
        for _ in 0..2 {
            assert!(troubles.is_new("settings", "no leave") && troubles.is_new("list", "away"));
            assert!(!troubles.is_new("settings", "no leave") && !troubles.is_new("list", "away"));
            troubles.over("list");
            assert!(!troubles.is_new("settings", "no leave"));
            assert!(troubles.is_new("settings", "damaged"));
            troubles.over("settings");
        }
    }
}
