//! Files that daemons have written, of each format that is read. The scene was the same each time: apps of all kinds, a reload that is watched
//! and one whose new worker is not ready, workers that drain, end, wait for a restart, have failed or are stopped. Their paths and the run of
//! the system were replaced afterwards, nothing else.

use std::fmt::Write as _;

use rpm_core::snapshot::Scaling;
use rpm_core::{AppId, Core, GroupId, InstanceView, LeavingPhase, StateView};
use rpm_state::{AppsDocument, FORMAT, ReadError, State, header, read_apps, read_state, seal, write};

const STATES: [(u32, &[u8]); 2] = [
    (3, include_bytes!("../golden/v3/state.json")),
    (4, include_bytes!("../golden/v4/state.json")),
];
const APPS: [&[u8]; 2] = [
    include_bytes!("../golden/v3/apps.json"),
    include_bytes!("../golden/v4/apps.json"),
];

/// What all of them mean.
const SCENE: &str = "\
web (hello.js, 2 revisions): online online; standby standby; reload, 2 proved, watched
shop (hello.js, 1 revisions): stopped online online
feed (hello.js, 1 revisions): online online
mail (ready.js, 2 revisions): online and candidate, online; reload, 1 queued, 1 launching
slow (slow.js, 2 revisions): online online; draining
flaps (exit-at-once.js, 1 revisions): waiting
broken (exit-at-once.js, 1 revisions): errored
queue (no-listen.js, 1 revisions): silent
dns (udp.js, 1 revisions): online online
local (unix.js, 1 revisions): online online
rests (hello.js, 1 revisions): stopped stopped
solo (hello.js, 1 revisions): online
ends (slow.js, 1 revisions): stopping stopping
127.0.0.1:39811 RoundRobin: 4 slots, 2 eligible
127.0.0.1:39812 RoundRobin proxy: 2 slots, 2 eligible
127.0.0.1:39813 LeastConnections handoff: 2 slots, 2 eligible
127.0.0.1:39814 RoundRobin: 3 slots, 2 eligible
127.0.0.1:39815 IpHash: 3 slots, 2 eligible
127.0.0.1:39818 RoundRobin: 1 slots, 1 eligible
";

fn word(instance: &InstanceView) -> String {
    let word = match instance.state {
        StateView::Launching { .. } => "launching",
        StateView::Online { silent: false, .. } => "online",
        StateView::Online { silent: true, .. } => "silent",
        StateView::Stopping { .. } => "stopping",
        StateView::Stopped => "stopped",
        StateView::WaitingRestart { .. } => "waiting",
        StateView::Errored => "errored",
    };
    match instance.candidate {
        Some(_) => format!("{word} and candidate,"),
        None => word.to_owned(),
    }
}

fn scene(core: &Core, state: &State, apps: &AppsDocument) -> String {
    let mut text = String::new();
    for (id, app) in &apps.apps {
        let id = AppId(*id);
        let newest = app.revisions.get(&app.last_revision).expect("the last one");
        let script = newest.given.script.rsplit('/').next().unwrap_or_default();
        let words: Vec<String> = core
            .instances()
            .filter(|it| it.app == id)
            .map(|it| word(&it))
            .collect();
        let words = words.join(" ");
        let _ = write!(
            text,
            "{} ({script}, {} revisions): {words}",
            app.name,
            app.revisions.len()
        );
        let leaving: Vec<&str> = core
            .leaving(id)
            .map(|view| match view.phase {
                LeavingPhase::Standby => "standby",
                LeavingPhase::Draining { .. } => "draining",
                LeavingPhase::Terminating => "terminating",
            })
            .collect();
        if !leaving.is_empty() {
            let _ = write!(text, "; {}", leaving.join(" "));
        }
        if let Some(reload) = core.app(id).expect("both know it").reload {
            text.push_str("; reload");
            for (count, what) in [
                (reload.queued, "queued"),
                (reload.launching, "launching"),
                (reload.proved, "proved"),
            ] {
                if count > 0 {
                    let _ = write!(text, ", {count} {what}");
                }
            }
            text.push_str(if reload.watched_until.is_some() {
                ", watched"
            } else {
                ""
            });
        }
        text.push('\n');
    }
    for group in &state.listeners.groups {
        let plane = match (group.proxy, group.handoff) {
            (true, _) => " proxy",
            (false, true) => " handoff",
            (false, false) => "",
        };
        let (slots, eligible) = (group.slots.len(), core.eligible(GroupId(group.group)).len());
        let _ = writeln!(
            text,
            "{} {:?}{plane}: {slots} slots, {eligible} eligible",
            group.addr, group.policy
        );
    }
    text
}

fn core_of(state: &State) -> Core {
    Core::restore(state.core.clone().into(), 1).expect("it names only what it has")
}

#[test]
fn each_means_what_the_daemon_had() {
    for ((format, text), apps) in STATES.into_iter().zip(APPS) {
        assert_eq!(header(text).expect("it has one").format, format);
        let state = read_state(text).expect("it can be read");
        let apps = read_apps(apps).expect("they can be read");
        assert_eq!(
            (state.format, apps.format),
            (FORMAT, FORMAT),
            "as they are written from now on"
        );
        let core = core_of(&state);
        core.check_invariants().expect("it is a core");
        let scene = scene(&core, &state, &apps);
        assert_eq!(scene, SCENE, "format {format}");
    }
}

/// The rest of what a daemon needs, by some of it.
#[test]
fn each_names_the_processes_and_what_the_keeper_has_of_them() {
    for (format, text) in STATES {
        let state = read_state(text).expect("it can be read");
        let core = core_of(&state);
        for process in &state.workers {
            let worker = core
                .worker(rpm_core::WorkerId(process.id))
                .expect("the core knows it");
            assert_eq!(
                worker.instance.0, process.instance,
                "format {format}: {process:?}"
            );
            assert!(process.tokens.out.is_some() && process.pid > 1 && process.start_ticks > 0);
            assert!(process.logs.out.starts_with("/srv/rpm/logs"), "{process:?}");
        }
        assert_eq!(state.workers.len(), core.workers().count(), "each has a process");
        let slots = || state.listeners.groups.iter().flat_map(|group| &group.slots);
        for slot in slots() {
            let holder = slot.holder.expect("a worker has it");
            assert!(
                core.worker(rpm_core::WorkerId(holder)).is_some()
                    && core.has_slot(rpm_core::SlotId(slot.slot))
            );
            assert!(slot.socket.token > 0 && slot.socket.cookie > 0, "{slot:?}");
        }
        assert_eq!(
            slots().filter(|slot| slot.private).count(),
            2,
            "those behind the proxy"
        );
        assert_eq!(state.listeners.shared.len(), 2, "a UDP port and a Unix socket");
        let counted = state.workers.iter().filter(|it| it.ending).count();
        assert_eq!(counted, 2, "asked to end");
        let config = core.app(AppId(12)).expect("`ends`").config;
        assert_eq!(config.policy.kill_timeout.as_secs(), 3600);
        assert_eq!(
            core.app(AppId(4)).expect("`slow`").config.affinity,
            rpm_core::protocol::Affinity::ByAddress
        );
    }
}

/// Fails with what stands where they differ first.
fn is_the_same(now: &[u8], before: &[u8]) {
    let at = now.iter().zip(before).position(|(now, before)| now != before);
    let at = at.unwrap_or(now.len().min(before.len()));
    let part = |text: &[u8]| {
        let (from, to) = (at.saturating_sub(60), text.len().min(at + 60));
        String::from_utf8_lossy(&text[from..to]).into_owned()
    };
    assert!(
        now == before,
        "the stored format has changed, at byte {at}: CONTRIBUTING.md says how that is done\n{}\nwas\n{}",
        part(now),
        part(before)
    );
}

/// Whoever changes what is written changes the format: CONTRIBUTING.md says how.
#[test]
fn the_present_format_is_written_as_it_was() {
    let [_, (_, text)] = STATES;
    let mut state = read_state(text).expect("it can be read");
    state.core = core_of(&state).snapshot().into();
    let mut again = Vec::new();
    write(&state, &mut again).expect("memory");
    is_the_same(&again, text);
    let [_, text] = APPS;
    let apps = read_apps(text).expect("they can be read");
    let mut again = Vec::new();
    write(&apps, &mut again).expect("memory");
    is_the_same(&again, text);
}

#[test]
fn the_format_before_becomes_the_present_one() {
    let [(_, text), _] = STATES;
    let state = read_state(text).expect("it can be read");
    let mut written = Vec::new();
    write(&state, &mut written).expect("memory");
    assert!(
        written.len() < text.len(),
        "{} bytes, and {} before",
        written.len(),
        text.len()
    );
    assert_eq!(read_state(&written).expect("it can be read"), state);
    let apps = read_apps(APPS[0]).expect("they can be read");
    let mut written = Vec::new();
    write(&apps, &mut written).expect("memory");
    assert_eq!(read_apps(&written).expect("they can be read"), apps);
}

/// A field that most apps do not have: absent where it was not written, and read where it was.
#[test]
fn what_a_restart_is_followed_by_is_stored() {
    let [_, (_, text)] = STATES;
    let mut state = read_state(text).expect("it can be read");
    let mut snapshot = core_of(&state).snapshot();
    assert!(snapshot.apps.values().all(|app| app.scaling.is_none()));
    let id = *snapshot.apps.keys().next().expect("an app");
    let instances = snapshot
        .instances
        .iter()
        .filter(|(_, instance)| instance.app == id);
    let scaling = Scaling {
        count: 5,
        awaited: instances.map(|(id, _)| *id).collect(),
    };
    snapshot
        .apps
        .entry(id)
        .and_modify(|app| app.scaling = Some(scaling));
    state.core = snapshot.clone().into();
    let mut written = Vec::new();
    write(&state, &mut written).expect("memory");
    let again = read_state(&written).expect("it can be read");
    assert_eq!(again, state);
    assert_eq!(core_of(&again).snapshot(), snapshot);
}

#[test]
fn another_format_is_not_read_and_its_version_is_named() {
    for format in [0, 1, 2, 5, 4_000_000_000_u32] {
        // Whatever follows, even if it is not JSON.
        let text = format!("{{\"format\":{format},\"version\":\"7.8.9\",\0");
        for text in [text.clone().into_bytes(), seal(text.as_bytes())] {
            let errors = [
                read_state(&text).expect_err("not that"),
                read_apps(&text).expect_err("not that"),
            ];
            for error in errors {
                assert!(matches!(&error, ReadError::Unsupported(_)), "{error:?}");
                assert!(error.to_string().contains("rpm 7.8.9"), "{error}");
            }
        }
    }
}

#[test]
fn damage_is_never_read_as_anything() {
    for (_, text) in STATES {
        for at in (0..text.len()).step_by(97) {
            assert!(read_state(&text[..at]).is_err(), "cut at {at}");
            let mut damaged = text.to_vec();
            damaged[at] ^= 0x11;
            assert!(read_state(&damaged).is_err(), "byte {at}");
        }
    }
    assert!(read_state(b"").is_err() && read_apps(b"").is_err());
}
