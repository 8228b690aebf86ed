//! Leaving the terminal, in a process of its own.

use std::fs::{self, File};
use std::os::fd::AsFd as _;

use crate::support::{command, so, wait_until};
use rpm_sys::spawn::spawn;
use rpm_sys::{ExitStatus, daemonize};

#[test]
fn a_detached_process_leads_a_session_and_writes_to_its_log() {
    let log = std::env::temp_dir().join(format!("rpm-sys-detach-{}", std::process::id()));
    let test = std::env::current_exe().unwrap();
    // A process group leader cannot leave its session, and every spawned process is one: hence the shell.
    let script = "\"$0\" --exact --ignored --nocapture daemonize::detach_and_speak; exit $?";
    let mut what = command("/bin/sh", &["-c", script, test.to_str().unwrap()]);
    what.env.push(("RPM_SYS_LOG".into(), log.clone().into()));
    let child = spawn(what).unwrap();
    let mut status = None;
    wait_until(|| {
        status = child.pidfd.try_wait().unwrap();
        so(status.is_some())
    });
    let text = fs::read_to_string(&log).unwrap_or_default();
    let _ = fs::remove_file(&log);
    assert_eq!(status, Some(ExitStatus::Code(0)), "{text}");
    assert!(text.contains("spoken into the log"), "{text}");
}

#[test]
#[ignore = "run by a_detached_process_leads_a_session_and_writes_to_its_log in a process of its own"]
fn detach_and_speak() {
    let log = File::create(std::env::var_os("RPM_SYS_LOG").unwrap()).unwrap();
    daemonize::leave_session();
    daemonize::redirect_stdio(Some(log.as_fd())).unwrap();
    println!("spoken into the log");
    let own = rustix::process::getpid();
    assert_eq!(rustix::process::getsid(None).unwrap(), own);
    assert_eq!(
        fs::read_link("/proc/self/fd/0").unwrap().to_str(),
        Some("/dev/null")
    );
    daemonize::redirect_stdio(None).unwrap();
    for number in 0..3 {
        let target = fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
        assert_eq!(target.to_str(), Some("/dev/null"));
    }
    daemonize::redirect_stdio(Some(log.as_fd())).unwrap();
}
