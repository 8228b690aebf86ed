//! Telling somebody: a request to a webhook, or a command.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use rpm_wire::alerts::Sink;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;
use tokio::time::timeout;

use super::body::{bodies, lines, templated};
use super::letter::letter;
use super::message::Message;
use super::now_ms;
use super::smtp::{self, Mail, Unmailed};
use crate::post::{Client, Letter, Target, Unsent};

/// Time for a receiver to answer, from the name's resolution to the last byte.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Time for a command.
const COMMAND_WITHIN: Duration = Duration::from_secs(30);
/// The most messages that a command gets as JSON: a variable may have 128 KiB.
const SHOWN: usize = 20;

/// Nobody was told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Untold {
    #[error(transparent)]
    Unsent(#[from] Unsent),
    #[error("it answered {0}")]
    Refused(StatusCode),
    #[error("not done within {0} s")]
    Late(u64),
    #[error("the template is not JSON: {0}; start the ecosystem file again, which writes it")]
    Template(#[source] serde_json::Error),
    #[error(transparent)]
    Unmailed(#[from] Unmailed),
    #[error("the command cannot be run: {0}")]
    NoCommand(#[source] std::io::Error),
    #[error("the command ended with {0}")]
    Failed(String),
}

impl Untold {
    /// True if it may go well the next time.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Untold::Unsent(Unsent::Unreachable(_) | Unsent::Broken(_) | Unsent::Late(_))
            | Untold::Late(_) => true,
            Untold::Refused(status) => {
                status.is_server_error()
                    || matches!(
                        *status,
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                    )
            }
            Untold::Unmailed(error) => error.may_pass(),
            // A command that did not do it may have done half of it.
            Untold::Unsent(Unsent::Address(_) | Unsent::NoRoots(_) | Unsent::Request(_))
            | Untold::Template(_)
            | Untold::NoCommand(_)
            | Untold::Failed(_) => false,
        }
    }
}

/// Tells these messages, and returns what the receiver said.
pub(crate) async fn send(sink: &Sink, messages: &[Message], host: &str) -> Result<String, Untold> {
    match sink {
        Sink::Webhook {
            url,
            shape,
            key,
            template,
        } => {
            let bodies = match template {
                Some(template) => templated(template, messages, host).map_err(Untold::Template)?,
                None => bodies(*shape, key.as_deref(), messages, host),
            };
            let mut said = String::new();
            for body in bodies {
                said = post(url, body.to_string()).await?;
            }
            Ok(said)
        }
        Sink::Mail { to, from, smtp } => mail(smtp, from.as_deref(), to, messages, host).await,
        Sink::Exec { command, cwd } => run(command, cwd, messages, host).await,
    }
}

/// What the receiver says is not read: it may repeat the address, which is a secret.
async fn post(url: &str, body: String) -> Result<String, Untold> {
    let letter = Letter {
        content_type: "application/json",
        headers: &[],
        body: Bytes::from(body),
        answer_bytes: 0,
    };
    let mut client = Client::new(Target::new(url, "/")?);
    let status = client.post(letter, ANSWER_WITHIN).await?.status;
    match status.is_success() {
        true => Ok(format!("it answered {status}")),
        false => Err(Untold::Refused(status)),
    }
}

/// A mail has all messages, and one text for all who get it.
async fn mail(
    smtp: &str,
    from: Option<&str>,
    to: &[String],
    messages: &[Message],
    host: &str,
) -> Result<String, Untold> {
    let is_name = |char: &char| char.is_ascii_alphanumeric() || matches!(char, '.' | '-');
    let own = format!("rpm@{}", host.chars().filter(is_name).collect::<String>());
    let from = from.unwrap_or(&own);
    let text = letter(from, to, messages, host, now_ms());
    let mail = Mail {
        from,
        to,
        text: &text,
        host,
    };
    let said = smtp::send(smtp, &mail).await?;
    Ok(format!("it answered {said}"))
}

/// Runs the line, with what it is about in variables.
async fn run(line: &str, cwd: &str, messages: &[Message], host: &str) -> Result<String, Untold> {
    let first = messages.first();
    let app = first.and_then(|message| message.app.clone()).unwrap_or_default();
    let id = first.and_then(|message| message.id).map(|id| id.to_string());
    let state = first.map(|message| message.state.name());
    let mut child = Command::new("/bin/sh")
        .args(["-c", line])
        .current_dir(if cwd.is_empty() { "/" } else { cwd })
        .env("RPM_ALERT_ON", first.map_or("", |message| message.on.name()))
        .env("RPM_ALERT_STATE", state.unwrap_or_default())
        .env("RPM_ALERT_APP", app)
        .env("RPM_ALERT_ID", id.unwrap_or_default())
        .env("RPM_ALERT_HOST", host)
        .env("RPM_ALERT_TEXT", lines(messages, host))
        .env(
            "RPM_ALERT_JSON",
            serde_json::to_string(&messages[..messages.len().min(SHOWN)]).unwrap_or_default(),
        )
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(Untold::NoCommand)?;
    let group = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    let ended = timeout(COMMAND_WITHIN, child.wait()).await;
    if ended.is_err()
        && let Some(group) = group
    {
        // Its own group: what it has started goes with it. One that has ended is not waited for yet, so the number is its own still.
        let _ = kill_process_group(group, Signal::KILL);
        let _ = child.wait().await;
    }
    match ended {
        Err(_) => Err(Untold::Late(COMMAND_WITHIN.as_secs())),
        Ok(Err(error)) => Err(Untold::NoCommand(error)),
        Ok(Ok(status)) if status.success() => Ok("the command succeeded".to_owned()),
        Ok(Ok(status)) => Err(Untold::Failed(ending(status))),
    }
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => rpm_wire::events::signal_name(signal),
        (None, None) => status.to_string(),
    }
}
