//! How the requests of a client are passed on.

use std::net::IpAddr;

use super::client::Client;
use super::fields::{Name, is_disguised};
use super::rejection::{NO_CONNECT, NO_TRACE, ONLY_OPTIONS, Rejection};
use crate::network;
use crate::settings::Settings;

/// How a request is passed on.
#[derive(Clone, Copy, Debug)]
pub struct RequestPolicy<'a> {
    /// The client that sends it.
    pub client: &'a Client,
    /// What the client says about earlier proxies is true.
    pub trusted: bool,
    /// Fields that differ from those of the proxy by underscores alone are passed on.
    pub underscores: bool,
    /// Responses are compressed for clients that accept gzip.
    pub compress: bool,
    /// The cookie that names the worker.
    pub cookie: Option<&'a str>,
    /// Largest head, in bytes.
    pub max_head: usize,
}

impl<'a> RequestPolicy<'a> {
    /// For a client with this address.
    pub(crate) fn new(settings: &'a Settings, client: &'a Client, ip: IpAddr) -> RequestPolicy<'a> {
        RequestPolicy {
            client,
            trusted: network::any(&settings.trust_forwarded, ip),
            underscores: settings.allow_underscores,
            compress: settings.compress,
            cookie: settings.cookie.as_deref(),
            max_head: settings.max_head,
        }
    }

    /// A field of the request is passed on, unless `Connection` names it.
    #[inline]
    pub(crate) fn passes(&self, name: Name, text: &str) -> bool {
        match name {
            Name::Forwarded => self.trusted,
            Name::Other => self.underscores || !is_disguised(text),
            other => !other.is_hop_by_hop(),
        }
    }
}

/// Rejects what no worker is asked: methods that are not for a worker, and `*` with a method that it means nothing for.
pub(crate) fn check_method(method: &str, is_asterisk: bool) -> Result<(), Rejection> {
    match method {
        "CONNECT" => Err(NO_CONNECT),
        "TRACE" => Err(NO_TRACE),
        "OPTIONS" => Ok(()),
        _ if is_asterisk => Err(ONLY_OPTIONS),
        _ => Ok(()),
    }
}

/// The text consists of what a host and its port may consist of (RFC 3986, 3.2.2 and 3.2.3). None of that ends a quoted string, and workers
/// get the host in one.
pub(crate) fn is_host(text: &[u8]) -> bool {
    text.iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte))
}

/// The URL of a request when the client uses https at this port.
pub(crate) fn https_location(host: &str, path: &str, port: u16) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    let path = if path == "*" { "/" } else { path };
    match port {
        443 => format!("https://{name}{path}"),
        port => format!("https://{name}:{port}{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_says_about_proxies_passes_only_if_it_is_trusted() {
        let client = Client::new([192, 0, 2, 7].into(), false).expect("a client");
        let settings = Settings {
            trust_forwarded: vec!["192.0.2.0/24".parse().expect("a network")],
            ..Settings::default()
        };
        for (ip, name, expected) in [
            ([192, 0, 2, 7], "forwarded", true),
            ([198, 51, 100, 1], "forwarded", false),
            ([198, 51, 100, 1], "X-Forwarded-Host", false),
            ([198, 51, 100, 1], "x_forwarded_host", false),
            ([198, 51, 100, 1], "x_own", true),
            ([198, 51, 100, 1], "connection", false),
            ([198, 51, 100, 1], "http2-settings", false),
            ([198, 51, 100, 1], "accept", true),
        ] {
            let policy = RequestPolicy::new(&settings, &client, ip.into());
            assert_eq!(policy.passes(Name::of(name), name), expected, "{ip:?} {name}");
        }
    }

    #[test]
    fn https_is_at_its_port() {
        for (host, path, port, expected) in [
            ("a.test", "/x?y", 443, "https://a.test/x?y"),
            ("a.test:80", "/", 443, "https://a.test/"),
            ("a.test:8080", "*", 8443, "https://a.test:8443/"),
            ("[::1]", "/", 443, "https://[::1]/"),
            ("[::1]:80", "/", 443, "https://[::1]/"),
        ] {
            assert_eq!(https_location(host, path, port), expected);
        }
    }
}
