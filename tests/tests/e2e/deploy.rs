//! `deploy`, with real git and an `ssh` that runs commands on this machine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use rpm_e2e::place::Place;
use rpm_testkit::{Ran, Rpm};
use serde_json::json;

fn git(place: &Place, args: &[&str]) {
    let done = Command::new("git")
        .args([
            "-c",
            "user.name=x",
            "-c",
            "user.email=x@example.org",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(args)
        .current_dir(place.path().join("origin"))
        .output()
        .expect("git runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn commit(place: &Place, version: &str) {
    place.write("origin/version", version);
    git(place, &["add", "."]);
    git(place, &["commit", "-qm", version]);
}

fn deploy_command(rpm: &Rpm, place: &Place, words: &[&str]) -> Command {
    let path = format!(
        "{}:{}",
        place.path().join("bin").display(),
        std::env::var("PATH").expect("a path")
    );
    let mut command = rpm.command([&["deploy"][..], words].concat());
    command.env("PATH", path).current_dir(place.path());
    command
}

fn deploy(rpm: &Rpm, place: &Place, words: &[&str]) -> Ran {
    let mut command = deploy_command(rpm, place, words);
    command.output().expect("it runs").into()
}

#[test]
fn versions_come_and_go_by_git() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let ssh = "#!/bin/sh\necho \"$@\" >> \"$(dirname \"$0\")/../asked\"\nfor last; do :; done\nexec sh -c \"$last\"\n";
    place.write("bin/ssh", ssh);
    fs::set_permissions(place.path().join("bin/ssh"), fs::Permissions::from_mode(0o755)).expect("a program");
    place.write("origin/readme", "x");
    git(&place, &["init", "-q"]);
    commit(&place, "1");
    let there = place.path().join("there");
    let file = json!({"apps": [], "deploy": {"production": {
        "user": "node", "host": "example.org", "port": 2222, "ref": "origin/main", "repo": place.path().join("origin"),
        "path": there, "env": {"COLOR": "it's green"}, "pre-deploy-local": "echo local >> hooks",
        "post-setup": "echo \"setup $COLOR\" > ../hooks", "post-deploy": "echo \"deployed $(cat version)\" >> ../hooks",
    }}});
    place.write("ecosystem.json", &file.to_string());
    let early = deploy(&rpm, &place, &["production"]);
    assert!(
        early.code == Some(1) && early.stderr.contains("is not set up"),
        "{early:?}"
    );
    let ok = |words: &[&str]| {
        let ran = deploy(&rpm, &place, words);
        assert_eq!(ran.code, Some(0), "{words:?}: {ran:#?}");
        ran.stdout
    };
    ok(&["production", "setup"]);
    ok(&["ecosystem.json", "production"]);
    commit(&place, "2");
    ok(&["production", "update"]);
    assert_eq!(place.read("there/current/version"), "2");
    ok(&["production", "revert", "1"]);
    assert_eq!(place.read("there/current/version"), "1");
    assert_eq!(
        place.read("there/hooks"),
        "setup it's green\ndeployed 1\ndeployed 2\ndeployed 1\n"
    );
    assert_eq!(ok(&["production", "list"]).lines().count(), 3);
    assert_eq!(ok(&["production", "exec", "cat version"]), "1");
    assert_eq!(place.read("hooks"), "local\nlocal\nlocal\n");
    let asked = place.read("asked");
    for secret in ["green", "origin", "cat version"] {
        assert!(!asked.contains(secret), "all users can read arguments: {asked}");
    }
    let mut piped = deploy_command(&rpm, &place, &["production", "exec", "cat"]);
    let piped = piped.stdin(fs::File::open(place.path().join("hooks")).expect("it is there"));
    let piped = piped.output().expect("it runs");
    assert_eq!(
        String::from_utf8_lossy(&piped.stdout),
        "local\nlocal\nlocal\n",
        "what is piped is the command's"
    );
    assert!(
        asked
            .lines()
            .any(|line| line.starts_with("-p 2222 node@example.org bash -c")),
        "{asked}"
    );
    for (words, part) in [
        (&["staging"][..], "there are: production"),
        (
            &["production", "revert", "9"],
            "there are not that many earlier versions",
        ),
        (&["production", "ref", "nonsense"], "nonsense"),
    ] {
        let ran = deploy(&rpm, &place, words);
        assert!(
            ran.code == Some(1) && ran.stderr.contains(part),
            "{words:?}: {ran:#?}"
        );
    }
}
