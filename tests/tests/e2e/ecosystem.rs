//! Ecosystem files: read in every format, compared with what runs, and applied without losing a request.

use std::collections::BTreeMap;
use std::time::Duration;

use rpm_e2e::clients::Clients;
use rpm_e2e::complaint::assert_says;
use rpm_e2e::outside::kill_daemon;
use rpm_e2e::place::Place;
use rpm_e2e::raw::Connection;
use rpm_testkit::{Port, Process, Rpm, Status, fixture, get, wait_until};
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(20);
/// Clients of each kind.
const CLIENTS: usize = 4;
/// Responses between two events.
const SOME: u64 = 50;

/// Makes the text of a file for a port.
type Text<'t> = &'t dyn Fn(&Port) -> String;

/// An ecosystem file with these apps.
fn ecosystem(apps: &Value) -> String {
    format!("module.exports = {};", json!({ "apps": apps }))
}

/// The environment of an app that returns it.
fn env_of(port: &Port) -> BTreeMap<String, String> {
    let answer = get(port.number(), "/").expect("it answers");
    serde_json::from_str(&answer.body).expect("variables")
}

fn env_app(port: &Port) -> Value {
    json!({
        "name": "web", "script": fixture("env.js"), "instances": 2,
        "env": {"HOST": "127.0.0.1", "PORT": port.number(), "COLOUR": "red"},
        "env_blue": {"COLOUR": "blue"},
    })
}

#[test]
fn every_format_starts_the_same_apps() {
    let (place, hello) = (Place::new(), fixture("hello.js"));
    let hello = hello.to_str().expect("UTF-8");
    let js = |port: &Port| {
        format!(
            "[{{ name: 'web', script: '{hello}', instances: 2, env: {{ HOST: '127.0.0.1', PORT: {port} }} }}]"
        )
    };
    let files: [(&str, Text<'_>); 8] = [
        ("ecosystem.config.js", &|port| {
            format!(
                "console.log('noise');\nmodule.exports = {{ apps: {} }};",
                js(port)
            )
        }),
        ("a.config.cjs", &|port| {
            format!("module.exports = {{ apps: {} }};", js(port))
        }),
        ("a.config.mjs", &|port| {
            format!("export default {{ apps: {} }};", js(port))
        }),
        ("b.config.mjs", &|port| {
            format!("export default async () => ({{ apps: {} }});", js(port))
        }),
        ("a.json", &|port| {
            format!("{{ /* as JavaScript */ apps: {}, }}", js(port))
        }),
        ("code.json", &|port| {
            format!("{{ apps: process.env.HOME ? {} : [] }}", js(port))
        }),
        ("a.yaml", &|port| {
            format!(
                "apps:\n  - name: web\n    script: {hello}\n    instances: 2\n    env: {{ HOST: 127.0.0.1, PORT: {port} }}\n"
            )
        }),
        ("a.toml", &|port| {
            format!(
                "[[apps]]\nname = 'web'\nscript = '{hello}'\ninstances = 2\nenv = {{ HOST = '127.0.0.1', PORT = {port} }}\n"
            )
        }),
    ];
    for (name, text) in files {
        let (rpm, port) = (Rpm::new(), Port::reserve());
        place.write(name, &text(&port));
        let ran = place.ok(&rpm, ["start", name]);
        assert!(!ran.stdout.contains("noise"), "{name}: {ran:?}");
        assert_eq!(rpm.list().len(), 2, "{name}");
        assert!(get(port.number(), "/").is_ok(), "{name}");
    }
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let ran = place.pipe(&rpm, ["start", "-"], &format!("{{apps: {}}}", js(&port)));
    assert_eq!((ran.code, rpm.list().len()), (Some(0), 2), "{ran:?}");
}

#[test]
fn a_changed_file_is_applied_and_nothing_is_lost() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let mut app = json!({
        "name": "web", "script": fixture("hello.js"), "instances": 2, "env": {"HOST": "127.0.0.1", "PORT": port.number(), "OLD": "1"},
    });
    let file = "ecosystem.config.js";
    place.write(file, &ecosystem(&json!([app])));
    place.ok(&rpm, ["start"]);
    let clients = Clients::begin(&port, "/", CLIENTS);
    clients.wait_ok(SOME);
    // More workers, another script, a variable removed, another directory, and back to fewer workers.
    app["instances"] = json!(3);
    place.write(file, &ecosystem(&json!([app])));
    let ran = place.ok(&rpm, ["reload", file]);
    assert!(ran.stderr.contains("web: instances 2 -> 3"), "{ran:?}");
    assert_eq!(rpm.pids("web").len(), 3);
    clients.wait_ok(SOME);
    app["script"] = json!(fixture("listen.js"));
    app["cwd"] = json!(place.path());
    app["env"].as_object_mut().expect("an object").remove("OLD");
    place.write(file, &ecosystem(&json!([app])));
    let ran = place.run(&rpm, ["reload", file, "--dry-run"]);
    assert!(
        ran.stdout.contains("script") && ran.stdout.contains("env.OLD removed"),
        "{ran:?}"
    );
    assert!(rpm.describe("web").spec.script.ends_with("hello.js"), "a dry run");
    app["script"] = json!(fixture("env.js"));
    place.write(file, &ecosystem(&json!([app])));
    place.ok(&rpm, ["restart", file]);
    clients.wait_ok(SOME);
    let env = env_of(&port);
    assert!(
        !env.contains_key("OLD") && env["pm_cwd"] == place.path().display().to_string(),
        "{env:?}"
    );
    app["instances"] = json!(1);
    place.write(file, &ecosystem(&json!([app])));
    place.ok(&rpm, ["startOrReload", file]);
    clients.wait_ok(SOME);
    assert_eq!(rpm.list().len(), 1);
    clients.finish_clean(&rpm);
}

#[test]
fn from_one_process_to_a_cluster_and_back_without_a_gap() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let mut app = json!({
        "name": "web", "script": fixture("hello.js"), "exec_mode": "fork", "keep_alive_timeout": "60s", "env": {"HOST": "127.0.0.1", "PORT": port.number()},
    });
    place.write("ecosystem.config.js", &ecosystem(&json!([app])));
    place.ok(&rpm, ["start"]);
    // In fork mode a process is online before it listens.
    wait_until(
        "it listens",
        BOUND,
        || get(port.number(), "/").is_ok(),
        |answers| *answers,
    );
    let clients = Clients::begin(&port, "/", CLIENTS);
    clients.wait_ok(SOME);
    let mut rests = Connection::open(&port);
    assert_eq!(rests.get("/").status, 200);
    app["exec_mode"] = json!("cluster");
    app["instances"] = json!(2);
    place.write("ecosystem.config.js", &ecosystem(&json!([app])));
    place.ok(&rpm, ["reload", "ecosystem.config.js"]);
    clients.wait_ok(SOME);
    assert_eq!(rpm.pids("web").len(), 2);
    // A client that sent nothing in the meantime is still connected.
    let last = rests.get("/");
    assert!(
        last.status == 200 && last.head.contains("connection: close"),
        "{last:?}"
    );
    clients.finish_clean(&rpm);
}

#[test]
fn what_a_dead_daemon_has_begun_is_finished_by_the_next_one() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let gate = place.path().join("gate");
    let waits = "const timer = setInterval(() => { if (require('fs').existsSync(process.argv[2])) { clearInterval(timer); process.send('ready'); } }, 20); setInterval(() => {}, 60_000);";
    place.write("new.js", waits);
    let mut app = json!({
        "name": "jobs", "script": fixture("no-listen.js"), "exec_mode": "fork", "instances": 1,
    });
    let file = "ecosystem.config.js";
    place.write(file, &ecosystem(&json!([app])));
    place.ok(&rpm, ["start"]);
    rpm.ok(["stop", "jobs"]);
    // Other code and more instances, which come when the first one is ready.
    app["script"] = json!(place.path().join("new.js"));
    app["args"] = json!(gate);
    app["instances"] = json!(3);
    app["wait_ready"] = json!(true);
    place.write(file, &ecosystem(&json!([app])));
    place.ok(&rpm, ["start", file, "--no-wait"]);
    let starts = |list: &Vec<Process>| {
        list.iter()
            .any(|it| it.status == Status::Launching && it.pid.is_some())
    };
    wait_until("the new code starts", BOUND, || rpm.list(), starts);
    assert_eq!(rpm.list().len(), 1, "not before that is ready");
    kill_daemon(&rpm);
    wait_until("it is started again", BOUND, || rpm.list(), starts);
    assert_eq!(rpm.list().len(), 1, "not before that is ready");
    place.write("gate", "");
    let finished = |list: &Vec<Process>| list.len() == 3 && list.iter().all(|it| it.status == Status::Online);
    wait_until("the next daemon finishes both", BOUND, || rpm.list(), finished);
    let script = rpm.describe("jobs").spec.script;
    assert!(script.ends_with("new.js"), "{script}");
}

#[test]
fn environments_are_chosen_by_name_and_taken_from_the_file() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    place.write("ecosystem.config.js", &ecosystem(&json!([env_app(&port)])));
    place.ok(&rpm, ["start"]);
    assert_eq!(env_of(&port)["COLOUR"], "red");
    place.ok(&rpm, ["restart", "ecosystem.config.js", "--env", "blue"]);
    assert_eq!(env_of(&port)["COLOUR"], "blue");
    let ran = place.ok(&rpm, ["reload", "ecosystem.config.js", "--env", "green"]);
    assert!(ran.stderr.contains("no app has env_green"), "{ran:?}");
    assert_eq!(env_of(&port)["COLOUR"], "red");
}

#[test]
fn parts_of_a_file_are_named() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let app = |name: &str| json!({"name": name, "script": "sleep 1000", "namespace": "jobs"});
    place.write(
        "jobs.config.js",
        &ecosystem(&json!([app("one"), app("two"), app("three")])),
    );
    place.ok(&rpm, ["start", "jobs.config.js", "--only", "one,three"]);
    let names = || {
        rpm.list()
            .into_iter()
            .map(|process| process.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(), ["one", "three"]);
    assert_says(
        &place.run(&rpm, ["start", "jobs.config.js", "--only", "tow"]),
        &["no app \"tow\"", "did you mean \"two\"?"],
    );
    place.ok(&rpm, ["start", "jobs.config.js"]);
    assert_eq!(names(), ["one", "three", "two"]);
    place.ok(&rpm, ["stop", "jobs.config.js", "--only", "two"]);
    let stopped = |process: &Process| process.status == Status::Stopped;
    assert_eq!(rpm.list().iter().filter(|process| stopped(process)).count(), 1);
    rpm.ok(["stop", "jobs"]);
    assert!(rpm.list().iter().all(stopped), "by namespace");
    rpm.ok(["restart", "/^t/"]);
    assert_eq!(rpm.list().iter().filter(|process| stopped(process)).count(), 1);
    place.ok(&rpm, ["delete", "jobs.config.js"]);
    assert!(rpm.list().is_empty());
}

#[test]
fn faults_are_all_told_and_nothing_is_started() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write(
        "bad.config.js",
        &ecosystem(&json!([
            {"name": "a", "script": "sleep 1", "instances": "many"},
            {"name": "b"},
            {"name": "c", "script": "nowhere.js", "instnaces": 2},
        ])),
    );
    for command in ["validate", "start"] {
        let parts = ["app \"a\": `instances` must be", "app \"b\": `script` is missing"];
        assert_says(&place.run(&rpm, [command, "bad.config.js"]), &parts);
    }
    place.write(
        "gone.config.js",
        &ecosystem(&json!([{"name": "c", "script": "nowhere.js", "instnaces": 2}])),
    );
    let ran = place.run(&rpm, ["start", "gone.config.js"]);
    assert_says(
        &ran,
        &["did you mean `instances`?", "script not found: nowhere.js"],
    );
    place.write(
        "cron.config.js",
        &ecosystem(&json!([{"name": "d", "script": "sleep 1", "cron_restart": "soon"}])),
    );
    assert_says(
        &place.run(&rpm, ["start", "cron.config.js"]),
        &["is not a cron schedule: it has 1 field", "0 3 * * *"],
    );
    assert!(rpm.list().is_empty());
    for (name, text, part) in [
        ("throws.config.js", "throw new Error('boom')", "boom"),
        (
            "cyclic.config.js",
            "const a = { apps: [] }; a.apps.push(a); module.exports = a;",
            "circular",
        ),
        ("nothing.config.js", "module.exports = 7;", "must be an object"),
        ("syntax.json", "{ apps: [", "syntax.json cannot be read"),
        (
            "large.config.js",
            "module.exports = { apps: ['x'.repeat(5 << 20)] };",
            "more than",
        ),
        ("deep.json", &"[".repeat(100_000), "nested"),
    ] {
        place.write(name, text);
        assert_says(&place.run(&rpm, ["validate", name]), &[part]);
    }
    place.write(
        "ever.config.js",
        "module.exports = new Promise(() => setInterval(() => {}, 1000));",
    );
    assert_says(
        &place.run(&rpm, ["validate", "ever.config.js"]),
        &["did not finish within 20 s"],
    );
}

#[test]
fn validate_finds_what_start_refuses() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let stay = "sleep 1000";
    place.write(
        "all.json",
        &json!([
            {"name": "cron", "script": stay, "cron_restart": "x y"},
            {"name": "proxied", "script": stay, "balance": "proxy"},
            {"name": "sticky", "script": stay, "sticky": "w", "wach": true},
            {"name": "sealed", "script": stay, "instances": 1, "balance": "proxy", "tls_cert": "no.crt", "tls_key": "no.key"},
            {"name": "user", "script": stay, "uid": "nobody-has-this-name"},
            {"name": "value", "script": "gone.js", "instances": "many"},
            {"script": "same.sh"},
            {"script": "./same.sh"},
        ])
        .to_string(),
    );
    place.write("same.sh", "sleep 1000");
    let every = [
        "cron",
        "proxied",
        "sticky",
        "sealed",
        "user",
        "`instances` must be",
        "script not found: gone.js",
        "`wach`",
        "two apps are named \"same\"",
    ];
    assert_says(&place.run(&rpm, ["validate", "all.json"]), &every);
    assert!(rpm.daemon_pid().is_none(), "no daemon is needed");
    // `validate` finds each one that `start` rejects.
    for app in ["cron", "proxied", "sticky", "sealed", "user"] {
        let file: Value = serde_json::from_str(&place.read("all.json")).expect("JSON");
        let one = file
            .as_array()
            .expect("a list")
            .iter()
            .find(|it| it["name"] == app);
        place.write("one.json", &json!({"apps": [one]}).to_string());
        assert_says(&place.run(&rpm, ["start", "one.json"]), &[app]);
        assert_says(&place.run(&rpm, ["validate", "one.json"]), &[app]);
    }
    assert!(rpm.list().is_empty());
    place.write(
        "typo.json",
        &json!([{"name": "web", "script": stay, "instancs": 2}]).to_string(),
    );
    let lax = place.ok(&rpm, ["validate", "typo.json"]);
    assert!(lax.stderr.contains("did you mean `instances`?"), "{lax:?}");
    assert_eq!(lax.stdout, "typo.json: 1 app: web\n");
    assert_says(
        &place.run(&rpm, ["validate", "--strict", "typo.json"]),
        &["`instancs`"],
    );
    // It is reported once, at the start.
    place.ok(&rpm, ["start", "typo.json"]);
    let stopped = place.ok(&rpm, ["delete", "typo.json"]);
    assert!(!stopped.stderr.contains("instancs"), "{stopped:?}");
}

#[test]
fn files_of_variables_are_read() {
    let (rpm, place) = (Rpm::new().with_env("FROM_HERE", "here"), Place::new());
    place.write(
        "site/.env",
        "export A=1\nB=\"two\\nlines\" # so\nFROM_HERE=file\nC=file\n",
    );
    let script = place.write(
        "site/app.js",
        "const { A, B, C, FROM_HERE } = process.env;\nconsole.log(JSON.stringify([A, B, C, FROM_HERE]));\nsetInterval(() => {}, 1000);\n",
    );
    let app = json!({"name": "app", "script": script, "env_file": ".env", "env": {"C": "own"}});
    place.write("site/ecosystem.json", &json!({"apps": [app]}).to_string());
    place.ok(&rpm, ["start", "site/ecosystem.json"]);
    let out = || String::from_utf8_lossy(&rpm.output("app", "out", None)).into_owned();
    let line = wait_until("its line", BOUND, out, |text| text.ends_with('\n'));
    assert_eq!(line, "[\"1\",\"two\\nlines\",\"own\",\"here\"]\n");
    let app = json!({"name": "other", "script": script, "env_file": ["none.env"]});
    place.write("site/ecosystem.json", &json!({"apps": [app]}).to_string());
    assert_says(
        &place.run(&rpm, ["start", "site/ecosystem.json"]),
        &["env_file", "none.env"],
    );
}

#[test]
fn where_a_file_says_its_app_is_its_script_is_there() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write("conf/app.sh", "sleep 1000");
    place.write(
        "conf/ecosystem.json",
        &json!([{"name": "a", "script": "app.sh", "cwd": ".."}]).to_string(),
    );
    let mut command = rpm.command(["start", "ecosystem.json"]);
    command
        .current_dir(place.path().join("conf"))
        .env("PWD", place.path().join("conf"));
    let ran = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(
        !ran.status.success() && said.contains("script not found: app.sh"),
        "{said}"
    );
}

#[test]
fn without_a_runtime_only_javascript_is_refused() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write("a.config.js", "module.exports = { apps: [] };");
    place.write("a.yaml", "apps: [{ name: a, script: /bin/cat }]\n");
    let run = |file: &str| {
        let mut command = rpm.command(["validate", file]);
        command
            .current_dir(place.path())
            .env("PWD", place.path())
            .env("PATH", "/nowhere");
        let output = command.output().expect("it runs");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, error) = run("a.config.js");
    assert!(
        code == Some(1) && error.contains("neither node nor bun is in PATH"),
        "{error}"
    );
    assert_eq!(run("a.yaml").0, Some(0));
}

#[test]
fn five_hundred_apps_are_compared_and_applied() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let app = |number: usize| json!({"name": format!("app-{number}"), "script": "/bin/true", "autostart": false, "env": {"N": number}});
    let mut apps: Vec<Value> = (0..500).map(app).collect();
    place.write("many.json", &json!({ "apps": apps }).to_string());
    place.ok(&rpm, ["start", "many.json"]);
    assert_eq!(rpm.list().len(), 500);
    apps[7]["env"]["N"] = json!("other");
    place.write("many.json", &json!({ "apps": apps }).to_string());
    let ran = place.ok(&rpm, ["start", "many.json", "--dry-run"]);
    let changed: Vec<&str> = ran
        .stdout
        .lines()
        .filter(|line| !line.ends_with(": configuration unchanged"))
        .collect();
    assert_eq!(changed, ["app-7: env.N changed"]);
}
