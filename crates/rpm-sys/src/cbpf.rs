//! Steering by classic BPF: random among the eligible slots, with no privilege at all
//! (`SO_ATTACH_REUSEPORT_CBPF`, Linux 4.6).
//!
//! A slot's index is its position in the order in which the group's sockets began to listen. When a socket leaves, the last one takes its
//! position. If no socket has the index, the kernel's hash decides.
//!
//! Also filters of a listener (`SO_ATTACH_FILTER`): one drops new clients of a listener that is about to close, the other accepts only
//! clients with a mark.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use libc::sock_filter;

/// `A = the word at K`.
pub(crate) const LOAD_ABSOLUTE: u16 = 0x20;
/// `A = A + K`.
const ADD: u16 = 0x04;
/// `A = A % K`.
const MODULO: u16 = 0x94;
/// Skip `jt` instructions if `A == K`, else `jf`.
pub(crate) const JUMP_EQUAL: u16 = 0x15;
/// `A = the byte at K`.
pub(crate) const LOAD_BYTE: u16 = 0x30;
/// Skip `jt` instructions if `A & K`, else `jf`.
pub(crate) const JUMP_SET: u16 = 0x45;
/// Offset of the flags in the TCP header, at which the data of a TCP socket's filter begins; and the SYN flag.
const TCP_FLAGS: u32 = 13;
pub(crate) const SYN: u32 = 2;
pub(crate) const RETURN_K: u16 = 0x06;
const JUMP_ALWAYS: u16 = 0x05;
/// `A = A * K`, `A >> K`, `A & K`, `A ^ X`, `X = A`.
const MULTIPLY: u16 = 0x24;
const SHIFT_RIGHT: u16 = 0x74;
const AND: u16 = 0x54;
const XOR_X: u16 = 0xac;
const TO_X: u16 = 0x07;
/// `SKF_NET_OFF`: offsets from here on are relative to the network header.
pub(crate) const NETWORK_HEADER: u32 = (-0x10_0000_i32).cast_unsigned();
/// `SKF_AD_OFF + SKF_AD_PROTOCOL`: the network protocol, in the host's byte order.
const PROTOCOL: u32 = (-0x1000_i32).cast_unsigned();
const ETH_P_IP: u32 = 0x0800;
/// Multiplier of Knuth's multiplicative hash: 2^32 divided by the golden ratio.
const GOLDEN: u32 = 0x9e37_79b1;
const RETURN_A: u16 = 0x16;
/// `SKF_AD_OFF + SKF_AD_RANDOM`: a load from here gives 32 random bits.
const RANDOM: u32 = (-0x1000_i32 + 56).cast_unsigned();

/// `SKF_AD_OFF + SKF_AD_MARK`: a load from here gives the packet's mark.
const MARK: u32 = (-0x1000_i32 + 20).cast_unsigned();

/// The number that fits into the 4096 instructions of a classic program, with room to spare.
const MAX_INDEXES: usize = 1024;

/// Attaches a program to the group of `socket`, which must listen. The program picks one of `indexes` at random, each with the same
/// probability. It replaces the previous program.
///
/// # Errors
/// `InvalidInput` for no index or more than 1024; `EINVAL` if the socket does not share its address.
pub fn attach_random(socket: BorrowedFd<'_>, indexes: &[u32]) -> io::Result<()> {
    let program = random_among(indexes).ok_or(io::ErrorKind::InvalidInput)?;
    attach(socket, libc::SO_ATTACH_REUSEPORT_CBPF, program)
}

/// Attaches a program that picks by the client's address: a client always gets the same index. The number of `buckets` is a power of two;
/// each address falls into one.
///
/// # Errors
/// `InvalidInput` if the number is not a power of two, or above 1024; `EINVAL` if the socket does not share its address.
pub fn attach_by_address(socket: BorrowedFd<'_>, buckets: &[u32]) -> io::Result<()> {
    let program = by_address(buckets).ok_or(io::ErrorKind::InvalidInput)?;
    attach(socket, libc::SO_ATTACH_REUSEPORT_CBPF, program)
}

/// Drops new handshakes of a listening socket. Their clients send the SYN again a second later, and reach the socket that listens then.
/// Handshakes under way are finished.
///
/// # Errors
/// `ENOMEM` if the memory for socket options is used up.
pub fn hold_off(socket: BorrowedFd<'_>) -> io::Result<()> {
    let program = vec![
        insn(LOAD_BYTE, 0, 0, TCP_FLAGS),
        insn(JUMP_SET, 0, 1, SYN),
        insn(RETURN_K, 0, 0, 0),
        insn(RETURN_K, 0, 0, u32::MAX),
    ];
    attach(socket, libc::SO_ATTACH_FILTER, program)
}

/// Restricts a listening socket to clients whose packets have this mark ([`crate::socket::mark`]). The SYN of any other is dropped without
/// an answer. Existing connections are not affected. Replaces an existing filter.
///
/// # Errors
/// `ENOMEM` if the memory for socket options is used up.
pub fn accept_marked(socket: BorrowedFd<'_>, mark: u32) -> io::Result<()> {
    let program = vec![
        insn(LOAD_BYTE, 0, 0, TCP_FLAGS),
        // Only SYNs: a reset from a socket that is gone has no mark, and must arrive.
        insn(JUMP_SET, 0, 3, SYN),
        insn(LOAD_ABSOLUTE, 0, 0, MARK),
        insn(JUMP_EQUAL, 1, 0, mark),
        insn(RETURN_K, 0, 0, 0),
        insn(RETURN_K, 0, 0, u32::MAX),
    ];
    attach(socket, libc::SO_ATTACH_FILTER, program)
}

/// Removes the filter of a listening socket, if it has one.
pub fn accept_all(socket: BorrowedFd<'_>) {
    let nothing: libc::c_int = 0;
    let size = size_of_val(&nothing) as libc::socklen_t;
    // SAFETY: the kernel reads at most `size` bytes of the live `nothing`, and ignores them.
    let _ = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DETACH_FILTER,
            (&raw const nothing).cast(),
            size,
        )
    };
}

pub(crate) fn attach(socket: BorrowedFd<'_>, option: i32, mut program: Vec<sock_filter>) -> io::Result<()> {
    let fprog = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_mut_ptr(),
    };
    let size = size_of_val(&fprog) as libc::socklen_t;
    // SAFETY: `fprog` is live and points at `len` live instructions; the kernel copies them.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const fprog).cast(),
            size,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn random_among(indexes: &[u32]) -> Option<Vec<sock_filter>> {
    let (first, len) = (*indexes.first()?, u32::try_from(indexes.len()).ok()?);
    if indexes.len() > MAX_INDEXES {
        return None;
    }
    let mut program = vec![insn(LOAD_ABSOLUTE, 0, 0, RANDOM), insn(MODULO, 0, 0, len)];
    let is_run = indexes
        .windows(2)
        .all(|pair| pair[0].checked_add(1) == Some(pair[1]));
    if is_run {
        program.extend([insn(ADD, 0, 0, first), insn(RETURN_A, 0, 0, 0)]);
        return Some(program);
    }
    for (at, index) in (0..len - 1).zip(indexes) {
        program.extend([insn(JUMP_EQUAL, 0, 1, at), insn(RETURN_K, 0, 0, *index)]);
    }
    program.push(insn(RETURN_K, 0, 0, *indexes.last()?));
    Some(program)
}

fn by_address(buckets: &[u32]) -> Option<Vec<sock_filter>> {
    let (last, rest) = buckets.split_last()?;
    if !buckets.len().is_power_of_two() || buckets.len() > MAX_INDEXES {
        return None;
    }
    let mask = u32::try_from(buckets.len()).ok()? - 1;
    let word = |at| insn(LOAD_ABSOLUTE, 0, 0, NETWORK_HEADER + at);
    let mut program = vec![
        insn(LOAD_ABSOLUTE, 0, 0, PROTOCOL),
        insn(JUMP_EQUAL, 0, 2, ETH_P_IP),
        word(12),
        insn(JUMP_ALWAYS, 0, 0, 10),
        // The four words of an IPv6 address are hashed one after the other.
        word(8),
    ];
    for at in [12, 16, 20] {
        program.extend([
            insn(MULTIPLY, 0, 0, GOLDEN),
            insn(TO_X, 0, 0, 0),
            word(at),
            insn(XOR_X, 0, 0, 0),
        ]);
    }
    program[3].k = u32::try_from(program.len()).ok()? - 4;
    program.extend([
        insn(MULTIPLY, 0, 0, GOLDEN),
        insn(SHIFT_RIGHT, 0, 0, 16),
        insn(AND, 0, 0, mask),
    ]);
    for (bucket, index) in (0..).zip(rest) {
        program.extend([insn(JUMP_EQUAL, 0, 1, bucket), insn(RETURN_K, 0, 0, *index)]);
    }
    program.push(insn(RETURN_K, 0, 0, *last));
    Some(program)
}

pub(crate) fn insn(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program with a given random number.
    fn run(program: &[sock_filter], random: u32) -> u32 {
        let (mut at, mut a) = (0, 0_u32);
        loop {
            let insn = program[at];
            at += 1;
            match insn.code {
                LOAD_ABSOLUTE => a = random,
                MODULO => a %= insn.k,
                ADD => a += insn.k,
                JUMP_EQUAL => at += usize::from(if a == insn.k { insn.jt } else { insn.jf }),
                RETURN_K => return insn.k,
                RETURN_A => return a,
                other => panic!("unexpected instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn every_index_has_its_share_and_no_other_is_picked() {
        for indexes in [
            &[5][..],
            &[0, 1, 2],
            &[3, 4, 5],
            &[0, 2],
            &[7, 1, 4, 5],
            &[2, 1, 0],
        ] {
            let program = random_among(indexes).unwrap();
            let rounds = 60 / indexes.len();
            let mut picked: Vec<u32> = (0..rounds * indexes.len())
                .map(|random| run(&program, random as u32))
                .collect();
            picked.sort_unstable();
            let mut expected = indexes.repeat(rounds);
            expected.sort_unstable();
            assert_eq!(picked, expected);
        }
    }

    #[test]
    fn none_and_too_many_are_refused() {
        assert!(random_among(&[]).is_none());
        assert!(random_among(&vec![1; MAX_INDEXES + 1]).is_none());
        assert!(random_among(&[u32::MAX, 0]).is_some());
    }
}
