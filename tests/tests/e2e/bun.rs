//! What is special about Bun: its commands, and where it looks for its preload.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use rpm_e2e::place::Place;
use rpm_testkit::{Rpm, bun, skip, wait_until};

const BOUND: Duration = Duration::from_secs(30);

/// Bun's own commands have the agent, too.
#[test]
fn bun_run_has_the_agent() {
    let site = Rpm::new();
    let bun = bun();
    let place = Place::new();
    place.write("index.ts", "console.log('up'); setInterval(() => {}, 1000);");
    let program = bun.to_str().expect("UTF-8");
    place.write(
        "package.json",
        &format!(r#"{{"scripts": {{"start": "{program} index.ts"}}}}"#),
    );
    for (name, line) in [
        ("file", format!("{program} run index.ts")),
        ("script", format!("{program} run start")),
        ("plain", format!("{program} index.ts")),
    ] {
        place.ok(&site, ["start", &line, "--name", name]);
        let out = || String::from_utf8_lossy(&site.output(name, "out", None)).into_owned();
        let said = wait_until("it runs", BOUND, out, |text| text.contains('\n'));
        assert_eq!(said, "up\n", "{line}");
    }
}

/// Another user's Bun finds its agent.
#[test]
fn bun_of_another_user_has_the_agent() {
    if !rustix::process::geteuid().is_root() {
        return skip(
            "bun_of_another_user_has_the_agent",
            "only root can start apps of other users",
        );
    }
    let site = Rpm::new();
    let place = Place::new();
    place.write("index.ts", "console.log('up'); setInterval(() => {}, 1000);");
    let bun = bun();
    place.ok(
        &site,
        [
            "start",
            "index.ts",
            "--interpreter",
            bun.to_str().expect("UTF-8"),
            "--uid",
            "nobody",
        ],
    );
    let out = || String::from_utf8_lossy(&site.output("index", "out", None)).into_owned();
    let said = wait_until("it runs", BOUND, out, |text| text.contains('\n'));
    assert_eq!(
        said,
        "up\n",
        "{}",
        String::from_utf8_lossy(&site.output("index", "error", None))
    );
}

/// Users of all workers can read what Bun loads, and none can write it, whatever umask the daemon was started with.
#[test]
fn the_agent_of_bun_has_its_own_mode() {
    for umask in ["000", "077"] {
        let (site, place) = (Rpm::new(), Place::new());
        let ping = site.command(["ping"]);
        let done = Command::new("sh")
            .args(["-c", &format!("umask {umask} && exec \"$0\" ping")])
            .arg(ping.get_program())
            .env("RPM_HOME", site.home())
            .output();
        assert!(done.is_ok_and(|done| done.status.success()));
        place.write("index.ts", "setInterval(() => {}, 1000);");
        let bun = bun();
        place.ok(
            &site,
            ["start", "index.ts", "--interpreter", bun.to_str().expect("UTF-8")],
        );
        let entries = fs::read_dir(site.home()).expect("a directory").flatten();
        let mut preloads = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("agent-"));
        let preload = preloads.next().expect("what it loads").path();
        let mode = fs::metadata(&preload).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "{umask}: {}", preload.display());
    }
}
