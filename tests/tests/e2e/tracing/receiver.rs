//! A receiver of OTLP, and what it was sent.

use std::io::{self, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rpm_e2e::posted::Posted;
use serde_json::{Value, json};

/// What no body may have: it is in header fields and in queries.
pub(super) const SECRET: &str = "s3cret";

/// A receiver of OTLP.
#[derive(Default)]
pub(super) struct Receiver {
    /// What it answers; 0 is 200.
    status: AtomicU16,
    bodies: Mutex<Vec<(String, String)>>,
    is_unknown: AtomicBool,
}

impl Receiver {
    pub(super) fn start() -> (Arc<Receiver>, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let receiver = Arc::new(Receiver::default());
        let served = Arc::clone(&receiver);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let served = Arc::clone(&served);
                // A client that is killed is none of ours.
                thread::spawn(move || served.serve(client));
            }
        });
        (receiver, port)
    }

    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        while let Some(posted) = Posted::read(&mut reader)? {
            let is_known = posted.has("authorization: bearer s3cret");
            self.is_unknown.fetch_or(!is_known, Ordering::SeqCst);
            let status = match self.status.load(Ordering::SeqCst) {
                0 => {
                    let path = posted.path().to_owned();
                    let body = String::from_utf8(posted.body).expect("text");
                    self.bodies.lock().expect("nobody panics").push((path, body));
                    200
                }
                status => status,
            };
            write!(client, "HTTP/1.1 {status} said\r\ncontent-length: 2\r\n\r\n{{}}")?;
        }
        Ok(())
    }

    pub(super) fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// What was posted to this path.
    pub(super) fn posted(&self, path: &str) -> Vec<Value> {
        let bodies = self.bodies.lock().expect("nobody panics");
        let of_path = bodies.iter().filter(|(known, _)| known == path);
        of_path
            .map(|(_, body)| serde_json::from_str(body).expect("JSON"))
            .collect()
    }

    pub(super) fn spans(&self) -> Vec<Seen> {
        let mut seen = Vec::new();
        for body in self.posted("/base/v1/traces") {
            for resource in list(&body["resourceSpans"]) {
                let service = attribute(&resource["resource"]["attributes"], "service.name");
                let spans = list(&resource["scopeSpans"][0]["spans"]).iter();
                seen.extend(spans.map(|span| Seen::of(service.clone(), span)));
            }
        }
        seen
    }

    pub(super) fn assert_says_nothing_secret(&self) {
        assert!(
            !self.is_unknown.load(Ordering::SeqCst),
            "the header fields are sent"
        );
        for (path, body) in self.bodies.lock().expect("nobody panics").iter() {
            assert!(!body.contains(SECRET) && !body.contains('?'), "{path}: {body}");
        }
    }
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The value of an attribute, as text.
pub(super) fn attribute(attributes: &Value, key: &str) -> String {
    let found = list(attributes).iter().find(|it| it["key"] == key);
    let value = found.and_then(|it| it["value"].as_object()?.values().next().cloned());
    match value {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// A span that was received.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) service: String,
    pub(super) trace: String,
    pub(super) id: String,
    pub(super) parent: String,
    span: Value,
}

impl Seen {
    fn of(service: String, span: &Value) -> Seen {
        let text = |key: &str| span[key].as_str().unwrap_or_default().to_owned();
        Seen {
            service,
            trace: text("traceId"),
            id: text("spanId"),
            parent: text("parentSpanId"),
            span: span.clone(),
        }
    }

    pub(super) fn attribute(&self, key: &str) -> String {
        attribute(&self.span["attributes"], key)
    }

    /// It is that of a good request.
    pub(super) fn check(&self) {
        let time = |key: &str| {
            self.span[key]
                .as_str()
                .and_then(|text| text.parse::<u64>().ok())
                .expect("a time")
        };
        assert!(time("startTimeUnixNano") < time("endTimeUnixNano"), "{self:?}");
        assert_eq!(
            (self.service.as_str(), &self.span["kind"], &self.span["name"]),
            ("web", &json!(2), &json!("GET"))
        );
        assert_eq!((self.trace.len(), self.id.len()), (32, 16));
        for (key, expected) in [
            ("http.request.method", vec!["GET"]),
            ("http.response.status_code", vec!["200"]),
            ("network.protocol.version", vec!["1.1", "2"]),
            ("url.path", vec!["/", "/asked"]),
            ("rpm.app", vec!["web"]),
            ("rpm.worker", vec!["0", "1"]),
        ] {
            assert!(
                expected.contains(&self.attribute(key).as_str()),
                "{key}: {self:?}"
            );
        }
        assert!(
            self.attribute("rpm.attempts")
                .parse::<u32>()
                .is_ok_and(|count| count > 0),
            "{self:?}"
        );
        assert!(
            self.attribute("rpm.queue_ms")
                .parse::<f64>()
                .is_ok_and(|ms| ms >= 0.0),
            "{self:?}"
        );
        // Clients have several addresses of loopback.
        assert!(self.attribute("client.address").starts_with("127."), "{self:?}");
        assert_eq!(self.span["status"], json!({}));
    }
}
