//! The process list in PM2's shape, as `pm2 jlist` prints it: what scripts parse.

use serde_json::{Map, Value, json};

use crate::api::{AppSpec, ExecMode, Process};

/// The whole list. The processes must carry their `spec` (`GET /v1/processes?spec=true`), or what
/// stems from it is missing.
#[must_use]
pub fn jlist(processes: &[Process]) -> Value {
    let entry = |process: &Process| {
        let instances = processes
            .iter()
            .filter(|other| other.name == process.name)
            .count();
        jlist_entry(process, instances)
    };
    processes.iter().map(entry).collect()
}

/// One element; `instances` is how many its app has.
#[must_use]
pub fn jlist_entry(process: &Process, instances: usize) -> Value {
    json!({
        "pid": process.pid.unwrap_or(0),
        "name": process.name,
        "pm2_env": pm2_env(process, instances),
        "pm_id": process.id,
        "monit": {"memory": process.memory_bytes, "cpu": process.cpu_percent},
    })
}

/// The app's variables come first: none of them may hide a field of ours.
fn pm2_env(process: &Process, instances: usize) -> Value {
    let mut fields = Map::new();
    if let Some(spec) = &process.spec {
        fields.extend(spec.env.iter().map(|(name, value)| (name.clone(), json!(value))));
        fields.append(&mut spec_fields(spec));
    }
    fields.append(&mut state_fields(process, instances));
    Value::Object(fields)
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
        "NODE_APP_INSTANCE": process.instance,
        "pm_uptime": process.started_at_ms,
        "created_at": process.created_at_ms,
        "restart_time": process.restarts,
        "unstable_restarts": process.unstable_restarts,
        "exit_code": process.exit_code,
        "pm_out_log_path": process.out_log,
        "pm_err_log_path": process.err_log,
        "watch": process.watching,
        "version": "N/A",
        "axm_monitor": {},
        "axm_options": {},
    }))
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
        }
    }

    #[test]
    fn an_entry_has_the_fields_scripts_read() {
        let expected = json!({
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
                "watch": false, "version": "N/A", "axm_monitor": {}, "axm_options": {},
                "pm_cwd": "/srv/web", "pm_exec_path": "/srv/web/app.js", "exec_interpreter": "node",
                "args": ["--fast"], "node_args": ["--harmony"],
                "env": {"PORT": "3000", "USER": "me", "status": "mine"},
                "username": "me", "autorestart": true, "wait_ready": false, "kill_timeout": 2000,
                "merge_logs": false, "treekill": true, "vizion": false, "km_link": false, "_km_monitored": false,
            },
        });
        let list = jlist(&[
            process(),
            Process {
                id: 2,
                instance: 0,
                ..process()
            },
        ]);
        assert_eq!(list[0], expected);
        assert_eq!(list.as_array().map(Vec::len), Some(2));
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
        let entry = jlist_entry(&stopped, 1);
        assert_eq!(entry["pid"], 0);
        assert_eq!(entry["pm2_env"]["status"], "stopped");
        assert_eq!(entry["pm2_env"]["exec_mode"], "fork_mode");
        assert_eq!(entry["pm2_env"].get("env"), None);
    }
}
