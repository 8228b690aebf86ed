//! What the proxy is told: which addresses it serves, which workers are behind them, and what it is to do.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rpm_core::{AppId, Core, GroupId};
use rpm_keeper::Kept;
use rpm_listen::{Listeners, Upstream};
use rpm_proxy::{Figures, Front, HealthReports, Proxy, SPANS, Spans, Target, UpstreamFigures, UpstreamId};
use rpm_wire::api::AppSpec;
use tokio::sync::mpsc;
use tracing::error;

use crate::apps::app::{Apps, cpus};
use crate::apps::catalog::Catalog;
use crate::apps::revision::Version;
use crate::persist::state::Store;
use crate::proxy::credentials::private;
use crate::proxy::redirect::Redirect;
use crate::proxy::settings::{Hearers, settings};
use crate::workers::worker::Workers;

/// Settings that the first client waits for are tried again after so long.
const AGAIN: Duration = Duration::from_secs(1);

/// The addresses that the proxy serves. Its threads are started when there is the first.
pub(crate) struct Fronts {
    proxy: Option<Proxy>,
    open: BTreeMap<GroupId, Open>,
    /// Sockets that workers have kept for this daemon, until all fronts are open.
    pub(crate) kept: Vec<Kept<OwnedFd>>,
    hearers: Hearers,
}

/// What the proxy goes by: lent by the supervisor.
pub(crate) struct Context<'a> {
    pub(crate) core: &'a Core,
    pub(crate) apps: &'a Apps,
    pub(crate) workers: &'a Workers,
    pub(crate) listeners: &'a mut Listeners,
    pub(crate) store: &'a mut Store,
}

struct Open {
    app: AppId,
    front: Arc<Front>,
    targets: Vec<Target>,
    /// What the front was told last, and when.
    spec: Option<(Arc<AppSpec>, Instant)>,
    /// It has settings that hold: without them it would speak HTTP in clear text, and has no clients.
    is_set: bool,
    accepts: bool,
    /// It has had workers that served: there may be clients.
    served: bool,
    /// Its clients are asked to go.
    leaves: bool,
    /// The port whose clients are sent on to this one.
    redirect: Option<Redirect>,
    /// What of that it cannot do.
    trouble: Option<String>,
}

impl Fronts {
    /// None yet. `health` hears of workers that fail their health check.
    pub(crate) fn new(health: HealthReports) -> Fronts {
        let spans = Arc::new(Spans::new(SPANS));
        Fronts {
            proxy: None,
            open: BTreeMap::new(),
            kept: Vec::new(),
            hearers: Hearers { spans, health },
        }
    }

    /// What the fronts of an app have done.
    pub(crate) fn figures(&self, app: AppId) -> impl Iterator<Item = Figures> {
        let ours = self.open.values().filter(move |open| open.app == app);
        ours.map(|open| open.front.figures())
    }

    /// The spans of sampled requests.
    pub(crate) fn spans(&self) -> Arc<Spans> {
        Arc::clone(&self.hearers.spans)
    }

    /// What is known of the upstreams of a front.
    pub(crate) fn upstreams(&self, group: GroupId) -> Option<Vec<UpstreamFigures>> {
        Some(self.open.get(&group)?.front.figures().upstreams)
    }

    /// What a front cannot do of what it is to do.
    pub(crate) fn trouble(&self, group: GroupId) -> Option<&str> {
        self.open.get(&group)?.trouble.as_deref()
    }

    /// Has clients go, or goes on.
    pub(crate) fn part(&self, parts: Parting) {
        let Some(proxy) = &self.proxy else { return };
        for (group, open) in &self.open {
            match parts {
                Parting::Stays => proxy.leave(group.0, open.leaves),
                Parting::Thinned => proxy.thin(group.0),
                Parting::Asked => proxy.part(group.0),
                Parting::Idle => proxy.clear(group.0),
            }
            if let Some(redirect) = &open.redirect {
                redirect.part(proxy, parts);
            }
        }
    }

    /// Ends when the proxy has done what it was told.
    pub(crate) fn reached(&self) -> Option<mpsc::Receiver<()>> {
        self.proxy.as_ref().map(Proxy::reached)
    }

    /// The connections of all clients, and the requests that are not answered yet.
    pub(crate) fn busy(&self) -> (u32, u32) {
        self.open.values().fold((0, 0), |(connections, requests), open| {
            let figures = open.front.figures();
            let sent_on = open.redirect.as_ref().map_or(0, Redirect::connections);
            (
                connections + figures.connections + sent_on,
                requests + figures.in_flight + figures.queued,
            )
        })
    }

    fn open(&mut self, fronted: &rpm_listen::Fronted<'_>) -> io::Result<()> {
        if self.proxy.is_none() {
            self.proxy = Some(Proxy::start(cpus() as usize)?);
        }
        let open = Open {
            app: fronted.app,
            front: Front::new(),
            targets: Vec::new(),
            spec: None,
            is_set: false,
            accepts: false,
            served: false,
            leaves: false,
            redirect: None,
            trouble: None,
        };
        self.open.insert(fronted.group, open);
        Ok(())
    }

    /// When settings are tried again that the first client waits for.
    pub(crate) fn due(&self) -> Option<Instant> {
        let told = self.open.values().filter(|open| !open.is_set);
        let told = told.filter_map(|open| Some(open.spec.as_ref()?.1 + AGAIN));
        // One that is not told any more is not waited for either.
        told.filter(|due| due.elapsed() < AGAIN).min()
    }

    /// Why the proxy could not serve a worker of this app as it is to, if it does not serve one yet.
    pub(crate) fn refuses(&self, version: &Version) -> Option<String> {
        let spec = version.spec();
        let same = |open: &Open| open.spec.as_ref().is_some_and(|(known, _)| known == spec);
        if !version.delivery().is_fronted() || self.open.values().any(|open| open.is_set && same(open)) {
            return None;
        }
        let refused = Front::new().set(settings(spec, &self.hearers)).err()?;
        Some(format!("{} cannot be behind the proxy: {refused}", spec.name))
    }
}

/// Which clients are to go before the daemon becomes another program.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Parting {
    /// None.
    Stays,
    /// Those of HTTP/1, each with its next answer.
    Thinned,
    /// All, each with its next answer, and no more are accepted.
    Asked,
    /// Those that ask for nothing, too.
    Idle,
}

/// What a front is told with.
struct Means<'m> {
    proxy: &'m Proxy,
    kept: &'m mut Vec<Kept<OwnedFd>>,
    hearers: &'m Hearers,
}

impl Open {
    /// Tells the front what it is to do, if that is something else than before.
    fn tell(
        &mut self,
        fronted: &rpm_listen::Fronted<'_>,
        spec: Option<&Arc<AppSpec>>,
        means: &mut Means<'_>,
    ) {
        let same = |new: &Arc<AppSpec>| match &self.spec {
            Some((old, told)) => Arc::ptr_eq(old, new) && (self.is_set || told.elapsed() < AGAIN),
            None => false,
        };
        let Some(new) = spec.filter(|new| !same(new)) else {
            return;
        };
        self.spec = Some((Arc::clone(new), Instant::now()));
        match self.front.set(settings(new, means.hearers)) {
            Ok(()) => (self.is_set, self.trouble) = (true, None),
            Err(error) => {
                let told = self.trouble.replace(error.to_string());
                match self.is_set {
                    true => error!(app = new.name, %error, "the proxy goes on as before"),
                    false if told == self.trouble => {}
                    false => {
                        error!(app = new.name, %error, "the proxy accepts no client until that is mended");
                    }
                }
            }
        }
        let wanted = new.proxy.redirect_http.and_then(|port| u16::try_from(port).ok());
        if wanted == self.redirect.as_ref().map(|redirect| redirect.port) {
            return;
        }
        if let Some(redirect) = self.redirect.take() {
            redirect.close(means.proxy);
        }
        let Some(port) = wanted else { return };
        match Redirect::open(fronted, port, means.proxy, means.kept) {
            Ok(redirect) => {
                self.redirect = Some(redirect);
            }
            Err(error) => {
                error!(app = new.name, port, %error, "cannot listen for clients that are to be sent to https");
                self.trouble = Some(format!(
                    "port {port}, whose clients are to be sent to https, cannot be opened: {error}"
                ));
            }
        }
    }

    /// Has the proxy accept its clients, which may have to speak TLS: not before settings hold.
    fn accept(&mut self, fronted: &rpm_listen::Fronted<'_>, proxy: &Proxy) {
        if !self.is_set || std::mem::replace(&mut self.accepts, true) {
            return;
        }
        let listeners = fronted.listeners();
        let opened = listeners.and_then(|all| proxy.open(fronted.group.0, all, &self.front));
        if let Err(error) = opened {
            error!(group = %fronted.group, %error, "the proxy cannot serve an address");
        }
    }
}

impl Fronts {
    /// Brings the proxy in line with the listeners.
    pub(crate) fn tend(&mut self, ctx: &mut Context<'_>) {
        let (mut there, mut left) = (Vec::new(), Vec::new());
        for fronted in ctx.listeners.fronted() {
            there.push(fronted.group);
            let spec = ctx.spec_for(&fronted);
            if !self.open.contains_key(&fronted.group)
                && let Err(error) = self.open(&fronted)
            {
                error!(group = %fronted.group, %error, "the proxy cannot serve an address");
            }
            let (Some(open), Some(proxy)) = (self.open.get_mut(&fronted.group), &self.proxy) else {
                continue;
            };
            if !fronted.leaves || !open.is_set {
                let mut means = Means {
                    proxy,
                    kept: &mut self.kept,
                    hearers: &self.hearers,
                };
                open.tell(&fronted, spec, &mut means);
            }
            open.accept(&fronted, proxy);
            open.served |= !fronted.leaves && !fronted.upstreams.is_empty();
            // Before the first of its workers serves it has no clients, and is not left: whoever comes in the moment in which it gets them
            // waits for them, for the address is its own then.
            let leaves = fronted.leaves && open.served;
            if open.leaves != leaves {
                open.leaves = leaves;
                proxy.leave(fronted.group.0, open.leaves);
            }
            if fronted.leaves
                && fronted.empty
                && open.front.figures().connections == 0
                && !fronted.is_awaited()
            {
                left.push(fronted.group);
            }
            let target = |upstream: &_| ctx.target(upstream, &open.targets);
            let upstreams = fronted.upstreams.iter().filter(|_| leaves || !fronted.leaves);
            let reserved = fronted
                .ineligible
                .iter()
                .filter(|upstream| ctx.core.is_reserved(upstream.slot));
            let reserved = reserved.map(|upstream| Target {
                reserved: true,
                ..target(upstream)
            });
            let targets: Vec<Target> = upstreams.map(target).chain(reserved).collect();
            if open.targets != targets {
                open.front.set_upstreams(&targets);
                open.targets = targets;
            }
        }
        for group in left {
            there.retain(|other| *other != group);
            // The next daemon must know which sockets the kernel chooses from.
            ctx.store.changed();
            if let Err(error) = ctx.listeners.close_front(group) {
                error!(%group, %error, "the proxy cannot leave an address to the workers");
            }
        }
        self.kept.clear();
        let proxy = &self.proxy;
        self.open.retain(|group, open| {
            let stays = there.contains(group);
            if let (false, Some(proxy)) = (stays, proxy) {
                proxy.close(group.0);
                // It was stopped, or is gone: what its workers have not answered nobody will.
                open.front.end();
                if let Some(redirect) = open.redirect.take() {
                    redirect.close(proxy);
                }
            }
            stays
        });
    }
}

impl Context<'_> {
    /// What the front is to do. While it leaves, what it was told holds: the app's specification is that of workers without a proxy. One that
    /// was told nothing does as they do.
    fn spec_for(&self, fronted: &rpm_listen::Fronted<'_>) -> Option<&Arc<AppSpec>> {
        let present = Catalog::new(self.core, self.apps).present(fronted.app);
        let mut behind = fronted.workers.iter().filter_map(|id| self.workers.get(id));
        let own = present.filter(|version| version.delivery().is_fronted());
        own.map(Version::spec)
            .or_else(|| Some(&behind.find(|held| held.delivery.is_fronted())?.spec))
            .or_else(|| present.filter(|_| fronted.leaves).map(Version::spec))
    }

    fn target(&self, upstream: &Upstream, before: &[Target]) -> Target {
        let id = UpstreamId(upstream.slot.0);
        let holder = self.listeners.holder(upstream.slot);
        let holder = holder.and_then(|worker| self.workers.get(&worker));
        // While its worker is replaced nobody holds it.
        let known = || {
            before
                .iter()
                .find(|target| target.id == id)
                .map_or(0, |target| target.key)
        };
        Target {
            id,
            addr: private(upstream.addr),
            weight: upstream.weight,
            key: holder.map_or_else(known, |worker| worker.instance.0),
            reserved: false,
        }
    }
}
