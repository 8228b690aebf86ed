//! The present figures: the samples of a page for Prometheus that a client has asked for. Pure.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::bounds::Room;
use crate::own::{Family, Malformed, Sample, read};

/// What follows the name of a histogram's buckets.
const BUCKET: &str = "_bucket";
/// The label that names the app.
const APP: &str = "app";

/// Answer of `metrics`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Figures {
    metrics: Vec<Metric>,
    /// So many samples have no room here: narrow the call by `app` or `name`.
    #[serde(skip_serializing_if = "is_none")]
    left_out: usize,
    /// Names of histograms whose buckets are not shown; ask for them by `name`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    without_buckets: Vec<String>,
    /// What could not be read of the apps' own metrics.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    trouble: Vec<String>,
}

/// A metric.
#[derive(Debug, Serialize, JsonSchema)]
struct Metric {
    name: String,
    /// `counter`, `gauge`, `histogram`, `summary` or `untyped`.
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
    samples: Vec<Figure>,
}

/// A sample of a metric.
#[derive(Debug, Serialize, JsonSchema)]
struct Figure {
    /// What is added to the name: `_sum`, `_count`, `_bucket`.
    #[serde(skip_serializing_if = "String::is_empty")]
    suffix: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    value: f64,
}

fn is_none(value: &usize) -> bool {
    *value == 0
}

/// Which figures are wanted.
#[derive(Debug, Default)]
pub(super) struct Wanted<'a> {
    /// Of this app alone.
    pub(super) app: Option<&'a str>,
    /// With this in their names.
    pub(super) name: Option<&'a str>,
}

impl Figures {
    /// The wanted figures of a page.
    ///
    /// # Errors
    /// It is not in the format of Prometheus.
    pub(super) fn of(page: &str, wanted: &Wanted<'_>, trouble: Vec<String>) -> Result<Figures, Malformed> {
        let (mut metrics, mut without_buckets) = (Vec::new(), Vec::new());
        let (mut room, mut left_out) = (Room::new(), 0);
        for (name, family) in read(page)? {
            if wanted.name.is_some_and(|part| !name.contains(part)) {
                continue;
            }
            let (samples, had_buckets) = samples(&name, &family, wanted);
            if had_buckets {
                without_buckets.push(name.clone());
            }
            let (samples, over) = room.first(samples);
            left_out += over;
            if !samples.is_empty() {
                let (kind, help) = (family.kind.word(), family.help);
                metrics.push(Metric {
                    name,
                    kind,
                    help,
                    samples,
                });
            }
        }
        Ok(Figures {
            metrics,
            left_out,
            without_buckets,
            trouble,
        })
    }
}

/// The wanted samples, and whether buckets are not among them.
fn samples(name: &str, family: &Family, wanted: &Wanted<'_>) -> (Vec<Figure>, bool) {
    let mut had_buckets = false;
    let mut figures = Vec::new();
    for sample in &family.samples {
        if !is_of(sample, wanted.app) || !sample.value.is_finite() {
            continue;
        }
        let suffix = sample.name.strip_prefix(name).unwrap_or_default();
        if suffix == BUCKET && wanted.name.is_none() {
            had_buckets = true;
            continue;
        }
        figures.push(Figure {
            suffix: suffix.to_owned(),
            labels: sample.labels.iter().cloned().collect(),
            value: sample.value,
        });
    }
    (figures, had_buckets)
}

fn is_of(sample: &Sample, app: Option<&str>) -> bool {
    let Some(app) = app else { return true };
    let label = sample.labels.iter().find(|(label, _)| label == APP);
    label.is_some_and(|(_, value)| value == app)
}
