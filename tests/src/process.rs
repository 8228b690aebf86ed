//! Processes by pid.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use rpm_testkit::repository;
use rustix::process::Signal;

/// Sends a signal, named as for kill(1): `KILL`.
///
/// # Panics
/// There is no such process.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("sh")
        .args(["-c", &format!("kill -{name} {pid}")])
        .status()
        .expect("sh runs");
    assert!(sent.success(), "no signal {name} for {pid}");
}

/// The command with its environment, run in one namespace of this process: `--mount` or `--net`, as nsenter(1) calls it.
#[must_use]
pub fn entering(namespace: &str, of: u32, command: &Command) -> Command {
    let mut entered = Command::new("nsenter");
    entered
        .args([namespace, "--target", &of.to_string(), "--"])
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir("/")
        .stdin(Stdio::null());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => entered.env(key, value),
            None => entered.env_remove(key),
        };
    }
    entered
}

/// True if the process runs; false for a zombie.
#[must_use]
pub fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().next())
        .is_some_and(|state| state != "Z")
}

/// The memory of the process itself, in bytes (`RssAnon`); 0 if it does not run. The mapped binary, which is large in a test build, does
/// not count.
///
/// # Panics
/// The kernel's format is unknown.
#[must_use]
pub fn own_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .unwrap_or("0 kB");
    let kb = line.trim().trim_end_matches(" kB");
    kb.parse::<u64>().expect("a number of kB") * 1024
}

/// `cargo xtask`, which has built this test and is beside it. (A cargo would wait for every other cargo of this user.)
///
/// # Panics
/// The tests were not started by it.
#[must_use]
pub fn xtask() -> Command {
    let test = env::current_exe().expect("a test is a file");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("a test is in target/<profile>/deps");
    let program = profile.join("xtask");
    assert!(
        program.is_file(),
        "no {}: run `cargo xtask test`",
        program.display()
    );
    let mut xtask = Command::new(program);
    xtask.current_dir(repository());
    xtask
}

/// The number of descriptors that the process has open.
///
/// # Panics
/// It does not run.
#[must_use]
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("the process runs")
        .count()
}

/// The first process that this one has started and that still runs.
#[must_use]
pub fn first_child(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// The name of the program that it runs, up to 15 bytes; empty if it is gone.
#[must_use]
pub fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().to_owned()
}

/// True if the process has a handler for SIGINT.
#[must_use]
pub fn catches_interrupt(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (Signal::INT.as_raw() - 1)) != 0)
}

/// Its root directory, as it is seen from here.
#[must_use]
pub fn root(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join("root")
}

/// A command in the namespaces of a process, at its root and without the environment of the test. The caller adds the words that are run.
#[must_use]
pub fn inside(pid: u32) -> Command {
    let mut command = Command::new("nsenter");
    command
        .args(["--target", &pid.to_string()])
        .args(["--mount", "--pid", "--ipc", "--cgroup", "--"])
        .args(["env", "-i", "PATH=/usr/sbin:/usr/bin"])
        .current_dir("/")
        .stdin(Stdio::null());
    command
}
