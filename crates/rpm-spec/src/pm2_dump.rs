//! The list of processes that `pm2 save` writes: an array, an element a process, with the options of its app and its variables side by
//! side.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// What a list of processes holds.
#[derive(Debug, Default, PartialEq)]
pub struct Dumped {
    /// Its apps, in the order of their first processes. Each has a name of its own.
    pub apps: Vec<DumpedApp>,
    /// What is no app here, and why: a line each.
    pub left_out: Vec<String>,
    /// What is different from what PM2 had, and no loss: a line each.
    pub notes: Vec<String>,
}

/// Processes that PM2 started together.
#[derive(Debug, PartialEq)]
pub struct DumpedApp {
    /// Its name here.
    pub name: String,
    /// The options, as an ecosystem file would have them.
    pub options: Value,
    /// Which of its instances were stopped, counted from 0.
    pub stopped: Vec<u32>,
    /// How many instances it has.
    pub instances: u32,
}

/// Fields that mean the same in an ecosystem file.
const SAME: [&str; 30] = [
    "name",
    "args",
    "node_args",
    "namespace",
    "autorestart",
    "max_memory_restart",
    "cron_restart",
    "watch",
    "ignore_watch",
    "watch_delay",
    "merge_logs",
    "log_date_format",
    "log_type",
    "kill_timeout",
    "wait_ready",
    "listen_timeout",
    "min_uptime",
    "max_restarts",
    "restart_delay",
    "exp_backoff_restart_delay",
    "stop_exit_codes",
    "treekill",
    "instance_var",
    "increment_var",
    "shutdown_with_message",
    "uid",
    "gid",
    "source_map_support",
    "disable_logs",
    "time",
];
/// Fields that have another name there.
const RENAMED: [(&str, &str); 3] = [
    ("pm_exec_path", "script"),
    ("pm_cwd", "cwd"),
    ("exec_interpreter", "interpreter"),
];
/// Files of a process, unless they are where PM2 has them by default: the field, the key, and PM2's directory.
const FILES: [(&str, &str, &str); 4] = [
    ("pm_out_log_path", "out_file", "logs"),
    ("pm_err_log_path", "error_file", "logs"),
    ("pm_log_path", "log_file", "logs"),
    ("pm_pid_path", "pid_file", "pids"),
];
/// Variables that PM2 has added: by them it tells its processes apart, or knows what started it.
const OF_PM2: [&str; 7] = [
    "PM2_HOME",
    "PM2_USAGE",
    "PM2_INTERACTOR_PROCESSING",
    "PM2_JSON_PROCESSING",
    "PM2_PROGRAMMATIC",
    "unique_id",
    "NODE_APP_INSTANCE",
];

/// A process, and what tells which app it is of.
struct Process {
    options: Map<String, Value>,
    /// PM2's number of the command that started it; old versions have none.
    started_by: Option<String>,
    stopped: bool,
}

/// The apps of `list`. Processes that one command has started are one app, and those that are the same in everything. PM2 lets several
/// apps have one name; the later ones get another.
#[must_use]
pub fn apps(list: &Value) -> Dumped {
    let mut dumped = Dumped::default();
    let mut groups: Vec<Vec<Process>> = Vec::new();
    for (number, element) in list.as_array().into_iter().flatten().enumerate() {
        let fields = element.as_object();
        let name = fields.and_then(|fields| fields.get("name")?.as_str());
        let (Some(fields), Some(name)) = (fields, name) else {
            let text = format!("element {} of the list is no process with a name", number + 1);
            dumped.left_out.push(text);
            continue;
        };
        if fields.contains_key("pmx_module") {
            let text = format!("{name} is a module of PM2, which there is no need for here");
            dumped.notes.push(text);
            continue;
        }
        let process = read(fields);
        match groups.iter_mut().find(|group| is_of(&process, group)) {
            Some(group) => group.push(process),
            None => groups.push(vec![process]),
        }
    }
    let mut taken: BTreeSet<String> = groups.iter().map(|group| name_of(group)).collect();
    let mut seen = BTreeSet::new();
    for group in groups {
        let name = name_of(&group);
        let own = match seen.insert(name.clone()) {
            true => name.clone(),
            false => other_name(&name, &group, &taken),
        };
        taken.insert(own.clone());
        if own != name {
            let text = format!("{own}: the second app that PM2 has named {name:?}; names are unique here");
            dumped.notes.push(text);
        }
        let app = app(own, &group);
        if group
            .iter()
            .any(|process| process.options.get("env") != group[0].options.get("env"))
        {
            let text = format!(
                "{}: its instances have different variables; all get those of the first",
                app.name
            );
            dumped.notes.push(text);
        }
        dumped.apps.push(app);
    }
    dumped
}

fn is_of(process: &Process, group: &[Process]) -> bool {
    let first = &group[0];
    let together = process.started_by.is_some() && process.started_by == first.started_by;
    let differs = |key: &str| process.options.get(key) != first.options.get(key);
    (together && !["name", "script", "exec_mode"].into_iter().any(differs))
        || process.options == first.options
}

fn name_of(group: &[Process]) -> String {
    let name = group[0].options.get("name").and_then(Value::as_str);
    name.unwrap_or_default().to_owned()
}

/// A name that no app of the list has: with the namespace, if that tells them apart, otherwise with a number.
fn other_name(name: &str, group: &[Process], taken: &BTreeSet<String>) -> String {
    let namespace = group[0].options.get("namespace").and_then(Value::as_str);
    let namespace = namespace.filter(|namespace| *namespace != "default");
    let within = namespace.map(|namespace| format!("{name}-{namespace}"));
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut names = within.into_iter().chain(numbered);
    names.find(|name| !taken.contains(name)).unwrap_or_default()
}

fn app(name: String, group: &[Process]) -> DumpedApp {
    let count = |processes: usize| u32::try_from(processes).unwrap_or(u32::MAX);
    let mut options = group[0].options.clone();
    options.insert("name".to_owned(), name.as_str().into());
    let cluster = options.get("exec_mode").is_some_and(|mode| mode == "cluster");
    if cluster || group.len() > 1 {
        options.insert("instances".to_owned(), group.len().into());
    }
    let places = group.iter().enumerate();
    DumpedApp {
        name,
        options: Value::Object(options),
        stopped: places
            .filter(|(_, it)| it.stopped)
            .map(|(place, _)| count(place))
            .collect(),
        instances: count(group.len()),
    }
}

fn read(process: &Map<String, Value>) -> Process {
    let text = |name: &str| process.get(name).and_then(Value::as_str);
    Process {
        options: options(process),
        started_by: text("unique_id").map(str::to_owned),
        stopped: text("status") == Some("stopped"),
    }
}

fn options(process: &Map<String, Value>) -> Map<String, Value> {
    let mut app = Map::new();
    let set = |value: &&Value| !value.is_null();
    for name in SAME {
        if let Some(value) = process.get(name).filter(set) {
            app.insert(name.to_owned(), value.clone());
        }
    }
    for (theirs, ours) in RENAMED {
        if let Some(value) = process.get(theirs).filter(set) {
            app.insert(ours.to_owned(), value.clone());
        }
    }
    files(process, &mut app);
    let mode = process.get("exec_mode").and_then(Value::as_str);
    let mode = mode.map(|mode| mode.trim_end_matches("_mode"));
    app.insert("exec_mode".to_owned(), mode.unwrap_or("fork").into());
    let env = process.get("env").and_then(Value::as_object);
    let plain = |(name, value): (&String, &Value)| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            // Of PM2's own.
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
        };
        let passes = !name.is_empty() && !name.contains(['=', '\0']) && !OF_PM2.contains(&name.as_str());
        passes.then(|| (name.clone(), Value::from(text)))
    };
    let env: Map<String, Value> = env.into_iter().flatten().filter_map(plain).collect();
    app.insert("env".to_owned(), Value::Object(env));
    // It has what it was started with, and not what this terminal has.
    app.insert("filter_env".to_owned(), json!(true));
    app
}

/// The files of a process, without its number: that is added again, with the number it has here.
fn files(process: &Map<String, Value>, app: &mut Map<String, Value>) {
    let home = process.get("env").and_then(|env| env.get("PM2_HOME")?.as_str());
    for (theirs, ours, dir) in FILES {
        let path = process.get(theirs).and_then(Value::as_str);
        let by_default = |path: &str| {
            path.contains(&format!("/.pm2/{dir}/"))
                || home
                    .is_some_and(|home| path.starts_with(&format!("{}/{dir}/", home.trim_end_matches('/'))))
        };
        let Some(path) = path else { continue };
        let id = process.get("pm_id").and_then(Value::as_u64);
        let plain = id.and_then(|id| without_number(path, id));
        if plain.is_some() && dir == "logs" {
            // What a dump says there is not what the processes did.
            app.insert("merge_logs".to_owned(), false.into());
        }
        if !by_default(path) {
            app.insert(ours.to_owned(), plain.unwrap_or_else(|| path.to_owned()).into());
        }
    }
}

/// `/l/out-6.log` of process 6 is `/l/out.log`.
fn without_number(path: &str, id: u64) -> Option<String> {
    let (dir, file) = path
        .rsplit_once('/')
        .map_or(("", path), |(dir, file)| (&path[..=dir.len()], file));
    let (stem, extension) = match file.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => file.split_at(stem.len()),
        _ => (file, ""),
    };
    let stem = stem
        .strip_suffix(&format!("-{id}"))
        .filter(|stem| !stem.is_empty())?;
    Some(format!("{dir}{stem}{extension}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(id: u32, status: &str) -> Value {
        json!({
            "name": "web", "pm_id": id, "status": status, "exec_mode": "cluster_mode", "pm_exec_path": "/srv/app.js",
            "pm_cwd": "/srv", "exec_interpreter": "node", "node_args": ["--harmony"], "args": ["-v"],
            "env": {"PORT": 3000, "DEBUG": "yes", "web": {}, "a=b": "x", "unique_id": "u1", "PM2_HOME": "/srv/me/pm2"},
            "max_memory_restart": 314_572_800, "unique_id": "u1", "merge_logs": true,
            "pm_out_log_path": "/srv/me/pm2/logs/web-out.log", "pm_err_log_path": format!("/var/log/web.err-{id}.log"),
            "pm_pid_path": format!("/srv/me/pm2/pids/web-{id}.pid"),
            "autorestart": true, "watch": false, "axm_monitor": {}, "km_link": false,
        })
    }

    fn with(mut process: Value, changes: &Value) -> Value {
        let fields = changes.as_object().expect("an object").clone();
        process.as_object_mut().expect("a process").extend(fields);
        process
    }

    #[test]
    fn processes_of_an_app_become_one() {
        let module = json!({"name": "pm2-logrotate", "pmx_module": true, "pm_exec_path": "/x"});
        let job = json!({"name": "job", "status": "stopped", "exec_mode": "fork_mode", "pm_exec_path": "/srv/job.sh",
            "pm_id": 4, "merge_logs": true, "pm_out_log_path": "/srv/me/.pm2/logs/job-out-4.log"});
        let list = json!([process(6, "online"), module, process(7, "stopped"), 7, job]);
        let dumped = apps(&list);
        assert_eq!(
            dumped.left_out,
            ["element 4 of the list is no process with a name"]
        );
        assert_eq!(
            dumped.notes,
            ["pm2-logrotate is a module of PM2, which there is no need for here"]
        );
        let stopped: Vec<_> = dumped
            .apps
            .iter()
            .map(|app| (app.instances, app.stopped.clone()))
            .collect();
        assert_eq!(stopped, [(2, vec![1]), (1, vec![0])]);
        let options: Vec<Value> = dumped.apps.into_iter().map(|app| app.options).collect();
        let found = crate::read(&Value::Array(options)).expect("an ecosystem file");
        assert_eq!(found.warnings, []);
        let [web, job] = &found.apps[..] else {
            panic!("two apps: {:?}", found.apps);
        };
        assert_eq!(web.script.as_deref(), Some("/srv/app.js"));
        assert_eq!(web.instances, Some(2));
        assert_eq!(web.env.get("PORT").map(String::as_str), Some("3000"));
        assert_eq!(web.env.len(), 2);
        assert_eq!(
            (&web.out_file, &web.pid_file),
            (&None, &None),
            "where PM2 has them"
        );
        assert_eq!(
            web.error_file,
            Some(crate::Logging::File("/var/log/web.err.log".to_owned()))
        );
        assert_eq!(web.setting("merge_logs"), Some(&json!(false)));
        assert_eq!(job.exec_mode, Some(crate::Mode::Fork));
        assert_eq!(
            (&job.out_file, job.setting("merge_logs")),
            (&None, Some(&json!(false)))
        );
    }

    #[test]
    fn apps_of_one_name_stay_apart() {
        let web = process(0, "online");
        let list = json!([
            web,
            with(
                process(1, "online"),
                &json!({"unique_id": "u2", "pm_exec_path": "/srv/b.js"})
            ),
            with(
                process(2, "online"),
                &json!({"unique_id": "u3", "env": {"PORT": 5903}})
            ),
            with(
                process(3, "online"),
                &json!({"unique_id": "u4", "namespace": "admin", "env": {"PORT": 5904}})
            ),
            // The same in everything, by a command of its own.
            with(process(4, "online"), &json!({"unique_id": "u5"})),
            // One of the first ones, restarted with other variables.
            with(
                process(5, "online"),
                &json!({"env": {"PORT": 3000, "DEBUG": "no"}})
            ),
            with(process(6, "online"), &json!({"name": "web-2", "unique_id": "u6"})),
            // Of a version that has no numbers.
            with(
                process(7, "online"),
                &json!({"name": "old", "unique_id": null, "exec_mode": "fork_mode"})
            ),
            with(
                process(8, "online"),
                &json!({"name": "old", "unique_id": null, "exec_mode": "fork_mode"})
            ),
        ]);
        let dumped = apps(&list);
        assert_eq!(dumped.left_out, Vec::<String>::new());
        let found: Vec<(&str, u32)> = dumped
            .apps
            .iter()
            .map(|app| (app.name.as_str(), app.instances))
            .collect();
        let expected = [
            ("web", 3),
            ("web-3", 1),
            ("web-4", 1),
            ("web-admin", 1),
            ("web-2", 1),
            ("old", 2),
        ];
        assert_eq!(found, expected);
        assert_eq!(dumped.apps[5].options.get("instances"), Some(&json!(2)));
        let notes: Vec<&str> = dumped
            .notes
            .iter()
            .filter_map(|note| note.split(':').next())
            .collect();
        assert_eq!(notes, ["web", "web-3", "web-4", "web-admin"]);
    }

    #[test]
    fn numbers_of_processes_leave_the_names_of_files() {
        for (path, expected) in [
            ("/l/api-out-6.log", Some("/l/api-out.log")),
            ("/l/api-out-6", Some("/l/api-out")),
            ("api-6.log", Some("api.log")),
            ("/l/api-out-16.log", None),
            ("/l/api-out.log", None),
            ("/l/-6.log", None),
            ("/l-6/x.log", None),
        ] {
            assert_eq!(without_number(path, 6).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn what_is_no_list_has_no_apps() {
        for value in [json!(null), json!({}), json!([1, "x", [], {}])] {
            assert!(apps(&value).apps.is_empty());
        }
    }
}
