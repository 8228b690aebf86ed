//! Requests that replace the workers of apps.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Follow, yes};

/// `POST /v1/reload`: replace the workers of apps, losing nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {
    /// Names, ids of instances, or `all`.
    pub targets: Vec<String>,
    /// Variables that the apps get besides those they have.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// For this reload, instead of what the apps are configured with.
    #[serde(default)]
    pub watch_after_ms: Option<u64>,
    /// If this very version is being reloaded already, and whoever asked for that has gone: wait for its outcome, and begin no other. What has changed
    /// on the disk since it began is not in it.
    #[serde(default)]
    pub attach: bool,
    /// Answer only when the new workers serve (or one has failed).
    #[serde(default = "yes")]
    pub wait: bool,
    /// What else the answer is about.
    #[serde(default)]
    pub follow: Follow,
}

/// `POST /v1/rollback`: bring back what an app was started from before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The app's name or the id of one of its instances.
    pub target: String,
    /// Answer only when the new workers serve (or one has failed).
    #[serde(default = "yes")]
    pub wait: bool,
    /// What else the answer is about.
    #[serde(default)]
    pub follow: Follow,
}
