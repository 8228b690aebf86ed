//! Port numbers that no other test takes.

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
    /// Reserves one.
    ///
    /// # Panics
    /// There is none left.
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

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Nobody listens there. The kernel is asked, and no socket is bound to see: another thread that forks at that moment would
/// keep a copy of it, and the port, until its child has executed its program.
fn is_free(number: u16) -> bool {
    // Local address, remote address, state; 0A is LISTEN.
    let local = format!(":{number:04X} ");
    let listens = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let listening = fields.get(3).is_some_and(|state| *state == "0A");
        listening && fields.get(1).is_some_and(|at| format!("{at} ").ends_with(&local))
    };
    ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().all(|table| {
        let table = std::fs::read_to_string(table).unwrap_or_default();
        !table.lines().any(listens)
    })
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.number.fmt(f)
    }
}
