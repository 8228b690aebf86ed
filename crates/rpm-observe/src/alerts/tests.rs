//! The rules over time.

use rpm_wire::alerts::{Rule, Sink, Source, Trigger};
use rpm_wire::api::Process;
use rpm_wire::events::Event;
use serde_json::json;

use super::condition::{Read, Reading};
use super::engine::{Engine, Found, NEWS_MS};
use super::message::{Message, State};

/// Now, in the tests: long after 1970.
pub(super) const NOW: u64 = 1_000_000_000;

pub(super) fn rule(on: Trigger) -> Rule {
    Rule {
        on,
        apps: Vec::new(),
        above: on.usual_above(),
        for_ms: on.usual_for_ms().unwrap_or_default(),
        pattern: None,
        min_requests: None,
        every_ms: 60_000,
        sinks: vec![Sink::Exec {
            command: "true".to_owned(),
            cwd: "/".to_owned(),
        }],
    }
}

pub(super) fn engine(rules: impl IntoIterator<Item = Rule>) -> Engine {
    let mut engine = Engine::default();
    engine.set_rules(rules.into_iter().collect());
    engine
}

/// An event of instance 2 of `api`, with the fields of its kind.
pub(super) fn event(at_ms: u64, kind: &str, fields: &serde_json::Value) -> Event {
    let mut value =
        json!({"seq": 1, "at_ms": at_ms, "app": "api", "namespace": "default", "id": 2, "kind": kind});
    let fields = fields.as_object().expect("fields").clone();
    value.as_object_mut().expect("an object").extend(fields);
    serde_json::from_value(value).expect("an event")
}

pub(super) fn crash(at_ms: u64) -> Event {
    event(
        at_ms,
        "crashed",
        &json!({"exit_code": 1, "failures": 1, "max_restarts": 16, "last_lines": ["Error: no"]}),
    )
}

pub(super) fn process(name: &str, id: u32, status: &str, memory: u64, cpu: f64) -> Process {
    let value = json!({
        "id": id, "name": name, "instance": 0, "generation": 1, "exec_mode": "cluster", "plane": "direct", "status": status,
        "pid": 1, "uptime_ms": 1, "started_at_ms": 1, "created_at_ms": 1, "restarts": 0, "unstable_restarts": 0,
        "cpu_percent": cpu, "memory_bytes": memory, "connections": null, "exit_code": null, "out_log": "", "err_log": "",
    });
    serde_json::from_value(value).expect("a process")
}

/// What was told: the state, the count, and the beginning of the text.
pub(super) fn told(messages: &[Message]) -> Vec<(State, u32)> {
    messages
        .iter()
        .map(|message| (message.state, message.count))
        .collect()
}

#[test]
fn crashes_are_told_once_in_a_while_with_their_number() {
    let mut engine = engine([rule(Trigger::Crash)]);
    let first = engine.event(&crash(NOW), NOW);
    assert_eq!(told(&first), [(State::Fired, 1)]);
    assert!(
        first[0].text.contains("exit code 1") && first[0].text.ends_with("| Error: no"),
        "{first:?}"
    );
    assert_eq!((first[0].app.as_deref(), first[0].id), (Some("api"), None));
    for after in [1_000, 2_000, 59_999] {
        assert_eq!(
            told(&engine.event(&crash(NOW + after), NOW + after)),
            [],
            "{after}"
        );
    }
    assert_eq!(told(&engine.tick(NOW + 59_999)), []);
    assert_eq!(told(&engine.tick(NOW + 60_000)), [(State::Fired, 3)]);
    assert_eq!(
        told(&engine.tick(NOW + 200_000)),
        [],
        "nothing has happened since"
    );
    assert_eq!(
        told(&engine.event(&crash(NOW + 200_000), NOW + 200_000)),
        [(State::Fired, 1)]
    );
}

#[test]
fn last_night_is_no_news() {
    let mut engine = engine([rule(Trigger::Crash)]);
    assert_eq!(told(&engine.event(&crash(NOW), NOW + NEWS_MS + 1)), []);
    assert_eq!(
        told(&engine.event(&crash(NOW), NOW + NEWS_MS)),
        [(State::Fired, 1)]
    );
    let mut engine = self::engine([rule(Trigger::Frozen)]);
    let frozen = event(NOW, "frozen", &json!({"queued": 1}));
    assert_eq!(engine.event(&frozen, NOW).len(), 1);
    assert_eq!(told(&engine.event(&frozen, NOW + NEWS_MS + 1)), [], "nor an end");
}

#[test]
fn a_rule_is_about_its_apps() {
    let about = |apps: &[&str]| Rule {
        apps: apps.iter().map(|app| (*app).to_owned()).collect(),
        ..rule(Trigger::Crash)
    };
    let own = Event {
        subject: rpm_wire::events::Subject {
            app: Some("rpm-observe".to_owned()),
            ..Default::default()
        },
        ..crash(NOW)
    };
    for (apps, count) in [(&[][..], 0), (&["rpm-observe"], 1)] {
        let mut engine = engine([about(apps)]);
        assert_eq!(engine.event(&own, NOW).len(), count, "{apps:?}");
    }
    for (apps, count) in [(&["api"][..], 1), (&["web", "api"], 1), (&["web"], 0), (&[], 1)] {
        let mut engine = engine([about(apps)]);
        assert_eq!(engine.event(&crash(NOW), NOW).len(), count, "{apps:?}");
    }
}

#[test]
fn what_ends_is_told_if_its_beginning_was() {
    for (on, begins, ends, ended) in [
        (Trigger::Frozen, "frozen", "recovered", json!({"after_ms": 1500})),
        (Trigger::Errored, "errored", "ready", json!({})),
        (Trigger::ReloadFailed, "reload_undone", "reload_done", json!({})),
        (Trigger::Unhealthy, "unhealthy", "healthy", json!({})),
    ] {
        let mut engine = engine([rule(on)]);
        let end = event(NOW + 5, ends, &ended);
        assert_eq!(told(&engine.event(&end, NOW + 5)), [], "{on:?}: nothing began");
        let begin = event(
            NOW,
            begins,
            &json!({"queued": 3, "failures": 16, "why": "it exited"}),
        );
        assert_eq!(told(&engine.event(&begin, NOW)), [(State::Fired, 1)], "{on:?}");
        assert_eq!(
            told(&engine.event(&end, NOW + 5)),
            [(State::Recovered, 1)],
            "{on:?}"
        );
        assert_eq!(told(&engine.event(&end, NOW + 5)), [], "{on:?}: once");
    }
}

#[test]
fn what_was_held_back_has_an_end_too() {
    let mut engine = engine([rule(Trigger::Frozen)]);
    let begin = |at| event(at, "frozen", &json!({"queued": 1, "repeats": 2}));
    let end = |at| event(at, "recovered", &json!({"after_ms": 1}));
    let mut at = |event: &Event| told(&engine.event(event, event.at_ms));
    assert_eq!(
        at(&begin(NOW)),
        [(State::Fired, 3)],
        "twice before, which the daemon has not reported"
    );
    assert_eq!(at(&end(NOW + 1)), [(State::Recovered, 1)]);
    assert_eq!(at(&begin(NOW + 2)), [], "there was a message a short time ago");
    assert_eq!(told(&engine.tick(NOW + 60_000)), [(State::Fired, 3)]);
    let over = engine.event(&end(NOW + 60_001), NOW + 60_001);
    assert_eq!(told(&over), [(State::Recovered, 1)]);
}

#[test]
fn an_end_may_have_another_name() {
    for (on, begins, ends, ended) in [
        (Trigger::Frozen, "frozen", "stopped", json!({"cause": "replaced"})),
        (Trigger::Errored, "errored", "deleted", json!({})),
        (
            Trigger::Unhealthy,
            "unhealthy",
            "reload_undone",
            json!({"why": "it"}),
        ),
    ] {
        let mut engine = engine([rule(on)]);
        let begin = event(
            NOW,
            begins,
            &json!({"queued": 3, "failures": 16, "why": "it exited"}),
        );
        assert_eq!(told(&engine.event(&begin, NOW)), [(State::Fired, 1)], "{on:?}");
        let end = event(NOW + 5, ends, &ended);
        assert_eq!(
            told(&engine.event(&end, NOW + 5)),
            [(State::Recovered, 1)],
            "{on:?}"
        );
    }
    let mut engine = engine([rule(Trigger::ReloadFailed)]);
    let undone = event(NOW, "reload_undone", &json!({"why": "it exited"}));
    assert_eq!(engine.event(&undone, NOW).len(), 1);
    let back = event(NOW + 1, "reload_done", &json!({"returned": true}));
    assert_eq!(
        told(&engine.event(&back, NOW + 1)),
        [],
        "the old workers are back, no more"
    );
}

#[test]
fn while_muted_nobody_is_told_and_what_lasts_is_told_afterwards() {
    let memory = Rule {
        above: Some(100.0),
        for_ms: 0,
        ..rule(Trigger::Memory)
    };
    let mut engine = engine([memory, rule(Trigger::Crash)]);
    let large = [process("api", 0, "online", 101, 0.0)];
    engine.set_muted(true);
    assert_eq!(told(&engine.figures(&large, NOW)), []);
    assert_eq!(told(&engine.event(&crash(NOW), NOW)), []);
    engine.set_muted(false);
    assert_eq!(told(&engine.tick(NOW + 100_000)), []);
    assert_eq!(told(&engine.figures(&large, NOW + 100_000)), [(State::Fired, 1)]);
    engine.set_muted(true);
    let small = [process("api", 0, "online", 1, 0.0)];
    let over = engine.figures(&small, NOW + 100_001);
    assert_eq!(
        told(&over),
        [(State::Recovered, 1)],
        "the end of what was told is told"
    );
}

#[test]
fn a_clock_that_is_set_back_hides_nothing() {
    let mut engine = engine([rule(Trigger::Crash)]);
    assert_eq!(engine.event(&crash(NOW), NOW).len(), 1);
    assert_eq!(engine.event(&crash(NOW - 5_000_000), NOW - 5_000_000).len(), 1);
    // What lasts has begun by now at the latest, and what is to come was not within the last minute.
    let cpu = rule(Trigger::Cpu);
    let lasting = cpu.for_ms;
    let mut engine = self::engine([cpu, rule(Trigger::CrashLoop)]);
    let list = [process("api", 0, "online", 0, 99.0)];
    let before = NOW - 5_000_000;
    assert_eq!(told(&engine.figures(&list, NOW)), []);
    assert_eq!(told(&engine.figures(&list, before)), []);
    assert_eq!(
        told(&engine.figures(&list, before + lasting)),
        [(State::Fired, 1)]
    );
    for at in [NOW, NOW + 1, NOW + 2, before] {
        assert_eq!(told(&engine.event(&crash(at), at)), [], "{at}");
    }
}

#[test]
fn a_crash_loop_is_many_crashes_in_a_short_time() {
    let mut engine = engine([rule(Trigger::CrashLoop)]);
    let mut crashes = |times: &[u64]| {
        let told = times
            .iter()
            .map(|at| engine.event(&crash(NOW + at), NOW + at).len());
        told.sum::<usize>()
    };
    assert_eq!(
        crashes(&[0, 30_000, 70_000, 100_000]),
        0,
        "never four within a minute"
    );
    assert_eq!(crashes(&[200_000, 201_000, 202_000]), 0);
    assert_eq!(crashes(&[203_000]), 1);
    assert_eq!(crashes(&[204_000, 205_000, 206_000, 207_000]), 0, "it was told");
}

#[test]
fn a_level_must_last_and_ends() {
    let memory = Rule {
        above: Some(100.0),
        for_ms: 10_000,
        ..rule(Trigger::Memory)
    };
    let mut engine = engine([memory]);
    let mut at = |after: u64, bytes: u64| {
        let list = [
            process("api", 0, "online", bytes, 0.0),
            process("api", 1, "online", 5, 0.0),
        ];
        told(&engine.figures(&list, NOW + after))
    };
    assert_eq!(at(0, 101), []);
    assert_eq!(at(5_000, 100), [], "it begins again");
    assert_eq!(at(6_000, 101), []);
    assert_eq!(at(15_999, 101), []);
    assert_eq!(at(16_000, 101), [(State::Fired, 1)]);
    assert_eq!(at(30_000, 101), []);
    assert_eq!(at(31_000, 99), [(State::Recovered, 1)]);
    assert_eq!(at(32_000, 101), []);
    assert_eq!(at(42_000, 101), [], "there was a message a short time ago");
    assert_eq!(at(76_000, 101), [(State::Fired, 1)], "and it still is too much");
}

#[test]
fn what_is_stopped_is_not_down() {
    for (status, fires) in [
        ("online", 0),
        ("stopped", 0),
        ("errored", 1),
        ("waiting restart", 1),
        ("launching", 1),
    ] {
        let mut engine = engine([rule(Trigger::Down)]);
        let list = [process("api", 0, status, 0, 0.0)];
        assert_eq!(engine.figures(&list, NOW).len(), 0, "{status}");
        assert_eq!(engine.figures(&list, NOW + 30_000).len(), fires, "{status}");
    }
}

#[test]
fn an_instance_that_is_gone_is_forgotten() {
    let cpu = Rule {
        for_ms: 0,
        ..rule(Trigger::Cpu)
    };
    let mut engine = engine([cpu]);
    let list = [process("api", 0, "online", 0, 99.0)];
    assert_eq!(told(&engine.figures(&list, NOW)), [(State::Fired, 1)]);
    let other = [
        process("web", 0, "online", 0, 0.0),
        process("api", 1, "online", 0, 0.0),
    ];
    assert_eq!(
        told(&engine.figures(&other, NOW + 1)),
        [(State::Recovered, 1)],
        "its end is told"
    );
    assert_eq!(told(&engine.figures(&other, NOW + 1)), []);
    assert_eq!(
        told(&engine.figures(&list, NOW + 2)),
        [(State::Fired, 1)],
        "it is another one"
    );
}

#[test]
fn what_is_gone_is_over() {
    let ours = |on| [(&[][..], on), (&[("web", 2)], true), (&[("api", 2)], false)];
    for (on, begins, of_others) in [
        (Trigger::Frozen, "frozen", true),
        (Trigger::Errored, "errored", true),
        (Trigger::ReloadFailed, "reload_undone", false),
        (Trigger::Unhealthy, "unhealthy", false),
    ] {
        let rows = ours(true).into_iter().chain([(&[("api", 1)][..], of_others)]);
        for (left, is_over) in rows {
            let mut engine = engine([rule(on)]);
            let fields = json!({"queued": 3, "failures": 16, "why": "it exited"});
            assert!(!engine.awaits_end());
            assert_eq!(engine.event(&event(NOW, begins, &fields), NOW).len(), 1);
            assert!(engine.awaits_end(), "{on:?}");
            let left: Vec<Process> = left
                .iter()
                .map(|(app, id)| process(app, *id, "online", 0, 0.0))
                .collect();
            let over = told(&engine.figures(&left, NOW + 1));
            let expected = [(State::Recovered, 1)];
            assert_eq!(over, expected[..usize::from(is_over)], "{on:?}: {left:?}");
            assert_eq!(engine.awaits_end(), !is_over);
        }
    }
    let mut crashed = engine([rule(Trigger::Crash)]);
    assert_eq!(crashed.event(&crash(NOW), NOW).len(), 1);
    assert_eq!(told(&crashed.figures(&[], NOW + 1)), []);
}

#[test]
fn the_daemon_may_be_silent_for_a_while() {
    let mut engine = engine([rule(Trigger::DaemonDown)]);
    let mut at = |after: u64, answers| told(&engine.daemon(answers, NOW + after));
    assert_eq!(at(0, false), []);
    assert_eq!(at(29_999, false), []);
    assert_eq!(at(30_000, false), [(State::Fired, 1)]);
    assert_eq!(at(31_000, true), [(State::Recovered, 1)]);
}

#[test]
fn a_rule_that_stays_keeps_what_is_known() {
    let (crashes, frozen) = (rule(Trigger::Crash), rule(Trigger::Frozen));
    let mut engine = engine([crashes.clone(), frozen.clone()]);
    let begun = engine.event(&event(NOW, "frozen", &json!({"queued": 1})), NOW);
    engine.set_rules(vec![frozen]);
    let end = event(NOW + 1, "recovered", &json!({"after_ms": 1}));
    let over = engine.event(&end, NOW + 1);
    assert_eq!(told(&over), [(State::Recovered, 1)]);
    assert_eq!(
        (begun[0].rule, over[0].rule),
        (1, 0),
        "its number is that of the new file"
    );
    assert!(
        !over[0].key.is_empty() && over[0].key == begun[0].key,
        "what ends is what began: {begun:?} {over:?}"
    );
    engine.set_rules(vec![crashes]);
    assert_eq!(engine.event(&crash(NOW + 2), NOW + 2).len(), 1);
}

#[test]
fn lines_are_told_at_the_first_or_when_there_are_many() {
    let found = |count| Found {
        rule: 0,
        app: "api".to_owned(),
        count,
        line: "FATAL: no".to_owned(),
    };
    let mut engine = engine([rule(Trigger::LogPattern)]);
    let first = engine.found(found(2), NOW).expect("it is told");
    assert_eq!((first.count, first.text.as_str()), (2, "FATAL: no"));
    assert_eq!(engine.found(found(3), NOW + 1_000), None, "a short time ago");
    assert_eq!(told(&engine.tick(NOW + 60_000)), [(State::Fired, 3)]);
    let many = Rule {
        above: Some(5.0),
        for_ms: 10_000,
        ..rule(Trigger::LogPattern)
    };
    let mut engine = self::engine([many]);
    assert_eq!(engine.found(found(5), NOW), None);
    assert_eq!(
        engine.found(found(5), NOW + 10_001),
        None,
        "those of before are history"
    );
    let sixth = engine.found(found(1), NOW + 11_000).expect("it is told");
    assert_eq!(sixth.text, "6 lines within 10 s, such as: FATAL: no");
}

/// A reading of rule 0 about `api`.
fn reading(reading: Reading) -> Vec<Read> {
    vec![Read {
        rule: 0,
        app: "api".to_owned(),
        reading,
    }]
}

fn known(holds: bool) -> Reading {
    Reading::Known {
        holds,
        text: "so".to_owned(),
    }
}

#[test]
fn a_reading_begins_lasts_and_ends() {
    let mut engine = engine([rule(Trigger::LoopDelay), rule(Trigger::LogsSize)]);
    let mut at =
        |after: u64, readings: Vec<Read>| told(&engine.readings(Source::Figures, &readings, NOW + after));
    assert_eq!(at(0, reading(known(true))), []);
    assert_eq!(at(30_000, reading(Reading::Unknown)), []);
    assert_eq!(at(59_999, reading(known(true))), []);
    assert_eq!(at(60_000, reading(known(true))), [(State::Fired, 1)]);
    assert_eq!(at(70_000, reading(Reading::Unknown)), [], "it lasts");
    assert_eq!(at(90_000, reading(Reading::Lost)), [(State::Recovered, 1)]);
    assert_eq!(at(200_000, reading(known(true))), [], "it begins again");
    assert_eq!(at(260_000, reading(known(true))), [(State::Fired, 1)]);
    assert_eq!(
        at(261_000, Vec::new()),
        [(State::Recovered, 1)],
        "the app is gone"
    );
    // What files are like is so at once, and figures say nothing about files.
    let files = vec![Read {
        rule: 1,
        ..reading(known(true)).remove(0)
    }];
    assert_eq!(told(&engine.readings(Source::Figures, &files, NOW)), []);
    assert_eq!(
        told(&engine.readings(Source::Files, &files, NOW)),
        [(State::Fired, 1)]
    );
    assert_eq!(told(&engine.readings(Source::Figures, &[], NOW)), []);
    assert_eq!(
        told(&engine.readings(Source::Files, &[], NOW)),
        [(State::Recovered, 1)]
    );
}
