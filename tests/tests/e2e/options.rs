//! Keys of ecosystem files that no other test covers, with real processes.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::Duration;

use rpm_e2e::place::Place;
use rpm_testkit::{Process, Rpm, Status, bun, node, wait_for, wait_until};
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(20);

/// An app of one script, which writes what it is to `said`, and its file.
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
    // Node may need seconds to come to its end, and is young then, too.
    site.start(
        &json!({"exp_backoff_restart_delay": 40, "max_restarts": 3, "min_uptime": "1m", "autostart": true}),
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
    // Each is drawn around 1.5 times the previous one.
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
        &json!({"watch": ["src"], "watch_delay": "2s", "env": {"STARTS": starts}}),
        &[],
    );
    let count = || fs::read_to_string(&starts).unwrap_or_default().len();
    wait_until("it runs", BOUND, count, |count| *count == 1);
    for number in 0..20 {
        site.place.write("src/part.js", &format!("// {number}"));
    }
    wait_until("it is restarted", BOUND, count, |count| *count == 2);
    // The next one is the second: there was none in between.
    site.place.write("src/part.js", "// again");
    wait_until("it is restarted again", BOUND, count, |count| *count == 3);
    let restarted = |process: &Process| process.status == Status::Online && process.restarts == 2;
    wait_until("twice", BOUND, || process(&site.rpm), restarted);
    fs::remove_file(&starts).expect("it is there");
}

/// An app that reports which of the two times that it sets itself are in force.
const KEPT_BY_NODE: &str = "const server = require('http').createServer((request, response) =>
        response.end(`${server.keepAliveTimeout} ${server.headersTimeout} end`));
    server.keepAliveTimeout = 7000;
    server.listen(0, () => {
        server.keepAliveTimeout = 8000;
        require('fs').writeFileSync('port', `${server.address().port}\\n`);
    });";

const KEPT_BY_BUN: &str =
    "const options = { port: 0, idleTimeout: 3, fetch: () => new Response(`${options.idleTimeout} end`) };
    require('fs').writeFileSync('port', `${Bun.serve(options).port}\\n`);";

/// The app's response to one request, and the connection, which is then idle.
fn answer(site: &Site) -> (String, TcpStream) {
    let port: u16 = site.file("port").trim().parse().expect("a port");
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    client.set_read_timeout(Some(BOUND)).expect("a bound");
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: app\r\n\r\n")
        .expect("it reads");
    let mut answer = String::new();
    while !answer.ends_with("end") {
        let mut part = [0; 1024];
        let length = client.read(&mut part).expect("an answer");
        assert_ne!(length, 0, "{answer:?} is all");
        answer.push_str(&String::from_utf8_lossy(&part[..length]));
    }
    (answer, client)
}

#[test]
fn idle_connections_are_kept_as_long_as_is_said() {
    let fork = || json!({"interpreter": node(22)});
    let cluster = || json!({"interpreter": node(24), "instances": 2});
    let old = || json!({"interpreter": node(18), "instances": 2});
    let twenty: &[&str] = &["--keep-alive-timeout", "20s"];
    let long: &[&str] = &["--keep-alive-timeout", "70s"];
    for (keys, options, seconds, body) in [
        (fork(), &[][..], 8, "8000 60000 end"),
        (fork(), twenty, 20, "20000 60000 end"),
        (cluster(), twenty, 20, "20000 60000 end"),
        (cluster(), long, 70, "70000 71000 end"),
        (old(), long, 70, "70000 71000 end"),
    ] {
        let site = Site::new(KEPT_BY_NODE);
        site.start(&keys, options);
        let (answer, _) = answer(&site);
        let header = format!("Keep-Alive: timeout={seconds}\r\n");
        assert!(answer.contains(&header), "{keys} {options:?}: {answer}");
        assert!(answer.ends_with(body), "{keys} {options:?}: {answer}");
    }
}

#[test]
fn idle_connections_are_closed_when_the_time_is_over() {
    // The app's own time is far longer than what is waited for.
    let script = KEPT_BY_NODE.replace("8000", "600000");
    for keys in [json!({}), json!({"instances": 2})] {
        let site = Site::new(&script);
        let mut keys = keys;
        keys["keep_alive_timeout"] = json!("300ms");
        site.start(&keys, &[]);
        let (_, mut client) = answer(&site);
        let closed = client.read(&mut [0; 64]);
        assert!(matches!(closed, Ok(0)), "{keys}: {closed:?}");
    }
}

#[test]
fn idle_connections_of_bun_are_kept_as_well() {
    for (script, expected) in [
        (KEPT_BY_NODE, "Keep-Alive: timeout=20\r\n"),
        (KEPT_BY_BUN, "20 end"),
    ] {
        let site = Site::new(script);
        site.start(&json!({"interpreter": bun(), "keep_alive_timeout": "20s"}), &[]);
        let (answer, _) = answer(&site);
        assert!(answer.contains(expected), "{answer}");
    }
    // It is also the time-out of slow responses, and is not shortened.
    let site = Site::new(KEPT_BY_BUN);
    site.start(&json!({"interpreter": bun(), "keep_alive_timeout": "2s"}), &[]);
    let (answer, _) = answer(&site);
    assert!(answer.ends_with("3 end"), "{answer}");
}
