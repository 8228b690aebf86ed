//! Which changes matter, and where to look for what does not exist yet.

use super::*;

#[test]
fn patterns_mean_names_and_paths() {
    let ignored =
        |pattern: &str, path: &str| is_ignored(pattern, Path::new(path), &Path::new("/srv/web").join(path));
    for (pattern, path) in [
        ("logs", "logs/a.txt"),
        ("*.log", "deep/down/x.log"),
        ("public/images", "public/images/a/b.png"),
        ("./tmp/**", "tmp/x"),
        ("**/cache", "a/b/cache/x"),
        ("/srv/web/data", "data/x"),
        ("src/?.js", "src/a.js"),
    ] {
        assert!(ignored(pattern, path), "{pattern} {path}");
    }
    for (pattern, path) in [
        ("logs", "blogs/a"),
        ("*.log", "x.logs"),
        ("public/images", "other/public/images/a"),
        ("a/*", "b/c"),
    ] {
        assert!(!ignored(pattern, path), "{pattern} {path}");
    }
}

#[test]
fn what_never_matters() {
    let rules = rules(&["/srv/web"]);
    for path in ["/srv/web/app.js", "/srv/web/src/deep/x.ts", "/srv/web"] {
        assert!(rules.apply(Path::new(path)), "{path}");
    }
    for path in [
        "/srv/web/.git/index",
        "/srv/web/node_modules/x/index.js",
        "/srv/web/a.tmp",
        "/srv/web/own/out.log",
        "/srv/web/own.12",
        "/srv/other/app.js",
    ] {
        assert!(!rules.apply(Path::new(path)), "{path}");
    }
}

fn rules(paths: &[&str]) -> Rules {
    let spec = WatchSpec {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        ignore: vec!["*.tmp".to_owned()],
        delay_ms: 0,
    };
    Rules::new(&spec, Ours::new(vec!["/srv/web/own".into()]), |path| {
        path.ends_with("[id].*")
    })
}

#[test]
fn patterns_mean_paths_with_all_that_is_in_them() {
    // What matters; what does not, but would be looked into if it were a directory; what does neither.
    for (pattern, meant, on_the_way, others) in [
        (
            "src/**/*.js",
            &["src/a.js", "src/b/c/d.js"][..],
            &["src", "src/b/c", "src/a.ts"][..],
            &["a.js", "src/.b/c.js", "src/node_modules/c.js", "src/b.tmp"][..],
        ),
        (
            "src/*",
            &["src/a", "src/b/c/d"],
            &["src"],
            &["src/.a", "lib", "src/b/.c"],
        ),
        ("a?.{js,ts}", &["ab.js", "ab.ts"], &[""], &["abc.js", "ab.css"]),
        (".env*", &[".env", ".env.local"], &[""], &[".git", "env"]),
        (
            "packages/*/src",
            &["packages/a/src", "packages/a/src/b.js"],
            &["packages", "packages/a"],
            &["packages/a/lib", "other"],
        ),
        ("src/**", &["src/a", "src/a/b"], &[], &["a"]),
        (
            "**/**/x/{a,b{1,2}}.js",
            &["x/a.js", "q/x/b1.js", "q/r/x/b2.js"],
            &["q/r", "x/b.js"],
            &["x/.b.js"],
        ),
        ("[id].*", &["[id].*"], &[], &["[id].js", "i"]),
        ("{a}/{b", &["{a}/{b"], &[], &["a/b"]),
    ] {
        let rules = rules(&[&format!("/srv/web/{pattern}")]);
        let states = |paths: &[&str]| -> Vec<(bool, bool)> {
            let state = |path: &&str| {
                let path = Path::new("/srv/web").join(path);
                (rules.apply(&path), rules.enter(&path))
            };
            paths.iter().map(state).collect()
        };
        for (paths, expected) in [
            (meant, (true, true)),
            (on_the_way, (false, true)),
            (others, (false, false)),
        ] {
            let all = vec![expected; paths.len()];
            assert_eq!(states(paths), all, "{pattern}: {paths:?}");
        }
    }
}

#[test]
fn a_path_is_looked_for_where_it_is_and_where_it_may_appear() {
    let found = |path: &Path| match path.to_str().unwrap() {
        "/srv" | "/srv/web" | "/srv/web/dist" | "/srv/one" | "/srv/one/public" => Found::Directory,
        "/srv/web/app.js" | "/srv/one/app.js" => Found::Other,
        "/srv/current" => Found::Link("one".into()),
        "/srv/web/link.js" => Found::Link("../current/./app.js".into()),
        "/srv/absolute" => Found::Link("/srv/one".into()),
        "/srv/lost" => Found::Link("none/x".into()),
        "/srv/self" => Found::Link("self".into()),
        _ => Found::Nothing,
    };
    for (path, expected) in [
        ("/srv/web/app.js", &["/srv/web app.js file"][..]),
        ("/srv/web/dist", &["/srv/web dist"]),
        ("/srv/web/later/conf/x", &["/srv/web later"]),
        ("/none/x", &["/ none"]),
        ("/", &[]),
        ("/srv/current/public", &["/srv current", "/srv/one public"]),
        ("/srv/absolute", &["/srv absolute", "/srv one"]),
        ("/srv/absolute/app.js", &["/srv absolute", "/srv/one app.js file"]),
        (
            "/srv/web/link.js",
            &["/srv current", "/srv/one app.js file", "/srv/web link.js"],
        ),
        ("/srv/lost", &["/srv lost", "/srv none"]),
        ("/srv/self", &["/srv self"]),
    ] {
        let show = |it: &Lookout| {
            let file = if it.is_file { " file" } else { "" };
            format!("{} {}{file}", it.dir.display(), it.name.display())
        };
        let all: Vec<String> = lookouts(Path::new(path), found).iter().map(show).collect();
        assert_eq!(all, expected, "{path}");
    }
}

#[test]
fn only_a_time_that_is_set_to_the_present_is_a_change() {
    for (contents, known, touched) in [
        ((100, 5), (100, 5), true),
        ((100, 999_000_000), (101, 1_000_000), true),
        ((90, 5), (100, 5), false),
        ((200, 5), (100, 5), false),
    ] {
        assert_eq!(is_touched(contents, known), touched, "{contents:?} {known:?}");
    }
}
