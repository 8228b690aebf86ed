//! The variables of a worker: the app's own, and what PM2's users find there.

use std::collections::BTreeMap;

use rpm_sys::user::User;
use rpm_wire::api::{AppSpec, ExecMode, INSTANCE_VAR};

use crate::apps::delivery::Runtime;
use crate::home::Home;
use crate::workers::worker::{Logs, Place};

/// Variables that say something of another process.
const STALE: [&str; 7] = [
    "NODE_CHANNEL_FD",
    "NODE_UNIQUE_ID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    rpm_agent::SOCKET_ENV,
    rpm_agent::TOKEN_ENV,
];
/// Of an account that names none (passwd(5)).
const USUAL_SHELL: &str = "/bin/sh";
/// What has Node show places in the sources that a program was compiled from.
const SOURCE_MAPS: &str = "--enable-source-maps";

/// The environment of an instance, the agent's part excepted.
pub(crate) fn environment(
    spec: &AppSpec,
    runtime: Runtime,
    home: &Home,
    Place { instance, number }: Place,
    logs: &Logs,
    user: Option<&User>,
) -> BTreeMap<String, String> {
    let mode = match spec.exec_mode {
        ExecMode::Fork => "fork_mode",
        ExecMode::Cluster => "cluster_mode",
    };
    let root = home.root().display().to_string();
    let own = [
        (INSTANCE_VAR, number.to_string()),
        ("pm_id", instance.to_string()),
        ("name", spec.name.clone()),
        ("namespace", spec.namespace.clone()),
        ("exec_mode", mode.to_owned()),
        ("pm_cwd", spec.cwd.clone()),
        ("pm_exec_path", spec.script.clone()),
        ("pm_out_log_path", logs.out.display().to_string()),
        ("pm_err_log_path", logs.err.display().to_string()),
        ("RPM_HOME", root.clone()),
        ("PM2_HOME", root),
    ];
    let mut env = spec.env.clone();
    for stale in STALE {
        env.remove(stale);
    }
    for (name, value) in user.into_iter().flat_map(of_user) {
        env.entry(name.to_owned()).or_insert(value);
    }
    env.extend(spec.incremented(number));
    env.extend(own.map(|(key, value)| (key.to_owned(), value)));
    if let Some(name) = spec.instance_var.as_ref().filter(|name| *name != INSTANCE_VAR) {
        env.remove(INSTANCE_VAR);
        env.insert(name.clone(), number.to_string());
    }
    if runtime != Runtime::Node {
        // Python's output would stay in its buffer, for it goes to a pipe.
        env.entry("PYTHONUNBUFFERED".to_owned())
            .or_insert_with(|| "1".to_owned());
    }
    if spec.source_map_support && runtime == Runtime::Node {
        let options = env.entry("NODE_OPTIONS".to_owned()).or_default();
        if !options.contains(SOURCE_MAPS) {
            if !options.is_empty() {
                options.push(' ');
            }
            options.push_str(SOURCE_MAPS);
        }
    }
    env
}

/// As login(1) sets them. One without a name has the home that users without one have.
fn of_user(user: &User) -> Vec<(&'static str, String)> {
    let Some(account) = &user.account else {
        return vec![("HOME", "/".to_owned()), ("SHELL", USUAL_SHELL.to_owned())];
    };
    let shell = match account.shell.as_str() {
        "" => USUAL_SHELL,
        shell => shell,
    };
    vec![
        ("HOME", account.home.clone()),
        ("USER", account.name.clone()),
        ("LOGNAME", account.name.clone()),
        ("SHELL", shell.to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use rpm_core::InstanceId;

    use super::*;

    const PLACE: Place = Place {
        instance: InstanceId(7),
        number: 2,
    };

    #[test]
    fn each_instance_has_its_numbers() {
        let dir = std::env::temp_dir().join(format!("rpm-environment-{}", std::process::id()));
        let home = Home::prepare(&dir).unwrap();
        let spec = AppSpec {
            name: "web".to_owned(),
            interpreter: Some("/usr/bin/node".to_owned()),
            env: [
                ("PORT", "3000"),
                ("NODE_OPTIONS", "--no-warnings"),
                ("LISTEN_FDS", "1"),
            ]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
            increment_var: Some("PORT".to_owned()),
            instance_var: Some("INSTANCE_ID".to_owned()),
            namespace: "shop".to_owned(),
            ..AppSpec::default()
        };
        let logs = crate::workers::outputs::logs_of(&home, &spec, InstanceId(7));
        let env = environment(&spec, Runtime::Node, &home, PLACE, &logs, None);
        for (name, value) in [
            ("PORT", "3002"),
            ("INSTANCE_ID", "2"),
            ("pm_id", "7"),
            ("namespace", "shop"),
            ("NODE_OPTIONS", "--no-warnings --enable-source-maps"),
        ] {
            assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!env.contains_key("NODE_APP_INSTANCE") && !env.contains_key("LISTEN_FDS"));
        assert!(!env.contains_key("PYTHONUNBUFFERED"));
        let unbuffered = |own: &[(&str, &str)]| {
            let spec = AppSpec {
                env: own
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                    .collect(),
                interpreter: Some("/usr/bin/python3".to_owned()),
                ..AppSpec::default()
            };
            environment(&spec, Runtime::Other, &home, PLACE, &logs, None).remove("PYTHONUNBUFFERED")
        };
        assert_eq!(unbuffered(&[]).as_deref(), Some("1"));
        assert_eq!(unbuffered(&[("PYTHONUNBUFFERED", "")]).as_deref(), Some(""));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
