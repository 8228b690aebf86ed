//! A seeded shell around the core: random commands, processes that fail in every way, lost and late messages,
//! jumps of time. Every step ends with `check_invariants()`; every run ends in quiet, where nothing may be left over.

mod actions;
mod chance;
mod death;
pub(crate) mod dice;
mod orders;
mod quiet;
mod rollout;
mod scaling;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rpm_core::protocol::{Failure, Notice, Outcome, Output};
use world::{Line, World};

use crate::common::seeds;

/// Takes some seconds in a debug build.
const SEEDS: u64 = 800;
const STEPS: u32 = 150;

#[test]
fn any_history_keeps_the_invariants_and_ends_in_quiet() {
    if let Some(seed) = replayed_seed() {
        check(seed);
        return;
    }
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..seeds(SEEDS) {
        let world = check(seed);
        *seen.entry("undone halfway").or_default() += world.rollouts.halfway;
        *seen.entry("undone while watched").or_default() += world.rollouts.watched;
        *seen.entry("returned").or_default() += world.rollouts.returned;
        *seen.entry("scaled").or_default() += world.rollouts.scaled;
        *seen.entry("restarted and scaled").or_default() += world.scalings.followed;
        *seen.entry("scaled by the next shell").or_default() += world.scalings.survived;
        for (_, line) in world.history {
            match line {
                Line::Out(output) => *seen.entry(kind(&output)).or_default() += 1,
                Line::Fall => *seen.entry("taken up").or_default() += 1,
                Line::In(_) | Line::Timeout => {}
            }
        }
    }
    // A simulation in which something never happens says nothing about it.
    assert!(
        seen.len() == KINDS + 7 && seen.values().all(|&times| times >= 20),
        "{seen:#?}"
    );
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let histories = || (0..20).map(|seed| check(seed).history).collect::<Vec<_>>();
    let first = histories();
    assert!(first.iter().flatten().count() > 5000, "hardly anything happened");
    assert!(
        first == histories(),
        "the core or the shell has a will of its own"
    );
}

fn replayed_seed() -> Option<u64> {
    let seed = std::env::var("RPM_SIM_SEED").ok()?;
    Some(seed.parse().expect("RPM_SIM_SEED is a number"))
}

fn check(seed: u64) -> World {
    let mut world = World::new(seed);
    let result = catch_unwind(AssertUnwindSafe(|| actions::run(&mut world, STEPS)));
    let why = match result {
        Ok(Ok(())) => return world,
        Ok(Err(why)) => why,
        Err(_) => "panicked (see above)".to_owned(),
    };
    let last = world.history.len().saturating_sub(40);
    let lines: Vec<String> = world.history[last..]
        .iter()
        .map(|line| format!("  {line:?}"))
        .collect();
    panic!(
        "seed {seed}: {why}\nlast events:\n{}\nreplay: RPM_SIM_SEED={seed} cargo xtask test -E 'package(rpm-core) & test(simulation)'",
        lines.join("\n")
    );
}

/// How many different answers [`kind`] gives.
const KINDS: usize = 35;

fn kind(output: &Output) -> &'static str {
    match output {
        Output::Spawn { .. } => "spawn",
        Output::Terminate { .. } => "terminate",
        Output::Kill { .. } => "kill",
        Output::Drain { .. } => "drain",
        Output::RefuseNew { .. } => "refuse new",
        Output::CheckHealth { .. } => "check health",
        Output::Steer { slots, .. } if slots.is_empty() => "steer to nothing",
        Output::Steer { .. } => "steer",
        Output::Rescue { holder: Some(_), .. } => "rescue from a worker",
        Output::Rescue { holder: None, .. } => "rescue from a vacant slot",
        Output::CloseSlot { to, .. } if to.is_empty() => "close the last slot",
        Output::CloseSlot { .. } => "close a slot",
        Output::Probe { .. } => "probe",
        Output::AppGone { .. } => "app gone",
        Output::Notice(Notice::Online { silent: true, .. }) => "silent",
        Output::Notice(Notice::Online { silent: false, .. }) => "online",
        Output::Notice(Notice::Crashed {
            retry_in: Some(_), ..
        }) => "crashed, retried",
        Output::Notice(Notice::Crashed { retry_in: None, .. }) => "crashed for good",
        Output::Notice(Notice::Stalled { .. }) => "stalled",
        Output::Notice(Notice::Recovered { .. }) => "recovered",
        Output::Notice(Notice::CandidateReady { .. }) => "candidate ready",
        Output::Notice(Notice::Draining { .. }) => "draining",
        Output::Notice(Notice::ReloadBegun { .. }) => "reload begun",
        Output::Notice(Notice::Scaled { .. }) => "number of instances",
        Output::Notice(Notice::Deleted { .. }) => "deleted",
        Output::Notice(Notice::ReloadDone { .. }) => "reload done",
        Output::Notice(Notice::ReloadUndone { .. }) => "reload undone",
        Output::Done {
            outcome: Outcome::Done { .. },
            ..
        } => "done",
        Output::Done {
            outcome: Outcome::Failed { failure, .. },
            ..
        } => match failure {
            Failure::SpawnFailed => "spawn failed",
            Failure::Exited(_) => "exited",
            Failure::Crashed(_) => "crashed",
            Failure::NotReady { .. } => "not ready",
            Failure::Unserved { .. } => "unserved",
            Failure::Superseded => "superseded",
            Failure::NoSuchApp => "no such app",
        },
    }
}
