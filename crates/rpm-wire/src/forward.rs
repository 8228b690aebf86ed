//! Log forwarding: where `rpm observe` sends what the apps write.
//!
//! The destinations stand in `observe.logs` of an ecosystem file, and are kept in `$RPM_HOME/forward.json` in the form below, which `rpm-observe`
//! reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::api::RESERVED_PREFIX;

/// The file with the destinations, in the directory of the daemon. Header fields in it can be secrets.
pub const FORWARD_FILE: &str = "forward.json";
/// The most destinations that a file may have: each has a thread of its own.
pub const MAX_DESTINATIONS: usize = 16;
/// Where journald takes messages.
pub const JOURNALD_SOCKET: &str = "/run/systemd/journal/socket";
/// The longest such file that is read, in bytes.
pub const FORWARD_BYTES: u64 = 1 << 20;

/// An HTTP receiver.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// `http://` or `https://`. Without a path it gets the usual one of its kind.
    pub url: String,
    /// Header fields of each request, such as `authorization`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

impl Http {
    /// Scheme and host: what may be shown of the address.
    #[must_use]
    pub fn shown(&self) -> String {
        let (scheme, rest) = self.url.split_once("://").unwrap_or(("", &self.url));
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        format!("{scheme}://{}", host.rsplit('@').next().unwrap_or_default())
    }
}

/// Header fields are secrets, and so may the rest of an address be.
impl std::fmt::Debug for Http {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.shown())
    }
}

/// Where a syslog server listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Syslog {
    /// `HOST:PORT`: one datagram for each record.
    Udp(String),
    /// `HOST:PORT`: octet counting (RFC 6587).
    Tcp(String),
    /// The path of a datagram socket.
    Unix(String),
}

impl Syslog {
    /// As it stands in the file.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Syslog::Udp(host) => format!("udp://{host}"),
            Syslog::Tcp(host) => format!("tcp://{host}"),
            Syslog::Unix(path) => format!("unix:{path}"),
        }
    }
}

/// A receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Receiver {
    /// The push API of Loki.
    Loki(Http),
    /// OTLP over HTTP with JSON.
    Otlp(Http),
    /// The bulk API of Elasticsearch and OpenSearch.
    Elasticsearch {
        /// The server.
        http: Http,
        /// The index or data stream that gets the records.
        index: String,
    },
    /// A syslog server (RFC 5424).
    Syslog(Syslog),
    /// journald, at the path of its socket.
    Journald(String),
}

impl Receiver {
    /// The names of the kinds, as files have them.
    pub const KINDS: [&str; 5] = ["loki", "otlp", "elasticsearch", "syslog", "journald"];

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Receiver::Loki(_) => "loki",
            Receiver::Otlp(_) => "otlp",
            Receiver::Elasticsearch { .. } => "elasticsearch",
            Receiver::Syslog(_) => "syslog",
            Receiver::Journald(_) => "journald",
        }
    }

    /// Its address without what may be secret.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Receiver::Loki(http) | Receiver::Otlp(http) | Receiver::Elasticsearch { http, .. } => {
                http.shown()
            }
            Receiver::Syslog(syslog) => syslog.shown(),
            Receiver::Journald(path) => format!("unix:{path}"),
        }
    }
}

/// A destination of logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// By which its positions are found again and its metrics are labelled. No two destinations have the same.
    pub name: String,
    /// Who gets the records.
    pub to: Receiver,
    /// The apps whose logs are sent; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apps: Vec<String>,
    /// What every record carries besides.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Files that are there already when the destination is new are sent from their end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_end: bool,
    /// Bodies of requests are compressed by gzip.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gzip: bool,
}

impl Destination {
    /// True if it gets the logs of this app. All apps are those of the user.
    #[must_use]
    pub fn is_about(&self, app: &str) -> bool {
        match self.apps.is_empty() {
            true => !app.starts_with(RESERVED_PREFIX),
            false => self.apps.iter().any(|name| name == app),
        }
    }
}

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destinations {
    /// In the order of the file that they come from.
    pub destinations: Vec<Destination>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_is_not_shown() {
        let http = Http {
            url: "https://logs.test:3100/push?token=s3cret".to_owned(),
            headers: BTreeMap::from([("authorization".to_owned(), "Bearer s3cret".to_owned())]),
        };
        let shown = format!("{:?} {}", Receiver::Loki(http.clone()), http.shown());
        assert!(!shown.contains("s3cret"), "{shown}");
        assert_eq!(http.shown(), "https://logs.test:3100");
    }

    #[test]
    fn the_file_is_what_was_written() {
        let http = Http {
            url: "http://a.test".to_owned(),
            headers: BTreeMap::new(),
        };
        let receivers = [
            Receiver::Loki(http.clone()),
            Receiver::Otlp(http.clone()),
            Receiver::Elasticsearch {
                http,
                index: "logs".to_owned(),
            },
            Receiver::Syslog(Syslog::Unix("/dev/log".to_owned())),
            Receiver::Journald(JOURNALD_SOCKET.to_owned()),
        ];
        let destination = |to: Receiver| Destination {
            name: to.kind().to_owned(),
            to,
            apps: vec!["api".to_owned()],
            labels: BTreeMap::from([("env".to_owned(), "prod".to_owned())]),
            from_end: true,
            gzip: true,
        };
        let written = Destinations {
            destinations: receivers.into_iter().map(destination).collect(),
        };
        let text = serde_json::to_string(&written).expect("JSON");
        assert_eq!(
            serde_json::from_str::<Destinations>(&text).expect("it reads"),
            written
        );
        let kinds: Vec<&str> = written.destinations.iter().map(|it| it.to.kind()).collect();
        assert_eq!(kinds, Receiver::KINDS);
        let all = Destination {
            apps: Vec::new(),
            ..written.destinations[0].clone()
        };
        assert!(all.is_about("web") && !all.is_about("rpm-observe"));
        assert!(!written.destinations[0].is_about("web"));
    }
}
