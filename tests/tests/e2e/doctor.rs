//! `doctor` reports what is permitted, and its report is true under daemons that are denied a mechanism.

use rpm_e2e::denied::Denied;
use rpm_testkit::{Ran, Rpm};
use serde_json::Value;

/// Whether a mechanism works, by the beginning of its name, and the rest of its line.
fn finding(ran: &str, mechanism: &str) -> (bool, String) {
    let all: Vec<Value> = serde_json::from_str(ran).expect("a list");
    let named = |finding: &&Value| {
        finding["mechanism"]
            .as_str()
            .is_some_and(|name| name.starts_with(mechanism))
    };
    let found = all
        .iter()
        .find(named)
        .unwrap_or_else(|| panic!("no {mechanism}: {ran}"));
    (found["works"] == Value::Bool(true), found.to_string())
}

#[test]
fn what_works_works() {
    let rpm = Rpm::new();
    let said = rpm.ok(["doctor", "--json"]);
    for mechanism in ["steering by classic BPF", "interception", "socket table"] {
        let (works, text) = finding(&said, mechanism);
        assert!(works, "{text}");
    }
    let table = rpm.ok(["doctor"]);
    assert!(
        table.contains("steering by eBPF") && table.contains("somaxconn"),
        "{table}"
    );
}

#[test]
fn what_does_not_is_said_with_what_to_change() {
    for denied in [Denied::Seccomp, Denied::Listener, Denied::Getfd] {
        let rpm = Rpm::new();
        let ran: Ran = denied
            .to(&rpm.command(["doctor", "--json"]))
            .output()
            .expect("python3 runs")
            .into();
        assert_eq!(ran.code, Some(0), "{ran:#?}");
        let (works, text) = finding(&ran.stdout, "interception");
        assert!(!works && text.contains("advice"), "{denied:?}: {text}");
    }
    let Some(rpm) = Rpm::unprivileged("what_does_not_is_said_with_what_to_change") else {
        return;
    };
    let said = rpm.ok(["doctor", "--json"]);
    let (works, text) = finding(&said, "steering by eBPF");
    assert!(!works && text.contains("setcap"), "{text}");
    assert!(finding(&said, "interception").0, "that needs no privilege");
}
