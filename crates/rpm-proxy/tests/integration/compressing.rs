//! Responses that are compressed: what their fields say of the content still holds.

use hyper::HeaderMap;
use rpm_proxy::Settings;

use crate::answers::{Has, by_http1_with, by_http2_with};
use crate::site::Site;

/// The fields of a response, over both versions of HTTP, as lines in lower case.
fn heads(site: &Site, path: &str, asked: &[(&str, &str)]) -> [String; 2] {
    let (has, by_http1) = by_http1_with(site, path, asked);
    assert!(matches!(has, Has::Answer(200, _)), "{has:?}");
    let (has, by_http2) = by_http2_with(site, path, asked);
    assert!(matches!(has, Has::Answer(200, _)), "{has:?}");
    let lines = |map: &HeaderMap| -> String {
        let line = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
            format!("\r\n{name}: {}", value.to_str().expect("text"))
        };
        map.iter().map(line).collect()
    };
    [by_http1.to_lowercase(), lines(&by_http2)]
}

#[test]
fn what_a_response_says_of_its_bytes_holds_for_those_that_are_sent() {
    let site = Site::with(Settings {
        retries: 0,
        compress: true,
        ..Settings::default()
    });
    for (more, is_compressible) in [
        ("", true),
        ("etag: \"a\"\r\n", true),
        ("content-digest: sha-256=:aa==:\r\n", false),
        ("repr-digest: sha-256=:aa==:\r\n", false),
        ("content-md5: aa==\r\n", false),
        ("digest: sha-256=aa==\r\n", false),
    ] {
        let body = "x".repeat(2000);
        let path = site.upstream.says(
            format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\naccept-ranges: bytes\r\n{more}content-length: 2000\r\n\r\n{body}")
                .as_bytes(),
        );
        for accepts in [false, true] {
            let asked: &[(&str, &str)] = if accepts {
                &[("accept-encoding", "gzip")]
            } else {
                &[]
            };
            for head in heads(&site, &path, asked) {
                let has = |line: &str| head.contains(line);
                let is_compressed = accepts && is_compressible;
                assert_eq!(has("\r\ncontent-encoding: gzip"), is_compressed, "{more}{head}");
                // A part of the compressed body cannot be asked for.
                assert_eq!(has("\r\naccept-ranges: bytes"), !is_compressed, "{more}{head}");
                assert!(has(more.trim_end().trim_end_matches("\"a\"")), "{head}");
            }
        }
    }
}
