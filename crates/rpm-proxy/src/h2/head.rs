//! Rewrites the heads of messages that hyper has parsed, by the rules of `policy`.

use std::fmt::Display;
use std::net::IpAddr;
use std::rc::Rc;

use hyper::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, COOKIE, ETAG, EXPECT, FORWARDED, HOST,
    HeaderMap, HeaderName, HeaderValue, REFERER, TE, TRANSFER_ENCODING, USER_AGENT, VARY,
};
use hyper::http::request::Parts;
use hyper::http::response;
use hyper::http::uri::{Authority, PathAndQuery, Scheme, Uri};
use hyper::{Request, StatusCode, Version};

use crate::access_log::Entry;
use crate::policy::client::Client;
use crate::policy::compression::{Content, accepts_gzip, is_of_plain_body, weakened};
use crate::policy::fields::{MAX_FIELDS, Name, words};
use crate::policy::rejection::{
    HEAD_TOO_LARGE, NO_HOST, Rejection, TARGET_TOO_LONG, TOO_MANY, UNEXPECTED, UNREADABLE, bad,
};
use crate::policy::request::{RequestPolicy, check_method, is_host};
use crate::policy::sticky::named_worker;
use crate::trace::Tracing;
use crate::trace::context::{self, Context};
use crate::trace::open::{Asked, OpenSpan};

const TRACEPARENT: HeaderName = HeaderName::from_static(context::TRACEPARENT);
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The request for the access log.
pub(super) fn entry<B>(request: &Request<B>) -> Entry {
    let uri = request.uri();
    let target: &dyn Display = match (request.version(), uri.path_and_query(), uri.authority()) {
        // In HTTP/2 every request names its authority; the target is what HTTP/1 clients send to an origin server.
        (Version::HTTP_2, Some(path), _) => path,
        (Version::HTTP_2, None, Some(authority)) => authority,
        _ => uri,
    };
    let version = version(request);
    let line = format!("{} {target} HTTP/{version}", request.method());
    let mut entry = Entry::new(line, uri.authority().map(Authority::as_str));
    for name in [HOST, REFERER, USER_AGENT] {
        if let Some(value) = request.headers().get(&name) {
            entry.record_field(name.as_str(), value.as_bytes());
        }
    }
    entry
}

fn version<B>(request: &Request<B>) -> &'static str {
    match request.version() {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}

/// The context of the trace of a request, and its span if it is sampled.
pub(super) fn trace<B>(
    request: &Request<B>,
    tracing: &Tracing,
    client: IpAddr,
) -> (Context, Option<Rc<OpenSpan>>) {
    let parents = request.headers().get_all(TRACEPARENT).iter();
    let asked = Asked {
        method: request.method().as_str(),
        target: request.uri().path(),
        protocol: version(request),
        client,
    };
    tracing.begin(parents.map(HeaderValue::as_bytes), asked)
}

/// Rewrites the head of a client's request for an upstream: HTTP/1.1, origin form, with a `Host`, without hop-by-hop fields.
///
/// # Errors
/// It is too large, its framing is ambiguous, it has no host, or its method or `Expect` is not supported.
pub(super) fn to_upstream(
    parts: &mut Parts,
    policy: RequestPolicy<'_>,
    context: Option<&Context>,
    is_websocket: bool,
) -> Result<(), Rejection> {
    fits(parts, policy.max_head)?;
    if !is_websocket {
        check_method(parts.method.as_str(), parts.uri.path() == "*")?;
    }
    let headers = &mut parts.headers;
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        return Err(bad("both Transfer-Encoding and Content-Length"));
    }
    let others = |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if headers.get_all(EXPECT).iter().any(others) {
        return Err(UNEXPECTED);
    }
    one_host(headers, &parts.uri)?;
    one_length(headers)?;
    join_cookies(headers);
    if headers.len() > MAX_FIELDS {
        return Err(TOO_MANY);
    }
    let takes_trailers = words_of(headers, &TE).any(|word| word.eq_ignore_ascii_case(b"trailers"));
    drop_fields(headers, |name, text| {
        let replaced = context.is_some_and(|context| context.replaces(text));
        policy.passes(name, text) && !replaced
    });
    if let Some(value) = context.and_then(|context| HeaderValue::from_bytes(&context.sent.field()).ok()) {
        headers.insert(TRACEPARENT, value);
    }
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        // TE is a hop-by-hop field of this connection, too.
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    name_client(headers, policy.client);
    let path = parts.uri.path_and_query().cloned();
    parts.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    parts.version = Version::HTTP_11;
    Ok(())
}

/// Rejects a head that is larger than `limit`, as for HTTP/1. In HTTP/2 the size is that of RFC 9113, 6.5.2.
fn fits(parts: &Parts, limit: usize) -> Result<(), Rejection> {
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

/// Checks that a request has exactly one valid host.
fn one_host(headers: &mut HeaderMap, uri: &Uri) -> Result<(), Rejection> {
    if headers.get_all(HOST).iter().count() > 1 {
        return Err(bad("more than one Host header"));
    }
    if let Some(authority) = uri.authority() {
        // RFC 9113, 8.3.1.
        let other = |host: &HeaderValue| {
            !host
                .as_bytes()
                .eq_ignore_ascii_case(authority.as_str().as_bytes())
        };
        if authority.as_str().contains('@') || headers.get(HOST).is_some_and(other) {
            return Err(bad("authority and Host differ"));
        }
        let host = HeaderValue::try_from(authority.as_str()).map_err(|_| NO_HOST)?;
        headers.insert(HOST, host);
    }
    let host = headers.get(HOST).ok_or(bad("missing Host header"))?;
    // In HTTP/2 it may not be empty (RFC 9113, 8.3.1).
    if host.is_empty() || !is_host(host.as_bytes()) {
        return Err(NO_HOST);
    }
    Ok(())
}

/// Merges equal `Content-Length` fields.
fn one_length(headers: &mut HeaderMap) -> Result<(), Rejection> {
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

/// Rewrites the head of a request for an upstream that speaks HTTP/2.
///
/// # Errors
/// The host is malformed.
pub(super) fn to_h2c(parts: &mut Parts) -> Result<(), Rejection> {
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

/// Joins `Cookie` fields: HTTP/2 may split them, HTTP/1.1 may not (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let all: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if all.len() < 2 {
        return;
    }
    // Valid fields are valid when joined.
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// Rewrites the head of a response for the client. `true`: the upstream closes the connection after it.
///
/// # Errors
/// The framing is unknown or ambiguous, or the protocol changes. Odd but unambiguous heads are normalized.
pub(super) fn to_client(
    headers: &mut HeaderMap,
    status: StatusCode,
    has_body: bool,
) -> Result<bool, Rejection> {
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(UNREADABLE);
    }
    if has_body && headers.contains_key(TRANSFER_ENCODING) {
        let mut codings = words_of(headers, &TRANSFER_ENCODING);
        let first = codings.next().unwrap_or_default();
        if !first.eq_ignore_ascii_case(b"chunked") || codings.next().is_some() {
            return Err(UNREADABLE);
        }
    }
    // A length besides chunks is ignored (RFC 9112, 6.3), and a response without content has none (RFC 9110, 8.6).
    if headers.contains_key(TRANSFER_ENCODING) || status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    }
    one_length(headers).map_err(|_| UNREADABLE)?;
    let closes = words_of(headers, &CONNECTION).any(|word| word.eq_ignore_ascii_case(b"close"));
    drop_fields(headers, |name, _| !name.is_hop_by_hop());
    Ok(closes)
}

/// Drops the fields that do not pass, and those that `Connection` names.
fn drop_fields(headers: &mut HeaderMap, passes: impl Fn(Name, &str) -> bool) {
    let named = |name: &HeaderName| {
        let mut lines = headers.get_all(CONNECTION).iter();
        lines.any(|line| {
            words(line.as_bytes()).any(|word| word.eq_ignore_ascii_case(name.as_str().as_bytes()))
        })
    };
    let connected = headers.contains_key(CONNECTION);
    let dropped = headers.keys().filter(|name| {
        let known = Name::of(name.as_str());
        !passes(known, name.as_str()) || connected && !known.is_essential() && named(name)
    });
    let dropped: Vec<HeaderName> = dropped.cloned().collect();
    for name in dropped {
        headers.remove(name);
    }
}

/// Adds the fields that name the client. Its own are still there only if they are trusted.
fn name_client(headers: &mut HeaderMap, client: &Client) {
    let host = headers.get(HOST).cloned();
    let text = host.as_ref().map(HeaderValue::as_bytes).unwrap_or_default();
    let added = client.forwarding(text, |name| headers.contains_key(name));
    let mut forwarded = added.forwarded.as_bytes().to_vec();
    if let Some(host) = added.host {
        for part in [&b";host=\""[..], host, b"\""] {
            forwarded.extend_from_slice(part);
        }
    }
    let names_host = added.named_host.is_some();
    let (address, scheme) = (added.address.clone(), added.scheme.cloned());
    headers.append(X_FORWARDED_FOR, address);
    if let Some(scheme) = scheme {
        headers.insert(X_FORWARDED_PROTO, scheme);
    }
    if let Some(host) = host.filter(|_| names_host) {
        headers.insert(X_FORWARDED_HOST, host);
    }
    if let Ok(forwarded) = HeaderValue::try_from(forwarded) {
        headers.append(FORWARDED, forwarded);
    }
}

/// The comma-separated words of a field, of all its lines.
fn words_of<'h>(headers: &'h HeaderMap, field: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    let lines = headers.get_all(field).into_iter();
    lines.flat_map(|line| words(line.as_bytes()))
}

/// The worker that the cookie of this name holds.
pub(super) fn cookie(headers: &HeaderMap, name: &str) -> Option<u32> {
    let lines = headers.get_all(COOKIE).into_iter();
    named_worker(lines.filter_map(|line| line.to_str().ok()), name)
}

/// The client accepts gzip.
pub(super) fn knows_gzip(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(ACCEPT_ENCODING).iter();
    lines.any(|line| line.to_str().is_ok_and(accepts_gzip))
}

/// Prepares the head of a response for compression, if the body is worth it. `gzip`: the client accepts it. Returns whether the body is to
/// be compressed.
pub(super) fn compress(parts: &mut response::Parts, gzip: bool) -> bool {
    let mut content = Content::default();
    for (name, value) in &parts.headers {
        content.field(name.as_str(), value.as_bytes());
    }
    let length = parts.headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    if !content.is_compressible(parts.status.as_u16(), length) {
        return false;
    }
    parts
        .headers
        .append(VARY, HeaderValue::from_static("accept-encoding"));
    if !gzip {
        return false;
    }
    drop_fields(&mut parts.headers, |_, name| !is_of_plain_body(name));
    parts.headers.remove(CONTENT_LENGTH);
    parts
        .headers
        .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    let tag = parts.headers.get(ETAG).and_then(|tag| weakened(tag.as_bytes()));
    if let Some(tag) = tag.and_then(|tag| HeaderValue::try_from(tag).ok()) {
        parts.headers.insert(ETAG, tag);
    }
    true
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn client() -> Client {
        Client::new([192, 0, 2, 7].into(), false).expect("a client")
    }

    fn sent(request: hyper::http::request::Builder, trusted: bool) -> Result<Parts, Rejection> {
        let (mut parts, ()) = request.body(()).expect("a request").into_parts();
        let policy = RequestPolicy {
            client: &client(),
            trusted,
            underscores: false,
            compress: false,
            cookie: None,
            max_head: 1024,
        };
        to_upstream(&mut parts, policy, None, false)?;
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
            .header("http2-settings", "A")
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
    fn ambiguous_requests_are_rejected() {
        let both = Request::post("/")
            .header("host", "x")
            .header("transfer-encoding", "chunked")
            .header("content-length", "5");
        assert!(sent(both, false).is_err());
        let hosts = Request::get("/").header("host", "x").header("host", "y");
        assert!(sent(hosts, false).is_err());
        assert_eq!(
            sent(Request::get("/"), false).err(),
            Some(bad("missing Host header"))
        );
        let forged = Request::get("/").header("host", "x\", for=203.0.113.9;host=\"x");
        assert_eq!(sent(forged, false).err(), Some(NO_HOST));
        let other = Request::get("http://shop.example/").header("host", "evil");
        assert!(sent(other, false).is_err());
        assert!(sent(Request::get("http://user@shop.example/"), false).is_err());
        let traced = Request::builder().method("TRACE").uri("http://shop.example/");
        assert_eq!(sent(traced, false).expect_err("it is rejected").status, 501);
    }

    #[test]
    fn an_answer_ends_a_connection_and_not_the_clients() {
        let mut answer = HeaderMap::new();
        answer.insert("connection", "close".parse().expect("a value"));
        answer.insert("upgrade", "h2c".parse().expect("a value"));
        answer.insert("te", "trailers".parse().expect("a value"));
        answer.insert("http2-settings", "A".parse().expect("a value"));
        assert_eq!(to_client(&mut answer, StatusCode::OK, true), Ok(true));
        assert!(answer.is_empty());
    }
}
