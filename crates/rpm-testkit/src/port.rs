//! Port numbers that no concurrent test uses.

use std::fs::{File, OpenOptions};
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, SystemTime};

/// Below the ephemeral range, so that no outgoing connection takes one.
const FIRST: u16 = 12_000;
const LAST: u16 = 31_999;
/// Time for which a connection that its server has closed keeps the port from whoever binds it without `SO_REUSEADDR` (TIME-WAIT).
const RESTS_FOR: Duration = Duration::from_secs(60);

/// A free TCP port, reserved against other tests until dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Locked while the port is reserved. When it was last modified says until when.
    lock: File,
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
        let path = directory.join(number.to_string());
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .ok()?;
        lock.try_lock().ok()?;
        let rests = was_used(&lock).ok()?.is_some_and(|ago| ago < RESTS_FOR);
        (!rests && is_free(number)).then_some(Port { number, lock })
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

/// How long ago the port of this lock was given back; `None` if nobody has had it.
fn was_used(lock: &File) -> io::Result<Option<Duration>> {
    let meta = lock.metadata()?;
    let ago = meta.modified()?.elapsed().unwrap_or_default();
    Ok((meta.len() > 0).then_some(ago))
}

impl Drop for Port {
    fn drop(&mut self) {
        // The length says that it was used, the time when.
        let _ = self.lock.set_len(1);
        let _ = self.lock.set_modified(SystemTime::now());
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.number.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_was_given_back_rests() {
        let port = Port::reserve();
        let number = port.number();
        assert!(Port::take(number).is_none(), "it is reserved");
        drop(port);
        assert!(Port::take(number).is_none(), "it rests");
        let path = std::env::temp_dir()
            .join("rpm-test-ports")
            .join(number.to_string());
        let lock = File::options().write(true).open(path).expect("its lock");
        lock.set_modified(SystemTime::now() - RESTS_FOR)
            .expect("it is ours");
        // Another test may have been quicker, which shows the same.
        assert!(Port::take(number).is_some() || lock.try_lock().is_err());
    }
}
