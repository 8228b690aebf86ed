//! `observe` of a file: whether the metrics are served beside its apps, who is alerted, and where logs, metrics and spans are sent.

use std::net::SocketAddr;

use rpm_wire::alerts::Rule;
use rpm_wire::api::{ObserveTls, listen_address};
use rpm_wire::forward::Destination;
use rpm_wire::otlp::Otlp;
use serde_json::{Map, Value};

use crate::ecosystem::{shown, unknown};
use crate::{alerts, forward, otlp};

/// The keys of the object.
const KEYS: [&str; 8] = [
    "listen",
    "token_file",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "alerts",
    "logs",
    "otlp",
];

/// What a file says of the metrics.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a file has one of them")]
pub enum Observing {
    /// They are not served.
    Off,
    /// They are served.
    On {
        /// Where; `None` means the default address.
        listen: Option<SocketAddr>,
        /// The file with the token, seen from the directory of the file that says so.
        token_file: Option<String>,
        /// The files of HTTPS, seen from there, too.
        tls: Option<ObserveTls>,
        /// Who is told what; commands run in the directory of the file that says so.
        alerts: Vec<Rule>,
        /// Where logs are sent.
        logs: Vec<Destination>,
        /// Where metrics and spans are sent, if the file says something of it.
        otlp: Option<Otlp>,
    },
}

/// Reads the value of the key, which is not null.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn read(value: &Value) -> Result<Observing, Vec<String>> {
    match value {
        Value::Bool(false) => Ok(Observing::Off),
        Value::Bool(true) => Ok(Observing::On {
            listen: None,
            token_file: None,
            tls: None,
            alerts: Vec::new(),
            logs: Vec::new(),
            otlp: None,
        }),
        Value::Object(fields) => of_object(fields),
        other => Err(vec![format!(
            "`observe` must be true, false, or an object with `listen`, `token_file`, rules for alerts, destinations of logs and `otlp`, not {}",
            shown(other)
        )]),
    }
}

fn of_object(fields: &Map<String, Value>) -> Result<Observing, Vec<String>> {
    let (mut listen, mut sent) = (None, None);
    let mut files = Files::default();
    let (mut rules, mut destinations, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        match (key.as_str(), value) {
            ("listen", Value::String(_) | Value::Number(_)) => {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                listen = listen_address(&text);
                if listen.is_none() {
                    problems.push(format!(
                        "`observe.listen` must be ADDRESS:PORT or a port, not {}",
                        shown(value)
                    ));
                }
            }
            (key, Value::String(path)) if !path.is_empty() && files.named(key).is_some() => {
                if let Some(file) = files.named(key) {
                    *file = Some(path.clone());
                }
            }
            ("alerts", _) => match alerts::read(value) {
                Ok(read) => rules = read,
                Err(wrong) => problems.extend(wrong),
            },
            ("logs", _) => match forward::read(value) {
                Ok(read) => destinations = read,
                Err(wrong) => problems.extend(wrong),
            },
            ("otlp", _) => match otlp::read(value) {
                Ok(read) => sent = Some(read),
                Err(wrong) => problems.extend(wrong),
            },
            ("listen", _) => problems.push(format!(
                "`observe.listen` must be ADDRESS:PORT or a port, not {}",
                shown(value)
            )),
            (key, _) if files.named(key).is_some() => {
                problems.push(format!("`observe.{key}` must be a path, not {}", shown(value)));
            }
            // One that is ignored could be the one with the token.
            _ => problems.push(format!("`observe`: {}", unknown(key, KEYS))),
        }
    }
    let token_file = files.token.take();
    let tls = files.tls().unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    match problems.is_empty() {
        true => Ok(Observing::On {
            listen,
            token_file,
            tls,
            alerts: rules,
            logs: destinations,
            otlp: sent,
        }),
        false => Err(problems),
    }
}

/// The paths that an object names.
#[derive(Default)]
struct Files {
    token: Option<String>,
    cert: Option<String>,
    key: Option<String>,
    client_ca: Option<String>,
}

impl Files {
    /// The place of the path with this key; `None`: it is another key.
    fn named(&mut self, key: &str) -> Option<&mut Option<String>> {
        match key {
            "token_file" => Some(&mut self.token),
            "tls_cert" => Some(&mut self.cert),
            "tls_key" => Some(&mut self.key),
            "tls_client_ca" => Some(&mut self.client_ca),
            _ => None,
        }
    }

    fn tls(self) -> Result<Option<ObserveTls>, String> {
        match (self.cert, self.key, self.client_ca) {
            (Some(cert), Some(key), client_ca) => Ok(Some(ObserveTls { cert, key, client_ca })),
            (None, None, None) => Ok(None),
            _ => Err("`observe`: HTTPS needs both `tls_cert` and `tls_key`".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn on(listen: Option<&str>, token_file: Option<&str>) -> Observing {
        Observing::On {
            listen: listen.map(|text| text.parse().expect("an address")),
            token_file: token_file.map(str::to_owned),
            tls: None,
            alerts: Vec::new(),
            logs: Vec::new(),
            otlp: None,
        }
    }

    #[test]
    fn https_needs_two_files() {
        let value = json!({"tls_cert": "a.crt", "tls_key": "a.key", "tls_client_ca": "ca.crt"});
        let Ok(Observing::On { tls, token_file, .. }) = read(&value) else {
            panic!("{value} is right");
        };
        let expected = ObserveTls {
            cert: "a.crt".to_owned(),
            key: "a.key".to_owned(),
            client_ca: Some("ca.crt".to_owned()),
        };
        assert_eq!((tls, token_file), (Some(expected), None));
    }

    #[test]
    fn what_a_file_may_say() {
        for (value, expected) in [
            (json!(true), on(None, None)),
            (json!(false), Observing::Off),
            (json!({}), on(None, None)),
            (json!({"listen": 9300}), on(Some("127.0.0.1:9300"), None)),
            (
                json!({"listen": "[::1]:9300", "token_file": null}),
                on(Some("[::1]:9300"), None),
            ),
            (
                json!({"listen": "0.0.0.0:9209", "token_file": "token"}),
                on(Some("0.0.0.0:9209"), Some("token")),
            ),
        ] {
            assert_eq!(read(&value), Ok(expected), "{value}");
        }
    }

    #[test]
    fn what_it_may_not_say() {
        for (value, told) in [
            (json!("yes"), "must be true, false, or an object"),
            (json!(1), "must be true, false, or an object"),
            (
                json!({"listen": "everywhere"}),
                "`observe.listen` must be ADDRESS:PORT",
            ),
            (json!({"listen": [1]}), "`observe.listen` must be ADDRESS:PORT"),
            (json!({"listen": 70000}), "`observe.listen` must be ADDRESS:PORT"),
            (json!({"token_file": true}), "`observe.token_file` must be a path"),
            (json!({"token_file": ""}), "`observe.token_file` must be a path"),
            (json!({"tokenfile": "x"}), "did you mean `token_file`?"),
            (json!({"tls_cert": 1}), "`observe.tls_cert` must be a path"),
            (
                json!({"tls_cert": "a.crt"}),
                "needs both `tls_cert` and `tls_key`",
            ),
            (
                json!({"tls_client_ca": "a"}),
                "needs both `tls_cert` and `tls_key`",
            ),
            (
                json!({"alerts": [{"on": "crash"}]}),
                "`observe.alerts[0]` tells nobody",
            ),
            (
                json!({"logs": [{"to": "loki"}]}),
                "`observe.logs[0].url` must be an address",
            ),
            (
                json!({"otlp": {"url": "a"}}),
                "`observe.otlp.url` must be an address",
            ),
        ] {
            let problems = read(&value).expect_err("it is wrong");
            assert!(
                problems.len() == 1 && problems[0].contains(told),
                "{value}: {problems:?}"
            );
        }
    }
}
