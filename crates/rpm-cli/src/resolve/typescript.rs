//! TypeScript without Bun: checks whether the installed Node runs it, before the app fails again and again.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use super::ResolveError;

/// Options of Node that load the script in another way.
const LOADERS: [&str; 8] = [
    "--import",
    "--require",
    "-r",
    "--loader",
    "--experimental-loader",
    "--experimental-strip-types",
    "--experimental-transform-types",
    "--strip-types",
];

/// Rejects a script that the default interpreter cannot read.
pub(super) fn check(
    script: &Path,
    interpreter: &Path,
    args: &[String],
    env: &BTreeMap<String, String>,
) -> Result<(), ResolveError> {
    let extension = script.extension().and_then(|extension| extension.to_str());
    let (Some("ts" | "tsx" | "mts" | "cts"), true) = (extension, interpreter.ends_with("node")) else {
        return Ok(());
    };
    let options = env
        .get("NODE_OPTIONS")
        .map_or("", String::as_str)
        .split_whitespace();
    let mut said = args.iter().map(String::as_str).chain(options);
    if said.any(|arg| LOADERS.contains(&arg.split('=').next().unwrap_or(arg))) {
        return Ok(());
    }
    match version_of(interpreter) {
        Some(version) if !strips_types(&version) || extension == Some("tsx") => {
            Err(ResolveError::TypeScript {
                script: script.to_owned(),
                version,
            })
        }
        Some(_) | None => Ok(()),
    }
}

/// The version that it prints: `20.20.2`.
fn version_of(node: &Path) -> Option<String> {
    let said = Command::new(node)
        .arg("--version")
        .env_remove("NODE_OPTIONS")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(said.stdout).ok()?;
    Some(text.trim().strip_prefix('v')?.to_owned())
}

/// From 22.18 and 23.6 on Node does so by itself.
fn strips_types(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    let (Some(Some(major)), Some(Some(minor))) = (parts.next(), parts.next()) else {
        return true;
    };
    match major {
        22 => minor >= 18,
        23 => minor >= 6,
        _ => major > 23,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rpm_spec::AppOptions;

    use super::*;
    use crate::resolve::app_spec;
    use crate::resolve::tests::{Place, start_args};

    #[test]
    fn versions_that_strip_types() {
        for (version, expected) in [
            ("18.20.4", false),
            ("20.20.2", false),
            ("22.17.1", false),
            ("22.18.0", true),
            ("23.5.0", false),
            ("23.6.0", true),
            ("24.0.0", true),
            ("nightly", true),
        ] {
            assert_eq!(strips_types(version), expected, "{version}");
        }
    }

    #[test]
    fn typescript_wants_a_program_that_reads_it() {
        let place = Place::new();
        for script in ["a.ts", "a.tsx", "b.mts", "a.js"] {
            place.file(script, 0o644);
        }
        let node = place.file("bin/node", 0o755);
        let node_is =
            |version: &str| fs::write(&node, format!("#!/bin/sh\necho v{version}\n")).expect("a program");
        let with = |script: &str, name: &str, value: &str| {
            let options = AppOptions {
                script: Some(script.to_owned()),
                ..AppOptions::default()
            };
            let mut around = place.around();
            around.env.insert(name.to_owned(), value.to_owned());
            app_spec(&options, &around, None, None).map(drop)
        };
        node_is("20.20.2");
        let error = place.start("a.ts").expect_err("Node 20").to_string();
        assert!(
            error.contains("a.ts: Node 20.20.2 does not run such files; install Bun, or Node 22.18"),
            "{error}"
        );
        assert!(place.start("b.mts").is_err());
        assert_eq!(place.start("a.js").map(drop), Ok(()));
        // Something else reads it.
        assert_eq!(with("a.ts", "NODE_OPTIONS", "--import=tsx"), Ok(()));
        assert!(with("a.ts", "NODE_OPTIONS", "--enable-source-maps").is_err());
        let args = start_args(&["a.ts", "--interpreter-args", "-r ts-node/register"]);
        assert_eq!(place.resolve(&args).map(drop), Ok(()));
        node_is("22.18.0");
        assert_eq!(place.start("a.ts").map(drop), Ok(()));
        assert!(place.start("a.tsx").is_err(), "no Node reads JSX");
        place.file("bin/bun", 0o755);
        node_is("20.20.2");
        assert_eq!(place.start("a.tsx").map(drop), Ok(()));
    }
}
