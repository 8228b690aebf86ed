//! Trailers: which fields may follow a body (RFC 9110, 6.5.1).
//!
//! Fields are refused by name, not allowed by name. RFC 9110 asks that a sender uses a field in trailers only if its definition permits
//! that, but most fields that are sent there have no definition: gRPC sends the metadata of an application (any name), and so do checksums
//! of object stores. To drop an unknown field changes the meaning of a call that was answered well. To pass it on gives its sender nothing:
//! where a reader merges trailers into the head, it could have sent the same field in the head. This is different for what the proxy itself
//! decides by, sets or removes in a head, for what a head alone may say, and for what other intermediaries set for the application.

/// Fields that may stand only in a head. A reader that merges trailers into the head would believe them.
const OF_HEADS: &[&str] = &[
    // Framing and connection.
    "connection",
    "early-data",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    // Routing, and who the client is.
    "cf-connecting-ip",
    "forwarded",
    "host",
    "location",
    "origin",
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
    // The method.
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    // Authentication.
    "authorization",
    "cookie",
    "set-cookie",
    "www-authenticate",
    // Processing.
    "accept",
    "age",
    "alt-svc",
    "cache-control",
    "clear-site-data",
    "date",
    "expect",
    "expires",
    "max-forwards",
    "pragma",
    "range",
    "refresh",
    "retry-after",
    "traceparent",
    "tracestate",
    "vary",
    "warning",
    // What browsers may do with the content.
    "permissions-policy",
    "referrer-policy",
    "strict-transport-security",
    "x-content-type-options",
    "x-frame-options",
];

/// Families of such fields: conditions, negotiation, format of the content, and what proxies and browsers add.
const FAMILIES: &[&str] = &[
    "accept-",
    "access-control-",
    "content-",
    "cross-origin-",
    "if-",
    "proxy-",
    "sec-",
    "x-accel-",
    "x-forwarded-",
];

/// Sums of the content, which can be known only at its end.
const SUMS: &[&str] = &["content-digest", "content-md5"];

/// A field of this name may follow a body. Where fields become variables (CGI, WSGI), underscores are hyphens.
pub(crate) fn is_trailer(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    let is_of_heads = OF_HEADS.contains(&name.as_str()) || FAMILIES.iter().any(|it| name.starts_with(it));
    !is_of_heads || SUMS.contains(&name.as_str())
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
        let pass = "grpc-status grpc-message grpc-status-details-bin my-metadata-bin x-request-id Server-Timing Digest \
                    Repr-Digest Content-Digest content-md5 Signature Signature-Input ETag Last-Modified x-sum x_sum \
                    x-amz-checksum-crc32 x-amz-trailer-signature Authentication-Info traceresponse";
        let dropped = "Host content-length content_length Transfer-Encoding te connection Keep-Alive Trailer Upgrade \
                       X-Forwarded-Port x_forwarded_for Forwarded X-Real-IP Via True-Client-IP X-Original-URL x_rewrite_url \
                       X-HTTP-Method-Override AUTHORIZATION Proxy-Authorization set-cookie Cookie If-None-Match if_range \
                       Accept-Encoding Accept Content-Type Content-Encoding Content-Security-Policy Access-Control-Allow-Origin \
                       Sec-Fetch-Site Sec-WebSocket-Key Cache-Control Date Vary Location traceparent X-Accel-Redirect \
                       Strict-Transport-Security Cross-Origin-Opener-Policy Expect Range Early-Data";
        for (names, expected) in [(pass, true), (dropped, false)] {
            for name in names.split_whitespace() {
                assert_eq!(is_trailer(name), expected, "{name}");
            }
        }
        assert_eq!(lines(b"A: b\r\nHost: x\r\nC:\r\n\r\n"), b"A: b\r\nC:\r\n\r\n");
        assert_eq!(lines(b"\r\n"), b"\r\n");
    }
}
