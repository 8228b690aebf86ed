//! The programs that tests run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::reachable::{What, reachable};

/// The root of the checkout.
///
/// # Panics
/// The checkout was moved after this crate was built.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .and_then(Path::parent)
        .expect("crates/rpm-testkit is two deep")
}

/// A program of `tests/fixtures/apps`.
///
/// # Panics
/// There is no such program.
#[must_use]
pub fn fixture(name: &str) -> PathBuf {
    let path = repository().join("tests/fixtures/apps").join(name);
    assert!(path.exists(), "no fixture {}", path.display());
    reachable(path, What::Directory)
}

/// The Node of a major version, installed by the first test that needs one.
///
/// # Panics
/// It cannot be installed.
#[must_use]
pub fn node(major: u32) -> PathBuf {
    installed(&format!("node{major}/bin/node"))
}

/// Bun, installed in the same way.
///
/// # Panics
/// It cannot be installed.
#[must_use]
pub fn bun() -> PathBuf {
    installed("bun/bin/bun")
}

/// Deno, installed in the same way.
///
/// # Panics
/// It cannot be installed.
#[must_use]
pub fn deno() -> PathBuf {
    installed("deno/deno")
}

/// The directory of the programs that use the JavaScript API, with their npm packages installed.
///
/// # Panics
/// It cannot be installed.
#[must_use]
pub fn javascript() -> PathBuf {
    with_packages("javascript")
}

/// The script that uses the dashboard in a browser, with its npm packages installed.
///
/// # Panics
/// It cannot be installed.
#[must_use]
pub fn browser_script() -> PathBuf {
    with_packages("browser").join("page.mjs")
}

/// A Node program that counts with prom-client, which is installed beside it.
///
/// # Panics
/// It cannot be installed.
#[must_use]
pub fn metrics_app() -> PathBuf {
    with_packages("metrics").join("app.js")
}

fn with_packages(name: &str) -> PathBuf {
    let directory = repository().join("tests/fixtures").join(name);
    // npm writes this file last.
    if !directory.join("node_modules/.package-lock.json").exists() {
        install();
    }
    directory
}

fn installed(program: &str) -> PathBuf {
    let path = repository().join("tests/fixtures/node_modules").join(program);
    if !path.exists() {
        install();
    }
    assert!(path.exists(), "no {}", path.display());
    reachable(path, What::File)
}

/// Called only if something is missing: it waits for every other cargo that builds in the same directory.
fn install() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let done = Command::new(env!("CARGO"))
            .args(["xtask", "fixtures"])
            .current_dir(repository())
            .output();
        let done = done.expect("cargo runs");
        assert!(
            done.status.success(),
            "cargo xtask fixtures: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    });
}
