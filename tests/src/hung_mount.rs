//! A file system that does not respond, as NFS without its server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rpm_testkit::{fixture, skip};

use crate::process::entering;

/// Holds a mount namespace in which a directory is a file system that never answers; all that waits for it fails when this is dropped.
#[derive(Debug)]
pub struct HungMount {
    holder: Child,
    orders: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
}

impl HungMount {
    /// Mounts it at `place`, a directory. `None` without root and /dev/fuse; in CI that fails.
    ///
    /// # Panics
    /// In CI, if it is not possible.
    #[must_use]
    pub fn new(test: &str, place: &Path) -> Option<HungMount> {
        let mut holder = Command::new("python3")
            .arg(fixture("hung_mount.py"))
            .arg(place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let said = BufReader::new(holder.stdout.take().expect("it is piped"));
        let mut mount = HungMount {
            orders: holder.stdin.take(),
            said,
            holder,
        };
        if mount.hears("ready") {
            return Some(mount);
        }
        skip(
            test,
            "no FUSE mount can be made here (root, /dev/fuse and python3 are needed)",
        );
        None
    }

    /// The command, run in the namespace. A daemon that it starts stays there.
    #[must_use]
    pub fn inside(&self, command: &Command) -> Command {
        entering("--mount", self.holder.id(), command)
    }

    /// From now on every access fails at once.
    ///
    /// # Panics
    /// It did so before.
    pub fn fail(&mut self) {
        self.order("failing");
    }

    /// Unmounts it: the directory is an ordinary one again.
    ///
    /// # Panics
    /// It was not made to fail before.
    pub fn unmount(&mut self) {
        self.order("gone");
    }

    fn order(&mut self, done: &str) {
        let orders = self.orders.as_mut().expect("it listens as long as it lives");
        orders.write_all(b"\n").expect("it runs");
        assert!(self.hears(done), "not {done}");
    }

    fn hears(&mut self, word: &str) -> bool {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("its output can be read");
        line.trim() == word
    }
}

impl Drop for HungMount {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
