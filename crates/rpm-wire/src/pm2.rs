//! The process list in PM2's shape, as `pm2 jlist` prints it: what scripts parse.

use serde_json::{Map, Value, json};

use crate::api::{AppSpec, Details, ExecMode, INSTANCE_VAR, Offer, Process};

/// FNV-1a, of 128 bits.
const FNV_OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const FNV_PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

/// The versions of an app, which files say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// That of its package.
    pub app: Option<String>,
    /// That of the Node that runs it.
    pub node: Option<String>,
}

/// The whole list. The processes must carry their `spec` (`GET /v1/processes?spec=true`), or what
/// stems from it is missing.
#[must_use]
pub fn jlist(processes: &[Process], versions: impl Fn(&AppSpec) -> Versions) -> Value {
    let entry = |process: &Process| {
        let instances = processes
            .iter()
            .filter(|other| other.name == process.name)
            .count();
        let versions = process.spec.as_deref().map(&versions);
        jlist_entry(process, instances, &versions.unwrap_or_default())
    };
    processes.iter().map(entry).collect()
}

/// One element; `instances` is how many its app has.
fn jlist_entry(process: &Process, instances: usize, versions: &Versions) -> Value {
    json!({
        "pid": process.pid.unwrap_or(0),
        "name": process.name,
        "pm2_env": pm2_env(process, instances, versions),
        "pm_id": process.id,
        "monit": {"memory": process.memory_bytes, "cpu": process.cpu_percent},
    })
}

/// The app's variables come first: none of them may hide a field of ours.
fn pm2_env(process: &Process, instances: usize, versions: &Versions) -> Value {
    let mut fields = Map::new();
    let number_var = process
        .spec
        .as_ref()
        .and_then(|spec| spec.instance_var.as_deref());
    if let Some(spec) = &process.spec {
        fields.extend(spec.env.iter().map(|(name, value)| (name.clone(), json!(value))));
        fields.extend(
            spec.incremented(process.instance)
                .map(|(name, value)| (name, json!(value))),
        );
        fields.append(&mut spec_fields(spec));
    }
    fields.insert(
        number_var.unwrap_or(INSTANCE_VAR).to_owned(),
        json!(process.instance),
    );
    fields.append(&mut state_fields(process, instances));
    fields.append(&mut detail_fields(
        process.details.as_deref().unwrap_or(&Details::default()),
    ));
    fields.append(&mut object(json!({
        "version": versions.app.as_deref().unwrap_or("N/A"),
        "node_version": versions.node,
    })));
    Value::Object(fields)
}

fn detail_fields(details: &Details) -> Map<String, Value> {
    let Offer {
        actions,
        monitor,
        options,
    } = &details.offer;
    object(json!({
        "pm_log_path": details.both_log,
        "pm_pid_path": Some(&details.pid_file).filter(|path| !path.is_empty()),
        "prev_restart_delay": details.restart_delay_ms,
        "axm_actions": actions,
        "axm_monitor": monitor,
        "axm_options": options,
        "axm_dynamic": {},
    }))
}

/// A UUID for the apps that one command has started, which is the same as long as they are in the list.
fn unique_id(process: &Process) -> String {
    let number = process
        .name
        .bytes()
        .chain(process.created_at_ms.to_be_bytes())
        .fold(FNV_OFFSET, |hash, byte| {
            (hash ^ u128::from(byte)).wrapping_mul(FNV_PRIME)
        });
    let digits = format!("{number:032x}");
    // Version 4, by which nothing is said but that it is a number.
    format!(
        "{}-{}-4{}-8{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[13..16],
        &digits[17..20],
        &digits[20..]
    )
}

fn state_fields(process: &Process, instances: usize) -> Map<String, Value> {
    let mode = match process.exec_mode {
        ExecMode::Cluster => "cluster_mode",
        ExecMode::Fork => "fork_mode",
    };
    object(json!({
        "name": process.name,
        "namespace": process.namespace,
        "pm_id": process.id,
        "status": process.status.as_str(),
        "exec_mode": mode,
        "instances": instances,
        "pm_uptime": process.started_at_ms,
        "created_at": process.created_at_ms,
        "restart_time": process.restarts,
        "unstable_restarts": process.unstable_restarts,
        "exit_code": process.exit_code,
        "pm_out_log_path": process.out_log,
        "pm_err_log_path": process.err_log,
        "watch": watch(process),
        "unique_id": unique_id(process),
    }))
}

/// `true` for everything, otherwise the list, as a file has it.
fn watch(process: &Process) -> Value {
    let spec = process.spec.as_deref();
    match spec.and_then(|spec| Some((&spec.cwd, spec.watch.as_ref()?))) {
        Some((cwd, watch)) if process.watching && watch.paths != [cwd.as_str()] => {
            let prefix = format!("{cwd}/");
            let short = |path: &String| path.strip_prefix(&prefix).unwrap_or(path).to_owned();
            watch.paths.iter().map(short).collect()
        }
        _ => process.watching.into(),
    }
}

fn spec_fields(spec: &AppSpec) -> Map<String, Value> {
    let interpreter = spec.interpreter.as_deref().unwrap_or("none");
    let user = spec.env.get("USER").or_else(|| spec.env.get("LOGNAME"));
    object(json!({
        "pm_cwd": spec.cwd,
        "pm_exec_path": spec.script,
        "exec_interpreter": interpreter.rsplit('/').next(),
        "args": spec.args,
        "node_args": spec.interpreter_args,
        "env": spec.env,
        "username": user,
        "autorestart": spec.autorestart,
        "autostart": spec.autostart,
        "instance_var": spec.instance_var,
        "increment_var": spec.increment_var,
        "wait_ready": spec.wait_ready,
        "listen_timeout": spec.listen_timeout_ms,
        "kill_timeout": spec.kill_timeout_ms,
        "max_restarts": spec.max_restarts,
        "min_uptime": spec.min_uptime_ms,
        "restart_delay": spec.restart_delay_ms,
        "exp_backoff_restart_delay": spec.exp_backoff_restart_delay_ms,
        "max_memory_restart": spec.max_memory_restart,
        "cron_restart": spec.cron_restart,
        "stop_exit_codes": Some(&spec.stop_exit_codes).filter(|codes| !codes.is_empty()),
        "merge_logs": spec.logs.merge,
        "treekill": spec.treekill,
        "vizion": false,
        "km_link": false,
        "_km_monitored": false,
    }))
}

/// The fields of a literal object, those without a value left out.
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Status;

    fn process() -> Process {
        let spec = AppSpec {
            name: "web".into(),
            script: "/srv/web/app.js".into(),
            interpreter: Some("/usr/bin/node".into()),
            interpreter_args: vec!["--harmony".into()],
            args: vec!["--fast".into()],
            cwd: "/srv/web".into(),
            env: [("PORT", "3000"), ("USER", "me"), ("status", "mine")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            exec_mode: ExecMode::Cluster,
            instances: 0,
            kill_timeout_ms: Some(2000),
            ..AppSpec::default()
        };
        Process {
            id: 3,
            name: "web".into(),
            namespace: "default".into(),
            watching: false,
            instance: 1,
            generation: 1,
            exec_mode: ExecMode::Cluster,
            plane: "direct".into(),
            status: Status::Online,
            pid: Some(4711),
            uptime_ms: Some(1000),
            started_at_ms: 1_700_000_001_000,
            created_at_ms: 1_700_000_000_000,
            restarts: 2,
            unstable_restarts: 1,
            cpu_percent: 1.5,
            memory_bytes: 51_896_320,
            connections: Some(4),
            serves: Vec::new(),
            exit_code: Some(1),
            others: Vec::new(),
            out_log: "/srv/rpm/logs/web-out.log".into(),
            err_log: "/srv/rpm/logs/web-error.log".into(),
            spec: Some(Box::new(spec)),
            details: None,
        }
    }

    fn versions(_: &AppSpec) -> Versions {
        Versions {
            app: Some("2.0.1".to_owned()),
            node: Some("20.20.2".to_owned()),
        }
    }

    #[test]
    fn an_entry_has_the_fields_scripts_read() {
        let mut expected = json!({
            "pid": 4711,
            "name": "web",
            "pm_id": 3,
            "monit": {"memory": 51_896_320, "cpu": 1.5},
            "pm2_env": {
                "PORT": "3000", "USER": "me", "NODE_APP_INSTANCE": 1,
                "name": "web", "namespace": "default", "pm_id": 3, "status": "online",
                "exec_mode": "cluster_mode", "instances": 2,
                "pm_uptime": 1_700_000_001_000_u64, "created_at": 1_700_000_000_000_u64,
                "restart_time": 2, "unstable_restarts": 1, "exit_code": 1,
                "pm_out_log_path": "/srv/rpm/logs/web-out.log",
                "pm_err_log_path": "/srv/rpm/logs/web-error.log",
                "watch": false, "version": "2.0.1", "node_version": "20.20.2",
                "unique_id": "00000000-0000-4000-8000-000000000000",
                "pm_cwd": "/srv/web", "pm_exec_path": "/srv/web/app.js", "exec_interpreter": "node",
                "args": ["--fast"], "node_args": ["--harmony"],
                "env": {"PORT": "3000", "USER": "me", "status": "mine"},
                "username": "me", "autorestart": true, "autostart": true, "wait_ready": false, "kill_timeout": 2000,
                "merge_logs": false, "treekill": true, "vizion": false, "km_link": false, "_km_monitored": false,
            },
        });
        for (field, value) in ["axm_monitor", "axm_options", "axm_dynamic"].map(|name| (name, json!({}))) {
            expected["pm2_env"][field] = value;
        }
        expected["pm2_env"]["axm_actions"] = json!([]);
        let second = Process {
            id: 2,
            instance: 0,
            ..process()
        };
        let mut list = jlist(&[process(), second], versions);
        let ids = [0, 1].map(|at: usize| list[at]["pm2_env"]["unique_id"].take());
        assert_eq!(ids[0], ids[1], "of one command");
        let parts: Vec<usize> = ids[0].as_str().unwrap().split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "{}", ids[0]);
        list[0]["pm2_env"]["unique_id"] = json!("00000000-0000-4000-8000-000000000000");
        assert_eq!(list[0], expected);
        assert_eq!(list.as_array().map(Vec::len), Some(2));
        let other = Process {
            name: "api".into(),
            ..process()
        };
        assert_ne!(jlist(&[other], versions)[0]["pm2_env"]["unique_id"], ids[0]);
    }

    #[test]
    fn a_stopped_fork_without_its_spec() {
        let stopped = Process {
            pid: None,
            status: Status::Stopped,
            exec_mode: ExecMode::Fork,
            spec: None,
            ..process()
        };
        let entry = jlist_entry(&stopped, 1, &Versions::default());
        assert_eq!(entry["pm2_env"]["version"], "N/A");
        assert_eq!(entry["pid"], 0);
        assert_eq!(entry["pm2_env"]["status"], "stopped");
        assert_eq!(entry["pm2_env"]["exec_mode"], "fork_mode");
        assert_eq!(entry["pm2_env"].get("env"), None);
    }

    /// What an instance has that its app has not.
    #[test]
    fn an_instance_has_its_own_values() {
        let mut process = process();
        let details = json!({
            "both_log": "/srv/rpm/logs/web.log", "pid_file": "/srv/rpm/pids/web-3.pid", "restart_delay_ms": 150,
            "offer": {"actions": [{"action_name": "gc"}], "monitor": {"rps": {"value": 3}}, "options": {"http": true}},
        });
        process.details = Some(Box::new(serde_json::from_value(details).unwrap()));
        process.watching = true;
        let spec = process.spec.as_mut().unwrap();
        spec.instance_var = Some("INSTANCE_ID".into());
        spec.increment_var = Some("PORT".into());
        spec.watch = Some(serde_json::from_value(json!({"paths": ["/srv/web/src", "/etc/web"]})).unwrap());
        let env =
            |process: &Process| jlist_entry(process, 2, &versions(&AppSpec::default()))["pm2_env"].take();
        let shown = env(&process);
        for (field, value) in [
            ("INSTANCE_ID", json!(1)),
            ("PORT", json!("3001")),
            ("watch", json!(["src", "/etc/web"])),
            ("pm_log_path", json!("/srv/rpm/logs/web.log")),
            ("pm_pid_path", json!("/srv/rpm/pids/web-3.pid")),
            ("prev_restart_delay", json!(150)),
            ("axm_actions", json!([{"action_name": "gc"}])),
            ("axm_monitor", json!({"rps": {"value": 3}})),
            ("axm_options", json!({"http": true})),
        ] {
            assert_eq!(shown[field], value, "{field}");
        }
        assert_eq!(shown.get("NODE_APP_INSTANCE"), None);
        let spec = process.spec.as_mut().unwrap();
        spec.watch = Some(serde_json::from_value(json!({"paths": ["/srv/web"]})).unwrap());
        assert_eq!(env(&process)["watch"], true);
    }
}
