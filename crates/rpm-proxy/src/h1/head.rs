//! Heads of HTTP/1 messages: what they say of their message, and what they become on the other side (RFC 9110, 7.6; RFC 9112).

use std::mem::MaybeUninit;

use httparse::{Header, Status};

use super::framing::Framing;
use super::message_info::MessageInfo;
use crate::policy::compression::{Content, weakened};
use crate::policy::fields::{MAX_FIELDS, Name};
use crate::policy::rejection::{
    HEAD_TOO_LARGE, Rejection, TARGET_TOO_LONG, TOO_MANY, UNKNOWN_VERSION, UNREADABLE, bad,
};
use crate::policy::request::{RequestPolicy, check_method};
use crate::policy::retry::is_idempotent;
use crate::policy::sticky::named_worker;

/// What reading a head comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// More of it must come.
    Partial,
    /// It is so many bytes long, and says this.
    Complete(usize, T),
    /// Nobody may have to guess what it means.
    Rejected(Rejection),
}

/// What matters of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// Where its body ends.
    pub framing: Framing,
    /// The client wants to send more over the connection.
    pub keep_alive: bool,
    /// It is HTTP/1.1, not 1.0.
    pub is_11: bool,
    /// HEAD: the answer has no body.
    pub is_head: bool,
    /// It may be processed twice (RFC 9110, 9.2.2).
    pub is_idempotent: bool,
    /// It wants to leave HTTP.
    pub upgrades: bool,
    /// Its body may wait for an interim answer (RFC 9110, 10.1.1).
    pub expects: bool,
    /// Answers are compressed for clients that know gzip.
    pub compress: bool,
    /// And this one does.
    pub gzip: bool,
    /// What the cookie says of the worker that the client had.
    pub sticky: Option<u32>,
}

/// What matters of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status.
    pub status: u16,
    /// Where its body ends.
    pub framing: Framing,
    /// The upstream takes more requests over the connection.
    pub upstream_stays: bool,
    /// The client may send more over its connection.
    pub client_stays: bool,
    /// The client does not know chunks: it gets what is in them.
    pub unchunk: bool,
    /// The body is to be compressed; for clients that know chunks it is chunked then.
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

/// What usually makes a head longer when it is passed on, at most: fields that say who the client is, or whether the connection stays.
const ADDED: usize = 192;

/// Reads a request's head at the beginning of `bytes`, and writes to `out` what an upstream is sent.
pub fn request(bytes: &[u8], policy: RequestPolicy<'_>, out: &mut Vec<u8>) -> Parsed<RequestHead> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(Status::Complete(length)) if length <= policy.max_head => length,
        Ok(Status::Partial) if bytes.len() < policy.max_head => return Parsed::Partial,
        Ok(_) => return Parsed::Rejected(too_large(&bytes[..policy.max_head])),
        Err(error) => return Parsed::Rejected(rejection(error, bytes)),
    };
    if has_bare_lf(&bytes[..length]) {
        return Parsed::Rejected(bad("a line that does not end with CRLF"));
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Parsed::Rejected(bad("not a request"));
    };
    out.clear();
    out.reserve(length + ADDED);
    match read_request(method, target, version == 1, parsed.headers, policy, out) {
        Ok(head) => Parsed::Complete(length, head),
        Err(rejection) => Parsed::Rejected(rejection),
    }
}

fn read_request<'h>(
    method: &str,
    target: &'h str,
    is_11: bool,
    fields: &[Header<'h>],
    policy: RequestPolicy<'_>,
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
    // HTTP/1.0 need not say any; HTTP/1.1 has one (RFC 9112, 3.2).
    field(out, b"host", host.unwrap_or_default());
    for it in fields {
        let name = Name::of(it.name);
        // These are written once, from what they come to.
        let is_written = matches!(name, Name::Host | Name::ContentLength) || name == Name::Expect && !is_11;
        if !is_written && policy.passes(name, it.name) && !info.names(fields, it.name) {
            field(out, it.name.as_bytes(), it.value);
        }
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
    name_client(out, fields, host.unwrap_or_default(), policy);
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

/// The authority of an absolute target, and the path in two parts that are to be put together.
type Target<'t> = (Option<&'t str>, (&'t [u8], &'t [u8]));

fn split_target<'t>(method: &str, target: &'t str) -> Result<Target<'t>, Rejection> {
    check_method(method, target == "*")?;
    if target.contains('#') {
        return Err(bad("a target with a fragment"));
    }
    if target.starts_with('/') {
        return Ok((None, (target.as_bytes(), b"")));
    }
    if target == "*" {
        return Ok((None, (b"*", b"")));
    }
    let rest = ["http://", "https://"].into_iter().find_map(|scheme| {
        let (first, rest) = target.split_at_checked(scheme.len())?;
        first.eq_ignore_ascii_case(scheme).then_some(rest)
    });
    let rest = rest.ok_or(bad("a target that is neither a path nor a URL"))?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() || authority.contains('@') {
        return Err(bad("a target without a host, or with a user"));
    }
    let slash: &[u8] = if path.starts_with('/') { b"" } else { b"/" };
    Ok((Some(authority), (slash, path.as_bytes())))
}

/// Whether a client's connection may be kept after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stays {
    /// It may not.
    No,
    /// If the upstream's is: it still takes the body of the request.
    IfUpstreamDoes,
    /// It may.
    Yes,
}

/// Reads an answer's head at the beginning of `bytes`, and writes to `out` what the client gets. The rejection's status is that of a bad gateway.
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
        // What is wrong with it is nothing that a client could change.
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
        return Err(bad("a change of protocol that nobody has asked for"));
    }
    let has_body = !(status < 200 || status == 204 || status == 304 || to.is_head);
    let framing = match (info.coding, info.length) {
        _ if !has_body => Framing::Nothing,
        // What a length says beside that does not count (RFC 9112, 6.3).
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

/// Writes the fields of an answer that are not of the connection, nor say where the body ends.
fn pass_fields(
    fields: &[Header<'_>],
    info: &MessageInfo<'_>,
    head: &ResponseHead,
    has_body: bool,
    out: &mut Vec<u8>,
) {
    for it in fields {
        let name = Name::of(it.name);
        if name.is_hop_by_hop() || !name.is_essential() && info.names(fields, it.name) {
            continue;
        }
        // What has no content has no length (RFC 9110, 8.6), and the length of what has content is written once.
        if name == Name::ContentLength
            && (info.coding.is_some() || head.status == 204 || has_body && it.value == info.length_text)
        {
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

fn name_client(out: &mut Vec<u8>, fields: &[Header<'_>], host: &[u8], policy: RequestPolicy<'_>) {
    let sent = |name: &str| policy.trusted && fields.iter().any(|it| it.name.eq_ignore_ascii_case(name));
    let added = policy.client.forwarding(host, sent);
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

/// Which worker the cookie names.
fn cookie(fields: &[Header<'_>], name: &str) -> Option<u32> {
    let lines = fields.iter().filter(|it| it.name.eq_ignore_ascii_case("cookie"));
    named_worker(lines.filter_map(|it| std::str::from_utf8(it.value).ok()), name)
}

/// Might a head end in what has come since it was read up to `from`, or be larger than `limit`?
pub(crate) fn may_be_complete(bytes: &[u8], from: usize, limit: usize) -> bool {
    let new = &bytes[from.saturating_sub(3).min(bytes.len())..];
    let ends = new.windows(2).any(|two| two == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n");
    ends || bytes.len() >= limit
}

fn has_bare_lf(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| at == 0 || bytes[at - 1] != b'\r')
}

fn too_large(bytes: &[u8]) -> Rejection {
    if memchr::memchr(b'\n', bytes).is_some() {
        HEAD_TOO_LARGE
    } else {
        TARGET_TOO_LONG
    }
}

fn rejection(error: httparse::Error, bytes: &[u8]) -> Rejection {
    match error {
        httparse::Error::TooManyHeaders => TOO_MANY,
        httparse::Error::Version if names_a_version(bytes) => UNKNOWN_VERSION,
        httparse::Error::HeaderName
        | httparse::Error::HeaderValue
        | httparse::Error::NewLine
        | httparse::Error::Status
        | httparse::Error::Token
        | httparse::Error::Version => bad("not a request"),
    }
}

/// Does the first line end with a version of HTTP?
fn names_a_version(bytes: &[u8]) -> bool {
    let line = bytes.trim_ascii_start().split(|byte| *byte == b'\n').next();
    let line = line.unwrap_or_default().trim_ascii_end();
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [_, _, last] = words[..] else { return false };
    let Some(version) = last.strip_prefix(b"HTTP/") else {
        return false;
    };
    matches!(version, [major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}
