//! What it costs to change which slots are eligible, by either mechanism, and to look at a queue.

use std::hint::black_box;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use criterion::{Criterion, criterion_group, criterion_main};
use rpm_sys::{cbpf, ebpf, socket};

const SLOTS: u32 = 16;

fn group() -> Vec<OwnedFd> {
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let reserved = socket::reserve_port(any, false).expect("a port");
    let address = socket::local_addr(&reserved).expect("its number");
    let slot = |_| {
        let fd = socket::bind_tcp(address, false).expect("a slot");
        socket::listen(&fd, 128).expect("it listens");
        fd
    };
    (0..SLOTS).map(slot).collect()
}

fn updates(c: &mut Criterion) {
    let slots = group();
    let all: Vec<u32> = (0..SLOTS).collect();
    let but_one: Vec<u32> = (1..SLOTS).collect();
    match ebpf::Selector::load(1024) {
        Ok(selector) => {
            selector
                .attach(slots[0].as_fd())
                .expect("the program is attached");
            for (index, slot) in (0..).zip(&slots) {
                selector.insert(index, slot).expect("the slot is in the array");
            }
            let mut flip = false;
            c.bench_function("steering/ebpf/update", |b| {
                b.iter(|| {
                    flip = !flip;
                    selector.set_eligible(if flip { &but_one } else { &all });
                });
            });
        }
        Err(error) => eprintln!("steering/ebpf skipped: {error}"),
    }
    c.bench_function("steering/accept_queue", |b| {
        b.iter(|| {
            let _ = black_box(socket::accept_queue(&slots[0]));
        });
    });
    let classic = group();
    let mut flip = false;
    c.bench_function("steering/cbpf/update", |b| {
        b.iter(|| {
            flip = !flip;
            cbpf::attach_random(classic[0].as_fd(), if flip { &but_one } else { &all })
        });
    });
}

criterion_group!(benches, updates);
criterion_main!(benches);
