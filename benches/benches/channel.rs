//! The IPC channel's codec: what a worker's start and each of its messages cost.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rpm_wire::channel::{self, Decoder, Handle, ServerReply};

const QUERY: &str = concat!(
    r#"{"cmd":"NODE_CLUSTER","act":"queryServer","address":null,"port":3000,"addressType":4,"fd":null,"#,
    r#""flags":0,"index":0,"data":null,"seq":2}"#,
    "\n"
);
const USER: &str = "{\"type\":\"process:msg\",\"data\":{\"requests\":12345,\"p99\":4.5}}\n";

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("channel/decode");
    for (name, line) in [("query_server", QUERY), ("user_message", USER)] {
        group.throughput(Throughput::Bytes(line.len() as u64));
        group.bench_function(name, |b| {
            let mut decoder = Decoder::new();
            b.iter(|| {
                decoder.feed(black_box(line.as_bytes()));
                decoder.next()
            });
        });
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    c.bench_function("channel/encode/reply_server", |b| {
        b.iter(|| {
            channel::reply_server(
                black_box(2),
                "null:3000:4:null:0",
                ServerReply::Lend(Handle::Stream),
                None,
            )
        });
    });
    c.bench_function("channel/encode/newconn", |b| {
        b.iter(|| channel::newconn(black_box(7), "null:3000:4:null:0"));
    });
}

criterion_group!(benches, decode, encode);
criterion_main!(benches);
