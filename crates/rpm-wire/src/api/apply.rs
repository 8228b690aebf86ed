//! `POST /v1/plan` and `POST /v1/apply`: what apps shall be, and the way from what they are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{AppSpec, Follow, yes};

/// `POST /v1/plan`: what would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// The apps as they shall be.
    pub apps: Vec<AppSpec>,
}

impl ApplyRequest {
    /// A request that waits, and says nothing more.
    #[must_use]
    pub fn new(apps: Vec<AppSpec>, mode: ApplyMode) -> ApplyRequest {
        ApplyRequest {
            apps,
            mode,
            stopped: Vec::new(),
            stopped_instances: BTreeMap::new(),
            renamed: BTreeMap::new(),
            toggle_watch: Vec::new(),
            hard: false,
            wait: true,
            follow: Follow::default(),
        }
    }
}

/// How apps that run become what they shall be. Those that do not exist are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApplyMode {
    /// Those that run already are restarted (a cluster that serves is reloaded).
    Restart,
    /// They are reloaded.
    Reload,
    /// They are left alone, unless something changes or they do not run.
    Changed,
    /// They are left alone.
    Absent,
}

/// `POST /v1/apply`: have apps be so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// The apps as they shall be. Others are left alone.
    pub apps: Vec<AppSpec>,
    /// How.
    pub mode: ApplyMode,
    /// Names of those among them that are only put in the list if they are new.
    #[serde(default)]
    pub stopped: Vec<String>,
    /// Instances that are only put in the list if their app is new: by the app's name, counted from 0.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stopped_instances: BTreeMap<String, Vec<u32>>,
    /// Apps that have another name here than they had: the old names, by the new ones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub renamed: BTreeMap<String, String>,
    /// Names of those whose watching of files is switched off, or on again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub toggle_watch: Vec<String>,
    /// Stop and start those that run, even where a reload would do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hard: bool,
    /// Answer only when it is done.
    #[serde(default = "yes")]
    pub wait: bool,
    /// What else the answer is about.
    #[serde(default)]
    pub follow: Follow,
}

/// An app as it is: an element of `GET /v1/dump`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// What it was described by, with as many instances as it has.
    pub app: AppSpec,
    /// A user has stopped it.
    #[serde(default)]
    pub stopped: bool,
    /// A user has stopped these of its instances, counted from 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stopped_instances: Vec<u32>,
}

/// What becomes of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is new.
    Added,
    /// It is there, and some keys differ.
    Changed,
    /// It is there as it shall be.
    Unchanged,
}

/// An app of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// What becomes of it.
    pub change: Change,
    /// What differs.
    pub keys: Vec<KeyChange>,
}

/// A key whose value changes. The values of variables are not told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// Which, as an ecosystem file has it: `script`, or `env.PORT`.
    pub key: String,
    /// What it was, as JSON; `None`: it was not there, or is not told.
    pub from: Option<String>,
    /// What it becomes; `None`: it goes, or is not told.
    pub to: Option<String>,
    /// It was there, and is not any more.
    #[serde(default)]
    pub removed: bool,
    /// It was not there.
    #[serde(default)]
    pub added: bool,
}
