//! The syntax of HTTP/1 requests, before anything is decided about them.

use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::rc::Rc;

use httparse::{Header, Status};

use super::head::Parsed;
use crate::access_log::Entry;
use crate::policy::fields::MAX_FIELDS;
use crate::policy::rejection::{HEAD_TOO_LARGE, Rejection, TARGET_TOO_LONG, TOO_MANY, UNKNOWN_VERSION, bad};
use crate::trace::Tracing;
use crate::trace::context::{Context, TRACEPARENT};
use crate::trace::open::{Asked, OpenSpan};

/// The fields of a head that is about to be parsed.
pub(super) type FieldRoom<'h> = [MaybeUninit<Header<'h>>; MAX_FIELDS];

pub(super) const fn field_room<'h>() -> FieldRoom<'h> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
}

/// A request whose syntax is valid.
#[derive(Clone, Copy)]
pub(super) struct RequestSyntax<'r, 'h> {
    pub(super) method: &'h str,
    pub(super) target: &'h str,
    pub(super) is_11: bool,
    pub(super) fields: &'r [Header<'h>],
}

/// Parses a request at the beginning of `bytes`, which has at most `max_head` bytes.
pub(super) fn parse_request<'r, 'h>(
    bytes: &'h [u8],
    max_head: usize,
    room: &'r mut FieldRoom<'h>,
) -> Parsed<RequestSyntax<'r, 'h>> {
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(bytes, room) {
        Ok(Status::Complete(length)) if length <= max_head => length,
        Ok(Status::Partial) if bytes.len() < max_head => return Parsed::Partial,
        Ok(_) => return Parsed::Rejected(too_large(&bytes[..max_head])),
        Err(error) => return Parsed::Rejected(rejection(error, bytes)),
    };
    if has_bare_lf(&bytes[..length]) {
        return Parsed::Rejected(bad("line does not end with CRLF"));
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Parsed::Rejected(bad("malformed request"));
    };
    let request = RequestSyntax {
        method,
        target,
        is_11: version == 1,
        fields: parsed.headers,
    };
    Parsed::Complete(length, request)
}

impl RequestSyntax<'_, '_> {
    /// The context of its trace, and its span if it is sampled.
    pub(super) fn trace(self, tracing: &Tracing, client: IpAddr) -> (Context, Option<Rc<OpenSpan>>) {
        let fields = self.fields.iter();
        let parents = fields.filter(|it| it.name.eq_ignore_ascii_case(TRACEPARENT));
        let asked = Asked {
            method: self.method,
            target: self.target,
            protocol: self.version(),
            client,
        };
        tracing.begin(parents.map(|it| it.value), asked)
    }

    fn version(self) -> &'static str {
        if self.is_11 { "1.1" } else { "1.0" }
    }

    /// The request for the access log.
    pub(super) fn entry(self) -> Entry {
        let version = self.version();
        let line = format!("{} {} HTTP/{version}", self.method, self.target);
        let authority = split_url(self.target).map(|(authority, _)| authority);
        let mut entry = Entry::new(line, authority);
        for it in self.fields {
            entry.record_field(it.name, it.value);
        }
        entry
    }
}

/// The authority of a URL, and what follows it.
pub(super) fn split_url(target: &str) -> Option<(&str, &str)> {
    let rest = ["http://", "https://"].into_iter().find_map(|scheme| {
        let (first, rest) = target.split_at_checked(scheme.len())?;
        first.eq_ignore_ascii_case(scheme).then_some(rest)
    })?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    Some(rest.split_at(end))
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
        | httparse::Error::Version => bad("malformed request"),
    }
}

/// The first line ends with a version of HTTP.
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
