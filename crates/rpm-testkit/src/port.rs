//! Port numbers that no concurrent test uses.

use std::fs::File;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ephemeral range, so that no outgoing connection takes one.
const FIRST: u16 = 12_000;
const LAST: u16 = 31_999;

/// A free TCP port, reserved against other tests until dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Reserves a port.
    ///
    /// # Panics
    /// No port is left.
    #[must_use]
    pub fn reserve() -> Port {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let span = LAST - FIRST;
        let offset = u16::try_from(std::process::id() % u32::from(span)).expect("a remainder of a u16");
        for _ in 0..span {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = FIRST + (offset.wrapping_mul(7).wrapping_add(step)) % span;
            if let Some(port) = Port::take(number) {
                return port;
            }
        }
        panic!("every port from {FIRST} to {LAST} is taken");
    }

    fn take(number: u16) -> Option<Port> {
        let directory = std::env::temp_dir().join("rpm-test-ports");
        std::fs::create_dir_all(&directory).expect("a directory for port locks");
        let lock = File::create(directory.join(number.to_string())).ok()?;
        lock.try_lock().ok()?;
        is_free(number).then(|| Port { number, _lock: lock })
    }

    /// The number of sockets that listen on the port, at any address.
    ///
    /// # Panics
    /// The kernel does not tell.
    #[must_use]
    pub fn listeners(&self) -> usize {
        let all = rpm_sys::sock_diag::listeners_on(self.number);
        all.expect("the kernel says who listens").len()
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// True if no socket listens on the port. This asks the kernel rather than binding a socket: a thread that forks at that moment would keep
/// a copy of the socket, and so the port, until its child executes its program. It asks for this port only: reading all of `/proc/net/tcp`
/// takes 50 ms when there were many connections a moment ago.
fn is_free(number: u16) -> bool {
    rpm_sys::sock_diag::listeners_on(number)
        .expect("the kernel says who listens")
        .is_empty()
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.number.fmt(f)
    }
}
