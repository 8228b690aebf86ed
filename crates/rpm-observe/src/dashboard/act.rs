//! What the page can have the daemon do.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use rpm_wire::api::Known;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Dashboard;
use super::door::{Operator, Refused};
use super::streams::{Lines, lines};
use crate::daemon::Unanswered;

/// What is to be done to an app, by its name.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Act {
    /// Replace the workers, and lose nothing.
    Reload { app: String },
    /// Bring back what served before.
    Rollback { app: String },
    /// Stop and start.
    Restart { app: String },
    /// Start what is stopped.
    Start { app: String },
    /// End the workers when they have finished what they answer.
    Stop { app: String },
    /// Have another number of instances: `n`, `+n`, `-n`.
    Scale { app: String, count: String },
    /// An action that its programs offer.
    Trigger { app: String, action: String },
}

impl Act {
    fn app(&self) -> &str {
        match self {
            Act::Reload { app }
            | Act::Rollback { app }
            | Act::Restart { app }
            | Act::Start { app }
            | Act::Stop { app }
            | Act::Scale { app, .. }
            | Act::Trigger { app, .. } => app,
        }
    }

    /// The daemon's endpoint, and what it is sent.
    fn request(&self) -> (&'static str, Value) {
        let follow = json!({ "progress": true, "drained": true });
        let act = |action: &str, app: &str, hard: bool| {
            let body = json!({ "action": action, "targets": [app], "hard": hard, "follow": follow });
            ("/v1/actions", body)
        };
        match self {
            Act::Reload { app } => ("/v1/reload", json!({ "targets": [app], "follow": follow })),
            Act::Rollback { app } => ("/v1/rollback", json!({ "target": app, "follow": follow })),
            Act::Restart { app } => act("restart", app, true),
            Act::Start { app } => act("restart", app, false),
            Act::Stop { app } => act("stop", app, false),
            Act::Scale { app, count } => ("/v1/scale", json!({ "target": app, "count": count })),
            Act::Trigger { app, action } => ("/v1/trigger", json!({ "target": app, "action": action })),
        }
    }
}

/// `POST /dashboard/actions`: what the daemon says, line by line: steps, then `{"done":…}` or `{"failed":…}`.
pub(super) async fn act(
    State(board): State<Arc<Dashboard>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    _: Operator,
    Json(act): Json<Act>,
) -> Result<Response, Refused> {
    let gone = |error: Unanswered| Refused::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    let app = act.app();
    let known = board.daemon.get("/v1/known").await.map_err(gone)?;
    let known: Vec<Known> = serde_json::from_slice(&known).unwrap_or_default();
    // The daemon takes it for a number or a namespace, too, if no app has the name any more.
    if !known.iter().any(|one| one.name == app) {
        return Err(Refused::new(
            StatusCode::NOT_FOUND,
            format!("there is no app named {app}"),
        ));
    }
    let (path, body) = act.request();
    eprintln!("dashboard: {path} {body} from {}", address.ip());
    let (status, stream) = board
        .daemon
        .request(Method::POST, path, body.to_string().into())
        .await
        .map_err(gone)?;
    let (pieces, answer) = lines(status);
    tokio::spawn(async move {
        let mut lines = Lines::new(stream);
        while let Ok(Some(line)) = lines.next().await {
            let told = told(serde_json::from_slice(&line).unwrap_or(Value::Null));
            // The page has gone; what was begun goes on.
            if pieces.send(format!("{told}\n").into()).await.is_err() {
                return;
            }
        }
    });
    Ok(answer)
}

/// What the page is told of a line: the outcome without the processes, which name files of this machine.
fn told(line: Value) -> Value {
    let outcome = |change: &Value| json!({ "done": { "notes": change["notes"] } });
    match &line {
        Value::Object(fields) if fields.contains_key("done") => outcome(&line["done"]),
        Value::Object(fields) if fields.contains_key("processes") => outcome(&line),
        // What programs have answered to an action.
        Value::Array(_) => json!({ "done": { "answers": line } }),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_action_is_a_request_of_the_daemon() {
        for (sent, path, body) in [
            (
                r#"{"do":"reload","app":"a"}"#,
                "/v1/reload",
                json!({ "targets": ["a"] }),
            ),
            (
                r#"{"do":"rollback","app":"a"}"#,
                "/v1/rollback",
                json!({ "target": "a" }),
            ),
            (
                r#"{"do":"restart","app":"a"}"#,
                "/v1/actions",
                json!({ "action": "restart", "targets": ["a"], "hard": true }),
            ),
            (
                r#"{"do":"start","app":"a"}"#,
                "/v1/actions",
                json!({ "action": "restart", "targets": ["a"], "hard": false }),
            ),
            (
                r#"{"do":"stop","app":"a"}"#,
                "/v1/actions",
                json!({ "action": "stop", "targets": ["a"], "hard": false }),
            ),
            (
                r#"{"do":"scale","app":"a","count":"+1"}"#,
                "/v1/scale",
                json!({ "target": "a", "count": "+1" }),
            ),
            (
                r#"{"do":"trigger","app":"a","action":"gc"}"#,
                "/v1/trigger",
                json!({ "target": "a", "action": "gc" }),
            ),
        ] {
            let act: Act = serde_json::from_str(sent).expect(sent);
            let (to, mut request) = act.request();
            request.as_object_mut().expect("an object").remove("follow");
            assert_eq!((to, request), (path, body), "{sent}");
        }
        for sent in [
            r#"{"do":"delete","app":"a"}"#,
            r#"{"do":"reload"}"#,
            r#"{"do":"reload","app":"a","env":{}}"#,
        ] {
            assert!(serde_json::from_str::<Act>(sent).is_err(), "{sent}");
        }
    }

    #[test]
    fn an_outcome_names_no_file() {
        let process = json!({ "id": 0, "out_log": "/srv/logs/api-out.log" });
        let change = json!({ "processes": [process], "notes": ["it listens on nothing"] });
        let outcome = json!({ "done": { "notes": ["it listens on nothing"] } });
        assert_eq!(told(json!({ "done": change })), outcome);
        assert_eq!(told(change), outcome);
        for line in [
            json!({ "step": { "id": 0 } }),
            json!({ "failed": { "error": "no" } }),
            json!({ "error": "no" }),
        ] {
            assert_eq!(told(line.clone()), line);
        }
        assert_eq!(
            told(json!([{ "id": 0 }])),
            json!({ "done": { "answers": [{ "id": 0 }] } })
        );
    }
}
