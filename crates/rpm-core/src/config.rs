//! The configuration of an app, as far as the core uses it.

use alloc::vec::Vec;
use core::time::Duration;

use crate::Revision;

/// What makes a worker ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Ready once the program is executed: for workers that get a listening socket at the start (`LISTEN_FDS`).
    Executed,
    /// For programs that may have no port: ready once it listens, or has lived for a second (or `listen_timeout`, if that is less). A
    /// worker that a reload starts must listen where its predecessor does.
    Runs,
    /// Ready once it listens. A worker that is alive at `start_timeout` and listens on nothing is `online`, too (a queue consumer), and is
    /// reported as silent. From then on, `listen_timeout` applies to its instance.
    Listens,
    /// Ready once it says so (`process.send('ready')`); silence until `start_timeout` is a failure.
    Announces,
}

/// When and how an instance is restarted, and how long each step may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Restart it after an exit that was not asked for.
    pub autorestart: bool,
    /// Exit codes after which it is not restarted, even with `autorestart`.
    pub stop_exit_codes: Vec<i32>,
    /// Consecutive exits younger than `min_uptime` after which an instance is `Errored`.
    pub max_restarts: u32,
    /// Uptime from which an exit is not a failure to start.
    pub min_uptime: Duration,
    /// Fixed delay before every automatic restart; zero means at once, unless the worker failed young.
    pub restart_delay: Duration,
    /// PM2's `exp_backoff_restart_delay`: first delay, then × 1.5 up to 15 s, forgotten after 30 s of
    /// uptime. `None`: young failures back off on a built-in scale (50 ms × 1.5 up to 500 ms).
    pub exp_backoff: Option<Duration>,
    /// Time from the first signal to SIGKILL.
    pub kill_timeout: Duration,
    /// The time that a program usually needs until it listens.
    pub listen_timeout: Duration,
    /// Time from spawn to readiness of a worker that no reload starts. A slow program has as long for its first start as for a reload.
    pub start_timeout: Duration,
    /// The same for a worker that a reload starts, for which being late is a failure.
    pub reload_timeout: Duration,
    /// How long a replaced worker may take to finish its requests.
    pub drain_timeout: Duration,
    /// How long the old workers stay standby after all new workers of a reload are ready. If a new one ends within this time, the old ones
    /// serve again. Zero: they drain at once.
    pub watch_after: Duration,
}

impl RestartPolicy {
    /// True if it is not restarted after this exit code, whatever else holds.
    pub(crate) fn stops_at(&self, code: i32) -> bool {
        self.stop_exit_codes.contains(&code)
    }
}

impl Default for RestartPolicy {
    fn default() -> Self {
        RestartPolicy {
            autorestart: true,
            stop_exit_codes: Vec::new(),
            max_restarts: 16,
            min_uptime: Duration::from_secs(1),
            restart_delay: Duration::ZERO,
            exp_backoff: None,
            kill_timeout: Duration::from_secs(10),
            listen_timeout: Duration::from_secs(3),
            start_timeout: Duration::from_secs(30),
            reload_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
            watch_after: Duration::ZERO,
        }
    }
}

/// Whether a client must get the worker that it had before, which has its session. Connections in that worker's queue then wait until it
/// accepts again, is gone, or drains: no other worker can answer them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    /// Any worker can serve any client.
    #[default]
    None,
    /// The client names its worker (by a cookie). Clients without one go to workers that accept.
    Named,
    /// The client's address decides, so a worker that does not accept keeps its share of the clients.
    ByAddress,
}

/// The configuration of an app, as far as the core uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppConfig {
    /// The revision from which its workers are started.
    pub revision: Revision,
    /// Number of instances; values outside 1 to [`crate::MAX_INSTANCES`] count as the nearest of these.
    pub instances: u32,
    /// Instances are created stopped, and started by a later command.
    pub stopped: bool,
    /// What makes a worker ready.
    pub readiness: Readiness,
    /// Restart policy and deadlines.
    pub policy: RestartPolicy,
    /// How many new workers of a reload may be starting at once; 0 for all. One that replaces a worker that is gone does not wait for its
    /// turn.
    pub parallel: u32,
    /// How many workers beyond the number of instances a reload may have, including draining ones; `None` for no limit. Without room, an
    /// old worker drains as soon as its own successor serves, so it cannot serve again if the reload is undone.
    pub max_surge: Option<u32>,
    /// For how many instances an old worker may drain before its successor is started, if there is no room. If this and `max_surge` are
    /// both 0, `max_surge` counts as 1.
    pub max_unavailable: u32,
    /// Whether clients belong to workers.
    pub affinity: Affinity,
    /// A reload accepts workers that serve other addresses than their predecessors.
    pub allow_port_change: bool,
    /// A worker that a reload starts must also pass its health check before it takes over.
    pub health_check: bool,
}

impl Default for AppConfig {
    fn default() -> Self {
        AppConfig {
            revision: Revision(1),
            instances: 1,
            stopped: false,
            readiness: Readiness::Listens,
            policy: RestartPolicy::default(),
            parallel: 0,
            max_surge: None,
            max_unavailable: 0,
            affinity: Affinity::None,
            allow_port_change: false,
            health_check: false,
        }
    }
}
