//! The JavaScript API (`npm/rpmx`): a script for each half of it, its types, and tools written for PM2's API.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::place::Place;
use rpm_testkit::{Port, Rpm, get, javascript, node, wait_until};

const BOUND: Duration = Duration::from_secs(60);

/// Node with a fixture script, as a user of this daemon runs it.
fn script(rpm: &Rpm, name: &str) -> Command {
    let mut command = Command::new(node(22));
    command
        .arg(javascript().join(name))
        .current_dir(rpm.home())
        .env("RPM_HOME", rpm.home())
        .env("RPMX_BINARY", rpm.binary())
        .stdin(Stdio::null());
    command
}

fn passes(rpm: &Rpm, ran: &Output) {
    let [out, err] = [&ran.stdout, &ran.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(
        ran.status.success() && out == "passed\n",
        "{out}\n{err}\n{}",
        rpm.log()
    );
}

/// A program that runs until the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_call_with_promises_does_what_it_says() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let ran = script(&rpm, "client.js").env("PORT", port.to_string()).output();
    passes(&rpm, &ran.expect("node runs"));
}

#[test]
fn every_call_of_pm2_does_what_it_says() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let ran = script(&rpm, "pm2-calls.js")
        .env("PORT", port.to_string())
        .output();
    passes(&rpm, &ran.expect("node runs"));
}

#[test]
fn startup_gives_the_line_that_root_has_to_type() {
    let test = "startup_gives_the_line_that_root_has_to_type";
    let (Some(rpm), place) = (Rpm::unprivileged(test), Place::new()) else {
        return;
    };
    // Node and the package may be where that user cannot read them, so only the program runs as the user.
    let command = rpm.command([""; 0]);
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().expect("text")).collect();
    let program = place.write("rpmx", &format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")));
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("it is ours");
    let ran = script(&rpm, "startup.js").env("RPMX_BINARY", &program).output();
    passes(&rpm, &ran.expect("node runs"));
    assert_eq!(rpm.daemon_pid(), None);
}

#[test]
fn without_a_daemon_mode_apps_end_with_the_program() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let ran = script(&rpm, "no-daemon.js")
        .env("PORT", port.to_string())
        .output();
    passes(&rpm, &ran.expect("node runs"));
    assert_eq!(rpm.daemon_pid(), None);
    assert_eq!(rpm.processes_of_workers(), Vec::<u32>::new());
}

#[test]
fn the_types_fit() {
    let ran = Command::new(node(22))
        .arg(javascript().join("node_modules/typescript/bin/tsc"))
        .args(["-p", "."])
        .current_dir(javascript())
        .output()
        .expect("the compiler runs");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
}

#[test]
fn an_exporter_of_metrics_for_pm2_reads_our_list() {
    let (rpm, app, own) = (Rpm::new(), Port::reserve(), Port::reserve());
    App::cluster("hello.js", "2").port(&app).start(&rpm);
    let exporter = script(&rpm, "node_modules/pm2-metrics/exporter.js")
        .env("pm2-metrics", format!(r#"{{"port":{own},"host":"127.0.0.1"}}"#))
        .stdout(Stdio::null())
        .spawn();
    let _exporter = Running(exporter.expect("node runs"));
    let page = || {
        get(own.number(), "/metrics")
            .map(|answer| answer.body)
            .unwrap_or_default()
    };
    let lines = [
        "pm2_memory{",
        r#"pm2_up{id="0",name="hello",version="N/A",instance="0",interpreter="node",node_version="22."#,
        r#"pm2_up{id="1",name="hello",version="N/A",instance="1",interpreter="node","#,
        r#"pm2_instances{id="0","#,
        r#"pm2_restarts{id="1","#,
    ];
    // The first pages may be of a moment when not everything was known.
    wait_until(&format!("a page with {lines:?}"), BOUND, page, |page| {
        lines.iter().all(|line| page.contains(line))
    });
}

#[test]
fn a_scaler_for_pm2_adds_a_worker_to_a_busy_app() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let wishes = r#"{"scale_cpu_threshold":1,"release_cpu_threshold":0,"min_seconds_to_add_worker":0,"max_workers":2}"#;
    App::cluster("cpu.js", "1")
        .port(&port)
        .env("pm2_autoscale", wishes)
        .start(&rpm);
    let scaler = script(&rpm, "node_modules/pm2-autoscale/index.js")
        .stdout(Stdio::null())
        .spawn();
    let _scaler = Running(scaler.expect("node runs"));
    let pids = wait_until("two workers", BOUND, || rpm.pids("cpu"), |pids| pids.len() == 2);
    assert_ne!(pids[0], pids[1]);
}
