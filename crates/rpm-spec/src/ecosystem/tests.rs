//! What is read of ecosystem files, key by key.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::keys::Kind;
use crate::options::{EnvFilter, Health, Logging, Mode, Watch};

fn one(fields: Value) -> AppOptions {
    let mut fields = fields;
    fields["script"] = json!("app.js");
    let read = read(&fields).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert_eq!(read.warnings, []);
    read.apps.into_iter().next().expect("an app")
}

fn problems(value: &Value) -> Vec<String> {
    match read(value) {
        Ok(read) => panic!("{read:?}"),
        Err(faults) => faults.problems.iter().map(Problem::to_string).collect(),
    }
}

/// A value that each kind takes, and ones that it does not.
fn examples(kind: Kind) -> (Value, Vec<Value>) {
    match kind {
        Kind::Text | Kind::File => (json!("text"), vec![json!(1), json!([]), json!({})]),
        Kind::Switch => (json!(true), vec![json!(1), json!("yes"), json!([])]),
        Kind::Number(_, most) => {
            let (low, high) = (json!(-1), json!(most + 1));
            (json!(7), vec![low, high, json!("x"), json!(1.5), json!(true)])
        }
        Kind::Ratio => (
            json!(0.02),
            vec![json!(-0.1), json!(1.1), json!("NaN"), json!(true)],
        ),
        Kind::Instances => (json!("max"), vec![json!("some"), json!(true), json!(1.5)]),
        Kind::Time => (json!("10s"), vec![json!("soon"), json!(-1), json!([])]),
        Kind::Memory => (json!("300M"), vec![json!("much"), json!(-1), json!({})]),
        Kind::Words => (json!("a 'b c'"), vec![json!(1), json!([{}])]),
        Kind::List | Kind::Patterns | Kind::Files => (json!(["a"]), vec![json!(1), json!([[]])]),
        Kind::Addresses => (
            json!([8080, "127.0.0.1:80", "[::1]:80"]),
            vec![json!("localhost:80"), json!(70_000), json!([true]), json!({})],
        ),
        Kind::Numbers(least, most) => {
            let (low, high) = (json!([least - 1]), json!(most + 1));
            (
                json!([1, 2]),
                vec![low, high, json!("x"), json!([1.5]), json!({})],
            )
        }
        Kind::Variables => (json!({"A": 1}), vec![json!("A=1"), json!({"A=": 1}), json!([])]),
        Kind::Choice(words) => (json!(words[0]), vec![json!("nothing"), json!(1)]),
        Kind::Signal => (json!("term"), vec![json!("SIGKILL"), json!(15), json!([])]),
        Kind::Output => (json!("out.log"), vec![json!(1), json!([])]),
        Kind::Watch => (json!(["src"]), vec![json!(1), json!({})]),
        Kind::Filter => (json!("SECRET"), vec![json!(1), json!({})]),
        Kind::Networks => (
            json!(["10.0.0.0/8", "::1"]),
            vec![
                json!(1),
                json!({}),
                json!("host"),
                json!(["10.0.0.0/33"]),
                json!([]),
            ],
        ),
        Kind::Cron => (json!("0 3 * * *"), vec![json!(5), json!([])]),
        Kind::User => (json!("www"), vec![json!(-1), json!([])]),
        Kind::Health => (
            json!("/health"),
            vec![
                json!("health"),
                json!("/a b"),
                json!({"path": "/", "colour": 1}),
                json!(1),
            ],
        ),
        Kind::Anything => (json!([1]), Vec::new()),
    }
}

/// Each key that works, under each of its names, changes what is read, and refuses what it does not want with its own name.
#[test]
fn every_key_is_read_and_checked() {
    let plain = one(json!({}));
    for key in keys::all() {
        let (good, bad) = examples(key.kind);
        for name in [key.name].into_iter().chain(key.aliases.iter().copied()) {
            let mut fields = if key.name == "script" {
                json!({})
            } else {
                json!({"script": "app.js"})
            };
            fields[name] = good.clone();
            let read = read(&fields).unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
            match key.state {
                State::Works => {
                    assert_eq!(read.warnings, [], "{name}");
                    assert!(read.apps[0] != plain, "{name} is not taken");
                }
                State::Needless(_) => assert!(read.warnings.is_empty() && read.apps[0] == plain, "{name}"),
                State::Instead(what) => assert!(read.warnings[0].text.contains(what), "{name}"),
            }
            for bad in &bad {
                let mut fields = json!({"script": "app.js", "name": "web"});
                fields[name] = bad.clone();
                let told = problems(&fields).join("; ");
                let expected = format!("`{name}` must be {}", key.kind.expected());
                assert!(told.contains(&expected), "{name} = {bad}: {told}");
            }
        }
    }
}

#[test]
fn the_shapes_of_a_file() {
    let app = json!({"script": "a.js", "name": "a"});
    for shape in [
        json!({"apps": [app]}),
        json!({"apps": app}),
        json!({"pm2": [app], "deploy": {}}),
        json!([app]),
        app,
    ] {
        let read = read(&shape).expect("it is one");
        assert_eq!((read.apps.len(), read.warnings.len()), (1, 0), "{shape}");
        assert_eq!(read.apps[0].name.as_deref(), Some("a"));
    }
    assert_eq!(read(&json!([])).expect("empty").apps, []);
    let told = problems(&json!("text"));
    assert!(told[0].contains("must be an object with `apps`"), "{told:?}");
    let told = problems(&json!({"apps": 3}));
    assert_eq!(told, ["the file: `apps` must be a list of apps, not 3"]);
}

#[test]
fn values_mean_what_pm2_has_them_mean() {
    let app = one(json!({
        "name": "web", "instances": -1, "exec_mode": "cluster_mode", "args": "-p 80 --name 'a b'", "node_args": ["--harmony"],
        "env": {"PORT": 3000.0, "LIST": [1, 2.0], "GONE": null, "FLAG": true}, "env_production": {"NODE_ENV": "production"},
        "out_file": "NULL", "error_file": false, "log_file": true, "max_memory_restart": "1.5G", "min_uptime": "5m",
        "stop_exit_codes": 0, "cron_restart": 0, "watch": true, "ignore_watch": "a, b", "filter_env": true, "uid": 1000,
        "disable_source_map_support": true, "health_check": {"path": "/ok", "interval": "1s"}, "maxRestarts": "5",
    }));
    let expected = AppOptions {
        script: Some("app.js".into()),
        name: Some("web".into()),
        instances: Some(-1),
        exec_mode: Some(Mode::Cluster),
        args: Some(["-p", "80", "--name", "a b"].map(str::to_owned).into()),
        interpreter_args: Some(vec!["--harmony".into()]),
        env: [("PORT", "3000"), ("LIST", "[1,2]"), ("FLAG", "true")]
            .map(|(k, v)| (k.into(), v.into()))
            .into(),
        envs: BTreeMap::from([(
            "production".into(),
            BTreeMap::from([("NODE_ENV".into(), "production".into())]),
        )]),
        out_file: Some(Logging::Nowhere),
        error_file: Some(Logging::Nowhere),
        log_file: Some(Logging::Usual),
        watch: Some(Watch::Everything),
        ignore_watch: Some(vec!["a".into(), "b".into()]),
        filter_env: Some(EnvFilter::Everything),
        health_check: Some(Health {
            path: "/ok".into(),
            status: None,
            interval_ms: Some(1000),
            timeout_ms: None,
            threshold: None,
        }),
        settings: [
            ("max_memory_restart", json!(3 << 29)),
            ("min_uptime", json!(300_000)),
            ("stop_exit_codes", json!([0])),
            ("cron_restart", json!(null)),
            ("uid", json!("1000")),
            ("source_map_support", json!(false)),
            ("max_restarts", json!(5)),
        ]
        .into(),
        ..AppOptions::default()
    };
    assert_eq!(app, expected);
}

#[test]
fn all_faults_are_told_at_once_and_where_they_are() {
    let told = problems(&json!({"apps": [
        {"name": "web", "script": "a.js", "instances": "many", "kill_timeout": "soon"},
        {"script": ["b.js"]},
        {"name": "job"},
        7,
        {"name": "web", "script": "c.js"},
    ]}));
    assert_eq!(
        told,
        [
            "app \"web\": `instances` must be a number of instances: 4, \"max\", or -1 for one fewer than CPUs, not \"many\"",
            "app \"web\": `kill_timeout` must be a time: milliseconds, or a number with ms, s, m, h or d, as \"10s\", not \"soon\"",
            "app 2: `script` must be a string, not a list of 1",
            "app \"job\": `script` is missing: the file or program to run",
            "app 4: an app is an object with at least `script`, not 7",
            "the file: two apps are named \"web\"; give each a name of its own",
        ]
    );
}

#[test]
fn unknown_keys_are_told_with_what_may_have_been_meant() {
    let read = read(&json!({"apps": [{"script": "a.js", "instnaces": 2, "colour": "red", "maxMemoryRestrat": 1}], "app": []}))
        .expect("no fault");
    let told: Vec<String> = read.warnings.iter().map(Warning::to_string).collect();
    assert_eq!(
        told,
        [
            "the file: unknown key `app`; did you mean `apps`?",
            "app 1: unknown key `colour`; it is ignored",
            "app 1: unknown key `instnaces`; did you mean `instances`?",
            "app 1: unknown key `maxMemoryRestrat`; did you mean `max_memory_restart`?",
        ]
    );
}

#[test]
fn an_empty_string_says_nothing() {
    let plain = one(json!({}));
    for key in keys::all().filter(|key| key.name != "script") {
        let mut fields = json!({});
        fields[key.name] = json!("");
        match key.state {
            State::Works => assert_eq!(one(fields), plain, "{}", key.name),
            State::Needless(_) | State::Instead(_) => {}
        }
    }
    for nothing in [json!(""), json!(null)] {
        let told = problems(&json!({"script": nothing}));
        assert_eq!(told, ["app 1: `script` is missing: the file or program to run"]);
    }
}

#[test]
fn files_of_variables_are_no_environment_of_that_name() {
    assert_eq!(
        one(json!({"env_file": ".env"})).env_file,
        Some(vec![".env".to_owned()])
    );
    let two = Some(vec![".env".to_owned(), "b.env".to_owned()]);
    assert_eq!(one(json!({"envFile": [".env", "b.env"]})).env_file, two);
    let named = one(json!({"env_file": {"A": 1}}));
    assert_eq!((named.env_file, named.envs.contains_key("file")), (None, true));
}

#[test]
fn polling_is_said_to_be_left_out() {
    for (options, told) in [
        (json!({"usePolling": true}), 1),
        (json!({"usePolling": false}), 0),
        (json!({}), 0),
    ] {
        for key in ["watch_options", "watchOptions"] {
            let found = read(&json!([{"script": "a.js", key: options}])).expect("no fault");
            assert_eq!(found.warnings.len(), told, "{key} {options}");
        }
    }
}

#[test]
fn what_is_served_becomes_apps() {
    let file = json!({"apps": [{"script": "a.js"}], "static": [
        {"path": "public", "port": 3001, "spa": true, "basic_auth": {"username": "me", "password": "it"}, "monitor": true},
        {"directory": "docs", "name": "docs", "port": "3002", "host": "127.0.0.1", "ftp": true, "prot": 1},
    ]});
    let found = read(&file).expect("no fault");
    let env = |at: usize| -> Vec<(&str, &str)> {
        found.apps[at]
            .env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect()
    };
    assert_eq!(found.apps.len(), 3);
    assert_eq!(found.apps[1].name.as_deref(), Some("static-page-server-3001"));
    assert!(
        found.apps[1..]
            .iter()
            .all(|app| app.script.as_deref() == Some("serve"))
    );
    assert_eq!(
        env(1),
        [
            ("PM2_SERVE_BASIC_AUTH", "true"),
            ("PM2_SERVE_BASIC_AUTH_PASSWORD", "it"),
            ("PM2_SERVE_BASIC_AUTH_USERNAME", "me"),
            ("PM2_SERVE_PATH", "public"),
            ("PM2_SERVE_PORT", "3001"),
            ("PM2_SERVE_SPA", "true"),
        ]
    );
    assert_eq!(found.apps[2].name.as_deref(), Some("docs"));
    let rest = [
        ("PM2_SERVE_HOST", "127.0.0.1"),
        ("PM2_SERVE_PATH", "docs"),
        ("PM2_SERVE_PORT", "3002"),
    ];
    assert!(rest.iter().all(|one| env(2).contains(one)), "{:?}", env(2));
    let told: Vec<String> = found.warnings.iter().map(Warning::to_string).collect();
    let wanted = [
        "static 2: unknown key `prot`; did you mean `port`?",
        "static 2: `ftp` is ignored: directories are not listed",
    ];
    assert_eq!(told, wanted);
    assert_eq!(
        read(&json!({"static": {"path": "a"}}))
            .expect("no fault")
            .apps
            .len(),
        1
    );
    for (site, fault) in [
        (
            json!("public"),
            "static 1: an entry of `static` is an object with `path` and `port`, not \"public\"",
        ),
        (json!({"port": 70000}), "static 1: `port` cannot be 70000"),
        (
            json!({"basic_auth": {"username": "me"}}),
            "static 1: `basic_auth` cannot be an object",
        ),
    ] {
        let faults = read(&json!({"static": [site]})).expect_err("a fault");
        let told: Vec<String> = faults.problems.iter().map(Problem::to_string).collect();
        assert_eq!(told, [fault]);
    }
}

#[test]
fn what_can_be_read_is_there_beside_the_faults() {
    let faults =
        read(&json!([{"script": "a.js", "instances": "many", "instnaces": 2}])).expect_err("a fault");
    assert_eq!(faults.found.apps[0].script.as_deref(), Some("a.js"));
    assert_eq!(faults.found.warnings.len(), 1);
}

#[test]
fn variables_of_a_deployment_are_those_of_its_environment() {
    let apps = json!([
        {"script": "a.js", "env": {"A": "env"}, "env_production": {"B": "app"}},
        {"script": "b.js"},
    ]);
    let deploy = json!({
        "production": {"host": "h", "repo": "r", "path": "/p", "env": {"A": "deployed", "B": "deployed", "PORT": 80}},
        "staging": {"host": "h"},
        "broken": {"env": "A=1"},
    });
    let read = read(&json!({"apps": apps, "deploy": deploy})).expect("apps");
    let envs: Vec<_> = read.apps.iter().map(|app| json!(app.envs)).collect();
    assert_eq!(
        envs,
        [
            json!({"production": {"A": "deployed", "B": "app", "PORT": "80"}}),
            json!({"production": {"A": "deployed", "B": "deployed", "PORT": "80"}}),
        ]
    );
    assert_eq!(read.apps[0].env["A"], "env");
}
