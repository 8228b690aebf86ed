//! How many passwords are looked at: each costs 19 MiB and some 50 ms, and nobody may try many.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Wrong passwords from one address within [`PERIOD`].
const FROM_ONE: u32 = 10;
/// Wrong passwords from all addresses together within [`PERIOD`].
const FROM_ALL: u32 = 60;
const PERIOD: Duration = Duration::from_secs(60);

/// Attempts of late that were not right, those under way among them.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    since: Option<Instant>,
    all: u32,
    /// It has no more addresses than there are attempts.
    from: HashMap<IpAddr, u32>,
}

impl Attempts {
    /// Counts an attempt, before the password is looked at. False: it must not be.
    pub(super) fn begin(&mut self, address: IpAddr, now: Instant) -> bool {
        let begun = |since: Instant| now.duration_since(since) < PERIOD;
        if !self.since.is_some_and(begun) {
            *self = Attempts {
                since: Some(now),
                ..Attempts::default()
            };
        }
        let one = self.from.get(&network(address)).copied().unwrap_or_default();
        if one >= FROM_ONE || self.all >= FROM_ALL {
            return false;
        }
        self.all += 1;
        self.from.insert(network(address), one + 1);
        true
    }

    /// The password was right: the attempt does not count.
    pub(super) fn right(&mut self, address: IpAddr) {
        if let Some(one) = self.from.get_mut(&network(address)) {
            *one = one.saturating_sub(1);
            self.all = self.all.saturating_sub(1);
        }
    }
}

/// What one client has: an IPv4 address, or the first half of an IPv6 address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn attempts_are_few_of_one_and_of_all() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for _ in 0..100 {
            assert!(attempts.begin(ip("10.0.0.1"), now));
            attempts.right(ip("10.0.0.1"));
        }
        let mut tries = |address: &str, now| (0..100).filter(|_| attempts.begin(ip(address), now)).count();
        assert_eq!(tries("10.0.0.1", now), 10);
        assert_eq!(tries("::ffff:10.0.0.1", now), 0, "the same address");
        assert_eq!(tries("2001:db8::1", now), 10);
        assert_eq!(tries("2001:db8::2", now), 0, "the same network");
        assert_eq!(tries("2001:db8:0:1::1", now), 10);
        for last in 2..5 {
            assert_eq!(tries(&format!("10.0.0.{last}"), now), 10);
        }
        assert_eq!(tries("10.0.0.9", now), 0, "there were 60");
        assert_eq!(tries("10.0.0.1", now + PERIOD), 10, "a minute later");
    }
}
