//! `/v1/observe`: metrics for Prometheus, served by a process that the daemon supervises and does not list.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Process, yes};

/// Name of the hidden app that serves the metrics.
pub const OBSERVE: &str = "rpm-observe";
/// Names that begin with this belong to hidden apps: no user's app can have one.
pub const RESERVED_PREFIX: &str = "rpm-";
/// Port of the metrics unless the user chooses another one.
const PORT: u16 = 9209;

/// Where the metrics are served, and to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObserveSpec {
    /// Address and port; addresses other than loopback need a token, or an authority for clients.
    #[serde(default = "usual_address")]
    pub listen: SocketAddr,
    /// Absolute path of the file with the bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    /// Present: it is served by HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ObserveTls>,
}

/// The files of HTTPS, by their absolute paths, in PEM. They are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObserveTls {
    /// The certificate, and those above it.
    pub cert: String,
    /// Its private key.
    pub key: String,
    /// The authorities one of which has signed the certificate of each client. `None`: clients need none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<String>,
}

impl ObserveSpec {
    /// Each client has a certificate.
    #[must_use]
    pub fn certifies_clients(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())
    }

    /// `http` or `https`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        match self.tls {
            Some(_) => "https",
            None => "http",
        }
    }
}

impl Default for ObserveSpec {
    fn default() -> ObserveSpec {
        ObserveSpec {
            listen: usual_address(),
            token_file: None,
            tls: None,
        }
    }
}

fn usual_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, PORT).into()
}

/// Parses `ADDRESS:PORT`, `localhost:PORT`, or the port alone, which means 127.0.0.1.
#[must_use]
pub fn listen_address(text: &str) -> Option<SocketAddr> {
    let port = text.strip_prefix("localhost:").unwrap_or(text).parse().ok();
    match port {
        Some(port) => Some((Ipv4Addr::LOCALHOST, port).into()),
        None => text.parse().ok(),
    }
}

/// `POST /v1/observe`: turn the metrics on or off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObserveRequest {
    /// How they are served; `null` turns them off.
    pub observe: Option<ObserveSpec>,
    /// Leave settings alone that differ, if they are served already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unless_on: bool,
    /// Answer only when it is done.
    #[serde(default = "yes")]
    pub wait: bool,
}

/// `GET /v1/observe`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObserveInfo {
    /// How the metrics are served; `null` if they are off.
    pub observe: Option<ObserveSpec>,
    /// The process that serves them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_be_ports() {
        for (text, expected) in [
            ("9209", Some("127.0.0.1:9209")),
            ("localhost:9209", Some("127.0.0.1:9209")),
            ("[::1]:1", Some("[::1]:1")),
            ("0.0.0.0:80", Some("0.0.0.0:80")),
            ("example.org:80", None),
            ("", None),
            ("70000", None),
        ] {
            let read = listen_address(text).map(|address| address.to_string());
            assert_eq!(read.as_deref(), expected, "{text}");
        }
    }
}
