//! A step of the core with 1,000 workers: queue samples (200 per second and slot under traffic), a crash
//! with its replacement, and a time-out.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use rpm_core::protocol::{AppConfig, Command, Exit, Input, Output, Readiness, RestartPolicy};
use rpm_core::{AppId, Core, GroupId, SlotId, Tick, Ticket, WorkerId};

/// Two apps of the largest size.
const APPS: u32 = 2;
const WORKERS: u32 = 500;

fn at(ms: u64) -> Tick {
    Tick(Duration::from_millis(ms))
}

/// A core whose workers are all online, each with a slot.
fn running() -> Core {
    let mut core = Core::new(1);
    for app in 0..APPS {
        let config = AppConfig {
            instances: WORKERS,
            readiness: Readiness::Listens,
            policy: RestartPolicy::default(),
            ..AppConfig::default()
        };
        let command = Command::Start {
            app: AppId(app),
            config,
        };
        core.handle(
            Input::Command {
                ticket: Ticket(u64::from(app)),
                command,
            },
            at(0),
        );
    }
    for (slot, (worker, app)) in (0..).zip(drain(&mut core)) {
        core.handle(Input::Spawned { worker }, at(1));
        core.handle(
            Input::SlotHeld {
                slot: SlotId(slot),
                group: GroupId(app.0),
                worker,
                fixed: true,
            },
            at(2),
        );
        core.handle(Input::Listening { worker }, at(3));
    }
    drain(&mut core);
    core
}

/// Empties the outputs; returns the workers that are to be spawned.
fn drain(core: &mut Core) -> Vec<(WorkerId, AppId)> {
    let mut spawned = Vec::new();
    while let Some(output) = core.poll_output() {
        if let Output::Spawn { worker, app, .. } = output {
            spawned.push((worker, app));
        }
    }
    spawned
}

fn steps(c: &mut Criterion) {
    let mut core = running();
    let mut now = 10_000;
    c.bench_function("core/queue_sample/empty", |b| {
        b.iter(|| {
            now += 1;
            core.handle(
                Input::Queue {
                    slot: SlotId(black_box(17)),
                    len: 0,
                },
                at(now),
            );
            drain(&mut core)
        });
    });
    c.bench_function("core/queue_sample/busy", |b| {
        let mut len = 0;
        b.iter(|| {
            now += 1;
            len = (len + 1) % 3;
            core.handle(
                Input::Queue {
                    slot: SlotId(black_box(17)),
                    len,
                },
                at(now),
            );
            drain(&mut core)
        });
    });
    c.bench_function("core/poll_timeout", |b| {
        b.iter(|| {
            black_box(black_box(&core).poll_timeout());
        });
    });
    let mut worker = WorkerId(17);
    c.bench_function("core/crash_and_replace", |b| {
        b.iter(|| {
            now += 5_000;
            core.handle(
                Input::Exited {
                    worker,
                    exit: Exit::Signal(9),
                },
                at(now),
            );
            core.handle_timeout(at(now));
            for (next, _) in drain(&mut core) {
                worker = next;
                core.handle(Input::Spawned { worker }, at(now));
                core.handle(
                    Input::SlotHeld {
                        slot: SlotId(16),
                        group: GroupId(0),
                        worker,
                        fixed: true,
                    },
                    at(now + 1),
                );
                core.handle(Input::Listening { worker }, at(now + 2));
            }
            drain(&mut core)
        });
    });
    assert!(worker.0 > 2_000, "each step replaced a worker: {worker}");
}

criterion_group!(benches, steps);
criterion_main!(benches);
