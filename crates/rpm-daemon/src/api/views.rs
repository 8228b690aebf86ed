//! What the daemon tells about its apps.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use rpm_core::protocol::Exit;
use rpm_core::{AppId, InstanceId, InstanceView, LeavingPhase, StateView, Tick, WorkerId};
use rpm_listen::{GroupView, Holding, SharedKind, SlotView};
use rpm_proxy::UpstreamFigures;
use rpm_wire::api::{
    ApiError, AppInfo, AppSpec, Circuit, Details, Known, ListenerInfo, OBSERVE, ObserveInfo, Other, Phase,
    Process, ProxiedInfo, Served, SlotInfo, Status,
};

use crate::apps::observe::settings_of;
use crate::os::behalf::Behalf;
use crate::view::View;
use crate::workers::sampling::own_listeners;

/// What each worker has of the listeners.
pub(crate) type Held = BTreeMap<WorkerId, Holding>;

impl View<'_> {
    /// Every instance, by id; `hidden`: those of hidden apps, too.
    pub(crate) fn processes(&self, with_spec: bool, hidden: bool) -> Vec<Process> {
        let held = self.listeners.by_worker();
        let ids = self.core.instances().map(|view| view.id);
        let ids = ids.filter(|id| hidden || !id.is_hidden());
        ids.filter_map(|id| self.process(id, &held, with_spec)).collect()
    }

    /// `held`: what each worker has of the listeners.
    pub(crate) fn process(&self, id: InstanceId, held: &Held, with_spec: bool) -> Option<Process> {
        let view = self.core.instance(id)?;
        let app = self.apps.get(&view.app)?;
        let worker = view.worker();
        let (spec, delivery) = match worker.and_then(|worker| self.workers.get(&worker)) {
            Some(worker) => (&worker.spec, worker.delivery),
            None => {
                let present = self.catalog().present(view.app)?;
                (present.spec(), present.delivery())
            }
        };
        let process = worker
            .and_then(|w| self.workers.get(&w))
            .and_then(|w| w.process());
        let logs = crate::workers::outputs::logs_of(self.home, spec, id);
        let uptime = process.map(|p| u64::try_from(p.started.elapsed().as_millis()).unwrap_or(u64::MAX));
        Some(Process {
            id: id.0,
            name: app.name.clone(),
            namespace: spec.namespace.clone(),
            watching: self.catalog().is_watched(view.app),
            instance: view.number,
            generation: view.generation.0,
            exec_mode: spec.exec_mode,
            plane: delivery
                .explain(self.interception.denied())
                .0
                .wire_name()
                .to_owned(),
            status: status(&view.state),
            pid: worker.and_then(|w| self.workers.get(&w)?.program_pid()),
            uptime_ms: uptime,
            started_at_ms: process.map_or(0, |p| p.started_at_ms),
            created_at_ms: app.created_at_ms,
            restarts: view.restarts,
            unstable_restarts: view.unstable_restarts,
            cpu_percent: process.map_or(0.0, |p| (p.usage.cpu_percent * 10.0).round() / 10.0),
            memory_bytes: process.map_or(0, |p| p.usage.rss_bytes),
            connections: worker.and_then(|w| self.sampling.connections_of(w)),
            serves: worker.map_or_else(Vec::new, |w| self.serves(w, held, spec, delivery.is_fronted())),
            exit_code: view.last_exit.map(exit_code),
            others: self.others(&view),
            out_log: logs.out.display().to_string(),
            err_log: logs.err.display().to_string(),
            spec: with_spec.then(|| Box::new(AppSpec::clone(spec))),
            details: with_spec.then(|| {
                Box::new(Details {
                    both_log: logs.both.map(|path| path.display().to_string()),
                    pid_file: crate::workers::outputs::pid_file(self.home, spec, id)
                        .display()
                        .to_string(),
                    restart_delay_ms: view
                        .backed_off
                        .map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
                    offer: worker
                        .and_then(|w| self.actions.offer_of(w))
                        .cloned()
                        .unwrap_or_default(),
                })
            }),
        })
    }

    /// All instances but those of hidden apps, in a word each.
    pub(crate) fn known(&self) -> Vec<Known> {
        self.known_of(|id| !id.is_hidden())
    }

    fn known_of(&self, is_meant: impl Fn(InstanceId) -> bool) -> Vec<Known> {
        let known = |view: InstanceView| {
            let spec = self.catalog().present_spec(view.app)?;
            Some(Known {
                id: view.id.0,
                name: self.apps.get(&view.app)?.name.clone(),
                namespace: spec.namespace.clone(),
                script: spec.script.clone(),
                status: status(&view.state),
                actions: view
                    .worker()
                    .map_or_else(Vec::new, |worker| self.actions.names_of(worker)),
            })
        };
        let meant = self.core.instances().filter(|view| is_meant(view.id));
        meant.filter_map(known).collect()
    }

    /// Where a worker serves, by what the daemon has in memory: this is asked of every process, every second.
    fn serves(&self, worker: WorkerId, held: &Held, spec: &AppSpec, fronted: bool) -> Vec<Served> {
        let addresses = held
            .get(&worker)
            .into_iter()
            .flat_map(|holding| &holding.addresses);
        let tcp = addresses.map(|&addr| Served {
            address: tcp(addr),
            url: url(addr, spec, fronted),
        });
        let shared = self.listeners.shared_by(worker).map(|kind| Served {
            address: shared_address(kind),
            url: None,
        });
        tcp.chain(shared).collect()
    }

    /// The processes of an instance beside its own.
    fn others(&self, view: &InstanceView) -> Vec<Other> {
        let app = self.core.app(view.app);
        let verdict = app.and_then(|app| app.reload?.watched_until);
        let other = |id: WorkerId, phase, until: Option<Tick>| {
            let process = self.workers.get(&id)?.process()?;
            let open = self
                .agents
                .open(id)
                .map(|open| u32::try_from(open.connections).unwrap_or(u32::MAX));
            Some(Other {
                pid: process.pid,
                generation: self.core.worker(id)?.generation.0,
                phase,
                connections: open.or_else(|| self.sampling.connections_of(id)),
                left_ms: until.and_then(|until| u64::try_from((until - self.now).as_millis()).ok()),
            })
        };
        let candidate = view.candidate.filter(|id| view.worker() != Some(*id));
        let candidate = candidate.and_then(|id| other(id, Phase::Launching, self.core.worker(id)?.until));
        let leaving = self.core.leaving_of(view.id);
        let ours = leaving.filter(|it| Some(it.worker) != view.worker());
        let leaving = ours.filter_map(|it| match it.phase {
            LeavingPhase::Standby => other(it.worker, Phase::Standby, verdict),
            LeavingPhase::Draining { .. } => other(it.worker, Phase::Draining, it.until),
            LeavingPhase::Terminating => other(it.worker, Phase::Stopping, it.until),
        });
        candidate.into_iter().chain(leaving).collect()
    }

    /// All about one app.
    pub(crate) fn describe(&self, target: &str) -> Result<AppInfo, ApiError> {
        let id = self.catalog().resolve_app(target)?;
        let instances: Vec<InstanceView> = self.core.instances().filter(|view| view.app == id).collect();
        let Some(version) = self.catalog().present(id) else {
            return Err(crate::failure::failure(
                format!("{target:?} is being deleted"),
                None,
            ));
        };
        let (path, reason) = version.delivery().explain(self.interception.denied());
        let held = self.listeners.by_worker();
        let mut listeners: Vec<ListenerInfo> = self
            .listeners
            .groups(id)
            .map(|group| self.listener(&group))
            .collect();
        listeners.extend(self.listeners.shared(id).map(shared));
        listeners.extend(self.own(id, &instances));
        Ok(AppInfo {
            plane: path.wire_name().to_owned(),
            plane_reason: reason,
            generation: self.core.app(id).map_or(0, |app| app.generation.0),
            processes: instances
                .iter()
                .filter_map(|view| self.process(view.id, &held, false))
                .collect(),
            listeners,
            spec: AppSpec::clone(version.spec()),
        })
    }

    fn listener(&self, group: &GroupView) -> ListenerInfo {
        let upstreams = self.fronts.upstreams(group.id);
        let trouble = self.fronts.trouble(group.id);
        let slots = group.slots.iter().map(|slot| SlotInfo {
            instance: slot
                .holder
                .and_then(|worker| self.instance_of(worker))
                .map_or(0, |id| id.0),
            eligible: slot.eligible,
            queued: slot
                .queue
                .len
                .saturating_add(self.handoffs.unanswered_at(self.listeners, slot.slot)),
            backlog: slot.queue.max,
            steered: slot.steered,
            connections: slot.connections.or_else(|| self.handed_to(slot)),
            rescued: slot.rescued,
            proxied: upstreams
                .iter()
                .flatten()
                .find(|upstream| upstream.id.0 == slot.slot.0)
                .map(proxied),
        });
        ListenerInfo {
            address: tcp(group.addr),
            steering: group.mechanism.name.to_owned(),
            reason: match trouble {
                Some(trouble) => format!("{}; {trouble}", group.mechanism.reason),
                None => group.mechanism.reason.clone(),
            },
            slots: slots.collect(),
        }
    }

    /// How many connections the worker of a slot has that were handed to it, where that is counted.
    fn handed_to(&self, slot: &SlotView) -> Option<u64> {
        let counted = self.listeners.is_handoff(slot.slot)
            && self.listeners.policy_of(slot.slot) == rpm_listen::SteeringPolicy::LeastConnections;
        counted.then(|| slot.holder.map_or(0, |worker| self.handoffs.open(worker) as u64))
    }

    /// What the workers of an app listen on without the daemon.
    fn own(&self, app: AppId, instances: &[InstanceView]) -> Vec<ListenerInfo> {
        let cluster = !self.catalog().is_fork(app);
        let intercepted = self
            .catalog()
            .present(app)
            .is_some_and(|version| self.interception.applies_to(version.delivery()));
        let reason = |id: InstanceId| match (intercepted, cluster) {
            (true, _) => format!(
                "opened by worker {id} itself, not balanced: a random port, or one that --ports leaves out"
            ),
            (false, true) => {
                format!("opened by worker {id} itself (exclusive, or not through node:cluster): not balanced")
            }
            (false, false) => "fork mode: the process owns its ports".to_owned(),
        };
        let info = |(id, addr): (InstanceId, SocketAddr)| ListenerInfo {
            address: tcp(addr),
            steering: "own".to_owned(),
            reason: reason(id),
            slots: Vec::new(),
        };
        let own = own_listeners(self.listeners, self.workers, app, instances);
        own.into_iter().map(info).collect()
    }

    /// Whether the metrics are served, and by which process.
    pub(crate) fn observed(&self) -> ObserveInfo {
        let Some(app) = self.catalog().find_hidden(OBSERVE) else {
            return ObserveInfo::default();
        };
        let held = self.listeners.by_worker();
        let first = self.catalog().instances_of(app).into_iter().next();
        ObserveInfo {
            observe: self.catalog().given(app).and_then(settings_of),
            process: first.and_then(|id| self.process(id, &held, false)),
        }
    }

    /// The processes that these targets mean.
    pub(crate) fn meant_by(&self, targets: &[String]) -> Result<Vec<Known>, ApiError> {
        let instances = self.catalog().resolve(targets)?;
        Ok(self.known_of(|id| instances.binary_search(&id).is_ok()))
    }

    /// The log files that these targets mean; none: all, and that of the daemon.
    pub(crate) fn log_files(&self, targets: &[String]) -> Result<Vec<(PathBuf, Behalf)>, ApiError> {
        let all = targets.is_empty();
        let instances = match all {
            true => self.core.instances().map(|view| view.id).collect(),
            false => self.catalog().resolve(targets)?,
        };
        let mut files: BTreeMap<PathBuf, Behalf> = BTreeMap::new();
        for id in instances {
            let app = self.core.instance(id).map(|view| view.app);
            if let Some(spec) = app.and_then(|app| self.catalog().present_spec(app)) {
                let logs = crate::workers::outputs::logs_of(self.home, spec, id);
                let behalf = Behalf::of(spec);
                let paths = [Some(logs.out), Some(logs.err), logs.both].into_iter().flatten();
                files.extend(paths.map(|path| (path, behalf.clone())));
            }
        }
        if all {
            files.insert(self.home.daemon_log(), Behalf::default());
        }
        Ok(files.into_iter().collect())
    }

    pub(crate) fn instance_of(&self, worker: WorkerId) -> Option<InstanceId> {
        self.workers.get(&worker).map(|worker| worker.instance)
    }
}

fn proxied(upstream: &UpstreamFigures) -> ProxiedInfo {
    ProxiedInfo {
        requests: upstream.requests,
        in_flight: upstream.in_flight,
        latency_us: upstream.latency_us,
        ejections: upstream.ejections,
        circuit: match (upstream.ill, upstream.ejected) {
            (true, _) => Circuit::Ill,
            (false, true) => Circuit::Open,
            (false, false) => Circuit::Closed,
        },
    }
}

fn shared(kind: &SharedKind) -> ListenerInfo {
    let reason = match kind {
        SharedKind::Udp(_) => "all workers read from one UDP socket",
        SharedKind::Unix(_) | SharedKind::File { .. } => "all workers accept from one Unix socket",
    };
    ListenerInfo {
        address: shared_address(kind),
        steering: "shared".to_owned(),
        reason: reason.to_owned(),
        slots: Vec::new(),
    }
}

fn shared_address(kind: &SharedKind) -> String {
    match kind {
        SharedKind::Udp(addr) => format!("udp {addr}"),
        SharedKind::Unix(path) | SharedKind::File { path, .. } => format!("unix {}", path.display()),
    }
}

fn tcp(addr: SocketAddr) -> String {
    format!("tcp {addr}")
}

/// What to ask for on this machine. Connections that the proxy passes on as they are may be of any protocol, and without it
/// nobody says which one it is: most speak HTTP.
fn url(addr: SocketAddr, spec: &AppSpec, proxied: bool) -> Option<String> {
    if proxied && spec.proxy.protocol.as_deref() == Some("tcp") {
        return None;
    }
    let (scheme, usual) = match proxied && !spec.proxy.tls_cert.is_empty() {
        true => ("https", 443),
        false => ("http", 80),
    };
    let host = match addr.ip() {
        ip if ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST => "localhost".to_owned(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    Some(match addr.port() {
        port if port == usual => format!("{scheme}://{host}"),
        port => format!("{scheme}://{host}:{port}"),
    })
}

pub(super) fn status(state: &StateView) -> Status {
    match state {
        StateView::Launching { .. } => Status::Launching,
        StateView::Online { .. } => Status::Online,
        StateView::Stopping { .. } => Status::Stopping,
        StateView::Stopped => Status::Stopped,
        StateView::WaitingRestart { .. } => Status::WaitingRestart,
        StateView::Errored => Status::Errored,
    }
}

fn exit_code(exit: Exit) -> i32 {
    match exit {
        Exit::Code(code) => code,
        Exit::Signal(number) => 128 + number,
    }
}

#[cfg(test)]
mod tests {
    use rpm_wire::api::{Balance, ExecMode, ProxySpec};

    use super::*;
    use crate::apps::delivery::Delivery;

    #[test]
    fn where_clients_on_this_machine_find_an_app() {
        let direct = AppSpec::default();
        let proxied = |proxy| AppSpec {
            exec_mode: ExecMode::Cluster,
            balance: Balance::Proxy,
            proxy,
            ..AppSpec::default()
        };
        let tls = proxied(ProxySpec {
            tls_cert: vec!["/srv/cert.pem".to_owned()],
            ..ProxySpec::default()
        });
        let passed_on = proxied(ProxySpec {
            protocol: Some("tcp".to_owned()),
            ..ProxySpec::default()
        });
        let plain = proxied(ProxySpec::default());
        let cases = [
            ("[::]:3000", &direct, Some("http://localhost:3000")),
            ("0.0.0.0:80", &direct, Some("http://localhost")),
            ("127.0.0.1:443", &direct, Some("http://localhost:443")),
            ("[::1]:3000", &direct, Some("http://[::1]:3000")),
            ("192.0.2.7:3000", &direct, Some("http://192.0.2.7:3000")),
            ("[::]:3000", &plain, Some("http://localhost:3000")),
            ("[::]:8443", &tls, Some("https://localhost:8443")),
            ("[::]:443", &tls, Some("https://localhost")),
            ("[::]:5432", &passed_on, None),
        ];
        for (addr, spec, wanted) in cases {
            let addr = addr.parse().expect("an address");
            let fronted = Delivery::of(spec).is_fronted();
            assert_eq!(url(addr, spec, fronted).as_deref(), wanted, "{addr}");
        }
    }
}
