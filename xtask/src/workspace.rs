//! The workspace as `cargo metadata` reports it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

/// The workspace that the current directory belongs to.
pub(crate) struct Workspace {
    /// Directory of the root Cargo.toml.
    pub(crate) root: PathBuf,
    /// Cargo's output directory (`target`, unless the user moved it).
    pub(crate) target: PathBuf,
    /// Members, in cargo's order.
    pub(crate) packages: Vec<Package>,
}

/// One member of the workspace.
pub(crate) struct Package {
    /// Name as in its Cargo.toml.
    pub(crate) name: String,
    /// Its directory, relative to the root of the workspace.
    pub(crate) directory: PathBuf,
    /// Its direct dependencies.
    pub(crate) dependencies: Vec<Dependency>,
}

/// One line of a member's dependency tables.
pub(crate) struct Dependency {
    /// Name of the package, before any renaming.
    pub(crate) name: String,
    /// The dependency table.
    pub(crate) kind: Kind,
    /// True if it is a path dependency, which means a member of this workspace.
    pub(crate) ours: bool,
}

/// The dependency tables of a Cargo.toml.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// `[dependencies]`
    Normal,
    /// `[build-dependencies]`
    Build,
    /// `[dev-dependencies]`
    Dev,
}

impl Workspace {
    /// Asks cargo. Fails outside a workspace, or if the response is not of format version 1.
    pub(crate) fn load() -> anyhow::Result<Workspace> {
        let arguments = ["metadata", "--no-deps", "--format-version", "1"];
        let output = cargo()
            .args(arguments)
            .output()
            .context("cannot run cargo metadata")?;
        if !output.status.success() {
            bail!(
                "cargo metadata failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let metadata = serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
        Workspace::parse(&metadata)
    }

    /// Reads the output of `cargo metadata --format-version 1`.
    pub(crate) fn parse(metadata: &Value) -> anyhow::Result<Workspace> {
        let root = PathBuf::from(text(metadata, "workspace_root")?);
        let packages = list(metadata, "packages")?.iter();
        let packages = packages.map(|package| Package::parse(package, &root));
        Ok(Workspace {
            root: root.clone(),
            target: PathBuf::from(text(metadata, "target_directory")?),
            packages: packages.collect::<anyhow::Result<_>>()?,
        })
    }
}

impl Package {
    fn parse(package: &Value, root: &Path) -> anyhow::Result<Package> {
        let manifest = Path::new(text(package, "manifest_path")?);
        let directory = manifest.parent().unwrap_or(manifest);
        let dependencies = list(package, "dependencies")?.iter().map(Dependency::parse);
        Ok(Package {
            name: text(package, "name")?.to_owned(),
            directory: directory.strip_prefix(root).unwrap_or(directory).to_owned(),
            dependencies: dependencies.collect::<anyhow::Result<_>>()?,
        })
    }
}

impl Dependency {
    fn parse(dependency: &Value) -> anyhow::Result<Dependency> {
        let kind = match dependency["kind"].as_str() {
            None | Some("normal") => Kind::Normal,
            Some("build") => Kind::Build,
            Some("dev") => Kind::Dev,
            Some(other) => bail!("cargo metadata names an unknown kind of dependency: {other}"),
        };
        Ok(Dependency {
            name: text(dependency, "name")?.to_owned(),
            kind,
            ours: dependency["path"].is_string(),
        })
    }
}

/// A call of the cargo that runs this program, or else of the one on the PATH.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    without_package(Command::new(program))
}

/// Has a command not see what `cargo run` says of xtask's own package: build scripts that look at it (that of ring does) would run again, with all
/// that is built upon them, whenever cargo is called in another way than the time before.
pub(crate) fn without_package(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(name);
        }
    }
    command
}

fn text<'a>(value: &'a Value, field: &str) -> anyhow::Result<&'a str> {
    value[field]
        .as_str()
        .with_context(|| format!("cargo metadata lacks the string {field}"))
}

fn list<'a>(value: &'a Value, field: &str) -> anyhow::Result<&'a Vec<Value>> {
    value[field]
        .as_array()
        .with_context(|| format!("cargo metadata lacks the list {field}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cargo_sees_nothing_of_the_package_that_calls_it() {
        let cargo = cargo();
        let removed: Vec<_> = cargo
            .get_envs()
            .filter(|(_, value)| value.is_none())
            .map(|(name, _)| name)
            .collect();
        // Tests have it, as programs that cargo runs do.
        for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME"] {
            assert!(
                std::env::var_os(name).is_some() && removed.contains(&name.as_ref()),
                "{name}"
            );
        }
    }

    #[test]
    fn reads_kinds_and_tells_our_crates_from_namesakes() {
        let metadata = json!({
            "workspace_root": "/w", "target_directory": "/w/target",
            "packages": [{"name": "a", "manifest_path": "/w/crates/a/Cargo.toml", "dependencies": [
                {"name": "b", "kind": null, "path": "/w/b", "rename": "c"},
                {"name": "rpm", "kind": "dev"},
                {"name": "d", "kind": "build", "path": null},
            ]}],
        });
        let workspace = Workspace::parse(&metadata).expect("well-formed");
        let seen: Vec<_> = workspace.packages[0]
            .dependencies
            .iter()
            .map(|dependency| (dependency.name.as_str(), dependency.kind, dependency.ours))
            .collect();
        let expected = [
            ("b", Kind::Normal, true),
            ("rpm", Kind::Dev, false),
            ("d", Kind::Build, false),
        ];
        assert_eq!(seen, expected);
        assert_eq!(workspace.packages[0].directory, Path::new("crates/a"));
    }

    #[test]
    fn another_shape_is_an_error_that_names_the_field() {
        let error = Workspace::parse(&json!({"packages": [{"name": "a"}]}))
            .err()
            .expect("malformed");
        assert!(error.to_string().contains("workspace_root"), "{error}");
    }
}
