//! Which logs there are: the files of all processes, as the daemon tells them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rpm_wire::api::Process;

use super::record::{About, Stream};

/// Output that is thrown away.
const NOWHERE: &str = "/dev/null";

/// The files of these processes. One that several apps write to is of all of them; one that several instances write to is of no single one, and of no stream if both go there.
pub(super) fn sources(processes: &[Process]) -> BTreeMap<PathBuf, About> {
    let mut found: BTreeMap<PathBuf, About> = BTreeMap::new();
    for process in processes {
        for (path, stream) in files(process) {
            let logs = process.spec.as_ref().map(|spec| &spec.logs);
            let about = About {
                app: process.name.clone(),
                others: BTreeSet::new(),
                id: Some(process.id),
                stream,
                dated: logs.is_some_and(|logs| !logs.json && logs.date_format.is_some()),
                foreign: process.spec.as_ref().is_some_and(|spec| spec.uid.is_some()),
            };
            match found.get_mut(&PathBuf::from(&path)) {
                Some(other) => {
                    other.id = other.id.filter(|id| Some(*id) == about.id);
                    other.stream = other.stream.filter(|stream| Some(*stream) == about.stream);
                    other.foreign |= about.foreign;
                    if other.app != about.app {
                        other.others.insert(about.app);
                    }
                }
                None => drop(found.insert(path.into(), about)),
            }
        }
    }
    found
}

/// The files of a process: those of its streams, or the one for both if there are no others.
fn files(process: &Process) -> Vec<(String, Option<Stream>)> {
    let streams = [
        (process.out_log.clone(), Some(Stream::Out)),
        (process.err_log.clone(), Some(Stream::Err)),
    ];
    let files: Vec<_> = streams.into_iter().filter(|(path, _)| path != NOWHERE).collect();
    if files.len() == 2 {
        return files;
    }
    // What goes to `log_file` goes to the others, too.
    let both = process
        .details
        .as_ref()
        .and_then(|details| details.both_log.clone());
    match both {
        Some(both) => vec![(both, None)],
        None => files,
    }
}

#[cfg(test)]
mod tests {
    use rpm_wire::forward::Destination;
    use serde_json::json;

    use super::super::send::tests::destination;
    use super::*;

    fn process(id: u32, out: &str, err: &str, both: Option<&str>) -> Process {
        let value = json!({
            "id": id, "name": "api", "instance": 0, "generation": 1, "exec_mode": "cluster", "plane": "direct", "status": "online", "pid": null,
            "uptime_ms": null, "started_at_ms": 0, "created_at_ms": 0, "restarts": 0, "unstable_restarts": 0, "cpu_percent": 0.0, "memory_bytes": 0,
            "connections": null, "exit_code": null, "out_log": out, "err_log": err, "details": {"both_log": both, "pid_file": ""},
        });
        serde_json::from_value(value).expect("a process")
    }

    #[test]
    fn files_say_whose_they_are_as_far_as_that_is_known() {
        for (processes, expected) in [
            (
                vec![process(0, "/a", "/b", Some("/c"))],
                vec![
                    ("/a", Some(0), Some(Stream::Out)),
                    ("/b", Some(0), Some(Stream::Err)),
                ],
            ),
            (
                vec![process(0, "/a", "/b", None), process(1, "/a", "/b", None)],
                vec![("/a", None, Some(Stream::Out)), ("/b", None, Some(Stream::Err))],
            ),
            (vec![process(0, "/a", "/a", None)], vec![("/a", Some(0), None)]),
            (
                vec![process(0, "/dev/null", "/dev/null", Some("/c"))],
                vec![("/c", Some(0), None)],
            ),
            (
                vec![process(0, "/dev/null", "/b", None)],
                vec![("/b", Some(0), Some(Stream::Err))],
            ),
            (vec![process(0, "/dev/null", "/dev/null", None)], vec![]),
        ] {
            let found: Vec<_> = sources(&processes)
                .into_iter()
                .map(|(path, about)| (path.display().to_string(), about.id, about.stream))
                .collect();
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(path, id, stream)| (path.to_owned(), id, stream))
                .collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_file_of_several_apps_is_of_each() {
        let mut other = process(1, "/a", "/b", None);
        other.name = "web".to_owned();
        let found = sources(&[process(0, "/a", "/c", None), other]);
        let about = &found[&PathBuf::from("/a")];
        assert!((about.app.as_str(), about.id) == ("api", None) && about.others.contains("web"));
        let only = |app: &str| Destination {
            apps: vec![app.to_owned()],
            ..destination("loki")
        };
        for (app, expected) in [("api", Some("api")), ("web", Some("web")), ("db", None)] {
            let seen = about.of(&only(app)).map(|about| about.app);
            assert_eq!(seen.as_deref(), expected);
        }
    }
}
