//! What is picked at random.

use std::time::Duration;

use rpm_core::protocol::{Affinity, AppConfig, Readiness, RestartPolicy};
use rpm_core::{AppId, InstanceId, Revision, WorkerId};

use super::world::World;

pub(crate) fn random_app(world: &mut World) -> AppId {
    let apps: Vec<AppId> = world.apps.keys().copied().collect();
    world.dice.pick(&apps).unwrap_or(AppId(0))
}

pub(crate) fn random_instances(world: &mut World) -> Vec<InstanceId> {
    let all: Vec<InstanceId> = world.core.instances().map(|instance| instance.id).collect();
    let mut ids: Vec<InstanceId> = (0..world.dice.roll(4))
        .filter_map(|_| world.dice.pick(&all))
        .collect();
    if world.dice.percent(20) {
        ids.push(InstanceId(world.dice.roll(40) as u32));
    }
    if world.dice.percent(10) { all } else { ids }
}

pub(crate) fn random_config(world: &mut World) -> AppConfig {
    let mild = world.mild;
    let dice = &mut world.dice;
    let readiness = [
        Readiness::Executed,
        Readiness::Runs,
        Readiness::Listens,
        Readiness::Announces,
    ];
    let ms = Duration::from_millis;
    let policy = RestartPolicy {
        autorestart: mild || !dice.percent(10),
        stop_exit_codes: if !mild && dice.percent(20) {
            vec![0, 1]
        } else {
            Vec::new()
        },
        max_restarts: if mild { 16 } else { dice.roll(5) as u32 },
        min_uptime: dice.up_to_ms(2000),
        restart_delay: if dice.percent(20) { ms(700) } else { Duration::ZERO },
        exp_backoff: dice.percent(30).then(|| ms(100)),
        kill_timeout: dice.up_to_ms(1600),
        listen_timeout: dice.up_to_ms(3000),
        start_timeout: dice.up_to_ms(6000),
        reload_timeout: dice.up_to_ms(6000) + ms(if mild { 500 } else { 0 }),
        drain_timeout: dice.up_to_ms(20_000),
        watch_after: if dice.percent(50) {
            dice.up_to_ms(4000)
        } else {
            Duration::ZERO
        },
    };
    let readiness = dice.pick(&readiness).unwrap_or(Readiness::Listens);
    AppConfig {
        revision: Revision(dice.roll(9) as u32),
        instances: dice.roll(5) as u32,
        stopped: !mild && dice.percent(5),
        readiness,
        policy,
        parallel: dice.roll(3) as u32,
        max_surge: dice.percent(40).then(|| dice.roll(3) as u32),
        max_unavailable: dice.roll(3) as u32,
        affinity: dice
            .pick(&[
                Affinity::None,
                Affinity::None,
                Affinity::Named,
                Affinity::ByAddress,
            ])
            .unwrap_or_default(),
        allow_port_change: dice.percent(20),
        health_check: dice.percent(25),
    }
}

pub(crate) fn random_worker(world: &mut World) -> WorkerId {
    let last = world.processes.keys().next_back().map_or(1, |worker| worker.0);
    WorkerId(world.dice.roll(last + 2))
}
