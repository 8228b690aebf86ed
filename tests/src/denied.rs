//! Daemons that the system denies something.

use std::process::Command;

use rpm_testkit::fixture;

/// What is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Descriptors of other processes (`pidfd_getfd`).
    Getfd,
    /// `seccomp`.
    Seccomp,
    /// Another seccomp filter that reports to somebody.
    Listener,
}

impl Denied {
    /// The command, and the daemon that it starts, without that.
    #[must_use]
    pub fn to(self, command: &Command) -> Command {
        let mut launched = Command::new("python3");
        launched
            .arg(fixture("without.py"))
            .arg(match self {
                Denied::Getfd => "getfd",
                Denied::Seccomp => "seccomp",
                Denied::Listener => "listener",
            })
            .arg(command.get_program())
            .args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => launched.env(key, value),
                None => launched.env_remove(key),
            };
        }
        launched
    }
}
