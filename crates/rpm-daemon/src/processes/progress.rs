//! How a change goes on, for those who wait for it.

use std::collections::BTreeSet;

use rpm_core::{AppId, Core};
use rpm_wire::api::{Step, WorkerStage};
use tokio::sync::{broadcast, oneshot};

use crate::apps::catalog::Catalog;
use crate::workers::worker::Worker;

/// Steps that a slow reader may be behind; it misses those before them.
const BEHIND: usize = 4096;

/// The steps of all workers, as they happen.
pub(crate) struct Steps(broadcast::Sender<(AppId, Step)>);

/// The steps of some apps from now on.
pub(crate) struct Watcher {
    steps: broadcast::Receiver<(AppId, Step)>,
    pub(crate) apps: BTreeSet<AppId>,
}

impl Steps {
    pub(crate) fn new() -> Steps {
        Steps(broadcast::Sender::new(BEHIND))
    }

    /// To be told [`Watcher::apps`].
    pub(crate) fn watch(&self) -> Watcher {
        Watcher {
            steps: self.0.subscribe(),
            apps: BTreeSet::new(),
        }
    }
}

impl Watcher {
    /// The next step. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Option<Step> {
        loop {
            match self.steps.recv().await {
                Ok((app, step)) if self.apps.contains(&app) => return Some(step),
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// A step that has happened already.
    pub(crate) fn past(&mut self) -> Option<Step> {
        loop {
            match self.steps.try_recv() {
                Ok((app, step)) if self.apps.contains(&app) => return Some(step),
                Ok(_) | Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => {
                    return None;
                }
            }
        }
    }
}

impl Steps {
    /// A worker that has a process got somewhere.
    pub(crate) fn report(&self, catalog: Catalog<'_>, held: Option<&Worker>, to: WorkerStage) {
        let Some(held) = held else { return };
        let Some(process) = held.process() else { return };
        let step = Step {
            app: catalog.label(held.app),
            id: held.instance.0,
            pid: process.pid,
            to,
        };
        // Mostly nobody looks.
        let _ = self.0.send((held.app, step));
    }
}

/// Those who wait until nothing of some apps is on its way out.
#[derive(Default)]
pub(crate) struct Leavers(Vec<(BTreeSet<AppId>, oneshot::Sender<()>)>);

impl Leavers {
    /// Resolves when no worker of these apps stands by, drains or ends after having been replaced ([`Leavers::tell`]).
    pub(crate) fn wait(&mut self, apps: BTreeSet<AppId>) -> oneshot::Receiver<()> {
        let (gone, wait) = oneshot::channel();
        self.0.push((apps, gone));
        wait
    }

    /// Tells those for whom nothing is left.
    pub(crate) fn tell(&mut self, core: &Core) {
        let left = |apps: &BTreeSet<AppId>| apps.iter().any(|app| core.leaving(*app).next().is_some());
        let gone = self
            .0
            .extract_if(.., |(apps, wait)| wait.is_closed() || !left(apps));
        for (_, wait) in gone {
            // It may have been cut.
            let _ = wait.send(());
        }
    }
}
