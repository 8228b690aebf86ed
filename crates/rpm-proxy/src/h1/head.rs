//! Heads of HTTP/1 messages: parses them, and writes them for the other side (RFC 9110, 7.6; RFC 9112).

use std::mem::MaybeUninit;

use httparse::{Header, Status};

use super::framing::Framing;
use super::message_info::MessageInfo;
use super::request_syntax::{RequestSyntax, field_room, parse_request, split_url};
use crate::policy::client::Forwarding;
use crate::policy::compression::{Content, is_of_plain_body, weakened};
use crate::policy::fields::{MAX_FIELDS, Name};
use crate::policy::rejection::{Rejection, UNREADABLE, bad};
use crate::policy::request::{RequestPolicy, check_method};
use crate::policy::retry::is_idempotent;
use crate::policy::sticky::named_worker;
use crate::trace::context::{Context, TRACEPARENT};

/// The result of parsing a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// The head is incomplete.
    Partial,
    /// The head, and its length in bytes.
    Complete(usize, T),
    /// The head is malformed or ambiguous.
    Rejected(Rejection),
}

/// A parsed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// Where the body ends.
    pub framing: Framing,
    /// The client wants to keep the connection.
    pub keep_alive: bool,
    /// HTTP/1.1, not 1.0.
    pub is_11: bool,
    /// The method is HEAD: the response has no body.
    pub is_head: bool,
    /// The method is idempotent (RFC 9110, 9.2.2).
    pub is_idempotent: bool,
    /// The client asks for another protocol.
    pub upgrades: bool,
    /// The client may wait for `100 Continue` before it sends the body (RFC 9110, 10.1.1).
    pub expects: bool,
    /// Responses are compressed for clients that accept gzip.
    pub compress: bool,
    /// This client accepts gzip.
    pub gzip: bool,
    /// The worker that the cookie names.
    pub sticky: Option<u32>,
}

/// A parsed response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status.
    pub status: u16,
    /// Where the body ends.
    pub framing: Framing,
    /// The upstream keeps its connection.
    pub upstream_stays: bool,
    /// The client's connection is kept.
    pub client_stays: bool,
    /// The client does not support chunks, and gets their content.
    pub unchunk: bool,
    /// The body is compressed, and chunked for clients that support it.
    pub gzip: bool,
}

/// How a response is to be passed on.
#[derive(Clone, Copy, Debug)]
pub struct Returning<'a> {
    /// Whether the client's connection may be kept.
    pub stays: Stays,
    /// Lines that are added to the head, unless it is interim.
    pub extra: &'a [u8],
    /// Largest head, in bytes.
    pub max_head: usize,
}

/// Room for the fields that are usually added to a head.
const ADDED: usize = 192;

/// Parses a request at the beginning of `bytes`, and writes its head for the upstream to `out`.
pub fn request(bytes: &[u8], policy: RequestPolicy<'_>, out: &mut Vec<u8>) -> Parsed<RequestHead> {
    match parse_request(bytes, policy.max_head, &mut field_room()) {
        Parsed::Complete(length, request) => match rewrite(request, length, policy, None, out) {
            Ok(head) => Parsed::Complete(length, head),
            Err(rejection) => Parsed::Rejected(rejection),
        },
        Parsed::Partial => Parsed::Partial,
        Parsed::Rejected(rejection) => Parsed::Rejected(rejection),
    }
}

/// Writes the head for the upstream to `out`. `length`: that of the client's head, in bytes. `context`: that of its trace.
///
/// # Errors
/// It is ambiguous, or asks for something that is not supported.
pub(super) fn rewrite(
    request: RequestSyntax<'_, '_>,
    length: usize,
    policy: RequestPolicy<'_>,
    context: Option<&Context>,
    out: &mut Vec<u8>,
) -> Result<RequestHead, Rejection> {
    out.clear();
    out.reserve(length + ADDED);
    read_request(request, policy, context, out)
}

fn read_request(
    RequestSyntax {
        method,
        target,
        is_11,
        fields,
    }: RequestSyntax<'_, '_>,
    policy: RequestPolicy<'_>,
    context: Option<&Context>,
    out: &mut Vec<u8>,
) -> Result<RequestHead, Rejection> {
    let (authority, path) = split_target(method, target)?;
    let info = MessageInfo::of(fields)?;
    let host = info.host_of(authority, is_11)?;
    let framing = info.request_framing(is_11)?;
    let upgrades = is_11 && info.upgrades;
    for part in [method.as_bytes(), b" ", path.0, path.1, b" HTTP/1.1\r\n"] {
        out.extend_from_slice(part);
    }
    // HTTP/1.0 may omit it; HTTP/1.1 may not (RFC 9112, 3.2).
    field(out, b"host", host.unwrap_or_default());
    for it in fields {
        let passes = match Name::of(it.name) {
            // These are written separately, once.
            Name::Host | Name::ContentLength => false,
            Name::Expect if !is_11 => false,
            name => policy.passes(name, it.name),
        };
        let replaced = context.is_some_and(|context| context.replaces(it.name));
        if passes && !replaced && !info.names(fields, it.name) {
            field(out, it.name.as_bytes(), it.value);
        }
    }
    if let Some(context) = context {
        field(out, TRACEPARENT.as_bytes(), &context.sent.field());
    }
    match framing {
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::Length(_) => field(out, b"content-length", info.length_text),
        Framing::Nothing | Framing::UntilClose => {}
    }
    if upgrades {
        field(out, b"upgrade", info.upgrade.unwrap_or_default());
        out.extend_from_slice(b"connection: upgrade\r\n");
    } else if info.trailers {
        out.extend_from_slice(b"te: trailers\r\nconnection: te\r\n");
    }
    // What was dropped above was not passed on.
    let passed_on = |name: &str| {
        let sent = policy.trusted && fields.iter().any(|it| it.name.eq_ignore_ascii_case(name));
        sent && !info.names(fields, name)
    };
    name_client(out, policy.client.forwarding(host.unwrap_or_default(), passed_on));
    out.extend_from_slice(b"\r\n");
    let keep_alive = if is_11 {
        !info.closes
    } else {
        info.keeps && !info.closes
    };
    Ok(RequestHead {
        framing,
        keep_alive,
        is_11,
        is_head: method == "HEAD",
        is_idempotent: is_idempotent(method),
        upgrades,
        expects: is_11 && info.expects,
        compress: policy.compress,
        gzip: policy.compress && info.gzip,
        sticky: policy.cookie.and_then(|name| cookie(fields, name)),
    })
}

/// The authority of an absolute target, and the path in two parts to be joined.
type Target<'t> = (Option<&'t str>, (&'t [u8], &'t [u8]));

fn split_target<'t>(method: &str, target: &'t str) -> Result<Target<'t>, Rejection> {
    check_method(method, target == "*")?;
    if target.contains('#') {
        return Err(bad("request target with a fragment"));
    }
    if target.starts_with('/') {
        return Ok((None, (target.as_bytes(), b"")));
    }
    if target == "*" {
        return Ok((None, (b"*", b"")));
    }
    let url = split_url(target);
    let (authority, path) = url.ok_or(bad("request target is neither a path nor a URL"))?;
    if authority.is_empty() || authority.contains('@') {
        return Err(bad("request target without a host, or with a user name"));
    }
    let slash: &[u8] = if path.starts_with('/') { b"" } else { b"/" };
    Ok((Some(authority), (slash, path.as_bytes())))
}

/// Whether a client's connection may be kept after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stays {
    /// No.
    No,
    /// If the upstream keeps its own: it still reads the body of the request.
    IfUpstreamDoes,
    /// Yes.
    Yes,
}

/// Parses a response at the beginning of `bytes`, and writes its head for the client to `out`.
pub fn response(
    bytes: &[u8],
    to: &RequestHead,
    returning: Returning<'_>,
    out: &mut Vec<u8>,
) -> Parsed<ResponseHead> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut fields) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if bytes.len() < returning.max_head => return Parsed::Partial,
        Ok(Status::Partial) | Err(_) => return Parsed::Rejected(UNREADABLE),
    };
    let (Some(status), Some(version)) = (parsed.code, parsed.version) else {
        return Parsed::Rejected(UNREADABLE);
    };
    // RFC 9110, 15.
    if status < 100 {
        return Parsed::Rejected(UNREADABLE);
    }
    let line = (status, parsed.reason.unwrap_or_default(), version == 1);
    out.clear();
    out.reserve(length + returning.extra.len() + ADDED);
    match read_response(line, parsed.headers, to, returning, out) {
        Ok(head) if length <= returning.max_head => Parsed::Complete(length, head),
        // The client cannot do anything about the details.
        Ok(_) | Err(_) => Parsed::Rejected(UNREADABLE),
    }
}

fn read_response(
    (status, reason, is_11): (u16, &str, bool),
    fields: &[Header<'_>],
    to: &RequestHead,
    Returning { stays, extra, .. }: Returning<'_>,
    out: &mut Vec<u8>,
) -> Result<ResponseHead, Rejection> {
    let info = MessageInfo::of(fields)?;
    let interim = (100..200).contains(&status) && status != 101;
    let switches = status == 101;
    if switches && !to.upgrades {
        return Err(bad("unexpected 101 from upstream"));
    }
    let has_body = !(status < 200 || status == 204 || status == 304 || to.is_head);
    let framing = match (info.coding, info.length) {
        _ if !has_body => Framing::Nothing,
        // A length besides chunks is ignored (RFC 9112, 6.3).
        (Some(coding), _) => coding.framing()?,
        (None, Some(length)) => Framing::Length(length),
        (None, None) => Framing::UntilClose,
    };
    let varies = to.compress && has_body && is_compressible(status, fields, framing);
    let gzip = varies && to.gzip;
    let unchunk = framing == Framing::Chunked && !to.is_11 && !gzip;
    let ends_by_close = if gzip {
        !to.is_11
    } else {
        framing == Framing::UntilClose || unchunk
    };
    let upstream_stays = framing != Framing::UntilClose && !info.closes && (is_11 || info.keeps) && !switches;
    let stays = match stays {
        Stays::No => false,
        Stays::IfUpstreamDoes => upstream_stays,
        Stays::Yes => true,
    };
    let client_stays = stays && to.keep_alive && !ends_by_close;
    let head = ResponseHead {
        status,
        framing,
        upstream_stays,
        client_stays,
        unchunk,
        gzip,
    };
    status_line(status, reason, out);
    pass_fields(fields, &info, &head, has_body, out);
    if varies {
        out.extend_from_slice(b"vary: accept-encoding\r\n");
    }
    match framing {
        _ if gzip => {
            out.extend_from_slice(b"content-encoding: gzip\r\n");
            if to.is_11 {
                out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            }
        }
        Framing::Chunked if !unchunk => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::Length(_) => field(out, b"content-length", info.length_text),
        Framing::Chunked | Framing::Nothing | Framing::UntilClose => {}
    }
    if switches {
        field(out, b"upgrade", info.upgrade.unwrap_or_default());
        out.extend_from_slice(b"connection: upgrade\r\n");
        out.extend_from_slice(extra);
    } else if !interim {
        if !client_stays {
            out.extend_from_slice(b"connection: close\r\n");
        } else if !to.is_11 {
            out.extend_from_slice(b"connection: keep-alive\r\n");
        }
        out.extend_from_slice(extra);
    }
    out.extend_from_slice(b"\r\n");
    Ok(head)
}

fn status_line(status: u16, reason: &str, out: &mut Vec<u8>) {
    let mut code = [0; 3];
    for (digit, unit) in code.iter_mut().zip([100, 10, 1]) {
        *digit = b'0' + u8::try_from(status / unit % 10).unwrap_or(0);
    }
    for part in [b"HTTP/1.1 ", &code[..], b" ", reason.as_bytes(), b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Writes the end-to-end fields of a response, without those that say where the body ends.
fn pass_fields(
    fields: &[Header<'_>],
    info: &MessageInfo<'_>,
    head: &ResponseHead,
    has_body: bool,
    out: &mut Vec<u8>,
) {
    for it in fields {
        let passes = match Name::of(it.name) {
            name if name.is_hop_by_hop() => false,
            _ if head.gzip && is_of_plain_body(it.name) => false,
            // A response without content has no length (RFC 9110, 8.6). The length of one with content is written separately, once.
            Name::ContentLength => {
                info.coding.is_none() && head.status != 204 && !(has_body && it.value == info.length_text)
            }
            name => name.is_essential() || !info.names(fields, it.name),
        };
        if !passes {
            continue;
        }
        if head.gzip
            && it.name.eq_ignore_ascii_case("etag")
            && let Some(tag) = weakened(it.value)
        {
            field(out, b"etag", &tag);
        } else {
            field(out, it.name.as_bytes(), it.value);
        }
    }
}

fn is_compressible(status: u16, fields: &[Header<'_>], framing: Framing) -> bool {
    let mut content = Content::default();
    for it in fields {
        content.field(it.name, it.value);
    }
    let length = match framing {
        Framing::Length(length) => Some(length),
        Framing::Nothing | Framing::Chunked | Framing::UntilClose => None,
    };
    content.is_compressible(status, length)
}

fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn name_client(out: &mut Vec<u8>, added: Forwarding<'_>) {
    field(out, b"x-forwarded-for", added.address.as_bytes());
    if let Some(scheme) = added.scheme {
        field(out, b"x-forwarded-proto", scheme.as_bytes());
    }
    if let Some(host) = added.named_host {
        field(out, b"x-forwarded-host", host);
    }
    out.extend_from_slice(b"forwarded: ");
    out.extend_from_slice(added.forwarded.as_bytes());
    if let Some(host) = added.host {
        for part in [b";host=\"", host, b"\""] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// The worker that the cookie names.
fn cookie(fields: &[Header<'_>], name: &str) -> Option<u32> {
    let lines = fields.iter().filter(|it| it.name.eq_ignore_ascii_case("cookie"));
    named_worker(lines.filter_map(|it| std::str::from_utf8(it.value).ok()), name)
}

/// A head may have ended since the first `from` bytes were parsed, or is larger than `limit`.
pub(crate) fn may_be_complete(bytes: &[u8], from: usize, limit: usize) -> bool {
    let new = &bytes[from.saturating_sub(3).min(bytes.len())..];
    let ends = new.windows(2).any(|two| two == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n");
    ends || bytes.len() >= limit
}
