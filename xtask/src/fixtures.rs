//! `cargo xtask fixtures`: installs the runtimes for the tests, in the versions of the lock file in tests/fixtures.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::workspace::Workspace;

/// How long to wait for another `npm ci`: a slow network takes minutes for a few Node builds.
const PATIENCE: Duration = Duration::from_secs(600);

/// How often to check whether the other one is done: a fraction of a second, because a person waits.
const GLANCE: Duration = Duration::from_millis(200);

/// A copy of the lock file from which `node_modules` was installed, written last. File times would mislead after a checkout or from a
/// restored cache, and do not show an interrupted install.
const STAMP: &str = "node_modules/.installed-from.json";

/// The directories to install: the runtimes, what drives a browser, the programs that use the JavaScript API, and the app that has metrics
/// of its own.
const DIRECTORIES: [&str; 4] = [
    "tests/fixtures",
    "tests/fixtures/browser",
    "tests/fixtures/javascript",
    "tests/fixtures/metrics",
];

/// Installs what is missing. Fails if npm is missing or fails, or if another install does not end.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    fs::create_dir_all(&workspace.target)
        .with_context(|| format!("cannot create {}", workspace.target.display()))?;
    let lock = workspace.target.join("fixtures.lock");
    for directory in DIRECTORIES {
        install(&workspace.root.join(directory), &lock, Path::new("npm"))
            .with_context(|| format!("cannot install {directory}"))?;
    }
    Ok(())
}

fn install(directory: &Path, lock: &Path, npm: &Path) -> anyhow::Result<()> {
    let wanted = directory.join("package-lock.json");
    let wanted = fs::read(&wanted).with_context(|| format!("cannot read {}", wanted.display()))?;
    let _held = hold(lock, PATIENCE)?;
    let stamp = directory.join(STAMP);
    if fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        println!("fixtures: up to date");
        return Ok(());
    }
    npm_ci(directory, npm)?;
    // Without dependencies npm creates no directory.
    fs::create_dir_all(directory.join("node_modules")).context("cannot create node_modules")?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    println!("fixtures: installed");
    Ok(())
}

/// Takes an exclusive lock on the file `path`, which lasts until the returned file is dropped.
fn hold(path: &Path, patience: Duration) -> anyhow::Result<File> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let until = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(GLANCE),
            Err(TryLockError::WouldBlock) => {
                bail!(
                    "another install has held {} for {patience:?}; see what hangs there",
                    path.display()
                )
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

fn npm_ci(directory: &Path, npm: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(npm);
    command
        .args(["ci", "--no-audit", "--no-fund", "--loglevel=error"])
        .current_dir(directory);
    let status = match command.status() {
        Ok(status) => status,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!(
                "{} is not on the PATH: install Node with npm, the tests run real Node workers",
                npm.display()
            )
        }
        Err(error) => return Err(error).with_context(|| format!("cannot run {}", npm.display())),
    };
    if !status.success() {
        bail!("npm ci in {} failed ({status})", directory.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::path::PathBuf;
    use std::process::Stdio;

    /// A directory with a lock file and an `npm` that counts its calls; removed when dropped.
    struct Sandbox(PathBuf);

    impl Sandbox {
        fn new(name: &str, exit: u8) -> Sandbox {
            let directory = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
            fs::create_dir_all(&directory).expect("temporary directory");
            fs::write(directory.join("package-lock.json"), "one").expect("lock file");
            let script = format!("#!/bin/sh\necho \"$1\" >> calls\nexit {exit}\n");
            // Another process writes it: a child that a concurrent test forks would hold it open for writing, and then it could not be
            // executed.
            let mut writer = Command::new("/bin/sh")
                .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
                .arg(directory.join("npm"))
                .stdin(Stdio::piped())
                .spawn()
                .expect("a shell");
            let mut input = writer.stdin.take().expect("its input");
            input.write_all(script.as_bytes()).expect("script");
            drop(input);
            assert!(writer.wait().expect("it ends").success());
            Sandbox(directory)
        }

        fn install(&self) -> anyhow::Result<()> {
            install(&self.0, &self.0.join("lock"), &self.0.join("npm"))
        }

        fn calls(&self) -> String {
            fs::read_to_string(self.0.join("calls")).unwrap_or_default()
        }
    }

    impl Drop for Sandbox {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn installs_once_and_again_when_the_lock_file_changes() {
        let sandbox = Sandbox::new("once", 0);
        sandbox.install().expect("first");
        sandbox.install().expect("second");
        assert_eq!(sandbox.calls(), "ci\n");
        fs::write(sandbox.0.join("package-lock.json"), "two").expect("lock file");
        sandbox.install().expect("third");
        assert_eq!(sandbox.calls(), "ci\nci\n");
    }

    #[test]
    fn an_install_that_failed_is_tried_again() {
        let sandbox = Sandbox::new("again", 3);
        let error = sandbox.install().expect_err("npm failed");
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        sandbox.install().expect_err("npm failed again");
        assert_eq!(sandbox.calls(), "ci\nci\n");
    }

    #[test]
    fn a_missing_npm_says_what_to_do() {
        let sandbox = Sandbox::new("missing", 0);
        fs::remove_file(sandbox.0.join("npm")).expect("script");
        let error = sandbox.install().expect_err("no npm");
        assert!(error.to_string().contains("install Node with npm"), "{error}");
    }

    #[test]
    fn a_held_lock_is_waited_for_and_then_reported() {
        let sandbox = Sandbox::new("held", 0);
        let path = sandbox.0.join("lock");
        let held = hold(&path, Duration::ZERO).expect("free");
        let error = hold(&path, Duration::ZERO).expect_err("taken");
        assert!(error.to_string().contains("another install"), "{error}");
        drop(held);
        // A child that a concurrent test forks also holds the lock, until it executes its program.
        hold(&path, Duration::from_secs(20)).expect("free again");
    }
}
