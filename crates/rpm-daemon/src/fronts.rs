//! What the proxy is told: which addresses it serves, which workers are behind them, and what it is to do.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rpm_core::{AppId, GroupId, SlotId};
use rpm_keeper::Kept;
use rpm_proxy::network::Network;
use rpm_proxy::{
    Certificate, Check, Figures, Front, LogSettings, Opener, Policy, Proxy, Settings, Target,
    UpstreamFigures, UpstreamId,
};
use rpm_wire::api::{ApiError, AppSpec, Balance, ProxySpec};
use tokio::sync::mpsc;
use tracing::error;

use crate::app::{cpus, is_proxied};
use crate::behalf::{Behalf, How};
use crate::commands::failure;
use crate::redirect::Redirect;
use crate::supervisor::Supervisor;

/// Bad answers to health checks in a row after which a worker gets no requests.
const BAD_CHECKS: u32 = 3;

/// The addresses that the proxy serves. Its threads are started when there is the first.
#[derive(Default)]
pub(crate) struct Fronts {
    proxy: Option<Proxy>,
    open: BTreeMap<GroupId, Open>,
    /// Sockets that workers have kept for this daemon, until all fronts are open.
    pub(crate) kept: Vec<Kept<OwnedFd>>,
}

struct Open {
    app: AppId,
    front: Arc<Front>,
    targets: Vec<Target>,
    /// What the front was told last.
    spec: Option<Arc<AppSpec>>,
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
    /// What the fronts of an app have done.
    pub(crate) fn figures(&self, app: AppId) -> impl Iterator<Item = Figures> {
        let ours = self.open.values().filter(move |open| open.app == app);
        ours.map(|open| open.front.figures())
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
            let in_flight: u32 = figures.upstreams.iter().map(|one| one.in_flight).sum();
            let sent_on = open.redirect.as_ref().map_or(0, Redirect::connections);
            (
                connections + figures.connections + sent_on,
                requests + in_flight + figures.queued,
            )
        })
    }

    fn open(&mut self, fronted: &rpm_listen::Fronted<'_>, spec: Option<&Arc<AppSpec>>) -> io::Result<()> {
        let proxy = match self.proxy.take() {
            Some(proxy) => proxy,
            None => Proxy::start(cpus() as usize)?,
        };
        let front = Front::new();
        let mut open = Open {
            app: fronted.app,
            front: Arc::clone(&front),
            targets: Vec::new(),
            spec: None,
            served: false,
            leaves: false,
            redirect: None,
            trouble: None,
        };
        // Before the first client comes: it may have to speak TLS.
        open.tell(fronted, spec, &proxy, &mut self.kept);
        let listeners = fronted.listeners();
        let opened = listeners.and_then(|listeners| proxy.open(fronted.group.0, listeners, &front));
        self.proxy = Some(proxy);
        self.open.insert(fronted.group, open);
        opened
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

impl Open {
    /// Tells the front what it is to do, if that is something else than before.
    fn tell(
        &mut self,
        fronted: &rpm_listen::Fronted<'_>,
        spec: Option<&Arc<AppSpec>>,
        proxy: &Proxy,
        kept: &mut Vec<Kept<OwnedFd>>,
    ) {
        let same = match (&self.spec, spec) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (_, None) => self.spec.is_none(),
            (None, Some(_)) => false,
        };
        let Some(new) = spec.filter(|_| !same) else {
            return;
        };
        self.spec = Some(Arc::clone(new));
        self.trouble = None;
        if let Err(error) = self.front.set(settings(new)) {
            error!(app = new.name, %error, "the proxy goes on as before");
            self.trouble = Some(error.to_string());
        }
        let wanted = new.proxy.redirect_http.and_then(|port| u16::try_from(port).ok());
        if wanted == self.redirect.as_ref().map(|redirect| redirect.port) {
            return;
        }
        if let Some(redirect) = self.redirect.take() {
            redirect.close(proxy);
        }
        let Some(port) = wanted else { return };
        match Redirect::open(fronted, port, proxy, kept) {
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
}

impl Supervisor {
    /// Brings the proxy in line with the listeners.
    pub(crate) fn tend_fronts(&mut self) {
        let mut fronts = std::mem::take(&mut self.fronts);
        let (mut there, mut left) = (Vec::new(), Vec::new());
        for fronted in self.listeners.fronted() {
            there.push(fronted.group);
            let spec = self.present_spec(fronted.app);
            if !fronts.open.contains_key(&fronted.group)
                && let Err(error) = fronts.open(&fronted, spec)
            {
                error!(group = %fronted.group, %error, "the proxy cannot serve an address");
            }
            let (Some(open), Some(proxy)) = (fronts.open.get_mut(&fronted.group), &fronts.proxy) else {
                continue;
            };
            // While it leaves, what it was told holds: the app's specification is that of workers without a proxy.
            if !fronted.leaves {
                let spec = spec.filter(|spec| is_proxied(spec));
                open.tell(&fronted, spec, proxy, &mut fronts.kept);
            }
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
            let target = |upstream: &_| self.target(upstream, &open.targets);
            let upstreams = fronted.upstreams.iter().filter(|_| leaves || !fronted.leaves);
            let reserved = fronted
                .aside
                .iter()
                .filter(|(slot, ..)| self.core.is_reserved(*slot));
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
            self.store.changed();
            if let Err(error) = self.listeners.close_front(group) {
                error!(%group, %error, "the proxy cannot leave an address to the workers");
            }
        }
        fronts.kept.clear();
        let proxy = &fronts.proxy;
        fronts.open.retain(|group, open| {
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
        self.fronts = fronts;
    }
}

impl Supervisor {
    fn target(&self, (slot, addr, weight): &(SlotId, SocketAddr, u32), before: &[Target]) -> Target {
        let id = UpstreamId(slot.0);
        let holder = self.listeners.holder(*slot);
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
            addr: *addr,
            weight: *weight,
            key: holder.map_or_else(known, |worker| worker.instance.0),
            reserved: false,
        }
    }
}

/// Can the proxy do what is asked of it?
///
/// # Errors
/// No: why, and what to do.
pub(crate) fn check(spec: &AppSpec) -> Result<(), ApiError> {
    let proxy = &spec.proxy;
    let name = &spec.name;
    if spec.balance != Balance::Proxy {
        let policy = spec.policy == rpm_wire::api::Policy::Latency;
        if *proxy != ProxySpec::default() || policy {
            let what = if policy {
                "the policy `latency`"
            } else {
                "its settings of the proxy"
            };
            return Err(failure(
                format!("{name} is not behind the proxy: {what} would have no effect"),
                Some("add --balance proxy (`balance: 'proxy'` in a file)"),
            ));
        }
        return Ok(());
    }
    if proxy.tls_cert.len() != proxy.tls_key.len() {
        return Err(failure(
            format!(
                "{name} has {} certificates and {} keys",
                proxy.tls_cert.len(),
                proxy.tls_key.len()
            ),
            Some("give each --tls-cert its --tls-key, in the same order"),
        ));
    }
    if proxy.redirect_http.is_some() && proxy.tls_cert.is_empty() {
        return Err(failure(
            format!("{name} has no certificate: its clients cannot be sent to https"),
            Some("give it --tls-cert and --tls-key, or leave --redirect-http out"),
        ));
    }
    if let Some(cookie) = &proxy.sticky
        && !cookie
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    {
        return Err(failure(
            format!("{cookie:?} cannot be the name of a cookie"),
            Some("letters, digits, - and _ only: --sticky worker"),
        ));
    }
    if proxy.protocol.as_deref() == Some("h2c") && spec.health_check.is_some() {
        return Err(failure(
            format!(
                "{name} has a health check, which is asked in HTTP/1.1, and workers that speak HTTP/2 alone"
            ),
            Some("leave --health-check out: workers that do not answer are found by the requests that fail"),
        ));
    }
    if proxy.check_interval_ms.is_some() && spec.health_check.is_none() {
        return Err(failure(
            format!("{name} has no health check that could be made again and again"),
            Some("say which path is asked: --health-check /health"),
        ));
    }
    check_networks(proxy)?;
    rpm_proxy::tls::check(&certificates(proxy)).map_err(|error| {
        failure(
            format!("{name} cannot serve TLS: {error}"),
            Some("--tls-cert names a PEM file with the certificate and those above it, --tls-key one with its private key, which the daemon's user may read"),
        )
    })
}

fn certificates(proxy: &ProxySpec) -> Vec<Certificate> {
    let pairs = proxy.tls_cert.iter().zip(&proxy.tls_key);
    let pair = |(chain, key): (&String, &String)| Certificate {
        chain: chain.into(),
        key: key.into(),
    };
    pairs.map(pair).collect()
}

fn check_networks(proxy: &ProxySpec) -> Result<(), ApiError> {
    let mut all = proxy.trust_forwarded.iter().chain(&proxy.proxy_protocol);
    match all.find_map(|text| text.parse::<Network>().err()) {
        None => Ok(()),
        Some(error) => Err(failure(
            error.to_string(),
            Some("name whose word is taken: --trust-forwarded=10.0.0.0/8,::1"),
        )),
    }
}

/// They were looked at before.
fn networks(said: &[String]) -> Vec<Network> {
    said.iter().filter_map(|text| text.parse().ok()).collect()
}

fn settings(spec: &AppSpec) -> Settings {
    let proxy = &spec.proxy;
    let usual = Settings::default();
    let time = |ms: Option<u64>, usual: Duration| ms.map_or(usual, Duration::from_millis);
    let check = spec.health_check.as_ref().zip(proxy.check_interval_ms);
    Settings {
        policy: policy(spec.policy),
        connect_timeout: time(proxy.connect_timeout_ms, usual.connect_timeout),
        response_timeout: time(proxy.response_timeout_ms, usual.response_timeout),
        request_timeout: proxy.request_timeout_ms.map(Duration::from_millis),
        header_timeout: time(proxy.header_timeout_ms, usual.header_timeout),
        hold_timeout: time(proxy.hold_timeout_ms, usual.hold_timeout),
        idle_timeout: time(proxy.idle_timeout_ms, usual.idle_timeout),
        stream_timeout: time(proxy.stream_timeout_ms, usual.stream_timeout),
        tunnel_timeout: time(proxy.tunnel_timeout_ms, usual.tunnel_timeout),
        queue_timeout: time(proxy.queue_timeout_ms, usual.queue_timeout),
        slow_start: time(proxy.slow_start_ms, usual.slow_start),
        retries: proxy.retries.unwrap_or(usual.retries),
        trust_forwarded: networks(&proxy.trust_forwarded),
        allow_underscores: proxy.allow_underscores,
        max_body: proxy.max_body.unwrap_or(usual.max_body),
        max_in_flight: proxy.max_in_flight,
        queue_limit: proxy.queue_limit.unwrap_or(usual.queue_limit),
        cookie: proxy.sticky.clone(),
        check: check.map(|(check, interval)| Check {
            path: check.path.clone(),
            status: check.status,
            interval: Duration::from_millis(interval),
            timeout: Duration::from_millis(check.timeout_ms),
            good: check.threshold,
            bad: BAD_CHECKS,
        }),
        max_connections: proxy.max_connections,
        max_streams: proxy.max_streams.unwrap_or(usual.max_streams),
        proxy_protocol: networks(&proxy.proxy_protocol),
        tcp: proxy.protocol.as_deref() == Some("tcp"),
        h2c: proxy.protocol.as_deref() == Some("h2c"),
        compress: proxy.compress,
        certificates: certificates(proxy),
        redirect: None,
        access_log: proxy.access_log.as_ref().map(|path| LogSettings {
            path: path.into(),
            opener: opener(Behalf::of(spec)),
            json: proxy.access_log_format.as_deref() == Some("json"),
            every: proxy.access_log_every.unwrap_or(1),
        }),
    }
}

fn opener(behalf: Behalf) -> Opener {
    Opener::new(behalf.uid(), move |path| behalf.open(path, How::AppendThere))
}

fn policy(policy: rpm_wire::api::Policy) -> Policy {
    match policy {
        rpm_wire::api::Policy::RoundRobin => Policy::RoundRobin,
        rpm_wire::api::Policy::LeastConnections => Policy::LeastInFlight,
        rpm_wire::api::Policy::IpHash => Policy::IpHash,
        rpm_wire::api::Policy::Weighted => Policy::Weighted,
        rpm_wire::api::Policy::Latency => Policy::Latency,
    }
}
