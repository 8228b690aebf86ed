//! What RFC 9113 and RFC 7541 require of a server, frame by frame, through a real proxy to a real upstream.
// tidy: long because it is one table
#![expect(clippy::too_many_lines, reason = "tables of cases")]

use std::io::Read as _;
use std::net::{Ipv4Addr, TcpStream};

use crate::frames::*;
use crate::site::{BOUND, Site, is_whole};

// What cannot be read ends the connection; for some of it hyper's `h2` tells the more general error.
const UNDECODED: [u32; 2] = [COMPRESSION_ERROR, PROTOCOL_ERROR];
const MISSIZED: [u32; 2] = [FRAME_SIZE_ERROR, PROTOCOL_ERROR];

/// What must come of it.
#[derive(Clone, Debug)]
enum Expected {
    /// The connection ends, with one of these errors.
    Ends(Vec<u32>),
    /// This stream is reset with one of these errors, or the connection ends with it.
    Reset(u32, Vec<u32>),
    /// The request of this stream is rejected, and the upstream has not seen it.
    Malformed(u32),
    /// The request of this stream is answered.
    Answered(u32),
}

fn check(site: &Site, (what, own, bytes, expected): &Case) {
    let mut client = Client::connect(site, own);
    client.send(bytes);
    match expected {
        Expected::Ends(errors) => {
            client.read_until(|seen| seen.goaway.is_some_and(|error| error != 0));
            let error = client.seen.goaway;
            let meant = error.is_some_and(|error| errors.contains(&error));
            assert!(meant, "{what}: {:?}, expected {errors:?}", client.seen);
        }
        Expected::Reset(stream, errors) => {
            client.read_until(|seen| {
                seen.resets.contains_key(stream) || seen.goaway.is_some_and(|error| error != 0)
            });
            let seen = &client.seen;
            let error = seen.resets.get(stream).copied().or(seen.goaway);
            let meant = error.is_some_and(|error| errors.contains(&error));
            assert!(meant, "{what}: {seen:?}, expected {errors:?}");
        }
        Expected::Malformed(stream) => {
            client.read_until(|seen| {
                seen.resets.contains_key(stream) || seen.complete.contains(stream) || seen.goaway.is_some()
            });
            let seen = &client.seen;
            let reset = seen.resets.get(stream).copied().or(seen.goaway);
            let refused = reset == Some(PROTOCOL_ERROR) || seen.statuses.get(stream) == Some(&BAD_REQUEST);
            assert!(refused, "{what}: {seen:?}");
            // A request after it, which nothing holds back, is the first that comes through.
            let mut next = Client::connect(site, &[]);
            next.send(&frame(
                HEADERS,
                END_STREAM | END_HEADERS,
                1,
                &get_with(&[("after", what)]),
            ));
            next.read_until(|seen| seen.complete.contains(&1));
            // Of what cannot be known to be wrong before it has come, a part may have been sent on, but not the whole.
            let mark = format!("after: {what}");
            loop {
                let come = site.upstream.seen.recv_timeout(BOUND).expect("the one after it");
                let text = String::from_utf8_lossy(&come);
                if text.contains(&mark) {
                    break;
                }
                assert!(!is_whole(&come), "{what} reached the upstream: {text}");
            }
            return;
        }
        Expected::Answered(stream) => {
            client.read_until(|seen| {
                seen.complete.contains(stream) || !seen.resets.is_empty() || seen.goaway.is_some()
            });
            assert_eq!(
                client.seen.statuses.get(stream),
                Some(&OK),
                "{what}: {:?}",
                client.seen
            );
        }
    }
    // What came through is of this case.
    drop(client);
    site.upstream.seen.try_iter().for_each(drop);
}

/// Which rule it is about, the client's settings, what it sends after them, and what must come of it.
type Case = (&'static str, Vec<(u16, u32)>, Vec<u8>, Expected);

fn case(what: &'static str, frames: &[Vec<u8>], expected: Expected) -> Case {
    (what, Vec::new(), frames.concat(), expected)
}

fn all(cases: &[Case], least: usize) {
    assert!(cases.len() >= least, "{} cases", cases.len());
    let site = Site::start();
    cases.iter().for_each(|case| check(&site, case));
}

fn ends(errors: &[u32]) -> Expected {
    Expected::Ends(errors.to_vec())
}

/// RFC 9113, 4 and 5.
#[test]
fn frames_and_streams() {
    let long = vec![0; 16_385];
    let huge = fields(&GET);
    let (start, rest) = huge.split_at(5);
    let head = |flags| frame(HEADERS, flags, 1, start);
    let cases = [
        case(
            "4.1 unknown kinds are ignored",
            &[frame(0x16, 0, 0, b"?"), get(1)],
            Expected::Answered(1),
        ),
        case(
            "4.1 unknown flags are ignored",
            &[frame(PING, 0x16, 0, &[0; 8]), get(1)],
            Expected::Answered(1),
        ),
        case(
            "4.1 the reserved bit is ignored",
            &[frame(PING, 0, 1 << 31, &[0; 8]), get(1)],
            Expected::Answered(1),
        ),
        case(
            "4.2 DATA that is too long",
            &[post(1), frame(DATA, END_STREAM, 1, &long)],
            ends(&MISSIZED),
        ),
        case(
            "4.2 HEADERS that are too long",
            &[frame(HEADERS, END_STREAM | END_HEADERS, 1, &long)],
            ends(&MISSIZED),
        ),
        case(
            "4.2 SETTINGS that are too long",
            &[frame(SETTINGS, 0, 0, &[0; 16_386])],
            ends(&MISSIZED),
        ),
        case(
            "4.2 DATA of the longest length",
            &[post(1), frame(DATA, END_STREAM, 1, &long[1..])],
            Expected::Answered(1),
        ),
        case(
            "4.3 PRIORITY within a head",
            &[
                head(END_STREAM),
                frame(PRIORITY, 0, 1, &[0; 5]),
                frame(CONTINUATION, END_HEADERS, 1, rest),
            ],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "4.3 HEADERS of another stream within a head",
            &[head(END_STREAM), get(3)],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "4.3 CONTINUATION of another stream",
            &[head(END_STREAM), frame(CONTINUATION, END_HEADERS, 3, rest)],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "4.3 PING within a head",
            &[head(END_STREAM), frame(PING, 0, 0, &[0; 8])],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "5.5 an unknown kind within a head",
            &[
                head(END_STREAM),
                frame(0x16, 0, 1, &[0; 8]),
                frame(CONTINUATION, END_HEADERS, 1, rest),
            ],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "5.1 DATA on an idle stream",
            &[frame(DATA, END_STREAM, 1, b"x")],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "5.1 RST_STREAM on an idle stream",
            &[frame(RST_STREAM, 0, 1, &[0; 4])],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "5.1 WINDOW_UPDATE on an idle stream",
            &[frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "5.1 CONTINUATION on an idle stream",
            &[frame(CONTINUATION, END_HEADERS, 1, &huge)],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "5.1 PRIORITY on an idle stream is fine",
            &[frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 7]), get(1)],
            Expected::Answered(1),
        ),
        case(
            "5.1 DATA after the end of the request",
            &[get(1), frame(DATA, END_STREAM, 1, b"x")],
            Expected::Reset(1, vec![STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        case(
            "5.1 HEADERS after the end of the request",
            &[get(1), get(1)],
            Expected::Reset(1, vec![STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        case(
            "5.1 CONTINUATION after the end of the request",
            &[get(1), frame(CONTINUATION, END_HEADERS, 1, &huge)],
            ends(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        case(
            "5.1 HEADERS after RST_STREAM",
            &[post(1), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), get(1)],
            Expected::Reset(1, vec![STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        case(
            "5.1 WINDOW_UPDATE after RST_STREAM is fine",
            &[
                post(1),
                frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
                frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
                get(3),
            ],
            Expected::Answered(3),
        ),
        case(
            "5.1 PRIORITY after RST_STREAM is fine",
            &[
                post(1),
                frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
                frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 7]),
                get(3),
            ],
            Expected::Answered(3),
        ),
        case("5.1.1 an even stream", &[get(2)], ends(&[PROTOCOL_ERROR])),
        case(
            "5.1.1 a stream with a lower number",
            &[get(5), get(3)],
            ends(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        case("5.1.1 numbers may be left out", &[get(7)], Expected::Answered(7)),
        case(
            "5.1.2 more streams than are allowed",
            &(0..300).map(|number| post(1 + 2 * number)).collect::<Vec<_>>(),
            Expected::Reset(513, vec![REFUSED_STREAM, PROTOCOL_ERROR]),
        ),
    ];
    all(&cases, 26);
}

/// RFC 9113, 6.
#[test]
fn each_kind_of_frame() {
    let longer = |kind: u8, stream: u32, payload: &[u8]| frame(kind, 0, stream, payload);
    let update = |stream: u32, by: u32| frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    let padded = [&[4][..], &fields(&GET), &[0; 4]].concat();
    let with_priority = [&[0, 0, 0, 0, 7][..], &fields(&GET)].concat();
    let block = fields(&GET);
    let whole = END_STREAM | END_HEADERS;
    let pieces = |size: usize| {
        let mut frames = vec![frame(HEADERS, END_STREAM, 1, &block[..3])];
        frames.extend(
            block[3..]
                .chunks(size)
                .map(|piece| frame(CONTINUATION, 0, 1, piece)),
        );
        frames.push(frame(CONTINUATION, END_HEADERS, 1, &[]));
        frames
    };
    let cases = [
        case(
            "6.1 DATA on stream 0",
            &[frame(DATA, END_STREAM, 0, b"x")],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.1 padding longer than DATA",
            &[post(1), frame(DATA, END_STREAM | PADDED, 1, &[9, b'x', b'x'])],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.1 padded DATA",
            &[post(1), frame(DATA, END_STREAM | PADDED, 1, &[2, b'x', 0, 0])],
            Expected::Answered(1),
        ),
        case(
            "6.1 DATA that is all padding",
            &[post(1), frame(DATA, END_STREAM | PADDED, 1, &[2, 0, 0])],
            Expected::Answered(1),
        ),
        case(
            "6.1 empty DATA",
            &[post(1), frame(DATA, 0, 1, &[]), frame(DATA, END_STREAM, 1, &[])],
            Expected::Answered(1),
        ),
        case("6.2 HEADERS on stream 0", &[get(0)], ends(&[PROTOCOL_ERROR])),
        case(
            "6.2 padding longer than HEADERS",
            &[frame(HEADERS, whole | PADDED, 1, &[200, 0x82])],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.2 padded HEADERS",
            &[frame(HEADERS, whole | PADDED, 1, &padded)],
            Expected::Answered(1),
        ),
        case(
            "6.2 HEADERS with a priority",
            &[frame(HEADERS, whole | WITH_PRIORITY, 1, &with_priority)],
            Expected::Answered(1),
        ),
        case(
            "6.2 HEADERS too short for a priority",
            &[frame(HEADERS, whole | WITH_PRIORITY, 1, &[0; 3])],
            ends(&[PROTOCOL_ERROR, FRAME_SIZE_ERROR]),
        ),
        case(
            "6.3 PRIORITY on stream 0",
            &[longer(PRIORITY, 0, &[0; 5])],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.3 PRIORITY that is too short",
            &[post(1), longer(PRIORITY, 1, &[0; 4])],
            Expected::Reset(1, MISSIZED.to_vec()),
        ),
        case(
            "6.4 RST_STREAM on stream 0",
            &[longer(RST_STREAM, 0, &[0; 4])],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.4 RST_STREAM that is too short",
            &[post(1), longer(RST_STREAM, 1, &[0; 3])],
            ends(&MISSIZED),
        ),
        case(
            "6.4 RST_STREAM that is too long",
            &[post(1), longer(RST_STREAM, 1, &[0; 5])],
            ends(&MISSIZED),
        ),
        case(
            "6.5 SETTINGS ACK with a payload",
            &[frame(SETTINGS, ACK, 0, &[0; 6])],
            ends(&MISSIZED),
        ),
        case(
            "6.5 SETTINGS on a stream",
            &[frame(SETTINGS, 0, 1, &[])],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.5 SETTINGS of another length",
            &[frame(SETTINGS, 0, 0, &[0; 5])],
            ends(&MISSIZED),
        ),
        case(
            "6.5.2 ENABLE_PUSH of 2",
            &[settings(&[(2, 2)])],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.5.2 INITIAL_WINDOW_SIZE beyond the largest window",
            &[settings(&[(4, 1 << 31)])],
            ends(&[FLOW_CONTROL_ERROR, PROTOCOL_ERROR]),
        ),
        case(
            "6.5.2 MAX_FRAME_SIZE below the least",
            &[settings(&[(5, 16_383)])],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.5.2 MAX_FRAME_SIZE beyond the most",
            &[settings(&[(5, 1 << 24)])],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.5.2 unknown settings are ignored",
            &[settings(&[(0xff, 1)]), get(1)],
            Expected::Answered(1),
        ),
        case(
            "6.5.2 no table for the proxy's fields",
            &[settings(&[(1, 0)]), get(1)],
            Expected::Answered(1),
        ),
        case(
            "6.5.3 the last of several values holds",
            &[settings(&[(4, 1), (4, 100)]), get(1)],
            Expected::Answered(1),
        ),
        case(
            "6.6 PUSH_PROMISE of a client",
            &[post(1), frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.7 PING on a stream",
            &[longer(PING, 1, &[0; 8])],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.7 PING that is too short",
            &[longer(PING, 0, &[0; 7])],
            ends(&MISSIZED),
        ),
        case(
            "6.8 GOAWAY on a stream",
            &[longer(GOAWAY, 1, &[0; 8])],
            ends(&[PROTOCOL_ERROR]),
        ),
        case("6.9 WINDOW_UPDATE of 0", &[update(0, 0)], ends(&[PROTOCOL_ERROR])),
        case(
            "6.9 WINDOW_UPDATE of 0 on a stream",
            &[post(1), update(1, 0)],
            Expected::Reset(1, vec![PROTOCOL_ERROR]),
        ),
        case(
            "6.9 WINDOW_UPDATE that is too short",
            &[longer(WINDOW_UPDATE, 0, &[0; 3])],
            ends(&MISSIZED),
        ),
        case(
            "6.9.1 a window beyond the largest",
            &[update(0, (1 << 31) - 1)],
            ends(&[FLOW_CONTROL_ERROR]),
        ),
        case(
            "6.9.1 a stream's window beyond the largest",
            &[post(1), update(1, (1 << 31) - 1)],
            Expected::Reset(1, vec![FLOW_CONTROL_ERROR]),
        ),
        case(
            "6.9.2 a setting that makes a stream's window too large",
            &[post(1), update(1, 1 << 30), settings(&[(4, (1 << 31) - 1)])],
            ends(&[FLOW_CONTROL_ERROR]),
        ),
        case("6.10 a head in many pieces", &pieces(20), Expected::Answered(1)),
        case(
            "6.10 a head in more pieces than it needs",
            &pieces(1),
            ends(&[ENHANCE_YOUR_CALM]),
        ),
        case(
            "6.10 CONTINUATION on stream 0",
            &[
                frame(HEADERS, END_STREAM, 1, &block),
                frame(CONTINUATION, END_HEADERS, 0, &[]),
            ],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.10 CONTINUATION after a head",
            &[post(1), frame(CONTINUATION, END_HEADERS, 1, &block)],
            ends(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.10 CONTINUATION after DATA",
            &[
                post(1),
                frame(DATA, 0, 1, b"x"),
                frame(CONTINUATION, END_HEADERS, 1, &block),
            ],
            ends(&[PROTOCOL_ERROR]),
        ),
    ];
    all(&cases, 38);
}

/// RFC 9113, 8: malformed requests never reach a worker.
#[test]
fn malformed_requests() {
    let whole = |block: &[u8]| frame(HEADERS, END_STREAM | END_HEADERS, 1, block);
    let without = |name: &str| {
        let kept: Vec<_> = GET.iter().filter(|(other, _)| *other != name).copied().collect();
        whole(&fields(&kept))
    };
    let odd: [(&'static str, &'static [(&str, &str)]); 19] = [
        ("8.2.1 an upper-case name", &[("X-Test", "1")]),
        ("8.2.1 a blank in a name", &[("x test", "1")]),
        ("8.2.1 a name with a line end", &[("x\ntest", "1")]),
        ("8.2.1 a colon in a name", &[("x:test", "1")]),
        ("8.2.1 an empty name", &[("", "1")]),
        ("8.2.1 a value with a line feed", &[("x-test", "1\n2")]),
        ("8.2.1 a value with a carriage return", &[("x-test", "1\r2")]),
        ("8.2.1 a value with a zero", &[("x-test", "1\x002")]),
        ("8.2.2 connection", &[("connection", "x-test")]),
        ("8.2.2 keep-alive", &[("keep-alive", "timeout=5")]),
        ("8.2.2 proxy-connection", &[("proxy-connection", "keep-alive")]),
        ("8.2.2 transfer-encoding", &[("transfer-encoding", "chunked")]),
        ("8.2.2 upgrade", &[("upgrade", "websocket")]),
        ("8.2.2 te other than trailers", &[("te", "trailers, deflate")]),
        ("8.3 an unknown pseudo field", &[(":test", "1")]),
        ("8.3 a pseudo field of answers", &[(":status", "200")]),
        ("8.3 two methods", &[(":method", "GET")]),
        ("8.3 two paths", &[(":path", "/")]),
        ("8.3 two schemes", &[(":scheme", "http")]),
    ];
    let mut cases: Vec<Case> = odd
        .into_iter()
        .map(|(what, more)| {
            let block = if what.starts_with("8.3") {
                fields(&[&GET[..], more].concat())
            } else {
                get_with(more)
            };
            case(what, &[whole(&block)], Expected::Malformed(1))
        })
        .collect();
    let late = fields(&[GET[0], GET[1], GET[2], ("x-test", "1"), GET[3]]);
    let trailers = |list: &[(&str, &str)], flags: u8| frame(HEADERS, flags | END_HEADERS, 1, &fields(list));
    // Named by a field alone.
    let host = |host: &str| whole(&fields(&[GET[0], GET[1], GET[2], ("host", host)]));
    let sized = |length: &'static str| {
        frame(
            HEADERS,
            END_HEADERS,
            1,
            &fields(&[&POST[..], &[("content-length", length)]].concat()),
        )
    };
    cases.extend([
        case(
            "8.3 a pseudo field after others",
            &[whole(&late)],
            Expected::Malformed(1),
        ),
        case("8.3.1 no method", &[without(":method")], Expected::Malformed(1)),
        case("8.3.1 no scheme", &[without(":scheme")], Expected::Malformed(1)),
        case("8.3.1 no path", &[without(":path")], Expected::Malformed(1)),
        case(
            "8.3.1 an empty path",
            &[whole(&fields(&[GET[0], GET[1], (":path", ""), GET[3]]))],
            Expected::Malformed(1),
        ),
        case(
            "8.3.1 a path with a blank",
            &[whole(&fields(&[GET[0], GET[1], (":path", "/a b"), GET[3]]))],
            Expected::Malformed(1),
        ),
        case(
            "8.3.1 a method with a blank",
            &[whole(&fields(&[(":method", "GE T"), GET[1], GET[2], GET[3]]))],
            Expected::Malformed(1),
        ),
        case(
            "8.3.1 a malformed authority",
            &[whole(&fields(&[GET[0], GET[1], GET[2], (":authority", "a b")]))],
            Expected::Malformed(1),
        ),
        case(
            "8.3.1 another host",
            &[whole(&get_with(&[("host", "y")]))],
            Expected::Malformed(1),
        ),
        case(
            "8.3.1 an authority with a user",
            &[whole(&fields(&[GET[0], GET[1], GET[2], (":authority", "u@x")]))],
            Expected::Malformed(1),
        ),
        case("8.3.1 an empty host", &[host("")], Expected::Malformed(1)),
        case(
            "8.3.1 a host with a path",
            &[host("a/b?c")],
            Expected::Malformed(1),
        ),
        case(
            "8.3.1 a host with a blank",
            &[host("a b")],
            Expected::Malformed(1),
        ),
        case("8.3.1 a host with a user", &[host("u@x")], Expected::Malformed(1)),
        case(
            "8.3.1 a host that is not ASCII",
            &[host("\u{e9}")],
            Expected::Malformed(1),
        ),
        // The worker gets the host in quotes.
        case(
            "8.3.1 a host that says who the client is",
            &[host("x\", for=203.0.113.9;proto=https;host=\"x")],
            Expected::Malformed(1),
        ),
        case(
            "9110 7.1 a target that only OPTIONS may have",
            &[whole(&fields(&[GET[0], GET[1], (":path", "*"), GET[3]]))],
            Expected::Malformed(1),
        ),
        case(
            "8.3.1 a path of UTF-8",
            &[whole(&fields(&[
                GET[0],
                GET[1],
                (":path", "/\u{e9}?\u{e9}"),
                GET[3],
            ]))],
            Expected::Answered(1),
        ),
        case(
            "8.3.1 a path that is no text",
            &[whole(
                &[&fields(&[GET[0], GET[1], GET[3]])[..], b"\0\x05:path\x02/\xe9"].concat(),
            )],
            Expected::Malformed(1),
        ),
        case(
            "8.3.1 neither authority nor host",
            &[without(":authority")],
            Expected::Malformed(1),
        ),
        case(
            "8.1.1 more than its content-length",
            &[sized("1"), frame(DATA, END_STREAM, 1, b"xx")],
            Expected::Malformed(1),
        ),
        case(
            "8.1.1 less than its content-length",
            &[sized("3"), frame(DATA, END_STREAM, 1, b"xx")],
            Expected::Malformed(1),
        ),
        case(
            "8.1.1 two lengths",
            &[whole(&get_with(&[
                ("content-length", "1"),
                ("content-length", "2"),
            ]))],
            Expected::Malformed(1),
        ),
        case(
            "8.1.1 a length that is no number",
            &[whole(&get_with(&[("content-length", "x")]))],
            Expected::Malformed(1),
        ),
        case(
            "8.1 trailers that do not end the request",
            &[post(1), frame(DATA, 0, 1, b"x"), trailers(&[("x-test", "1")], 0)],
            Expected::Malformed(1),
        ),
    ]);
    all(&cases, 44);
}

/// RFC 7541.
#[test]
fn fields_that_cannot_be_decoded() {
    let whole = |bytes: &[u8]| frame(HEADERS, END_STREAM | END_HEADERS, 1, bytes);
    let after = |bytes: &[u8]| whole(&[&fields(&GET), bytes].concat());
    let cases = [
        case(
            "2.3.3 an index beyond both tables",
            &[after(&[0xff, 0x50])],
            ends(&UNDECODED),
        ),
        case("6.1 index 0", &[after(&[0x80])], ends(&UNDECODED)),
        case(
            "2.3.3 a name's index beyond both tables",
            &[after(&[0x7f, 0x50, 1, b'x'])],
            ends(&UNDECODED),
        ),
        case(
            "4.2 a new table size after a field",
            &[after(&[0x20])],
            ends(&UNDECODED),
        ),
        case(
            "6.3 a table larger than was allowed",
            &[whole(&[&[0x3f, 0xe2, 0x7f][..], &fields(&GET)].concat())],
            ends(&UNDECODED),
        ),
        case(
            "6.3 a smaller table",
            &[whole(&[&[0x20][..], &fields(&GET)].concat())],
            Expected::Answered(1),
        ),
        case(
            "5.2 Huffman padding of more than seven bits",
            &[after(&[
                0, 0x85, 0xf2, 0xb2, 0x4a, 0x84, 0xff, 0x84, 0x49, 0x50, 0x9f, 0xff,
            ])],
            ends(&UNDECODED),
        ),
        case(
            "5.2 Huffman padding by zeros",
            &[after(&[
                0, 0x85, 0xf2, 0xb2, 0x4a, 0x84, 0xff, 0x83, 0x49, 0x50, 0x90,
            ])],
            ends(&UNDECODED),
        ),
        case(
            "5.2 the end of a string in a Huffman string",
            &[after(&[
                0, 0x85, 0xf2, 0xb2, 0x4a, 0x84, 0xff, 0x87, 0x49, 0x51, 0xff, 0xff, 0xff, 0xfa, 0x7f,
            ])],
            ends(&UNDECODED),
        ),
        case(
            "5.1 a length without an end",
            &[after(&[
                0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
            ])],
            ends(&UNDECODED),
        ),
        case(
            "a field that is cut off",
            &[after(&[0, 5, b'x'])],
            ends(&UNDECODED),
        ),
        case(
            "indexed fields",
            &[whole(&[0x82, 0x86, 0x84, 0x41, 1, b'x'])],
            Expected::Answered(1),
        ),
        case(
            "fields that are never to be indexed",
            &[whole(&[0x82, 0x86, 0x84, 0x11, 1, b'x'])],
            Expected::Answered(1),
        ),
    ];
    all(&cases, 13);
}

#[test]
fn the_preface_comes_first() {
    let site = Site::start();
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\n\r\n\r\n\r\n",
    ] {
        let mut client = Client {
            stream: TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens"),
            come: Vec::new(),
            seen: Seen::default(),
        };
        client.stream.set_read_timeout(Some(BOUND)).expect("a deadline");
        client.send(bytes);
        let mut all = Vec::new();
        let _ = client.stream.read_to_end(&mut all);
        assert!(
            !all.windows(3).any(|three| three == b"200"),
            "{}",
            String::from_utf8_lossy(&all)
        );
    }
    assert!(
        site.upstream.seen.try_recv().is_err(),
        "nothing reached the upstream"
    );
}

#[test]
fn settings_and_pings_are_acknowledged() {
    let site = Site::start();
    let mut client = Client::connect(&site, &[]);
    client.send(&settings(&[(3, 10)]));
    client.send(&frame(PING, ACK, 0, b"notmine!"));
    client.send(&frame(PING, 0, 0, b"answerme"));
    client.read_until(|seen| seen.settings_acks == 2 && !seen.pongs.is_empty());
    assert_eq!(client.seen.pongs, [b"answerme".to_vec()]);
}

/// RFC 9113, 6.9: nothing is sent that there is no window for.
#[test]
fn windows_are_kept_to() {
    let site = Site::start();
    // The answer has two bytes.
    let mut client = Client::connect(&site, &[(4, 1)]);
    client.send(&get(1));
    client.read_until(|seen| !seen.data.is_empty());
    client.send(&frame(PING, 0, 0, b"whatelse"));
    client.read_until(|seen| !seen.pongs.is_empty());
    assert_eq!(client.seen.data, [(1, 1)], "one byte, and no more");
    // A window below zero takes two to become one.
    client.send(&settings(&[(4, 0)]));
    client.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]));
    client.send(&frame(PING, 0, 0, b"nothing!"));
    client.read_until(|seen| seen.pongs.len() == 2);
    assert_eq!(client.seen.data, [(1, 1)], "the window is 0");
    client.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]));
    client.read_until(|seen| seen.complete.contains(&1));
    assert_eq!(
        client.seen.data.iter().map(|(_, length)| length).sum::<usize>(),
        2
    );
}

/// What an HTTP/1.1 upstream gets of an HTTP/2 request.
#[test]
fn requests_are_passed_on_as_they_are_meant() {
    let site = Site::start();
    let more = [
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("te", "trailers"),
        ("x-test", "  1 "),
    ];
    let mut client = Client::connect(&site, &[]);
    client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get_with(&more)));
    client.read_until(|seen| seen.complete.contains(&1));
    let seen = site.upstream.seen.recv_timeout(BOUND).expect("it came through");
    let seen = String::from_utf8_lossy(&seen).to_lowercase();
    for expected in ["get / http/1.1\r\n", "host: x\r\n", "cookie: a=1; b=2\r\n"] {
        assert!(seen.contains(expected), "{expected:?} in\n{seen}");
    }
    assert_eq!(seen.matches("cookie:").count(), 1, "{seen}");
    assert!(
        !seen.contains("content-length") && !seen.contains("transfer-encoding"),
        "{seen}"
    );
}

#[test]
fn a_length_that_is_said_twice_is_passed_on_once() {
    let site = Site::start();
    let mut client = Client::connect(&site, &[]);
    let twice = [("content-length", "1"), ("content-length", "1")];
    let block = fields(&[&POST[..], &twice].concat());
    client.send(&frame(HEADERS, END_HEADERS, 1, &block));
    client.send(&frame(DATA, END_STREAM, 1, b"x"));
    client.read_until(|seen| seen.complete.contains(&1) || !seen.resets.is_empty());
    let seen = site.upstream.seen.recv_timeout(BOUND).expect("it came through");
    let seen = String::from_utf8_lossy(&seen).to_lowercase();
    assert_eq!(seen.matches("content-length: 1\r\n").count(), 1, "{seen}");
}

/// Whatever the method is: a body without a length is one.
#[test]
fn a_body_of_unknown_length_is_passed_on() {
    let site = Site::start();
    for method in ["GET", "DELETE", "OPTIONS", "POST", "SEARCH"] {
        let mut client = Client::connect(&site, &[]);
        let head = fields(&[(":method", method), POST[1], POST[2], POST[3]]);
        client.send(&frame(HEADERS, END_HEADERS, 1, &head));
        client.send(&frame(DATA, END_STREAM, 1, b"body"));
        client.read_until(|seen| seen.complete.contains(&1) || !seen.resets.is_empty());
        let seen = site.upstream.seen.recv_timeout(BOUND).expect("it came through");
        let seen = String::from_utf8_lossy(&seen).to_lowercase();
        assert!(
            seen.contains("transfer-encoding: chunked\r\n"),
            "{method}: {seen}"
        );
        assert!(
            seen.ends_with("\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
            "{method}: {seen}"
        );
    }
}

/// RFC 9110, 6.5.1; and where fields become variables, those with underscores are ours.
#[test]
fn fields_that_pass_for_others_are_dropped() {
    let site = Site::start();
    let mut client = Client::connect(&site, &[]);
    let more = [
        ("x_forwarded_for", "9.9.9.9"),
        ("x_forwarded-proto", "9.9.9.9"),
        ("content_length", "9.9.9.9"),
        ("x_own", "a"),
        ("trailer", "authorization, host, x_forwarded_for, x"),
    ];
    client.send(&frame(
        HEADERS,
        END_HEADERS,
        1,
        &fields(&[&POST[..], &more].concat()),
    ));
    client.send(&frame(DATA, 0, 1, b"x"));
    let trailers = fields(&[
        ("authorization", "9.9.9.9"),
        ("host", "9.9.9.9"),
        ("x_forwarded_for", "9.9.9.9"),
        ("x", "y"),
    ]);
    client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &trailers));
    client.read_until(|seen| seen.complete.contains(&1) || !seen.resets.is_empty());
    let seen = site.upstream.seen.recv_timeout(BOUND).expect("it came through");
    let seen = String::from_utf8_lossy(&seen).to_lowercase();
    assert!(!seen.contains("9.9.9.9"), "{seen}");
    assert!(
        seen.contains("x_own: a\r\n") && seen.ends_with("0\r\nx: y\r\n\r\n"),
        "{seen}"
    );
}

/// RFC 9113, 8.1: trailers have no pseudo-fields. `h2` drops them silently.
#[test]
fn pseudo_fields_in_trailers_go_nowhere() {
    let site = Site::start();
    let mut client = Client::connect(&site, &[]);
    client.send(&post(1));
    client.send(&frame(DATA, 0, 1, b"x"));
    let trailers = fields(&[(":method", "DELETE")]);
    client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &trailers));
    client.read_until(|seen| seen.complete.contains(&1) || !seen.resets.is_empty());
    let seen = site.upstream.seen.recv_timeout(BOUND).expect("it came through");
    let seen = String::from_utf8_lossy(&seen).to_lowercase();
    assert!(!seen.contains("delete"), "{seen}");
}

#[test]
fn a_client_has_as_many_streams_as_it_may() {
    let site = Site::with(rpm_proxy::Settings {
        max_streams: 2,
        ..rpm_proxy::Settings::default()
    });
    let mut client = Client::connect(&site, &[]);
    client.send(&[post(1), post(3), post(5)].concat());
    client.read_until(|seen| !seen.resets.is_empty() || seen.goaway.is_some());
    let refused = client.seen.resets.get(&5).copied().or(client.seen.goaway);
    assert!(
        matches!(refused, Some(REFUSED_STREAM | PROTOCOL_ERROR)),
        "{:?}",
        client.seen
    );
}
