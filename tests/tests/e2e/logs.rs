//! The output of apps: stored unchanged, shown while it grows, and never blocking anything.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rpm_e2e::app::App;
use rpm_e2e::ask::{BOUND, workers};
use rpm_e2e::clients::beside;
use rpm_e2e::place::Place;
use rpm_e2e::process::own_bytes;
use rpm_testkit::{Port, Rpm, Traffic, get, wait_until};
use rpm_wire::api::{LogLine, Stream};

/// A running `rpm logs`; ended when dropped.
struct Following {
    child: Child,
    lines: Receiver<String>,
}

impl Following {
    fn start(rpm: &Rpm, args: &[&str]) -> Following {
        let mut command = rpm.command(["logs"].iter().chain(args));
        let mut child = command.stdout(Stdio::piped()).spawn().expect("rpm runs");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Following { child, lines }
    }

    fn next(&self) -> String {
        self.lines.recv_timeout(BOUND).expect("another line")
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes `say.js` print.
fn say(port: &Port, what: &str) {
    assert_eq!(
        get(port.number(), &format!("/?{what}"))
            .expect("an answer")
            .status,
        200
    );
}

fn saying() -> (Rpm, Port) {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("say.js", "1").port(&port).start(&rpm);
    (rpm, port)
}

#[test]
fn parts_binary_bytes_and_long_lines_survive_byte_for_byte() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("longline.js", "1").port(&port).start(&rpm);
    let mut expected = b"one line in parts\n\xff\x00\xc3(\n".to_vec();
    expected.extend(vec![b'm'; 1 << 20]);
    expected.extend(b"\nunfinished");
    // The command returns when everything is written.
    let _ = rpm.ok(["logs", "--nostream", "--lines", "0"]);
    assert!(
        rpm.output("longline", "out", Some(0)) == expected,
        "the bytes differ"
    );
}

#[test]
fn the_last_lines_are_shown_behind_their_origin() {
    let (rpm, port) = saying();
    for what in ["out=one", "out=two", "out=three", "err=broken"] {
        say(&port, what);
    }
    assert_eq!(
        rpm.ok(["logs", "say", "--nostream", "--lines", "2"]),
        "0|say | two\n0|say | three\n0|say | broken\n"
    );
    assert_eq!(
        rpm.ok(["logs", "0", "--nostream", "--lines", "1"]),
        "0|say | three\n0|say | broken\n"
    );
    let json = rpm.ok(["logs", "--nostream", "--lines", "1", "--json"]);
    let lines: Vec<LogLine> = json
        .lines()
        .map(|line| serde_json::from_str(line).expect("a log line"))
        .collect();
    let line = |stream, line: &str| LogLine {
        id: 0,
        name: "say".to_owned(),
        stream,
        line: line.to_owned(),
        shared: false,
        time_ms: None,
        to: None,
    };
    assert_eq!(lines, [line(Stream::Out, "three"), line(Stream::Err, "broken")]);
    assert!(rpm.fails(["logs", "nobody", "--nostream"]).contains("nobody"));
}

#[test]
fn several_apps_are_shown() {
    let rpm = Rpm::new();
    let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
    for (port, (name, text)) in ports.iter().zip([("one", "1"), ("two", "2"), ("three", "3")]) {
        App::new("say.js").port(port).args(["--name", name]).start(&rpm);
        fs::write(
            rpm.home().join(format!("logs/{name}-out.log")),
            format!("{text}\n"),
        )
        .expect("a log");
    }
    let shown = |targets: &[&str]| rpm.ok([&["logs", "--nostream", "--raw"], targets].concat());
    assert_eq!(shown(&["one", "three"]), "1\n3\n");
    assert_eq!(shown(&["1", "one", "/tw/"]), "1\n2\n", "each once, by id");
    assert_eq!(shown(&[]), "1\n2\n3\n");
    assert!(rpm.fails(["logs", "one", "four"]).contains("four"));
}

#[test]
fn what_is_added_is_shown_as_it_comes() {
    let (rpm, port) = saying();
    say(&port, "out=before");
    let following = Following::start(&rpm, &["say", "--lines", "1"]);
    assert_eq!(following.next(), "0|say | before");
    for text in ["first", "second"] {
        say(&port, &format!("out={text}"));
        assert_eq!(following.next(), format!("0|say | {text}"));
    }
    let json = Following::start(&rpm, &["--lines", "0", "--json"]);
    // Without past lines nothing shows when it has begun to follow, so this prints until a line appears.
    let heard = wait_until(
        "a line as JSON",
        BOUND,
        || {
            say(&port, "err=later");
            json.lines.recv_timeout(Duration::from_millis(200)).ok()
        },
        Option::is_some,
    );
    let line: LogLine = serde_json::from_str(&heard.expect("a line")).expect("JSON");
    assert_eq!(
        (line.id, line.stream, line.line.as_str()),
        (0, Stream::Err, "later")
    );
}

#[test]
fn an_app_that_prints_without_end_is_nobody_elses_trouble() {
    let (rpm, port, others) = (Rpm::new(), Port::reserve(), Port::reserve());
    App::cluster("hello.js", "1").port(&others).start(&rpm);
    App::cluster("noisy.js", "1").port(&port).start(&rpm);
    let path = rpm.home().join("logs/noisy-out-1.log");
    let size = || fs::metadata(&path).map_or(0, |meta| meta.len());
    let traffic = Traffic::start(&beside(&others, 2));
    let mut took = Vec::new();
    let ping = || {
        let begun = Instant::now();
        assert_eq!(rpm.ok(["ping"]), "{ msg: 'pong' }\n");
        took.push(begun.elapsed());
        size()
    };
    wait_until("it has printed 100 MB", 3 * BOUND, ping, |size| *size > 100 << 20);
    // On a busy machine a single one may be slow for other reasons.
    took.sort_unstable();
    let (median, slowest) = (took[took.len() / 2], took[took.len() - 1]);
    assert!(
        median < Duration::from_secs(2) && slowest < BOUND,
        "pings took {took:?}"
    );
    traffic.wait_ok(20);
    traffic
        .finish()
        .check_clean()
        .expect("another app is not disturbed");
    let own = own_bytes(rpm.daemon_pid().expect("a daemon"));
    assert!(own < 8 << 20, "{own} bytes of its own");
    rpm.ok(["delete", "noisy"]);
}

#[test]
fn a_full_disk_costs_the_logs_and_nothing_else() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    fs::create_dir(rpm.home().join("logs")).expect("a directory");
    let log = rpm.home().join("logs/say-out-0.log");
    std::os::unix::fs::symlink("/dev/full", &log).expect("a link");
    App::cluster("say.js", "1").port(&port).start(&rpm);
    for _ in 0..5 {
        // Twice the capacity of a pipe: the app would block if no process read.
        say(&port, &format!("out={}&times=130", "x".repeat(1000)));
    }
    assert_eq!(workers(&port, 1).len(), 1);
    let _ = rpm.ok(["logs", "--nostream", "--lines", "0"]);
    let complaints = || rpm.log().matches("losing output").count();
    wait_until("the daemon says so", BOUND, complaints, |count| *count > 0);
    assert_eq!(complaints(), 1, "once\n{}", rpm.log());
    // When there is room again, the gap is marked.
    fs::remove_file(&log).expect("the link");
    say(&port, "out=again");
    let text = || fs::read_to_string(&log).unwrap_or_default();
    let text = wait_until("it is written again", BOUND, text, |text| {
        text.ends_with("again\n")
    });
    assert!(text.contains("bytes of output were lost here]"), "{text}");
}

#[test]
fn large_logs_are_rotated_and_who_follows_misses_nothing() {
    let (rpm, place) = (Rpm::new(), Place::new());
    // A line per request, and a thousand at the end.
    place.write(
        "app.js",
        "let n = 0; const line = () => console.log(`line ${n++} ${'x'.repeat(80)}`);
        process.on('SIGUSR2', () => { for (let i = 0; i < 1000; i++) line(); });
        line(); setInterval(() => {}, 1000);",
    );
    // A thousand lines fit into the files that are kept: a follower that gets no CPU meanwhile finds all of them.
    place.ok(
        &rpm,
        ["start", "app.js", "--log-max-size", "40K", "--log-keep", "4"],
    );
    let following = Following::start(&rpm, &["app", "--raw"]);
    assert!(following.next().starts_with("line 0 "));
    for round in 0..4 {
        place.ok(&rpm, ["sendSignal", "SIGUSR2", "app"]);
        for number in 1..=1000 {
            let expected = format!("line {} ", round * 1000 + number);
            let line = following.next();
            assert!(line.starts_with(&expected), "{line} instead of {expected}");
        }
    }
    let logs = rpm.home().join("logs");
    let names = || {
        let entries = fs::read_dir(&logs).expect("a directory");
        let name = |entry: std::io::Result<fs::DirEntry>| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        };
        let mut names: Vec<String> = entries
            .map(name)
            .filter(|name| name.starts_with("app-out.log."))
            .collect();
        names.sort();
        names
    };
    // A follower may get a line before its file has got its number.
    let kept = [1, 2, 3, 4].map(|number| format!("app-out.log.{number}"));
    wait_until("four files are kept", BOUND, names, |names| *names == kept);
}

#[test]
fn a_file_of_several_instances_is_shown_once() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("say.js", "3")
        .args(["--merge-logs"])
        .port(&port)
        .start(&rpm);
    say(&port, "out=before");
    let following = Following::start(&rpm, &["say", "--lines", "5"]);
    // The file does not show which of them printed it.
    assert_eq!(following.next(), "say | before");
    for text in ["first", "second"] {
        say(&port, &format!("out={text}"));
        assert_eq!(following.next(), format!("say | {text}"));
    }
    assert_eq!(rpm.ok(["logs", "--nostream", "--raw"]), "before\nfirst\nsecond\n");
    // One of them names the same file.
    assert_eq!(
        rpm.ok(["logs", "1", "--nostream", "--lines", "1"]),
        "say | second\n"
    );
}

#[test]
fn past_lines_have_the_time_and_the_order_of_their_writing() {
    let (rpm, port) = saying();
    let now = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        u64::try_from(since.as_millis()).expect("a time")
    };
    let pass = |since: u64| wait_until("time passes", BOUND, now, |now| *now > since + 2);
    let mut spoken = Vec::new();
    for (stream, text) in [("out", "one"), ("err", "two"), ("out", "three"), ("err", "four")] {
        let before = now();
        say(&port, &format!("{stream}={text}"));
        let written = || rpm.ok(["logs", "--nostream", "--raw", "--lines", "1"]);
        wait_until("it is written", BOUND, written, |shown| shown.contains(text));
        spoken.push((text, before..=now()));
        // The next line is of a later time, and so is the query below.
        pass(now());
    }
    assert_eq!(rpm.ok(["logs", "--nostream", "--raw"]), "one\ntwo\nthree\nfour\n");
    let answer = rpm.api("GET", "/v1/logs?lines=9", "");
    let lines = answer
        .body
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line"));
    let lines: Vec<LogLine> = lines.collect();
    for (line, (text, when)) in lines.iter().zip(&spoken) {
        let time = line.time_ms.expect("its time");
        assert!(line.line == *text && when.contains(&time), "{line:?}, {when:?}");
    }
    let when = |at: usize| {
        let all = rpm.ok(["logs", "--nostream", "--json"]);
        let line: serde_json::Value =
            serde_json::from_str(all.lines().nth(at).expect("a line")).expect("JSON");
        line["timestamp"].as_str().expect("its time").to_owned()
    };
    let (second, third) = (when(1), when(2));
    let past = |args: &[&str]| rpm.ok([&["logs", "--raw"], args].concat());
    assert_eq!(past(&["--nostream", "--since", &second]), "two\nthree\nfour\n");
    assert_eq!(
        past(&["--until", &third]),
        "one\ntwo\nthree\n",
        "it does not follow"
    );
    assert_eq!(past(&["--since", &second, "--until", &third]), "two\nthree\n");
    assert_eq!(past(&["--nostream", "--since", "1h"]), "one\ntwo\nthree\nfour\n");
    assert_eq!(
        past(&["--nostream", "--since", &second, "-n", "1"]),
        "three\nfour\n",
        "of each file"
    );
    let following = Following::start(&rpm, &["--raw", "--since", &third]);
    assert_eq!([following.next(), following.next()], ["three", "four"]);
    say(&port, "out=five");
    assert_eq!(following.next(), "five");
    drop(following);
    assert!(rpm.fails(["logs", "--since", "soon"]).contains("how long ago"));
    // For lines that another program wrote, no time is known.
    let file = rpm.home().join("logs/say-out-0.log");
    fs::remove_file(rpm.home().join("logs/.say-out-0.log.times")).expect("the index");
    fs::write(&file, "found\n").expect("the file");
    let shown = rpm.ok(["logs", "--nostream", "--raw", "--timestamp=YYYY"]);
    assert!(shown.starts_with("-: found\n20"), "{shown}");
    assert_eq!(past(&["--nostream", "--since", "1h"]), "two\nfour\n");
}
