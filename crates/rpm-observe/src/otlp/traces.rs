//! Spans as OTLP has them (`ExportTraceServiceRequest`), by the conventions of OpenTelemetry for HTTP servers.

use std::collections::BTreeMap;

use rpm_wire::spans::Span;
use serde_json::{Value, json};

use super::encode::{Resource, number, scope, text, whole};

/// Where spans are posted, behind the base address.
pub(super) const PATH: &str = "/v1/traces";
/// `SPAN_KIND_SERVER`.
const SERVER: u8 = 2;
/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;

/// The body: spans by app.
pub(super) fn body(spans: &[Span], resource: &Resource) -> Vec<u8> {
    let mut apps: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for span in spans {
        apps.entry(&span.app).or_default().push(span_of(span));
    }
    let apps = apps.into_iter().map(|(app, spans)| {
        json!({
            "resource": resource.of(Some(app), None),
            "scopeSpans": [{"scope": scope(), "spans": spans}],
        })
    });
    let body = json!({"resourceSpans": apps.collect::<Vec<_>>()});
    // A value is always JSON.
    serde_json::to_vec(&body).unwrap_or_default()
}

fn span_of(span: &Span) -> Value {
    // What clients make up is no name.
    let name = match span.method.as_str() {
        "_OTHER" => "HTTP",
        known => known,
    };
    let mut attributes = vec![
        text("http.request.method", &span.method),
        text("url.path", &span.path),
        text("network.protocol.name", "http"),
        text("network.protocol.version", &span.protocol),
        text("client.address", &span.client.to_string()),
        text("rpm.app", &span.app),
        whole("rpm.attempts", span.attempts.into()),
    ];
    if let Some(worker) = span.worker {
        attributes.push(whole("rpm.worker", worker.into()));
    }
    if let Some(queue) = span.queue_ns {
        attributes.push(number("rpm.queue_ms", queue as f64 / 1e6));
    }
    if let Some(status) = span.status {
        attributes.push(whole("http.response.status_code", status.into()));
    }
    let mut value = json!({
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "name": name,
        "kind": SERVER,
        "startTimeUnixNano": span.start_ns.to_string(),
        "endTimeUnixNano": span.start_ns.saturating_add(span.duration_ns).to_string(),
        "status": {},
    });
    if let Some(parent) = &span.parent_id {
        value["parentSpanId"] = json!(parent);
    }
    if let Some(status) = span.status.filter(|status| *status >= 500) {
        attributes.push(text("error.type", &status.to_string()));
        value["status"] = json!({"code": ERROR});
    }
    value["attributes"] = Value::Array(attributes);
    value
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn span(app: &str, number: u64) -> Span {
        Span {
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(),
            span_id: format!("{number:016x}"),
            parent_id: None,
            start_ns: 1_764_500_000_000_000_000,
            duration_ns: 2_500_000,
            method: "GET".to_owned(),
            path: "/a".to_owned(),
            protocol: "1.1".to_owned(),
            status: Some(200),
            client: [192, 0, 2, 7].into(),
            app: app.to_owned(),
            worker: Some(3),
            queue_ns: Some(1_500_000),
            attempts: 2,
        }
    }

    #[test]
    fn a_span_is_as_the_specification_has_it() {
        let failed = Span {
            parent_id: Some("00f067aa0ba902b7".to_owned()),
            status: Some(503),
            method: "_OTHER".to_owned(),
            worker: None,
            queue_ns: None,
            ..span("api", 2)
        };
        let gone = Span {
            status: None,
            ..span("web", 3)
        };
        let resource = Resource {
            host: "box".to_owned(),
            ..Resource::default()
        };
        let body = body(&[span("api", 1), gone, failed], &resource);
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        let apps = body["resourceSpans"].as_array().expect("a list");
        assert_eq!(apps.len(), 2);
        let expected = json!({"attributes": [text("host.name", "box"), text("service.instance.id", "box"), text("service.name", "api")]});
        assert_eq!(apps[0]["resource"], expected);
        let spans = &apps[0]["scopeSpans"][0]["spans"];
        let expected = json!({
            "traceId": "4bf92f3577b34da6a3ce929d0e0e4736", "spanId": "0000000000000001", "name": "GET", "kind": 2,
            "startTimeUnixNano": "1764500000000000000", "endTimeUnixNano": "1764500000002500000", "status": {},
            "attributes": [
                {"key": "http.request.method", "value": {"stringValue": "GET"}},
                {"key": "url.path", "value": {"stringValue": "/a"}},
                {"key": "network.protocol.name", "value": {"stringValue": "http"}},
                {"key": "network.protocol.version", "value": {"stringValue": "1.1"}},
                {"key": "client.address", "value": {"stringValue": "192.0.2.7"}},
                {"key": "rpm.app", "value": {"stringValue": "api"}},
                {"key": "rpm.attempts", "value": {"intValue": "2"}},
                {"key": "rpm.worker", "value": {"intValue": "3"}},
                {"key": "rpm.queue_ms", "value": {"doubleValue": 1.5}},
                {"key": "http.response.status_code", "value": {"intValue": "200"}},
            ],
        });
        assert_eq!(spans[0], expected);
        assert_eq!(
            (&spans[1]["name"], &spans[1]["parentSpanId"]),
            (&json!("HTTP"), &json!("00f067aa0ba902b7"))
        );
        assert_eq!(spans[1]["status"], json!({"code": 2}));
        let attributes = spans[1]["attributes"].to_string();
        assert!(
            attributes.contains("error.type") && !attributes.contains("rpm.worker"),
            "{attributes}"
        );
        let gone = apps[1]["scopeSpans"][0]["spans"][0].to_string();
        assert!(
            !gone.contains("status_code") && gone.contains("\"status\":{}"),
            "{gone}"
        );
    }
}
