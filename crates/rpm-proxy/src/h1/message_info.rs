//! What the fields of a message say about its body and its connection.

use httparse::Header;

use super::framing::Framing;
use crate::policy::compression::accepts_gzip;
use crate::policy::fields::{Name, words};
use crate::policy::rejection::{NO_HOST, Rejection, UNEXPECTED, UNKNOWN_CODING, bad};
use crate::policy::request::is_host;

/// The transfer codings of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// `chunked` alone.
    Chunked,
    /// Others, and `chunked` at the end.
    Others,
    /// Anything else: where the body ends is unknown.
    Unclear,
}

impl Coding {
    pub(super) fn framing(self) -> Result<Framing, Rejection> {
        match self {
            Coding::Chunked => Ok(Framing::Chunked),
            Coding::Others => Err(UNKNOWN_CODING),
            Coding::Unclear => Err(bad("Transfer-Encoding does not end with chunked")),
        }
    }
}

/// What the fields say about the message and its connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MessageInfo<'h> {
    pub(super) hosts: u32,
    pub(super) host: Option<&'h [u8]>,
    pub(super) length: Option<u64>,
    pub(super) length_text: &'h [u8],
    pub(super) coding: Option<Coding>,
    pub(super) upgrade: Option<&'h [u8]>,
    pub(super) upgrades: bool,
    pub(super) closes: bool,
    pub(super) keeps: bool,
    /// `Connection` names fields that would be passed on otherwise.
    pub(super) names_others: bool,
    pub(super) trailers: bool,
    /// `100-continue`.
    pub(super) expects: bool,
    pub(super) expects_other: bool,
    /// The client accepts gzip.
    pub(super) gzip: bool,
}

impl<'h> MessageInfo<'h> {
    pub(super) fn of(fields: &[Header<'h>]) -> Result<MessageInfo<'h>, Rejection> {
        let mut info = MessageInfo::default();
        for it in fields {
            match Name::of(it.name) {
                Name::Host => {
                    info.hosts += 1;
                    info.host = Some(it.value);
                }
                Name::ContentLength => info.length(it.value)?,
                Name::TransferEncoding => info.coding(it.value),
                Name::Connection => info.connection(it.value),
                Name::Upgrade if info.upgrade.is_none() => info.upgrade = Some(it.value),
                // Two lines: it is not clear which one counts.
                Name::Upgrade => info.upgrade = Some(b""),
                Name::Te => {
                    info.trailers |= words(it.value).any(|word| word.eq_ignore_ascii_case(b"trailers"));
                }
                Name::Expect if it.value.eq_ignore_ascii_case(b"100-continue") => info.expects = true,
                Name::Expect => info.expects_other = true,
                Name::AcceptEncoding => info.gzip |= std::str::from_utf8(it.value).is_ok_and(accepts_gzip),
                Name::Cookie | Name::Forwarded | Name::Hop | Name::Other => {}
            }
        }
        // An upgrade to HTTP/2 would be a protocol that this codec does not speak.
        let upgrade = info.upgrade.unwrap_or_default();
        info.upgrades &= !upgrade.is_empty() && !words(upgrade).any(|word| word.eq_ignore_ascii_case(b"h2c"));
        Ok(info)
    }

    /// The host of a request. The request line takes precedence.
    pub(super) fn host_of(
        &self,
        authority: Option<&'h str>,
        is_11: bool,
    ) -> Result<Option<&'h [u8]>, Rejection> {
        if self.hosts > 1 {
            return Err(bad("more than one Host header"));
        }
        if self.hosts == 0 && is_11 {
            return Err(bad("missing Host header"));
        }
        // RFC 9112, 3.2.2.
        let host = authority.map(str::as_bytes).or(self.host);
        if host.is_some_and(|host| !is_host(host)) {
            return Err(NO_HOST);
        }
        Ok(host)
    }

    pub(super) fn request_framing(&self, is_11: bool) -> Result<Framing, Rejection> {
        if self.expects_other {
            return Err(UNEXPECTED);
        }
        match (self.coding, self.length) {
            (Some(_), Some(_)) => Err(bad("both Transfer-Encoding and Content-Length")),
            (Some(_), None) if !is_11 => Err(bad("Transfer-Encoding in HTTP/1.0")),
            (Some(coding), None) => coding.framing(),
            (None, Some(length)) => Ok(Framing::Length(length)),
            (None, None) => Ok(Framing::Nothing),
        }
    }

    fn length(&mut self, text: &'h [u8]) -> Result<(), Rejection> {
        let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        let number = number.filter(|_| digits).ok_or(bad("malformed Content-Length"))?;
        if self.length.is_some_and(|other| other != number) {
            return Err(bad("more than one Content-Length"));
        }
        self.length = Some(number);
        if self.length_text.is_empty() {
            self.length_text = text;
        } else if self.length_text != text {
            return Err(bad("more than one Content-Length"));
        }
        Ok(())
    }

    fn coding(&mut self, value: &[u8]) {
        for word in words(value) {
            let chunked = word.eq_ignore_ascii_case(b"chunked");
            self.coding = Some(match (self.coding, chunked) {
                (None, true) => Coding::Chunked,
                (None | Some(Coding::Unclear), false) => Coding::Unclear,
                // The last one marks the end.
                (Some(Coding::Unclear), true) => Coding::Others,
                // Chunked twice, or something after it.
                (Some(Coding::Chunked | Coding::Others), _) => Coding::Unclear,
            });
        }
        self.coding = self.coding.or(Some(Coding::Unclear));
    }

    fn connection(&mut self, value: &[u8]) {
        for word in words(value) {
            let is = |other: &[u8]| word.eq_ignore_ascii_case(other);
            match word.len() {
                5 if is(b"close") => self.closes = true,
                10 if is(b"keep-alive") => self.keeps = true,
                7 if is(b"upgrade") => self.upgrades = true,
                _ => self.names_others = true,
            }
        }
    }

    /// `Connection` names this field.
    pub(super) fn names(&self, fields: &[Header<'_>], name: &str) -> bool {
        self.names_others
            && fields
                .iter()
                .filter(|it| Name::of(it.name) == Name::Connection)
                .flat_map(|it| words(it.value))
                .any(|word| word.eq_ignore_ascii_case(name.as_bytes()))
    }
}
