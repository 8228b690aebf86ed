//! What the core decides by: [`rpm_core::snapshot::Snapshot`], as it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Nanos;
use crate::convert::{Convert, mirror};

/// The core's types.
mod live {
    pub(super) use rpm_core::protocol::{Affinity, AppConfig, Exit, Readiness, RestartPolicy as Policy};
    pub(super) use rpm_core::snapshot::*;
}

/// The core, as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Core(pub(crate) Snapshot);

impl From<live::Snapshot> for Core {
    fn from(snapshot: live::Snapshot) -> Core {
        Core(snapshot.convert())
    }
}

impl From<Core> for live::Snapshot {
    fn from(stored: Core) -> live::Snapshot {
        stored.0.convert()
    }
}

mirror! {
    /// All of it. Configurations are named by their position.
    #[derive(Default)]
    struct Snapshot {
        configs: Vec<AppConfig>,
        apps: BTreeMap<u32, App>,
        instances: BTreeMap<u32, Instance>,
        workers: BTreeMap<u64, Worker>,
        slots: BTreeMap<u32, Slot>,
        next_instance: u32,
        next_worker: u64,
    }
}

mirror! {
    struct AppConfig {
        revision: u32,
        instances: u32,
        stopped: bool,
        readiness: Readiness,
        policy: Policy,
        parallel: u32,
        max_surge: Option<u32>,
        max_unavailable: u32,
        affinity: Affinity,
        allow_port_change: bool,
        health_check: bool,
    }
}

impl Convert<Arc<live::AppConfig>> for AppConfig {
    fn convert(self) -> Arc<live::AppConfig> {
        Arc::new(self.convert())
    }
}

mirror! {
    struct Policy {
        autorestart: bool,
        stop_exit_codes: Vec<i32>,
        max_restarts: u32,
        min_uptime: Nanos,
        restart_delay: Nanos,
        exp_backoff: Option<Nanos>,
        kill_timeout: Nanos,
        listen_timeout: Nanos,
        start_timeout: Nanos,
        reload_timeout: Nanos,
        drain_timeout: Nanos,
        watch_after: Nanos,
    }
}

mirror! {
    enum Readiness {
        Executed,
        Runs,
        Listens,
        Announces,
    }
}

mirror! {
    enum Affinity {
        None,
        Named,
        ByAddress,
    }
}

mirror! {
    struct App {
        config: u32,
        generation: u32,
        newest: u32,
        previous: Option<u32>,
        room: Option<u32>,
        reload: Option<Reload>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scaling: Option<Scaling>,
    }
}

mirror! {
    struct Scaling {
        count: u32,
        awaited: BTreeSet<u32>,
    }
}

mirror! {
    struct Reload {
        aim: Aim,
        former_generation: u32,
        former_config: u32,
        queued: BTreeSet<u32>,
        launching: BTreeMap<u32, u64>,
        proved: BTreeMap<u32, Proved>,
        watched_until: Option<Nanos>,
        room: Option<u32>,
        yields: bool,
        then_scale: Option<u32>,
    }
}

mirror! {
    enum Aim {
        Renew,
        Return,
    }
}

mirror! {
    struct Proved {
        predecessor: Predecessor,
        counts: bool,
    }
}

mirror! {
    enum Predecessor {
        Standby(worker: u64),
        Gone(then: AfterExit),
    }
}

mirror! {
    struct Instance {
        app: u32,
        number: u32,
        generation: u32,
        state: InstanceState,
        record: Record,
        last_exit: Option<Exit>,
        #[serde(rename = "footprint")]
        early_addresses: Option<EarlyAddresses>,
    }
}

mirror! {
    enum InstanceState {
        Running { worker: u64 },
        Stopping { worker: u64, then: AfterExit },
        Waiting { until: Nanos },
        Awaiting { then: AfterExit },
        Stopped,
        Errored,
    }
}

mirror! {
    enum AfterExit {
        Stopped,
        Errored,
        Restart,
        Retry { delay: Nanos },
        Forgotten,
    }
}

mirror! {
    struct Record {
        restarts: u32,
        unstable: u32,
        attempts: u32,
    }
}

mirror! {
    enum Exit {
        Code(code: i32),
        Signal(number: i32),
    }
}

mirror! {
    struct EarlyAddresses {
        first: Option<Nanos>,
        groups: BTreeSet<u32>,
    }
}

mirror! {
    struct Worker {
        instance: u32,
        generation: u32,
        config: u32,
        state: WorkerState,
        answers: bool,
        #[serde(rename = "footprint")]
        early_addresses: EarlyAddresses,
        shared: BTreeSet<u32>,
        unclaimed_until: Option<Nanos>,
        drained: bool,
    }
}

mirror! {
    enum WorkerState {
        Spawning { post: Post, give_up: Nanos },
        Starting { post: Post, spawned: Nanos, ready_by: Nanos },
        Ready { post: Post, spawned: Nanos, since: Nanos, silent: bool },
        CandidateSpawning { give_up: Nanos },
        Candidate(candidate: Candidate),
        Draining { spawned: Nanos, since: Nanos, until: Nanos, intake: Intake },
        Cancelled { place: Place, kill: Kill },
        Terminating { spawned: Nanos, place: Place, kill: Kill },
    }
}

mirror! {
    #[derive(Copy)]
    struct Candidate {
        spawned: Nanos,
        review_at: Nanos,
        signalled: bool,
        health: Health,
    }
}

mirror! {
    enum Post {
        Own,
        Standby { since: Nanos },
    }
}

mirror! {
    enum Place {
        Own,
        Left { since: Nanos },
    }
}

mirror! {
    enum Intake {
        Open,
        Refusing { keeps: bool },
    }
}

mirror! {
    enum Health {
        Unasked,
        Asked,
        Good,
    }
}

mirror! {
    #[derive(Copy)]
    struct Kill {
        at: Nanos,
        again: Nanos,
    }
}

mirror! {
    struct Slot {
        group: u32,
        instance: u32,
        generation: u32,
        len: u32,
        answers: bool,
        affinity: Affinity,
        tenant: Tenant,
    }
}

mirror! {
    enum Tenant {
        Vacant,
        Idle { worker: u64, waiting: Option<Nanos> },
        Serving { worker: u64, role: Role, flow: Flow },
        Leaving { worker: u64, waiting: Option<Nanos> },
    }
}

mirror! {
    enum Role {
        Active,
        Standby,
        Draining,
    }
}

mirror! {
    enum Flow {
        In { stuck: Option<Nanos>, trials: u32 },
        Out { stuck: Nanos, trials: u32 },
        Rescued(rescued: Rescued),
    }
}

mirror! {
    #[derive(Copy)]
    struct Rescued {
        waiting: Option<Nanos>,
        probe_at: Nanos,
        probe_every: Nanos,
        trial_at: Nanos,
        trials: u32,
    }
}
