//! What the `rpm` that is built for use has and a test build has not: the commit that it was built from, and no symbols. `strip` in the
//! profile would leave them out, but cargo strips no more than the debug information of a package that has an `opt-level` of its own, which
//! this one has.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is_set = |name: &str, value: &str| std::env::var(name).is_ok_and(|set| set == value);
    if !is_set("PROFILE", "release") {
        return;
    }
    // `cargo xtask dist` builds with line tables, and takes the symbols out by itself.
    if is_set("DEBUG", "false") {
        println!("cargo::rustc-link-arg-bins=-Wl,--strip-all");
    }
    if let Some(commit) = git(&["log", "-1", "--format=%h %cs", "--abbrev=9"]) {
        println!("cargo::rustc-env=RPM_COMMIT={commit}");
    }
    // It changes with every commit and every checkout.
    for path in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", path]);
        if let Some(path) = path.filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

/// What git prints; `None` without git, or outside of a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let ran = Command::new("git").args(arguments).output().ok()?;
    let printed = String::from_utf8(ran.stdout).ok()?;
    let line = printed.trim();
    (ran.status.success() && !line.is_empty()).then(|| line.to_owned())
}
