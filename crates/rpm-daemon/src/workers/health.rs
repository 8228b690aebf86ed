//! Health checks: a worker of a reload is asked before any client can reach it.
//!
//! The daemon makes a connection of its own, to itself, and hands the far end to the worker over its channel, as one that
//! it accepted for it (`newconn`). So it is this worker that answers, whatever the kernel would have chosen.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rpm_core::WorkerId;
use rpm_core::protocol::Input;
use rpm_listen::private_mark;
use rpm_proxy::Address;
use rpm_proxy::health::{ProbeError, probe};
use rpm_wire::api::{ApiError, AppSpec, HealthCheck};
use rpm_wire::channel;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::api::handle::Handle;
use crate::apps::app::{PortSource, is_proxied};
use crate::apps::commands::failure;
use crate::node::channel::Outgoing;
use crate::supervisor::Supervisor;
use crate::workers::worker::Awaiting;

/// Why an answer was none, or not a good one.
#[derive(Debug, thiserror::Error)]
enum Unhealthy {
    #[error("status {0}")]
    Status(u16),
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
    #[error("no connection can be made to it: {0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Probe(#[from] ProbeError),
}

/// Can the workers of this app be asked?
pub(crate) fn check_spec(spec: &AppSpec) -> Result<(), ApiError> {
    let Some(check) = &spec.health_check else {
        return Ok(());
    };
    if PortSource::of(spec) != PortSource::Node && !is_proxied(spec) {
        return Err(failure(
            "only the workers of a Node program that is started with -i, or those behind the proxy, can have a health check",
            Some(
                "start it with -i or --balance proxy, or leave the health check out: a reload then goes by what the workers listen on",
            ),
        ));
    }
    let graphic = check.path.bytes().all(|byte| byte.is_ascii_graphic());
    if !check.path.starts_with('/') || !graphic || !(100..600).contains(&check.status) || check.threshold == 0
    {
        return Err(failure(
            format!("invalid health check of {:?}", check.path),
            Some("its path begins with /, its status is from 100 to 599, its threshold at least 1"),
        ));
    }
    Ok(())
}

impl Supervisor {
    /// Asks a worker until it has answered well so many times in a row, or is gone.
    pub(crate) fn check_health(&self, worker: WorkerId) {
        let spec = self.workers.get(&worker).map(|held| &held.spec);
        if let Some(check) = spec.and_then(|spec| spec.health_check.clone()) {
            tokio::spawn(ask_until_healthy(self.handle(), worker, check));
        }
    }

    /// Where only this worker is asked, if it has an address of its own; an error: it is gone, or leaves.
    fn own_address(&self, worker: WorkerId) -> Result<Option<Address>, ()> {
        match self.core.worker(worker) {
            Some(view) if view.launching => {
                let socket = self.listeners.private_address(worker);
                let mark = private_mark();
                Ok(socket.map(|socket| Address { socket, mark }))
            }
            Some(_) | None => Err(()),
        }
    }

    /// Gives the worker a connection as one to the first address that it listens on; `false`: it is gone, or leaves.
    fn give(&mut self, worker: WorkerId, connection: OwnedFd) -> bool {
        let Some(key) = self.listeners.first_key(worker).map(str::to_owned) else {
            return false;
        };
        let settled = self.core.worker(worker).is_none_or(|view| view.online);
        let number = self.handoffs.number();
        let message = Outgoing {
            bytes: channel::newconn(number, &key),
            fd: Some(connection),
        };
        let channel = self.workers.get_mut(&worker).and_then(|held| held.channel_mut());
        !settled && channel.is_some_and(|it| it.send(message, Some(Awaiting::Connection(number))))
    }
}

async fn ask_until_healthy(handle: Handle, worker: WorkerId, check: HealthCheck) {
    let mut good = 0;
    while good < check.threshold {
        let within = Duration::from_millis(check.timeout_ms);
        let asked = timeout(within, ask(&handle, worker, &check)).await;
        match asked.unwrap_or(Err(Unhealthy::Late(within))) {
            Ok(true) => good += 1,
            Ok(false) => return,
            Err(unhealthy) => {
                good = 0;
                let path = &check.path;
                let text = format!("its last answer to the health check {path} was: {unhealthy}");
                let note = move |supervisor: &mut Supervisor| {
                    // One that was told to end cuts what it is asked: that is not why it was told.
                    let launching = supervisor.core.worker(worker).is_some_and(|view| view.launching);
                    if let Some(held) = supervisor.workers.get_mut(&worker).filter(|_| launching) {
                        held.trouble = Some(text);
                    }
                };
                if handle.ask(note).await.is_err() {
                    return;
                }
            }
        }
        if good < check.threshold {
            sleep(Duration::from_millis(check.interval_ms)).await;
        }
    }
    // A daemon that shuts down does not want to know.
    let _ = handle
        .ask(move |supervisor| {
            if let Some(held) = supervisor.workers.get_mut(&worker) {
                held.trouble = None;
            }
            supervisor.input(Input::Healthy { worker });
        })
        .await;
}

/// One request. `false`: there is nobody to ask any more.
async fn ask(handle: &Handle, worker: WorkerId, check: &HealthCheck) -> Result<bool, Unhealthy> {
    let own = handle.ask(move |supervisor| supervisor.own_address(worker)).await;
    let connection = match own {
        Ok(Ok(Some(address))) => Some(address.connect().await?),
        Ok(Ok(None)) => given(handle, worker).await?,
        Ok(Err(())) | Err(_) => None,
    };
    match connection {
        Some(connection) => request(connection, check).await,
        None => Ok(false),
    }
}

/// A connection of which the worker is given the other end.
async fn given(handle: &Handle, worker: WorkerId) -> Result<Option<TcpStream>, Unhealthy> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let (ours, accepted) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
    let (ours, (theirs, peer)) = (ours?, accepted?);
    if peer != ours.local_addr()? {
        return Err(std::io::Error::other("somebody else connected").into());
    }
    let theirs = OwnedFd::from(theirs.into_std()?);
    match handle
        .ask(move |supervisor| supervisor.give(worker, theirs))
        .await
    {
        Ok(true) => Ok(Some(ours)),
        Ok(false) | Err(_) => Ok(None),
    }
}

async fn request(ours: TcpStream, check: &HealthCheck) -> Result<bool, Unhealthy> {
    match probe(ours, &check.path).await? {
        status if status == check.status => Ok(true),
        status => Err(Unhealthy::Status(status)),
    }
}
