//! What is sent and where: by the ecosystem file, and by the variables of OpenTelemetry
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>) where it says nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use rpm_wire::forward::Http;
use rpm_wire::otlp::{INTERVALS_MS, Otlp};

use super::encode::Resource;
use super::traces;

/// Where metrics are posted, behind the base address.
const METRICS_PATH: &str = "/v1/metrics";
/// The usual time between two exports of metrics.
const INTERVAL: Duration = Duration::from_secs(60);

/// What is sent, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The receiver of metrics, if they are sent.
    pub metrics: Option<Http>,
    /// The receiver of spans, if they are sent.
    pub traces: Option<Http>,
    /// Time between two exports of metrics.
    pub interval: Duration,
    /// What is said of all; without a host.
    pub resource: Resource,
    /// What is wrong, for people. No secret is in it.
    pub troubles: Vec<String>,
}

/// Where one signal goes, by the variables.
struct Signal {
    name: &'static str,
    path: &'static str,
    endpoint: &'static str,
    headers: &'static str,
    protocol: &'static str,
    exporter: &'static str,
}

const METRICS: Signal = Signal {
    name: "metrics",
    path: METRICS_PATH,
    endpoint: "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    headers: "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
    protocol: "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
    exporter: "OTEL_METRICS_EXPORTER",
};
const TRACES: Signal = Signal {
    name: "traces",
    path: traces::PATH,
    endpoint: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    headers: "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    protocol: "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    exporter: "OTEL_TRACES_EXPORTER",
};
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const DISABLED: &str = "OTEL_SDK_DISABLED";

/// What the file and the variables say together.
pub(super) fn plan(file: Option<&Otlp>, variable: impl Fn(&str) -> Option<String>) -> Plan {
    // An empty variable is one that is not set.
    let variable = |name: &str| {
        let value = variable(name)?.trim().to_owned();
        (!value.is_empty()).then_some(value)
    };
    let mut troubles = Vec::new();
    let [metrics, traces] =
        [&METRICS, &TRACES].map(|signal| receiver(signal, file, &variable, &mut troubles));
    let interval = file.and_then(|file| file.interval_ms).or_else(|| {
        let ms = variable("OTEL_METRIC_EXPORT_INTERVAL")?.parse().ok();
        let ms = ms.filter(|ms| INTERVALS_MS.contains(ms));
        if ms.is_none() {
            troubles.push(
                "OTEL_METRIC_EXPORT_INTERVAL must be milliseconds from 500 to a day; it is ignored"
                    .to_owned(),
            );
        }
        ms
    });
    let mut attributes = match variable("OTEL_RESOURCE_ATTRIBUTES") {
        Some(text) => pairs(&text).unwrap_or_else(|| {
            troubles.push(
                "OTEL_RESOURCE_ATTRIBUTES must be NAME=VALUE,NAME=VALUE, percent-encoded; it is ignored"
                    .to_owned(),
            );
            BTreeMap::new()
        }),
        None => BTreeMap::new(),
    };
    let named = attributes.remove("service.name");
    // Each instance has its own behind it.
    let instance = attributes.remove("service.instance.id");
    Plan {
        metrics,
        traces,
        interval: interval.map_or(INTERVAL, Duration::from_millis),
        resource: Resource {
            host: String::new(),
            service: variable("OTEL_SERVICE_NAME").or(named),
            instance,
            attributes,
        },
        troubles,
    }
}

fn receiver(
    signal: &Signal,
    file: Option<&Otlp>,
    variable: &impl Fn(&str) -> Option<String>,
    troubles: &mut Vec<String>,
) -> Option<Http> {
    let said = file.and_then(|file| match signal.name == METRICS.name {
        true => file.metrics,
        false => file.traces,
    });
    match (said, switch_off(signal, variable)) {
        (Some(true), _) | (None, None) => {}
        (Some(false), _) => return None,
        (None, Some(by)) => {
            if file.is_some() {
                let name = signal.name;
                troubles.push(format!(
                    "{name} are not sent: {by} of the daemon says so; `{name}: true` of `observe.otlp` sends them"
                ));
            }
            return None;
        }
    }
    if let Some(http) = file.and_then(|file| file.http.as_ref()) {
        return Some(Http {
            url: behind(&http.url, signal.path),
            headers: http.headers.clone(),
        });
    }
    let of_all = || Some(behind(&variable(ENDPOINT)?, signal.path));
    let Some(url) = variable(signal.endpoint).or_else(of_all) else {
        if file.is_some() {
            let name = signal.name;
            troubles.push(format!(
                "{name} are not sent: say where, by `url` of `observe.otlp` or by {ENDPOINT} of the daemon"
            ));
        }
        return None;
    };
    let protocol = first([signal.protocol, PROTOCOL], variable);
    if let Some((by, _)) = protocol.filter(|(_, protocol)| protocol == "grpc") {
        let name = signal.name;
        troubles.push(format!(
            "{name} are not sent: {by} is grpc, and OTLP is spoken over HTTP with JSON alone; say http/json, and the port for HTTP (4318)"
        ));
        return None;
    }
    let headers = match first([signal.headers, HEADERS], variable) {
        Some((name, text)) => pairs(&text).unwrap_or_else(|| {
            troubles.push(format!(
                "{name} must be NAME=VALUE,NAME=VALUE, percent-encoded; it is ignored"
            ));
            BTreeMap::new()
        }),
        None => BTreeMap::new(),
    };
    Some(Http { url, headers })
}

/// The variable by which a signal is not sent, if one says so.
fn switch_off(signal: &Signal, variable: &impl Fn(&str) -> Option<String>) -> Option<&'static str> {
    if variable(DISABLED).is_some_and(|disabled| disabled.eq_ignore_ascii_case("true")) {
        return Some(DISABLED);
    }
    let exporters = variable(signal.exporter)?;
    let is_ours = exporters.split(',').any(|exporter| exporter.trim() == "otlp");
    (!is_ours).then_some(signal.exporter)
}

/// The first of two variables that is set, with its value.
fn first(
    names: [&'static str; 2],
    variable: impl Fn(&str) -> Option<String>,
) -> Option<(&'static str, String)> {
    names.into_iter().find_map(|name| Some((name, variable(name)?)))
}

/// A base address with a path behind its own.
fn behind(base: &str, path: &str) -> String {
    let (base, query) = match base.trim().split_once('?') {
        Some((base, query)) => (base, format!("?{query}")),
        None => (base.trim(), String::new()),
    };
    format!("{}{path}{query}", base.trim_end_matches('/'))
}

/// A list as W3C Baggage has it.
fn pairs(text: &str) -> Option<BTreeMap<String, String>> {
    let decoded = |text: &str| {
        percent_decode_str(text.trim())
            .decode_utf8()
            .ok()
            .map(String::from)
    };
    let parts = text.split(',').filter(|part| !part.trim().is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=')?;
            let name = decoded(name).filter(|name| !name.is_empty())?;
            let value = decoded(value).filter(|value| !value.contains(char::is_control))?;
            Some((name, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(file: Option<&Otlp>, variables: &[(&str, &str)]) -> Plan {
        let of = |name: &str| variables.iter().find(|(known, _)| *known == name);
        plan(file, |name| of(name).map(|(_, value)| (*value).to_owned()))
    }

    fn urls(plan: &Plan) -> [Option<&str>; 2] {
        [&plan.metrics, &plan.traces].map(|http| http.as_ref().map(|http| http.url.as_str()))
    }

    fn file(url: Option<&str>) -> Otlp {
        Otlp {
            http: url.map(|url| Http {
                url: url.to_owned(),
                headers: [("a".to_owned(), "of the file".to_owned())].into(),
            }),
            metrics: None,
            traces: None,
            interval_ms: None,
        }
    }

    const BASE: (&str, &str) = (ENDPOINT, "http://env.test:4318/base/");

    #[test]
    fn the_file_comes_first_and_then_the_variable_of_the_signal() {
        let signal = (TRACES.endpoint, "http://t.test/own");
        let (given, empty) = (file(Some("http://a.test?x=1")), file(None));
        let of_file = [
            Some("http://a.test/v1/metrics?x=1"),
            Some("http://a.test/v1/traces?x=1"),
        ];
        let all = Otlp {
            metrics: Some(true),
            traces: Some(true),
            ..given.clone()
        };
        let of_base = [
            Some("http://env.test:4318/base/v1/metrics"),
            Some("http://env.test:4318/base/v1/traces"),
        ];
        for (file, variables, expected) in [
            (None, vec![], [None, None]),
            (None, vec![BASE], of_base),
            (Some(&empty), vec![BASE], of_base),
            (None, vec![BASE, signal], [of_base[0], Some("http://t.test/own")]),
            (None, vec![signal], [None, Some("http://t.test/own")]),
            (None, vec![BASE, (METRICS.exporter, "none")], [None, of_base[1]]),
            (None, vec![BASE, (METRICS.exporter, "console, otlp")], of_base),
            (None, vec![BASE, (DISABLED, " True ")], [None, None]),
            (None, vec![BASE, (DISABLED, "false")], of_base),
            (None, vec![BASE, (PROTOCOL, "http/protobuf")], of_base),
            (
                None,
                vec![
                    BASE,
                    (PROTOCOL, "grpc"),
                    (METRICS.protocol, "http/json"),
                    (TRACES.protocol, "http/json"),
                ],
                of_base,
            ),
            (
                None,
                vec![(TRACES.endpoint, " http://t.test ")],
                [None, Some("http://t.test")],
            ),
            (None, vec![(ENDPOINT, " ")], [None, None]),
            (
                Some(&all),
                vec![
                    BASE,
                    signal,
                    (PROTOCOL, "grpc"),
                    (TRACES.exporter, "none"),
                    (DISABLED, "true"),
                ],
                of_file,
            ),
            (Some(&given), vec![BASE, signal, (PROTOCOL, "grpc")], of_file),
        ] {
            let plan = by(file, &variables);
            assert_eq!(urls(&plan), expected, "{variables:?}");
            assert_eq!(plan.troubles, [""; 0], "{variables:?}");
        }
    }

    #[test]
    fn what_the_file_does_not_say_the_variables_do() {
        let given = file(Some("http://a.test?x=1"));
        let metrics = Some("http://a.test/v1/metrics?x=1");
        let off = Otlp {
            traces: Some(false),
            ..given.clone()
        };
        let unsaid = by(Some(&given), &[(TRACES.exporter, "none")]);
        assert_eq!(urls(&unsaid), [metrics, None]);
        assert_eq!(
            unsaid.troubles,
            [
                "traces are not sent: OTEL_TRACES_EXPORTER of the daemon says so; `traces: true` of `observe.otlp` sends them"
            ]
        );
        assert_eq!(urls(&by(Some(&given), &[(DISABLED, "true")])), [None, None]);
        assert_eq!(urls(&by(Some(&off), &[])), [metrics, None]);
    }

    #[test]
    fn headers_attributes_and_times_are_read() {
        let headers = (HEADERS, "authorization=Bearer%20s3cret, x-tenant = a ");
        let own = (TRACES.headers, "authorization=other");
        let plan = by(None, &[BASE, headers, own]);
        let metrics = &plan.metrics.expect("they are sent").headers;
        assert_eq!(
            (metrics["authorization"].as_str(), metrics["x-tenant"].as_str()),
            ("Bearer s3cret", "a")
        );
        assert_eq!(
            plan.traces.expect("they are sent").headers["authorization"],
            "other"
        );
        // Those of a variable are for its receiver.
        let of_file = by(Some(&file(Some("http://a.test"))), &[headers]);
        assert_eq!(
            of_file.metrics.expect("they are sent").headers["a"],
            "of the file"
        );
        let attributes = (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment=prod,service.name=shop,service.instance.id=pod,k=a%2Cb",
        );
        let plan = by(None, &[attributes, ("OTEL_METRIC_EXPORT_INTERVAL", "500")]);
        let expected =
            [("deployment.environment", "prod"), ("k", "a,b")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(plan.resource.attributes, expected.into());
        assert_eq!(
            (plan.resource.service.as_deref(), plan.interval),
            (Some("shop"), Duration::from_millis(500))
        );
        assert_eq!(plan.resource.instance.as_deref(), Some("pod"));
        let named = by(None, &[attributes, ("OTEL_SERVICE_NAME", "all")]);
        assert_eq!(named.resource.service.as_deref(), Some("all"));
        let file = Otlp {
            interval_ms: Some(9_000),
            ..file(None)
        };
        let plan = by(Some(&file), &[BASE, ("OTEL_METRIC_EXPORT_INTERVAL", "500")]);
        assert_eq!(plan.interval, Duration::from_secs(9));
    }

    #[test]
    fn what_is_wrong_is_said_without_secrets() {
        let empty = file(None);
        for (file, variables, told) in [
            (Some(&empty), vec![], "metrics are not sent: say where"),
            (
                None,
                vec![BASE, (PROTOCOL, "grpc")],
                "OTEL_EXPORTER_OTLP_PROTOCOL is grpc",
            ),
            (
                None,
                vec![BASE, (PROTOCOL, "http/json"), (TRACES.protocol, "grpc")],
                "traces are not sent: OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is grpc",
            ),
            (
                None,
                vec![BASE, (HEADERS, "s3cret")],
                "OTEL_EXPORTER_OTLP_HEADERS must be",
            ),
            (
                None,
                vec![BASE, (HEADERS, "a=s3cret%0A")],
                "OTEL_EXPORTER_OTLP_HEADERS must be",
            ),
            (
                None,
                vec![("OTEL_RESOURCE_ATTRIBUTES", "=s3cret")],
                "OTEL_RESOURCE_ATTRIBUTES must be",
            ),
            (
                None,
                vec![("OTEL_METRIC_EXPORT_INTERVAL", "1")],
                "OTEL_METRIC_EXPORT_INTERVAL must be",
            ),
            (
                None,
                vec![("OTEL_METRIC_EXPORT_INTERVAL", "s3cret")],
                "OTEL_METRIC_EXPORT_INTERVAL must be",
            ),
        ] {
            let troubles = by(file, &variables).troubles.join("\n");
            assert!(
                troubles.contains(told) && !troubles.contains("s3cret"),
                "{variables:?}: {troubles}"
            );
        }
    }
}
