//! Source addresses, so that a long load never runs out of ports.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

/// First second octet in use: 127.0.x.y stays free for servers, so no client can connect to itself.
const FIRST_NET: u32 = 16;
/// Networks 127.16.0.0/24 to 127.255.255.0/24, one per client.
const NETS: u32 = (256 - FIRST_NET) * 256;
/// Hosts in a client's network: each has some 28,000 ephemeral ports of its own.
const HOSTS: u32 = 250;

/// Where the next client of this process starts.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The addresses one client binds its connections to, in turn.
#[derive(Debug)]
pub(crate) struct Sources {
    net: u32,
    turn: u32,
}

impl Sources {
    /// Addresses no other client of this process uses (until 61,440 clients were made).
    pub(crate) fn new() -> Self {
        Sources {
            net: NEXT.fetch_add(1, Ordering::Relaxed) % NETS,
            turn: 0,
        }
    }

    /// What to bind the next connection to `target` to, port 0; `None`: leave it to the kernel, for
    /// only IPv4 loopback has a whole network of addresses.
    pub(crate) fn next_for(&mut self, target: SocketAddr) -> Option<SocketAddr> {
        if !matches!(target.ip(), IpAddr::V4(ip) if ip.is_loopback()) {
            return None;
        }
        self.turn = (self.turn + 1) % HOSTS;
        let [_, _, high, low] = (self.net + FIRST_NET * 256).to_be_bytes();
        let [.., host] = (self.turn + 1).to_be_bytes();
        Some(SocketAddr::from((Ipv4Addr::new(127, high, low, host), 0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_differ_and_the_target_address_is_never_used() {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
        let (mut one, mut other) = (Sources::new(), Sources::new());
        for _ in 0..1000 {
            let [a, b] =
                [one.next_for(target), other.next_for(target)].map(|source| source.expect("loopback"));
            assert_ne!(a.ip(), b.ip());
            assert!(a.ip().is_loopback() && a.ip() != target.ip(), "{a}");
        }
    }

    #[test]
    fn other_targets_are_left_to_the_kernel() {
        for target in ["[::1]:80", "192.0.2.1:80"] {
            assert_eq!(Sources::new().next_for(target.parse().expect("address")), None);
        }
    }
}
