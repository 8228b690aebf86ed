//! Communication with programs: their standard input, the actions that they offer, and values that become their variables.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::outside::kill_daemon;
use rpm_testkit::{Rpm, wait_until};
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(20);

fn talks(rpm: &Rpm) {
    App::new("talks.js").args(["--name", "talks"]).start(rpm);
    said(rpm, "colour");
}

/// Waits until it has printed this.
fn said(rpm: &Rpm, part: &str) {
    let out = || String::from_utf8_lossy(&rpm.output("talks", "out", None)).into_owned();
    wait_until("its line", BOUND, out, |text| text.contains(part));
}

#[test]
fn lines_reach_its_standard_input() {
    let rpm = Rpm::new();
    talks(&rpm);
    rpm.ok(["send", "0", "one"]);
    said(&rpm, "heard one\n");
    // The next daemon has it, too.
    kill_daemon(&rpm);
    rpm.ok(["send", "talks", "-two"]);
    said(&rpm, "heard -two\n");
    let mut attach = rpm.command(["attach", "0"]);
    attach.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut attached = attach.spawn().expect("it runs");
    let mut typed = attached.stdin.take().expect("a pipe");
    typed.write_all(b"three\n").expect("it reads");
    said(&rpm, "heard three\n");
    drop(typed);
    let shown = attached.wait_with_output().expect("it ends with what is typed");
    assert!(shown.status.success(), "{shown:?}");
    rpm.ok(["stop", "talks"]);
    assert!(rpm.fails(["send", "talks", "x"]).contains("does not run"));
    App::cluster("hello.js", "1").args(["--name", "web"]).start(&rpm);
    assert!(rpm.fails(["send", "web", "x"]).contains("no standard input"));
}

#[test]
fn actions_are_answered_by_each_worker() {
    let rpm = Rpm::new();
    talks(&rpm);
    assert_eq!(
        rpm.ok(["trigger", "talks", "double", "21"]),
        "[talks:0:default]={\"value\":42}\n"
    );
    assert_eq!(
        rpm.ok(["trigger", "all", "double"]),
        "[talks:0:default]={\"value\":2}\n"
    );
    let error = rpm.fails(["trigger", "talks", "fail"]);
    assert!(error.contains("no process answered"), "{error}");
    assert!(
        rpm.fails(["trigger", "ghost", "double"])
            .contains("no process or app")
    );
}

#[test]
fn what_a_program_offers_is_known() {
    let rpm = Rpm::new();
    talks(&rpm);
    let env = || {
        let list: Value = serde_json::from_str(&rpm.ok(["jlist"])).expect("JSON");
        list[0]["pm2_env"].clone()
    };
    let known = wait_until("what it offers", BOUND, env, |env| {
        env["axm_monitor"]["lines"].is_object()
    });
    let actions = known["axm_actions"].as_array().expect("actions");
    let names: Vec<&str> = actions
        .iter()
        .filter_map(|action| action["action_name"].as_str())
        .collect();
    assert_eq!(names, ["double", "fail"], "{known:#}");
    assert_eq!(known["axm_options"]["module_name"], "talks");
    assert_eq!(
        rpm.ok(["__complete", "fish", "trigger", "talks", "d"]),
        "double\t\n"
    );
    kill_daemon(&rpm);
    rpm.ok(["ping"]);
    let names = |env: &Value| env["axm_actions"].as_array().map(Vec::len);
    let after = wait_until("its actions, after the daemon's death", BOUND, env, |env| {
        names(env) == Some(2)
    });
    assert_eq!(after["axm_actions"][0]["action_name"], "double", "{after:#}");
    rpm.ok(["stop", "talks"]);
    assert_eq!(env()["axm_actions"], Value::Array(Vec::new()));
}

#[test]
fn values_are_kept_and_become_variables() {
    let rpm = Rpm::new();
    talks(&rpm);
    rpm.ok(["set", "key", "value"]);
    assert_eq!(rpm.ok(["get", "key"]), "value\n");
    rpm.ok(["set", "talks.COLOUR", "green"]);
    said(&rpm, "colour green");
    rpm.ok(["multiset", "talks:COLOUR blue other 1"]);
    said(&rpm, "colour blue");
    assert_eq!(rpm.ok(["get", "talks.COLOUR"]), "blue\n");
    let all = rpm.ok(["conf"]);
    assert!(
        all.contains("\"other\": \"1\"") && all.contains("\"COLOUR\": \"blue\""),
        "{all}"
    );
    rpm.ok(["unset", "key"]);
    assert!(rpm.fails(["get", "key"]).contains("is not set"));
    assert!(rpm.fails(["multiset", "a"]).contains("in turn"));
    for command in [
        &["set", "pm2-logrotate:max_size", "10M"][..],
        &["multiset", "pm2-logrotate:retain 3"],
    ] {
        assert!(rpm.fails(command).contains("--log-max-size"), "{command:?}");
    }
    rpm.ok(["unset", "all"]);
    assert_eq!(rpm.ok(["get"]), "{}\n");
    let mode = std::fs::metadata(rpm.home().join("conf.json"))
        .map(|meta| std::os::unix::fs::PermissionsExt::mode(&meta.permissions()));
    assert_eq!(mode.expect("it is there") & 0o777, 0o600);
}
