//! What workers are started from. A specification is written as the API has it ([`AppSpec`]), whose own rules keep it readable: fields are
//! added, and a program refuses those that it does not know.

use std::collections::BTreeMap;
use std::sync::Arc;

use rpm_wire::api::AppSpec;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// All apps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppsDocument {
    /// [`crate::FORMAT`].
    pub format: u32,
    /// Of the program that wrote it.
    pub version: String,
    /// By their numbers.
    pub apps: BTreeMap<u32, StoredApp>,
}

/// An app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredApp {
    /// Its name.
    pub name: String,
    /// Its specifications that may still be needed, by their numbers.
    pub revisions: BTreeMap<u32, Revision>,
    /// The number of the last one.
    pub last_revision: u32,
    /// When it was started first, since 1970.
    pub created_at_ms: u64,
    /// What the first worker to ask for a listener sent along, by the listener's key.
    pub data: BTreeMap<String, Option<Value>>,
    /// Its Node is too old for the agent.
    pub agent_refused: bool,
    /// A user has stopped all of it.
    pub rests: bool,
    /// A user has switched off the watching of its files.
    pub unwatched: bool,
}

/// A specification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revision {
    /// As it was given.
    pub given: Arc<AppSpec>,
    /// With its symbolic links resolved, if that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real: Option<Arc<AppSpec>>,
}
