//! `ready`: whether the apps serve, for health checks of containers. It starts no daemon.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rpm_wire::api::{AppInfo, Process, Status};
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::complaint::complain;
use crate::connect::connect;
use crate::home::{Home, home_dir};
use crate::http::{Session, percent_encoded};

/// Time for the whole answer, and for one connection.
const WITHIN: Duration = Duration::from_secs(10);
const CONNECTED_WITHIN: Duration = Duration::from_millis(500);

/// Fails with a line for each reason. `targets`: names or ids; without any it is about all apps but those that are stopped.
pub(super) async fn ready(targets: &[String]) -> anyhow::Result<()> {
    let found = timeout(WITHIN, reasons(targets)).await;
    let mut reasons = found.context("the daemon did not answer in time")??;
    let last = reasons.pop();
    for reason in reasons {
        complain(format_args!("error: {reason}"));
    }
    match last {
        Some(reason) => bail!(reason),
        None => Ok(()),
    }
}

async fn reasons(targets: &[String]) -> anyhow::Result<Vec<String>> {
    let home = Home::open(home_dir()?)?;
    let all: Vec<Process> = ask(&home, "/v1/processes").await?;
    if all.is_empty() {
        bail!("there are no apps");
    }
    let names: BTreeSet<&str> = match targets {
        [] => all.iter().map(|process| process.name.as_str()).collect(),
        named => named.iter().map(String::as_str).collect(),
    };
    let mut reasons = Vec::new();
    for name in names {
        let info: AppInfo = ask(&home, &format!("/v1/apps/{}", percent_encoded(name))).await?;
        reasons.extend(states(&info.processes, !targets.is_empty()));
        let stopped = info.processes.iter().all(|it| it.status == Status::Stopped);
        let addresses: BTreeSet<&str> = info.listeners.iter().map(|it| it.address.as_str()).collect();
        for address in addresses.into_iter().filter(|_| !stopped) {
            if let Err(why) = accepts(address).await {
                reasons.push(format!(
                    "{}: {address} accepts no connection: {why}",
                    info.spec.name
                ));
            }
        }
    }
    Ok(reasons)
}

/// Reads from the daemon that runs.
async fn ask<T: DeserializeOwned>(home: &Home, path: &str) -> anyhow::Result<T> {
    let stream = connect(home).await?.context("the daemon is not running")?;
    Ok(Session::open(stream).await?.get(path).await?)
}

/// The instances that are not online.
fn states(processes: &[Process], named: bool) -> Vec<String> {
    let counts = |status| match status {
        Status::Online => false,
        Status::Stopped => named,
        _ => true,
    };
    let missing = processes.iter().filter(|process| counts(process.status));
    let line = |it: &Process| format!("{}: process {} is {}", it.name, it.id, it.status.as_str());
    missing.map(line).collect()
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
