//! What prom-client answers in a cluster, read: its registries as JSON (`getMetricsAsJSON`, prom-client 15). The same bounds hold as for a page.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::parse::{Family, Kind, LABELS_LIMIT, Malformed, SAMPLES_LIMIT, Sample, is_label, is_name};

#[derive(Deserialize)]
struct Metric {
    name: String,
    #[serde(default)]
    help: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    values: Vec<Observed>,
}

#[derive(Deserialize)]
struct Observed {
    /// JSON has no NaN: what is no number is null.
    value: Option<f64>,
    #[serde(default)]
    labels: BTreeMap<String, Value>,
    /// The name with what is added to it, of histograms and summaries.
    #[serde(rename = "metricName")]
    name: Option<String>,
}

/// The metrics of all registries, by name.
///
/// # Errors
/// It is not what prom-client answers, or too long.
pub(crate) fn read(text: &str) -> Result<BTreeMap<String, Family>, Malformed> {
    let registries: Vec<Vec<Metric>> =
        serde_json::from_str(text).map_err(|error| Malformed::Json(error.to_string()))?;
    let (mut families, mut count) = (BTreeMap::new(), 0);
    for metric in registries.into_iter().flatten() {
        count += metric.values.len();
        if count > SAMPLES_LIMIT {
            return Err(Malformed::Long(SAMPLES_LIMIT));
        }
        let name = metric.name.clone();
        let family = family_of(metric).ok_or_else(|| Malformed::Json(format!("the metric {name:?}")))?;
        add(&mut families, name, family);
    }
    families.retain(|_, family: &mut Family| !family.samples.is_empty());
    Ok(families)
}

/// Adds a metric, which two registries may have: what does not add up is that of the first, as a page has each sample once.
fn add(families: &mut BTreeMap<String, Family>, name: String, family: Family) {
    let known = families.entry(name).or_insert_with(|| Family {
        kind: family.kind,
        help: family.help.clone(),
        samples: Vec::new(),
    });
    let adds_up = matches!(known.kind, Kind::Counter | Kind::Histogram);
    let key = |sample: &Sample| (sample.name.clone(), sample.labels.clone());
    let seen: BTreeSet<_> = known.samples.iter().map(key).collect();
    let fresh = |sample: &Sample| adds_up || !seen.contains(&key(sample));
    known.samples.extend(family.samples.into_iter().filter(fresh));
}

/// `None`: names that no page may have.
fn family_of(metric: Metric) -> Option<Family> {
    let values = metric.values.into_iter();
    let known = values.filter_map(|observed| Some((observed.value?, observed)));
    let samples = known.map(|(value, observed)| {
        let name = observed.name.unwrap_or_else(|| metric.name.clone());
        let labels = labels_of(observed.labels)?;
        is_name(&name).then_some(Sample { name, labels, value })
    });
    Some(Family {
        kind: Kind::of(&metric.kind).unwrap_or_default(),
        help: (!metric.help.is_empty()).then(|| escaped(&metric.help)),
        samples: samples.collect::<Option<_>>()?,
    })
    .filter(|_| is_name(&metric.name))
}

/// The labels with their values as a page has them.
fn labels_of(labels: BTreeMap<String, Value>) -> Option<Vec<(String, String)>> {
    if labels.len() > LABELS_LIMIT || !labels.keys().all(|name| is_label(name)) {
        return None;
    }
    let written = |value: Value| match value {
        Value::String(text) => escaped(&text).replace('"', "\\\""),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        // A program that has no value for a label.
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
    };
    Some(
        labels
            .into_iter()
            .map(|(name, value)| (name, written(value)))
            .collect(),
    )
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_read_as_the_page_would_be() {
        let registries = json!([
            [
                {"help": "Answers\nof \\ all", "name": "answers_total", "type": "counter", "aggregator": "sum", "values": [
                    {"value": 3, "labels": {"method": "GET", "path": "a \"b\"\\\n"}}, {"value": 1.5, "labels": {"code": 200, "ok": true}}]},
                {"help": "Time", "name": "took_seconds", "type": "histogram", "aggregator": "sum", "values": [
                    {"labels": {"le": 0.005}, "value": 1, "metricName": "took_seconds_bucket", "exemplar": null},
                    {"labels": {"le": "+Inf"}, "value": 2, "metricName": "took_seconds_bucket"},
                    {"labels": {}, "value": 0.25, "metricName": "took_seconds_sum"},
                    {"labels": {}, "value": 2, "metricName": "took_seconds_count"}]},
                {"help": "Size", "name": "size", "type": "summary", "values": [
                    {"labels": {"quantile": 0.5}, "value": 7}, {"labels": {"quantile": 0.9}, "value": null},
                    {"metricName": "size_sum", "labels": {}, "value": 10}, {"metricName": "size_count", "labels": {}, "value": 2}]},
                {"help": "", "name": "heat", "type": "gauge", "values": [{"value": -1, "labels": {}}]},
            ],
            [{"help": "None", "name": "nothing", "type": "gauge", "values": []}],
        ]);
        let page = "# HELP answers_total Answers\\nof \\\\ all\n# TYPE answers_total counter\n\
                    answers_total{method=\"GET\",path=\"a \\\"b\\\"\\\\\\n\"} 3\nanswers_total{code=\"200\",ok=\"true\"} 1.5\n\
                    # HELP took_seconds Time\n# TYPE took_seconds histogram\ntook_seconds_bucket{le=\"0.005\"} 1\n\
                    took_seconds_bucket{le=\"+Inf\"} 2\ntook_seconds_sum 0.25\ntook_seconds_count 2\n\
                    # HELP size Size\n# TYPE size summary\nsize{quantile=\"0.5\"} 7\nsize_sum 10\nsize_count 2\n\
                    # TYPE heat gauge\nheat -1\n";
        assert_eq!(read(&registries.to_string()), crate::own::read(page));
    }

    #[test]
    fn a_metric_of_two_registries_is_one() {
        let metric = |kind: &str, value: u32| json!([{"help": "", "name": "it", "type": kind, "values": [{"value": value, "labels": {}}]}]);
        let values = |kind: &str| -> Vec<f64> {
            let both = json!([metric(kind, 1), metric(kind, 2)]);
            let families = read(&both.to_string()).expect("metrics");
            families["it"].samples.iter().map(|sample| sample.value).collect()
        };
        assert_eq!(values("counter"), [1.0, 2.0], "they are added up");
        assert_eq!(values("gauge"), [1.0]);
    }

    #[test]
    fn what_is_not_its_answer() {
        let metric = |name: &str, labels: Value| json!([[{"name": name, "type": "gauge", "values": [{"value": 1, "labels": labels}]}]]);
        let many: Vec<Value> = (0..=SAMPLES_LIMIT).map(|_| json!({"value": 1})).collect();
        for wrong in [
            json!({}),
            json!([{}]),
            json!([[{"name": 1, "type": "gauge"}]]),
            metric("2x", json!({})),
            metric("a b", json!({})),
            metric("x", json!({"a-b": "1"})),
        ] {
            let read = read(&wrong.to_string());
            assert!(matches!(read, Err(Malformed::Json(_))), "{wrong}: {read:?}");
        }
        let long = json!([[{"name": "x", "type": "gauge", "values": many}]]);
        assert_eq!(read(&long.to_string()), Err(Malformed::Long(SAMPLES_LIMIT)));
        assert!(read(&metric("x", json!({"a": null})).to_string()).is_ok());
    }
}
