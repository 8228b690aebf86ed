//! What clients and workers send to the proxy: heads in both directions, chunks, and the PROXY protocol. What it passes on it would accept
//! itself, and takes for the same thing.

#![cfg_attr(feature = "fuzzer", no_main)]

use libfuzzer_sys::fuzz_target;
use rpm_proxy::h1::framing::{Framing, Scanner};
use rpm_proxy::h1::head::{Parsed, RequestHead, Returning, Stays, request, response};
use rpm_proxy::policy::client::Client;
use rpm_proxy::policy::request::RequestPolicy;
use rpm_proxy::proxy_protocol;

fuzz_target!(|data: &[u8]| {
    let client = Client::new([192, 0, 2, 7].into(), false).expect("a client");
    let policy = RequestPolicy {
        client: &client,
        trusted: data.len().is_multiple_of(2),
        underscores: false,
        compress: true,
        cookie: Some("worker"),
        max_head: 64 * 1024,
    };
    let mut out = Vec::new();
    if let Parsed::Complete(length, head) = request(data, policy, &mut out) {
        assert!(length <= data.len());
        let mut again = Vec::new();
        match request(&out, policy, &mut again) {
            Parsed::Complete(all, same) => {
                assert_eq!(all, out.len(), "one head, and nothing after it");
                assert_eq!((same.framing, same.is_head), (head.framing, head.is_head));
                assert_eq!(same.expects, head.expects);
            }
            // HTTP/1.0 needs no host, and what goes out is HTTP/1.1.
            Parsed::Rejected(_) if !head.is_11 => {}
            // With the fields that name the client they may be too many, or too large.
            Parsed::Rejected(rejection) if rejection.status == 431 => {}
            other => panic!("{other:?}: {}", String::from_utf8_lossy(&out)),
        }
    }
    let to = RequestHead {
        framing: Framing::Nothing,
        keep_alive: true,
        is_11: data.first().is_some_and(|byte| byte % 2 == 0),
        is_head: data.first().is_some_and(|byte| byte % 5 == 0),
        is_idempotent: true,
        upgrades: data.first().is_some_and(|byte| byte % 3 == 0),
        expects: data.first().is_some_and(|byte| byte % 7 == 0),
        compress: true,
        gzip: data.len().is_multiple_of(2),
        sticky: None,
    };
    let stays = [Stays::No, Stays::IfUpstreamDoes, Stays::Yes][data.len() % 3];
    let returning = Returning {
        stays,
        extra: b"",
        max_head: 64 * 1024,
    };
    let _ = response(data, &to, returning, &mut out);
    // In pieces of any size a body is the same.
    let mut whole = Scanner::new(Framing::Chunked);
    let (mut all, mut parts) = (Vec::new(), Vec::new());
    let read = whole.scan(data, |bytes| all.extend_from_slice(bytes));
    let mut pieces = Scanner::new(Framing::Chunked);
    let mut used = Ok(0);
    for piece in data.chunks(3) {
        match pieces.scan(piece, |bytes| parts.extend_from_slice(bytes)) {
            Ok(count) => used = used.map(|used| used + count),
            Err(error) => used = Err(error),
        }
        if used.is_err() || pieces.is_done() {
            break;
        }
    }
    assert_eq!(read, used);
    if read.is_ok() {
        assert_eq!((all, whole.is_done()), (parts, pieces.is_done()));
    }
    if let proxy_protocol::Header::Complete(length, _) = proxy_protocol::read(data) {
        assert!(length <= data.len());
    }
});

/// For checks without libFuzzer, which has a `main` of its own.
#[cfg(not(feature = "fuzzer"))]
fn main() {}
