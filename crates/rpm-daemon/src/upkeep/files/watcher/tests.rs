//! Changes of real files, in the ways in which programs replace them.

use std::os::unix::fs::symlink;

use rpm_wire::api::WatchSpec;

use super::*;

/// A directory with something in it, by its real path.
fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("rpm-watcher-{name}-{}", std::process::id()));
    for below in ["src/deep", "one/public", "two/public", "later"] {
        fs::create_dir_all(dir.join(below)).unwrap();
    }
    for file in ["app.js", "src/deep/a.js", "one/app.js"] {
        fs::write(dir.join(file), "first").unwrap();
    }
    symlink("one", dir.join("current")).unwrap();
    symlink("current/app.js", dir.join("link.js")).unwrap();
    dir.canonicalize().unwrap()
}

fn open(dir: &Path, paths: &[&str]) -> Watcher {
    let spec = WatchSpec {
        paths: paths
            .iter()
            .map(|path| dir.join(path).display().to_string())
            .collect(),
        ignore: vec!["*.log".to_owned()],
        delay_ms: 0,
    };
    let rules = Rules::new(&spec, Ours::new(vec![dir.join("own.log")]), |path| {
        path.symlink_metadata().is_ok()
    });
    Watcher::open(Watcher::init().unwrap(), rules)
}

/// What is watched; steps, and which file each of them is a change of.
type Case = (&'static [&'static str], &'static [(&'static str, &'static str)]);

/// One step, as in a shell.
fn act(dir: &Path, step: &str) {
    let words: Vec<&str> = step.split(' ').collect();
    let path = |at: usize| dir.join(words[at]);
    match words[0] {
        "write" => fs::write(path(1), "changed"),
        "mkdir" => fs::create_dir_all(path(1)),
        "rm" => fs::remove_dir_all(path(1)).or_else(|_| fs::remove_file(path(1))),
        "mv" => fs::rename(path(1), path(2)),
        "ln" => symlink(words[1], path(2)),
        "touch" | "date" => {
            let time = match words[0] {
                "touch" => std::time::SystemTime::now(),
                _ => std::time::UNIX_EPOCH,
            };
            let times = fs::FileTimes::new().set_accessed(time).set_modified(time);
            let file = fs::File::options().append(true).open(path(1));
            file.and_then(|file| file.set_times(times))
        }
        other => unreachable!("{other}"),
    }
    .unwrap_or_else(|error| panic!("{step}: {error}"));
}

#[test]
fn changes_are_seen_after_what_was_watched_has_been_made_anew() {
    let cases: [Case; 11] = [
        (
            &["app.js"],
            &[
                ("write other.js", ""),
                ("write app.js", "app.js"),
                ("write new.js", ""),
                ("mv new.js app.js", "app.js"),
                ("write app.js", "app.js"),
                ("rm app.js", "app.js"),
                ("write app.js", "app.js"),
            ],
        ),
        (
            &["src"],
            &[
                ("rm src", "src/deep/a.js"),
                ("mkdir src/deep", "src"),
                ("write src/deep/a.js", "src/deep/a.js"),
                ("mv src away", "src"),
                ("write away/deep/a.js", ""),
                ("mkdir next/deep", ""),
                ("mv next src", "src"),
                ("write src/deep/b.js", "src/deep/b.js"),
            ],
        ),
        (
            &["later/conf/app.json"],
            &[
                ("mkdir later/x", ""),
                ("rm later", ""),
                ("mkdir later/conf", ""),
                ("write later/conf/app.json", "later/conf/app.json"),
                ("write later/conf/x.json", ""),
                ("rm later", "later/conf/app.json"),
                ("mkdir conf", ""),
                ("write conf/app.json", ""),
                ("mkdir later", ""),
                ("mv conf later/conf", "later/conf/app.json"),
            ],
        ),
        (
            &["src/**/*.js", "new/*.{js,ts}"],
            &[
                ("write src/deep/a.ts", ""),
                ("write src/deep/a.js", "src/deep/a.js"),
                ("mkdir src/more/deep", ""),
                ("write src/more/deep/c.js", "src/more/deep/c.js"),
                ("mkdir away", ""),
                ("write away/d.js", ""),
                ("mv away src/away", "src/away/d.js"),
                ("rm src/deep", "src/deep/a.js"),
                ("mkdir new", ""),
                ("write new/a.ts", "new/a.ts"),
                ("write new/a.css", ""),
            ],
        ),
        (
            &["current/public"],
            &[
                ("write one/public/x", "current/public/x"),
                ("ln two next", ""),
                ("mv next current", "current/public"),
                ("write one/public/x", ""),
                ("write two/public/x", "current/public/x"),
                ("rm current", "current/public"),
                ("ln one current", "current/public"),
                ("write current/public/y", "current/public/y"),
            ],
        ),
        (
            &["current"],
            &[
                ("ln two next", ""),
                ("mv next current", "current"),
                ("write two/x", "current/x"),
                ("write one/x", ""),
            ],
        ),
        (
            &["link.js"],
            &[
                ("write one/app.js", "link.js"),
                ("write one/b.js", ""),
                ("mv one/b.js one/app.js", "link.js"),
                ("write two/app.js", ""),
                ("ln two next", ""),
                ("mv next current", "link.js"),
                ("write two/app.js", "link.js"),
                ("write one/app.js", ""),
            ],
        ),
        (
            &["app.js", "."],
            &[
                ("write src/deep/x.js", "src/deep/x.js"),
                ("write app.js", "app.js"),
                ("write own.log", ""),
                ("mv src moved", "src"),
                ("write moved/deep/a.js", "moved/deep/a.js"),
            ],
        ),
        (
            &["app.js", "src"],
            &[
                ("touch app.js", "app.js"),
                ("touch src/deep/a.js", "src/deep/a.js"),
                ("date app.js", ""),
                ("write x.log", ""),
            ],
        ),
        (
            &["none/at/all", "app.js/below"],
            &[
                ("write x", ""),
                ("mkdir none/at", ""),
                ("mkdir none/at/all", "none/at/all"),
                ("rm none", "none/at/all"),
                ("rm app.js", ""),
                ("mkdir app.js/below", "app.js/below"),
            ],
        ),
        (
            &["one/app.js"],
            &[
                ("mv one gone", "one/app.js"),
                ("write gone/app.js", ""),
                ("mv gone one", "one/app.js"),
                ("write one/app.js", "one/app.js"),
            ],
        ),
    ];
    for (number, (paths, steps)) in cases.iter().enumerate() {
        let dir = scratch(&number.to_string());
        let mut watcher = open(&dir, paths);
        for (at, (step, expected)) in steps.iter().enumerate() {
            act(&dir, step);
            let told = watcher.changed(&Ours::default()).unwrap();
            let told = told.map(|path| path.strip_prefix(&dir).unwrap().display().to_string());
            assert_eq!(
                told.as_deref().unwrap_or_default(),
                *expected,
                "{paths:?}: step {at}, {step}"
            );
            assert_eq!(
                watcher.changed(&Ours::default()).unwrap(),
                None,
                "{paths:?}: step {at}, {step}"
            );
        }
        drop(watcher);
        fs::remove_dir_all(dir).unwrap();
    }
}

#[test]
fn no_more_is_watched_than_is_needed() {
    let dir = scratch("few");
    let watched = |paths: &[&str]| -> Vec<String> {
        let watcher = open(&dir, paths);
        let names = watcher
            .watches
            .keys()
            .map(|path| path.strip_prefix(&dir).unwrap_or(path));
        names.map(|path| path.display().to_string()).collect()
    };
    assert_eq!(watched(&["app.js"]), [""]);
    assert_eq!(watched(&["later/conf/x", "src/*.js"]), ["", "later", "src"]);
    assert_eq!(watched(&["src"]), ["", "src", "src/deep"]);
    assert_eq!(watched(&["current/public"]), ["", "current/public", "one"]);
    // A directory is made up as it is read, unless it is meant.
    let proc = open(Path::new("/"), &["proc/self/attr/*"]);
    assert!(proc.watches.contains_key(Path::new("/proc/self/attr")));
    assert!(!proc.is_made_up(Path::new("/"), Path::new("/proc")));
    assert!(open(&dir, &["src"]).is_made_up(Path::new("/"), Path::new("/proc")));
    fs::remove_dir_all(&dir).unwrap();
}
