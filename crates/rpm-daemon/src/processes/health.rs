//! Health checks: a worker of a reload is asked before any client can reach it.
//!
//! The daemon makes a connection of its own, to itself, and hands the far end to the worker over its channel, as one that
//! it accepted for it (`newconn`). So it is this worker that answers, whatever the kernel would have chosen.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rpm_core::protocol::Input;
use rpm_core::{Core, WorkerId};
use rpm_listen::Listeners;
use rpm_proxy::Address;
use rpm_proxy::health::{ProbeError, probe};
use rpm_wire::api::{ApiError, AppSpec, HealthCheck};
use rpm_wire::channel;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::apps::app::Apps;
use crate::apps::delivery::Delivery;
use crate::events::Journal;
use crate::events::subject::Facts;
use crate::failure::failure;
use crate::node::handoff::Handoffs;
use crate::proxy::credentials::private;
use crate::workers::worker::{Awaiting, Outgoing, Worker, Workers};

/// Each request of a health check is an event of the daemon's loop.
const LEAST_INTERVAL: Duration = Duration::from_millis(10);
/// Nothing answers in less.
const LEAST_TIMEOUT: Duration = Duration::from_millis(1);

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

/// What the health check of a worker needs of the daemon, and its outcome.
pub(crate) enum HealthEvent {
    /// Where only this worker is asked, if it has an address of its own; an error: it is gone, or leaves.
    WhereIs(WorkerId, oneshot::Sender<Result<Option<Address>, ()>>),
    /// Give the worker this connection; `false`: it is gone, or leaves.
    Give(WorkerId, OwnedFd, oneshot::Sender<bool>),
    /// It gave no good answer: why.
    Unhealthy(WorkerId, String),
    /// It has given as many good answers as it has to.
    Healthy(WorkerId),
}

/// Can the workers of this app be asked?
pub(crate) fn check_spec(spec: &AppSpec, delivery: Delivery) -> Result<(), ApiError> {
    let Some(check) = &spec.health_check else {
        return Ok(());
    };
    if !delivery.can_be_probed() {
        return Err(failure(
            "only the workers of a Node program that is started with -i, or those behind the proxy, can have a health check",
            Some(
                "start it with -i or --balance proxy, or leave the health check out: a reload then goes by what the workers listen on",
            ),
        ));
    }
    check_values(check)
}

fn check_values(check: &HealthCheck) -> Result<(), ApiError> {
    let graphic = check.path.bytes().all(|byte| byte.is_ascii_graphic());
    if !check.path.starts_with('/') || !graphic || !(100..600).contains(&check.status) || check.threshold == 0
    {
        return Err(failure(
            format!("invalid health check of {:?}", check.path),
            Some("its path begins with /, its status is from 100 to 599, its threshold at least 1"),
        ));
    }
    for (name, ms, least) in [
        ("interval", check.interval_ms, LEAST_INTERVAL),
        ("timeout", check.timeout_ms, LEAST_TIMEOUT),
    ] {
        if Duration::from_millis(ms) < least {
            return Err(failure(
                format!("the {name} of the health check of {:?} is too short", check.path),
                Some(&format!("it is at least {} ms", least.as_millis())),
            ));
        }
    }
    Ok(())
}

/// Asks a worker until it has answered well so many times in a row, or is gone.
pub(crate) fn check_health<E>(held: &Worker, events: &mpsc::Sender<E>)
where
    E: From<HealthEvent> + Send + 'static,
{
    if let Some(check) = held.spec.health_check.clone() {
        tokio::spawn(ask_until_healthy(events.clone(), held.id, check));
    }
}

/// What the checks of workers concern: lent by the supervisor for one event.
pub(crate) struct Context<'a> {
    pub(crate) core: &'a Core,
    pub(crate) listeners: &'a Listeners,
    pub(crate) workers: &'a mut Workers,
    pub(crate) handoffs: &'a mut Handoffs,
    pub(crate) apps: &'a Apps,
    pub(crate) journal: &'a mut Journal,
}

impl Context<'_> {
    /// Gives what a check needs. What the core has to know.
    pub(crate) fn on_event(&mut self, event: HealthEvent) -> Option<Input> {
        match event {
            // One that asks may have ended since.
            HealthEvent::WhereIs(worker, reply) => drop(reply.send(self.own_address(worker))),
            HealthEvent::Give(worker, connection, reply) => drop(reply.send(self.give(worker, connection))),
            HealthEvent::Unhealthy(worker, why) => {
                // One that was told to end cuts what it is asked: that is not why it was told.
                let launching = self.core.worker(worker).is_some_and(|view| view.launching);
                if launching {
                    self.report(worker, Some(&why));
                }
                if let Some(held) = self.workers.get_mut(&worker).filter(|_| launching) {
                    held.trouble = Some(why);
                }
            }
            HealthEvent::Healthy(worker) => {
                self.report(worker, None);
                if let Some(held) = self.workers.get_mut(&worker) {
                    held.trouble = None;
                }
                return Some(Input::Healthy { worker });
            }
        }
        None
    }

    fn report(&mut self, worker: WorkerId, ill: Option<&str>) {
        let facts = Facts {
            core: self.core,
            apps: self.apps,
            workers: self.workers,
            listeners: self.listeners,
        };
        self.journal.health(&facts, worker, ill);
    }

    /// Where only this worker is asked, if it has an address of its own; an error: it is gone, or leaves.
    fn own_address(&self, worker: WorkerId) -> Result<Option<Address>, ()> {
        match self.core.worker(worker) {
            Some(view) if view.launching => {
                let socket = self.listeners.private_address(worker);
                Ok(socket.map(private))
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

async fn ask_until_healthy<E: From<HealthEvent>>(
    events: mpsc::Sender<E>,
    worker: WorkerId,
    check: HealthCheck,
) {
    let mut good = 0;
    while good < check.threshold {
        let within = Duration::from_millis(check.timeout_ms);
        let asked = timeout(within, ask(&events, worker, &check)).await;
        match asked.unwrap_or(Err(Unhealthy::Late(within))) {
            Ok(true) => good += 1,
            Ok(false) => return,
            Err(unhealthy) => {
                good = 0;
                let path = &check.path;
                let text = format!("its last answer to the health check {path} was: {unhealthy}");
                if tell(&events, HealthEvent::Unhealthy(worker, text))
                    .await
                    .is_none()
                {
                    return;
                }
            }
        }
        if good < check.threshold {
            sleep(Duration::from_millis(check.interval_ms)).await;
        }
    }
    // A daemon that shuts down does not want to know.
    let _ = tell(&events, HealthEvent::Healthy(worker)).await;
}

/// `None`: the daemon shuts down.
async fn tell<E: From<HealthEvent>>(events: &mpsc::Sender<E>, event: HealthEvent) -> Option<()> {
    events.send(event.into()).await.ok()
}

/// One request. `false`: there is nobody to ask any more.
async fn ask<E: From<HealthEvent>>(
    events: &mpsc::Sender<E>,
    worker: WorkerId,
    check: &HealthCheck,
) -> Result<bool, Unhealthy> {
    let (reply, answer) = oneshot::channel();
    let _ = tell(events, HealthEvent::WhereIs(worker, reply)).await;
    let connection = match answer.await {
        Ok(Ok(Some(address))) => Some(address.connect().await?),
        Ok(Ok(None)) => given(events, worker).await?,
        Ok(Err(())) | Err(_) => None,
    };
    match connection {
        Some(connection) => request(connection, check).await,
        None => Ok(false),
    }
}

/// A connection of which the worker is given the other end.
async fn given<E: From<HealthEvent>>(
    events: &mpsc::Sender<E>,
    worker: WorkerId,
) -> Result<Option<TcpStream>, Unhealthy> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let (ours, accepted) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
    let (ours, (theirs, peer)) = (ours?, accepted?);
    if peer != ours.local_addr()? {
        return Err(std::io::Error::other("somebody else connected").into());
    }
    let theirs = OwnedFd::from(theirs.into_std()?);
    let (reply, answer) = oneshot::channel();
    let _ = tell(events, HealthEvent::Give(worker, theirs, reply)).await;
    Ok(answer.await.unwrap_or(false).then_some(ours))
}

async fn request(ours: TcpStream, check: &HealthCheck) -> Result<bool, Unhealthy> {
    match probe(ours, &check.path).await? {
        status if status == check.status => Ok(true),
        status => Err(Unhealthy::Status(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_make_no_sense_are_refused() {
        type Change = fn(&mut HealthCheck);
        let with = |change: Change| {
            let mut check = HealthCheck::of("/health".to_owned());
            change(&mut check);
            check_values(&check).map_err(|refused| refused.error)
        };
        assert_eq!(with(|_| {}), Ok(()));
        let changes: [(Change, &str); 5] = [
            (|check| check.path = "health".to_owned(), "invalid"),
            (|check| check.status = 99, "invalid"),
            (|check| check.threshold = 0, "invalid"),
            (|check| check.interval_ms = 9, "the interval"),
            (|check| check.timeout_ms = 0, "the timeout"),
        ];
        for (change, part) in changes {
            let refused = with(change).expect_err(part);
            assert!(refused.contains(part), "{refused}");
        }
    }
}
