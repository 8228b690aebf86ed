//! Changes of watched files are seen even after the files were replaced, in any of the ways in which programs do that.

use std::time::{Duration, Instant};

use rpm_e2e::place::Place;
use rpm_testkit::{Rpm, wait_until};

const BOUND: Duration = Duration::from_secs(20);

/// A change of the files that an app watches.
type Act = fn(&Place);

/// An app, what it watches, and what is done repeatedly, each time a change.
const ACTS: [(&str, &str, Act); 7] = [
    ("saved", "['app.js']", |place| {
        place.write(".new", "written whole");
        std::fs::rename(place.path().join(".new"), place.path().join("app.js")).expect("renamed");
    }),
    ("built", "['dist']", |place| {
        std::fs::remove_dir_all(place.path().join("dist")).expect("removed");
        place.write("dist/js/app.js", "built");
    }),
    ("later", "['later/conf/app.json']", |place| {
        // It may not exist.
        drop(std::fs::remove_dir_all(place.path().join("later")));
        place.write("later/conf/app.json", "{}");
    }),
    ("globbed", "['src/**/*.{js,ts}']", |place| {
        place.write("src/deep/a.ts", "changed");
    }),
    ("linked", "['current/public']", |place| {
        let next = place.path().join("next");
        let before = std::fs::read_link(place.path().join("current")).expect("a link");
        let other = if before.ends_with("release") {
            "other"
        } else {
            "release"
        };
        std::os::unix::fs::symlink(other, &next).expect("a link");
        std::fs::rename(next, place.path().join("current")).expect("renamed");
    }),
    ("touched", "['touched.js']", |place| {
        let file = std::fs::File::options()
            .append(true)
            .open(place.path().join("touched.js"));
        let now = std::time::SystemTime::now();
        let times = std::fs::FileTimes::new().set_accessed(now).set_modified(now);
        file.and_then(|file| file.set_times(times)).expect("a time");
    }),
    ("named", "['target.js']", |place| {
        place.write("release/target.js", "changed");
    }),
];

#[test]
fn what_is_watched_is_not_lost_out_of_sight() {
    let (rpm, place) = (Rpm::new(), Place::new());
    for file in [
        "app.js",
        "dist/js/app.js",
        "src/deep/a.ts",
        "touched.js",
        "release/public/index.html",
        "other/public/index.html",
        "release/target.js",
    ] {
        place.write(file, "first");
    }
    for (link, to) in [("current", "release"), ("target.js", "release/target.js")] {
        std::os::unix::fs::symlink(to, place.path().join(link)).expect("a link");
    }
    let apps = ACTS.map(|(name, watch, _)| {
        format!("{{ name: '{name}', script: '/bin/sleep', args: '1000', watch: {watch} }}")
    });
    let text = format!("module.exports = {{ apps: [{}] }};", apps.join(", "));
    place.write("ecosystem.config.js", &text);
    place.ok(&rpm, ["start", "ecosystem.config.js"]);
    let mut lost = Vec::new();
    for (name, _, act) in ACTS {
        let label = format!("app=\"{name}\"");
        let seen = || {
            let log = rpm.log();
            let lines = log.lines().filter(|line| line.contains(&label));
            lines
                .filter(|line| line.contains("this file has changed"))
                .count()
        };
        let done = |bound: Duration| {
            let (before, began) = (seen(), Instant::now());
            act(&place);
            std::iter::repeat_with(seen).any(|now| now > before || began.elapsed() > bound) && seen() > before
        };
        // Watching begins a moment after the start; from then on, each change is seen.
        let first = (0..80).any(|_| done(Duration::from_millis(250)));
        if !first || !(0..3).all(|_| done(BOUND)) {
            lost.push(name);
        }
    }

    assert!(
        lost.is_empty(),
        "changes of these are not seen: {lost:?}\n{}",
        rpm.log()
    );
}

/// The log of a new instance lies in what is watched. The daemon writes it, so it is no change of the app.
#[test]
fn what_a_new_instance_writes_to_its_log_is_no_change() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let app = "setInterval(() => console.log('line'), 20);";
    place.write("app.js", app);
    let start = [
        "start",
        "app.js",
        "-i",
        "1",
        "--watch",
        "--output",
        "log/out.log",
        "--listen-timeout",
        "500",
    ];
    place.ok(&rpm, start);
    place.ok(&rpm, ["scale", "app", "2"]);
    let lines = || std::fs::read_to_string(place.path().join("log/out-1.log")).unwrap_or_default();
    wait_until("it writes", BOUND, lines, |lines| lines.lines().count() > 50);
    assert!(!rpm.log().contains("this file has changed"), "{}", rpm.log());
    let mut written: Option<Instant> = None;
    let change = || {
        // Watching begins a moment after the start.
        if written.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
            place.write("app.js", &format!("{app} // changed"));
            written = Some(Instant::now());
        }
        rpm.log()
    };
    wait_until("a real change is seen", BOUND, change, |log| {
        log.contains("this file has changed")
    });
}
