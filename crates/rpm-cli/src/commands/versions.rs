//! The versions of an app in PM2's list: of its package, and of the Node that runs it. Both are read from files; no program is started.

use std::fs;
use std::path::Path;

use rpm_wire::api::AppSpec;
use rpm_wire::pm2::Versions;
use serde_json::Value;

/// Maximum size of a `package.json`.
const MOST_BYTES: u64 = 1024 * 1024;

/// The versions of an app's package and of the Node that runs it, as far as files say them.
#[must_use]
pub fn of(spec: &AppSpec) -> Versions {
    Versions {
        app: of_package(Path::new(&spec.script)),
        node: spec
            .interpreter
            .as_deref()
            .and_then(|path| of_node(Path::new(path))),
    }
}

/// The version in the `package.json` beside the script, or in the nearest one above it.
fn of_package(script: &Path) -> Option<String> {
    let packages = script.ancestors().map(|dir| dir.join("package.json"));
    let text = packages.into_iter().find_map(|path| read(&path))?;
    let package: Value = serde_json::from_slice(text.as_bytes()).ok()?;
    package["version"].as_str().map(str::to_owned)
}

/// The version of Node, from the name of a version directory in its path or from the headers that come with Node.
fn of_node(interpreter: &Path) -> Option<String> {
    let program = interpreter.canonicalize().ok()?;
    if program.file_name()? != "node" {
        return None;
    }
    let named = program.ancestors().find_map(|dir| {
        let name = dir.file_name()?.to_str()?;
        let version = name.strip_prefix('v').unwrap_or(name);
        let parts: Vec<&str> = version.split('.').collect();
        let is_version = parts.len() == 3 && parts.iter().all(|part| part.parse::<u32>().is_ok());
        is_version.then(|| version.to_owned())
    });
    named.or_else(|| of_headers(&program.parent()?.parent()?.join("include/node/node_version.h")))
}

fn of_headers(path: &Path) -> Option<String> {
    let text = read(path)?;
    let part = |name: &str| {
        let mut words = text.lines().map(str::split_whitespace);
        words.find_map(|mut words| {
            let is_it = words.next() == Some("#define") && words.next() == Some(name);
            words.next().filter(|_| is_it)?.parse::<u32>().ok()
        })
    };
    let [major, minor, patch] = ["MAJOR", "MINOR", "PATCH"].map(|name| part(&format!("NODE_{name}_VERSION")));
    Some(format!("{}.{}.{}", major?, minor?, patch?))
}

fn read(path: &Path) -> Option<String> {
    let meta = path.metadata().ok()?;
    (meta.is_file() && meta.len() <= MOST_BYTES).then_some(())?;
    fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_say_which_versions_these_are() {
        let dir = std::env::temp_dir().join(format!("rpm-versions-{}", std::process::id()));
        let put = |path: &str, text: &str| {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("it is made");
            fs::write(&path, text).expect("it is written");
            path
        };
        put("app/package.json", r#"{"name": "app", "version": "2.0.1"}"#);
        let script = put("app/dist/server.js", "");
        let node = put("n/bin/node", "");
        put(
            "n/include/node/node_version.h",
            "#ifndef X\n#define NODE_MAJOR_VERSION 20\n#define NODE_MINOR_VERSION 11\n#define NODE_PATCH_VERSION 1\n",
        );
        let named = put("versions/node/v22.18.0/bin/node", "");
        let bun = put("versions/bun/v1.2.3/bin/bun", "");
        let versions = |script: &Path, interpreter: &Path| {
            let path = |path: &Path| path.display().to_string();
            let spec = AppSpec {
                script: path(script),
                interpreter: Some(path(interpreter)),
                ..AppSpec::default()
            };
            let Versions { app, node } = of(&spec);
            [app, node].map(Option::unwrap_or_default)
        };
        assert_eq!(versions(&script, &node), ["2.0.1", "20.11.1"]);
        assert_eq!(versions(&script, &named), ["2.0.1", "22.18.0"]);
        assert_eq!(versions(&script, &bun), ["2.0.1", ""]);
        put("app/dist/package.json", "no JSON");
        assert_eq!(versions(&script, Path::new("/nowhere/node")), ["", ""]);
        fs::remove_dir_all(dir).expect("it is removed");
    }
}
