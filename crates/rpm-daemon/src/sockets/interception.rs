//! What programs do about their listeners by themselves: a socket that they bind may be shared with their siblings, and becomes a
//! slot when they listen.
//!
//! A call that cannot be dealt with goes on as it is: the program then has what it would have without a daemon. A call that would
//! share the port of another app fails, and so does one by which a worker behind the proxy would have clients past it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rpm_core::protocol::Input;
use rpm_core::{AppId, WorkerId};
use rpm_listen::{Captured, OpenError, captured_key};
use rpm_sys::intercept::What;
use rpm_sys::socket;
use rpm_sys::spawn::{SpawnError, SpawnStep};
use rustix::io::Errno;
use tracing::{debug, info, warn};

use crate::apps::delivery::Delivery;
use crate::failure::chain;
use crate::home::Home;
use crate::persist::journal::Journal;
use crate::sockets::bypass::is_void;
use crate::sockets::ports::Ports;
use crate::sockets::probe::{probe as try_it, reap};
use crate::sockets::slots::{Ask, How, Lent, NotOpened};
use crate::workers::calls::{HeldBack, Intercepted, copy_of};

/// Sockets of one worker that are bound and not listened on yet, and as many slots that it may have. What goes beyond is not
/// shared: no program needs as many, and one that runs wild costs the daemon no more descriptors than this.
const SOCKETS_LIMIT: usize = 64;

/// Whether this system lets calls be intercepted.
#[derive(Default)]
pub(crate) struct Interception {
    probed: bool,
    /// Why it does not.
    denied: Option<String>,
    /// What was received; none if there is no room for the file.
    journal: Option<Arc<Journal>>,
}

impl Interception {
    pub(crate) fn new(home: &Home) -> Interception {
        let journal = Journal::open(&home.calls());
        let warned = journal.inspect_err(|error| {
            warn!(%error, "if this daemon dies during a call of a worker, that call may wait for ever");
        });
        Interception {
            journal: warned.ok().map(Arc::new),
            ..Interception::default()
        }
    }

    /// Why calls cannot be intercepted, if that is known.
    pub(crate) fn denied(&self) -> Option<&str> {
        self.denied.as_deref()
    }

    /// Where calls are noted that were received.
    pub(crate) fn journal(&self) -> Option<&Arc<Journal>> {
        self.journal.as_ref()
    }

    /// True if the calls of such workers are intercepted, as far as is known.
    pub(crate) fn applies_to(&self, delivery: Delivery) -> bool {
        delivery.wants_interception() && self.denied.is_none()
    }

    /// Finds out whether calls can be intercepted, with a program that does nothing.
    pub(crate) fn probe(&mut self) {
        if std::mem::replace(&mut self.probed, true) {
            return;
        }
        match try_it() {
            Ok(child) => drop(tokio::spawn(reap(child))),
            Err(error) if error.stage == SpawnStep::Intercept => self.deny(&error),
            // That will show again, and be told, when a worker is started.
            Err(_) => {}
        }
    }

    /// From now on programs are started without it.
    pub(crate) fn deny(&mut self, error: &SpawnError) {
        let why = match Errno::from_io_error(&error.source) {
            Some(Errno::NOSYS | Errno::INVAL) => {
                "the kernel has no seccomp notification (Linux 5.9) for this processor"
            }
            Some(Errno::BUSY) => {
                "another seccomp filter with a listener is in force, as under some container runtimes"
            }
            Some(Errno::PERM | Errno::ACCESS) => {
                "seccomp, or taking descriptors of other processes (ptrace, pidfd_getfd), is not permitted here"
            }
            Some(_) | None => "the system refuses it",
        };
        let text = format!("{why}: {}", error.source);
        warn!(
            reason = text,
            "calls cannot be intercepted: only Node shares ports"
        );
        self.denied = Some(text);
    }
}

/// A process of a worker waits for an answer.
pub(crate) fn called(ports: &mut Ports<'_>, worker: WorkerId, intercepted: Intercepted) {
    match intercepted.call.what() {
        What::Bind { .. } => match binds(ports, worker, &intercepted) {
            Ok(Ok(())) => intercepted.proceed(),
            Ok(Err(taken)) => refuse_call(ports, worker, &intercepted, &taken),
            Err(error) => {
                debug!(%worker, %error, "a socket is left as it is");
                intercepted.proceed();
            }
        },
        What::Listen { backlog } => match taken_meanwhile(ports, worker, &intercepted) {
            Some(taken) => refuse_call(ports, worker, &intercepted, &taken),
            None => listens(ports, worker, intercepted, backlog),
        },
    }
}

/// The address belongs to another app. A socket that says `SO_REUSEPORT` itself would get a part of that one's clients, or all.
fn refuse_call(ports: &mut Ports<'_>, worker: WorkerId, intercepted: &Intercepted, taken: &OpenError) {
    ports.trouble(worker, taken);
    intercepted.refused(taken.errno());
}

/// Another app has begun to listen where the socket of this call of `listen` is bound: both were bound before either listened.
fn taken_meanwhile(ports: &Ports<'_>, worker: WorkerId, intercepted: &Intercepted) -> Option<OpenError> {
    let app = ports.workers.get(&worker)?.app;
    let fd = intercepted.socket().ok()?;
    let tcp = socket::tcp(&fd)?;
    let addr = socket::local_addr(&fd).ok()?;
    if ports.listeners.slot_of(&fd).is_some() || !socket::is_in_our_network(&fd).ok()? {
        return None;
    }
    ports.listeners.refuse_other_app(app, addr, tcp.v6only).err()
}

/// Has the socket share its address, if it is one that the app's workers may share; unless another app has that.
fn binds(
    ports: &mut Ports<'_>,
    worker: WorkerId,
    intercepted: &Intercepted,
) -> io::Result<Result<(), OpenError>> {
    let address = intercepted.address.as_ref().map_err(copy_of)?;
    let Some(addr) = address.filter(|addr| addr.port() != 0) else {
        return Ok(Ok(()));
    };
    let Some(app) = ports.workers.get(&worker).map(|held| held.app) else {
        return Ok(Ok(()));
    };
    let socket = intercepted.socket()?;
    let Some(tcp) = socket::tcp(&socket) else {
        return Ok(Ok(()));
    };
    if !socket::is_in_our_network(&socket)? {
        return Ok(binds_elsewhere(ports, worker, addr));
    }
    if let Err(taken) = ports.listeners.refuse_other_app(app, addr, tcp.v6only) {
        return Ok(Err(taken));
    }
    if !is_shared(ports, worker, addr.port()) || ports.listeners.count_of(worker) >= SOCKETS_LIMIT {
        return Ok(Ok(()));
    }
    release_closed(ports, worker);
    let moves = ports.may_move(worker);
    match ports.listeners.may_capture(app, addr, tcp.v6only, moves) {
        Ok(()) => {}
        // A port of the daemon's own, which sends clients to https.
        Err(OpenError::Foreign { addr, by }) if by.is_this_process() => {
            return Ok(Err(OpenError::Foreign { addr, by }));
        }
        Err(error) => {
            ports.trouble(worker, &error);
            return Ok(Ok(()));
        }
    }
    let cookie = socket::cookie(&socket)?;
    socket::share(&socket)?;
    if let Some(held) = ports.workers.get_mut(&worker) {
        // What was bound so many sockets ago and is not listened on has been closed.
        if held.bound.len() >= SOCKETS_LIMIT {
            held.bound.pop_first();
        }
        held.bound.insert(cookie);
    }
    Ok(Ok(()))
}

/// What is bound in another network namespace says nothing about this one: the daemon would open a port here that the program may
/// not have. It goes on as it is, unless the proxy is to be before it.
fn binds_elsewhere(ports: &Ports<'_>, worker: WorkerId, addr: SocketAddr) -> Result<(), OpenError> {
    match ports.is_fronted(worker) && is_shared(ports, worker, addr.port()) {
        true => Err(OpenError::Io {
            what: format!("{addr} in another network namespace, where the proxy does not reach it"),
            source: Errno::ACCESS.into(),
        }),
        false => Ok(()),
    }
}

/// A program that listens to see whether a port is free, closes, and listens in earnest, would leave a slot behind where
/// nobody accepts.
fn release_closed(ports: &mut Ports<'_>, worker: WorkerId) {
    let mut slots = ports.listeners.slots_of(worker);
    slots.retain(|slot| ports.listeners.is_captured(*slot));
    for slot in ports.closed_among(slots, worker) {
        ports.release_slot(slot, worker);
    }
}

/// Do the workers of this one's app share that port?
fn is_shared(ports: &Ports<'_>, worker: WorkerId, port: u16) -> bool {
    let held = ports.workers.get(&worker);
    held.is_some_and(|held| held.spec.ports.is_empty() || held.spec.ports.contains(&port))
}

fn listens(ports: &mut Ports<'_>, worker: WorkerId, intercepted: Intercepted, backlog: u32) {
    let captured = match captured(ports, worker, &intercepted, backlog) {
        Ok(captured) => captured,
        Err(why) => return ports.refuse_bypass(worker, &intercepted, &why),
    };
    match captured {
        Some(captured) if is_held_back(ports, worker, &captured) => {
            info!(%worker, addr = %captured.addr, "a listener overlaps one of the old workers; it opens when the reload is done");
            if let Some(held) = ports.workers.get_mut(&worker) {
                held.held_back.push(HeldBack {
                    intercepted,
                    captured,
                });
                ports.input(Input::Withheld { worker });
            }
        }
        Some(captured) => capture(ports, worker, &intercepted, captured),
        None => listen_on(ports, &intercepted),
    }
}

/// Has the socket of the call listen: one that only the proxy connects to for as many connections as that may have.
fn listen_on(ports: &mut Ports<'_>, intercepted: &Intercepted) {
    // The one that is there now: it may be a slot that was put in the place of the program's own.
    let own = intercepted.socket.is_ok();
    let socket = own.then(|| intercepted.from.socket(&intercepted.call));
    let slot = socket.and_then(|it| ports.listeners.slot_of(it.ok()?));
    match slot {
        Some(slot) if ports.listeners.listen_private(slot) => intercepted.done(),
        Some(_) | None => intercepted.proceed(),
    }
}

/// The socket that is to listen, if it is to become a slot. One that is a slot already, and one that is the worker's own affair,
/// are no less a sign that it is ready; but behind the proxy the latter serves no client.
///
/// # Errors
/// It is for the network, and the proxy would not serve it: why.
fn captured(
    ports: &mut Ports<'_>,
    worker: WorkerId,
    intercepted: &Intercepted,
    backlog: u32,
) -> Result<Option<Captured>, String> {
    let fronted = ports.is_fronted(worker);
    let fd = match intercepted.socket() {
        Ok(fd) => fd,
        Err(error) if fronted && !is_void(&error) => {
            return Err(format!("its socket cannot be looked at: {error}"));
        }
        Err(_) => return Ok(None),
    };
    let Some(tcp) = socket::tcp(&fd) else {
        return Ok(None);
    };
    let (Ok(addr), Ok(cookie)) = (socket::local_addr(&fd), socket::cookie(&fd)) else {
        return Ok(None);
    };
    let known = ports.listeners.slot_of(&fd).is_some();
    let Some(held) = ports.workers.get_mut(&worker) else {
        return Ok(None);
    };
    if held.listeners.len() < SOCKETS_LIMIT {
        held.listeners.extend(intercepted.call.process());
    }
    let shared = held.bound.remove(&cookie) && !known;
    let past = fronted && !shared && !known;
    if past && !addr.ip().to_canonical().is_loopback() {
        let ports = &held.spec.ports;
        return Err(match addr.port() {
            port if ports.is_empty() || ports.contains(&port) => {
                format!("{addr}: a random port, or an address that is taken")
            }
            _ => format!("{addr}: --ports leaves it out"),
        });
    }
    if !shared && !past && held.delivery.is_ready_by_own_listener() {
        ports.input(Input::Listening { worker });
    }
    Ok(shared.then_some(Captured {
        addr,
        v6only: tcp.v6only,
        backlog,
        fd,
    }))
}

fn is_held_back(ports: &Ports<'_>, worker: WorkerId, captured: &Captured) -> bool {
    let Some(app) = ports.workers.get(&worker).map(|held| held.app) else {
        return false;
    };
    let key = captured_key(captured.addr, captured.v6only);
    ports.may_move(worker)
        && ports
            .listeners
            .overlaps_own(app, &key, captured.addr, captured.v6only)
}

/// The socket becomes a slot, or the worker gets the one that was left by its predecessor in its place.
fn capture(ports: &mut Ports<'_>, worker: WorkerId, intercepted: &Intercepted, captured: Captured) {
    let (addr, key) = (captured.addr, captured_key(captured.addr, captured.v6only));
    let ask = Ask {
        worker,
        key: &key,
        how: How::Capture(captured),
    };
    let opened = ports.open_slot(ask, |lent| match lent {
        Lent::Ours(socket) => put_in_place(intercepted, socket),
        Lent::Its => Ok(()),
    });
    match opened {
        Ok(opened) => {
            let (slot, inherited) = (opened.slot, opened.inherited);
            debug!(%worker, key, ?slot, inherited, "a listener is a slot");
        }
        Err(NotOpened::Gone) => return intercepted.proceed(),
        Err(error) => {
            let why = match &error {
                NotOpened::Pass(error) => format!("{addr}: {error}"),
                NotOpened::Gone | NotOpened::User(_) | NotOpened::Open(_) => chain(&error),
            };
            if ports.is_fronted(worker) {
                return ports.refuse_bypass(worker, intercepted, &why);
            }
            ports.complain(worker, "a listener is not balanced", &why);
        }
    }
    listen_on(ports, intercepted);
    ports.input(Input::Listening { worker });
}

/// The worker gets a socket of ours in the place of its own.
fn put_in_place(intercepted: &Intercepted, socket: BorrowedFd<'_>) -> io::Result<()> {
    let own = intercepted.socket.as_ref().map_err(copy_of)?;
    socket::match_blocking(socket, own)?;
    intercepted.from.replace(&intercepted.call, socket)
}

/// The reload is done: what was held back goes on.
pub(crate) fn let_go(ports: &mut Ports<'_>, app: AppId) {
    let ours = ports.workers.values_mut().filter(|held| held.app == app);
    let held_back = ours.flat_map(|held| {
        let worker = held.id;
        std::mem::take(&mut held.held_back)
            .into_iter()
            .map(move |it| (worker, it))
    });
    for (worker, waiting) in held_back.collect::<Vec<_>>() {
        capture(ports, worker, &waiting.intercepted, waiting.captured);
    }
}
