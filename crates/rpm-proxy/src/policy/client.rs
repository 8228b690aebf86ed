//! The fields that name a client to a worker: `X-Forwarded-*` and `Forwarded` (RFC 7239).

use std::net::IpAddr;

use hyper::header::HeaderValue;

/// The client of a connection, in the form that goes into header fields.
#[derive(Clone, Debug)]
pub struct Client {
    /// The address, for `X-Forwarded-For`.
    pub address: HeaderValue,
    /// `http` or `https`.
    pub scheme: HeaderValue,
    /// Both, for `Forwarded`, without the host.
    pub forwarded: HeaderValue,
    /// The client speaks TLS.
    pub secure: bool,
}

/// What is added to a request. A field of the client is passed on only if it is trusted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forwarding<'a> {
    /// A line of `X-Forwarded-For`.
    pub(crate) address: &'a HeaderValue,
    /// `X-Forwarded-Proto`, unless one of the client is passed on.
    pub(crate) scheme: Option<&'a HeaderValue>,
    /// `X-Forwarded-Host`, unless one of the client is passed on.
    pub(crate) named_host: Option<&'a [u8]>,
    /// A line of `Forwarded`, without the host.
    pub(crate) forwarded: &'a HeaderValue,
    /// The host, for `Forwarded`.
    pub(crate) host: Option<&'a [u8]>,
}

impl Client {
    /// A client with this address. `None` if the address cannot be a header value, which never happens.
    #[must_use]
    pub fn new(ip: IpAddr, secure: bool) -> Option<Client> {
        let scheme = if secure { "https" } else { "http" };
        let node = match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("\"[{ip}]\""),
        };
        Some(Client {
            address: HeaderValue::try_from(ip.to_string()).ok()?,
            scheme: HeaderValue::from_static(scheme),
            forwarded: HeaderValue::try_from(format!("for={node};proto={scheme}")).ok()?,
            secure,
        })
    }

    /// What is added to a request for this host. `sent` tells whether a field of the client is passed on.
    #[inline]
    pub(crate) fn forwarding<'a>(&'a self, host: &'a [u8], sent: impl Fn(&str) -> bool) -> Forwarding<'a> {
        let host = (!host.is_empty()).then_some(host);
        Forwarding {
            address: &self.address,
            scheme: (!sent("x-forwarded-proto")).then_some(&self.scheme),
            named_host: host.filter(|_| !sent("x-forwarded-host")),
            forwarded: &self.forwarded,
            host,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_named_and_what_it_said_itself_is_not_said_twice() {
        let client = Client::new([192, 0, 2, 7].into(), true).expect("a client");
        assert_eq!(client.forwarded, "for=192.0.2.7;proto=https");
        let all = client.forwarding(b"shop.example", |_| false);
        assert_eq!(
            (all.scheme, all.named_host),
            (Some(&client.scheme), Some(&b"shop.example"[..]))
        );
        let trusted = client.forwarding(b"shop.example", |_| true);
        assert_eq!((trusted.scheme, trusted.named_host), (None, None));
        assert_eq!(trusted.host, Some(&b"shop.example"[..]));
        assert_eq!(client.forwarding(b"", |_| false).host, None);
        let v6 = Client::new("2001:db8::7".parse().expect("an address"), false).expect("a client");
        assert_eq!(v6.forwarded, "for=\"[2001:db8::7]\";proto=http");
    }
}
