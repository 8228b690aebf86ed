//! `cargo xtask layers`: which crate may depend on which. Dependencies point downwards, and pure crates stay pure.

use std::fmt::{self, Write as _};
use std::fs;

use anyhow::{Context, bail};

use crate::rooms;
use crate::workspace::{Dependency, Kind, Package, Workspace};

/// What one member may depend on.
struct Layer {
    package: &'static str,
    ours: Ours,
    foreign: Foreign,
}

/// Members of this workspace that a package may depend on.
enum Ours {
    Any,
    Only(&'static [&'static str]),
}

/// Third-party packages that a package may depend on outside its tests.
enum Foreign {
    Any,
    /// The package is pure: no dependency may add I/O, a clock, randomness, threads or async.
    Only(&'static [&'static str]),
}

/// Any crate that is not pure may have a development dependency on it.
const TESTKIT: &str = "rpm-testkit";

const LAYERS: &[Layer] = &[
    pure("rpm-core", &["thiserror"]),
    pure("rpm-wire", &["jiff", "serde", "serde_json", "thiserror"]),
    Layer {
        package: "rpm-spec",
        ours: Ours::Only(&["rpm-wire"]),
        foreign: Foreign::Only(&[
            "json5",
            "regex-lite",
            "serde",
            "serde-saphyr",
            "serde_json",
            "strsim",
            "thiserror",
            "toml",
        ]),
    },
    Layer {
        package: "rpm-state",
        ours: Ours::Only(&["rpm-core", "rpm-wire"]),
        foreign: Foreign::Only(&["serde", "serde_json", "thiserror"]),
    },
    layer("rpm-agent", &[]),
    layer("rpm-sys", &[]),
    layer("rpm-tls", &[]),
    layer("rpm-proxy", &["rpm-tls"]),
    layer("rpm-keeper", &["rpm-sys"]),
    layer(
        "rpm-listen",
        &["rpm-core", "rpm-keeper", "rpm-state", "rpm-sys", "rpm-wire"],
    ),
    layer(
        "rpm-daemon",
        &[
            "rpm-agent",
            "rpm-core",
            "rpm-keeper",
            "rpm-state",
            "rpm-sys",
            "rpm-wire",
            "rpm-listen",
            "rpm-proxy",
        ],
    ),
    layer("rpm-cli", &["rpm-spec", "rpm-wire"]),
    layer("rpm-observe", &["rpm-wire"]),
    layer("rpm-loadtest", &["rpm-wire"]),
    layer(
        "rpm",
        &[
            "rpm-cli",
            "rpm-daemon",
            "rpm-loadtest",
            "rpm-observe",
            "rpm-sys",
            "rpm-tls",
            "rpm-wire",
        ],
    ),
    layer(TESTKIT, &["rpm-wire", "rpm-loadtest", "rpm-sys"]),
    layer("rpm-e2e", &[TESTKIT, "rpm-wire", "rpm-loadtest"]),
    Layer {
        package: "rpm-bench",
        ours: Ours::Any,
        foreign: Foreign::Any,
    },
    layer(
        "rpm-fuzz",
        &["rpm-core", "rpm-proxy", "rpm-spec", "rpm-state", "rpm-wire"],
    ),
    layer("xtask", &[]),
];

const fn layer(package: &'static str, ours: &'static [&'static str]) -> Layer {
    Layer {
        package,
        ours: Ours::Only(ours),
        foreign: Foreign::Any,
    }
}

const fn pure(package: &'static str, foreign: &'static [&'static str]) -> Layer {
    Layer {
        package,
        ours: Ours::Only(&[]),
        foreign: Foreign::Only(foreign),
    }
}

/// A dependency that no layer allows.
#[derive(PartialEq, Eq, Debug)]
struct Violation {
    edge: String,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.edge, self.rule)
    }
}

/// The document that has the table for readers.
const DOCUMENT: &str = "CONTRIBUTING.md";

/// Checks every member's dependencies, the daemon's rooms and the table in [`DOCUMENT`]. Prints each violation, then fails.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let mut violations: Vec<Violation> = workspace.packages.iter().flat_map(check).collect();
    let wrong = rooms::check(&workspace.root)?;
    violations.extend(wrong.into_iter().map(|edge| Violation {
        edge,
        rule: rooms::RULE.to_owned(),
    }));
    let text = fs::read_to_string(workspace.root.join(DOCUMENT)).context(DOCUMENT)?;
    if !text.contains(&document_table()) {
        violations.push(Violation {
            edge: DOCUMENT.to_owned(),
            rule: format!(
                "its table is not that of xtask/src/layers.rs, which is\n{}",
                document_table()
            ),
        });
    }
    for violation in &violations {
        eprintln!("{violation}");
    }
    if !violations.is_empty() {
        bail!(
            "layers: {} dependency(ies) against the rules of xtask/src/layers.rs",
            violations.len()
        );
    }
    println!(
        "layers: {} packages, every dependency points downwards",
        workspace.packages.len()
    );
    Ok(())
}

/// The table as readers have it.
fn document_table() -> String {
    let mut table = "| crate | may depend on, of ours | from elsewhere |\n|---|---|---|\n".to_owned();
    for layer in LAYERS {
        let ours = match layer.ours {
            Ours::Any => "anything".to_owned(),
            Ours::Only([]) => "nothing".to_owned(),
            Ours::Only(names) => names
                .iter()
                .map(|name| name.trim_start_matches("rpm-"))
                .collect::<Vec<_>>()
                .join(", "),
        };
        let foreign = match layer.foreign {
            Foreign::Any => String::new(),
            Foreign::Only(names) => {
                let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
                format!("{} only: it is pure ", names.join(", "))
            }
        };
        // Writing to a string cannot fail.
        let _ = writeln!(table, "| `{}` | {ours} | {foreign}|", layer.package);
    }
    table
}

fn check(package: &Package) -> Vec<Violation> {
    let Some(layer) = LAYERS.iter().find(|layer| layer.package == package.name) else {
        return vec![Violation {
            edge: package.name.clone(),
            rule: "has no layer: give it a row, with what it may depend on".to_owned(),
        }];
    };
    package
        .dependencies
        .iter()
        .filter_map(|dependency| layer.violation(dependency))
        .collect()
}

impl Layer {
    fn violation(&self, dependency: &Dependency) -> Option<Violation> {
        let rule = if dependency.ours {
            self.rule_for_ours(dependency)
        } else {
            self.rule_for_foreign(dependency)
        };
        rule.map(|rule| Violation {
            edge: format!("{} -> {}{}", self.package, dependency.name, table(dependency)),
            rule,
        })
    }

    /// The rule that a dependency on a member violates, if any.
    fn rule_for_ours(&self, dependency: &Dependency) -> Option<String> {
        let Ours::Only(allowed) = self.ours else {
            return None;
        };
        if allowed.contains(&dependency.name.as_str()) {
            return None;
        }
        if dependency.kind == Kind::Dev && dependency.name == TESTKIT {
            return self
                .is_pure()
                .then(|| format!("{} is pure, its tests too do without {TESTKIT}", self.package));
        }
        Some(format!(
            "of ours, {} may depend on {}",
            self.package,
            listed(allowed)
        ))
    }

    /// The rule that a dependency on a third-party package violates, if any.
    fn rule_for_foreign(&self, dependency: &Dependency) -> Option<String> {
        let Foreign::Only(allowed) = self.foreign else {
            return None;
        };
        if dependency.kind == Kind::Dev || allowed.contains(&dependency.name.as_str()) {
            return None;
        }
        Some(format!(
            "{} is pure and may depend on {}",
            self.package,
            listed(allowed)
        ))
    }

    fn is_pure(&self) -> bool {
        matches!(self.foreign, Foreign::Only(_))
    }
}

fn table(dependency: &Dependency) -> &'static str {
    match dependency.kind {
        Kind::Normal => "",
        Kind::Build => " (build)",
        Kind::Dev => " (dev)",
    }
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        format!("{} only", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(package: &str, name: &str, kind: Kind, ours: bool) -> Vec<String> {
        let dependency = Dependency {
            name: name.to_owned(),
            kind,
            ours,
        };
        let package = Package {
            name: package.to_owned(),
            directory: package.into(),
            dependencies: vec![dependency],
        };
        check(&package).iter().map(Violation::to_string).collect()
    }

    #[test]
    fn edges_of_the_table_pass_and_others_name_edge_and_rule() {
        assert!(one("rpm-listen", "rpm-sys", Kind::Normal, true).is_empty());
        let found = one("rpm-cli", "rpm-sys", Kind::Normal, true);
        assert_eq!(
            found,
            ["rpm-cli -> rpm-sys: of ours, rpm-cli may depend on rpm-spec, rpm-wire only"]
        );
        let found = one("rpm-core", "rpm-sys", Kind::Build, true);
        assert_eq!(
            found,
            ["rpm-core -> rpm-sys (build): of ours, rpm-core may depend on nothing"]
        );
    }

    #[test]
    fn the_table_for_readers_has_a_row_for_each_layer() {
        let table = document_table();
        assert_eq!(table.lines().count(), LAYERS.len() + 2);
        assert!(table.contains("| `rpm-cli` | spec, wire | |\n"), "{table}");
        assert!(table.contains("| `rpm-bench` | anything | |\n"), "{table}");
    }

    #[test]
    fn no_edge_points_upwards() {
        for (package, dependency) in [
            ("rpm-sys", "rpm-core"),
            ("rpm-daemon", "rpm-cli"),
            ("xtask", "rpm-wire"),
        ] {
            assert_eq!(
                one(package, dependency, Kind::Normal, true).len(),
                1,
                "{package} -> {dependency}"
            );
        }
    }

    #[test]
    fn tests_may_use_the_testkit_unless_the_crate_is_pure() {
        assert!(one("rpm-daemon", TESTKIT, Kind::Dev, true).is_empty());
        assert_eq!(one("rpm-daemon", TESTKIT, Kind::Normal, true).len(), 1);
        let found = one("rpm-core", TESTKIT, Kind::Dev, true);
        assert_eq!(
            found,
            ["rpm-core -> rpm-testkit (dev): rpm-core is pure, its tests too do without rpm-testkit"]
        );
    }

    #[test]
    fn dev_dependencies_on_other_members_follow_the_table() {
        assert!(one("rpm-cli", "rpm-wire", Kind::Dev, true).is_empty());
        assert_eq!(one("rpm-cli", "rpm-daemon", Kind::Dev, true).len(), 1);
    }

    #[test]
    fn pure_crates_take_only_listed_packages_outside_their_tests() {
        assert!(one("rpm-wire", "serde_json", Kind::Normal, false).is_empty());
        assert!(one("rpm-core", "proptest", Kind::Dev, false).is_empty());
        assert!(one("rpm-sys", "libc", Kind::Normal, false).is_empty());
        let found = one("rpm-core", "tokio", Kind::Normal, false);
        assert_eq!(
            found,
            ["rpm-core -> tokio: rpm-core is pure and may depend on thiserror only"]
        );
        assert_eq!(
            one("rpm-core", "serde", Kind::Normal, false).len(),
            1,
            "what is stored is rpm-state's"
        );
        assert!(one("rpm-state", "serde", Kind::Normal, false).is_empty());
    }

    #[test]
    fn a_foreign_namesake_of_a_member_is_not_a_member() {
        assert!(one("rpm-cli", "rpm-sys", Kind::Normal, false).is_empty());
    }

    #[test]
    fn benches_may_name_any_member_and_strangers_have_no_layer() {
        assert!(one("rpm-bench", "rpm-daemon", Kind::Normal, true).is_empty());
        assert_eq!(
            one("rpm-new", "libc", Kind::Normal, false),
            ["rpm-new: has no layer: give it a row, with what it may depend on"]
        );
    }
}
