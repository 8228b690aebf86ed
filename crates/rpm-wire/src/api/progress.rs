//! How a change goes on, told to who waits for it.

use serde::{Deserialize, Serialize};

use super::{ApiError, ChangeReply};

/// How much of a change is told to who asked for it and waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Follow {
    /// Answer only when the workers that were replaced are gone too.
    #[serde(default)]
    pub drained: bool,
    /// Answer with lines ([`Progress`]) as it goes on.
    #[serde(default)]
    pub progress: bool,
}

/// One line of an answer that tells how a change goes on (NDJSON); the last is `Done` or `Failed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// A worker got somewhere.
    Step(Step),
    /// The change is made.
    Done(ChangeReply),
    /// It is not.
    Failed(ApiError),
}

/// A worker got somewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The app's name.
    pub app: String,
    /// `pm_id`.
    pub id: u32,
    /// Its process.
    pub pid: u32,
    /// Where.
    pub to: WorkerStage,
}

/// Where a worker got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerStage {
    /// Its process runs.
    Starting,
    /// It serves.
    Ready,
    /// It ended, and nobody had asked it to.
    Failed,
    /// It finishes what it has begun.
    Draining,
    /// It was told to end.
    Stopping,
    /// Its process has ended.
    Gone,
}

impl WorkerStage {
    /// The word shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            WorkerStage::Starting => "starting",
            WorkerStage::Ready => "ready",
            WorkerStage::Failed => "failed",
            WorkerStage::Draining => "draining",
            WorkerStage::Stopping => "stopping",
            WorkerStage::Gone => "gone",
        }
    }
}
