//! What a daemon of another version has left: the version before is taken over from after a crash, and what cannot be read is said.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::clients::Clients;
use rpm_e2e::outside::kill_daemon;
use rpm_testkit::{Port, Process, Rpm, Status, get, wait_until};
use serde_json::{Map, Value, json};

/// Long enough for anything that happens at all on a loaded machine.
const BOUND: Duration = Duration::from_secs(30);
/// Clients of each kind.
const CLIENTS: usize = 4;
/// Answers between two events.
const SOME: u64 = 50;

/// What must not change.
fn facts(list: &[Process]) -> Vec<(u32, Option<u32>, u32, u32, Status)> {
    let facts = |it: &Process| (it.id, it.pid, it.restarts, it.generation, it.status);
    list.iter().map(facts).collect()
}

/// A document without its sum.
fn document(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("a daemon has written it");
    let (content, _) = text.rsplit_once("\n#").expect("its sum");
    serde_json::from_str(content).expect("JSON")
}

/// Times are whole nanoseconds, and were seconds and nanoseconds.
fn with_old_times(value: &mut Value) {
    const TIMES: &[&str] = &[
        "min_uptime",
        "restart_delay",
        "exp_backoff",
        "kill_timeout",
        "listen_timeout",
        "start_timeout",
        "reload_timeout",
        "drain_timeout",
        "watch_after",
        "first",
        "until",
        "delay",
        "stuck",
        "waiting",
    ];
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_u64().filter(|_| TIMES.contains(&name.as_str())) {
                    Some(nanos) => *value = old_time(nanos),
                    None => with_old_times(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(with_old_times),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn old_time(nanos: u64) -> Value {
    json!({"secs": nanos / 1_000_000_000, "nanos": nanos % 1_000_000_000})
}

fn take(fields: &mut Value, name: &str) -> Value {
    let fields: Option<&mut Map<String, Value>> = fields.as_object_mut();
    let taken = fields.and_then(|fields| fields.remove(name));
    taken.unwrap_or_else(|| panic!("no {name}"))
}

fn pairs(mut of: Value) -> Map<String, Value> {
    std::mem::take(of.as_object_mut().expect("an object"))
}

/// The core as format 3 has it. Its workers are ready, and no reload is under way.
fn old_core(mut core: Value) -> Value {
    let configs = take(&mut core, "configs");
    let config = |of: &mut Value| {
        let at = take(of, "config").as_u64().expect("a position");
        configs[usize::try_from(at).expect("a few")].clone()
    };
    let apps = pairs(take(&mut core, "apps")).into_iter().map(|(id, mut app)| {
        app["config"] = config(&mut app);
        app["rollout"] = take(&mut app, "reload");
        assert!(app["rollout"].is_null(), "{app}");
        (id, app)
    });
    let apps: Map<String, Value> = apps.collect();
    let workers = pairs(take(&mut core, "workers"))
        .into_iter()
        .map(|(id, mut worker)| {
            worker["config"] = config(&mut worker);
            let state = take(&mut worker, "state");
            let ready = &state["Ready"];
            assert_eq!(ready["post"], "Own", "a worker that is ready: {state}");
            let time = |name: &str| old_time(ready[name].as_u64().expect("a time"));
            worker["spawned"] = time("spawned");
            worker["duty"] = json!("Serve");
            worker["phase"] = json!({"Online": {"since": time("since"), "silent": ready["silent"]}});
            for flag in ["heard", "refuses", "keeps"] {
                worker[flag] = json!(false);
            }
            worker["health"] = json!("Unasked");
            (id, worker)
        });
    let workers: Map<String, Value> = workers.collect();
    let mut old = json!({
        "now": 0, "rng": 1, "apps": apps, "instances": core["instances"], "workers": workers,
        "next_instance": core["next_instance"], "next_worker": core["next_worker"], "timers": [],
        "steering": {"slots": core["slots"], "groups": {}, "by_instance": {}, "timers": []},
        "lingering": [], "closing": false,
    });
    with_old_times(&mut old);
    old
}

/// The workers are stored as ready, and no reload is under way.
fn is_settled(state: &Value) -> bool {
    let all = |name: &str| {
        let of = state["core"][name].as_object();
        of.into_iter().flat_map(Map::values)
    };
    all("apps").all(|app| app["reload"].is_null())
        && all("workers").all(|worker| worker["state"]["Ready"]["post"] == "Own")
}

/// What is stored becomes what the version before would have written.
fn as_the_version_before_wrote_it(rpm: &Rpm) {
    let path = rpm.home().join("state.json");
    let mut state = document(&path);
    assert_eq!(state["format"], 4);
    take(&mut state, "format");
    take(&mut state, "version");
    let core = take(&mut state, "core");
    state["core"] = old_core(core);
    state["origin"] = old_time(state["origin"].as_u64().expect("a time"));
    let rest = state.to_string();
    let text = format!("{{\"format\":3,\"version\":\"0.0.9\",{}", &rest[1..]);
    fs::write(&path, text).expect("written");
    let path = rpm.home().join("apps.json");
    let apps = pairs(take(&mut document(&path), "apps"))
        .into_iter()
        .map(|(id, mut app)| {
            let (known, last) = (take(&mut app, "revisions"), take(&mut app, "last_revision"));
            app["revisions"] = json!({"known": known, "last": last});
            (id, app)
        });
    let apps: Map<String, Value> = apps.collect();
    fs::write(&path, Value::Object(apps).to_string()).expect("written");
    for name in ["state.json.old", "apps.json.old"] {
        let _ = fs::remove_file(rpm.home().join(name));
    }
}

#[test]
fn a_new_version_takes_over_after_the_one_before_has_crashed() {
    let (rpm, port, proxied) = (Rpm::new(), Port::reserve(), Port::reserve());
    let web = App::cluster("hello.js", "2").args(["--name", "web"]);
    web.port(&port).start(&rpm);
    let edge = App::cluster("hello.js", "2").args(["--name", "edge", "--balance", "proxy"]);
    edge.port(&proxied).start(&rpm);
    App::new("no-listen.js").args(["--name", "queue"]).start(&rpm);
    App::new("no-listen.js").args(["--name", "rests"]).start(&rpm);
    rpm.ok(["stop", "rests"]);
    // Once reloaded, so that there is an older revision.
    rpm.ok(["reload", "web", "--wait"]);
    let left = |list: &Vec<Process>| list.iter().all(|process| process.others.is_empty());
    wait_until("the old workers are gone", BOUND, || rpm.list(), left);
    let clients = Clients::begin(&port, "/", CLIENTS);
    clients.wait_ok(SOME);
    let before = rpm.list();
    let stored = || {
        // It may be replaced at this moment.
        let text = fs::read_to_string(rpm.home().join("state.json")).unwrap_or_default();
        let (content, _) = text.rsplit_once("\n#")?;
        serde_json::from_str::<Value>(content).ok()
    };
    wait_until("what is so is stored", BOUND, stored, |state| {
        state.as_ref().is_some_and(is_settled)
    });
    kill_daemon(&rpm);
    as_the_version_before_wrote_it(&rpm);
    clients.wait_ok(SOME);
    assert_eq!(facts(&rpm.list()), facts(&before), "{}", rpm.log());
    assert!(get(proxied.number(), "/").is_ok(), "{}", rpm.log());
    clients.wait_ok(SOME);
    rpm.ok(["reload", "web", "--wait"]);
    rpm.ok(["start", "rests"]);
    clients.wait_ok(SOME);
    // From now on it is stored in the present format.
    let before = rpm.list();
    kill_daemon(&rpm);
    assert_eq!(document(&rpm.home().join("state.json"))["format"], 4);
    let pids = |list: &[Process]| list.iter().map(|it| it.pid).collect::<Vec<_>>();
    assert_eq!(pids(&rpm.list()), pids(&before), "{}", rpm.log());
    clients.finish_clean(&rpm);
    assert!(!rpm.log().contains("is damaged"), "{}", rpm.log());
}

/// Of a version that does not exist yet; the file before it is of this one, and is out of date.
#[test]
fn what_a_later_version_has_stored_is_not_read_and_that_version_is_named() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let web = App::cluster("hello.js", "2").args(["--name", "web"]);
    web.port(&port).start(&rpm);
    let pids = rpm.pids("web");
    let path = rpm.home().join("state.json");
    kill_daemon(&rpm);
    let ours = fs::read(&path).expect("a daemon has written it");
    fs::write(rpm.home().join("state.json.old"), &ours).expect("written");
    fs::write(&path, "{\"format\":5,\"version\":\"7.8.9\",\"all else\":is new}").expect("written");
    for command in [&["list"][..], &["reload", "web"]] {
        let error = rpm.fails(command);
        for part in [
            "rpm 7.8.9 wrote it in format 5",
            "use rpm 7.8.9 or a later version",
            "rpm kill` ends them",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(pids.iter().all(|pid| error.contains(&pid.to_string())), "{error}");
    }
    let checked = rpm.command(["daemon", "--check"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(!checked.status.success() && said.contains("rpm 7.8.9"), "{said}");
    assert!(get(port.number(), "/").is_ok(), "they serve on");
    assert_eq!(
        fs::read(rpm.home().join("state.json.old")).expect("it is there"),
        ours,
        "nothing is written"
    );
    // The version that wrote it is there again.
    fs::write(&path, &ours).expect("written");
    assert_eq!(rpm.pids("web"), pids, "{}", rpm.log());
    rpm.ok(["reload", "web"]);
}
