//! `observe on`, `off` and `status`: whether the daemon has a process that serves the metrics; and what a file says of that, of alerts and of logs.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use comfy_table::Table;
use jiff::Timestamp;
use rpm_spec::Observing;
use rpm_wire::alerts::{RULES_FILE, Rule, Rules};
use rpm_wire::api::{ChangeReply, ObserveInfo, ObserveRequest, ObserveSpec, ObserveTls, Status};
use rpm_wire::forward::{Destination, Destinations, FORWARD_FILE, Http};
use rpm_wire::otlp::{OTLP_FILE, Otlp};
use rpm_wire::receivers::Receiving;
use serde::Serialize;

use super::receivers::receivers;
use super::{event_loop, read, session, show, surroundings, tell};
use crate::args::{Observe, Switch};
use crate::connect::connect;
use crate::files::write_private;
use crate::home::{Home, home_dir};
use crate::output::Output;
use crate::render::{self, Look};
use crate::resolve::Surroundings;

/// Carries out the command.
pub(super) async fn switch(switch: &Switch, output: &mut Output) -> anyhow::Result<()> {
    match switch {
        Switch::On(wish) => {
            let spec = settings(wish, &surroundings()?)?;
            serve(Some(spec), output).await?;
            tell("`rpm save` has it come back at boot with the apps that are saved");
            Ok(())
        }
        Switch::Off => match is_known().await? {
            true => serve(None, output).await,
            false => {
                tell("the metrics are off already");
                Ok(())
            }
        },
        Switch::Status { json } => status(*json, output).await,
    }
}

/// Has the daemon observe, if it does not, and says where.
///
/// # Errors
/// The daemon cannot be started or asked, or the process does not come online.
pub fn observed() -> anyhow::Result<ObserveSpec> {
    event_loop()?.block_on(async {
        let present: ObserveInfo = read("/v1/observe").await?;
        let process = present.process.as_ref();
        let is_online = process.is_some_and(|process| process.status == Status::Online);
        if let (Some(spec), true) = (&present.observe, is_online) {
            return Ok(spec.clone());
        }
        let request = ObserveRequest {
            unless_on: present.observe.is_none(),
            observe: Some(present.observe.unwrap_or_default()),
            wait: true,
        };
        let _: ChangeReply = session().await?.post("/v1/observe", &request).await?;
        let now: ObserveInfo = read("/v1/observe").await?;
        now.observe
            .context("the process of `rpm observe on` was turned off meanwhile")
    })
}

/// A daemon that does not run has no such process, and is not started to say that.
async fn is_known() -> anyhow::Result<bool> {
    let home = Home::open(home_dir()?)?;
    Ok(home.has_workers_left() || connect(&home).await?.is_some())
}

async fn serve(observe: Option<ObserveSpec>, output: &mut Output) -> anyhow::Result<()> {
    let url = observe.as_ref().map(url);
    let request = ObserveRequest {
        observe,
        unless_on: false,
        wait: true,
    };
    let reply: ChangeReply = session().await?.post("/v1/observe", &request).await?;
    show(&reply, output)?;
    if let Some(url) = url {
        output.flush()?;
        tell(format!("metrics for Prometheus: {url}"));
    }
    Ok(())
}

/// Where the metrics are, for a reader on this machine.
fn url(spec: &ObserveSpec) -> String {
    format!("{}://{}/metrics", spec.scheme(), spec.listen)
}

/// The settings that the options are, as the daemon takes them.
fn settings(wish: &Observe, around: &Surroundings) -> anyhow::Result<ObserveSpec> {
    let absolute = |path: &Path| {
        let path = around.absolute(path);
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| anyhow!("the path {} is not UTF-8", path.display()))
    };
    Ok(ObserveSpec {
        listen: wish.listen,
        token_file: wish.token_file.as_deref().map(absolute).transpose()?,
        tls: match (&wish.tls_cert, &wish.tls_key) {
            (Some(cert), Some(key)) => Some(ObserveTls {
                cert: absolute(cert)?,
                key: absolute(key)?,
                client_ca: wish.tls_client_ca.as_deref().map(absolute).transpose()?,
            }),
            _ => None,
        },
    })
}

async fn status(json: bool, output: &mut Output) -> anyhow::Result<()> {
    let info: ObserveInfo = match is_known().await? {
        true => read("/v1/observe").await?,
        false => ObserveInfo::default(),
    };
    // Only of a process that serves: the port may be somebody else's otherwise, and the token is not for him.
    let serves = info
        .process
        .as_ref()
        .is_some_and(|process| process.status == Status::Online);
    let receivers = match info.observe.as_ref().filter(|_| serves) {
        Some(spec) => Some(receivers(spec).await),
        None => None,
    };
    if json {
        let receivers = receivers.and_then(Result::ok);
        return Ok(output.json(&Shown { info, receivers })?);
    }
    let Some(spec) = &info.observe else {
        return Ok(output.line("off")?);
    };
    let status = info
        .process
        .as_ref()
        .map_or(Status::Stopped, |process| process.status);
    let pid = info.process.as_ref().and_then(|process| process.pid);
    let pid = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
    output.line(format_args!("{}: {}{pid}", status.as_str(), url(spec)))?;
    match receivers {
        Some(Ok(all)) if !all.is_empty() => {
            let columns = Table::new().width().map(usize::from);
            let columns = columns.filter(|_| output.look != Look::Plain);
            let now_ms = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
            output.line("")?;
            for line in render::receivers(&all, now_ms, columns) {
                output.line(line)?;
            }
        }
        Some(Err(error)) => tell(format!("it does not say who gets logs and alerts: {error:#}")),
        Some(Ok(_)) | None => {}
    }
    Ok(())
}

/// As it is shown to programs.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    info: ObserveInfo,
    /// Who gets logs, alerts, metrics and spans; absent if the process does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    receivers: Option<Vec<Receiving>>,
}

/// What a file says of the metrics, carried out after its apps.
pub(super) async fn apply(
    wanted: Option<Observing>,
    dry_run: bool,
    output: &mut Output,
) -> anyhow::Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    let present: ObserveInfo = read("/v1/observe").await?;
    let wanted = match wanted {
        Observing::Off => {
            apply_alerts(Vec::new(), dry_run, output)?;
            apply_logs(Vec::new(), dry_run, output)?;
            apply_otlp(None, dry_run, output)?;
            None
        }
        Observing::On {
            listen,
            token_file,
            tls,
            alerts,
            logs,
            otlp,
        } => {
            apply_alerts(alerts, dry_run, output)?;
            apply_logs(logs, dry_run, output)?;
            apply_otlp(otlp.as_ref(), dry_run, output)?;
            let usual = ObserveSpec::default();
            Some(ObserveSpec {
                listen: listen.unwrap_or(usual.listen),
                token_file,
                tls,
            })
        }
    };
    let online = present
        .process
        .as_ref()
        .is_none_or(|it| it.status == Status::Online);
    if present.observe == wanted && online {
        return Ok(());
    }
    let line = match &wanted {
        Some(spec) => format!("observe: {}", url(spec)),
        None => "observe: off".to_owned(),
    };
    if dry_run {
        return Ok(output.line(line)?);
    }
    tell(line);
    serve(wanted, output).await
}

fn apply_alerts(rules: Vec<Rule>, dry_run: bool, output: &mut Output) -> anyhow::Result<()> {
    let line = match rules.len() {
        0 => "alerts: none".to_owned(),
        1 => "alerts: 1 rule".to_owned(),
        count => format!("alerts: {count} rules"),
    };
    let text = match rules.is_empty() {
        true => String::new(),
        false => serde_json::to_string(&Rules { rules })?,
    };
    hand_over(RULES_FILE, &text, line, dry_run, output)
}

fn apply_logs(destinations: Vec<Destination>, dry_run: bool, output: &mut Output) -> anyhow::Result<()> {
    let line = match destinations.is_empty() {
        true => "logs: sent nowhere".to_owned(),
        false => {
            let to: Vec<&str> = destinations.iter().map(|it| it.name.as_str()).collect();
            format!("logs: sent to {}", to.join(", "))
        }
    };
    let text = match destinations.is_empty() {
        true => String::new(),
        false => serde_json::to_string(&Destinations { destinations })?,
    };
    hand_over(FORWARD_FILE, &text, line, dry_run, output)
}

fn apply_otlp(otlp: Option<&Otlp>, dry_run: bool, output: &mut Output) -> anyhow::Result<()> {
    let line = match otlp {
        None => "otlp: as the environment says".to_owned(),
        Some(Otlp {
            metrics: Some(false),
            traces: Some(false),
            ..
        }) => "otlp: nothing is sent".to_owned(),
        Some(otlp) => {
            let what = match [otlp.metrics, otlp.traces].map(|it| it.unwrap_or(true)) {
                [true, true] => "metrics and traces",
                [true, false] => "metrics",
                _ => "traces",
            };
            let to = otlp.http.as_ref().map(Http::shown);
            format!(
                "otlp: {what} sent to {}",
                to.as_deref().unwrap_or("what OTEL_EXPORTER_OTLP_ENDPOINT says")
            )
        }
    };
    let text = otlp.map_or(Ok(String::new()), serde_json::to_string)?;
    hand_over(OTLP_FILE, &text, line, dry_run, output)
}

/// Writes settings of a file where the process finds them, which it does within seconds.
fn hand_over(name: &str, text: &str, line: String, dry_run: bool, output: &mut Output) -> anyhow::Result<()> {
    let path = home_dir()?.join(name);
    let present = std::fs::read_to_string(&path).unwrap_or_default();
    if present == text {
        return Ok(());
    }
    if dry_run {
        return Ok(output.line(line)?);
    }
    write_private(&path, text)?;
    tell(line);
    Ok(())
}

/// What was saved, unless the metrics are served already.
pub(super) async fn restore(observe: Option<ObserveSpec>, wait: bool) -> anyhow::Result<()> {
    let Some(spec) = observe else { return Ok(()) };
    let url = url(&spec);
    let request = ObserveRequest {
        observe: Some(spec),
        unless_on: true,
        wait,
    };
    let _: ChangeReply = session().await?.post("/v1/observe", &request).await?;
    tell(format!("metrics for Prometheus: {url}"));
    Ok(())
}
