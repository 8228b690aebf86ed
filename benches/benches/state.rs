//! Writing and reading what a daemon leaves for the next one, with 1,000 workers: the loop does nothing else meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rpm_core::protocol::{AppConfig, Command, Input, Output};
use rpm_core::{AppId, Core, GroupId, SlotId, Tick, Ticket, WorkerId};
use rpm_state::{FORMAT, Group, Listeners, Logs, Nanos, Policy, Process, Slot, Socket, State, Table, Tokens};

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
            ..AppConfig::default()
        };
        let (ticket, app) = (Ticket(u64::from(app)), AppId(app));
        let command = Command::Start { app, config };
        core.handle(Input::Command { ticket, command }, at(0));
    }
    let mut spawned = Vec::new();
    while let Some(output) = core.poll_output() {
        if let Output::Spawn { worker, app, .. } = output {
            spawned.push((worker, app));
        }
    }
    for (slot, (worker, app)) in (0..).zip(spawned) {
        let (slot, group) = (SlotId(slot), GroupId(app.0));
        core.handle(Input::Spawned { worker }, at(1));
        let held = Input::SlotHeld {
            slot,
            group,
            worker,
            fixed: true,
        };
        core.handle(held, at(2));
        core.handle(Input::Listening { worker }, at(3));
    }
    while core.poll_output().is_some() {}
    core
}

fn process(worker: WorkerId, app: u32, instance: u32) -> Process {
    let id = worker.0;
    let token = 74_000_000_000_000 + id * 8;
    let path = |name: &str| PathBuf::from(format!("/var/lib/rpm/logs/app-{name}-{id}.log"));
    Process {
        id,
        app,
        instance,
        pid: 10_000 + instance,
        start_ticks: 7_426_637 + id,
        started_at_ms: 1_795_992_966_334 + id,
        ending: false,
        agent_seen: true,
        token: format!("{id}-5fbc1e9d15089e06"),
        logs: Logs {
            out: path("out"),
            err: path("error"),
            both: None,
            out_from: 0,
            err_from: 0,
        },
        tokens: Tokens {
            process: token,
            channel: Some(token + 1),
            out: Some(token + 2),
            err: Some(token + 3),
            reports: Some(token + 4),
            stdin: None,
        },
        without_keeper: false,
        listeners: BTreeSet::from([10_000 + instance]),
        actions: Vec::new(),
    }
}

fn group(app: u32) -> Group {
    let slots = app * WORKERS..(app + 1) * WORKERS;
    let slot = |slot: u32| Slot {
        slot,
        socket: Socket {
            token: 75_000_000_000_000 + u64::from(slot),
            cookie: 2_781_447 + u64::from(slot),
        },
        holder: Some(u64::from(slot) + 1),
        retiring: None,
        rescued: 0,
        weight: 1,
        private: false,
    };
    let indexes: BTreeMap<u32, u32> = slots.clone().zip(0..).collect();
    Group {
        group: app,
        app,
        key: format!("127.0.0.1:{}:4:undefined:0", 8000 + app),
        addr: ([127, 0, 0, 1], 8000).into(),
        v6only: false,
        policy: Policy::RoundRobin,
        handoff: false,
        proxy: false,
        front: Vec::new(),
        table: Some(Table {
            tokens: vec![1, 2, 3],
            indexes,
        }),
        order: Vec::new(),
        slots: slots.map(slot).collect(),
    }
}

/// As the daemon does each time: from the core to the last byte.
fn written(core: &Core) -> Vec<u8> {
    let workers = core.workers().zip(core.instances());
    let state = State {
        format: FORMAT,
        version: "0.1.0".to_owned(),
        boot_id: "11111111-2222-4333-8444-555555555555".to_owned(),
        origin: Nanos(1),
        core: core.snapshot().into(),
        workers: workers
            .map(|(worker, it)| process(worker.id, it.app.0, it.id.0))
            .collect(),
        listeners: Listeners {
            groups: (0..APPS).map(group).collect(),
            ..Listeners::default()
        },
        next_app: APPS,
        next_ticket: 1,
        rescues: 0,
    };
    let mut text = Vec::new();
    rpm_state::write(&state, &mut text).expect("memory");
    text
}

fn state(c: &mut Criterion) {
    let core = running();
    let text = written(&core);
    println!("{} bytes", text.len());
    let mut group = c.benchmark_group("state/1000_workers");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("snapshot", |b| b.iter(|| black_box(&core).snapshot()));
    group.bench_function("write", |b| b.iter(|| written(black_box(&core))));
    group.bench_function("read", |b| {
        b.iter(|| {
            let state = rpm_state::read_state(black_box(&text)).expect("it was written");
            Core::restore(state.core.into(), 1).expect("it is of a core")
        });
    });
    group.finish();
}

criterion_group!(benches, state);
criterion_main!(benches);
