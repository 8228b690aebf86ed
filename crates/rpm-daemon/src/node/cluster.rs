//! The primary side of node:cluster: what a worker's messages mean.
//!
//! Protocol: Node's `lib/internal/cluster/{primary,child,shared_handle}.js`.

use std::mem;
use std::os::fd::OwnedFd;
use std::path::Path;

use rpm_core::protocol::Input;
use rpm_core::{AppId, WorkerId};
use rpm_listen::{Grant, OpenError, Request, Wanted};
use rpm_sys::socket;
use rpm_wire::channel::{self, Dialect, FromWorker, Handle, Malformed, QueryServer, ServerReply};
use rustix::io::Errno;
use tracing::{debug, info, warn};

use crate::apps::app::{is_handed, policy, proxy_sockets};
use crate::node::channel::Outgoing;
use crate::supervisor::Supervisor;
use crate::workers::launch::limit_hint;
use crate::workers::worker::{Awaiting, WITHHELD_LIMIT};

const EINVAL: i32 = Errno::INVAL.raw_os_error();
/// Listeners that a worker may have by its channel. Each costs the daemon descriptors, and what looks at all of them time.
const LISTENERS_LIMIT: usize = 256;
/// Answers with a descriptor that wait until the worker has answered a ping.
const ANSWERS_LIMIT: usize = 64;
/// Longest address, in bytes: no path of a socket and no IP address has as many.
const ADDRESS_LIMIT: usize = 4096;
/// What is remembered of a listener for other workers, in bytes of JSON: Node sends the keys of TLS tickets.
const DATA_LIMIT: usize = 16 * 1024;

impl Supervisor {
    pub(crate) fn message(&mut self, worker: WorkerId, message: Result<FromWorker, Malformed>) {
        let message = match message {
            Ok(message) => message,
            Err(error) => return self.malformed(worker, &error),
        };
        match message {
            FromWorker::Online => debug!(%worker, "the worker's runtime is up"),
            FromWorker::QueryServer(query) => self.query_server(worker, query),
            FromWorker::Listening { .. } => {
                // Where no call is intercepted it has set its own backlog.
                for slot in self.listeners.slots_of(worker) {
                    self.listeners.listen_private(slot);
                }
                self.input(Input::Listening { worker });
                // Whoever has answered once is known to understand: later silence then means a frozen loop.
                self.probe(worker);
            }
            FromWorker::Close { key, .. } => self.closed(worker, &key),
            FromWorker::ExitedAfterDisconnect { seq } => {
                self.send(worker, channel::ack(seq, Dialect::Node), None, None);
            }
            FromWorker::Ack { seq, accepted } => self.handoff_answered(seq, accepted.unwrap_or(false)),
            FromWorker::HandleAck => self.acknowledged(worker, true),
            FromWorker::HandleNack => self.acknowledged(worker, false),
            FromWorker::Handle { .. } => self.send(worker, channel::handle_ack(), None, None),
            FromWorker::Ready => self.input(Input::Ready { worker }),
            FromWorker::Message(message) => self.actions.hear(worker, &message, &self.workers),
            FromWorker::Internal { .. } => {}
        }
    }

    /// Nothing comes from the worker any more, and nothing gets there: it has ended, or disconnected itself.
    pub(crate) fn channel_ended(&mut self, worker: WorkerId) {
        if let Some(process) = self.workers.get_mut(&worker).and_then(|held| held.process_mut()) {
            process.channel = None;
        }
        self.handoffs.take_back(worker);
    }

    /// Logs at the first, second, fourth … line: a worker that sends nothing else must not fill the log.
    fn malformed(&mut self, worker: WorkerId, error: &Malformed) {
        let Some(held) = self.workers.get_mut(&worker) else {
            return;
        };
        held.malformed += 1;
        if held.malformed.is_power_of_two() {
            let count = held.malformed;
            warn!(%worker, %error, count, "a worker sent something that is not a message; it is ignored");
        }
    }

    /// Why a worker gets no more, if it has as much as it may.
    fn is_beyond(&mut self, worker: WorkerId, query: &QueryServer) -> Option<(Errno, String)> {
        if query
            .address
            .as_ref()
            .is_some_and(|text| text.len() > ADDRESS_LIMIT)
        {
            return Some((
                Errno::NAMETOOLONG,
                format!("an address of more than {ADDRESS_LIMIT} bytes"),
            ));
        }
        let held = self.workers.get_mut(&worker)?;
        if held
            .channel_mut()
            .is_some_and(|channel| channel.held() >= ANSWERS_LIMIT)
        {
            let why = format!("{ANSWERS_LIMIT} answers wait until it reads its channel");
            return Some((Errno::NOBUFS, why));
        }
        let (app, withheld) = (held.app, held.withheld.len());
        let known = || self.listeners.held(app, &query.key(), worker).is_some();
        let has = self.listeners.opened_by(worker) + withheld;
        (has >= LISTENERS_LIMIT && !known()).then(|| (Errno::MFILE, format!("it has {has} listeners")))
    }

    fn query_server(&mut self, worker: WorkerId, mut query: QueryServer) {
        let large = |data: &serde_json::Value| data.to_string().len() > DATA_LIMIT;
        query.data = query.data.filter(|data| !large(data));
        if let Some((errno, why)) = self.is_beyond(worker, &query) {
            self.complain(worker, "a worker gets no further listener", &why);
            // Nothing is remembered of it: neither a key, which may be long, nor data.
            let refused = ServerReply::Refuse(errno.raw_os_error());
            let reply = channel::reply_server(query.seq, "", refused, query.data.as_ref());
            return self.send(worker, reply, None, None);
        }
        let Some(held) = self.workers.get(&worker) else {
            return;
        };
        match Wanted::from_query(&query, Path::new(&held.spec.cwd)) {
            Ok(Wanted::WorkerFd(fd)) => self.own_descriptor(worker, &query, fd),
            Ok(wanted) if self.is_withheld(worker, &query.key(), &wanted) => self.withhold(worker, query),
            Ok(wanted) => self.open(worker, &query, &wanted, false),
            Err(error) => {
                self.complain(
                    worker,
                    "a worker asked for an address that makes no sense",
                    &error,
                );
                self.refuse(worker, &query, EINVAL);
            }
        }
    }

    /// Would what a new worker of a reload asks for take clients from the old ones before the reload is done? If it may
    /// not listen elsewhere than they it is refused instead.
    fn is_withheld(&self, worker: WorkerId, key: &str, wanted: &Wanted) -> bool {
        match wanted {
            Wanted::Tcp { addr, v6only } => {
                let app = self.workers.get(&worker).map(|held| held.app);
                let overlaps = app.is_some_and(|app| self.listeners.overlaps_own(app, key, *addr, *v6only));
                overlaps && self.may_move(worker)
            }
            Wanted::Udp { .. } | Wanted::Unix { .. } | Wanted::WorkerFd(_) => false,
        }
    }

    /// Is it a new worker of a reload that is not done, which may listen elsewhere than its predecessor?
    pub(crate) fn may_move(&self, worker: WorkerId) -> bool {
        let Some(held) = self.workers.get(&worker) else {
            return false;
        };
        let view = self.core.app(held.app);
        let may = view.as_ref().is_some_and(|app| app.config.allow_port_change);
        let reload = view.and_then(|app| app.reload);
        let generation = self.core.worker(worker).map(|view| view.generation);
        may && held.withheld.len() < WITHHELD_LIMIT
            && reload.is_some_and(|reload| Some(reload.generation) == generation)
    }

    fn withhold(&mut self, worker: WorkerId, query: QueryServer) {
        info!(%worker, key = query.key(), "a listener that overlaps an old one is opened when the reload is done");
        if let Some(held) = self.workers.get_mut(&worker) {
            held.withheld.push(query);
            self.input(Input::Withheld { worker });
        }
    }

    /// The reload of an app is done: its new workers get what was withheld from them.
    pub(crate) fn cut_over(&mut self, app: AppId) {
        self.let_go(app);
        let ours = self.workers.values_mut().filter(|held| held.app == app);
        let withheld = ours.map(|held| (held.id, held.spec.cwd.clone(), mem::take(&mut held.withheld)));
        for (worker, cwd, queries) in withheld.collect::<Vec<_>>() {
            for query in queries {
                if let Ok(wanted) = Wanted::from_query(&query, Path::new(&cwd)) {
                    self.open(worker, &query, &wanted, true);
                }
            }
        }
    }

    fn open(&mut self, worker: WorkerId, query: &QueryServer, wanted: &Wanted, beside: bool) {
        let Some(app) = self.workers.get(&worker).map(|held| held.app) else {
            return;
        };
        let key = query.key();
        let group = self.listeners.group(app, &key);
        let own = self.listeners.held(app, &key, worker);
        let inherits = own.or_else(|| group.and_then(|group| self.core.slot_for(worker, group)));
        let fixed = wanted.is_fixed();
        let user = match self.rights_for(worker, wanted) {
            Ok(user) => user,
            Err(error) => return self.refuse_for(worker, query, &error),
        };
        let request = Request {
            app,
            key: &key,
            worker,
            inherits,
            beside,
            policy: self.policy(worker),
            weight: self.weight(worker),
            handoff: self
                .workers
                .get(&worker)
                .is_some_and(|held| is_handed(&held.spec)),
            proxy: self.proxy_sockets(worker),
            user: user.as_ref(),
        };
        let (copy, held) = match self.listeners.open(wanted, &request) {
            Ok(Grant::Slot { slot, group, fd }) => (
                fd.try_clone_to_owned(),
                Input::SlotHeld {
                    slot,
                    group,
                    worker,
                    fixed,
                },
            ),
            Ok(Grant::Shared { group, fd, .. }) => (
                fd.try_clone_to_owned(),
                Input::SharedHeld { group, worker, fixed },
            ),
            Err(error) => return self.refuse_for(worker, query, &error),
        };
        // The core hears of every slot that is open: nobody else has it closed.
        self.input(held);
        let slot = self.listeners.held(app, &key, worker);
        let handed = slot.is_some_and(|slot| self.listeners.is_handoff(slot));
        match copy {
            Ok(fd) if handed => self.promise(worker, query, &fd),
            Ok(fd) => self.grant(worker, query, fd),
            Err(error) => {
                self.complain(
                    worker,
                    "no descriptor left for a listener; raise the limit (ulimit -n)",
                    &error,
                );
                self.closed(worker, &key);
                self.refuse(worker, query, error.raw_os_error().unwrap_or(EINVAL));
            }
        }
    }

    /// `listen({fd})`: the number is one of the worker's own, so it gets a copy of that.
    fn own_descriptor(&mut self, worker: WorkerId, query: &QueryServer, fd: i32) {
        match self.pidfd(worker).map(|pidfd| pidfd.getfd(fd)) {
            Some(Ok(fd)) => self.grant(worker, query, fd),
            Some(Err(error)) => {
                self.complain(
                    worker,
                    "a worker wants to listen on a descriptor it does not have",
                    &error,
                );
                self.refuse(worker, query, error.raw_os_error().unwrap_or(EINVAL));
            }
            None => {}
        }
    }

    fn grant(&mut self, worker: WorkerId, query: &QueryServer, fd: OwnedFd) {
        let kind = if query.address_type.is_udp() {
            Handle::Datagram
        } else {
            Handle::Stream
        };
        let reply = self.answer(worker, query, ServerReply::Lend(kind));
        self.send(worker, reply, Some(fd), Some(Awaiting::Listener));
    }

    /// The worker gets the connections of this slot one by one.
    fn promise(&mut self, worker: WorkerId, query: &QueryServer, slot: &OwnedFd) {
        match socket::local_addr(slot) {
            Ok(addr) => {
                let reply = self.answer(worker, query, ServerReply::Hand(addr));
                self.send(worker, reply, None, None);
            }
            Err(error) => self.refuse(worker, query, error.raw_os_error().unwrap_or(EINVAL)),
        }
    }

    fn refuse_for(&mut self, worker: WorkerId, query: &QueryServer, error: &OpenError) {
        self.trouble(worker, error);
        self.refuse(worker, query, error.errno());
    }

    fn refuse(&mut self, worker: WorkerId, query: &QueryServer, errno: i32) {
        let reply = self.answer(worker, query, ServerReply::Refuse(errno));
        self.send(worker, reply, None, None);
    }

    /// All workers of a group get the `data` of its first one (TLS ticket keys travel that way).
    fn answer(&mut self, worker: WorkerId, query: &QueryServer, reply: ServerReply) -> Vec<u8> {
        let key = query.key();
        let app = self.workers.get(&worker).map(|worker| worker.app);
        let data = app.and_then(|app| self.apps.first_data(app, &key, query.data.as_ref()));
        channel::reply_server(query.seq, &key, reply, data)
    }

    /// Remembers why a worker does not get what it needs, with names instead of numbers.
    pub(crate) fn trouble(&mut self, worker: WorkerId, error: &OpenError) {
        let text = match error {
            OpenError::Ours { addr, held, app } => {
                let name = self.apps.get(app).map_or("?", |app| app.name.as_str());
                let own = self.workers.get(&worker).is_some_and(|w| w.app == *app);
                if own {
                    format!(
                        "{addr} is taken by another server of the same app, on {held} (a new version moves there by a \
                         reload if the app was started with --allow-port-change)"
                    )
                } else {
                    format!(
                        "{addr} is taken by the app {name:?}, which listens on {held}; stop it or use another port"
                    )
                }
            }
            OpenError::Foreign { .. } => format!("{error}; stop it or use another port"),
            OpenError::Io { source, .. } => format!("{error}{}: {source}", limit_hint(source)),
        };
        self.note_trouble(worker, text);
    }

    /// Remembers why a worker does not get what it needs.
    pub(crate) fn note_trouble(&mut self, worker: WorkerId, text: String) {
        self.complain(worker, "a worker cannot listen", &text);
        if let Some(held) = self.workers.get_mut(&worker) {
            held.trouble = Some(text);
        }
    }

    fn closed(&mut self, worker: WorkerId, key: &str) {
        let Some(app) = self.workers.get(&worker).map(|w| w.app) else {
            return;
        };
        let slot = self.listeners.held(app, key, worker);
        let shared = self.listeners.shared_group(app, key);
        self.listeners.released(app, key, worker);
        if let Some(slot) = slot {
            self.input(Input::SlotReleased { slot, worker });
        }
        if let Some(group) = shared {
            self.input(Input::SharedReleased { group, worker });
        }
    }

    fn acknowledged(&mut self, worker: WorkerId, taken: bool) {
        let awaiting = self
            .workers
            .get_mut(&worker)
            .and_then(|w| w.channel_mut()?.acknowledge());
        match awaiting {
            Some(Awaiting::Ping) => self.input(Input::Responded { worker }),
            Some(Awaiting::Connection(number)) if !taken => self.handoff_answered(number, false),
            Some(Awaiting::Connection(_) | Awaiting::Listener) | None => {
                if !taken {
                    debug!(%worker, "a worker did not get a descriptor");
                }
            }
        }
    }

    fn send(&mut self, worker: WorkerId, bytes: Vec<u8>, fd: Option<OwnedFd>, awaiting: Option<Awaiting>) {
        let Some(channel) = self.workers.get_mut(&worker).and_then(|w| w.channel_mut()) else {
            return;
        };
        if !channel.send(Outgoing { bytes, fd }, awaiting) {
            self.complain(
                worker,
                "a message to a worker is lost",
                &"it does not read its channel",
            );
        }
    }

    /// With how many sockets the proxy serves the addresses of the worker's app; 0: it does not.
    pub(crate) fn proxy_sockets(&self, worker: WorkerId) -> usize {
        let held = self.workers.get(&worker);
        held.map_or(0, |held| proxy_sockets(&held.spec))
    }

    /// How connections to the worker's app are spread.
    pub(crate) fn policy(&self, worker: WorkerId) -> rpm_listen::Policy {
        let held = self.workers.get(&worker);
        held.map(|held| policy(&held.spec)).unwrap_or_default()
    }

    /// The worker's part of the connections, where they are weighted.
    pub(crate) fn weight(&self, worker: WorkerId) -> u32 {
        let Some(held) = self.workers.get(&worker) else {
            return 1;
        };
        let number = self
            .core
            .instance(held.instance)
            .map_or(0, |view| view.number as usize);
        let weights = &held.spec.weights;
        let weight = number.checked_rem(weights.len()).and_then(|at| weights.get(at));
        weight.copied().unwrap_or(1)
    }
}
