//! What somebody is told, and which events begin and end it.

use rpm_wire::alerts::Trigger;
use rpm_wire::events::What;
use serde::{Deserialize, Serialize};

/// Whether something began or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It has happened, or lasts.
    Fired,
    /// It is over.
    Recovered,
    /// Somebody tries whether messages arrive.
    Test,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Fired => "fired",
            State::Recovered => "recovered",
            State::Test => "test",
        }
    }
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Message {
    /// Number of the rule in its file, from 0.
    pub rule: usize,
    /// What the rule says, as a hash: the same in its first message and its last, whatever number it has by then.
    #[serde(default)]
    pub key: String,
    /// What the rule is about.
    pub on: Trigger,
    /// Whether it began or ended.
    pub state: State,
    /// The app; none for what concerns the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// In words.
    pub text: String,
    /// How often it has happened since the last message about it, this time included.
    pub count: u32,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl Message {
    /// The same, of a rule that says the same and stands before the other's.
    pub(super) fn is_twin_before(&self, other: &Message) -> bool {
        let said = |it: &Message| (it.state, it.id, it.at_ms, it.count);
        self.rule < other.rule
            && self.key == other.key
            && self.app == other.app
            && self.text == other.text
            && said(self) == said(other)
    }
}

/// What an event means for rules.
pub(super) struct Meaning {
    pub begins: Option<Trigger>,
    pub ends: &'static [Trigger],
}

pub(super) fn meaning(what: &What) -> Meaning {
    let (begins, ends): (Option<Trigger>, &'static [Trigger]) = match what {
        What::Crashed { .. } => (Some(Trigger::Crash), &[Trigger::Frozen, Trigger::Unhealthy]),
        What::Errored { .. } => (Some(Trigger::Errored), &[]),
        What::Ready { .. } => (None, &[Trigger::Errored]),
        What::Stopped { .. } | What::Exited { .. } => (None, &[Trigger::Frozen, Trigger::Unhealthy]),
        What::Deleted {} => (None, &[Trigger::Errored, Trigger::Frozen, Trigger::Unhealthy]),
        What::Frozen { .. } => (Some(Trigger::Frozen), &[]),
        What::Recovered { .. } => (None, &[Trigger::Frozen]),
        What::ReloadUndone { .. } => (Some(Trigger::ReloadFailed), &[Trigger::Unhealthy]),
        // It brought the old workers back after a reload that has failed.
        What::ReloadDone { returned: true } => (None, &[Trigger::Unhealthy]),
        What::ReloadDone { .. } => (None, &[Trigger::ReloadFailed, Trigger::Unhealthy]),
        What::Unhealthy { .. } => (Some(Trigger::Unhealthy), &[]),
        What::Healthy { .. } => (None, &[Trigger::Unhealthy]),
        What::MemoryLimit { .. } => (Some(Trigger::MemoryLimit), &[]),
        _ => (None, &[]),
    };
    Meaning { begins, ends }
}
