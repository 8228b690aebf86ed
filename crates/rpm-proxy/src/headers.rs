//! What a proxy changes in the head of a message: fields of one connection end here (RFC 9110, 7.6.1), and the client is named.

use std::net::IpAddr;

use hyper::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, PathAndQuery, Scheme, Uri};
use hyper::{Method, StatusCode, Version};

use crate::http1::head::{FIELDS, Passing};
use crate::http1::is_disguised;
use crate::http1::refusal::{
    HEAD_TOO_LARGE, NO_TRACE, Refusal, TARGET_TOO_LONG, TOO_MANY, UNEXPECTED, UNREADABLE, bad,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Who sends requests over a connection, in the form that goes into headers.
#[derive(Clone, Debug)]
pub struct Client {
    /// The address, for `X-Forwarded-For`.
    pub address: HeaderValue,
    /// `http` or `https`.
    pub scheme: HeaderValue,
    /// The same for `Forwarded` (RFC 7239), without the host.
    pub forwarded: HeaderValue,
    /// By TLS.
    pub secure: bool,
}

impl Client {
    /// Of this address. `None`: it cannot be written in a header, which no address is.
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
}

/// Is it made of what a host and its port may be made of (RFC 3986, 3.2.2 and 3.2.3)? Nothing of that ends a string in quotes, in which
/// workers are told of it.
pub(crate) fn is_host(text: &[u8]) -> bool {
    text.iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte))
}

/// Which worker the cookie of this name says, in the lines of `Cookie`.
pub(crate) fn named_worker<'c>(lines: impl Iterator<Item = &'c str>, name: &str) -> Option<u32> {
    let pairs = lines.flat_map(|line| line.split(';'));
    let mut pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name)?.1.parse().ok()
}

/// May the upstream be sent it twice? By its method (RFC 9110, 9.2.2), and because it has no body that is gone by then.
#[must_use]
pub fn is_replayable(method: &Method, has_body: bool) -> bool {
    !has_body && method.is_idempotent()
}

/// Makes the head of a client's request that of an upstream's: HTTP/1.1, origin form, a `Host`, without what concerns the client's
/// connection alone.
///
/// # Errors
/// It is too large, its framing is ambiguous, it names no host, or it wants what nobody can do.
pub fn to_upstream(parts: &mut Parts, passing: Passing<'_>) -> Result<(), Refusal> {
    fits(parts, passing.max_head)?;
    if parts.method == Method::TRACE {
        return Err(NO_TRACE);
    }
    let headers = &mut parts.headers;
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        return Err(bad("both Transfer-Encoding and Content-Length"));
    }
    if parts.uri.path() == "*" && parts.method != Method::OPTIONS {
        return Err(bad("a target that only OPTIONS may have"));
    }
    let others = |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if headers.get_all(EXPECT).iter().any(others) {
        return Err(UNEXPECTED);
    }
    one_host(headers, &parts.uri)?;
    one_length(headers)?;
    join_cookies(headers);
    if headers.len() > FIELDS {
        return Err(TOO_MANY);
    }
    drop_hop_by_hop(headers);
    if !passing.underscores {
        drop_disguised(headers);
    }
    name_client(headers, passing.client, passing.trusted);
    let path = parts.uri.path_and_query().cloned();
    parts.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    parts.version = Version::HTTP_11;
    Ok(())
}

/// Refuses a head that is larger than `limit`, as for HTTP/1. Sizes of HTTP/2 are those of RFC 9113, 6.5.2.
fn fits(parts: &Parts, limit: usize) -> Result<(), Refusal> {
    let path = parts.uri.path_and_query().map_or(0, |path| path.as_str().len());
    if path >= limit {
        return Err(TARGET_TOO_LONG);
    }
    let around = if parts.version == Version::HTTP_2 {
        32
    } else {
        ": \r\n".len()
    };
    let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + around;
    let fields: usize = parts.headers.iter().map(field).sum();
    let authority = parts.uri.authority().map_or(0, |host| host.as_str().len());
    let line = parts.method.as_str().len() + path + authority;
    if line + fields > limit {
        Err(HEAD_TOO_LARGE)
    } else {
        Ok(())
    }
}

/// Sees to it that a request has one host, and that it is one.
fn one_host(headers: &mut HeaderMap, uri: &Uri) -> Result<(), Refusal> {
    if headers.get_all(HOST).iter().count() > 1 {
        return Err(bad("more than one Host"));
    }
    if let Some(authority) = uri.authority() {
        // RFC 9113, 8.3.1.
        let other = |host: &HeaderValue| {
            !host
                .as_bytes()
                .eq_ignore_ascii_case(authority.as_str().as_bytes())
        };
        if authority.as_str().contains('@') || headers.get(HOST).is_some_and(other) {
            return Err(bad("an authority that is not the Host"));
        }
        let host = HeaderValue::try_from(authority.as_str()).map_err(|_| NO_HOST)?;
        headers.insert(HOST, host);
    }
    let host = headers.get(HOST).ok_or(bad("no Host"))?;
    // In HTTP/2 it may not be empty (RFC 9113, 8.3.1).
    if host.is_empty() || !is_host(host.as_bytes()) {
        return Err(NO_HOST);
    }
    Ok(())
}

const NO_HOST: Refusal = bad("a Host that is none");

/// A length that is said more than once is said once.
fn one_length(headers: &mut HeaderMap) -> Result<(), Refusal> {
    let mut all = headers.get_all(CONTENT_LENGTH).iter();
    let (first, mut others) = (all.next(), all.peekable());
    let Some(first) = first.filter(|_| others.peek().is_some()) else {
        return Ok(());
    };
    if others.any(|other| other != first) {
        return Err(bad("more than one Content-Length"));
    }
    let first = first.clone();
    headers.insert(CONTENT_LENGTH, first);
    Ok(())
}

/// Makes the head of an upstream's request one of HTTP/2.
///
/// # Errors
/// Its host is none.
pub fn to_h2c(parts: &mut Parts) -> Result<(), Refusal> {
    let host = parts.headers.remove(HOST).ok_or(NO_HOST)?;
    let authority = Authority::try_from(host.as_bytes()).map_err(|_| NO_HOST)?;
    parts.headers.remove(CONNECTION);
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(authority);
    parts.uri = Uri::from_parts(uri).map_err(|_| NO_HOST)?;
    parts.version = Version::HTTP_2;
    Ok(())
}

/// HTTP/2 may have the pairs of a cookie in fields of their own; HTTP/1.1 has one (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let all: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if all.len() < 2 {
        return;
    }
    // Fields that were valid are so together.
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// Makes the head of an upstream's answer one for the client; `true`: the upstream ends the connection after it.
///
/// # Errors
/// It says of its body what is not understood here, or changes the protocol. What is odd and clear is put in order.
pub fn to_client(headers: &mut HeaderMap, status: StatusCode, has_body: bool) -> Result<bool, Refusal> {
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(UNREADABLE);
    }
    if has_body && headers.contains_key(TRANSFER_ENCODING) {
        let mut codings = names_in(headers, &TRANSFER_ENCODING);
        let first = codings.next().unwrap_or_default();
        if !first.eq_ignore_ascii_case("chunked") || codings.next().is_some() {
            return Err(UNREADABLE);
        }
    }
    // What a length says beside chunks does not count (RFC 9112, 6.3), and what has no content has none (RFC 9110, 8.6).
    if headers.contains_key(TRANSFER_ENCODING) || status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    }
    one_length(headers).map_err(|_| UNREADABLE)?;
    let closes = names_in(headers, &CONNECTION).any(|name| name.eq_ignore_ascii_case("close"));
    drop_hop_by_hop(headers);
    Ok(closes)
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = names_in(headers, &CONNECTION)
            .filter_map(|name| name.parse().ok())
            .collect();
        for name in named {
            // These decide where the message ends and where it goes; no connection may take them away.
            if name != CONTENT_LENGTH && name != HOST && name != TRANSFER_ENCODING {
                headers.remove(name);
            }
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, UPGRADE, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    let trailers = names_in(headers, &TE).any(|name| name.eq_ignore_ascii_case("trailers"));
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        // It is of this connection, too.
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

fn drop_disguised(headers: &mut HeaderMap) {
    let names = headers.keys().filter(|name| is_disguised(name.as_str()));
    let names: Vec<HeaderName> = names.cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn name_client(headers: &mut HeaderMap, client: &Client, trusted: bool) {
    if !trusted {
        for name in [FORWARDED, X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST] {
            headers.remove(name);
        }
    }
    headers.append(X_FORWARDED_FOR, client.address.clone());
    if !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, client.scheme.clone());
    }
    let host = headers.get(HOST).cloned();
    let mut forwarded = client.forwarded.as_bytes().to_vec();
    if let Some(host) = host.filter(|host| !host.is_empty()) {
        forwarded.extend_from_slice(b";host=\"");
        forwarded.extend_from_slice(host.as_bytes());
        forwarded.push(b'"');
        if !headers.contains_key(X_FORWARDED_HOST) {
            headers.insert(X_FORWARDED_HOST, host);
        }
    }
    if let Ok(forwarded) = HeaderValue::try_from(forwarded) {
        headers.append(FORWARDED, forwarded);
    }
}

/// The comma-separated words of a field, of all its lines.
fn names_in<'h>(headers: &'h HeaderMap, field: &HeaderName) -> impl Iterator<Item = &'h str> {
    let lines = headers
        .get_all(field)
        .into_iter()
        .filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn client() -> Client {
        Client::new([192, 0, 2, 7].into(), false).expect("a client")
    }

    fn sent(request: hyper::http::request::Builder, trusted: bool) -> Result<Parts, Refusal> {
        let (mut parts, ()) = request.body(()).expect("a request").into_parts();
        let passing = Passing {
            client: &client(),
            trusted,
            underscores: false,
            compress: false,
            cookie: None,
            max_head: 1024,
        };
        to_upstream(&mut parts, passing)?;
        Ok(parts)
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn fields_of_the_connection_end_here() {
        let request = Request::get("/a?b")
            .header("host", "x.org")
            .header("connection", "keep-alive, X-Own, Content-Length")
            .header("x-own", "1")
            .header("keep-alive", "timeout=5")
            .header("proxy-connection", "keep-alive")
            .header("te", "gzip, trailers")
            .header("content-length", "0")
            .header("accept", "*/*");
        let parts = sent(request, false).expect("it is sent");
        let expected = [
            "accept",
            "connection",
            "content-length",
            "forwarded",
            "host",
            "te",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
        ];
        assert_eq!(names(&parts.headers), expected);
        assert_eq!(parts.headers["te"], "trailers");
        assert_eq!(parts.uri, "/a?b");
    }

    #[test]
    fn what_clients_say_of_proxies_is_dropped_unless_it_is_trusted() {
        let request = || {
            Request::get("http://shop.example:8080/x")
                .header("host", "Shop.example:8080")
                .header("x-forwarded-for", "10.0.0.1")
                .header("x-forwarded-proto", "https")
                .header("forwarded", "for=10.0.0.1")
        };
        let parts = sent(request(), false).expect("it is sent");
        let all: Vec<_> = parts.headers.get_all("x-forwarded-for").iter().collect();
        assert_eq!(all, ["192.0.2.7"]);
        assert_eq!(parts.headers["x-forwarded-proto"], "http");
        assert_eq!(parts.headers["host"], "shop.example:8080");
        assert_eq!(parts.uri, "/x");
        let all: Vec<_> = parts.headers.get_all("forwarded").iter().collect();
        assert_eq!(all, ["for=192.0.2.7;proto=http;host=\"shop.example:8080\""]);
        let parts = sent(request(), true).expect("it is sent");
        let all: Vec<_> = parts.headers.get_all("x-forwarded-for").iter().collect();
        assert_eq!(all, ["10.0.0.1", "192.0.2.7"]);
        assert_eq!(parts.headers["x-forwarded-proto"], "https");
    }

    #[test]
    fn two_meanings_are_refused() {
        let both = Request::post("/")
            .header("host", "x")
            .header("transfer-encoding", "chunked")
            .header("content-length", "5");
        assert!(sent(both, false).is_err());
        let hosts = Request::get("/").header("host", "x").header("host", "y");
        assert!(sent(hosts, false).is_err());
        assert_eq!(sent(Request::get("/"), false).err(), Some(bad("no Host")));
        let forged = Request::get("/").header("host", "x\", for=203.0.113.9;host=\"x");
        assert_eq!(sent(forged, false).err(), Some(NO_HOST));
        let other = Request::get("http://shop.example/").header("host", "evil");
        assert!(sent(other, false).is_err());
        assert!(sent(Request::get("http://user@shop.example/"), false).is_err());
        let traced = Request::builder().method("TRACE").uri("http://shop.example/");
        assert_eq!(sent(traced, false).expect_err("it is refused").status, 501);
    }

    #[test]
    fn an_answer_ends_a_connection_and_not_the_clients() {
        let mut answer = HeaderMap::new();
        answer.insert("connection", "close".parse().expect("a value"));
        answer.insert("upgrade", "h2c".parse().expect("a value"));
        assert_eq!(to_client(&mut answer, StatusCode::OK, true), Ok(true));
        assert!(answer.is_empty());
    }

    #[test]
    fn what_may_be_sent_twice() {
        for (method, body, expected) in [
            (Method::GET, false, true),
            (Method::PUT, false, true),
            (Method::PUT, true, false),
            (Method::POST, false, false),
            (Method::PATCH, false, false),
            (Method::DELETE, false, true),
        ] {
            assert_eq!(is_replayable(&method, body), expected, "{method}");
        }
    }
}
