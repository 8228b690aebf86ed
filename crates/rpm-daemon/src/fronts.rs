//! What the proxy is told: which addresses it serves, and which workers are behind them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rpm_core::{AppId, GroupId, SlotId};
use rpm_proxy::{Figures, Front, Policy, Proxy, Settings, Target, UpstreamId};
use tracing::error;

use crate::app::cpus;
use crate::supervisor::Supervisor;

/// The addresses that the proxy serves. Its threads are started when there is the first.
#[derive(Default)]
pub(crate) struct Fronts {
    proxy: Option<Proxy>,
    open: BTreeMap<GroupId, Open>,
}

struct Open {
    app: AppId,
    front: Arc<Front>,
    targets: Vec<Target>,
}

impl Fronts {
    /// What the fronts of an app have done.
    pub(crate) fn figures(&self, app: AppId) -> impl Iterator<Item = Figures> {
        let ours = self.open.values().filter(move |open| open.app == app);
        ours.map(|open| open.front.figures())
    }

    fn open(&mut self, fronted: &rpm_listen::Fronted<'_>) -> io::Result<()> {
        let proxy = match self.proxy.take() {
            Some(proxy) => proxy,
            None => Proxy::start(cpus() as usize)?,
        };
        let front = Front::new(Settings {
            policy: policy(fronted.policy),
            ..Settings::default()
        });
        let listeners = fronted.listeners(proxy.threads());
        let opened = listeners.and_then(|listeners| proxy.open(fronted.group.0, listeners, &front));
        self.proxy = Some(proxy);
        self.open.insert(
            fronted.group,
            Open {
                app: fronted.app,
                front,
                targets: Vec::new(),
            },
        );
        opened
    }
}

impl Supervisor {
    /// Brings the proxy in line with the listeners.
    pub(crate) fn tend_fronts(&mut self) {
        let fronts = &mut self.fronts;
        let mut there = Vec::new();
        for fronted in self.listeners.fronted() {
            there.push(fronted.group);
            if !fronts.open.contains_key(&fronted.group)
                && let Err(error) = fronts.open(&fronted)
            {
                error!(group = %fronted.group, %error, "the proxy cannot serve an address");
            }
            let Some(open) = fronts.open.get_mut(&fronted.group) else {
                continue;
            };
            let target = |(slot, addr, weight): &(SlotId, SocketAddr, u32)| {
                let id = UpstreamId(slot.0);
                let before = open.targets.iter().find(|target| target.id == id);
                let holder = self
                    .listeners
                    .holder(*slot)
                    .and_then(|worker| self.workers.get(&worker));
                Target {
                    id,
                    addr: *addr,
                    weight: *weight,
                    // While its worker is replaced nobody holds it.
                    key: holder.map_or_else(
                        || before.map_or(0, |target| target.key),
                        |worker| worker.instance.0,
                    ),
                }
            };
            let targets: Vec<Target> = fronted.upstreams.iter().map(target).collect();
            if open.targets != targets {
                open.front.set_upstreams(&targets);
                open.targets = targets;
            }
        }
        let proxy = &fronts.proxy;
        fronts.open.retain(|group, _| {
            let stays = there.contains(group);
            if let (false, Some(proxy)) = (stays, proxy) {
                proxy.close(group.0);
            }
            stays
        });
    }
}

fn policy(policy: rpm_listen::Policy) -> Policy {
    match policy {
        rpm_listen::Policy::RoundRobin => Policy::RoundRobin,
        rpm_listen::Policy::LeastConnections => Policy::LeastInFlight,
        rpm_listen::Policy::IpHash => Policy::IpHash,
        rpm_listen::Policy::Weighted => Policy::Weighted,
    }
}
