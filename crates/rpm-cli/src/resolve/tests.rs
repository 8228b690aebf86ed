//! Resolution in directories made for the test.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::args::{Command, Invocation, StartArgs, parse};

/// What is typed after `start`.
pub(super) fn start_args(words: &[&str]) -> StartArgs {
    let args = ["rpm", "start"].iter().chain(words).map(OsString::from);
    match parse(args) {
        Ok(Invocation::Client(client)) => match client.command {
            Command::Start(start) => *start,
            other => panic!("{other:?}"),
        },
        other => panic!("{words:?}: {other:?}"),
    }
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A directory of this test alone, with an empty `bin` that is the whole PATH.
pub(super) struct Place(pub(super) PathBuf);

impl Place {
    pub(super) fn new() -> Self {
        let name = format!(
            "rpm-cli-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let root = std::env::temp_dir().join(name);
        fs::create_dir_all(root.join("bin")).expect("temporary directory");
        Place(root)
    }

    pub(super) fn file(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        fs::write(&path, "#!/bin/sh\n").expect("file");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("mode");
        path
    }

    pub(super) fn around(&self) -> Surroundings {
        let path = self.0.join("bin").to_str().expect("UTF-8").to_owned();
        Surroundings {
            cwd: self.0.clone(),
            env: [("PATH".to_owned(), path)].into(),
            skipped: Vec::new(),
        }
    }

    pub(super) fn resolve(&self, args: &StartArgs) -> Result<AppSpec, ResolveError> {
        {
            let options = options_of(args, args.targets.first().map(OsString::as_os_str))?;
            app_spec(&options, &self.around(), args.env.as_deref(), None)
        }
    }

    pub(super) fn start(&self, script: &str) -> Result<AppSpec, ResolveError> {
        self.resolve(&StartArgs {
            targets: vec![script.into()],
            ..StartArgs::default()
        })
    }

    fn text(&self, path: &str) -> String {
        self.0.join(path).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn without_instances_it_is_a_fork_with_any_it_is_a_cluster() {
    let place = Place::new();
    place.file("app.js", 0o644);
    place.file("bin/node", 0o755);
    let spec = place.start("./app.js").expect("resolved");
    assert_eq!((spec.exec_mode, spec.instances), (ExecMode::Fork, 1));
    assert_eq!((spec.name.as_str(), spec.script), ("app", place.text("app.js")));
    assert_eq!(
        (spec.interpreter, spec.cwd),
        (Some(place.text("bin/node")), place.0.display().to_string())
    );
    assert_eq!(spec.env, place.around().env);
    for instances in [1, 0, -1] {
        let args = start_args(&["app.js", "-i", &instances.to_string()]);
        let spec = place.resolve(&args).expect("resolved");
        assert_eq!((spec.exec_mode, spec.instances), (ExecMode::Cluster, instances));
    }
}

#[test]
fn interpreters_by_extension() {
    let place = Place::new();
    for name in ["node", "bun", "python3", "bash", "ruby", "php", "perl"] {
        place.file(&format!("bin/{name}"), 0o755);
    }
    for (script, interpreter) in [
        ("a.js", "node"),
        ("a.cjs", "node"),
        ("a.b.mjs", "node"),
        ("a.ts", "bun"),
        ("a.py", "python3"),
        ("a.sh", "bash"),
        ("a.rb", "ruby"),
        ("a.php", "php"),
        ("a.pl", "perl"),
    ] {
        place.file(script, 0o644);
        let spec = place.start(script).expect(script);
        assert_eq!(
            spec.interpreter,
            Some(place.text(&format!("bin/{interpreter}"))),
            "{script}"
        );
    }
    fs::remove_file(place.0.join("bin/bun")).expect("bun");
    assert_eq!(
        place.start("a.ts").expect("ts").interpreter,
        Some(place.text("bin/node"))
    );
    assert_eq!(place.start("a.b.mjs").expect("mjs").name, "a.b");
}

/// A script with this first line.
fn script(place: &Place, name: &str, first_line: &str) {
    fs::write(place.file(name, 0o755), format!("{first_line}\n")).expect("file");
}

#[test]
fn interpreters_by_first_line() {
    let place = Place::new();
    for name in [
        "bin/node",
        "bin/bun",
        "bin/python3",
        "opt/node",
        "venv/bin/python",
    ] {
        place.file(name, 0o755);
    }
    let opt = format!("#!{} --no-warnings", place.text("opt/node"));
    let venv = format!("#!{}", place.text("venv/bin/python"));
    let npm = "lib/node_modules/npm/bin/npm-cli";
    script(&place, npm, "#!/usr/bin/env node");
    script(&place, "lib/app/cli", "#!/usr/bin/env node");
    for (link, target) in [
        ("node_modules/.bin/app", "../../lib/app/cli"),
        (
            "node_modules/.bin/start",
            "../../lib/node_modules/npm/bin/npm-cli",
        ),
        ("node_modules/.bin/pnpm", "../../lib/app/cli"),
    ] {
        fs::create_dir_all(place.0.join("node_modules/.bin")).expect("a directory");
        std::os::unix::fs::symlink(target, place.0.join(link)).expect("a link");
    }
    for (name, first_line, interpreter, args) in [
        ("www", "#!/usr/bin/env node", Some("bin/node"), &[][..]),
        ("www.v2", "#!/usr/bin/env node", Some("bin/node"), &[]),
        (
            "flags",
            "#!/usr/bin/env -S node --no-warnings",
            Some("bin/node"),
            &["--no-warnings"],
        ),
        ("opt-www", &opt, Some("opt/node"), &["--no-warnings"]),
        ("bun-www", "#!/usr/bin/env bun", Some("bin/bun"), &[]),
        ("wsgi", "#!/usr/bin/env python3", Some("bin/python3"), &[]),
        ("gunicorn", &venv, Some("venv/bin/python"), &[]),
        // The extension says it first.
        ("app.py", "#!/usr/bin/env node", Some("bin/python3"), &[]),
        // They start another program, which is what listens.
        ("npm", "#!/usr/bin/env node", None, &[]),
        ("npx", "#!/usr/bin/env node", None, &[]),
        ("yarn", "#!/usr/bin/env node", None, &[]),
        ("corepack", "#!/usr/bin/env node", None, &[]),
        // Not there: whoever executes it says so.
        ("gone", "#!/opt/nowhere/node", None, &[]),
        ("gone-too", "#!/usr/bin/env python2", None, &[]),
        ("shell", "#!/bin/sh", None, &[]),
    ] {
        script(&place, name, first_line);
        let spec = place.start(name).expect(name);
        let expected = (interpreter.map(|path| place.text(path)), args);
        assert_eq!(
            (spec.interpreter, &*spec.interpreter_args),
            (expected.0, &*owned(expected.1)),
            "{name}"
        );
    }
    for (link, interpreter) in [
        ("node_modules/.bin/app", Some(place.text("bin/node"))),
        ("node_modules/.bin/start", None),
        ("node_modules/.bin/pnpm", None),
    ] {
        assert_eq!(place.start(link).expect(link).interpreter, interpreter, "{link}");
    }
    // Its interpreter reads it.
    fs::set_permissions(place.0.join("www"), Permissions::from_mode(0o644)).expect("mode");
    assert_eq!(
        place.start("www").expect("read").interpreter,
        Some(place.text("bin/node"))
    );
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn arguments_of_the_first_line_stay_when_others_change() {
    let place = Place::new();
    place.file("bin/node", 0o755);
    script(&place, "www", "#!/usr/bin/env -S node --no-warnings");
    let with = |arg: &str| start_args(&["www", "--interpreter-args", arg]);
    let spec = place.resolve(&with("--inspect")).expect("resolved");
    assert_eq!(spec.interpreter_args, owned(&["--no-warnings", "--inspect"]));
    let options = options_of(&with("--title=x"), None).expect("options");
    let spec = changed(spec, &options, &place.around(), false).expect("changed");
    assert_eq!(spec.interpreter_args, owned(&["--no-warnings", "--title=x"]));
}

#[test]
fn an_interpreter_that_the_first_line_names_by_its_path_is_not_that_of_another_path() {
    let place = Place::new();
    for name in ["bin/node", "other/node"] {
        place.file(name, 0o755);
    }
    let mut around = place.around();
    around.env.insert("PATH".to_owned(), place.text("other"));
    for (name, first_line, expected) in [
        ("by-path", format!("#!{}", place.text("bin/node")), "bin/node"),
        ("by-env", "#!/usr/bin/env node".to_owned(), "other/node"),
    ] {
        script(&place, name, &first_line);
        let spec = place.start(name).expect(name);
        assert_eq!(spec.interpreter, Some(place.text("bin/node")), "{name}");
        let spec = changed(spec, &AppOptions::default(), &around, true).expect(name);
        assert_eq!(spec.interpreter, Some(place.text(expected)), "{name}");
    }
}

#[test]
fn programs_without_an_interpreter() {
    let place = Place::new();
    place.file("server", 0o755);
    place.file("server.v2", 0o755);
    place.file("plain", 0o644);
    assert_eq!(place.start("server").expect("binary").interpreter, None);
    assert_eq!(place.start("server.v2").expect("binary").interpreter, None);
    assert_eq!(
        place.start("plain"),
        Err(ResolveError::NotExecutable(place.0.join("plain")))
    );
    let none = |script: &str| start_args(&[script, "--interpreter", "none"]);
    place.file("tool.js", 0o755);
    place.file("lib.js", 0o644);
    assert_eq!(
        place.resolve(&none("tool.js")).expect("executed").interpreter,
        None
    );
    assert_eq!(
        place.resolve(&none("lib.js")),
        Err(ResolveError::NotExecutable(place.0.join("lib.js")))
    );
}

#[test]
fn a_name_is_looked_up_on_path_unless_a_file_here_has_it() {
    let place = Place::new();
    place.file("bin/serve", 0o755);
    let spec = place.start("serve").expect("on PATH");
    assert_eq!((spec.script, spec.interpreter), (place.text("bin/serve"), None));
    fs::create_dir(place.0.join("serve")).expect("directory");
    assert_eq!(
        place.start("serve").expect("on PATH").script,
        place.text("bin/serve")
    );
    fs::remove_dir(place.0.join("serve")).expect("directory");
    place.file("serve", 0o755);
    assert_eq!(place.start("serve").expect("here").script, place.text("serve"));
    assert!(matches!(
        place.start("./bin/none"),
        Err(ResolveError::ScriptNotFound { .. })
    ));
}

#[test]
fn a_missing_script_says_where_it_was_looked_for() {
    let place = Place::new();
    let root = place.0.display();
    let error = place.start("app.js").expect_err("missing").to_string();
    assert_eq!(
        error,
        format!(
            "script not found: app.js (looked in {root} and PATH); give its path, or set --cwd to where it is"
        )
    );
    place.file("app.js", 0o644);
    place.file("serve", 0o755);
    for (typed, near) in [
        ("app.j", "app.js"),
        ("ap.js", "app.js"),
        ("app", "app.js"),
        ("app.ts", "app.js"),
        ("./ap.js", "./app.js"),
        ("srve", "serve"),
    ] {
        let error = place.start(typed).expect_err("missing").to_string();
        assert!(error.ends_with(&format!("; did you mean {near:?}?")), "{error}");
    }
    let error = place.start("x/app.js").expect_err("missing").to_string();
    assert_eq!(
        error,
        format!("script not found: x/app.js (looked in {root}); give its path, or set --cwd to where it is")
    );
    let error = place.start("./bin").expect_err("directory").to_string();
    assert_eq!(error, format!("{root}/bin is a directory; name the script in it"));
}

#[test]
fn a_missing_interpreter_is_named_with_path() {
    let place = Place::new();
    place.file("app.js", 0o644);
    let bin = place.text("bin");
    let error = place.start("app.js").expect_err("no node").to_string();
    assert_eq!(
        error,
        format!(
            "interpreter not found: node, which runs .js files (looked in PATH: {bin}); install it, or name one with --interpreter"
        )
    );
    for (interpreter, shown) in [
        (
            "deno",
            format!("deno, which was requested (looked in PATH: {bin})"),
        ),
        (
            "./deno",
            format!(
                "{0}/deno, which was requested (looked in {0}/deno)",
                place.0.display()
            ),
        ),
    ] {
        let args = start_args(&["app.js", "--interpreter", interpreter]);
        let error = place.resolve(&args).expect_err("no deno").to_string();
        assert_eq!(
            error,
            format!("interpreter not found: {shown}; install it, or name one with --interpreter")
        );
    }
}

#[test]
fn the_working_directory_comes_first_and_must_exist() {
    let place = Place::new();
    place.file("bin/node", 0o755);
    place.file("app.js", 0o644);
    let in_sub = |script: &str| {
        let options = ["--cwd", "sub", "--name", "web", "--no-autorestart"];
        let own = ["--node-args", "--a 'b c'", "--node-args", "-d", "--", "x y"];
        start_args(&[&[script][..], &options, &own].concat())
    };
    assert_eq!(
        place.resolve(&in_sub("app.js")),
        Err(ResolveError::NoSuchDirectory(place.0.join("sub")))
    );
    fs::create_dir(place.0.join("sub")).expect("directory");
    let spec = place.resolve(&in_sub("app.js")).expect("from here");
    assert_eq!((spec.script, spec.cwd), (place.text("app.js"), place.text("sub")));
    assert_eq!((spec.name.as_str(), spec.autorestart), ("web", false));
    assert_eq!(
        (spec.interpreter_args, spec.args),
        (
            ["--a", "b c", "-d"].map(String::from).into(),
            ["x y".to_owned()].into()
        )
    );
    place.file("sub/app.js", 0o644);
    assert_eq!(
        place.resolve(&in_sub("app.js")).expect("from there").script,
        place.text("sub/app.js")
    );
}

#[test]
fn what_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStringExt as _;
    let place = Place::new();
    place.file("bin/node", 0o755);
    place.file("app.js", 0o644);
    let args = StartArgs {
        targets: vec!["app.js".into()],
        args: vec![OsString::from_vec(vec![b'a', 0xff])],
        ..StartArgs::default()
    };
    let error = place.resolve(&args).expect_err("not UTF-8").to_string();
    assert_eq!(error, "an argument is not UTF-8: a\u{fffd}");
}

#[test]
fn a_version_of_node_is_the_newest_that_is_installed() {
    let place = Place::new();
    place.file("app.js", 0o644);
    for version in ["v18.1.0", "v20.2.0", "v20.11.1", "v20.9.3", "system"] {
        place.file(&format!(".nvm/versions/node/{version}/bin/node"), 0o755);
    }
    place.file(
        ".local/share/fnm/node-versions/v22.3.0/installation/bin/node",
        0o755,
    );
    let start = |interpreter: &str| {
        let args = start_args(&["app.js", "--interpreter", interpreter]);
        let options = options_of(&args, args.targets.first().map(OsString::as_os_str))?;
        let mut around = place.around();
        around.env.insert("HOME".into(), place.text(""));
        app_spec(&options, &around, None, None).map(|spec| spec.interpreter)
    };
    for (wanted, found) in [
        ("node@20", ".nvm/versions/node/v20.11.1/bin/node"),
        ("node@v20.2", ".nvm/versions/node/v20.2.0/bin/node"),
        ("node@18.1.0", ".nvm/versions/node/v18.1.0/bin/node"),
        (
            "node@22",
            ".local/share/fnm/node-versions/v22.3.0/installation/bin/node",
        ),
    ] {
        assert_eq!(
            start(wanted).expect("it is installed"),
            Some(place.text(found)),
            "{wanted}"
        );
    }
    for wanted in ["node@2", "node@21", "node@lts", "node@"] {
        let error = start(wanted).expect_err("it is not installed").to_string();
        assert!(
            error.contains(wanted) && error.contains(".nvm/versions/node"),
            "{error}"
        );
        assert_eq!(error.matches("looked in").count(), 1, "{error}");
        assert_eq!(error.matches("install it").count(), 1, "{error}");
    }
}
