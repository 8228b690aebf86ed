//! Where the programs of a comparison are, and making those that are not there yet.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail, ensure};
use tokio::process::Command;

/// The directory of this package in the checkout it was built from.
fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn repository() -> &'static Path {
    package().parent().unwrap_or(package())
}

/// A script of this package.
pub(crate) fn script(name: &str) -> PathBuf {
    package().join("apps").join(name)
}

/// A configuration of another proxy.
pub(crate) fn edge(name: &str) -> PathBuf {
    package().join("edge").join(name)
}

/// A script of the fixtures.
pub(crate) fn fixture(name: &str) -> PathBuf {
    repository().join("tests/fixtures/apps").join(name)
}

/// A file of a package of the fixtures, which are installed if they are not.
///
/// # Errors
/// As [`node`].
pub(crate) async fn npm(path: &str) -> anyhow::Result<PathBuf> {
    node().await?;
    let file = repository().join("tests/fixtures/node_modules").join(path);
    ensure!(
        file.exists(),
        "{} is not installed: npm ci in tests/fixtures",
        file.display()
    );
    Ok(file)
}

/// Node 22 of the fixtures, which are installed if they are not.
///
/// # Errors
/// `npm ci` fails, or does not bring it.
pub(crate) async fn node() -> anyhow::Result<PathBuf> {
    node_of("22").await
}

/// The same of another major version.
///
/// # Errors
/// As [`node`].
pub(crate) async fn node_of(major: &str) -> anyhow::Result<PathBuf> {
    let fixtures = repository().join("tests/fixtures");
    let node = fixtures.join(format!("node_modules/node{major}/bin/node"));
    if !node.exists() {
        eprintln!("installing the Node versions of tests/fixtures");
        succeed(Command::new("npm").arg("ci").current_dir(&fixtures)).await?;
    }
    ensure!(node.exists(), "no Node at {} after `npm ci`", node.display());
    Ok(node)
}

/// The version a Node says it has.
///
/// # Errors
/// It cannot be executed.
pub(crate) async fn node_version(node: &Path) -> anyhow::Result<String> {
    let output = Command::new(node).arg("--version").output().await;
    let output = output.with_context(|| format!("executing {}", node.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The release build of rpm, which is built if it is not there.
///
/// # Errors
/// cargo fails, or builds it elsewhere.
pub(crate) async fn rpm() -> anyhow::Result<PathBuf> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from);
    let rpm = target.join("release/rpm");
    if !rpm.exists() {
        eprintln!("building rpm");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let build = ["build", "--release", "--package", "rpm"];
        succeed(Command::new(cargo).args(build).current_dir(repository())).await?;
    }
    rpm.canonicalize()
        .with_context(|| format!("no rpm at {} after the build", rpm.display()))
}

/// A program that was named, by its real path.
///
/// # Errors
/// It is not there.
pub(crate) fn program(path: &Path) -> anyhow::Result<PathBuf> {
    path.canonicalize()
        .with_context(|| format!("no program at {}", path.display()))
}

async fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let shown = format!("{:?}", command.as_std());
    let status = command.stdin(Stdio::null()).kill_on_drop(true).status().await;
    let status = status.with_context(|| format!("executing {shown}"))?;
    if !status.success() {
        bail!("{shown} failed: {status}");
    }
    Ok(())
}
