//! Trailers: which fields may follow a body (RFC 9110, 6.5.1).

/// Fields that may stand only in a head. A reader that merges trailers into the head would believe them.
const OF_HEADS: [&str; 42] = [
    // Framing and connection.
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    // Routing.
    "forwarded",
    "host",
    "location",
    "x-real-ip",
    // Authentication.
    "authorization",
    "cookie",
    "proxy-authenticate",
    "proxy-authorization",
    "set-cookie",
    "www-authenticate",
    // Processing.
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
    // Format of the content.
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-location",
    "content-range",
    "content-security-policy",
    "content-type",
];

/// Prefix of the fields that the proxy adds.
const OF_PROXIES: &str = "x-forwarded-";

/// A field of this name may follow a body. Where fields become variables (CGI, WSGI), underscores are hyphens.
pub(crate) fn is_trailer(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    !name.starts_with(OF_PROXIES) && !OF_HEADS.contains(&name.as_str())
}

/// Removes forbidden fields from the lines after the last chunk, of which the last is empty.
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
