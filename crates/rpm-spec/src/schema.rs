//! The JSON Schema of ecosystem files, for editors.

use rpm_wire::alerts::{Shape, Trigger};
use rpm_wire::forward::Receiver;
use serde_json::{Map, Value, json};

use crate::keys::{self, Key, Kind, State};

/// The names that editors suggest. Other spellings (lower case, without `SIG`) are accepted when the file is read.
const SIGNALS: [&str; 6] = ["SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2"];

/// The schema (draft 2020-12), generated from the tables of options. Unknown keys are errors, so that editors mark them.
#[must_use]
pub fn schema() -> Value {
    let mut properties = Map::new();
    for key in keys::all().filter(|key| key.name != "_mode") {
        for name in [key.name].into_iter().chain(key.aliases.iter().copied()) {
            let mut property = of_kind(key.kind);
            describe(&mut property, key, name);
            properties.insert(name.to_owned(), property);
            let camel = camel_case(name);
            if camel != name {
                properties.insert(camel, json!({"$ref": format!("#/$defs/app/properties/{name}")}));
            }
        }
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Ecosystem file",
        "description": "Apps for rpm. PM2's files work as they are.",
        "anyOf": [
            {"$ref": "#/$defs/file"},
            {"type": "array", "items": {"$ref": "#/$defs/app"}},
            {"$ref": "#/$defs/app"},
        ],
        "$defs": {
            "file": {
                "type": "object",
                "properties": {
                    "apps": {
                        "description": "The apps",
                        "anyOf": [{"type": "array", "items": {"$ref": "#/$defs/app"}}, {"$ref": "#/$defs/app"}],
                    },
                    "deploy": {"type": "object", "description": "where `deploy` brings the apps, an environment a key: user, host, repo, ref, path, hooks"},
                    "static": {
                        "description": "Directories that are served beside the apps",
                        "type": "array",
                        "items": {"$ref": "#/$defs/site"},
                    },
                    "observe": observe(),
                },
                "anyOf": [{"required": ["apps"]}, {"required": ["static"]}],
            },
            "site": {
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": "the directory; also `directory`"},
                    "directory": {"type": "string"},
                    "port": {"type": "integer", "description": "where it is served; 8080 if it does not say"},
                    "host": {"type": "string", "description": "at this address alone"},
                    "spa": {"type": "boolean", "description": "what is not there is the index"},
                    "basic_auth": {
                        "type": "object",
                        "properties": {"username": {"type": "string"}, "password": {"type": "string"}},
                        "required": ["username", "password"],
                    },
                    "name": {"type": "string", "description": "name of the app; static-page-server-<port> if it does not say"},
                },
            },
            "app": {
                "type": "object",
                "properties": properties,
                "patternProperties": {"^env_.+": of_kind(Kind::Variables)},
                "anyOf": [{"required": ["script"]}, {"required": ["exec"]}, {"required": ["cmd"]}, {"required": ["command"]}],
                "additionalProperties": false,
            },
        },
    })
}

/// The key of the file that turns the metrics on.
fn observe() -> Value {
    json!({
        "description": "Serve the metrics of all apps to Prometheus; an address other than loopback needs `token_file` or `tls_client_ca`",
        "anyOf": [
            {"type": "boolean"},
            {
                "type": "object",
                "properties": {
                    "listen": {"type": ["string", "integer"], "description": "ADDRESS:PORT, or a port; 127.0.0.1:9209 if it does not say"},
                    "token_file": {"type": "string", "description": "the file with the bearer token"},
                    "tls_cert": {"type": "string", "description": "serve HTTPS: the file with the certificate (PEM); needs `tls_key`"},
                    "tls_key": {"type": "string", "description": "the file with the private key of the certificate (PEM)"},
                    "tls_client_ca": {"type": "string", "description": "answer only clients with a certificate of an authority in this file (PEM)"},
                    "alerts": alerts(),
                    "logs": logs(),
                    "otlp": otlp(),
                },
                "additionalProperties": false,
            },
        ],
    })
}

/// Its rules for alerts.
fn alerts() -> Value {
    let triggers = Trigger::ALL.iter();
    let about: Vec<String> = triggers
        .clone()
        .map(|trigger| {
            let [above, lasting] = trigger.usual();
            let above = above.map(|above| format!("above {above}"));
            let lasting = lasting.map(|lasting| format!("for {lasting}"));
            let usual: Vec<String> = above.into_iter().chain(lasting).collect();
            let usual = match usual.is_empty() {
                true => String::new(),
                false => format!(" ({})", usual.join(", ")),
            };
            format!("{}: {}{usual}", trigger.name(), trigger.about())
        })
        .collect();
    let names: Vec<&str> = triggers.map(|trigger| trigger.name()).collect();
    json!({
        "type": "array",
        "description": "Who is told what happens to the apps",
        "items": {
            "type": "object",
            "properties": {
                "on": {"enum": names, "description": about.join("; ")},
                "app": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}], "description": "the apps that it is about; all if it does not say"},
                "above": {"type": ["string", "number"], "description": "the bound: an amount, a time, percent or a number, as the rule has it"},
                "for": {"type": ["string", "integer"], "description": "for how long, such as 1m"},
                "pattern": {"type": "string", "description": "of log-pattern: the regular expression that lines are matched with"},
                "min_requests": {"type": "integer", "minimum": 1, "description": "of latency and error-rate: of fewer requests nothing is concluded; 20 if it does not say"},
                "every": {"type": ["string", "integer"], "description": "at most one message about an app in this time; 5m if it does not say"},
                "webhook": {"type": "string", "description": "an address that gets an HTTP POST"},
                "shape": {"enum": Shape::ALL.map(|(name, _)| name), "description": "the form of its body; the host decides if it does not say"},
                "key": {"type": "string", "description": "the integration key of PagerDuty"},
                "template": {"type": ["object", "array", "string"], "description": "the body in the place of that form: JSON with {text}, {app}, {on}, {state} and {host} in its strings"},
                "mail": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}], "description": "addresses that get a mail"},
                "smtp": {"type": "string", "description": "the mail server: smtp://USER:PASSWORD@HOST:587, or smtps://; the variable RPM_SMTP if it does not say"},
                "from": {"type": "string", "description": "the address that mail comes from"},
                "exec": {"type": "string", "description": "a line for the shell, which gets RPM_ALERT_TEXT and other variables"},
            },
            "required": ["on"],
            "additionalProperties": false,
        },
    })
}

/// Its destinations of logs.
fn logs() -> Value {
    let texts = json!({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}});
    let described = |text: &str| {
        let mut texts = texts.clone();
        texts["description"] = text.into();
        texts
    };
    json!({
        "type": "array",
        "description": "Where the logs of the apps are sent",
        "items": {
            "type": "object",
            "properties": {
                "to": {"enum": Receiver::KINDS, "description": "who gets them"},
                "url": {"type": "string", "description": "address of Loki, an OTLP receiver or Elasticsearch; without a path it gets the usual one"},
                "address": {"type": "string", "description": "of a syslog server: udp://HOST:PORT, tcp://HOST:PORT or unix:/PATH; of a journald other than the system's: unix:/PATH"},
                "apps": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}], "description": "the apps whose logs are sent; all if it does not say"},
                "labels": described("what every record carries besides"),
                "headers": described("header fields of each request, such as authorization"),
                "index": {"type": "string", "description": "index or data stream of Elasticsearch; rpm-logs if it does not say"},
                "from": {"enum": ["start", "end"], "description": "end: of files that are there already, only what is added is sent"},
                "gzip": {"type": "boolean", "description": "bodies of requests are compressed"},
                "name": {"type": "string", "description": "by which positions and metrics are kept; kind and host if it does not say"},
            },
            "required": ["to"],
            "additionalProperties": false,
        },
    })
}

/// Its receiver of metrics and spans.
fn otlp() -> Value {
    json!({
        "type": "object",
        "description": "Where metrics and spans are sent by OTLP",
        "properties": {
            "url": {"type": "string", "description": "address of the receiver, to which /v1/metrics and /v1/traces are added; OTEL_EXPORTER_OTLP_ENDPOINT if it does not say"},
            "headers": {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}, "description": "header fields of each request, such as authorization"},
            "metrics": {"type": "boolean", "description": "send what /metrics shows; if it does not say, unless OTEL_METRICS_EXPORTER is none"},
            "traces": {"type": "boolean", "description": "send the spans of the proxy (trace_ratio); if it does not say, unless OTEL_TRACES_EXPORTER is none"},
            "interval": {"type": ["string", "integer"], "description": "time between two exports of metrics; 60s if it does not say"},
        },
        "additionalProperties": false,
    })
}

fn describe(property: &mut Value, key: &Key, name: &str) {
    let text = match key.state {
        State::Works if name == key.name => keys::described(key),
        State::Works => format!("The same as {}: {}", key.name, keys::described(key)),
        State::Needless(why) => format!("Does nothing: {why}"),
        State::Instead(what) => format!("Not supported: {what}"),
    };
    property["description"] = text.into();
    if key.state != State::Works {
        property["deprecated"] = true.into();
    }
}

fn of_kind(kind: Kind) -> Value {
    let strings = json!({"type": "array", "items": {"type": ["string", "number", "boolean"]}});
    match kind {
        Kind::Text | Kind::File => json!({"type": "string", "minLength": 1}),
        Kind::Switch => json!({"type": "boolean"}),
        Kind::Number(least, most) => whole(least, most),
        Kind::Ratio => json!({"type": "number", "minimum": 0, "maximum": 1}),
        Kind::Instances => json!({"anyOf": [{"type": "integer"}, {"const": "max"}]}),
        Kind::Time => {
            json!({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h|d)?$"}]})
        }
        Kind::Memory => {
            json!({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\d+(\.\d+)?\s*([KMGkmg]i?)?[Bb]?$"}]})
        }
        Kind::Words | Kind::List | Kind::Patterns | Kind::Files => {
            json!({"anyOf": [{"type": "string"}, strings]})
        }
        Kind::Addresses => json!({"anyOf": [{"type": ["string", "integer"]}, strings]}),
        Kind::Numbers(least, most) => {
            let number = whole(least, most);
            json!({"anyOf": [number, {"type": "array", "items": number}]})
        }
        Kind::Variables => json!({"type": "object"}),
        Kind::Choice(words) => json!({"enum": words}),
        Kind::Signal => json!({"enum": SIGNALS}),
        Kind::Output => json!({"type": ["string", "boolean"]}),
        Kind::Watch | Kind::Filter | Kind::Networks => {
            json!({"anyOf": [{"type": ["string", "boolean"]}, strings]})
        }
        Kind::Cron => json!({"anyOf": [{"type": "string"}, {"const": 0}, {"const": false}]}),
        Kind::User => json!({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0}]}),
        Kind::Health => json!({
            "anyOf": [
                {"type": "string", "pattern": "^/"},
                {
                    "type": "object",
                    "properties": {
                        "path": {"type": "string", "pattern": "^/"},
                        "status": {"type": "integer", "minimum": 100, "maximum": 599},
                        "interval": of_kind(Kind::Time),
                        "timeout": of_kind(Kind::Time),
                        "threshold": {"type": "integer", "minimum": 1},
                    },
                    "required": ["path"],
                    "additionalProperties": false,
                },
            ],
        }),
        Kind::Anything => json!({}),
    }
}

/// An integer; bounds that only come from its type are left out.
fn whole(least: i64, most: i64) -> Value {
    let mut number = json!({"type": "integer"});
    if least > i64::from(i32::MIN) {
        number["minimum"] = least.into();
    }
    if most < i64::from(i32::MAX) {
        number["maximum"] = most.into();
    }
    number
}

fn camel_case(name: &str) -> String {
    let mut parts = name.split('_').filter(|part| !part.is_empty());
    let mut camel = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut letters = part.chars();
        camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        camel.extend(letters);
    }
    camel
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_schema_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ecosystem.schema.json");
        let text = format!("{:#}\n", schema());
        if std::env::var_os("RPM_WRITE_DOCS").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let published = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            published == text,
            "RPM_WRITE_DOCS=1 cargo xtask test -E 'package(rpm-spec)' writes it"
        );
    }

    #[test]
    fn every_spelling_is_there() {
        let schema = schema();
        let properties = &schema["$defs"]["app"]["properties"];
        for name in [
            "max_memory_restart",
            "maxMemoryRestart",
            "interpreter",
            "cmd",
            "errorFile",
            "health_check",
        ] {
            assert!(properties.get(name).is_some(), "{name}");
        }
        assert_eq!(properties["vizion"]["deprecated"], true);
    }
}
