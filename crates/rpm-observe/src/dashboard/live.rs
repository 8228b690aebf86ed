//! What the dashboard shows of the present: one question to the daemon a second, while anybody looks, and one answer for all who do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use rpm_wire::api::{AppFigures, ExecMode, Known, Other, Process, Served, Status};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::alerts::now_ms;
use crate::daemon::{Daemon, Unanswered};
use crate::history::{Counted, FIGURES, Moment};

/// Between two frames.
const PERIOD: Duration = Duration::from_secs(1);
/// Between having Node measure itself and reading what it has measured: its reports come once a second from then on, and so they come in the
/// middle between two readings. Where they came at the same time, one would have none and the next two.
const SETTLING: Duration = Duration::from_millis(500);
/// Programs rarely change what actions they offer: they are asked for once in so many frames.
const OFFERS_EVERY: u64 = 10;

/// An app in a frame.
#[derive(Debug, Serialize)]
struct App {
    name: String,
    namespace: String,
    mode: ExecMode,
    plane: String,
    serves: Vec<Served>,
    watching: bool,
    figures: Map<String, Value>,
    /// How many answers took how long since the frame before, for each of `bounds_ms` and beyond.
    times: Vec<u64>,
    bounds_ms: Vec<f64>,
    /// What its programs can be asked to do.
    actions: Vec<String>,
    processes: Vec<Instance>,
}

/// An instance in a frame. It has no paths, and nothing of the environment.
#[derive(Debug, Serialize)]
struct Instance {
    id: u32,
    instance: u32,
    status: Status,
    pid: Option<u32>,
    generation: u32,
    cpu: f64,
    memory: u64,
    connections: Option<u32>,
    restarts: u32,
    started_at_ms: u64,
    exit_code: Option<i32>,
    others: Vec<Other>,
}

/// The frames of a daemon.
#[derive(Debug)]
pub(super) struct Live {
    daemon: Arc<Daemon>,
    /// Present while they are made.
    frames: Mutex<Option<watch::Sender<Bytes>>>,
}

impl Live {
    pub(super) fn new(daemon: Arc<Daemon>) -> Arc<Live> {
        Arc::new(Live {
            daemon,
            frames: Mutex::default(),
        })
    }

    /// The frames from now on, each a line of JSON. The first value is empty if there is none yet.
    pub(super) fn look(self: &Arc<Live>) -> watch::Receiver<Bytes> {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(frames) = &*frames {
            return frames.subscribe();
        }
        let (sender, receiver) = watch::channel(Bytes::new());
        *frames = Some(sender);
        tokio::spawn(self.clone().make());
        receiver
    }

    /// Makes frames until nobody looks any more.
    async fn make(self: Arc<Live>) {
        let mut maker = Maker {
            begun: Instant::now(),
            frames: 0,
            counted: BTreeMap::new(),
            offers: BTreeMap::new(),
        };
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let frame = match maker.frame(&self.daemon).await {
                Ok(frame) => frame,
                Err(error) => json!({ "up": false, "why": error.to_string() }),
            };
            let line = Bytes::from(frame.to_string() + "\n");
            let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
            match &*frames {
                Some(sender) if sender.receiver_count() > 0 => drop(sender.send_replace(line)),
                _ => {
                    *frames = None;
                    return;
                }
            }
        }
    }
}

/// What is kept from one frame to the next.
#[derive(Debug)]
struct Maker {
    begun: Instant,
    frames: u64,
    counted: BTreeMap<String, Counted>,
    /// The actions of each app's programs.
    offers: BTreeMap<String, Vec<String>>,
}

impl Maker {
    async fn frame(&mut self, daemon: &Daemon) -> Result<Value, Unanswered> {
        if self.frames.is_multiple_of(OFFERS_EVERY) {
            self.offers = offers(parsed(&daemon.get("/v1/known").await?)?);
        }
        self.frames += 1;
        let processes = daemon.get("/v1/processes?measure=true").await?;
        if self.frames > 1 {
            sleep(SETTLING).await;
        }
        let figures = daemon.get("/v1/figures").await?;
        let at = self.begun.elapsed().as_secs_f64();
        Ok(self.made(at, parsed(&processes)?, parsed(&figures)?))
    }

    fn made(&mut self, at: f64, processes: Vec<Process>, figures: Vec<AppFigures>) -> Value {
        let mut apps: BTreeMap<String, App> = BTreeMap::new();
        for process in processes {
            let offers = self.offers.get(&process.name);
            let app = apps.entry(process.name.clone()).or_insert_with(|| App {
                name: process.name.clone(),
                namespace: process.namespace.clone(),
                mode: process.exec_mode,
                plane: process.plane.clone(),
                serves: Vec::new(),
                watching: process.watching,
                figures: Map::new(),
                times: Vec::new(),
                bounds_ms: Vec::new(),
                actions: offers.cloned().unwrap_or_default(),
                processes: Vec::new(),
            });
            app.add(process);
        }
        self.counted.retain(|name, _| apps.contains_key(name));
        for figures in figures {
            if let Some(app) = apps.get_mut(&figures.app) {
                let counted = self.counted.entry(figures.app.clone()).or_default();
                app.have(counted.moment(at, figures));
            }
        }
        json!({ "up": true, "at": now_ms() as f64 / 1000.0, "apps": apps.into_values().collect::<Vec<_>>() })
    }
}

impl App {
    fn add(&mut self, process: Process) {
        for served in process.serves {
            if !self.serves.contains(&served) {
                self.serves.push(served);
            }
        }
        self.processes.push(Instance {
            id: process.id,
            instance: process.instance,
            status: process.status,
            pid: process.pid,
            generation: process.generation,
            cpu: process.cpu_percent,
            memory: process.memory_bytes,
            connections: process.connections,
            restarts: process.restarts,
            started_at_ms: process.started_at_ms,
            exit_code: process.exit_code,
            others: process.others,
        });
    }

    fn have(&mut self, moment: Moment) {
        let named = FIGURES.iter().zip(moment.values);
        self.figures = named
            .map(|(figure, value)| (figure.name.to_owned(), json!(value)))
            .collect();
        self.times = moment.times;
        self.bounds_ms = moment.bounds_ms;
    }
}

/// The actions of each app, each once.
fn offers(known: Vec<Known>) -> BTreeMap<String, Vec<String>> {
    let mut offers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for process in known {
        let offered = offers.entry(process.name).or_default();
        for action in process.actions {
            if !offered.contains(&action) {
                offered.push(action);
            }
        }
    }
    offers
}

fn parsed<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<T, Unanswered> {
    serde_json::from_slice(text).map_err(|error| Unanswered::Cut(Box::new(error)))
}
