//! The list of processes that `pm2 save` writes: an array, an element a process, with the options of its app and its variables side by
//! side.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// The apps of a list, as an ecosystem file would describe them.
#[derive(Debug, PartialEq)]
pub struct Dumped {
    /// Their options.
    pub apps: Vec<Value>,
    /// Names of those that were stopped.
    pub stopped: BTreeSet<String>,
}

/// Fields that mean the same in an ecosystem file.
const SAME: [&str; 29] = [
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
    "time",
];
/// Fields that have another name there.
const RENAMED: [(&str, &str); 4] = [
    ("pm_exec_path", "script"),
    ("pm_cwd", "cwd"),
    ("exec_interpreter", "interpreter"),
    ("pm_log_path", "log_file"),
];
/// Where output goes, unless it goes where it does by default.
const OUTPUTS: [(&str, &str); 2] = [("pm_out_log_path", "out_file"), ("pm_err_log_path", "error_file")];

/// The apps of `list`. PM2's own modules are left out, and what is no process.
#[must_use]
pub fn apps(list: &Value) -> Dumped {
    let mut by_name: BTreeMap<String, (Map<String, Value>, u32)> = BTreeMap::new();
    let mut order = Vec::new();
    let mut stopped = BTreeSet::new();
    for process in list.as_array().into_iter().flatten().filter_map(Value::as_object) {
        let name = process.get("name").and_then(Value::as_str);
        let Some(name) = name.filter(|_| !process.contains_key("pmx_module")) else {
            continue;
        };
        if process.get("status").is_some_and(|status| status == "stopped") {
            stopped.insert(name.to_owned());
        }
        match by_name.get_mut(name) {
            Some((_, count)) => *count += 1,
            None => {
                order.push(name.to_owned());
                by_name.insert(name.to_owned(), (options(process), 1));
            }
        }
    }
    let apps = order.iter().filter_map(|name| {
        let (mut app, count) = by_name.remove(name)?;
        if app.get("exec_mode").is_some_and(|mode| mode == "cluster") {
            app.insert("instances".to_owned(), count.into());
        }
        Some(Value::Object(app))
    });
    Dumped {
        apps: apps.collect(),
        stopped,
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
    for (theirs, ours) in OUTPUTS {
        let by_default = |path: &&Value| path.as_str().is_some_and(|path| path.contains("/.pm2/logs/"));
        if let Some(value) = process.get(theirs).filter(|path| !by_default(path)) {
            app.insert(ours.to_owned(), value.clone());
        }
    }
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
        (!name.is_empty() && !name.contains(['=', '\0'])).then(|| (name.clone(), Value::from(text)))
    };
    let env: Map<String, Value> = env.into_iter().flatten().filter_map(plain).collect();
    app.insert("env".to_owned(), Value::Object(env));
    // It has what it was started with, and not what this terminal has.
    app.insert("filter_env".to_owned(), json!(true));
    app
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_an_app_become_one() {
        let process = |id: u32, status: &str| {
            json!({
                "name": "web", "pm_id": id, "status": status, "exec_mode": "cluster_mode", "pm_exec_path": "/srv/app.js",
                "pm_cwd": "/srv", "exec_interpreter": "node", "node_args": ["--harmony"], "args": ["-v"],
                "env": {"PORT": 3000, "DEBUG": "yes", "web": {}, "a=b": "x"}, "max_memory_restart": 314_572_800,
                "pm_out_log_path": "/srv/me/.pm2/logs/web-out.log", "pm_err_log_path": "/var/log/web.err",
                "autorestart": true, "watch": false, "axm_monitor": {}, "km_link": false,
            })
        };
        let module = json!({"name": "pm2-logrotate", "pmx_module": true, "pm_exec_path": "/x"});
        let job = json!({"name": "job", "status": "stopped", "exec_mode": "fork_mode", "pm_exec_path": "/srv/job.sh"});
        let list = json!([process(0, "online"), module, process(1, "online"), 7, job]);
        let dumped = apps(&list);
        assert_eq!(dumped.stopped, BTreeSet::from(["job".to_owned()]));
        let found = crate::read(&Value::Array(dumped.apps)).expect("an ecosystem file");
        assert_eq!(found.warnings, []);
        let [web, job] = &found.apps[..] else {
            panic!("two apps: {:?}", found.apps);
        };
        assert_eq!(web.script.as_deref(), Some("/srv/app.js"));
        assert_eq!(web.instances, Some(2));
        assert_eq!(web.env.get("PORT").map(String::as_str), Some("3000"));
        assert_eq!(web.env.len(), 2);
        assert_eq!(job.exec_mode, Some(crate::Mode::Fork));
    }

    #[test]
    fn what_is_no_list_has_no_apps() {
        for value in [json!(null), json!({}), json!([1, "x", [], {}])] {
            assert!(apps(&value).apps.is_empty());
        }
    }
}
