//! `GET /v1/scrape`: the pages of metrics that apps have themselves (`metrics_path`, `prom_client`), of each worker by itself.
//! `GET /v1/figures`: what is recorded of each app.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The answer: it is for `rpm observe`, which adds the figures up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrape {
    /// The apps with metrics of their own, whether workers of them run or not.
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
    /// What it answered: the text of its page, or of `prom_client` JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
    /// `page` is what prom-client has answered: a list of its registries, each a list of metrics (`getMetricsAsJSON`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prom_client: bool,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The present figures of an app. Unlike `/metrics` they switch nothing on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AppFigures {
    /// The app's name.
    pub app: String,
    /// Instances that are online.
    pub online: u32,
    /// Shares of one CPU in percent, added up.
    pub cpu_percent: f64,
    /// Resident memory in bytes, added up.
    pub memory_bytes: u64,
    /// Restarts of each instance, by `pm_id`.
    pub restarts: BTreeMap<u32, u32>,
    /// Established connections, where they were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Connections that wait to be accepted, if the app listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<u32>,
    /// The worst event loop of Node: the 99th percentile of its delay, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_us: Option<u64>,
    /// Bounds of `times`, in milliseconds.
    #[serde(default)]
    pub bounds_ms: Vec<f64>,
    /// The workers of its instances, by their numbers, whether they are measured or not.
    #[serde(default)]
    pub workers: Vec<u64>,
    /// What each worker of Node (or the proxy, as number 0) has answered; empty if nobody counts.
    #[serde(default)]
    pub answered: BTreeMap<u64, Answered>,
}

/// Responses that were counted since something began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// By status class, from 1xx to 5xx.
    pub classes: [u64; 5],
    /// By time: within each of the bounds, and beyond.
    pub times: Vec<u64>,
}
