//! Changes of apps that keys and commands ask for.

use std::fmt::{self, Display, Formatter};

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Reload,
    Restart,
    Start,
    Stop,
    /// To `n`, `+n`, `-n` or `max` instances.
    Scale(String),
    Rollback,
}

/// An app or an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// As the daemon is told.
    pub(super) word: String,
    /// As it is shown.
    pub(super) label: String,
    /// Number of its instances.
    pub(super) instances: usize,
}

/// A change and its target, which is fixed: the list may change before the answer comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) verb: Verb,
    pub(super) target: Target,
}

impl Verb {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Verb::Reload => "reload",
            Verb::Restart => "restart",
            Verb::Start => "start",
            Verb::Stop => "stop",
            Verb::Scale(_) => "scale",
            Verb::Rollback => "rollback",
        }
    }

    /// What happens, for those who are asked.
    pub(super) fn consequence(&self) -> &'static str {
        match self {
            Verb::Reload => "New workers replace the old ones when they are ready.",
            Verb::Restart => "A cluster that serves is reloaded; others stop and start.",
            Verb::Start => "What is stopped starts; what runs is restarted.",
            Verb::Stop => "It finishes what it has begun, and serves no more.",
            Verb::Scale(_) => "Instances are added, or finish their work and end.",
            Verb::Rollback => "What served before the last reload serves again.",
        }
    }
}

impl Display for Request {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Request { verb, target } = self;
        write!(f, "{} {}", verb.word(), target.label)?;
        match verb {
            Verb::Scale(count) => write!(f, " to {count}"),
            _ => Ok(()),
        }
    }
}
