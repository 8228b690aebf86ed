//! `cargo xtask deny`: runs cargo-deny on third-party packages; `deny.toml` has the rules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;

use crate::tools::{DENY, call};
use crate::workspace::Workspace;

/// The checks that depend only on the lock file.
const CHECKS: [&str; 3] = ["bans", "licenses", "sources"];

/// Runs the named checks. Without a name: those of [`CHECKS`], and the advisories of the database that is stored on this machine. It is not
/// fetched: a new advisory must not fail an unchanged tree, and a build must not need a network.
pub(crate) fn run(workspace: &Workspace, checks: &[String]) -> anyhow::Result<()> {
    let mut command = DENY.command(workspace)?;
    command.arg("check");
    if !checks.is_empty() {
        command.args(checks);
        return call(command);
    }
    command.args(CHECKS);
    call(command)?;
    let Some(database) = cargo_home().and_then(|home| stored(&home)) else {
        println!(
            "advisories are left out: no database is stored here. `cargo xtask deny advisories` fetches it and asks"
        );
        return Ok(());
    };
    println!(
        "{}; `cargo xtask deny advisories` fetches the newest",
        described(&database)
    );
    let mut command = DENY.command(workspace)?;
    command.args(["--offline", "check", "advisories"]);
    call(command)
}

/// Asks a database of advisories that was fetched by other means: a clone of rustsec/advisory-db. Needs no network.
pub(crate) fn advisories(workspace: &Workspace, database: &Path) -> anyhow::Result<()> {
    ensure!(
        day_of(database).is_some(),
        "{} is no clone of a database of advisories (https://github.com/RustSec/advisory-db)",
        database.display()
    );
    println!("{}", described(database));
    let stored = workspace.target.join("advisories");
    clone(database, &stored.join(FOLDER))?;
    let config = stored.join("deny.toml");
    let rules = fs::read_to_string(workspace.root.join("deny.toml"))?;
    fs::write(&config, with_database(&rules, &stored))?;
    let mut command = DENY.command(workspace)?;
    command.arg("--config").arg(config);
    command.args(["--offline", "check", "advisories"]);
    call(command)
}

/// Where cargo-deny looks for the database, below the folder of all databases: the name has a sum of its address.
const FOLDER: &str = "advisory-db-3157b0e258782691";

/// Copies the database to where cargo-deny looks for it: it wants a checkout with its own address as the origin.
fn clone(database: &Path, to: &Path) -> anyhow::Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    let mut git = Command::new("git");
    git.args(["clone", "--quiet"]).arg(database).arg(to);
    call(git)?;
    let mut git = Command::new("git");
    git.arg("-C").arg(to);
    git.args([
        "remote",
        "set-url",
        "origin",
        "https://github.com/RustSec/advisory-db",
    ]);
    call(git)
}

/// The rules of `deny.toml`, with this folder of databases.
fn with_database(rules: &str, folder: &Path) -> String {
    let path = format!("[advisories]\ndb-path = {:?}\n", folder.display().to_string());
    rules.replacen("[advisories]\n", &path, 1)
}

/// What a database is, and its age.
fn described(database: &Path) -> String {
    let day = day_of(database);
    format!(
        "advisories of {}, as it was on {}",
        database.display(),
        day.as_deref().unwrap_or("an unknown day")
    )
}

/// Where cargo keeps what it has fetched.
fn cargo_home() -> Option<PathBuf> {
    let named = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    named.or_else(|| Some(std::env::home_dir()?.join(".cargo")))
}

/// The database of advisories that cargo-deny has fetched before, a checkout.
fn stored(cargo_home: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(cargo_home.join("advisory-dbs")).ok()?;
    let mut found = entries.filter_map(|entry| Some(entry.ok()?.path()));
    found.find(|path| path.join(".git").exists())
}

/// The day of its last change, and how long ago that was.
fn day_of(database: &Path) -> Option<String> {
    let mut git = Command::new("git");
    git.arg("-C")
        .arg(database)
        .args(["show", "-s", "--format=%cs, %cr", "HEAD"]);
    let said = git.output().ok()?;
    let day = String::from_utf8(said.stdout).ok()?;
    (said.status.success() && !day.trim().is_empty()).then(|| day.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_found_where_one_is_stored() {
        let home = std::env::temp_dir().join(format!("rpm-advisories-{}", std::process::id()));
        assert_eq!(stored(&home), None);
        // cargo-deny leaves a file there when it could not fetch anything.
        fs::create_dir_all(home.join("advisory-dbs")).expect("a directory");
        fs::write(home.join("advisory-dbs/db.lock"), "").expect("a file");
        assert_eq!(stored(&home), None);
        let database = home.join("advisory-dbs/advisory-db-1");
        fs::create_dir_all(database.join(".git")).expect("a directory");
        assert_eq!(stored(&home), Some(database));
        fs::remove_dir_all(&home).expect("it is ours");
    }

    #[test]
    fn the_rules_are_those_of_the_project_with_another_database() {
        let rules = include_str!("../../deny.toml");
        let with = with_database(rules, Path::new("/some where"));
        assert_eq!(with.replace("db-path = \"/some where\"\n", ""), rules);
        assert!(with.contains("[advisories]\ndb-path = \"/some where\"\n"));
    }
}
