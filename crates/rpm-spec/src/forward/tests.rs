//! What may stand in `observe.logs`, and what is said of everything else.

use serde_json::json;

use super::*;

#[test]
fn what_is_left_out_has_a_usual_value() {
    let read = read(&json!([
        {"to": "loki", "url": "https://logs.test:3100"},
        {"to": "otlp", "url": "http://[::1]:4318/v1/logs", "apps": "api", "labels": {"env": "prod", "n": 1}, "headers": {"Authorization": "Bearer x"}},
        {"to": "elasticsearch", "url": "http://es:9200", "name": "search", "from": "end"},
        {"to": "syslog", "address": "unix:/dev/log"},
        {"to": "syslog", "address": "tcp://[::1]:601"},
        {"to": "journald"},
        {"to": "journald", "address": "unix:/run/other", "name": "other"},
        {"to": "loki", "url": "http://a", "gzip": true},
    ]));
    let read = read.expect("they are right");
    let names: Vec<&str> = read.iter().map(|it| it.name.as_str()).collect();
    let expected = [
        "loki-logs.test:3100",
        "otlp-[::1]:4318",
        "search",
        "syslog-unix:/dev/log",
        "syslog-[::1]:601",
        "journald",
        "other",
        "loki-a",
    ];
    assert_eq!(names, expected);
    assert!(read[0].is_about("web") && !read[1].is_about("web") && read[1].is_about("api"));
    assert_eq!(read[1].labels.get("n").map(String::as_str), Some("1"));
    assert!(read[2].from_end && !read[0].from_end);
    assert!(matches!(&read[2].to, Receiver::Elasticsearch { index, .. } if index == USUAL_INDEX));
    assert_eq!(read[5].to, Receiver::Journald(JOURNALD_SOCKET.to_owned()));
    assert_eq!(read[6].to, Receiver::Journald("/run/other".to_owned()));
    assert!(read[7].gzip && !read[0].gzip);
    assert_eq!(read[4].to, Receiver::Syslog(Syslog::Tcp("[::1]:601".to_owned())));
}

#[test]
fn what_is_wrong_says_where_and_what_to_do() {
    for (value, told) in wrong()
        .into_iter()
        .chain(wrong_names_and_ports())
        .chain(wrong_ways())
    {
        let problems = read(&value).expect_err("it is wrong");
        assert!(
            problems.len() == 1 && problems[0].contains(told),
            "{value}: {problems:?}"
        );
        assert!(!problems[0].contains("s3cret"), "{problems:?}");
    }
}

fn wrong() -> Vec<(Value, &'static str)> {
    let loki = json!({"to": "loki", "url": "http://a"});
    let with = |key: &str, value: Value| {
        let mut destination = loki.clone();
        destination[key] = value;
        json!([destination])
    };
    vec![
        (loki.clone(), "must be a list of destinations"),
        (json!(["http://s3cret"]), "`observe.logs[0]` must be an object"),
        (
            json!([{"to": "lokki", "url": "http://a"}]),
            "did you mean \"loki\"?",
        ),
        (
            json!([{"url": "http://a"}]),
            "`observe.logs[0].to` must be one of loki, ",
        ),
        (
            json!([{"to": "loki"}]),
            "`observe.logs[0].url` must be an address that begins with http://",
        ),
        (
            with("url", json!("http://u:s3cret@a")),
            "without a name and a password",
        ),
        (
            with("address", json!("x")),
            "`observe.logs[0].address`: \"loki\" has no such key",
        ),
        (with("lables", json!({})), "did you mean `labels`?"),
        (
            with("labels", json!({"a-b": "x"})),
            "`observe.logs[0].labels` must be an object of names",
        ),
        (
            with("headers", json!({"a": "s3cret\n"})),
            "`observe.logs[0].headers` must be an object",
        ),
        (
            with("headers", json!({"Host": "a"})),
            "`observe.logs[0].headers` must be an object",
        ),
        (
            with("apps", json!([])),
            "`observe.logs[0].apps` must be the name of an app",
        ),
        (
            with("from", json!("middle")),
            "`observe.logs[0].from` must be \"start\" or \"end\"",
        ),
        (
            json!([{"to": "syslog", "address": "a:514"}]),
            "must be udp://HOST:PORT",
        ),
        (
            json!([{"to": "syslog", "address": "udp://a"}]),
            "must be udp://HOST:PORT",
        ),
        (
            json!([{"to": "elasticsearch", "url": "http://a", "index": "Logs"}]),
            "must be the name of an index",
        ),
        (
            json!([loki, loki]),
            "`observe.logs[1]` has the same name as another one, \"loki-a\"",
        ),
    ]
}

fn wrong_names_and_ports() -> [(Value, &'static str); 5] {
    let with = |key: &str, value: Value| {
        let mut destination = json!({"to": "loki", "url": "http://a"});
        destination[key] = value;
        json!([destination])
    };
    [
        (
            with("url", json!("http://a:31OO/s3cret")),
            "`observe.logs[0].url` must be an address whose port",
        ),
        (
            with("url", json!("http://a:70000")),
            "is a number from 1 to 65535",
        ),
        (
            with("url", json!("http://[::1]4318")),
            "is a number from 1 to 65535",
        ),
        (with("labels", json!({"app": "x"})), "other than app, host, id"),
        (with("labels", json!({"_.x": "x"})), "what begins with __"),
    ]
}

fn wrong_ways() -> [(Value, &'static str); 3] {
    [
        (
            json!([{"to": "loki", "url": "http://a", "gzip": "yes"}]),
            "`observe.logs[0].gzip` must be true or false",
        ),
        (
            json!([{"to": "journald", "gzip": true}]),
            "`observe.logs[0].gzip`: \"journald\" has no such key",
        ),
        (
            json!([{"to": "journald", "address": "/run/x"}]),
            "`observe.logs[0].address` must be unix:/PATH",
        ),
    ]
}
