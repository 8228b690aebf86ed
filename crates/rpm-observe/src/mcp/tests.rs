//! The tools, without a daemon.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rmcp::model::{JsonObject, Tool};
use rpm_wire::api::{AppInfo, AppSpec, LogLine, Process, Saved, Stream};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::bounds::{ROOM, Room, Tail, legible};
use super::description::{Description, NO_SETTINGS, SETTINGS, settings};
use super::executor::Executor;
use super::figures::{Figures, Wanted};
use super::processes::Listing;
use super::progress::Reporter;
use super::records::Logs;
use super::secrets::Secrets;
use super::tools::{self, Call, Change, Rejection};
use crate::daemon::Daemon;

const READERS: [&str; 5] = ["list", "describe", "logs", "events", "metrics"];
const ACTORS: [&str; 4] = ["reload", "restart", "scale", "rollback"];

fn names(tools: &[Tool]) -> Vec<&str> {
    tools.iter().map(|tool| &*tool.name).collect()
}

fn call(name: &str, arguments: Value, allow_actions: bool) -> Result<Call, Rejection> {
    let Value::Object(arguments) = arguments else {
        panic!("{arguments} is no object");
    };
    tools::call(name, arguments, allow_actions)
}

#[test]
fn what_changes_something_is_there_only_if_it_is_allowed() {
    assert_eq!(names(&tools::tools(false)), READERS);
    assert_eq!(names(&tools::tools(true)), [&READERS[..], &ACTORS].concat());
    for name in ACTORS {
        let refused = call(name, json!({"app": "api", "count": "2"}), false);
        assert_eq!(refused, Err(Rejection::NotAllowed(name)));
    }
    for tool in tools::tools(true) {
        let hints = tool.annotations.as_ref().expect("hints");
        let reads = READERS.contains(&&*tool.name);
        assert_eq!(hints.read_only_hint, Some(reads), "{}", tool.name);
        // A reload, too: an app that shares no port is stopped and started.
        assert_eq!(hints.destructive_hint, Some(!reads), "{}", tool.name);
    }
}

/// Each argument says what it means, and nothing is in a schema that a validator does not know.
#[test]
fn schemas_are_complete_and_plain() {
    for tool in tools::tools(true) {
        let (input, output) = (&tool.input_schema, tool.output_schema.as_ref().expect("a schema"));
        assert_eq!(
            input.get("additionalProperties"),
            Some(&json!(false)),
            "{}",
            tool.name
        );
        for schema in [input, output] {
            assert_eq!(schema.get("type"), Some(&json!("object")), "{}", tool.name);
            let text = serde_json::to_string(schema).expect("JSON");
            for unwanted in [
                "$ref",
                "\"format\"",
                "\"title\"",
                "$schema",
                "null",
                "anyOf",
                "oneOf",
                "\"const\"",
            ] {
                assert!(!text.contains(unwanted), "{}: {unwanted}: {text}", tool.name);
            }
        }
        let arguments = input
            .get("properties")
            .and_then(Value::as_object)
            .expect("arguments");
        for (name, schema) in arguments {
            let about = schema.get("description").and_then(Value::as_str);
            assert!(
                about.is_some_and(|about| about.len() > 20),
                "{}: {name}: {schema}",
                tool.name
            );
        }
    }
}

#[test]
fn calls_are_read_and_wrong_ones_say_why() {
    let reload = |seconds| {
        let app = "api".to_owned();
        Call::Change(Change::Reload { app }, Duration::from_secs(seconds))
    };
    assert_eq!(call("reload", json!({"app": "api"}), true), Ok(reload(50)));
    assert_eq!(
        call("reload", json!({"app": "api", "wait_seconds": 600}), true),
        Ok(reload(600))
    );
    assert!(matches!(call("logs", json!({"app": "api"}), false), Ok(Call::Logs(args)) if args.lines == 50));
    assert!(matches!(
        call("list", json!({"app": null}), false),
        Ok(Call::List(_))
    ));
    for (name, arguments, part) in [
        (
            "logs",
            json!({"app": "api", "lines": 501}),
            "`lines` must be 1 to 500, not 501",
        ),
        ("logs", json!({"app": "api", "lines": 0}), "`lines` must be"),
        (
            "logs",
            json!({"app": "api", "since_minutes": 0}),
            "`since_minutes` must be",
        ),
        (
            "logs",
            json!({"app": "api", "stream": "both"}),
            "expected `out` or `err`",
        ),
        ("events", json!({"lines": -1}), "invalid value"),
        ("describe", json!({}), "missing field `app`"),
        (
            "describe",
            json!({"name": "api"}),
            "unknown field `name`, expected `app`",
        ),
        (
            "reload",
            json!({"app": "api", "wait_seconds": 601}),
            "`wait_seconds` must be",
        ),
        ("stop", json!({}), "there is no tool `stop`"),
    ] {
        let wrong = call(name, arguments, true).expect_err(part).to_string();
        assert!(wrong.contains(part), "{part}: {wrong}");
    }
}

fn secret_spec() -> AppSpec {
    AppSpec {
        name: "api".into(),
        args: vec!["--token=hunter2-in-args".into()],
        interpreter_args: vec!["--require=hunter2".into()],
        env: [("DB".to_owned(), "hunter2-in-env".to_owned())].into(),
        max_memory_restart: Some(1 << 20),
        ..AppSpec::default()
    }
}

#[test]
fn an_app_is_described_without_environment_and_arguments() {
    let info = AppInfo {
        spec: secret_spec(),
        plane: "direct".into(),
        plane_reason: "because".into(),
        generation: 3,
        processes: vec![process(0, "api")],
        listeners: Vec::new(),
    };
    let shown = serde_json::to_value(Description::of(info)).expect("JSON");
    assert!(!shown.to_string().contains("hunter2"), "{shown}");
    assert_eq!(shown["arguments"], 1, "{shown}");
    assert_eq!(
        shown["settings"],
        json!({"max_memory_restart": 1 << 20}),
        "{shown}"
    );
}

/// Whoever adds a field decides whether it is shown.
#[test]
fn every_field_of_an_app_is_shown_or_not() {
    let all = serde_json::to_value(AppSpec::default()).expect("JSON");
    let written = all.as_object().expect("fields").keys().map(String::as_str);
    let fields = AppSpec::OPTIONS.iter().filter_map(|key| key.field);
    for field in written.chain(fields) {
        let [shown, hidden] = [SETTINGS.contains(&field), NO_SETTINGS.contains(&field)];
        assert!(shown != hidden, "{field} is in one of SETTINGS and NO_SETTINGS");
    }
    assert_eq!(settings(&AppSpec::default()), JsonObject::new());
}

fn process(id: u32, name: &str) -> Process {
    let process = json!({
        "id": id, "name": name, "namespace": "default", "instance": id, "generation": 1, "exec_mode": "fork", "plane": "none",
        "status": "online", "pid": 7, "uptime_ms": 61_000, "started_at_ms": 0, "created_at_ms": 0, "restarts": 0,
        "unstable_restarts": 0, "cpu_percent": 0.0, "memory_bytes": 1, "connections": null, "exit_code": null,
        "out_log": "/logs/out", "err_log": "/logs/err",
    });
    serde_json::from_value(process).expect("a process")
}

#[test]
fn a_list_has_a_bound_and_says_what_is_left_out() {
    let all: Vec<Process> = (0..1000).map(|id| process(id, "api")).collect();
    let listing = serde_json::to_value(Listing::of(all, None)).expect("JSON");
    assert!(listing.to_string().len() < ROOM + 100);
    let shown = listing["processes"].as_array().expect("a list").len();
    assert_eq!(listing["left_out"], 1000 - shown, "{shown}");
    let several = || vec![process(0, "api"), process(1, "web"), process(2, "1")];
    for (app, ids) in [
        (None, vec![0, 1, 2]),
        (Some("web"), vec![1]),
        // A name wins over an id.
        (Some("1"), vec![2]),
        (Some("0"), vec![0]),
        (Some("default"), vec![0, 1, 2]),
        (Some("else"), vec![]),
    ] {
        let listing = serde_json::to_value(Listing::of(several(), app)).expect("JSON");
        let listed = listing["processes"].as_array().expect("a list");
        let listed: Vec<u64> = listed.iter().filter_map(|it| it["id"].as_u64()).collect();
        assert_eq!(listed, ids, "{app:?}");
    }
}

#[test]
fn room_is_for_the_first_or_the_last() {
    let items = || vec!["a".repeat(ROOM / 2), "b".repeat(ROOM / 3), "c".repeat(ROOM / 2)];
    let (kept, left_out) = Room::new().first(items());
    assert!(kept.len() == 2 && kept[0].starts_with('a') && left_out == 1);
    let (kept, left_out) = Room::new().last(items());
    assert!(kept.len() == 2 && kept[0].starts_with('b') && left_out == 1);
    let (kept, left_out) = Room::new().first(vec!["x".repeat(ROOM)]);
    assert!(kept.is_empty() && left_out == 1);
}

#[test]
fn text_is_legible_and_has_a_bound() {
    for (text, expected) in [
        ("plain é", "plain é"),
        ("\u{1b}[31mred\u{1b}[0m and \u{1b}[1;2Hhere", "red and here"),
        ("cut \u{1b}[31", "cut "),
        ("bell \u{7}", "bell \\u{7}"),
        ("turned \u{202e}", "turned \\u{202e}"),
    ] {
        assert_eq!(legible(text), expected);
    }
    let long = legible(&"é".repeat(2_000));
    assert!(long.ends_with("é… (2000 bytes more)"), "{long}");
}

fn line(time_ms: Option<u64>, text: &str) -> LogLine {
    LogLine {
        id: 0,
        name: "api".into(),
        stream: Stream::Err,
        line: text.into(),
        shared: false,
        time_ms,
        to: None,
    }
}

#[test]
fn the_newest_lines_of_several_files_are_kept_in_order() {
    let mut tail = Tail::new(3);
    for (time, text) in [
        (Some(10), "a"),
        (Some(30), "c"),
        (None, "?"),
        (Some(20), "b"),
        (Some(40), "d"),
    ] {
        tail.push(line(time, text));
    }
    let (lines, left_out) = tail.finish();
    let texts: Vec<&str> = lines.iter().map(|line| line.line.as_str()).collect();
    assert_eq!((texts.as_slice(), left_out), (&["b", "c", "d"][..], 2));
    let lines = vec![line(Some(1_772_716_029_042), "hello"), line(None, "x")];
    let logs = serde_json::to_value(Logs::of(lines, 0)).expect("JSON");
    assert_eq!(
        logs,
        json!({"older_left_out": false, "lines": [
            {"at": "2026-03-05T13:07:09.042Z", "app": "api", "id": 0, "stream": "err", "line": "hello"},
            {"app": "api", "id": 0, "stream": "err", "line": "x"},
        ]})
    );
}

fn secrets(env: &[(&str, &str)]) -> Secrets {
    let app = AppSpec {
        env: env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..AppSpec::default()
    };
    Secrets::of(&[Saved {
        app,
        stopped: false,
        stopped_instances: Vec::new(),
    }])
}

#[test]
fn values_named_like_secrets_are_masked() {
    let env = [
        ("SESSION_SECRET", "s3cret-value"),
        ("api_key", "s3cret"),
        ("DATABASE_URL", "postgres://app:pa55word@db/app"),
        ("HOME_URL", "https://example.org/a@b:c"),
        ("SHORT_TOKEN", "abc"),
        ("MYSQL_PWD", "hunter22"),
        ("LANG", "en_US.UTF-8"),
        ("PRIVATE_KEY", "-----BEGIN-----\nMIIEvQIBADANBg\n=\n"),
    ];
    let secrets = secrets(&env);
    for (text, expected) in [
        ("a s3cret-value b", "a [value of SESSION_SECRET] b"),
        ("a s3cret b", "a [value of api_key] b"),
        (
            "cannot connect to postgres://app:pa55word@db/app",
            "cannot connect to postgres://app:[value of DATABASE_URL]@db/app",
        ),
        (
            "abc https://example.org/a@b:c en_US.UTF-8",
            "abc https://example.org/a@b:c en_US.UTF-8",
        ),
        ("coloured s3\u{1b}[1mcret", "coloured [value of api_key]"),
        ("MIIEvQIBADANBg = 1", "[value of PRIVATE_KEY] = 1"),
        // The daemon has cut the line.
        ("token=s3cret-va…", "token=[a value that was cut]…"),
        ("key MIIEvQIBAD…", "key [a value that was cut]…"),
        ("it went on…", "it went on…"),
        (
            "PWD=/srv MYSQL_PWD=hunter22",
            "PWD=/srv MYSQL_PWD=[value of MYSQL_PWD]",
        ),
    ] {
        assert_eq!(secrets.legible(text), expected);
    }
    let cut = format!("{}s3cret-value{}", "x".repeat(1_995), "y".repeat(20));
    assert!(!secrets.legible(&cut).contains("s3c"), "{cut}");
    assert_eq!(secrets.legible_lines("a s3cret\nb"), "a [value of api_key]\nb");
}

const PAGE: &str = "\
# HELP rpm_workers Instances by state
# TYPE rpm_workers gauge
rpm_workers{app=\"api\",state=\"online\"} 2
rpm_workers{app=\"web\",state=\"online\"} 1
# TYPE rpm_rescued_connections_total counter
rpm_rescued_connections_total 5
# TYPE rpm_seconds histogram
rpm_seconds_bucket{app=\"api\",le=\"1\"} 3
rpm_seconds_bucket{app=\"api\",le=\"+Inf\"} 4
rpm_seconds_sum{app=\"api\"} 2.5
rpm_seconds_count{app=\"api\"} 4
# TYPE rpm_odd gauge
rpm_odd{app=\"api\"} NaN
";

fn figures(app: Option<&str>, name: Option<&str>) -> Value {
    let figures = Figures::of(PAGE, &Wanted { app, name }, Vec::new());
    serde_json::to_value(figures.expect("it is in the format")).expect("JSON")
}

#[test]
fn figures_are_those_that_are_wanted() {
    let of_api = figures(Some("api"), None);
    assert_eq!(
        of_api,
        json!({
            "metrics": [
                {"name": "rpm_seconds", "kind": "histogram", "samples": [
                    {"suffix": "_sum", "labels": {"app": "api"}, "value": 2.5},
                    {"suffix": "_count", "labels": {"app": "api"}, "value": 4.0},
                ]},
                {"name": "rpm_workers", "kind": "gauge", "help": "Instances by state", "samples": [
                    {"labels": {"app": "api", "state": "online"}, "value": 2.0},
                ]},
            ],
            "without_buckets": ["rpm_seconds"],
        })
    );
    let named = figures(None, Some("seconds"));
    assert_eq!(
        named["metrics"][0]["samples"].as_array().map(Vec::len),
        Some(4),
        "{named}"
    );
    let all = figures(None, None);
    assert_eq!(all["metrics"].as_array().map(Vec::len), Some(3), "{all}");
    let page: String = (0..5_000).map(|id| format!("many{{id=\"{id}\"}} 1\n")).collect();
    let many = Figures::of(&page, &Wanted::default(), Vec::new()).expect("it is in the format");
    let many = serde_json::to_value(many).expect("JSON");
    let shown = many["metrics"][0]["samples"].as_array().map_or(0, Vec::len);
    assert!(shown > 100, "{shown}");
    assert_eq!(many["left_out"], 5_000 - shown, "{shown}");
}

/// A list of no apps.
const NO_APPS: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]";
/// The beginning of an answer that is cut.
const CUT: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

/// A daemon that gives each connection one of these answers and closes it; then it accepts, and says nothing.
fn daemon(name: &str, answers: &'static [&'static str]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("rpm-mcp-{name}-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("a socket");
    tokio::spawn(async move {
        for answer in answers {
            let (mut client, _) = listener.accept().await.expect("a client");
            let mut request = [0; 4096];
            let _ = client.read(&mut request).await;
            let _ = client.write_all(answer.as_bytes()).await;
        }
        let mut silent: Vec<UnixStream> = Vec::new();
        while let Ok((client, _)) = listener.accept().await {
            silent.push(client);
        }
    });
    path
}

/// What a call fails with.
async fn failure(socket: &Path, tool: &str, arguments: Value) -> String {
    let executor = Executor::new(Daemon::new(socket.to_owned()));
    let call = call(tool, arguments, true).expect("a call");
    executor
        .answer(call, &mut Reporter::to_nobody())
        .await
        .expect_err("it fails")
}

#[tokio::test]
async fn a_change_whose_connection_ends_may_go_on() {
    for (tool, answer) in [("reload", &[NO_APPS, CUT]), ("scale", &[NO_APPS, CUT])] {
        let socket = daemon(tool, answer);
        let mut arguments = json!({"app": "api"});
        if tool == "scale" {
            arguments["count"] = "2".into();
        }
        let said = failure(&socket, tool, arguments).await;
        assert!(said.contains("the change may go on"), "{tool}: {said}");
        std::fs::remove_file(socket).expect("it is there");
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_says_nothing_is_an_error_in_time() {
    let socket = daemon("silent", &[]);
    for (tool, arguments) in [
        ("list", json!({})),
        ("logs", json!({"app": "api"})),
        ("metrics", json!({})),
    ] {
        let said = failure(&socket, tool, arguments).await;
        assert_eq!(said, "the daemon does not answer (10 s)", "{tool}");
    }
    std::fs::remove_file(socket).expect("it is there");
}
