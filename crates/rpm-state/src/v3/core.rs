//! The core, as the format before the present one has it: everything that it had in memory. What follows from the rest (indexes, deadlines of
//! states, eligible slots) is not read. Types that look the same in the present format are those of that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;

pub use super::worker::Impossible;
use super::worker::Worker;
use crate::convert::Convert;
use crate::v4::Nanos;
use crate::v4::core as new;

/// A type whose fields or variants are those of the present format, but that times are written as seconds and nanoseconds.
macro_rules! old {
    ($(#[$meta:meta])* struct $name:ident { $($(#[$attr:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Deserialize)]
        pub(super) struct $name {
            $($(#[$attr])* $field: $kind,)*
        }

        impl Convert<new::$name> for $name {
            fn convert(self) -> new::$name {
                new::$name { $($field: self.$field.convert(),)* }
            }
        }
    };
    (enum $name:ident { $($variant:ident $({ $($field:ident: $kind:ty),* })? $(($inner:ident: $of:ty))?,)* }) => {
        #[derive(Clone, Copy, Debug, Deserialize)]
        enum $name {
            $($variant $({ $($field: $kind),* })? $(($of))?,)*
        }

        impl Convert<new::$name> for $name {
            fn convert(self) -> new::$name {
                match self {
                    $($name::$variant $({ $($field),* })? $(($inner))? => {
                        new::$name::$variant $({ $($field: $field.convert()),* })? $(($inner.convert()))?
                    })*
                }
            }
        }
    };
}

macro_rules! unchanged {
    ($($name:ident),*) => {
        $(impl Convert<new::$name> for new::$name {
            fn convert(self) -> new::$name {
                self
            }
        })*
    };
}

unchanged!(Readiness, Affinity, Aim, Record, Exit);

#[derive(Deserialize)]
pub(super) struct Core {
    apps: BTreeMap<u32, App>,
    instances: BTreeMap<u32, Instance>,
    workers: BTreeMap<u64, Worker>,
    next_instance: u32,
    next_worker: u64,
    timers: Vec<(Timer, Duration)>,
    steering: Steering,
    lingering: BTreeSet<u64>,
}

#[derive(Deserialize)]
struct Steering {
    slots: BTreeMap<u32, Slot>,
}

/// What a deadline is for. Those of states are in the states, too.
#[derive(Clone, Copy, Deserialize)]
enum Timer {
    Phase(#[expect(dead_code, reason = "the state has its deadline")] u64),
    Unclaimed(u64),
    Respawn(#[expect(dead_code, reason = "the state has its deadline")] u32),
    Verdict(#[expect(dead_code, reason = "the reload has its deadline")] u32),
}

#[derive(Deserialize)]
struct App {
    config: AppConfig,
    generation: u32,
    newest: u32,
    previous: Option<u32>,
    #[serde(default)]
    room: Option<u32>,
    rollout: Option<Rollout>,
}

#[derive(Deserialize)]
struct Rollout {
    aim: new::Aim,
    former: (u32, AppConfig),
    queued: BTreeSet<u32>,
    launching: BTreeMap<u32, u64>,
    proved: BTreeMap<u32, Proved>,
    watched_until: Option<Duration>,
    #[serde(default)]
    room: Option<u32>,
    #[serde(default)]
    yields: bool,
    #[serde(default)]
    then_scale: Option<u32>,
}

#[derive(Deserialize)]
struct Instance {
    app: u32,
    number: u32,
    generation: u32,
    state: InstanceState,
    record: new::Record,
    last_exit: Option<new::Exit>,
    footprint: Option<EarlyAddresses>,
}

old! {
    #[derive(PartialEq)]
    struct AppConfig {
        revision: u32,
        instances: u32,
        #[serde(default)]
        stopped: bool,
        readiness: new::Readiness,
        policy: Policy,
        parallel: u32,
        max_surge: Option<u32>,
        max_unavailable: u32,
        #[serde(default = "no_affinity")]
        affinity: new::Affinity,
        allow_port_change: bool,
        health_check: bool,
    }
}

old! {
    #[derive(PartialEq)]
    struct Policy {
        autorestart: bool,
        #[serde(default)]
        stop_exit_codes: Vec<i32>,
        max_restarts: u32,
        min_uptime: Duration,
        restart_delay: Duration,
        exp_backoff: Option<Duration>,
        kill_timeout: Duration,
        listen_timeout: Duration,
        #[serde(default = "start_timeout")]
        start_timeout: Duration,
        reload_timeout: Duration,
        drain_timeout: Duration,
        watch_after: Duration,
    }
}

/// Of programs that had none.
fn start_timeout() -> Duration {
    Duration::from_secs(30)
}

/// Of programs that had none.
fn no_affinity() -> new::Affinity {
    new::Affinity::None
}

old! {
    struct Proved {
        predecessor: Predecessor,
        counts: bool,
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Predecessor {
    Warm(u64),
    Gone(AfterExit),
}

impl Convert<new::Predecessor> for Predecessor {
    fn convert(self) -> new::Predecessor {
        match self {
            Predecessor::Warm(worker) => new::Predecessor::Standby(worker),
            Predecessor::Gone(then) => new::Predecessor::Gone(then.convert()),
        }
    }
}

old! {
    enum InstanceState {
        Running { worker: u64 },
        Stopping { worker: u64, then: AfterExit },
        Waiting { until: Duration },
        Awaiting { then: AfterExit },
        Stopped,
        Errored,
    }
}

old! {
    enum AfterExit {
        Stopped,
        Errored,
        Restart,
        Retry { delay: Duration },
        Forgotten,
    }
}

old! {
    #[derive(PartialEq)]
    struct EarlyAddresses {
        first: Option<Duration>,
        groups: BTreeSet<u32>,
    }
}

old! {
    struct Slot {
        group: u32,
        instance: u32,
        generation: u32,
        len: u32,
        answers: bool,
        #[serde(default = "no_affinity")]
        affinity: new::Affinity,
        tenant: Tenant,
    }
}

old! {
    enum Tenant {
        Vacant,
        Idle { worker: u64, waiting: Option<Duration> },
        Serving { worker: u64, role: Role, flow: Flow },
        Leaving { worker: u64, waiting: Option<Duration> },
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Role {
    Active,
    Warm,
    Draining,
}

impl Convert<new::Role> for Role {
    fn convert(self) -> new::Role {
        match self {
            Role::Active => new::Role::Active,
            Role::Warm => new::Role::Standby,
            Role::Draining => new::Role::Draining,
        }
    }
}

old! {
    enum Flow {
        In { stuck: Option<Duration>, trials: u32 },
        Out { stuck: Duration, trials: u32 },
        Rescued(rescued: Rescued),
    }
}

old! {
    #[derive(Copy)]
    struct Rescued {
        waiting: Option<Duration>,
        probe_at: Duration,
        probe_every: Duration,
        trial_at: Duration,
        trials: u32,
    }
}

/// The configurations that were met, each once.
#[derive(Default)]
struct Configs(Vec<AppConfig>);

impl Configs {
    /// The position of one. Workers mostly have that which was met last with the same revision, so it is looked for from the end.
    fn name(&mut self, config: AppConfig) -> u32 {
        let at = self.0.iter().rposition(|known| *known == config);
        let at = at.unwrap_or_else(|| {
            self.0.push(config);
            self.0.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    fn app(&mut self, old: App) -> new::App {
        new::App {
            config: self.name(old.config),
            generation: old.generation,
            newest: old.newest,
            previous: old.previous,
            room: old.room,
            reload: old.rollout.map(|rollout| self.reload(rollout)),
            scaling: None,
        }
    }

    fn reload(&mut self, old: Rollout) -> new::Reload {
        new::Reload {
            aim: old.aim,
            former_generation: old.former.0,
            former_config: self.name(old.former.1),
            queued: old.queued,
            launching: old.launching,
            proved: old.proved.convert(),
            watched_until: old.watched_until.convert(),
            room: old.room,
            yields: old.yields,
            then_scale: old.then_scale,
        }
    }
}

impl From<Instance> for new::Instance {
    fn from(old: Instance) -> new::Instance {
        new::Instance {
            app: old.app,
            number: old.number,
            generation: old.generation,
            state: old.state.convert(),
            record: old.record,
            last_exit: old.last_exit,
            early_addresses: old.footprint.convert(),
        }
    }
}

impl TryFrom<Core> for new::Snapshot {
    type Error = Impossible;

    fn try_from(old: Core) -> Result<new::Snapshot, Impossible> {
        let unclaimed = old.timers.into_iter().filter_map(|(timer, at)| match timer {
            Timer::Unclaimed(worker) => Some((worker, Nanos::from(at))),
            Timer::Phase(_) | Timer::Respawn(_) | Timer::Verdict(_) => None,
        });
        let unclaimed: BTreeMap<u64, Nanos> = unclaimed.collect();
        let mut configs = Configs::default();
        let apps = old.apps.into_iter().map(|(id, app)| (id, configs.app(app)));
        let apps = apps.collect();
        let mut workers = BTreeMap::new();
        for (id, worker) in old.workers {
            let (config, unclaimed_until) = (worker.config.clone(), unclaimed.get(&id).copied());
            let worker = new::Worker {
                config: configs.name(config),
                unclaimed_until,
                drained: old.lingering.contains(&id),
                ..worker.try_into()?
            };
            workers.insert(id, worker);
        }
        Ok(new::Snapshot {
            configs: configs.0.convert(),
            apps,
            instances: old
                .instances
                .into_iter()
                .map(|(id, it)| (id, it.into()))
                .collect(),
            workers,
            slots: old.steering.slots.convert(),
            next_instance: old.next_instance,
            next_worker: old.next_worker,
        })
    }
}
