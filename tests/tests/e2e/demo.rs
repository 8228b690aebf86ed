//! `rpm demo`, which newcomers run first: it needs nothing, ends by itself and leaves nothing behind.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rpm_testkit::{Port, Ran, Rpm, get, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// The demonstration takes some 4 s.
const BOUND: Duration = Duration::from_secs(60);

/// A directory of the test's own for temporary files, and the `rpm` that uses it.
struct Place {
    rpm: Rpm,
    temporary: PathBuf,
}

impl Place {
    fn new() -> Place {
        let rpm = Rpm::new();
        let temporary = rpm.home().join("t");
        fs::create_dir(&temporary).expect("a directory");
        Place { rpm, temporary }
    }

    fn demo(&self, args: &[&str]) -> Command {
        let mut command = self.rpm.command([&["demo"], args].concat());
        command.env("TMPDIR", &self.temporary);
        command
    }

    /// A demonstration whose workers serve, and the lines that it prints from then on.
    fn begun(&self) -> (Child, impl Iterator<Item = std::io::Result<String>> + use<>) {
        let mut demo = self.demo(&[]);
        let piped = demo.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("rpm runs");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        read_until(&mut lines, "steering: ");
        (child, lines)
    }

    /// The processes whose environment names the directory: the daemon and its workers inherit it.
    fn processes(&self) -> Vec<(u32, String)> {
        let mark = format!("TMPDIR={}", self.temporary.display());
        let pids = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter_map(|pid| command_line_with(pid, &mark).map(|line| (pid, line)))
            .collect()
    }

    fn assert_empty(&self) {
        let left: Vec<_> = fs::read_dir(&self.temporary)
            .expect("the directory")
            .flatten()
            .collect();
        assert!(left.is_empty(), "{left:?}");
        wait_until("no process is left", BOUND, || self.processes(), Vec::is_empty);
    }
}

/// The command line of a process that has this variable in its environment; `None` for others.
fn command_line_with(pid: u32, variable: &str) -> Option<String> {
    let environment = fs::read(Path::new("/proc").join(pid.to_string()).join("environ")).ok()?;
    let found = environment
        .split(|byte| *byte == 0)
        .any(|entry| entry == variable.as_bytes());
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    (found && !line.is_empty()).then(|| String::from_utf8_lossy(&line).replace('\0', " "))
}

#[test]
fn the_demonstration_ends_by_itself_and_leaves_nothing() {
    let place = Place::new();
    let ran: Ran = place.demo(&[]).output().expect("rpm runs").into();
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    for part in [
        "workers share http://127.0.0.1:",
        "steering: ",
        "kill -9 ",
        "took its place",
        "by worker 0",
        "p99",
    ] {
        assert!(ran.stdout.contains(part), "no {part:?} in:\n{}", ran.stdout);
    }
    let verdict = ran.stdout.trim_end().lines().last().unwrap_or_default();
    let (requests, rest) = verdict.split_once(" requests to ").expect(verdict);
    let (_, lost) = rest
        .split_once(" workers, one of them killed under load: ")
        .expect(verdict);
    let lost: u64 = lost
        .split(' ')
        .next()
        .and_then(|lost| lost.parse().ok())
        .expect(verdict);
    let ok = count(&ran.stdout, "ok");
    assert_eq!(requests.parse::<u64>(), Ok(ok + lost), "{}", ran.stdout);
    let cut = count(&ran.stdout, "reset_fresh");
    assert!(
        lost >= cut && (lost == 0 || verdict.contains("the killed worker was answering")),
        "{}",
        ran.stdout
    );
    assert!(count(&ran.stdout, "ok") > 100, "{}", ran.stdout);
    for failure in ["refused", "timed_out"] {
        assert_eq!(count(&ran.stdout, failure), 0, "{}", ran.stdout);
    }
    place.assert_empty();
}

/// The number after a word of the histogram.
fn count(output: &str, word: &str) -> u64 {
    let mut lines = output.lines().map(str::split_whitespace);
    let number = lines.find_map(|mut line| (line.next() == Some(word)).then(|| line.next()).flatten());
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no count of {word:?} in:\n{output}"))
}

/// Reads the demonstration's output up to a line that contains `part`.
fn read_until(output: &mut impl Iterator<Item = std::io::Result<String>>, part: &str) {
    let mut seen = Vec::new();
    for line in output {
        let line = line.expect("text");
        if line.contains(part) {
            return;
        }
        seen.push(line);
    }
    panic!("no {part:?} in {seen:#?}");
}

fn interrupt(child: &Child) {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .expect("a pid");
    kill_process(pid, Signal::INT).expect("it runs");
}

#[test]
fn with_a_port_it_serves_until_it_is_interrupted() {
    let (place, port) = (Place::new(), Port::reserve());
    let mut command = place.demo(&["--port", &port.to_string()]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("rpm runs");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    read_until(&mut lines, "until you press Ctrl-C");
    let page = get(port.number(), "/").expect("it serves");
    assert!(
        page.status == 200 && page.body.contains("Hello from worker"),
        "{page:?}"
    );
    assert!(
        place.processes().len() >= 4,
        "demo, daemon and two workers at least: {:?}",
        place.processes()
    );
    interrupt(&child);
    let ended = wait_until(
        "it has ended",
        BOUND,
        || child.try_wait().expect("a child"),
        Option::is_some,
    );
    let mut complaints = String::new();
    child
        .stderr
        .take()
        .expect("it is piped")
        .read_to_string(&mut complaints)
        .expect("text");
    assert_eq!(ended.and_then(|status| status.code()), Some(0), "{complaints}");
    assert!(get(port.number(), "/").is_err(), "nobody listens any more");
    place.assert_empty();
}

/// Interrupted in the middle, it cleans up nevertheless.
#[test]
fn an_interrupted_demonstration_leaves_nothing() {
    let place = Place::new();
    let (mut child, _lines) = place.begun();
    interrupt(&child);
    wait_until(
        "it has ended",
        BOUND,
        || child.try_wait().expect("a child"),
        Option::is_some,
    );
    place.assert_empty();
}

#[test]
fn without_a_reader_it_ends_and_leaves_nothing() {
    let place = Place::new();
    let (child, lines) = place.begun();
    drop(lines);
    let ran: Ran = child.wait_with_output().expect("it ends").into();
    assert!(ran.code == Some(0) && ran.stderr.is_empty(), "{ran:#?}");
    place.assert_empty();
}

#[test]
fn a_port_that_is_taken_is_named() {
    let (place, port) = (Place::new(), Port::reserve());
    let taken = std::net::TcpListener::bind(("127.0.0.1", port.number())).expect("the port is free");
    let ran: Ran = place
        .demo(&["--port", &port.to_string()])
        .output()
        .expect("rpm runs")
        .into();
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let owner = format!("pid {}", std::process::id());
    assert!(
        ran.stderr.contains("is in use by") && ran.stderr.contains(&owner),
        "{ran:#?}"
    );
    drop(taken);
    place.assert_empty();
}
