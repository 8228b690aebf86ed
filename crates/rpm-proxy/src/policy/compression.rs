//! Which responses are compressed, for clients that accept gzip (RFC 9110, 8.4 and 12.5.3).

/// Shorter bodies are not worth it, in bytes.
const SHORTEST: u64 = 1024;

/// What the fields of a response say about its content.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Content {
    is_encoded: bool,
    /// `Cache-Control: no-transform`, or a digest of the content (RFC 9530; RFC 3230; RFC 1864).
    is_fixed: bool,
    /// The first `Content-Type` is one that becomes smaller.
    is_worth: Option<bool>,
}

impl Content {
    /// Takes a field into account.
    pub(crate) fn field(&mut self, name: &str, value: &[u8]) {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let text = || std::str::from_utf8(value).unwrap_or_default();
        match name.len() {
            6 if is("digest") => self.is_fixed = true,
            11 if is("content-md5") || is("repr-digest") => self.is_fixed = true,
            14 if is("content-digest") => self.is_fixed = true,
            12 if is("content-type") => {
                self.is_worth.get_or_insert_with(|| is_worth(text()));
            }
            13 if is("cache-control") => self.is_fixed |= forbids(text()),
            16 if is("content-encoding") => self.is_encoded = true,
            _ => {}
        }
    }

    /// Compression makes the body smaller and is not forbidden. `length`: if it is known.
    pub(crate) fn is_compressible(self, status: u16, length: Option<u64>) -> bool {
        let is_short = length.is_some_and(|length| length < SHORTEST);
        // A part of a body is not a part of the compressed one.
        let is_part = status == 206;
        !is_short && !is_part && !self.is_encoded && !self.is_fixed && self.is_worth == Some(true)
    }
}

fn forbids(cache_control: &str) -> bool {
    let mut directives = cache_control.split(',').map(str::trim);
    directives.any(|directive| directive.eq_ignore_ascii_case("no-transform"))
}

/// The field says something that is not true of a compressed body. It cannot be asked for in parts: the worker would send parts of its own
/// (RFC 9110, 14.3).
pub(crate) fn is_of_plain_body(name: &str) -> bool {
    name.eq_ignore_ascii_case("accept-ranges")
}

/// The tag of a compressed body: the same content, other bytes. `None`: the tag is weak already.
pub(crate) fn weakened(tag: &[u8]) -> Option<Vec<u8>> {
    (!tag.starts_with(b"W/")).then(|| [b"W/", tag].concat())
}

/// `Accept-Encoding` allows gzip.
pub(crate) fn accepts_gzip(value: &str) -> bool {
    let mut any = None;
    for part in value.split(',') {
        let mut words = part.split(';').map(str::trim);
        let coding = words.next().unwrap_or_default();
        let weight = words.find_map(|word| word.strip_prefix("q=").or(word.strip_prefix("Q=")));
        let wanted = weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0));
        if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
            return wanted;
        }
        if coding == "*" {
            any = Some(wanted);
        }
    }
    any.unwrap_or(false)
}

/// Content of this type becomes smaller. An event stream is not compressed: its parts must come one by one.
fn is_worth(content_type: &str) -> bool {
    let kind = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if kind == "text/event-stream" {
        return false;
    }
    kind.starts_with("text/")
        || kind.ends_with("+json")
        || kind.ends_with("+xml")
        || matches!(
            kind.as_str(),
            "application/json"
                | "application/javascript"
                | "application/x-javascript"
                | "application/xml"
                | "application/wasm"
                | "application/x-ndjson"
                | "application/manifest"
                | "font/ttf"
                | "font/otf"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_say_what_they_know() {
        for (value, expected) in [
            ("gzip", true),
            ("br, gzip;q=0.5", true),
            ("deflate, GZIP", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000, *", false),
            ("*", true),
            ("*;q=0", false),
            ("identity, br", false),
            ("", false),
            ("gzip;q=x", false),
        ] {
            assert_eq!(accepts_gzip(value), expected, "{value}");
        }
    }

    #[test]
    fn what_is_worth_it() {
        for (kind, expected) in [
            ("text/html; charset=utf-8", true),
            ("Application/JSON", true),
            ("image/svg+xml", true),
            ("text/event-stream", false),
            ("image/png", false),
            ("", false),
        ] {
            assert_eq!(is_worth(kind), expected, "{kind}");
        }
    }

    #[test]
    fn what_is_compressed() {
        let text = ("Content-Type", "text/plain");
        for (fields, status, length, expected) in [
            (&[text][..], 200, None, true),
            (&[text], 200, Some(SHORTEST), true),
            (&[text], 200, Some(SHORTEST - 1), false),
            (&[text], 206, None, false),
            (&[], 200, None, false),
            (&[text, ("content-encoding", "br")], 200, None, false),
            (&[text, ("Cache-Control", "private")], 200, None, true),
            (
                &[text, ("cache-control", "private, No-Transform")],
                200,
                None,
                false,
            ),
            (
                &[
                    text,
                    ("cache-control", "private"),
                    ("cache-control", "no-transform"),
                ],
                200,
                None,
                false,
            ),
            (&[("content-type", "image/png"), text], 200, None, false),
        ] {
            let mut content = Content::default();
            for (name, value) in fields {
                content.field(name, value.as_bytes());
            }
            assert_eq!(
                content.is_compressible(status, length),
                expected,
                "{fields:?} {status} {length:?}"
            );
        }
        assert_eq!(weakened(b"\"a\""), Some(b"W/\"a\"".to_vec()));
        assert_eq!(weakened(b"W/\"a\""), None);
    }
}
