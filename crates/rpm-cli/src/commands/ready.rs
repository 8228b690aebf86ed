//! `ready`: whether the apps serve, for health checks of containers. It starts no daemon.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rpm_wire::api::{AppInfo, Process, Status};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::complaint::complain;
use crate::connect::connect;
use crate::home::{Home, home_dir};
use crate::http::{Session, percent_encoded};
use crate::output::Output;

/// Time for the whole answer, and for one connection.
const WITHIN: Duration = Duration::from_secs(10);
const CONNECTED_WITHIN: Duration = Duration::from_millis(500);

/// What `--json` prints.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Readiness {
    ready: bool,
    /// Why there is nothing to say of any app.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    apps: Vec<AppReadiness>,
}

/// Whether one app serves.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct AppReadiness {
    name: String,
    ready: bool,
    instances: Instances,
    /// Why it is not ready.
    reasons: Vec<String>,
}

/// Instances of an app.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Instances {
    /// Those that are online.
    ready: usize,
    /// Those that have to be.
    wanted: usize,
}

impl Readiness {
    fn of(apps: Vec<AppReadiness>) -> Readiness {
        Readiness {
            ready: apps.iter().all(|app| app.ready),
            reason: None,
            apps,
        }
    }

    /// A line for each reason.
    fn lines(&self) -> Vec<String> {
        let of_app = |app: &AppReadiness| {
            let name = app.name.clone();
            let lines = app.reasons.iter().map(|reason| format!("{name}: {reason}"));
            lines.collect::<Vec<_>>()
        };
        let apps = self.apps.iter().flat_map(of_app);
        self.reason.iter().cloned().chain(apps).collect()
    }
}

impl AppReadiness {
    /// Judges an app by its instances, and by why some of its addresses accept no connection. Instances that are stopped have to be online only
    /// if the app is `named`.
    fn of(info: &AppInfo, named: bool, unreachable: Vec<String>) -> AppReadiness {
        let wanted = |it: &&Process| named || it.status != Status::Stopped;
        let wanted: Vec<&Process> = info.processes.iter().filter(wanted).collect();
        let missing = wanted.iter().filter(|it| it.status != Status::Online);
        let mut reasons: Vec<String> = missing
            .map(|it| format!("process {} is {}", it.id, it.status.as_str()))
            .collect();
        let instances = Instances {
            ready: wanted.len() - reasons.len(),
            wanted: wanted.len(),
        };
        reasons.extend(unreachable);
        AppReadiness {
            name: info.spec.name.clone(),
            ready: reasons.is_empty(),
            instances,
            reasons,
        }
    }
}

/// Fails with a line for each reason. `targets`: names or ids; without any it is about all apps but those that are stopped.
pub(super) async fn ready(targets: &[String], json: bool, output: &mut Output) -> anyhow::Result<()> {
    let found = timeout(WITHIN, readiness(targets)).await;
    let found = found.context("the daemon did not answer in time").flatten();
    let found = found.unwrap_or_else(|error| Readiness {
        reason: Some(format!("{error:#}")),
        ..Readiness::default()
    });
    if json {
        output.json(&found)?;
        output.flush()?;
    }
    let mut lines = found.lines();
    let last = lines.pop();
    for line in lines {
        complain(format_args!("error: {line}"));
    }
    match last {
        Some(line) => bail!(line),
        None => Ok(()),
    }
}

async fn readiness(targets: &[String]) -> anyhow::Result<Readiness> {
    let home = Home::open(home_dir()?)?;
    let all: Vec<Process> = ask(&home, "/v1/processes").await?;
    if all.is_empty() {
        bail!("there are no apps");
    }
    let names: BTreeSet<&str> = match targets {
        [] => all.iter().map(|process| process.name.as_str()).collect(),
        named => named.iter().map(String::as_str).collect(),
    };
    let mut apps = Vec::new();
    for name in names {
        let info: AppInfo = ask(&home, &format!("/v1/apps/{}", percent_encoded(name))).await?;
        let unreachable = unreachable(&info).await;
        apps.push(AppReadiness::of(&info, !targets.is_empty(), unreachable));
    }
    Ok(Readiness::of(apps))
}

/// Why addresses of an app accept no connection. One that is stopped has none.
async fn unreachable(info: &AppInfo) -> Vec<String> {
    let mut found = Vec::new();
    if info.processes.iter().all(|it| it.status == Status::Stopped) {
        return found;
    }
    let addresses: BTreeSet<&str> = info.listeners.iter().map(|it| it.address.as_str()).collect();
    for address in addresses {
        if let Err(why) = accepts(address).await {
            found.push(format!("{address} accepts no connection: {why}"));
        }
    }
    found
}

/// Reads from the daemon that runs.
async fn ask<T: DeserializeOwned>(home: &Home, path: &str) -> anyhow::Result<T> {
    let stream = connect(home).await?.context("the daemon is not running")?;
    Ok(Session::open(stream).await?.get(path).await?)
}

/// Connects to an address as [`rpm_wire::api::ListenerInfo`] has it. Datagrams have no connection.
async fn accepts(address: &str) -> Result<(), String> {
    if let Some(path) = address.strip_prefix("unix ") {
        return within(UnixStream::connect(path)).await;
    }
    let parsed = address.strip_prefix("tcp ").and_then(|it| it.parse().ok());
    let Some(address) = parsed else {
        return Ok(());
    };
    let mut last = Ok(());
    for place in places(address) {
        last = within(TcpStream::connect(place)).await;
        if last.is_ok() {
            break;
        }
    }
    last
}

async fn within<T>(connecting: impl Future<Output = std::io::Result<T>>) -> Result<(), String> {
    match timeout(CONNECTED_WITHIN, connecting).await {
        Ok(connected) => connected.map(drop).map_err(|error| error.to_string()),
        Err(_) => Err(format!("none within {} ms", CONNECTED_WITHIN.as_millis())),
    }
}

/// Where this machine finds a listener. That of all IPv6 addresses mostly takes IPv4 too, and a container may lack `::1`.
fn places(address: SocketAddr) -> Vec<SocketAddr> {
    let at = |ip: IpAddr| SocketAddr::new(ip, address.port());
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => vec![at(Ipv4Addr::LOCALHOST.into())],
        IpAddr::V6(ip) if ip.is_unspecified() => {
            vec![at(Ipv6Addr::LOCALHOST.into()), at(Ipv4Addr::LOCALHOST.into())]
        }
        _ => vec![address],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn process(id: usize, status: &str) -> serde_json::Value {
        json!({
            "id": id, "name": "api", "instance": id, "generation": 1, "exec_mode": "cluster", "plane": "direct", "status": status,
            "pid": 100, "uptime_ms": null, "started_at_ms": 0, "created_at_ms": 0, "restarts": 0, "unstable_restarts": 0,
            "cpu_percent": 0.0, "memory_bytes": 0, "connections": null, "exit_code": null, "out_log": "", "err_log": ""
        })
    }

    /// An app whose instances have these states.
    fn app(statuses: &[&str]) -> AppInfo {
        let processes = statuses.iter().enumerate();
        let processes: Vec<_> = processes.map(|(id, status)| process(id, status)).collect();
        let info = json!({
            "spec": { "name": "api", "script": "/srv/api.js", "cwd": "/srv", "exec_mode": "cluster", "instances": 2 },
            "plane": "direct", "plane_reason": "", "generation": 1,
            "processes": processes, "listeners": [],
        });
        serde_json::from_value(info).expect("an app")
    }

    #[test]
    fn an_app_is_ready_when_every_wanted_instance_is_online_and_every_address_answers() {
        let refused = "tcp 127.0.0.1:80 accepts no connection: refused";
        for (statuses, named, unreachable, instances, reasons) in [
            (&["online", "online"][..], false, None, (2, 2), vec![]),
            (
                &["online", "errored"],
                false,
                None,
                (1, 2),
                vec!["process 1 is errored"],
            ),
            (
                &["launching", "waiting restart"],
                false,
                None,
                (0, 2),
                vec!["process 0 is launching", "process 1 is waiting restart"],
            ),
            // Stopped is as wished, unless somebody asks for this app.
            (&["online", "stopped"], false, None, (1, 1), vec![]),
            (
                &["online", "stopped"],
                true,
                None,
                (1, 2),
                vec!["process 1 is stopped"],
            ),
            (&["stopped"], false, None, (0, 0), vec![]),
            (&["online"], false, Some(refused), (1, 1), vec![refused]),
        ] {
            let unreachable = unreachable.into_iter().map(str::to_owned).collect();
            let found = AppReadiness::of(&app(statuses), named, unreachable);
            assert_eq!(
                (found.instances.ready, found.instances.wanted),
                instances,
                "{statuses:?}"
            );
            assert_eq!(found.reasons, reasons, "{statuses:?}");
            assert_eq!(found.ready, reasons.is_empty(), "{statuses:?}");
        }
    }

    #[test]
    fn one_app_that_is_not_ready_decides() {
        let [well, ill] = [&["online"], &["errored"]].map(|it| AppReadiness::of(&app(it), false, Vec::new()));
        let found = Readiness::of(vec![well, ill]);
        assert_eq!(found.lines(), ["api: process 0 is errored"]);
        assert_eq!(
            serde_json::to_value(&found).expect("JSON"),
            json!({ "ready": false, "apps": [
                { "name": "api", "ready": true, "instances": { "ready": 1, "wanted": 1 }, "reasons": [] },
                { "name": "api", "ready": false, "instances": { "ready": 0, "wanted": 1 }, "reasons": ["process 0 is errored"] },
            ] })
        );
    }

    #[test]
    fn a_listener_of_every_address_is_found_at_loopback() {
        for (listens, expected) in [
            ("0.0.0.0:80", "[127.0.0.1:80]"),
            ("[::]:80", "[[::1]:80, 127.0.0.1:80]"),
            ("10.0.0.1:80", "[10.0.0.1:80]"),
        ] {
            let found = places(listens.parse().expect("an address"));
            assert_eq!(format!("{found:?}"), expected);
        }
    }
}
