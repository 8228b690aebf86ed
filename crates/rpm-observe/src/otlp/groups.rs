//! Histograms and summaries, which are several samples of a page each.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::metrics::{Labels, labels_but};
use crate::own::{Family, Sample};

/// The label of a histogram's buckets, which is not an attribute of it.
pub(super) const BOUND: &str = "le";
/// The label of a summary's values, which is not an attribute of it.
pub(super) const QUANTILE: &str = "quantile";

/// The samples of a histogram or a summary with the same labels.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Bounds with how many are within, or quantiles with their values.
    parts: Vec<(f64, f64)>,
    sum: Option<f64>,
    pub count: Option<f64>,
}

impl Group {
    fn add(&mut self, name: &str, sample: &Sample, part: &str) {
        match sample.name.strip_prefix(name) {
            Some("_sum") => self.sum = Some(sample.value),
            Some("_count") => self.count = Some(sample.value),
            _ => {
                let part = sample.labels.iter().find(|(label, _)| label == part);
                if let Some(part) = part.and_then(|(_, text)| text.parse().ok()) {
                    self.parts.push((part, sample.value));
                }
            }
        }
    }
}

/// The samples of a family by their labels; `part` is the one that tells those of a group apart.
pub(super) fn grouped(name: &str, family: &Family, part: &str) -> BTreeMap<Labels, Group> {
    let mut groups: BTreeMap<Labels, Group> = BTreeMap::new();
    for sample in &family.samples {
        let group = groups.entry(labels_but(sample, part)).or_default();
        group.add(name, sample, part);
    }
    groups
}

/// Each bucket of OTLP has what is between its bounds; those of the page hold those before them, too.
pub(super) fn histogram(group: &Group, value: &mut Value) -> Option<()> {
    let mut parts = group.parts.clone();
    parts.sort_by(|a, b| a.0.total_cmp(&b.0));
    let bounds: Vec<f64> = parts
        .iter()
        .map(|(bound, _)| *bound)
        .filter(|bound| bound.is_finite())
        .collect();
    let all = group.count.or_else(|| Some(parts.last()?.1))?;
    let mut before = 0.0;
    let mut counts = Vec::new();
    let within = parts
        .iter()
        .filter(|(bound, _)| bound.is_finite())
        .map(|(_, count)| *count);
    for count in within.chain([all]) {
        counts.push(whole(count - before));
        before = count.max(before);
    }
    value["count"] = json!(whole(all));
    value["sum"] = json!(group.sum.filter(|sum| sum.is_finite())?);
    value["bucketCounts"] = json!(counts);
    value["explicitBounds"] = json!(bounds);
    Some(())
}

pub(super) fn summary(group: &Group, value: &mut Value) -> Option<()> {
    let finite = group.parts.iter().filter(|(_, value)| value.is_finite());
    let quantiles: Vec<Value> = finite
        .map(|(quantile, value)| json!({"quantile": quantile, "value": value}))
        .collect();
    value["count"] = json!(whole(group.count?));
    value["sum"] = json!(group.sum.filter(|sum| sum.is_finite())?);
    value["quantileValues"] = json!(quantiles);
    Some(())
}

/// A count of 64 bits, which is written as text.
fn whole(count: f64) -> String {
    (count.max(0.0) as u64).to_string()
}
