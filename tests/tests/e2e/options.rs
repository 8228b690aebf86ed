//! Keys of ecosystem files that no other test covers, with real processes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rpm_e2e::place::Place;
use rpm_testkit::{Process, Rpm, Status, node, wait_for, wait_until};
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(20);

/// An app of one script, which says what it is in `said` when it runs, and its file.
struct Site {
    rpm: Rpm,
    place: Place,
}

impl Site {
    fn new(script: &str) -> Site {
        let place = Place::new();
        place.write("app.js", script);
        Site {
            rpm: Rpm::new(),
            place,
        }
    }

    /// Starts the app with these keys.
    fn start(&self, keys: &Value, options: &[&str]) {
        let mut app = json!({
            "name": "app",
            "script": "app.js",
            "interpreter": node(22),
            "env_production": {"NODE_ENV": "production"},
        });
        let all = app.as_object_mut().expect("an object");
        all.extend(keys.as_object().expect("an object").clone());
        self.place
            .write("ecosystem.json", &json!({ "apps": [app] }).to_string());
        let mut start = self.rpm.command(["start", "ecosystem.json"]);
        start
            .args(options)
            .current_dir(self.place.path())
            .env("SECRET_TOKEN", "1")
            .env("OTHER", "1");
        let done = start.output().expect("it runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    fn file(&self, name: &str) -> String {
        wait_for(name, BOUND, || {
            let text = fs::read_to_string(self.place.path().join(name)).ok()?;
            text.ends_with('\n').then_some(text)
        })
    }
}

fn process(rpm: &Rpm) -> Process {
    rpm.process(0)
}

#[test]
fn names_are_made_of_what_is_said() {
    let site = Site::new("setInterval(() => {}, 1000);");
    site.start(
        &json!({"append_env_to_name": true, "name_prefix": "shop-"}),
        &["--env", "production"],
    );
    assert_eq!(process(&site.rpm).name, "shop-app-production");
}

#[test]
fn what_an_app_inherits_and_how_its_traces_are_read_can_be_chosen() {
    let script = "require('fs').writeFileSync('said', `${process.env.SECRET_TOKEN} ${process.env.OTHER !== undefined} ${process.sourceMapsEnabled}\\n`);
        setInterval(() => {}, 1000);";
    for (keys, expected) in [
        (json!({}), "1 true true\n"),
        (
            json!({"filter_env": ["SECRET"], "source_map_support": false}),
            "undefined true false\n",
        ),
        (
            json!({"filter_env": true, "disable_source_map_support": true}),
            "undefined false false\n",
        ),
    ] {
        let site = Site::new(script);
        site.start(&keys, &[]);
        assert_eq!(site.file("said"), expected, "{keys}");
    }
}

#[test]
fn output_and_pid_go_to_the_files_that_are_named() {
    let site = Site::new("console.log('out'); console.error('err'); setInterval(() => {}, 1000);");
    site.start(
        &json!({"out_file": "o.log", "error_file": "logs/e.log", "log_file": "both.log", "pid_file": "run/app.pid", "merge_logs": true}),
        &[],
    );
    assert_eq!(
        (site.file("o.log"), site.file("logs/e.log")),
        ("out\n".into(), "err\n".into())
    );
    let both = || fs::read_to_string(site.place.path().join("both.log")).unwrap_or_default();
    wait_until("both are in one", BOUND, both, |text| {
        text.lines().count() == 2 && text.contains("out\n") && text.contains("err\n")
    });
    let pid = process(&site.rpm).pid.expect("it runs");
    let written = fs::read_to_string(site.place.path().join("run/app-0.pid")).expect("it is written");
    assert_eq!(written.trim(), pid.to_string());
}

#[test]
fn the_signal_goes_to_the_tree_or_to_the_leader_alone() {
    let script = "const fs = require('fs');
        if (process.argv[2]) { process.on('SIGINT', () => fs.writeFileSync('child', '')); process.send('up'); setInterval(() => {}, 1000); }
        else {
            process.on('SIGINT', () => setTimeout(() => process.exit(0), 300));
            const child = require('child_process').fork(__filename, ['child']);
            child.on('message', () => fs.writeFileSync('up', 'up\\n'));
        }";
    for (keys, told) in [(json!({}), true), (json!({"treekill": false}), false)] {
        let site = Site::new(script);
        site.start(&keys, &[]);
        site.file("up");
        site.rpm.ok(["stop", "app"]);
        assert_eq!(Path::exists(&site.place.path().join("child")), told, "{keys}");
    }
}

#[test]
fn a_back_off_grows_from_where_it_is_told_to_begin() {
    let site = Site::new("process.exit(1);");
    site.start(
        &json!({"exp_backoff_restart_delay": 40, "max_restarts": 3, "autostart": true}),
        &["--no-wait"],
    );
    let ended = |process: &Process| process.status == Status::Errored;
    wait_until("it is given up", BOUND, || process(&site.rpm), ended);
    let log = site.rpm.log();
    let delays: Vec<&str> = log
        .lines()
        .filter_map(|line| line.split_once("retry_in=Some(")?.1.split_once("ms)"))
        .map(|(delay, _)| delay)
        .collect();
    let delays: Vec<f64> = delays.iter().filter_map(|delay| delay.parse().ok()).collect();
    assert!(delays.len() >= 2, "{log}");
    // Each is drawn around 1.5 times the one before.
    assert!((20.0..=80.0).contains(&delays[0]), "{delays:?}");
    assert!(delays.windows(2).all(|two| two[1] > two[0]), "{delays:?}");
}

#[test]
fn many_changes_within_the_delay_are_one_restart() {
    let site =
        Site::new("require('fs').appendFileSync(process.env.STARTS, 'x'); setInterval(() => {}, 1000);");
    let starts = std::env::temp_dir().join(format!("rpm-starts-{}", std::process::id()));
    let _ = fs::remove_file(&starts);
    site.place.write("src/part.js", "");
    site.start(
        &json!({"watch": ["src"], "watch_delay": "700ms", "env": {"STARTS": starts}}),
        &[],
    );
    let count = || fs::read_to_string(&starts).unwrap_or_default().len();
    wait_until("it runs", BOUND, count, |count| *count == 1);
    for number in 0..20 {
        site.place.write("src/part.js", &format!("// {number}"));
    }
    wait_until("it is restarted", BOUND, count, |count| *count == 2);
    // The next one is the second: none came between.
    site.place.write("src/part.js", "// again");
    wait_until("it is restarted again", BOUND, count, |count| *count == 3);
    let restarted = |process: &Process| process.status == Status::Online && process.restarts == 2;
    wait_until("twice", BOUND, || process(&site.rpm), restarted);
    fs::remove_file(&starts).expect("it is there");
}
