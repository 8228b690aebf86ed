//! `GET /v1/scrape`: the pages of metrics that apps have themselves (`metrics_path`), of each worker by itself.

use serde::{Deserialize, Serialize};

/// The answer: it is for `rpm observe`, which adds the figures up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrape {
    /// The apps with a `metrics_path`, whether workers of them run or not.
    pub apps: Vec<String>,
    /// A page of each of their workers, or why there is none.
    pub pages: Vec<ScrapedPage>,
}

/// What one worker says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrapedPage {
    /// The app's name.
    pub app: String,
    /// `pm_id` of its instance.
    pub id: u32,
    /// Names the worker: no other worker has had it, or gets it.
    pub worker: String,
    /// This is the last page of a worker that has drained. It is told for some minutes, as often as somebody asks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
    /// It leaves, or is to be the successor of another worker: its instance has another one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
    /// The text, if it answered with status 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
