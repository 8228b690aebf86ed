//! Metrics and spans by OTLP: where `rpm observe` sends them.
//!
//! The receiver stands in `observe.otlp` of an ecosystem file, and is kept in `$RPM_HOME/otlp.json` in the form below, which `rpm-observe` reads.

use serde::{Deserialize, Serialize};

use crate::forward::Http;

/// The file with the receiver, in the directory of the daemon. Header fields in it can be secrets.
pub const OTLP_FILE: &str = "otlp.json";
/// The longest such file that is read, in bytes.
pub const OTLP_BYTES: u64 = 1 << 20;
/// Variables of OpenTelemetry that say it where the file does not; the daemon passes its own on to the process that sends.
pub const OTLP_VARIABLES: [&str; 15] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_METRICS_EXPORTER",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SDK_DISABLED",
    "OTEL_SERVICE_NAME",
    "OTEL_TRACES_EXPORTER",
];
/// Bounds of [`Otlp::interval_ms`]: the daemon is asked twice a second at most, and a day is longer than anybody waits for a figure.
pub const INTERVALS_MS: std::ops::RangeInclusive<u64> = 500..=24 * 3600 * 1000;

/// What is sent, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Otlp {
    /// The receiver. Its address is a base, to which the path of the signal is added. Without one the environment says it (`OTEL_*`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// Whether metrics are sent; without it the environment says it, or they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<bool>,
    /// Whether spans are sent; without it the environment says it, or they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traces: Option<bool>,
    /// Time between two exports of metrics; without it the environment says it, or it is a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_file_is_what_was_written() {
        let http = Http {
            url: "https://otel.test/?s3cret".to_owned(),
            headers: BTreeMap::from([("authorization".to_owned(), "Bearer s3cret".to_owned())]),
        };
        for (http, metrics, interval_ms) in [(Some(http), Some(true), Some(500)), (None, None, None)] {
            let otlp = Otlp {
                http,
                metrics,
                traces: metrics.map(|metrics| !metrics),
                interval_ms,
            };
            let text = serde_json::to_string(&otlp).expect("JSON");
            assert_eq!(serde_json::from_str::<Otlp>(&text).expect("it reads"), otlp);
            assert!(!format!("{otlp:?}").contains("s3cret"));
        }
    }
}
