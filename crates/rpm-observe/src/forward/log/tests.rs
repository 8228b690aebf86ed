//! Tests of one log on the disk.

use super::super::disk::Machine;
use super::super::record::{Key, Stream};
use super::*;

/// A log on the disk, and a clock.
struct Scene {
    path: PathBuf,
    log: Log<Machine>,
    now_ns: u64,
}

/// What was gathered: texts, ids, times, how often it began again, and gaps.
#[derive(Debug, Default)]
struct Found {
    texts: Vec<String>,
    records: Vec<Record>,
    restarts: usize,
    gaps: usize,
}

impl Scene {
    fn new(name: &str) -> Scene {
        let directory = std::env::temp_dir().join(format!("rpm-log-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).expect("a directory");
        let about = About {
            app: "api".to_owned(),
            others: std::collections::BTreeSet::new(),
            id: None,
            stream: Some(Stream::Out),
            dated: false,
            foreign: false,
        };
        let path = directory.join("a.log");
        let entry = Entry {
            about,
            position: None,
            begun_ns: 0,
            at_end: false,
        };
        Scene {
            log: Log::new(path.clone(), entry),
            path,
            now_ns: 4_000_000_000_000_000_000,
        }
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.path, text).expect("a file");
    }

    fn rotated(&self) -> PathBuf {
        self.path.with_extension("log.1")
    }

    /// As long as it takes for the last line to be whole.
    fn gather(&mut self) -> Found {
        let (mut found, mut buffer) = (Found::default(), vec![0; CHUNK]);
        for _ in 0..6 {
            self.now_ns += QUIET_MS * 1_000_000;
            let look = Look {
                now_ns: self.now_ns,
                now_ms: self.now_ns / 1_000_000,
                room: Room {
                    records: 10,
                    bytes: 10_000,
                },
            };
            let gathered = self.log.gather(&Machine::default(), look, &mut buffer);
            let gathered = gathered.expect("it is read");
            found.restarts += usize::from(gathered.restarted);
            found.gaps += usize::from(gathered.gap);
            found.records.extend(gathered.records);
        }
        found.texts = found.records.iter().map(|record| record.text.clone()).collect();
        found
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.path.parent().expect("a directory"));
    }
}

#[test]
fn a_file_that_is_emptied_is_noticed_once_and_read_from_its_beginning() {
    let mut scene = Scene::new("emptied");
    let mut gather = |text: Option<&str>| {
        if let Some(text) = text {
            scene.write(text);
        }
        let found = scene.gather();
        assert_eq!(found.gaps, 0, "all of it was read");
        let keys: Vec<Key> = found.records.iter().map(|record| record.key).collect();
        (found.texts, found.restarts, keys)
    };
    let (texts, restarts, before) = gather(Some("one\ntwo\n"));
    assert_eq!((texts, restarts), (vec!["one".to_owned(), "two".to_owned()], 0));
    for (text, expected, restarts) in [
        (None, None, 0),
        (Some(""), None, 1),
        (Some("six\n"), Some("six"), 0),
        // As long as before, and another one.
        (Some("ten\n"), Some("ten"), 1),
        (Some("ten\nten\n"), Some("ten"), 0),
    ] {
        let (texts, seen, keys) = gather(text);
        assert_eq!(
            (texts.first().map(String::as_str), seen),
            (expected, restarts),
            "{text:?}"
        );
        assert!(texts.len() < 2);
        assert!(
            keys.iter().all(|key| !before.contains(key)),
            "it is another record, at the same place"
        );
    }
}

#[test]
fn what_was_not_read_of_a_file_that_is_emptied_is_in_its_copy_or_a_gap() {
    for has_copy in [true, false] {
        let mut scene = Scene::new(if has_copy { "copied" } else { "flushed" });
        scene.write("one\n");
        assert_eq!(scene.gather().texts, ["one"]);
        // Nobody looks for a while.
        scene.now_ns += (KNOWN_MS + 1) * 1_000_000;
        scene.write("one\ntwo\nthree\n");
        if has_copy {
            std::fs::copy(&scene.path, scene.rotated()).expect("a copy");
        }
        scene.write("4\n");
        let found = scene.gather();
        let expected: &[&str] = if has_copy { &["two", "three", "4"] } else { &["4"] };
        assert_eq!(found.texts, expected);
        assert_eq!(
            (found.gaps, found.restarts),
            (usize::from(!has_copy), usize::from(!has_copy))
        );
    }
}

#[test]
fn a_file_that_is_gone_is_a_gap_and_what_is_carried_is_sent() {
    let mut scene = Scene::new("gone");
    scene.write("one\ntwo\n");
    std::fs::rename(&scene.path, scene.rotated()).expect("it is there");
    scene.write("");
    scene.log.find(&Machine::default()).expect("it is found");
    let times = scene.gather();
    assert_eq!(
        (times.texts.as_slice(), times.gaps),
        (&["one".to_owned(), "two".to_owned()][..], 0)
    );
    let written = times.records[1].written_ns;
    assert_eq!(written - times.records[0].written_ns, 4, "lines stay in order");
    // Removed while it is not open.
    scene.log.close();
    std::fs::remove_file(scene.rotated()).expect("it is there");
    scene.write("three\n");
    let found = scene.gather();
    assert_eq!(
        (found.texts.as_slice(), found.gaps),
        (&["three".to_owned()][..], 1)
    );
    // Within a record: the next file is gone before it is read.
    scene.write("three\nfour\n");
    scene.now_ns += 1;
    let mut buffer = vec![0; CHUNK];
    std::fs::rename(&scene.path, scene.rotated()).expect("it is there");
    scene.write("five\n");
    let look = |now_ns: u64| Look {
        now_ns,
        now_ms: now_ns / 1_000_000,
        room: Room {
            records: 10,
            bytes: 10_000,
        },
    };
    let first = scene
        .log
        .gather(&Machine::default(), look(scene.now_ns), &mut buffer);
    assert!(first.expect("it is read").records.is_empty() && scene.log.carry.is_some());
    // Made while the others are there, so that it has no inode of theirs.
    let six = scene.path.with_extension("six");
    std::fs::write(&six, "six\n").expect("a file");
    std::fs::remove_file(scene.rotated()).expect("it is there");
    std::fs::rename(&six, &scene.path).expect("it takes its place");
    let found = scene.gather();
    assert_eq!(
        (found.texts.as_slice(), found.gaps),
        (&["four".to_owned(), "six".to_owned()][..], 1)
    );
}
