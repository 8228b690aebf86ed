//! Daemons to which the system denies a mechanism.

use std::process::Command;

use rpm_testkit::fixture;

/// The denied mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Copying descriptors of other processes (`pidfd_getfd`).
    Getfd,
    /// `seccomp`.
    Seccomp,
    /// Another seccomp filter with notification.
    Listener,
}

impl Denied {
    /// The command, and the daemon that it starts, without the mechanism.
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
