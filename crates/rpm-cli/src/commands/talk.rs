//! Talking to a process: its standard input, and the actions that it offers.

use std::io::BufRead as _;

use anyhow::bail;
use rpm_wire::api::{ChangeReply, Known, SendRequest, TargetsRequest, TriggerReply, TriggerRequest};

use super::{logs, session};
use crate::args::LogsArgs;
use crate::output::Output;

/// `send`.
pub(super) async fn send(target: &str, line: &str) -> anyhow::Result<()> {
    let request = SendRequest {
        target: target.to_owned(),
        line: format!("{line}\n"),
    };
    let _: ChangeReply = session().await?.post("/v1/send", &request).await?;
    Ok(())
}

/// `attach`: until the end of the input.
pub(super) async fn attach(target: &str, output: &mut Output) -> anyhow::Result<()> {
    // Without input, the output may end before the daemon reports that there is no such app.
    let request = TargetsRequest {
        targets: vec![target.to_owned()],
    };
    let _: Vec<Known> = session().await?.post("/v1/resolve", &request).await?;
    let (lines, mut typed) = tokio::sync::mpsc::channel::<String>(16);
    // Reading blocks while the user types: a thread may wait for that, and ends with the process.
    std::thread::Builder::new().spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
    })?;
    let shown = LogsArgs {
        targets: vec![target.to_owned()],
        lines: 0,
        ..LogsArgs::default()
    };
    let typing = async {
        while let Some(line) = typed.recv().await {
            send(target, &line).await?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        typed = typing => typed,
        ended = logs::logs(&shown, output) => ended,
    }
}

/// `trigger`.
pub(super) async fn trigger(
    target: &str,
    action: &str,
    params: Option<&str>,
    output: &mut Output,
) -> anyhow::Result<()> {
    let request = TriggerRequest {
        target: target.to_owned(),
        action: action.to_owned(),
        params: params.map(str::to_owned),
    };
    let replies: Vec<TriggerReply> = session().await?.post("/v1/trigger", &request).await?;
    for reply in &replies {
        let TriggerReply {
            id,
            name,
            namespace,
            answer,
        } = reply;
        output.line(format_args!("[{name}:{id}:{namespace}]={answer}"))?;
    }
    if replies.is_empty() {
        bail!("no process answered the action {action:?}; do they offer it (io.action)?");
    }
    Ok(())
}
