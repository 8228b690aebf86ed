//! The pages of metrics that apps have themselves (`metrics_path`, `prom_client`), asked of each worker by itself.
//!
//! How one worker is reached depends on how its clients reach it. Behind the proxy it has an address of its own. A Node worker is given a
//! connection over its channel, as for a health check. Any other program is asked at its public address, where the kernel chooses who answers:
//! as many connections are made as it takes until each worker has accepted one, which the kernel's table of sockets tells before anything is
//! sent. A worker whose metrics are prom-client's is asked over its channel, and answers in JSON.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rpm_core::{AppId, WorkerId};
use rpm_listen::{Listeners, reachable};
use rpm_proxy::Address;
use rpm_proxy::health::{PageError, page};
use rpm_sys::sock_diag;
use rpm_sys::tree::Census;
use rpm_wire::api::ScrapedPage;
use rpm_wire::channel;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::apps::catalog::Catalog;
use crate::events::subject::Facts;
use crate::node::handoff::Handoffs;
use crate::node::prom_client::Answer;
use crate::proxy::credentials::private;
use crate::workers::worker::{Awaiting, Outgoing, Workers};

/// Time for a page, and for all pages of an app at its public address.
const PAGE_DEADLINE: Duration = Duration::from_secs(2);
/// Time for a worker to accept a connection.
const ACCEPTED_WITHIN: Duration = Duration::from_millis(250);
/// First pause between two looks at who has accepted it; each further one is twice as long.
const LOOK_PAUSE: Duration = Duration::from_millis(2);
/// Connections to the public address for each worker: of two that are chosen at random, both are met by then but once in a million times.
const TRIES_PER_WORKER: usize = 20;

/// A worker whose page is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) worker: WorkerId,
    pub(crate) app: AppId,
    /// What is said of it, still without a page.
    pub(crate) about: ScrapedPage,
    /// Where the page is; of no meaning to prom-client.
    path: String,
    leader: u32,
    way: Way,
}

/// How a worker is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// At an address that nobody else has.
    Own(Address),
    /// By a connection that it is given over its channel.
    Given,
    /// At the address of all workers.
    Public(SocketAddr),
    /// By a message to prom-client in it.
    PromClient,
    /// Not at all.
    None(&'static str),
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
enum NoPage {
    #[error("{0}")]
    Way(&'static str),
    #[error("no answer within {} ms", PAGE_DEADLINE.as_millis())]
    Late,
    #[error("{0}")]
    PromClient(String),
    #[error(
        "prom-client in it does not answer ({} ms): does the app make an AggregatorRegistry?",
        PAGE_DEADLINE.as_millis()
    )]
    NoAnswer,
    #[error("no connection can be made to it: {0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Page(#[from] PageError),
}

/// What the daemon does for whoever asks a worker.
pub(crate) trait Reach {
    /// Gives the worker a connection; `false`: it is gone, or cannot be given any.
    fn give(&self, worker: WorkerId, connection: OwnedFd) -> impl Future<Output = bool> + Send;
    /// Asks prom-client in the worker. It takes as long as it takes; `None`: it is gone, or does not read its messages.
    fn ask_prom_client(&self, worker: WorkerId) -> impl Future<Output = Option<Answer>> + Send;
}

/// The names of the apps that have pages.
pub(crate) fn apps(catalog: Catalog<'_>) -> Vec<String> {
    let has_page = |id: AppId| catalog.present_spec(id).is_some_and(|spec| spec.has_metrics());
    let apps = catalog.listed().filter(|(id, _)| has_page(*id));
    apps.map(|(_, app)| app.name.clone()).collect()
}

/// All workers that have pages.
pub(crate) fn targets(facts: &Facts<'_>) -> Vec<Target> {
    let workers = facts.workers.keys();
    workers.filter_map(|worker| target(facts, *worker)).collect()
}

/// How a worker is asked; `None`: it has no page, no process, or is starting.
pub(crate) fn target(facts: &Facts<'_>, worker: WorkerId) -> Option<Target> {
    let held = facts.workers.get(&worker)?;
    if !held.spec.has_metrics() {
        return None;
    }
    let process = held.process()?;
    let view = facts.core.worker(worker)?;
    let present = facts.core.instance(held.instance).and_then(|view| view.worker());
    let about = ScrapedPage {
        app: facts.apps.get(&held.app)?.name.clone(),
        id: held.instance.0,
        worker: format!("{worker}-{}-{}", process.pid, process.started_at_ms),
        leaving: present != Some(worker),
        prom_client: held.spec.asks_prom_client(),
        ..ScrapedPage::default()
    };
    // What starts has nothing to say yet, and is no trouble.
    if !about.leaving && !view.online {
        return None;
    }
    let address = facts.listeners.addresses_of(worker).next();
    let way = match (facts.listeners.private_address(worker), address) {
        _ if about.prom_client => Way::PromClient,
        (Some(socket), _) => Way::Own(private(socket)),
        (None, Some(_)) if held.delivery.may_be_handed() => Way::Given,
        (None, Some(_)) if about.leaving => Way::None("clients do not reach it at this moment"),
        (None, Some(address)) => Way::Public(reachable(address)),
        (None, None) => Way::None("it listens on no port that the daemon knows"),
    };
    Some(Target {
        worker,
        app: held.app,
        about,
        path: held.spec.metrics_path.clone().unwrap_or_default(),
        leader: process.pid,
        way,
    })
}

/// Gives the worker a connection as one to the first address that it listens on; `false`: it is gone, or cannot be given any.
pub(crate) fn give(
    (listeners, workers): (&Listeners, &mut Workers),
    handoffs: &mut Handoffs,
    worker: WorkerId,
    connection: OwnedFd,
) -> bool {
    let Some(key) = listeners.first_key(worker).map(str::to_owned) else {
        return false;
    };
    let number = handoffs.number();
    let message = Outgoing {
        bytes: channel::newconn(number, &key),
        fd: Some(connection),
    };
    let channel = workers.get_mut(&worker).and_then(|held| held.channel_mut());
    channel.is_some_and(|it| it.send(message, Some(Awaiting::Connection(number))))
}

/// Asks these workers, which are of one app, side by side where each can be asked alone.
pub(crate) async fn ask(targets: Vec<Target>, reach: &impl Reach) -> Vec<ScrapedPage> {
    let (public, own): (Vec<Target>, Vec<Target>) = targets
        .into_iter()
        .partition(|target| matches!(target.way, Way::Public(_)));
    let mut pages = Vec::new();
    let asked = own
        .iter()
        .map(|target| timeout(PAGE_DEADLINE, ask_one(target, reach)));
    let (answers, found) = tokio::join!(together(asked), ask_public(&public));
    for (target, answer) in own.iter().zip(answers) {
        pages.push(told(target, answer.unwrap_or_else(|_| Err(target.late()))));
    }
    for (target, answer) in public.iter().zip(found) {
        pages.push(told(target, answer));
    }
    pages
}

impl Target {
    /// It did not answer in time.
    fn late(&self) -> NoPage {
        match self.way {
            Way::PromClient => NoPage::NoAnswer,
            Way::Own(_) | Way::Given | Way::Public(_) | Way::None(_) => NoPage::Late,
        }
    }
}

fn told(target: &Target, answer: Result<String, NoPage>) -> ScrapedPage {
    let (page, error) = match answer {
        Ok(page) => (Some(page), None),
        Err(error) => (None, Some(error.to_string())),
    };
    ScrapedPage {
        page,
        error,
        ..target.about.clone()
    }
}

/// The outcomes of all, in their order.
async fn together<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut waits = false;
        for (future, outcome) in &mut running {
            if outcome.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *outcome = Some(value),
                    std::task::Poll::Pending => waits = true,
                }
            }
        }
        match waits {
            true => std::task::Poll::Pending,
            false => std::task::Poll::Ready(()),
        }
    })
    .await;
    running.into_iter().filter_map(|(_, outcome)| outcome).collect()
}

async fn ask_one(target: &Target, reach: &impl Reach) -> Result<String, NoPage> {
    let connection = match target.way {
        Way::Own(address) => address.connect().await?,
        Way::Given => {
            let (ours, theirs) = pair().await?;
            match reach.give(target.worker, theirs).await {
                true => ours,
                false => return Err(NoPage::Way("it takes no connection")),
            }
        }
        Way::PromClient => {
            let answer = reach.ask_prom_client(target.worker).await;
            let answer = answer.ok_or(NoPage::Way("it takes no messages"))?;
            return answer.map_err(NoPage::PromClient);
        }
        Way::Public(_) => return Err(NoPage::Way("it is asked with the others")),
        Way::None(why) => return Err(NoPage::Way(why)),
    };
    Ok(page(connection, &target.path).await?)
}

/// A connection, and its other end, to be given to a worker.
async fn pair() -> std::io::Result<(TcpStream, OwnedFd)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let (ours, accepted) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
    let (ours, (theirs, peer)) = (ours?, accepted?);
    if peer != ours.local_addr()? {
        return Err(std::io::Error::other("somebody else connected"));
    }
    Ok((ours, theirs.into_std()?.into()))
}

/// Asks the workers of an app at their public address, one after the other, in the order in which they accept connections.
async fn ask_public(targets: &[Target]) -> Vec<Result<String, NoPage>> {
    let mut answers: HashMap<WorkerId, Result<String, NoPage>> = HashMap::new();
    let deadline = Instant::now() + PAGE_DEADLINE;
    let mut tries = targets.len() * TRIES_PER_WORKER;
    while answers.len() < targets.len() && tries > 0 && Instant::now() < deadline {
        tries -= 1;
        let missing: Vec<&Target> = targets
            .iter()
            .filter(|it| !answers.contains_key(&it.worker))
            .collect();
        let Ok(tried) = tokio::time::timeout_at(deadline, try_public(&missing, targets.len() == 1)).await
        else {
            break;
        };
        answers.extend(tried);
    }
    let of = |target: &Target| answers.remove(&target.worker).unwrap_or(Err(NoPage::Late));
    targets.iter().map(of).collect()
}

/// One connection. `None`: none of these workers has accepted it.
async fn try_public(missing: &[&Target], alone: bool) -> Option<(WorkerId, Result<String, NoPage>)> {
    let first = missing.first()?;
    let Way::Public(address) = first.way else {
        return None;
    };
    let stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) => return Some((first.worker, Err(error.into()))),
    };
    let target = match alone {
        true => first,
        false => accepted_by(missing, address.port(), stream.local_addr().ok()?).await?,
    };
    let answer = page(stream, &target.path).await.map_err(NoPage::from);
    Some((target.worker, answer))
}

/// Which of these workers has accepted the connection from `peer`.
async fn accepted_by<'t>(targets: &[&'t Target], port: u16, peer: SocketAddr) -> Option<&'t Target> {
    let until = Instant::now() + ACCEPTED_WITHIN;
    let mut pause = LOOK_PAUSE;
    let inode = loop {
        match sock_diag::accepted_from(port, peer).ok()? {
            Some(inode) => break inode,
            None if Instant::now() >= until => return None,
            None => sleep(pause).await,
        }
        pause *= 2;
    };
    let holds = |pid: u32| sock_diag::sockets_of(pid).contains(&inode);
    if let Some(target) = targets.iter().find(|target| holds(target.leader)) {
        return Some(*target);
    }
    let census = Census::take();
    let below = |target: &&&Target| census.descendants(target.leader).into_iter().any(holds);
    targets.iter().find(below).copied()
}

/// The workers of each app.
pub(crate) fn by_app(targets: &[Target]) -> Vec<Vec<Target>> {
    let apps: BTreeSet<AppId> = targets.iter().map(|target| target.app).collect();
    let of = |app: AppId| {
        targets
            .iter()
            .filter(|target| target.app == app)
            .cloned()
            .collect()
    };
    apps.into_iter().map(of).collect()
}
