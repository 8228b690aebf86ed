//! How private slots know the connections of the proxy.
//!
//! Any local user could find such a listener and bypass the proxy with its certificates, limits and log. So it accepts only connections
//! that show what others cannot: a mark, which only privileged processes can set, or else a pass (`rpm_sys::pass`), which they do not know.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use rpm_sys::pass::{self, Pass, Places};
use rpm_sys::{cbpf, socket};
use tracing::warn;

/// The mark is not secret: it matters who may set it. It has none of the bits that Kubernetes (0x4000, 0x8000) and Cilium (0xf00) use.
const MARK: u32 = 0x7270_2001;

/// Deadline for a connection to ourselves. Its handshake is over when the call returns, unless its first packet is dropped.
const TRIED_WITHIN: Duration = Duration::from_millis(200);
/// Tries before a guard is given up for a weaker one, and one more.
const TRIES: usize = 2;

/// Decided once for the process, by what works.
enum Guard {
    /// A socket filter drops the packets without the mark. This needs CAP_NET_ADMIN, and goes on while there is no daemon.
    Mark(u32),
    /// What comes without the pass of the slot gets to a listener that lets nobody in. This needs no privilege, and ends with the daemon.
    Pass(Secret),
    /// Neither works: any local process can connect.
    Open,
}

/// Secret of this process, from which the pass of each slot is derived: the worker that holds a slot could find out that slot's pass.
#[derive(Default)]
struct Secret(RandomState);

impl Secret {
    fn pass(&self, slot: SocketAddr) -> Pass {
        let half = |number: u8| u128::from(self.0.hash_one((slot, number)));
        Pass::new((half(0) << 64 | half(1)).to_be_bytes())
    }
}

/// The listener for connections without the pass. The slot is guarded as long as it is open.
pub(crate) type Sink = OwnedFd;

impl Guard {
    fn chosen() -> Guard {
        // A busy machine may take its time once.
        let works = |guard: Guard| {
            let mut tries = std::iter::repeat_with(|| guard.lets_in(&guard)).take(TRIES);
            let tried = tries.find(Result::is_ok).unwrap_or_else(|| guard.lets_in(&guard));
            tried.map(|()| guard)
        };
        let chosen = works(Guard::Mark(MARK)).or_else(|_| works(Guard::Pass(Secret::default())));
        chosen.unwrap_or_else(|error| {
            warn!(%error, "connections of the proxy cannot be told apart: workers behind it accept connections of any local user");
            Guard::Open
        })
    }

    /// Tries a connection with what `client` shows to a listener that this guards. A packet filter rule may change marks, or drop packets
    /// with IP options; then no connection of the proxy would arrive.
    fn lets_in(&self, client: &Guard) -> io::Result<()> {
        let reserved = socket::reserve_port((Ipv4Addr::new(127, 64, 0, 1), 0).into(), false)?;
        let address = socket::local_addr(&reserved)?;
        let listener = socket::bind_tcp(address, false)?;
        let _sink = self.close(listener.as_fd())?;
        socket::listen(&listener, 1)?;
        socket::connect_with(address, TRIED_WITHIN, |socket| client.show(socket, address))
    }

    /// Closes a slot to all who do not show what the guard wants. Where this needs another listener at the slot's address, it is returned.
    fn close(&self, slot: BorrowedFd<'_>) -> io::Result<Option<Sink>> {
        match self {
            Guard::Mark(mark) => cbpf::accept_marked(slot, *mark).map(|()| None),
            Guard::Pass(secret) => divide(slot, &secret.pass(socket::local_addr(slot)?)).map(Some),
            Guard::Open => Ok(None),
        }
    }

    fn show(&self, client: BorrowedFd<'_>, slot: SocketAddr) -> io::Result<()> {
        match self {
            Guard::Mark(mark) => socket::mark(client, *mark),
            Guard::Pass(secret) => secret.pass(slot).show(client),
            Guard::Open => Ok(()),
        }
    }
}

/// Opens a sink beside a slot, which is alone at its address, and sends all who do not show the pass there. At no moment does a slot that
/// does not listen yet get others.
fn divide(slot: BorrowedFd<'_>, pass: &Pass) -> io::Result<Sink> {
    if socket::accept_queue(slot)?.listening {
        // Nobody but who fills it gets to the sink before it is full: whoever is in its queue is reset when it closes.
        let filler = Secret::default().pass(socket::local_addr(slot)?);
        filler.divide(slot, Places { shown: 1, others: 0 })?;
        let sink = pass::sink(slot, Some(&filler), TRIED_WITHIN)?;
        pass.divide(slot, Places { shown: 0, others: 1 })?;
        return Ok(sink);
    }
    let sink = pass::sink(slot, None, TRIED_WITHIN)?;
    pass.divide(sink.as_fd(), Places { shown: 1, others: 0 })?;
    Ok(sink)
}

/// Keeps new clients from a slot that is about to close and has its address to itself: they try again a second later, and reach the socket
/// that listens then. Handshakes under way are finished. The result is held until the slot is closed.
///
/// # Errors
/// Neither a filter nor a sink can be had.
pub(crate) fn hold_off(slot: BorrowedFd<'_>) -> io::Result<Option<Sink>> {
    let filtered = cbpf::hold_off(slot).map(|()| None);
    // Without CAP_NET_ADMIN: a pass that nobody has.
    filtered.or_else(|_| divide(slot, &Secret::default().pass(socket::local_addr(slot)?)).map(Some))
}

fn guard() -> &'static Guard {
    static GUARD: OnceLock<Guard> = OnceLock::new();
    GUARD.get_or_init(Guard::chosen)
}

/// Closes a private slot to all but this process, or lifts the restriction of a previous daemon if this one cannot do that. If this fails,
/// the slot is open. Returns what must stay open for as long as the slot.
pub(crate) fn close(slot: BorrowedFd<'_>) -> Option<Sink> {
    let closed = guard().close(slot);
    if let Err(error) = &closed {
        warn!(%error, "a worker behind the proxy accepts connections of any local user");
    }
    if !matches!((guard(), &closed), (Guard::Mark(_), Ok(_))) {
        cbpf::accept_all(slot);
    }
    closed.ok().flatten()
}

/// Lifts a restriction that would outlive this process, because the daemon that takes over may be a version that does not mark.
pub(crate) fn lift(slot: BorrowedFd<'_>) {
    cbpf::accept_all(slot);
}

/// Prepares a connection to the private slot at this address, before it is opened.
///
/// # Errors
/// The socket is not one of TCP.
pub fn show(client: BorrowedFd<'_>, slot: SocketAddr) -> io::Result<()> {
    guard().show(client, slot)
}

/// A connection to a private slot is established: it no longer needs what [`show`] has added.
pub fn shown(client: BorrowedFd<'_>) {
    if let Guard::Pass(_) = guard() {
        // Otherwise its packets are a little longer.
        let _ = pass::conceal(client);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Instant;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    use rustix::net::{self, AddressFamily, SocketFlags, SocketType};

    use super::*;

    fn mark(mark: u32) -> Guard {
        Guard::Mark(mark)
    }

    fn pass() -> Guard {
        Guard::Pass(Secret::default())
    }

    #[test]
    fn what_arrives_is_used_and_nothing_else_gets_in() {
        let refused = |guard: &Guard, client: &Guard| guard.lets_in(client).unwrap_err().kind();
        let passes = pass();
        passes.lets_in(&passes).unwrap();
        for other in [pass(), Guard::Open] {
            assert_eq!(refused(&passes, &other), io::ErrorKind::TimedOut);
        }
        match mark(MARK).lets_in(&mark(MARK)) {
            Ok(()) => {
                // One with another mark stands for a packet filter that changes marks.
                assert_eq!(refused(&mark(MARK), &mark(MARK + 1)), io::ErrorKind::TimedOut);
                assert!(matches!(guard(), Guard::Mark(MARK)));
            }
            Err(_) => assert!(matches!(guard(), Guard::Pass(_))),
        }
    }

    #[test]
    fn clients_that_are_held_off_come_to_the_next_listener() {
        let old = socket::bind_tcp((Ipv4Addr::LOCALHOST, 0).into(), false).unwrap();
        socket::listen(&old, 8).unwrap();
        let address = socket::local_addr(&old).unwrap();
        let _queued = TcpStream::connect(address).unwrap();
        let begun = Instant::now();
        while socket::accept_queue(&old).unwrap().len == 0 {
            assert!(begun.elapsed().as_secs() < 20, "it is not in the queue");
        }
        // As without the privilege to filter.
        let nobodys = Secret::default().pass(address);
        let sink = divide(old.as_fd(), &nobodys).unwrap();
        let kind = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let late = net::socket_with(AddressFamily::INET, SocketType::STREAM, kind, None).unwrap();
        assert_eq!(net::connect(&late, &address), Err(Errno::INPROGRESS));
        let is_connected = |seconds| {
            let within = Timespec {
                tv_sec: seconds,
                tv_nsec: 0,
            };
            poll(&mut [PollFd::new(&late, PollFlags::OUT)], Some(&within)) == Ok(1)
        };
        assert!(socket::accept(&old).unwrap().is_some(), "it was there before");
        assert!(!is_connected(0) && socket::accept(&old).unwrap().is_none());
        let new = socket::bind_tcp(address, false).unwrap();
        // The next one listens before the old one closes: a client that came in between would be refused.
        socket::listen(&new, 8).unwrap();
        drop((old, sink));
        assert!(is_connected(60), "it comes again");
        let begun = Instant::now();
        while socket::accept(&new).unwrap().is_none() {
            assert!(begun.elapsed().as_secs() < 20, "it is not in the queue");
        }
    }

    #[test]
    fn each_slot_has_a_pass_of_its_own() {
        let secret = Secret::default();
        let of = |port| secret.pass((Ipv4Addr::new(127, 64, 0, 1), port).into());
        assert!(of(1) == of(1) && of(1) != of(2));
        assert!(Secret::default().pass((Ipv4Addr::new(127, 64, 0, 1), 1).into()) != of(1));
    }
}
