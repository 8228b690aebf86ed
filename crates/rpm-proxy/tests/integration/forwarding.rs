//! The head that a worker gets: the same fields for the same request, over both versions of HTTP.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};

use rpm_proxy::Settings;

use crate::frames::*;
use crate::site::{BOUND, Site};

/// The fields that the worker was sent, in lower case and sorted.
fn sent_to_worker(site: &Site) -> Vec<String> {
    let seen = site.upstream.seen.recv_timeout(BOUND).expect("it came through");
    let text = String::from_utf8_lossy(&seen).to_lowercase();
    let (head, _) = text.split_once("\r\n\r\n").expect("a head");
    let mut lines: Vec<String> = head.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

fn by_http1(site: &Site, more: &[(&str, &str)]) -> Vec<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens");
    stream.set_read_timeout(Some(BOUND)).expect("a deadline");
    let lines: String = more
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let request = format!("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{lines}\r\n");
    stream.write_all(request.as_bytes()).expect("it is sent");
    let _ = stream.read_to_end(&mut Vec::new());
    sent_to_worker(site)
}

fn by_http2(site: &Site, more: &[(&str, &str)]) -> Vec<String> {
    let mut client = Client::connect(site, &[]);
    client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get_with(more)));
    client.read_until(|seen| seen.complete.contains(&1) || !seen.resets.is_empty());
    sent_to_worker(site)
}

#[test]
fn a_worker_gets_the_same_fields_over_both_versions() {
    let forwarded = [
        ("x-forwarded-for", "9.9.9.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "y"),
        ("forwarded", "for=9.9.9.9"),
        ("x_forwarded_for", "8.8.8.8"),
        // These the proxy does not send. Applications believe them all the same.
        ("x-forwarded-port", "9"),
        ("x-forwarded-prefix", "/9"),
        ("x-forwarded-ssl", "on9"),
        ("x-forwarded-scheme", "https9"),
        ("x-forwarded-client-cert-chain", "9"),
        ("x-real-ip", "9.9.9.9"),
        ("x_forwarded_prefix", "/8"),
        ("x_real_ip", "8.8.8.8"),
    ];
    let others = [
        ("accept", "*/*"),
        ("te", "trailers"),
        ("http2-settings", "A"),
        ("cookie", "a=1"),
        ("x_own", "1"),
        ("x-twice", "1"),
        ("x-twice", "2"),
        ("trailer", "x"),
        ("priority", "u=1"),
    ];
    for trusted in [false, true] {
        for underscores in [false, true] {
            for fields in [&[][..], &forwarded, &others, &[&forwarded[..], &others].concat()] {
                let network = "127.0.0.0/8".parse().expect("a network");
                let site = Site::with(Settings {
                    trust_forwarded: if trusted { vec![network] } else { Vec::new() },
                    allow_underscores: underscores,
                    ..Settings::default()
                });
                let (one, two) = (by_http1(&site, fields), by_http2(&site, fields));
                assert_eq!(one, two, "trusted: {trusted}, underscores: {underscores}");
                let has = |line: &str| one.iter().any(|it| it == line);
                let names_client = fields.contains(&forwarded[0]);
                assert_eq!(
                    has("x-forwarded-for: 9.9.9.9"),
                    names_client && trusted,
                    "{one:#?}"
                );
                let claims = |digit: char| {
                    let of_proxies = |line: &&String| line.starts_with("x-") && line.contains(digit);
                    one.iter().filter(of_proxies).count()
                };
                assert_eq!(
                    claims('9'),
                    if names_client && trusted { 7 } else { 0 },
                    "{one:#?}"
                );
                assert!(has("x-forwarded-for: 127.0.0.1"), "{one:#?}");
                for line in [
                    "x_forwarded_for: 8.8.8.8",
                    "x_forwarded_prefix: /8",
                    "x_real_ip: 8.8.8.8",
                ] {
                    assert_eq!(has(line), names_client && underscores, "{line}: {one:#?}");
                }
            }
        }
    }
}

/// A field that is dropped because the client calls it one of its connection (RFC 9110, 7.6.1) was not passed on: the proxy sends its own.
#[test]
fn a_forwarding_field_of_the_connection_is_replaced_by_the_proxys() {
    let network = "127.0.0.0/8".parse().expect("a network");
    let site = Site::with(Settings {
        trust_forwarded: vec![network],
        ..Settings::default()
    });
    let sent = by_http1(
        &site,
        &[
            ("connection", "X-Forwarded-Proto, x-forwarded-host"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "y"),
        ],
    );
    for line in ["x-forwarded-proto: http", "x-forwarded-host: x"] {
        assert_eq!(
            sent.iter().filter(|it| *it == line).count(),
            1,
            "{line}: {sent:#?}"
        );
    }
    assert!(
        !sent.iter().any(|it| it.contains("https") || it.ends_with(" y")),
        "{sent:#?}"
    );
}
