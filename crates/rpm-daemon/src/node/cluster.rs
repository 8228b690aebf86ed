//! The primary side of node:cluster: what a worker's messages mean.
//!
//! Protocol: Node's `lib/internal/cluster/{primary,child,shared_handle}.js`.

use std::mem;
use std::os::fd::OwnedFd;
use std::path::Path;

use rpm_core::protocol::Input;
use rpm_core::{AppId, WorkerId};
use rpm_listen::{OpenError, Wanted};
use rpm_sys::socket;
use rpm_wire::channel::{self, Handle, Malformed, QueryServer, ServerReply};
use rustix::io::Errno;
use tracing::{info, warn};

use crate::sockets::ports::Ports;
use crate::sockets::slots::{Ask, How, NotOpened, copied};
use crate::workers::worker::Awaiting;
use crate::workers::worker::Outgoing;

const EINVAL: i32 = Errno::INVAL.raw_os_error();
/// Listeners that a worker may have by its channel. Each costs the daemon descriptors, and what looks at all of them time.
const LISTENERS_LIMIT: usize = 256;
/// Answers with a descriptor that wait until the worker has answered a ping.
const ANSWERS_LIMIT: usize = 64;
/// Longest address, in bytes: no path of a socket and no IP address has as many.
const ADDRESS_LIMIT: usize = 4096;
/// What is remembered of a listener for other workers, in bytes of JSON: Node sends the keys of TLS tickets.
const DATA_LIMIT: usize = 16 * 1024;

/// Logs at the first, second, fourth … line: a worker that sends nothing else must not fill the log.
pub(crate) fn malformed(ports: &mut Ports<'_>, worker: WorkerId, error: &Malformed) {
    let Some(held) = ports.workers.get_mut(&worker) else {
        return;
    };
    held.malformed += 1;
    if held.malformed.is_power_of_two() {
        let count = held.malformed;
        warn!(%worker, %error, count, "a worker sent something that is not a message; it is ignored");
    }
}

/// Why a worker gets no more, if it has as much as it may.
fn is_beyond(ports: &mut Ports<'_>, worker: WorkerId, query: &QueryServer) -> Option<(Errno, String)> {
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
    let held = ports.workers.get_mut(&worker)?;
    if held
        .channel_mut()
        .is_some_and(|channel| channel.held() >= ANSWERS_LIMIT)
    {
        let why = format!("{ANSWERS_LIMIT} answers wait until it reads its channel");
        return Some((Errno::NOBUFS, why));
    }
    let (app, withheld) = (held.app, held.withheld.len());
    let known = || {
        let group = ports.listeners.group(app, &query.key());
        group.is_some_and(|group| ports.core.slot_at(worker, group).is_some())
    };
    let has = ports.listeners.opened_by(worker) + withheld;
    (has >= LISTENERS_LIMIT && !known()).then(|| (Errno::MFILE, format!("it has {has} listeners")))
}

pub(crate) fn query_server(ports: &mut Ports<'_>, worker: WorkerId, mut query: QueryServer) {
    let large = |data: &serde_json::Value| data.to_string().len() > DATA_LIMIT;
    query.data = query.data.filter(|data| !large(data));
    if let Some((errno, why)) = is_beyond(ports, worker, &query) {
        ports.complain(worker, "a worker gets no further listener", &why);
        // Nothing is remembered of it: neither a key, which may be long, nor data.
        let refused = ServerReply::Refuse(errno.raw_os_error());
        let reply = channel::reply_server(query.seq, "", refused, query.data.as_ref());
        return send(ports, worker, reply, None, None);
    }
    let Some(held) = ports.workers.get(&worker) else {
        return;
    };
    match Wanted::from_query(&query, Path::new(&held.spec.cwd)) {
        Ok(Wanted::WorkerFd(fd)) => own_descriptor(ports, worker, &query, fd),
        Ok(wanted) if is_withheld(ports, worker, &query.key(), &wanted) => withhold(ports, worker, query),
        Ok(wanted) => open(ports, worker, &query, &wanted, false),
        Err(error) => {
            ports.complain(
                worker,
                "a worker asked for an address that makes no sense",
                &error,
            );
            refuse(ports, worker, &query, EINVAL);
        }
    }
}

/// Would what a new worker of a reload asks for take clients from the old ones before the reload is done? If it may
/// not listen elsewhere than they it is refused instead.
fn is_withheld(ports: &Ports<'_>, worker: WorkerId, key: &str, wanted: &Wanted) -> bool {
    match wanted {
        Wanted::Tcp { addr, v6only } => {
            let app = ports.workers.get(&worker).map(|held| held.app);
            let overlaps = app.is_some_and(|app| ports.listeners.overlaps_own(app, key, *addr, *v6only));
            overlaps && ports.may_move(worker)
        }
        Wanted::Udp { .. } | Wanted::Unix { .. } | Wanted::WorkerFd(_) => false,
    }
}

fn withhold(ports: &mut Ports<'_>, worker: WorkerId, query: QueryServer) {
    info!(%worker, key = query.key(), "a listener overlaps one of the old workers; it opens when the reload is done");
    if let Some(held) = ports.workers.get_mut(&worker) {
        held.withheld.push(query);
        ports.input(Input::Withheld { worker });
    }
}

fn open(ports: &mut Ports<'_>, worker: WorkerId, query: &QueryServer, wanted: &Wanted, beside: bool) {
    let key = query.key();
    let ask = Ask {
        worker,
        key: &key,
        how: How::Channel { wanted, beside },
    };
    match ports.open_slot(ask, copied) {
        Ok(opened) => {
            let handed = opened.slot.is_some_and(|slot| ports.listeners.is_handoff(slot));
            match handed {
                true => promise(ports, worker, query, &opened.passed),
                false => grant(ports, worker, query, opened.passed),
            }
        }
        Err(NotOpened::Gone) => {}
        Err(NotOpened::Open(error)) => refuse_for(ports, worker, query, &error),
        Err(NotOpened::User(error)) => {
            ports.note_trouble(worker, error.to_string());
            refuse(ports, worker, query, EINVAL);
        }
        Err(NotOpened::Pass(error)) => {
            ports.complain(
                worker,
                "no descriptor left for a listener; raise the limit (ulimit -n)",
                &error,
            );
            refuse(ports, worker, query, error.raw_os_error().unwrap_or(EINVAL));
        }
    }
}

/// `listen({fd})`: the number is one of the worker's own, so it gets a copy of that.
fn own_descriptor(ports: &mut Ports<'_>, worker: WorkerId, query: &QueryServer, fd: i32) {
    match ports
        .workers
        .get(&worker)
        .and_then(|held| held.process())
        .map(|process| process.pidfd.getfd(fd))
    {
        Some(Ok(fd)) => grant(ports, worker, query, fd),
        Some(Err(error)) => {
            ports.complain(
                worker,
                "a worker wants to listen on a descriptor it does not have",
                &error,
            );
            refuse(ports, worker, query, error.raw_os_error().unwrap_or(EINVAL));
        }
        None => {}
    }
}

fn grant(ports: &mut Ports<'_>, worker: WorkerId, query: &QueryServer, fd: OwnedFd) {
    let kind = if query.address_type.is_udp() {
        Handle::Datagram
    } else {
        Handle::Stream
    };
    let reply = answer(ports, worker, query, ServerReply::Lend(kind));
    send(ports, worker, reply, Some(fd), Some(Awaiting::Listener));
}

/// The worker gets the connections of this slot one by one.
fn promise(ports: &mut Ports<'_>, worker: WorkerId, query: &QueryServer, slot: &OwnedFd) {
    match socket::local_addr(slot) {
        Ok(addr) => {
            let reply = answer(ports, worker, query, ServerReply::Hand(addr));
            send(ports, worker, reply, None, None);
        }
        Err(error) => refuse(ports, worker, query, error.raw_os_error().unwrap_or(EINVAL)),
    }
}

fn refuse_for(ports: &mut Ports<'_>, worker: WorkerId, query: &QueryServer, error: &OpenError) {
    ports.trouble(worker, error);
    refuse(ports, worker, query, error.errno());
}

fn refuse(ports: &mut Ports<'_>, worker: WorkerId, query: &QueryServer, errno: i32) {
    let reply = answer(ports, worker, query, ServerReply::Refuse(errno));
    send(ports, worker, reply, None, None);
}

/// All workers of a group get the `data` of its first one (TLS ticket keys travel that way).
fn answer(ports: &mut Ports<'_>, worker: WorkerId, query: &QueryServer, reply: ServerReply) -> Vec<u8> {
    let key = query.key();
    let app = ports.workers.get(&worker).map(|worker| worker.app);
    let data = app.and_then(|app| ports.apps.first_data(app, &key, query.data.as_ref()));
    channel::reply_server(query.seq, &key, reply, data)
}

pub(crate) fn send(
    ports: &mut Ports<'_>,
    worker: WorkerId,
    bytes: Vec<u8>,
    fd: Option<OwnedFd>,
    awaiting: Option<Awaiting>,
) {
    let Some(channel) = ports.workers.get_mut(&worker).and_then(|w| w.channel_mut()) else {
        return;
    };
    if !channel.send(Outgoing { bytes, fd }, awaiting) {
        ports.complain(
            worker,
            "a message to a worker is lost",
            &"it does not read its channel",
        );
    }
}

/// The reload of an app is done: its new workers get what was withheld from them.
pub(crate) fn cut_over(ports: &mut Ports<'_>, app: AppId) {
    let ours = ports.workers.values_mut().filter(|held| held.app == app);
    let withheld = ours.map(|held| (held.id, held.spec.cwd.clone(), mem::take(&mut held.withheld)));
    for (worker, cwd, queries) in withheld.collect::<Vec<_>>() {
        for query in queries {
            if let Ok(wanted) = Wanted::from_query(&query, Path::new(&cwd)) {
                open(ports, worker, &query, &wanted, true);
            }
        }
    }
}
