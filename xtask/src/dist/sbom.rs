//! What the programs are made of, for those who look for known faults in it: a bill of materials in CycloneDX
//! (<https://cyclonedx.org/docs/1.5/json/>). The same lock file gives the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::program::Target;
use crate::workspace::{Workspace, cargo};

/// Its file, in the directory of what is given to users.
const FILE: &str = "rpmx.cdx.json";
/// What divides a package from its licence in the output of `cargo tree`.
const DIVIDER: &str = " | ";

/// Writes it, and returns where it is.
pub(super) fn write(workspace: &Workspace, directory: &Path) -> anyhow::Result<PathBuf> {
    let path = directory.join(FILE);
    let text = serde_json::to_string_pretty(&bill(workspace)?)?;
    fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Of the programs for all processors, also those that cannot be built here.
fn bill(workspace: &Workspace) -> anyhow::Result<Value> {
    let lock = workspace.root.join("Cargo.lock");
    let lock = fs::read_to_string(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
    let checksums = checksums(&lock);
    let mut linked = BTreeSet::new();
    for target in Target::all() {
        linked.extend(linked_for(workspace, &target.triple())?);
    }
    let components: Vec<Value> = linked
        .iter()
        .filter_map(|package| package.component(&checksums))
        .collect();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": {
            "type": "application",
            "name": "rpmx",
            "version": env!("CARGO_PKG_VERSION"),
            "licenses": [{ "expression": "MIT OR Apache-2.0" }],
        } },
        "components": components,
    }))
}

/// A package that is linked into the programs.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Linked {
    name: String,
    version: String,
    licence: String,
}

impl Linked {
    /// `None` for what is no package from elsewhere.
    fn component(&self, checksums: &BTreeMap<(&str, &str), &str>) -> Option<Value> {
        let checksum = checksums.get(&(self.name.as_str(), self.version.as_str()))?;
        let purl = format!("pkg:cargo/{}@{}", self.name, self.version);
        // The older spelling of SPDX's OR, which some packages still have.
        let licence = self.licence.replace('/', " OR ");
        Some(json!({
            "type": "library",
            "bom-ref": purl,
            "name": self.name,
            "version": self.version,
            "purl": purl,
            "licenses": [{ "expression": licence }],
            "hashes": [{ "alg": "SHA-256", "content": checksum }],
        }))
    }
}

/// Asks cargo. What only builds and tests need is left out.
fn linked_for(workspace: &Workspace, target: &str) -> anyhow::Result<BTreeSet<Linked>> {
    let output = cargo()
        .args(["tree", "--locked", "--package", "rpm", "--target", target])
        .args(["--edges", "normal", "--prefix", "none"])
        .args(["--format", &format!("{{p}}{DIVIDER}{{l}}")])
        .current_dir(&workspace.root)
        .output()
        .context("cannot run cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| package(line).with_context(|| format!("cargo tree printed {line:?}")))
        .collect()
}

/// `serde v1.0.229 | MIT OR Apache-2.0`, `rpm-core v0.1.0 (/rpm/crates/rpm-core) | … (*)`.
fn package(line: &str) -> Option<Linked> {
    let line = line.strip_suffix(" (*)").unwrap_or(line);
    let (package, licence) = line.split_once(DIVIDER)?;
    let mut words = package.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    Some(Linked {
        name: name.to_owned(),
        version: version.to_owned(),
        licence: licence.to_owned(),
    })
}

/// The hashes of the packages that a lock file (<https://doc.rust-lang.org/cargo/guide/cargo-toml-vs-cargo-lock.html>) fetches, by name and version.
fn checksums(lock: &str) -> BTreeMap<(&str, &str), &str> {
    let packages = lock.split("[[package]]").skip(1);
    packages
        .filter_map(|package| {
            let value = |key: &str| {
                let line = package.lines().find_map(|line| line.strip_prefix(key))?;
                line.strip_prefix(" = \"")?.strip_suffix('"')
            };
            Some(((value("name")?, value("version")?), value("checksum")?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_cargo_tree() {
        let serde = Linked {
            name: "serde".to_owned(),
            version: "1.0.229".to_owned(),
            licence: "MIT OR Apache-2.0".to_owned(),
        };
        for line in [
            "serde v1.0.229 | MIT OR Apache-2.0",
            "serde v1.0.229 | MIT OR Apache-2.0 (*)",
            "serde v1.0.229 (proc-macro) | MIT OR Apache-2.0",
        ] {
            assert_eq!(package(line).as_ref(), Some(&serde), "{line}");
        }
        assert_eq!(package("serde"), None);
    }

    #[test]
    fn everything_that_is_linked_has_a_licence_and_a_hash() {
        let workspace = Workspace::load().expect("a workspace");
        let bill = bill(&workspace).expect("it is made");
        let components = bill["components"].as_array().expect("a list");
        let named = |name: &str| components.iter().any(|it| it["name"] == name);
        for (name, linked) in [
            ("tokio", true),
            ("rustls", true),
            ("rmcp", true),
            // Of tests, of builds, and ours.
            ("criterion", false),
            ("cc", false),
            ("rpm-core", false),
        ] {
            assert_eq!(named(name), linked, "{name}");
        }
        for component in components {
            let hash = component["hashes"][0]["content"].as_str().expect("a hash");
            assert_eq!(hash.len(), 64, "{component}");
            let licence = component["licenses"][0]["expression"].as_str();
            assert!(
                licence.is_some_and(|it| !it.is_empty() && !it.contains('/')),
                "{component}"
            );
        }
        assert_eq!(bill, super::bill(&workspace).expect("again"));
    }
}
