//! The history of figures that `rpm observe` records.

use std::fs;

use rpm_e2e::app::App;
use rpm_e2e::ask::BOUND;
use rpm_testkit::{Port, Rpm, get, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::observing::{pid, turn_on};

/// The seconds of the last ten minutes, by their time, of these figures of the app.
fn seconds(port: &Port, figures: &str) -> Vec<(u64, Vec<Option<f64>>)> {
    let path = format!("/api/v1/history?app=hello&from=-500s&points=1000&figure={figures}");
    let Some(answer) = get(port.number(), &path)
        .ok()
        .filter(|answer| answer.status == 200)
    else {
        return Vec::new();
    };
    let answer: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(answer["step"], 1, "{answer}");
    let from = answer["from"].as_u64().expect("a time");
    let points = answer["points"].as_u64().expect("a number") as usize;
    let value = |name: &str, at: usize| answer["figures"][name]["values"][at].as_f64();
    (0..points)
        .map(|at| {
            (
                from + at as u64,
                figures.split(',').map(|name| value(name, at)).collect(),
            )
        })
        .collect()
}

#[test]
fn history_outlives_the_process_that_records_it() {
    let (rpm, web, port) = (Rpm::new(), Port::reserve(), Port::reserve());
    App::cluster("hello.js", "2")
        .args(["--balance", "proxy"])
        .port(&web)
        .start(&rpm);
    turn_on(&rpm, &port);
    // Requests count from the second figure on.
    let seen = || {
        assert_eq!(get(web.number(), "/").expect("it serves").status, 200);
        seconds(&port, "requests,memory")
    };
    let is_busy = |(_, values): &(u64, Vec<Option<f64>>)| {
        values[0].is_some_and(|rate| rate >= 1.0) && values[1].is_some_and(|bytes| bytes > 1e6)
    };
    let before = wait_until("requests and memory", BOUND, seen, |all| all.iter().any(is_busy));
    let busy = before.into_iter().find(is_busy).expect("it was seen");
    let recorded = pid(&rpm).expect("it runs");
    let process = i32::try_from(recorded)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a pid");
    kill_process(process, Signal::KILL).expect("it is there");
    let after = || seconds(&port, "online");
    let went_on = |all: &Vec<(u64, Vec<Option<f64>>)>| {
        pid(&rpm) != Some(recorded) && all.last().is_some_and(|(at, _)| *at > busy.0 + 2) && {
            let mut known = all.iter().rev().take(3);
            known.any(|(_, values)| values[0] == Some(2.0))
        }
    };
    wait_until("the next one records", BOUND, after, went_on);
    let kept = seconds(&port, "requests,memory");
    assert!(kept.contains(&busy), "{busy:?} is not in {kept:?}");

    rpm.ok(["observe", "off"]);
    // The terminal has it from the file, for which nothing need run.
    let top: Value = serde_json::from_str(&rpm.ok(["top", "--since", "9m", "--json"])).expect("JSON");
    assert_eq!(top[0]["app"], "hello", "{top}");
    let figure = |name: &str| top[0]["figures"][name]["maximum"].as_f64();
    assert!(
        figure("requests") >= Some(1.0) && figure("memory") > Some(1e6),
        "{top}"
    );
    let table = rpm.ok(["top"]);
    assert!(
        table.lines().nth(1).is_some_and(|row| row.starts_with("hello")),
        "{table}"
    );
    let unknown = rpm.run(["top", "nosuch"]);
    assert_eq!(unknown.code, Some(1), "{unknown:#?}");
    assert!(
        unknown.stderr.contains("nothing is recorded of nosuch"),
        "{unknown:#?}"
    );
    let path = rpm.home().join("history.bin");
    let whole = fs::read(&path).expect("it is there");
    fs::write(&path, &whole[..whole.len() - 1]).expect("it is cut");
    turn_on(&rpm, &port);
    let begun = wait_until("a new history", BOUND, after, |all| {
        all.iter().any(|(_, values)| values[0].is_some())
    });
    let old = begun.iter().find(|(at, _)| *at == busy.0);
    assert!(old.is_none_or(|(_, values)| values[0].is_none()), "{begun:?}");
    let aside = fs::metadata(path.with_extension("before")).expect("it is set aside");
    assert_eq!(aside.len(), whole.len() as u64 - 1);
    let logs = rpm.ok(["logs", "rpm-observe", "--nostream"]);
    assert!(logs.contains("history.bin cannot be read: it is cut"), "{logs}");
}
