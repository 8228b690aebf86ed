//! Arbitrary inputs in arbitrary order, also such as no shell gives: nothing panics, and the invariants hold after each.
//!
//! The fuzz target `core_inputs` (`fuzz/fuzz_targets/core_inputs.rs`) contains this file, and the test at its end runs it with fixed seeds.

use std::time::Duration;

use rpm_core::protocol::{Affinity, AppConfig, Command, Exit, Input, Output, Readiness, RestartPolicy};
use rpm_core::{AppId, Core, GroupId, InstanceId, Revision, SlotId, Tick, Ticket, WorkerId};

/// No daemon lives longer.
const LATEST: Duration = Duration::from_secs(1 << 40);

/// So many slots there may be.
const SLOTS: u32 = 48;

/// A choice by each byte; the first of all choices when there are no bytes any more.
struct Choices<'a>(&'a [u8]);

/// Passes what the bytes say to a core; `see` gets what it puts out.
///
/// # Panics
/// The core has panicked, or an invariant does not hold.
pub(crate) fn run(bytes: &[u8], mut see: impl FnMut(&Output)) {
    let mut choices = Choices(bytes);
    let mut core = Core::new(u64::from(choices.byte()));
    let mut now = Tick::default();
    while !choices.0.is_empty() {
        now = choices.time(&core, now);
        match choices.byte() % 8 {
            0 => core.handle_timeout(now),
            1 | 2 => {
                for slot in (0..SLOTS)
                    .map(SlotId)
                    .filter(|slot| core.has_slot(*slot))
                    .collect::<Vec<_>>()
                {
                    // Mostly a third of the workers does not accept.
                    let len = match choices.byte() {
                        0..32 => choices.below(3),
                        _ if slot.0.is_multiple_of(3) => 2,
                        _ => 0,
                    };
                    core.handle(Input::Queue { slot, len }, now);
                }
            }
            _ => {
                let input = choices.input(&core);
                core.handle(input, now);
            }
        }
        while let Some(output) = core.poll_output() {
            see(&output);
        }
        if let Err(violation) = core.check_invariants() {
            panic!("{violation}, at {now:?}");
        }
        look(&core, now);
    }
}

/// Calls everything that only looks.
fn look(core: &Core, now: Tick) {
    for instance in core.instances() {
        assert_eq!(core.instance(instance.id), Some(instance));
        let app = core.app(instance.app).expect("an instance has an app");
        assert!(app.instances().any(|id| id == instance.id));
        assert!(core.leaving_of(instance.id).all(|it| it.instance == instance.id));
    }
    for worker in core.workers() {
        let _ = core.slot_for(worker.id, GroupId(0));
    }
    let _ = core.ready_by_living(now).count() + core.should_listen().count();
}

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn below(&mut self, count: u8) -> u32 {
        u32::from(self.byte() % count)
    }

    fn bool(&mut self) -> bool {
        self.byte().is_multiple_of(2)
    }

    /// The next point in time: mostly a later one. Never so late that a deadline cannot be later still: whatever is due
    /// then would be due for ever.
    fn time(&mut self, core: &Core, now: Tick) -> Tick {
        let next = match self.byte() % 8 {
            0..2 => core.poll_timeout().unwrap_or(now),
            2 => Tick(now.0 / 2),
            _ => now + self.duration(),
        };
        if next.0 > LATEST { now } else { next }
    }

    fn duration(&mut self) -> Duration {
        let ms = [0, 0, 1, 5, 16, 60, 100, 500, 1000, 3000, 35_000];
        match self.byte() {
            255 => Duration::MAX,
            byte => Duration::from_millis(ms[usize::from(byte) % ms.len()]),
        }
    }

    fn worker(&mut self, core: &Core) -> WorkerId {
        let byte = self.byte();
        let known = core.workers().count().max(1);
        let worker = core.workers().nth(usize::from(byte / 8) % known);
        match worker {
            Some(worker) if !byte.is_multiple_of(8) => worker.id,
            _ => WorkerId(u64::from(byte)),
        }
    }

    fn app(&mut self) -> AppId {
        AppId(self.below(3))
    }

    fn group(&mut self) -> GroupId {
        GroupId(self.below(3))
    }

    /// One of few, and mostly one that is open.
    fn slot(&mut self, core: &Core) -> SlotId {
        let first = self.below(24);
        let open = (first..SLOTS).map(SlotId).find(|slot| core.has_slot(*slot));
        open.filter(|_| !first.is_multiple_of(4)).unwrap_or(SlotId(first))
    }

    fn instances(&mut self) -> Vec<InstanceId> {
        (0..self.below(4)).map(|_| InstanceId(self.below(8))).collect()
    }

    fn policy(&mut self) -> RestartPolicy {
        RestartPolicy {
            autorestart: self.below(8) > 0,
            stop_exit_codes: if self.bool() { vec![0] } else { Vec::new() },
            max_restarts: self.below(5),
            min_uptime: self.duration(),
            restart_delay: self.duration(),
            exp_backoff: self.bool().then(|| self.duration()),
            kill_timeout: self.duration(),
            listen_timeout: self.duration(),
            start_timeout: self.duration(),
            reload_timeout: self.duration(),
            drain_timeout: self.duration(),
            watch_after: self.duration(),
        }
    }

    fn config(&mut self) -> AppConfig {
        AppConfig {
            revision: Revision(self.below(3)),
            instances: self.below(4),
            stopped: self.below(8) == 1,
            readiness: match self.byte() % 4 {
                0 => Readiness::Listens,
                1 => Readiness::Executed,
                2 => Readiness::Runs,
                _ => Readiness::Announces,
            },
            policy: self.policy(),
            parallel: self.below(3),
            max_surge: self.bool().then(|| self.below(3)),
            max_unavailable: self.below(3),
            affinity: match self.byte() % 4 {
                0 | 1 => Affinity::None,
                2 => Affinity::Named,
                _ => Affinity::ByAddress,
            },
            allow_port_change: self.bool(),
            health_check: self.below(4) == 1,
        }
    }

    fn command(&mut self) -> Command {
        let app = self.app();
        match self.byte() % 17 {
            0..3 => Command::Start {
                app,
                config: self.config(),
            },
            3 => Command::Stop {
                instances: self.instances(),
                hard: self.bool(),
            },
            4 => Command::Restart {
                instances: self.instances(),
            },
            5 => Command::Delete {
                instances: self.instances(),
                hard: self.bool(),
            },
            6 => Command::Scale {
                app,
                count: self.below(6),
            },
            7 => Command::Configure {
                app,
                config: self.config(),
            },
            8..12 => Command::Reload {
                app,
                config: self.bool().then(|| self.config()),
                yields: self.bool(),
                then_scale: self.bool().then(|| self.below(6)),
            },
            12 => Command::Replace {
                app,
                instances: self.instances(),
            },
            13 => Command::Reset {
                instances: self.instances(),
            },
            14 => Command::Undo { app },
            15 => Command::RestartAndScale {
                app,
                count: self.below(6),
            },
            _ if self.below(16) == 1 => Command::Shutdown,
            _ => Command::Undo { app },
        }
    }

    fn input(&mut self, core: &Core) -> Input {
        let kind = self.byte() % 32;
        if kind < 5 {
            return Input::Command {
                ticket: Ticket(u64::from(self.byte())),
                command: self.command(),
            };
        }
        let worker = self.worker(core);
        match kind {
            5..9 => Input::Spawned { worker },
            9 => Input::SpawnFailed { worker },
            10..12 => Input::Exited {
                worker,
                exit: match self.bool() {
                    true => Exit::Code(0),
                    false => Exit::Signal(9),
                },
            },
            12..14 => Input::Listening { worker },
            14 => Input::Ready { worker },
            15..19 => {
                let group = self.group();
                let inherited = core.slot_for(worker, group);
                let inherited = inherited.or_else(|| core.slot_of_former(worker, group));
                let inherited = inherited.filter(|_| self.below(8) > 0);
                Input::SlotHeld {
                    slot: inherited.unwrap_or_else(|| self.slot(core)),
                    group,
                    worker,
                    fixed: self.bool(),
                }
            }
            19 => Input::SlotReleased {
                slot: self.slot(core),
                worker,
            },
            20 => Input::SharedHeld {
                group: GroupId(8 + self.below(2)),
                worker,
                fixed: self.bool(),
            },
            21 => Input::SharedReleased {
                group: GroupId(8 + self.below(2)),
                worker,
            },
            22 => Input::Withheld { worker },
            23 => Input::Starved { worker },
            24 => Input::Rests { worker },
            25 => Input::Healthy { worker },
            26 => Input::Drained { worker },
            27 => Input::DrainFailed { worker },
            28 => Input::Room {
                app: self.app(),
                workers: self.bool().then(|| self.below(6)),
            },
            29 | 30 => Input::Queue {
                slot: self.slot(core),
                len: self.below(4),
            },
            _ => Input::Responded { worker },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::{Discriminant, discriminant};

    use rpm_core::protocol::Output;

    use super::run;

    const SEEDS: u64 = 1200;
    const BYTES: u64 = 1500;
    /// How many kinds of outputs there are.
    const KINDS: usize = 13;

    /// A Weyl sequence, mixed: as good as chance for choices.
    fn bytes(seed: u64) -> Vec<u8> {
        let step = |n: u64| (seed * BYTES + n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (0..BYTES).map(|n| (step(n) ^ (step(n) >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9));
        mixed.map(|n| (n >> 40) as u8).collect()
    }

    #[test]
    fn no_inputs_break_the_invariants() {
        let mut seen: Vec<Discriminant<Output>> = Vec::new();
        for seed in 0..SEEDS {
            let bytes = bytes(seed);
            let see = |output: &Output| {
                let kind = discriminant(output);
                if !seen.contains(&kind) {
                    seen.push(kind);
                }
            };
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&bytes, see)));
            assert!(result.is_ok(), "seed {seed}: see above");
        }
        // Inputs to which the core does nothing show nothing.
        assert_eq!(seen.len(), KINDS, "{seen:?}");
    }
}
