//! The proxy's part of a request that is not system calls: heads, chunks, and the choice of a worker.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rpm_proxy::h1::framing::{Framing, Scanner};
use rpm_proxy::h1::head::{Parsed, RequestHead, Returning, Stays, request, response};
use rpm_proxy::policy::client::Client;
use rpm_proxy::policy::request::RequestPolicy;

/// As a browser sends it.
const REQUEST: &[u8] = b"GET /api/items?page=2 HTTP/1.1\r\nHost: shop.example\r\nConnection: keep-alive\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nAccept: application/json\r\n\
Accept-Language: en\r\nAccept-Encoding: gzip, br\r\nReferer: https://shop.example/\r\nCookie: session=0123456789abcdef\r\n\r\n";
/// As Node answers it.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\
Date: Thu, 26 Nov 2026 12:00:00 GMT\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n";

fn read(bytes: &[u8], client: &Client, out: &mut Vec<u8>) -> RequestHead {
    let policy = RequestPolicy {
        client,
        trusted: false,
        underscores: false,
        compress: false,
        cookie: None,
        max_head: 64 * 1024,
    };
    match request(bytes, policy, out) {
        Parsed::Complete(_, head) => head,
        other => panic!("{other:?}"),
    }
}

fn heads(c: &mut Criterion) {
    let client = Client::new([192, 0, 2, 7].into(), false).expect("a client");
    let mut out = Vec::new();
    let head = read(REQUEST, &client, &mut out);
    c.bench_function("proxy/request", |b| {
        b.iter(|| read(black_box(REQUEST), &client, &mut out));
    });
    c.bench_function("proxy/response", |b| {
        let returning = Returning {
            stays: Stays::Yes,
            extra: b"",
            max_head: 64 * 1024,
        };
        b.iter(|| response(black_box(RESPONSE), &head, returning, &mut out));
    });
}

fn chunks(c: &mut Criterion) {
    let chunk = [&b"1000\r\n"[..], &[b'x'; 4096], b"\r\n"].concat();
    let body = [chunk.repeat(16), b"0\r\n\r\n".to_vec()].concat();
    let mut group = c.benchmark_group("proxy/chunks");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("64 KiB in chunks of 4 KiB", |b| {
        b.iter(|| Scanner::new(Framing::Chunked).scan(black_box(&body), |_| ()));
    });
    group.finish();
}

criterion_group!(benches, heads, chunks);
criterion_main!(benches);
