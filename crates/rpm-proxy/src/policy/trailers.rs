//! Trailers: fields after a body, among which none may be that a message is understood by (RFC 9110, 6.5.1).

/// Whoever puts trailers among the fields of the head would take these for what the head says.
const OF_HEADS: [&str; 42] = [
    // Where the message ends, and what its connection is.
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    // Where it goes, and where it comes from.
    "forwarded",
    "host",
    "location",
    "x-real-ip",
    // Who sends it.
    "authorization",
    "cookie",
    "proxy-authenticate",
    "proxy-authorization",
    "set-cookie",
    "www-authenticate",
    // How it is processed.
    "age",
    "cache-control",
    "expect",
    "expires",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "max-forwards",
    "pragma",
    "range",
    "refresh",
    "retry-after",
    "vary",
    "warning",
    // How its content is read.
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-location",
    "content-range",
    "content-security-policy",
    "content-type",
];

/// These are ours.
const OF_PROXIES: &str = "x-forwarded-";

/// May a field of this name come after a body? Underscores are hyphens to those who make variables of fields.
pub(crate) fn is_trailer(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    !name.starts_with(OF_PROXIES) && !OF_HEADS.contains(&name.as_str())
}

/// The same of lines, of which the last is empty: the end of a chunked body.
pub(crate) fn lines(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if std::str::from_utf8(name).is_ok_and(is_trailer) {
            out.extend_from_slice(line);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_nothing_of_the_message_may_come_after_it() {
        for (name, expected) in [
            ("grpc-status", true),
            ("Server-Timing", true),
            ("Digest", true),
            ("x-sum", true),
            ("x_sum", true),
            ("Authentication-Info", true),
            ("Host", false),
            ("content_length", false),
            ("X-Forwarded-Port", false),
            ("x_forwarded_for", false),
            ("AUTHORIZATION", false),
            ("set-cookie", false),
        ] {
            assert_eq!(is_trailer(name), expected, "{name}");
        }
        assert_eq!(lines(b"A: b\r\nHost: x\r\nC:\r\n\r\n"), b"A: b\r\nC:\r\n\r\n");
        assert_eq!(lines(b"\r\n"), b"\r\n");
    }
}
