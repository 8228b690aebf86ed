//! What a reload may not do, seen from outside: by what was asked for, what was put out, and what the views show.

use std::collections::{BTreeMap, BTreeSet};

use rpm_core::protocol::Notice;
use rpm_core::{AppId, Core, Generation, InstanceId, RetiringPhase, StateView, WorkerId};

use crate::world::{Verdict, demand};

/// What is remembered of the reloads.
#[derive(Default)]
pub(crate) struct Rollouts {
    running: BTreeMap<AppId, Watch>,
    /// Settled in this step.
    done: Vec<(AppId, Watch)>,
    undone: Vec<(AppId, Watch)>,
    /// How often one was undone when a part of the new generation served already.
    pub(crate) halfway: u64,
    /// How often when all of it did.
    pub(crate) watched: u64,
    /// Whose instances may differ in generation.
    pub(crate) configured: BTreeSet<AppId>,
    /// Made so by the command of this step, after whatever reload it ends.
    pub(crate) configuring: Option<AppId>,
    /// The ready workers after the last step.
    ready: BTreeMap<AppId, BTreeMap<InstanceId, WorkerId>>,
}

/// A reload that is going on.
struct Watch {
    generation: Generation,
    /// Instances that were ready before it and have lost no worker since, each with that worker.
    ready: BTreeMap<InstanceId, WorkerId>,
    /// Instances that its new workers serve.
    proved: usize,
    /// That is all.
    watched: bool,
}

impl Rollouts {
    pub(crate) fn note(&mut self, notice: Notice) {
        match notice {
            Notice::ReloadDone { app } => {
                if self.configuring != Some(app) {
                    self.configured.remove(&app);
                }
                self.done
                    .extend(self.running.remove(&app).map(|watch| (app, watch)));
            }
            Notice::ReloadUndone { app } => {
                let watch = self.running.remove(&app);
                self.halfway += u64::from(watch.as_ref().is_some_and(|watch| watch.proved > 0));
                self.watched += u64::from(watch.as_ref().is_some_and(|watch| watch.watched));
                self.undone.extend(watch.map(|watch| (app, watch)));
            }
            Notice::Online { .. }
            | Notice::Crashed { .. }
            | Notice::Stalled { .. }
            | Notice::Recovered { .. }
            | Notice::CandidateReady { .. }
            | Notice::Retiring { .. } => {}
        }
    }

    /// A process died that nobody had told to end.
    pub(crate) fn crashed(&mut self, worker: WorkerId) {
        for watch in self.running.values_mut() {
            watch.ready.retain(|_, old| *old != worker);
        }
    }

    /// A worker was told to drain or to end.
    pub(crate) fn told(&self, worker: WorkerId) -> Verdict {
        let needed = self
            .running
            .values()
            .any(|watch| watch.ready.values().any(|old| *old == worker));
        demand(!needed, || {
            format!("{worker:?} leaves before every worker of the reload is proved")
        })
    }

    /// After every step. `commanded`: it was a command.
    pub(crate) fn check(&mut self, core: &Core, commanded: bool) -> Verdict {
        self.configuring = None;
        for (app, watch) in std::mem::take(&mut self.done) {
            if !commanded {
                check_done(core, app, &watch)?;
            }
        }
        for (app, watch) in std::mem::take(&mut self.undone) {
            if !commanded {
                check_undone(core, app, &watch)?;
            }
        }
        let apps: BTreeSet<AppId> = core.instances().map(|instance| instance.app).collect();
        for app in apps {
            self.check_app(core, app, commanded)?;
        }
        Ok(())
    }

    fn check_app(&mut self, core: &Core, app: AppId, commanded: bool) -> Verdict {
        let now = ready(core, app);
        let reload = core.app(app).and_then(|view| view.reload);
        if let Some(reload) = reload {
            let fresh = self
                .running
                .get(&app)
                .is_none_or(|it| it.generation != reload.generation);
            if fresh {
                // One that was queued begins where the one before it ended.
                let last = self.ready.get(&app).filter(|_| commanded);
                let before = last.unwrap_or(&now).clone();
                let watch = Watch {
                    generation: reload.generation,
                    ready: before,
                    proved: 0,
                    watched: false,
                };
                self.running.insert(app, watch);
            }
            if let Some(watch) = self.running.get_mut(&app) {
                watch.proved = reload.proved;
                watch.watched = reload.watched_until.is_some();
            }
        } else {
            demand(!self.running.contains_key(&app), || {
                format!("the reload of {app:?} ended without a word")
            })?;
            if !self.configured.contains(&app) {
                check_uniform(core, app)?;
            }
        }
        if let Some(watch) = self.running.get(&app) {
            for id in watch.ready.keys() {
                demand(now.contains_key(id), || {
                    format!("{id:?} of {app:?} was ready before the reload and is not now")
                })?;
            }
        }
        self.ready.insert(app, now);
        Ok(())
    }
}

/// A ready worker for each instance that has one: its own, or the one that stands by.
fn ready(core: &Core, app: AppId) -> BTreeMap<InstanceId, WorkerId> {
    let warm = core
        .retiring(app)
        .filter(|it| it.phase == RetiringPhase::Warm && core.worker(it.worker).is_some_and(|it| it.online))
        .map(|it| (it.instance, it.worker));
    let own = core
        .instances()
        .filter(|it| it.app == app)
        .filter_map(|it| match it.state {
            StateView::Online { worker, .. } => Some((it.id, worker)),
            StateView::Launching { .. }
            | StateView::Stopping { .. }
            | StateView::Stopped
            | StateView::WaitingRestart { .. }
            | StateView::Errored => None,
        });
    warm.chain(own).collect()
}

fn check_done(core: &Core, app: AppId, watch: &Watch) -> Verdict {
    for instance in core.instances().filter(|it| it.app == app) {
        let served = match instance.state {
            StateView::Online { .. } => instance.generation == watch.generation,
            StateView::Stopping { .. } | StateView::Stopped => true,
            StateView::Launching { .. } | StateView::WaitingRestart { .. } | StateView::Errored => false,
        };
        demand(served, || {
            format!("the reload of {app:?} is said to be done: {instance:?}")
        })?;
    }
    Ok(())
}

fn check_undone(core: &Core, app: AppId, watch: &Watch) -> Verdict {
    for (&id, &old) in &watch.ready {
        let back = core
            .instance(id)
            .is_some_and(|it| matches!(it.state, StateView::Online { worker, .. } if worker == old));
        demand(back, || {
            format!("the reload of {app:?} is undone, and {old:?} does not serve {id:?} again")
        })?;
    }
    Ok(())
}

/// No app is left with half a generation.
fn check_uniform(core: &Core, app: AppId) -> Verdict {
    let generation = core.app(app).map(|view| view.generation);
    for instance in core.instances().filter(|it| it.app == app) {
        let runs = matches!(
            instance.state,
            StateView::Online { .. } | StateView::Launching { .. }
        );
        demand(!runs || Some(instance.generation) == generation, || {
            format!("{app:?} is in {generation:?}, and {instance:?}")
        })?;
    }
    Ok(())
}
