//! `link`: the program under another name.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rpm_e2e::place::Place;
use rpm_testkit::Rpm;

/// Runs a command with only these directories on the PATH.
fn typed(path: &[&Path], words: &[&str]) -> Output {
    let joined = std::env::join_paths(path).expect("a PATH");
    // The shell looks the program up, and passes the name that was typed.
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "exec \"$@\"", "sh"]).args(words);
    let ran = shell.env("PATH", joined).stdin(Stdio::null()).output();
    ran.expect("a shell runs")
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes))
        .concat()
}

#[test]
fn a_link_is_another_name_and_shadows_nobody() {
    let (rpm, place, others) = (Rpm::new(), Place::new(), Place::new());
    let (here, there) = (place.path(), others.path());
    symlink(rpm.binary(), here.join("rpmx")).expect("as npm makes it");

    let linked = typed(&[here], &["rpmx", "link", "pm2"]);
    assert!(linked.status.success(), "{linked:?}");
    assert_eq!(
        std::fs::read_link(here.join("pm2")).expect("a link"),
        Path::new("rpmx")
    );
    let help = typed(&[here], &["pm2", "--help"]);
    assert!(said(&help).contains("Usage: pm2 "), "{help:?}");
    let again = typed(&[here], &["rpmx", "link", "pm2"]);
    assert!(
        again.status.success() && said(&again).contains("already"),
        "{again:?}"
    );
    let of_pm2 = typed(&[here], &["pm2", "link", "a", "b"]);
    assert!(said(&of_pm2).contains("no hosted dashboard"), "{of_pm2:?}");

    let other = there.join("rpm");
    std::fs::write(&other, "#!/bin/sh\necho another\n").expect("a file");
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o755)).expect("ours");
    for path in [[here, there], [there, here]] {
        let refused = typed(&path, &["rpmx", "link", "rpm"]);
        let text = said(&refused);
        assert_eq!(refused.status.code(), Some(1), "{text}");
        assert!(
            text.contains(&other.display().to_string()) && text.contains("rpmx link rpm --force`"),
            "{text}"
        );
        assert!(!here.join("rpm").exists());
    }
    let forced = typed(&[here, there], &["rpmx", "link", "rpm", "--force"]);
    assert!(forced.status.success(), "{forced:?}");
    assert!(said(&typed(&[here], &["rpm", "--help"])).contains("Usage: rpm "));

    // A regular file is never replaced.
    std::fs::remove_file(here.join("rpm")).expect("ours");
    std::fs::copy(&other, here.join("rpm")).expect("a copy");
    let kept = typed(&[here], &["rpmx", "link", "rpm", "--force"]);
    assert!(
        !kept.status.success() && said(&kept).contains("move it away"),
        "{kept:?}"
    );
    assert!(here.join("rpm").is_file());
}
