//! `GET /v1/spans`: what the proxy has recorded of sampled requests.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::events::Lost;

/// A sampled request, as the proxy has served it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// That of the client's `traceparent`, which is continued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// When the head of the request had come, in nanoseconds since 1970.
    pub start_ns: u64,
    /// How long it took to the end of the response.
    pub duration_ns: u64,
    /// The method, or `_OTHER` if it is none of RFC 9110 or 5789.
    pub method: String,
    /// The path without the query; at most 512 bytes of it.
    pub path: String,
    /// The version of HTTP that the client spoke: `1.0`, `1.1` or `2`.
    pub protocol: String,
    /// The status of the response; absent if the client had gone before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The client's address.
    pub client: IpAddr,
    /// The app.
    pub app: String,
    /// The instance of the worker that the request was given to last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<u32>,
    /// How long it took until a worker was chosen and connected; absent if none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_ns: Option<u64>,
    /// How often it was given to a worker.
    pub attempts: u32,
}

/// A line of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SpanLine {
    /// So many were dropped, because nobody has read them in time.
    Lost(Lost),
    /// A span.
    Span(Box<Span>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_span_or_how_many_are_missing() {
        let span = Span {
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(),
            span_id: "00f067aa0ba902b7".to_owned(),
            parent_id: None,
            start_ns: u64::MAX,
            duration_ns: 5,
            method: "GET".to_owned(),
            path: "/".to_owned(),
            protocol: "2".to_owned(),
            status: Some(200),
            client: [127, 0, 0, 1].into(),
            app: "api".to_owned(),
            worker: Some(1),
            queue_ns: Some(3),
            attempts: 1,
        };
        for line in [SpanLine::Span(Box::new(span)), SpanLine::Lost(Lost { lost: 7 })] {
            let text = serde_json::to_string(&line).expect("JSON");
            assert_eq!(serde_json::from_str::<SpanLine>(&text).expect("it reads"), line);
        }
    }
}
