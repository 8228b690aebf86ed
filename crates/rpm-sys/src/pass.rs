//! Passes: a secret in a client's SYN by which a listener knows that the client is one of ours, without any privilege.
//!
//! The secret is in the IP options (`IP_OPTIONS`, ip(7)), as a record of the route that is full already, which any process may send and
//! no host changes. A listener cannot drop what comes without it: since the middle of 2026 only CAP_NET_ADMIN may attach a filter to a TCP
//! socket ("tcp: restrict SO_ATTACH_FILTER to priv users", also in stable kernels). But any process may attach a program to a group of
//! listeners (`SO_REUSEPORT`), which sends the one kind of client to one listener, and all others to another.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use libc::sock_filter;
use socket2::SockRef;

use crate::cbpf::{
    self, JUMP_EQUAL, JUMP_SET, LOAD_ABSOLUTE, LOAD_BYTE, NETWORK_HEADER, RETURN_K, SYN, insn,
};
use crate::socket::{self, AcceptQueue};

/// Backlog of a sink. With none, kernels before 2025 take the queue of handshakes for full, and drop SYNs or answer with cookies.
const BACKLOG: u32 = 1;
/// Length of the IP options that hold a pass: a byte of padding, the head of the record of the route, and the secret.
const LEN: usize = 20;
/// `IPOPT_NOOP` and `IPOPT_RR`.
const PADDING: u8 = 1;
const RECORD_ROUTE: u8 = 7;

/// What a client shows in its SYN.
#[derive(Clone, PartialEq, Eq)]
pub struct Pass([u8; LEN]);

/// Positions in a group of listeners, in the order in which they began to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Of the listener for those who show the pass.
    pub shown: u32,
    /// Of the listener for all others.
    pub others: u32,
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pass")
    }
}

impl Pass {
    /// A pass with this secret.
    #[must_use]
    pub fn new(secret: [u8; 16]) -> Pass {
        let mut option = [0; LEN];
        let head = LEN as u8 - 1;
        // The pointer is behind the end: there is no room left for an address.
        option[..4].copy_from_slice(&[PADDING, RECORD_ROUTE, head, head + 1]);
        option[4..].copy_from_slice(&secret);
        Pass(option)
    }

    /// Has the socket, which is not connected yet, show the pass.
    ///
    /// # Errors
    /// `EINVAL` or `ENOPROTOOPT` where the kernel does not know IP options.
    pub fn show(&self, socket: impl AsFd) -> io::Result<()> {
        set_options(socket.as_fd(), &self.0)
    }

    /// Sends those who show the pass to one listener of the group of `member`, and all others to another one. Packets that open no
    /// connection belong to the former. `member` listens, or is the first of a group that is to be. Replaces the group's program.
    ///
    /// # Errors
    /// `EINVAL` if the socket does not share its address.
    pub fn divide(&self, member: BorrowedFd<'_>, places: Places) -> io::Result<()> {
        cbpf::attach(member, libc::SO_ATTACH_REUSEPORT_CBPF, self.program(places))
    }

    fn program(&self, places: Places) -> Vec<sock_filter> {
        /// The first byte of an IP header: version 4 and the length in words, with no options and with those of a pass.
        const BARE: u32 = 0x45;
        const WITH_PASS: u32 = BARE + LEN as u32 / 4;
        /// Offset of the flags in the TCP header.
        const FLAGS: u32 = 13;
        let words = self
            .0
            .chunks_exact(4)
            .map(|it| u32::from_be_bytes([it[0], it[1], it[2], it[3]]));
        let words: Vec<u32> = words.collect();
        let compared = 2 * words.len() as u8;
        let mut program = vec![
            insn(LOAD_BYTE, 0, 0, NETWORK_HEADER),
            insn(JUMP_EQUAL, 0, compared + 3, WITH_PASS),
        ];
        for (at, word) in (0_u8..).zip(&words) {
            program.push(insn(LOAD_ABSOLUTE, 0, 0, NETWORK_HEADER + 20 + 4 * u32::from(at)));
            program.push(insn(JUMP_EQUAL, 0, compared - 2 * at - 1, *word));
        }
        program.extend([
            insn(RETURN_K, 0, 0, places.shown),
            // With options, but not these.
            insn(LOAD_BYTE, 0, 0, NETWORK_HEADER + 20 + LEN as u32 + FLAGS),
            insn(JUMP_SET, 4, 3, SYN),
            insn(JUMP_EQUAL, 0, 3, BARE),
            insn(LOAD_BYTE, 0, 0, NETWORK_HEADER + 20 + FLAGS),
            insn(JUMP_SET, 1, 0, SYN),
            insn(RETURN_K, 0, 0, places.shown),
            insn(RETURN_K, 0, 0, places.others),
        ]);
        program
    }
}

/// Removes the pass from the packets that this side sends on a connection that is established: only its SYN needs it. (The kernel has
/// copied it for the answers of the other side, which are 20 bytes longer.)
///
/// # Errors
/// `EBADF`.
pub fn conceal(socket: impl AsFd) -> io::Result<()> {
    set_options(socket.as_fd(), &[])
}

/// A listener that lets nobody in: its queue is full, so further SYNs are dropped, as by a packet filter. It shares the address of
/// `like`, and its user. `pass` is what the connections that fill it show, where others do not get there yet.
///
/// # Errors
/// As [`socket::bind_tcp`]; `WouldBlock` if its queue cannot be filled within `within`.
pub fn sink(like: BorrowedFd<'_>, pass: Option<&Pass>, within: Duration) -> io::Result<OwnedFd> {
    let address = socket::local_addr(like)?;
    let only_v6 = address.is_ipv6() && SockRef::from(&like).only_v6()?;
    let sink = socket::bind_tcp_for(Some(socket::owner(like)?), address, only_v6)?;
    socket::listen(&sink, BACKLOG)?;
    let until = Instant::now() + within;
    loop {
        fill(address, pass, within);
        match Filling::of(socket::accept_queue(&sink)?, Instant::now() >= until) {
            Filling::Full => return Ok(sink),
            Filling::Room => {}
            Filling::GivenUp => return Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// How far a sink is.
#[derive(Debug, PartialEq, Eq)]
enum Filling {
    /// Nobody gets in any more.
    Full,
    /// There is room, or the kernel has not worked off the last packet of a connection, which is not counted before.
    Room,
    /// The time is over, and there still is.
    GivenUp,
}

impl Filling {
    fn of(queue: AcceptQueue, is_late: bool) -> Filling {
        // A queue takes one connection more than its maximum (`sk_acceptq_is_full`).
        match (queue.len > queue.max, is_late) {
            (true, _) => Filling::Full,
            (false, false) => Filling::Room,
            (false, true) => Filling::GivenUp,
        }
    }
}

/// Opens a connection and resets it. It stays in the queue, but is no connection any more. If it is not accepted, others were there before
/// it.
fn fill(address: SocketAddr, pass: Option<&Pass>, within: Duration) {
    let _ = socket::connect_with(address, within, |client| {
        if let Some(pass) = pass {
            pass.show(client)?;
        }
        SockRef::from(&client).set_linger(Some(Duration::ZERO))
    });
}

fn set_options(socket: BorrowedFd<'_>, options: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads at most `options.len()` bytes of the live `options`.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_OPTIONS,
            options.as_ptr().cast(),
            options.len() as libc::socklen_t,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: Places = Places { shown: 7, others: 9 };

    /// Runs the program on a packet that begins with the IP header.
    fn run(pass: &Pass, packet: &[u8]) -> u32 {
        let program = pass.program(PLACES);
        let (mut at, mut a) = (0, 0_u32);
        loop {
            let insn = program[at];
            let from = insn.k.wrapping_sub(NETWORK_HEADER) as usize;
            let jump = |holds: bool| usize::from(if holds { insn.jt } else { insn.jf });
            at += 1;
            match insn.code {
                LOAD_BYTE => a = u32::from(packet[from]),
                LOAD_ABSOLUTE => a = u32::from_be_bytes(packet[from..from + 4].try_into().unwrap()),
                JUMP_EQUAL => at += jump(a == insn.k),
                JUMP_SET => at += jump(a & insn.k != 0),
                RETURN_K => return insn.k,
                other => panic!("unexpected instruction {other:#x}"),
            }
        }
    }

    /// A packet with these IP options and TCP flags.
    fn packet(options: &[u8], flags: u8) -> Vec<u8> {
        let words = (20 + options.len()) / 4;
        let mut packet = vec![0x40 | words as u8];
        packet.resize(20, 0);
        packet.extend(options);
        packet.extend([0; 13]);
        packet.push(flags);
        packet.resize(packet.len() + 6, 0);
        packet
    }

    #[test]
    fn only_a_syn_with_the_whole_secret_is_let_in() {
        const SYN: u8 = 2;
        const ACK: u8 = 16;
        let pass = Pass::new(*b"0123456789abcdef");
        assert_eq!(run(&pass, &packet(&pass.0, SYN)), PLACES.shown);
        for byte in 0..LEN {
            let mut other = pass.0;
            other[byte] ^= 1;
            assert_eq!(run(&pass, &packet(&other, SYN)), PLACES.others, "{byte}");
            assert_eq!(run(&pass, &packet(&other, ACK)), PLACES.shown, "{byte}");
        }
        for len in [0, 4, 16, 24, 40] {
            let options = vec![PADDING; len];
            assert_eq!(run(&pass, &packet(&options, SYN)), PLACES.others, "{len}");
        }
        assert_eq!(run(&pass, &packet(&[], ACK)), PLACES.shown);
    }

    fn queue(len: u32, max: u32) -> AcceptQueue {
        let listening = true;
        AcceptQueue { len, max, listening }
    }

    #[test]
    fn a_queue_is_full_when_it_has_one_more_than_its_maximum() {
        for (len, max, is_late, expected) in [
            (0, 0, false, Filling::Room),
            (1, 0, false, Filling::Full),
            (0, 1, false, Filling::Room),
            (1, 1, false, Filling::Room),
            (2, 1, false, Filling::Full),
            (1, 1, true, Filling::GivenUp),
            (2, 1, true, Filling::Full),
            // `net.core.somaxconn` may lower the maximum.
            (2, 0, true, Filling::Full),
        ] {
            let found = Filling::of(queue(len, max), is_late);
            assert_eq!(found, expected, "{len} of {max}, late: {is_late}");
        }
    }

    #[test]
    fn a_sink_becomes_full_and_is_not_taken_for_full_before_on_every_kernel() {
        // Kernels differ in when the queue of handshakes is full, in which nobody is here (`inet_csk_reqsk_queue_is_full`), and in how many
        // of the accept queue are not counted yet when it is looked at.
        for (is_before_2025, uncounted) in [
            (true, 0),
            (true, 1),
            (true, 2),
            (false, 0),
            (false, 1),
            (false, 2),
        ] {
            let handshakes = 0;
            let takes = |len: u32| match is_before_2025 {
                true => handshakes < BACKLOG && len <= BACKLOG,
                false => handshakes <= BACKLOG && len <= BACKLOG,
            };
            let mut len = 0_u32;
            // A connection that is not taken costs all the time that there is, in which the others are counted.
            let filling = loop {
                let taken = takes(len);
                len += u32::from(taken);
                let counted = if taken { len.saturating_sub(uncounted) } else { len };
                match Filling::of(queue(counted, BACKLOG), !taken) {
                    Filling::Room => {}
                    end => break end,
                }
            };
            let kernel = format!("before 2025: {is_before_2025}, uncounted: {uncounted}");
            assert_eq!(filling, Filling::Full, "{kernel}");
            assert!(!takes(len), "{kernel}: {len} are in it, and there is room");
        }
    }
}
