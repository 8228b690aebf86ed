//! An app as the daemon keeps it: its specification, and what the core is told of it.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::time::Duration;

use rpm_core::protocol::{Affinity, AppConfig, RestartPolicy};
use rpm_core::{AppId, Revision};
use rpm_state::StoredApp;
use rpm_wire::api::{AppSpec, BalancePolicy};
use serde_json::Value;

use crate::apps::revision::{Revisions, Version};
use crate::os::json_memory::memory_of;

/// After the deadline of a drain, for closing politely what a worker does not end by itself.
pub(crate) const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Listeners of one app whose `data` is remembered.
const DATA_LIMIT: usize = 1024;
/// The memory of all of it.
const DATA_MEMORY: usize = 1 << 20;

/// An app and its specifications.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) name: String,
    pub(crate) revisions: Revisions,
    pub(crate) created_at_ms: u64,
    data: BTreeMap<String, Option<Value>>,
    /// Its Node is too old for the agent.
    pub(crate) agent_refused: bool,
    /// A user has stopped all of it: nothing is done for it until somebody starts it.
    pub(crate) rests: bool,
    /// A user has switched off the watching of its files.
    pub(crate) unwatched: bool,
}

/// All apps, and whether any has changed since they were written.
#[derive(Debug, Default)]
pub(crate) struct Apps {
    known: BTreeMap<AppId, App>,
    changed: bool,
}

impl Apps {
    pub(crate) fn get_mut(&mut self, id: &AppId) -> Option<&mut App> {
        let app = self.known.get_mut(id)?;
        self.changed = true;
        Some(app)
    }

    pub(crate) fn insert(&mut self, id: AppId, app: App) {
        self.changed = true;
        self.known.insert(id, app);
    }

    pub(crate) fn remove(&mut self, id: &AppId) {
        // Known still to the file, where it does no harm: there is nothing else of that number.
        self.known.remove(id);
    }

    /// What a worker of the app sent along when it asked for the listener `key` first; `offered` if this is it.
    pub(crate) fn first_data(&mut self, id: AppId, key: &str, offered: Option<&Value>) -> Option<&Value> {
        let app = self.known.get_mut(&id)?;
        if !app.data.contains_key(key) {
            if app.data.len() >= DATA_LIMIT {
                return None;
            }
            let kept: usize = app.data.values().flatten().map(memory_of).sum();
            let offered = offered.filter(|offered| kept + memory_of(offered) <= DATA_MEMORY);
            app.data.insert(key.to_owned(), offered.cloned());
            self.changed = true;
        }
        app.data.get(key)?.as_ref()
    }

    pub(crate) fn have_changed(&self) -> bool {
        self.changed
    }

    pub(crate) fn written(&mut self) {
        self.changed = false;
    }
}

impl From<BTreeMap<AppId, App>> for Apps {
    fn from(known: BTreeMap<AppId, App>) -> Apps {
        Apps { known, changed: true }
    }
}

impl Deref for Apps {
    type Target = BTreeMap<AppId, App>;

    fn deref(&self) -> &Self::Target {
        &self.known
    }
}

impl App {
    pub(crate) fn new(spec: AppSpec, created_at_ms: u64) -> App {
        let name = spec.name.clone();
        App {
            name,
            revisions: Revisions::new(spec),
            created_at_ms,
            data: BTreeMap::new(),
            agent_refused: false,
            rests: false,
            unwatched: false,
        }
    }

    /// What the next daemon must know.
    pub(crate) fn stored(&self) -> StoredApp {
        StoredApp {
            name: self.name.clone(),
            revisions: self.revisions.stored(),
            last_revision: self.revisions.last().0,
            created_at_ms: self.created_at_ms,
            data: self.data.clone(),
            agent_refused: self.agent_refused,
            rests: self.rests,
            unwatched: self.unwatched,
        }
    }
}

impl From<StoredApp> for App {
    fn from(stored: StoredApp) -> App {
        App {
            name: stored.name,
            revisions: Revisions::restore(stored.revisions, Revision(stored.last_revision)),
            created_at_ms: stored.created_at_ms,
            data: stored.data,
            agent_refused: stored.agent_refused,
            rests: stored.rests,
            unwatched: stored.unwatched,
        }
    }
}

/// What the core must know of a revision. `cpus` is what `instances: 0` and negative numbers refer to; `intercepted`: the calls of its
/// workers are.
pub(crate) fn config(revision: Revision, version: &Version, cpus: u32, intercepted: bool) -> AppConfig {
    let (spec, delivery) = (version.spec(), version.delivery());
    let default = RestartPolicy::default();
    AppConfig {
        revision,
        instances: instances(spec.instances, cpus),
        stopped: !spec.autostart,
        readiness: delivery.readiness(),
        policy: RestartPolicy {
            autorestart: spec.autorestart,
            stop_exit_codes: spec.stop_exit_codes.clone(),
            max_restarts: spec.max_restarts.unwrap_or(default.max_restarts),
            min_uptime: ms(spec.min_uptime_ms, default.min_uptime),
            restart_delay: ms(spec.restart_delay_ms, default.restart_delay),
            exp_backoff: spec
                .exp_backoff_restart_delay_ms
                .filter(|ms| *ms > 0)
                .map(Duration::from_millis),
            kill_timeout: ms(spec.kill_timeout_ms, default.kill_timeout),
            listen_timeout: ms(spec.listen_timeout_ms, default.listen_timeout),
            start_timeout: start_timeout(spec, &default, delivery.shows_readiness(intercepted)),
            reload_timeout: ms(spec.reload_timeout_ms, default.reload_timeout),
            drain_timeout: drain_timeout(spec) + CLOSE_WITHIN,
            watch_after: ms(spec.watch_after_ms, default.watch_after),
        },
        parallel: if spec.parallel == 0 { cpus } else { spec.parallel },
        max_surge: spec.max_surge,
        max_unavailable: spec.max_unavailable,
        affinity: match (spec.policy, &spec.proxy.sticky) {
            (BalancePolicy::IpHash, _) => Affinity::ByAddress,
            (_, Some(_)) => Affinity::Named,
            (_, None) => Affinity::None,
        },
        allow_port_change: spec.allow_port_change,
        health_check: spec.health_check.is_some(),
    }
}

/// How long a worker that no reload starts may take to become ready: what the user says, or as long as for a reload. `is_shown`: the daemon
/// notices when it is ready.
fn start_timeout(spec: &AppSpec, default: &RestartPolicy, is_shown: bool) -> Duration {
    let reload = ms(spec.reload_timeout_ms, default.reload_timeout);
    let usual = match is_shown {
        true => reload.max(default.listen_timeout),
        false => default.listen_timeout,
    };
    ms(spec.listen_timeout_ms, usual)
}

fn ms(value: Option<u64>, default: Duration) -> Duration {
    value.map_or(default, Duration::from_millis)
}

/// How connections are spread over its workers.
pub(crate) fn policy(spec: &AppSpec) -> rpm_listen::SteeringPolicy {
    match spec.policy {
        // By latency the proxy balances alone, and by itself.
        BalancePolicy::RoundRobin | BalancePolicy::Latency => rpm_listen::SteeringPolicy::RoundRobin,
        BalancePolicy::LeastConnections => rpm_listen::SteeringPolicy::LeastConnections,
        BalancePolicy::IpHash => rpm_listen::SteeringPolicy::IpHash,
        BalancePolicy::Weighted => rpm_listen::SteeringPolicy::Weighted,
    }
}

/// How long a worker that was replaced may take to finish.
pub(crate) fn drain_timeout(spec: &AppSpec) -> Duration {
    spec.drain_timeout_ms
        .map_or(RestartPolicy::default().drain_timeout, Duration::from_millis)
}

/// The number of instances meant by `-i`: 0 is one per CPU, -1 one fewer, and so on; at least 1.
pub(crate) fn instances(wanted: i32, cpus: u32) -> u32 {
    match u32::try_from(wanted) {
        Ok(0) => cpus.max(1),
        Ok(count) => count,
        Err(_) => cpus.saturating_sub(wanted.unsigned_abs()).max(1),
    }
}

/// The CPUs that the daemon may use (affinity and cgroup quota).
pub(crate) fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_count_from_the_cpus() {
        for (wanted, cpus, expected) in [(2, 8, 2), (0, 8, 8), (-1, 8, 7), (-9, 8, 1), (0, 0, 1), (1, 1, 1)] {
            assert_eq!(instances(wanted, cpus), expected, "-i {wanted} on {cpus}");
        }
    }
}
